/* reach: which sandboxes and snapshots a token may have: those that were made with it, and with the
 * machine owner's all. What it may not have it is told is not there. Blocking. */
#pragma once

#include <stdbool.h>

#include "common/err.h"
#include "host/cli/app.h"
#include "host/cli/life.h"
#include "host/gateway/record.h"

struct reach {
    struct app *app;   /* borrowed, with its paths */
    const char *token; /* borrowed: its name */
    bool all;          /* it is the machine owner's */
};

/* *ret_record: all zero, with token NULL, of a sandbox that no gateway made. Errors: -ENOENT;
 * -EUCLEAN damaged; errno. */
int reach_sandbox(const struct reach *reach, const char *name, struct life *ret_life,
                  struct record *ret_record, struct bg_err *err) BG_MUST_CHECK;

/* A snapshot is of who its sandbox is of; that of one that is gone is the machine owner's. */
bool reach_snapshot_ok(const struct reach *reach, const char *snapshot);
