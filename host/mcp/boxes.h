/* boxes: the sandboxes and snapshots that the server lets its client use: those that it made, and
 * sandboxes that its user named. What a new one is like was settled when the server was started. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/queue.h>

#include <jansson.h>

#include "common/err.h"
#include "common/state/sandbox.h"
#include "host/cli/app.h"
#include "host/mcp/keeper.h"

struct call;
struct boxes;
TAILQ_HEAD(call_queue, call);

struct box {
    LIST_ENTRY(box) link;
    struct boxes *all;
    struct bg_sandbox sandbox; /* of one that is being made, only the name */
    char *parent;              /* what it was forked from, or NULL */
    bool own;                  /* made by this server */
    bool ready;                /* it has been started */
    /* Whoever changes its state has it alone; others wait in line. Not counted in: calls that use
     * it while it runs. */
    struct call *holder;
    struct call_queue waiting;
    unsigned runs; /* commands under way in it */
};

struct boxes_opts {
    struct app *app;                   /* borrowed, as all here; with its paths */
    const struct bg_sandbox *settings; /* of new ones */
    const struct keeper *keeper;
    const char *prefix;
    size_t max; /* that it may have made at a time */
};

/* named: those of the user, NULL-terminated. Errors: -ENOENT, -EUCLEAN one of them; -ENOMEM. */
int boxes_open(const struct boxes_opts *opts, const char *const *named, struct boxes **ret,
               struct bg_err *err) BG_MUST_CHECK;
void boxes_close(struct boxes *all);

/* By its name, or by what was asked for when it was made. Errors: -ENOENT. */
int boxes_find(struct boxes *all, const char *name, struct box **ret,
               struct bg_err *err) BG_MUST_CHECK;

/* A place for a new one. name: what its client wants to call it; NULL: one is made up. Errors:
 * -EINVAL the name; -EEXIST; -EDQUOT there are too many; -ENOMEM. */
int boxes_reserve(struct boxes *all, const char *name, struct box **ret,
                  struct bg_err *err) BG_MUST_CHECK;
/* Makes its folder; it is not started. Errors: as bg_sandbox_create, keeper_tell. */
int boxes_make(struct box *box, struct bg_err *err) BG_MUST_CHECK;
/* It is about to be made by another process. Errors: as keeper_tell. */
int boxes_expect(struct box *box, struct bg_err *err) BG_MUST_CHECK;
/* Reads what was made. Errors: as bg_sandbox_load. */
int boxes_load(struct box *box, struct bg_err *err) BG_MUST_CHECK;
/* It is gone: nobody holds it or waits for it. */
void boxes_drop(struct box *box);

/* "NAME@TAG" that was taken, or is about to be. Errors: -EEXIST; -EDQUOT; as keeper_tell. */
int boxes_add_snapshot(struct boxes *all, const char *name, struct bg_err *err) BG_MUST_CHECK;
bool boxes_has_snapshot(const struct boxes *all, const char *name);
void boxes_drop_snapshot(struct boxes *all, const char *name);

/* What there is, for the client. NULL: out of memory. */
json_t *boxes_describe(struct boxes *all);
json_t *boxes_describe_limits(const struct boxes *all, unsigned timeout_s_max);
/* "running", ... */
const char *box_state_name(const struct box *box);
