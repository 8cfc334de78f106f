/* call: one call of a tool, from its arguments to its answer, on the loop. Each is a struct call
 * with what its tool needs in `work`; it ends by call_answer, call_fail or call_end, once, which
 * free it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include <jansson.h>
#include <uv.h>

#include "common/err.h"
#include "common/log.h"
#include "host/cli/app.h"
#include "host/mcp/boxes.h"
#include "host/mcp/command.h"
#include "host/mcp/message.h"
#include "host/mcp/tools.h"

/* All calls, and what they share. */
struct calls {
    uv_loop_t *loop;       /* borrowed, as the next ones */
    const struct app *app; /* with its paths */
    const struct bg_log *log;
    struct boxes *boxes;
    const char *program; /* path of bellglass */
    int hold_fd;         /* for commands; -1: none */
    unsigned timeout_s_max;
    void (*on_send)(void *owner, char *line); /* line: taken; NULL: out of memory */
    bool (*on_ask_busy)(void *owner);         /* what was sent is not taken yet */
    void (*on_idle)(void *owner);             /* the last call has ended, after calls_cancel_all */
    void *owner;
    /* Ours. */
    LIST_HEAD(, call) list;
    size_t count;
    uv_timer_t ticker; /* while one of them wants to hear of its progress */
    bool closing;
};

struct call {
    LIST_ENTRY(call) link;
    TAILQ_ENTRY(call) turn; /* in box->waiting, while queued */
    struct calls *all;
    const struct tool *tool;
    json_t *id, *args, *progress_token; /* owned; the last may be NULL */
    bool stateless; /* of the revision of that name: results have more in them */
    bool cancelled; /* nobody wants its answer */
    uint64_t begin_ms;
    struct box *box; /* NULL: none, or it is gone */
    bool queued;
    bool counted;                       /* in box->runs */
    void (*proceed)(struct call *call); /* it is its turn */
    struct command *command;            /* that runs for it, or NULL */
    /* What comes after the command. */
    void (*on_command)(struct call *call, int status, const char *out, const char *why);
    void (*after)(struct call *call); /* of call_awake: what needs the sandbox to run */
    char note[BG_ERR_TEXT_SIZE];      /* of the command, for who watches */
    void *work;                       /* of its tool; NULL: none (any more) */
    void (*abort)(void *work);        /* ends that at once; frees it */
    void (*describe)(const void *work, char *text, size_t size); /* for who watches; may be NULL */
};

void calls_init(struct calls *calls);
/* A request for tools/call, whose arguments were checked. args: borrowed, may be NULL. */
void calls_begin(struct calls *calls, const struct tool *tool, const struct message *message,
                 const json_t *args);
bool calls_know(const struct calls *calls, const json_t *id);
/* Ends it without an answer. */
void calls_cancel(struct calls *calls, const json_t *id);
/* on_idle follows, at once or later. */
void calls_cancel_all(struct calls *calls);

/* ---- for tools ---- */

/* structured: taken; NULL: out of memory. text: what stands beside it, taken; NULL: structured as
 * JSON. */
void call_answer(struct call *call, json_t *structured, json_t *text, bool is_error);
void call_fail(struct call *call, const char *format, ...) BG_PRINTF(2, 3);
/* Without an answer. */
void call_end(struct call *call);

/* Finds the sandbox that an argument names. False: the call has ended. */
bool call_find_box(struct call *call, const char *arg) BG_MUST_CHECK;
/* Calls proceed when nobody else has the sandbox, perhaps at once. */
void call_queue(struct call *call, void (*proceed)(struct call *call));
/* From proceed on: nobody else proceeds until call_release, or until the call ends. */
void call_hold(struct call *call);
void call_release(struct call *call);
/* Runs `bellglass ARGV...`; on_command follows. */
void call_command(struct call *call, const char *const *argv,
                  void (*on_command)(struct call *call, int status, const char *out,
                                     const char *why));
/* Calls after once the sandbox runs: one that is suspended is resumed. */
void call_awake(struct call *call, void (*after)(struct call *call));
/* The sandbox is no more: all other calls that have to do with it end. */
void call_lose_box(struct call *call, struct box *box);

/* The tools. */
void call_create(struct call *call);
void call_fork(struct call *call);
void call_snapshot(struct call *call);
void call_restore(struct call *call);
void call_suspend(struct call *call);
void call_resume(struct call *call);
void call_list(struct call *call);
void call_remove(struct call *call);
void call_remove_snapshot(struct call *call);
void call_run(struct call *call);
void call_read_file(struct call *call);
void call_write_file(struct call *call);
void call_list_files(struct call *call);
