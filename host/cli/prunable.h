/* prunable: finds what nothing needs any more, and removes it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/cli/app.h"

enum prunable_kind {
    PRUNABLE_UNFINISHED, /* a snapshot whose maker was killed */
    PRUNABLE_MOMENTARY,  /* one that a command took for a moment, and then was killed */
    PRUNABLE_GOLDEN,     /* a golden snapshot that no new sandbox will be made from */
    PRUNABLE_BOOT,       /* what the killed maker of a golden snapshot left */
    PRUNABLE_SNAPSHOT,   /* a user's, on which no sandbox stands */
};

struct prunable {
    enum prunable_kind kind;
    char *name; /* of its folder; owned */
    uint64_t since_ms;
    uint64_t frees; /* alone */
};

struct prunable_list {
    struct prunable *items;
    size_t count;
    uint64_t frees; /* all together: what several of them share is counted once */
    bool unsure;    /* a damaged file may refer to golden snapshots: none of them is in it */
};

struct prunable_opts {
    bool snapshots;         /* users' too */
    uint64_t older_than_ms; /* 0: of any age */
    uint64_t now_ms;
};

/* *ret: the caller's, to be ended with prunable_done. Errors: errno. */
int prunable_find(struct app *app, const struct prunable_opts *opts, struct prunable_list *ret,
                  struct bg_err *err) BG_MUST_CHECK;
void prunable_done(struct prunable_list *list);

/* Removes one of them, unless something has come to need it. Errors: -EBUSY that; errno. */
int prunable_remove(struct app *app, const struct prunable *item, struct bg_err *err) BG_MUST_CHECK;

const char *prunable_kind_name(enum prunable_kind kind); /* "unfinished" ... */
