/* ssh_guest: what is run in the guest for one ssh connection: a script that makes sure of the host
 * key and sshd's configuration there, says the greeting, and becomes `sshd -i`. Pure. */
#pragma once

#include "common/err.h"
#include "host/cli/ssh_greeting.h"

#define SSH_GUEST_ARGS 6

/* argv for an exec as root; its strings are borrowed from the arguments. id: of the sandbox; key:
 * who may log in. */
void ssh_guest_argv(const char *id, const char *key, const char *argv[SSH_GUEST_ARGS]);

/* Why the guest did not greet: the script's exit status, and what came on its stderr (text: escaped
 * already, may be ""). Always fails. */
int ssh_guest_explain(int exit_status, const char *text, struct bg_err *err) BG_MUST_CHECK;
