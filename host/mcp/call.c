/* A call that has to do with a sandbox waits for its turn there first. Then it either holds the
 * sandbox (what changes its state: one at a time) or does its work beside others (commands and
 * files), which nobody waits for. */
#include "host/mcp/call.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/io.h"
#include "common/limits.h"
#include "host/gateway/text.h"

#define TICK_MS 1000 /* between two words about a call's progress */

/* ---- progress ---- */

static void tell_progress(struct call *call, uint64_t now_ms)
{
    char text[BG_ERR_TEXT_SIZE] = "";
    uint64_t seconds = (now_ms - call->begin_ms) / 1000;
    if (call->work && call->describe)
        call->describe(call->work, text, sizeof text);
    else if (call->note[0])
        (void)snprintf(text, sizeof text, "%s", call->note);
    else if (call->queued)
        (void)snprintf(text, sizeof text, "waiting for another call on the same sandbox");
    call->all->on_send(
        call->all->owner,
        message_notification("notifications/progress",
                             json_pack("{s:O, s:I, s:s*}", "progressToken", call->progress_token,
                                       "progress", (json_int_t)seconds, "message",
                                       text[0] ? text : NULL)));
}

static void ticked(uv_timer_t *timer)
{
    struct calls *all = timer->data;
    struct call *call;
    bool wanted = false;
    uint64_t now_ms = bg_now_ms();
    LIST_FOREACH(call, &all->list, link)
    {
        if (!call->progress_token || call->cancelled)
            continue;
        wanted = true;
        /* A client that is behind shall not get further behind by this. */
        if (now_ms - call->begin_ms >= TICK_MS && !all->on_ask_busy(all->owner))
            tell_progress(call, now_ms);
    }
    if (!wanted)
        (void)uv_timer_stop(timer); /* cannot fail */
}

/* ---- all of them ---- */

void calls_init(struct calls *calls)
{
    LIST_INIT(&calls->list);
    (void)uv_timer_init(calls->loop, &calls->ticker); /* cannot fail */
    calls->ticker.data = calls;
}

static struct call *find(const struct calls *calls, const json_t *id)
{
    struct call *call;
    LIST_FOREACH(call, &calls->list, link)
    {
        if (json_equal(call->id, id))
            return call;
    }
    return NULL;
}

bool calls_know(const struct calls *calls, const json_t *id)
{
    return find(calls, id) != NULL;
}

static void start(struct call *call)
{
    static void (*const starts[TOOL_COUNT])(struct call * call) = {
        [TOOL_CREATE] = call_create,
        [TOOL_RUN] = call_run,
        [TOOL_READ] = call_read_file,
        [TOOL_WRITE] = call_write_file,
        [TOOL_LIST_FILES] = call_list_files,
        [TOOL_FORK] = call_fork,
        [TOOL_SNAPSHOT] = call_snapshot,
        [TOOL_RESTORE] = call_restore,
        [TOOL_SUSPEND] = call_suspend,
        [TOOL_RESUME] = call_resume,
        [TOOL_LIST] = call_list,
        [TOOL_REMOVE] = call_remove,
        [TOOL_REMOVE_SNAPSHOT] = call_remove_snapshot,
    };
    starts[tool_id(call->tool)](call);
}

void calls_begin(struct calls *calls, const struct tool *tool, const struct message *message,
                 const json_t *args)
{
    struct call *call = calloc(1, sizeof *call);
    json_t *own_args = args ? json_deep_copy(args) : json_object();
    json_t *id = json_deep_copy(message->id);
    if (!call || !own_args || !id) {
        free(call);
        json_decref(own_args);
        json_decref(id);
        calls->on_send(calls->owner, NULL);
        return;
    }
    *call = (struct call){.all = calls,
                          .tool = tool,
                          .id = id,
                          .args = own_args,
                          .progress_token = json_deep_copy(message->progress_token),
                          .stateless = message->version != NULL,
                          .begin_ms = bg_now_ms()};
    LIST_INSERT_HEAD(&calls->list, call, link);
    calls->count++;
    if (call->progress_token && !uv_is_active((uv_handle_t *)&calls->ticker))
        /* Fails only when closing. */
        (void)uv_timer_start(&calls->ticker, ticked, TICK_MS, TICK_MS);
    if (calls->count > BG_MCP_CALLS_MAX)
        call_fail(call, "%d calls are under way already: wait for one to end", BG_MCP_CALLS_MAX);
    else
        start(call);
}

/* ---- the turn at a sandbox ---- */

static void next_turn(struct box *box)
{
    struct call *call;
    while (!box->holder && (call = TAILQ_FIRST(&box->waiting))) {
        TAILQ_REMOVE(&box->waiting, call, turn);
        call->queued = false;
        call->proceed(call); /* it may end there, but the sandbox is not dropped before a command
                                has run */
    }
}

void call_queue(struct call *call, void (*proceed)(struct call *call))
{
    struct box *box = call->box;
    call->proceed = proceed;
    call->queued = true;
    bool first = !box->holder && TAILQ_EMPTY(&box->waiting);
    TAILQ_INSERT_TAIL(&box->waiting, call, turn);
    if (first)
        next_turn(box);
}

void call_hold(struct call *call)
{
    assert(!call->box->holder);
    call->box->holder = call;
}

void call_release(struct call *call)
{
    struct box *box = call->box;
    if (!box || box->holder != call)
        return;
    box->holder = NULL;
    next_turn(box);
}

bool call_find_box(struct call *call, const char *arg)
{
    struct bg_err err;
    if (boxes_find(call->all->boxes, tool_text(call->args, arg), &call->box, &err) < 0) {
        call_fail(call, "%s", err.text);
        return false;
    }
    if (!call->box->ready) {
        call_fail(call, "sandbox '%s' is being made: wait for the answer to the call that makes it",
                  call->box->sandbox.name);
        return false;
    }
    return true;
}

/* ---- the end ---- */

static void leave_box(struct call *call)
{
    struct box *box = call->box;
    if (!box)
        return;
    if (call->queued)
        TAILQ_REMOVE(&box->waiting, call, turn);
    if (call->counted)
        box->runs--;
    call->queued = call->counted = false;
    call_release(call);
    call->box = NULL;
}

void call_end(struct call *call)
{
    struct calls *all = call->all;
    assert(!call->command);
    LIST_REMOVE(call, link);
    all->count--;
    if (call->work)
        call->abort(BG_TAKE(call->work));
    leave_box(call);
    json_decref(call->id);
    json_decref(call->args);
    json_decref(call->progress_token);
    free(call);
    if (all->closing && all->count == 0)
        all->on_idle(all->owner);
}

static json_t *as_text(json_t *structured)
{
    BG_AUTOFREE char *text = json_dumps(structured, JSON_COMPACT | JSON_PRESERVE_ORDER);
    return text ? json_string(text) : NULL;
}

/* Logged is what was done, not what was said. */
static void log_end(const struct call *call, const char *how)
{
    const char *name = call->box ? call->box->sandbox.name : "";
    bg_log(call->all->log, BG_LOG_INFO, "%s%s%s: %s, %llu ms", call->tool->name, *name ? " " : "",
           name, how, (unsigned long long)(bg_now_ms() - call->begin_ms));
}

/* result: taken. The call goes first: what is sent may be the last thing of all. */
static void finish(struct call *call, json_t *result, const char *how)
{
    const struct calls *all = call->all;
    bool wanted = !call->cancelled;
    char *line =
        wanted ? message_result(call->id, message_complete(result, call->stateless)) : NULL;
    if (wanted)
        log_end(call, how);
    else
        json_decref(result);
    call_end(call);
    if (wanted)
        all->on_send(all->owner, line);
}

void call_answer(struct call *call, json_t *structured, json_t *text, bool is_error)
{
    json_auto_t *owned = structured;
    if (!text)
        text = owned ? as_text(owned) : NULL;
    json_t *result = json_pack("{s:[{s:s, s:o}], s:O, s:b}", "content", "type", "text", "text",
                               text, "structuredContent", owned, "isError", is_error);
    finish(call, result, is_error ? "failed" : "done");
}

void call_fail(struct call *call, const char *format, ...)
{
    char text[BG_ERR_TEXT_SIZE];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args); /* cut is fine */
    va_end(args);
    finish(call,
           json_pack("{s:[{s:s, s:o}], s:b}", "content", "type", "text", "text",
                     text_lossy(text, strlen(text)), "isError", 1),
           text);
}

static void cancel(struct call *call)
{
    if (call->cancelled)
        return;
    call->cancelled = true;
    log_end(call, "cancelled");
    if (call->command)
        command_stop(call->command); /* what comes after it ends the call */
    else
        call_end(call);
}

void calls_cancel(struct calls *calls, const json_t *id)
{
    struct call *call = find(calls, id);
    if (call)
        cancel(call);
}

void calls_cancel_all(struct calls *calls)
{
    calls->closing = true;
    uv_close((uv_handle_t *)&calls->ticker, NULL);
    if (calls->count == 0) {
        calls->on_idle(calls->owner);
        return;
    }
    /* One that ends may let another one of its sandbox go on: that is cancelled in its place in
     * the list, which is begun anew as long as there is one. */
    for (struct call *call = LIST_FIRST(&calls->list); call;) {
        if (call->cancelled) {
            call = LIST_NEXT(call, link);
            continue;
        }
        bool last = calls->count == 1;
        cancel(call);
        call = last ? NULL : LIST_FIRST(&calls->list);
    }
}

void call_lose_box(struct call *call, struct box *box)
{
    struct call *other, *next;
    for (other = LIST_FIRST(&call->all->list); other; other = next) {
        next = LIST_NEXT(other, link);
        if (other == call || other->box != box)
            continue;
        if (other->queued)
            TAILQ_REMOVE(&box->waiting, other, turn);
        other->queued = other->counted = false;
        other->box = NULL;
        /* It holds nothing, since we do: it waited, or it works in what is gone. */
        call_fail(other, "the sandbox was removed");
    }
}

/* ---- commands ---- */

static void noted(void *owner, const char *text)
{
    struct call *call = owner;
    (void)snprintf(call->note, sizeof call->note, "%s", text);
}

static void command_done(void *owner, int status, const char *out, const char *why)
{
    struct call *call = owner;
    call->command = NULL;
    call->note[0] = '\0';
    call->on_command(call, status, out, why);
}

void call_command(struct call *call, const char *const *argv,
                  void (*on_command)(struct call *call, int status, const char *out,
                                     const char *why))
{
    const struct command_opts opts = {.program = call->all->program,
                                      .argv = argv,
                                      .hold_fd = call->all->hold_fd,
                                      .on_note = noted,
                                      .on_done = command_done,
                                      .owner = call};
    struct bg_err err;
    call->on_command = on_command;
    if (command_start(call->all->loop, &opts, &call->command, &err) < 0)
        on_command(call, APP_FAILED, "", err.text);
}

/* ---- a sandbox that runs ---- */

static void resumed(struct call *call, int status, const char *out, const char *why)
{
    (void)out;
    if (call->cancelled) {
        call_end(call);
        return;
    }
    if (status != 0) {
        call_fail(call, "%s", why);
        return;
    }
    void (*after)(struct call * call) = call->after;
    /* First the work, then the others: they come to what it has begun. */
    struct box *box = call->box;
    box->holder = NULL;
    after(call);
    next_turn(box);
}

void call_awake(struct call *call, void (*after)(struct call *call))
{
    enum bg_sandbox_state state;
    struct bg_err err;
    const struct bg_sandbox *s = &call->box->sandbox;
    call->after = after;
    if (bg_sandbox_state(s, &state, NULL, &err) < 0) {
        call_fail(call, "%s", err.text);
    } else if (state == BG_SANDBOX_SUSPENDED) {
        const char *const argv[] = {"resume", s->name, NULL};
        call_hold(call);
        call_command(call, argv, resumed);
    } else if (state == BG_SANDBOX_RUNNING) {
        after(call);
    } else {
        call_fail(call,
                  "sandbox '%s' does not run: it is %s; make another one, or take it back to "
                  "a snapshot",
                  s->name, bg_sandbox_state_name(state));
    }
}
