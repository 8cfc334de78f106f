/* ssh_stream: carries one ssh connection between our stdin and stdout and an sshd in a running
 * sandbox. What `bellglass ssh --proxy` is. */
#pragma once

#include "common/state/sandbox.h"
#include "host/cli/app.h"

/* Runs until the sandbox's sshd or whoever started us ends it. The sandbox's host key is noted
 * before the first byte of the connection is handed on, so that ssh finds it. Errors: -ENOENT no
 * sshd in the sandbox; -EPROTO what it says makes no sense; as exec_stream_run. */
int ssh_stream_run(struct app *app, const struct bg_sandbox *sandbox,
                   struct bg_err *err) BG_MUST_CHECK;
