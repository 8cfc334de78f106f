/* editor: what `bellglass code` runs. Pure. */
#pragma once

#include <stdbool.h>

#include "common/err.h"

struct editor_opts {
    const char *code;   /* VS Code's path, NULL: there is none */
    const char *editor; /* a shell's words, $VISUAL or $EDITOR; NULL: neither is set */
    const char *host;   /* [USER@]NAME.bellglass */
    const char *path;   /* in the sandbox, absolute; NULL: not given */
    const char *folder; /* where the sandbox's / is mounted, or would be */
    const char *home;   /* in the sandbox, what a mount opens without a path */
    bool mount;         /* the mount even if there is VS Code */
};

#define EDITOR_ARGS_MAX 8

struct editor_plan {
    bool on_mount;               /* it opens files of the mount, which has to be there */
    char *argv[EDITOR_ARGS_MAX]; /* owned; argv[0]: a path */
};

/* Errors: -ENOENT neither VS Code nor an editor; -EINVAL a path that is not absolute; -ENOMEM. */
int editor_plan(const struct editor_opts *opts, struct editor_plan *ret,
                struct bg_err *err) BG_MUST_CHECK;
void editor_plan_done(struct editor_plan *plan);
