/* keeper: a process that removes what the server made when that has ended, however it ended. It
 * reads a pipe, whose other end the server has, and the commands that it runs. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "common/err.h"
#include "host/cli/app.h"

struct keeper {
    pid_t pid; /* 0: there is none */
    int fd;    /* -1: there is none */
};

/* Forks it; before there are threads or a loop. app: with its paths. Errors: errno. */
int keeper_start(struct app *app, struct keeper *ret, struct bg_err *err) BG_MUST_CHECK;

enum keeper_kind { KEEPER_SANDBOX, KEEPER_SNAPSHOT };

/* Names something that is to be removed, or not any more; before it is made. Without a keeper:
 * no-op. Errors: errno of write. */
int keeper_tell(const struct keeper *keeper, enum keeper_kind kind, const char *name, bool remove,
                struct bg_err *err) BG_MUST_CHECK;

/* Lets it remove all, and waits for that. */
void keeper_finish(struct keeper *keeper);
