/* sandboxes: those that the gateway's clients made. What blocks (starting and ending them) happens
 * in libuv's threads; the rest belongs to the loop's. A sandbox's name is its id, so all that has
 * to be known beside its folder is gateway.json in it, and a new gateway goes on where one ended.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include <jansson.h>
#include <uv.h>

#include "common/err.h"
#include "common/log.h"
#include "common/state/sandbox.h"
#include "host/cli/app.h"
#include "host/gateway/create_config.h"
#include "host/gateway/metrics.h"
#include "host/gateway/quota.h"
#include "host/gateway/record.h"
#include "host/gateway/route.h"

struct folder_watch;
struct presence;
struct sandboxes;

/* A connection to a sandbox. */
struct viewer {
    LIST_ENTRY(viewer) link;
    /* The sandbox is gone. The viewer is not in its list any more. */
    void (*on_gone)(void *owner);
    void *owner;
    bool is_owner; /* it made the sandbox: one that ends with its connection ends with this one */
    bool looks_on; /* set by the viewer: it never is the owner */
};

struct sandbox_entry {
    LIST_ENTRY(sandbox_entry) link;
    struct sandboxes *all;
    struct bg_sandbox sandbox; /* its name is the id */
    struct record record;
    /* A request for one that sleeps, or is about to, wakes it. ENDS is the last. */
    enum { SANDBOX_RUNS, SANDBOX_DOZES, SANDBOX_SLEEPS, SANDBOX_WAKES, SANDBOX_ENDS } state;
    bool suspending;         /* a thread does that; whoever wants it to run waits for its end */
    unsigned uses;           /* beside viewers: requests to its exposed port */
    uint64_t quiet_since_ms; /* on the loop's clock; of one without viewers and uses */
    LIST_HEAD(, viewer) viewers;
    uv_timer_t timer;           /* until it is to end */
    bool foreign;               /* no gateway made it; here while somebody views it */
    struct presence *presence;  /* tells of its end; NULL: there is none, or not yet */
    struct folder_watch *watch; /* of its folder, while it sleeps; else NULL */
    /* What `env -0` says in it without anything of the client's; an object; NULL: not asked yet. */
    json_t *base_env;
    uint16_t deno_port; /* for the next process of Deno's; 0: none was asked for yet */
};

struct sandboxes_opts {
    struct app *app;            /* borrowed, with its paths */
    const struct bg_log *log;   /* borrowed */
    struct metrics *metrics;    /* borrowed */
    const char *image, *region; /* borrowed; region: three letters */
    const char *upstream_ca;    /* borrowed; NULL: none */
    const char *const *allow;   /* borrowed; rules of all sandboxes; NULL-terminated */
    unsigned cpus;
    uint64_t idle_ms; /* without clients for so long: it is suspended; 0: never */
};

/* Takes over the sandboxes of an earlier gateway. Errors: -ENOMEM; errno of reading the state. */
int sandboxes_open(uv_loop_t *loop, const struct sandboxes_opts *opts, struct sandboxes **ret,
                   struct bg_err *err) BG_MUST_CHECK;
/* Lets go of all; they run on. The loop must run until this is done. */
void sandboxes_close(struct sandboxes *all);

/* Told once; entry NULL: err says why not. */
typedef void sandboxes_done(void *owner, struct sandbox_entry *entry, const struct bg_err *err);

/* Makes one. config: taken. token: the client's, copied; quota: what it may have. */
void sandboxes_create(struct sandboxes *all, struct create_config *config, const char *token,
                      const struct quota *quota, sandboxes_done *on_done, void *owner);

/* All of them, for metrics: *ret: heap, the caller's; its texts are borrowed until the next turn of
 * the loop. Errors: -ENOMEM. */
int sandboxes_count(struct sandboxes *all, struct metric_sandbox **ret,
                    size_t *ret_count) BG_MUST_CHECK;

/* What a token has, those that are being made too. */
struct quota_use sandboxes_use(struct sandboxes *all, const char *token);

/* Ends and removes one; its viewers are told. on_done may be NULL; its entry is always NULL. */
void sandboxes_remove(struct sandbox_entry *entry, sandboxes_done *on_done, void *owner);

/* Makes it run, if it sleeps; on_done may be NULL, and may be called before this returns. */
void sandboxes_wake(struct sandbox_entry *entry, sandboxes_done *on_done, void *owner);

/* Something beside a viewer uses it, and does not any more. */
void sandboxes_use_begin(struct sandbox_entry *entry);
void sandboxes_use_end(struct sandboxes *all, const char *id);

/* owner is gone: what it waits for goes on without it; what it wanted made is removed again. */
void sandboxes_forget(struct sandboxes *all, const void *owner);

/* NULL: there is none, or it is another token's. It may sleep. */
struct sandbox_entry *sandboxes_find(struct sandboxes *all, const char *id, const char *token);
struct sandbox_entry *sandboxes_find_any(struct sandboxes *all, const char *id);

/* The same, and of any sandbox that runs: with `everyone` that of any token, and one that no
 * gateway made. Errors: -ENOENT; -ENOTCONN it does not run; -ENOMEM; errno. */
int sandboxes_reach(struct sandboxes *all, const char *name, const char *token, bool everyone,
                    struct sandbox_entry **ret, struct bg_err *err) BG_MUST_CHECK;

/* Sandboxes that somebody else is about to start: they count as if they were there until they are
 * let go. */
struct sandboxes_claim {
    LIST_ENTRY(sandboxes_claim) link;
    const char *token; /* borrowed until then: whose they are to be */
    size_t count;
    uint64_t memory_bytes; /* of each */
};

/* quota: the token's. Errors, and then it is no claim: -EMFILE the gateway has no room; as
 * quota_admit. */
int sandboxes_claim(struct sandboxes *all, struct sandboxes_claim *claim, const struct quota *quota,
                    struct bg_err *err) BG_MUST_CHECK;
void sandboxes_unclaim(struct sandboxes *all, struct sandboxes_claim *claim);

/* No connection holds it any more, since somebody else has started it, or suspended it: one without
 * a stop time ends then. */
void sandboxes_keep(struct sandbox_entry *entry, uint64_t stop_at_ms);

/* Somebody else has ended it: it counts no more from here on. Nothing else tells of that if it
 * slept. */
void sandboxes_ended(struct sandboxes *all, const char *id);

/* A new id: heap, the caller's; NULL: out of memory. */
char *sandboxes_make_id(const struct sandboxes *all);

void sandboxes_view(struct sandbox_entry *entry, struct viewer *viewer);
void sandboxes_unview(struct sandbox_entry *entry, struct viewer *viewer);

/* Sets a variable of all processes that are started later; value NULL: takes it away. Errors: as
 * record_save. */
int sandboxes_set_env(struct sandbox_entry *entry, const char *name, const char *value,
                      struct bg_err *err) BG_MUST_CHECK;

/* What ID.localhost leads to, from now on. Errors: as record_save. */
int sandboxes_set_port(struct sandbox_entry *entry, uint16_t port,
                       struct bg_err *err) BG_MUST_CHECK;

/* When it is to end, from now on. quota: its token's. Errors: -ERANGE that is too late; as
 * record_save. */
int sandboxes_extend(struct sandbox_entry *entry, uint64_t stop_at_ms, const struct quota *quota,
                     struct bg_err *err) BG_MUST_CHECK;

/* The token's, as the API tells of them: an array; those whose labels have all of these. */
json_t *sandboxes_list(struct sandboxes *all, const char *token, const json_t *labels);
/* One of them. NULL: out of memory. */
json_t *sandboxes_describe(const struct sandbox_entry *entry);
