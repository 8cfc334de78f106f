/* ssh_files: what `bellglass ssh` keeps on this machine (docs/protocol.md, "ssh"): one key for all
 * sandboxes, made at first use, our ssh configuration, and the host key of each sandbox. */
#pragma once

#include "common/state/sandbox.h"
#include "host/cli/app.h"
#include "host/cli/ssh_greeting.h"
#include "host/cli/ssh_names.h"

/* Makes the key, unless it is there. ret_public (may be NULL): the public half. Errors: -ENOENT
 * there is no ssh-keygen (the text says what to install); what it said. */
int ssh_files_key(struct app *app, char ret_public[SSH_KEY_SIZE], struct bg_err *err) BG_MUST_CHECK;

/* Makes key and configuration, and returns the configuration's path and (may be NULL) its text;
 * both heap, the caller's. */
int ssh_files_config(struct app *app, char **ret_path, char **ret_text,
                     struct bg_err *err) BG_MUST_CHECK;

/* Who commands run as in it by its image's will, where that is not SSH_DEFAULT_USER. Heap, the
 * caller's; NULL: it is, or cannot be told. */
char *ssh_files_user(struct app *app, const struct bg_sandbox *sandbox);

/* Notes the host key of a running sandbox, for ssh to check. */
int ssh_files_pin(struct app *app, const struct bg_sandbox *sandbox, const char key[SSH_KEY_SIZE],
                  struct bg_err *err) BG_MUST_CHECK;
/* Removes it, when the sandbox goes. Best effort: what is left says nothing about another one. */
void ssh_files_forget(struct app *app, const struct bg_sandbox *sandbox);
