/* Tools that make, change and remove sandboxes and snapshots. The work is done by `bellglass`
 * commands, which clean up when they are ended; what is half made then is removed here. */
#include <stdio.h>
#include <string.h>

#include "common/io.h"
#include "common/quote.h"
#include "common/state/snapshot.h"
#include "host/mcp/call.h"

#define TAG_BYTES 4 /* random ones, of a tag that is made up */

/* What a tool of this file has beside its call. */
struct life_work {
    struct box *made;           /* by create and fork, until it is ready */
    char why[BG_ERR_TEXT_SIZE]; /* it was not */
    char snapshot[2 * BG_SANDBOX_NAME_MAX + 2];
};

static void work_free(void *owner)
{
    free(owner);
}

static struct life_work *new_work(struct call *call)
{
    struct life_work *work = calloc(1, sizeof *work);
    if (!work) {
        call_fail(call, "out of memory");
        return NULL;
    }
    call->work = work;
    call->abort = work_free;
    return work;
}

static void answer_state(struct call *call, const struct box *box)
{
    call_answer(call,
                json_pack("{s:s, s:s}", "sandbox", box->sandbox.name, "state", box_state_name(box)),
                NULL, /* is_error= */ false);
}

/* ---- create and fork ---- */

static void unmade(struct call *call, int status, const char *out, const char *why)
{
    struct life_work *work = call->work;
    (void)out;
    if (status == 0) {
        boxes_drop(work->made);
    } else {
        /* It stays in the list, for its client or the keeper to try again. */
        struct bg_err err;
        bg_log(call->all->log, BG_LOG_ERROR, "%s: %s", work->made->sandbox.name, why);
        work->made->ready = boxes_load(work->made, &err) == 0;
    }
    call_fail(call, "%s", work->why);
}

/* Takes back what was begun. */
static void unmake(struct call *call, const char *why)
{
    struct life_work *work = call->work;
    const char *const argv[] = {"rm", "-f", work->made->sandbox.name, NULL};
    (void)snprintf(work->why, sizeof work->why, "%s", why);
    call_command(call, argv, unmade);
}

static void made(struct call *call, int status, const char *out, const char *why)
{
    struct life_work *work = call->work;
    struct bg_err err;
    (void)out;
    if (status != 0 || call->cancelled) {
        unmake(call, why);
        return;
    }
    if (boxes_load(work->made, &err) < 0) {
        unmake(call, err.text);
        return;
    }
    struct box *box = BG_TAKE(work->made);
    box->ready = true;
    call_release(call); /* of a fork's source */
    answer_state(call, box);
}

void call_create(struct call *call)
{
    struct bg_err err;
    struct life_work *work = new_work(call);
    if (!work)
        return;
    if (boxes_reserve(call->all->boxes, tool_text(call->args, "name"), &work->made, &err) < 0) {
        call_fail(call, "%s", err.text);
        return;
    }
    if (boxes_make(work->made, &err) < 0) {
        unmake(call, err.text);
        return;
    }
    const char *const argv[] = {"start", work->made->sandbox.name, NULL};
    call_command(call, argv, made);
}

/* from: a sandbox or a snapshot. */
static void start_fork(struct call *call)
{
    struct life_work *work = call->work;
    struct bg_err err;
    const char *from = call->box ? call->box->sandbox.name : tool_text(call->args, "from");
    if (boxes_reserve(call->all->boxes, tool_text(call->args, "name"), &work->made, &err) < 0) {
        call_fail(call, "%s", err.text);
        return;
    }
    if (call->box)
        call_hold(call);
    work->made->parent = strdup(from); /* for show: NULL is fine */
    if (boxes_expect(work->made, &err) < 0) {
        unmake(call, err.text);
        return;
    }
    const char *const argv[] = {"fork", from, work->made->sandbox.name, NULL};
    call_command(call, argv, made);
}

void call_fork(struct call *call)
{
    if (!new_work(call))
        return;
    if (boxes_has_snapshot(call->all->boxes, tool_text(call->args, "from")))
        start_fork(call);
    else if (call_find_box(call, "from"))
        call_queue(call, start_fork);
}

/* ---- snapshots ---- */

static void taken(struct call *call, int status, const char *out, const char *why)
{
    struct life_work *work = call->work;
    (void)out;
    if (status != 0) {
        boxes_drop_snapshot(call->all->boxes, work->snapshot);
        call_fail(call, "%s", why);
        return;
    }
    call_answer(call, json_pack("{s:s}", "snapshot", work->snapshot), NULL, /* is_error= */ false);
}

static int name_snapshot(struct call *call, struct bg_err *err)
{
    struct life_work *work = call->work;
    const char *tag = tool_text(call->args, "tag");
    uint8_t random[TAG_BYTES];
    char made_up[2 * TAG_BYTES + 1], quoted[128];
    bg_random(random, sizeof random);
    bg_hex(random, sizeof random, made_up);
    if (tag && !bg_snapshot_tag_ok(tag))
        return bg_err_set(err, -EINVAL, "tag %s: want a-z, 0-9, '.', '_' and '-', at most %d",
                          bg_quote(tag, quoted, sizeof quoted), BG_SANDBOX_NAME_MAX);
    (void)snprintf(work->snapshot, sizeof work->snapshot, "%s@%s", call->box->sandbox.name,
                   tag ? tag : made_up);
    return boxes_add_snapshot(call->all->boxes, work->snapshot, err);
}

static void start_snapshot(struct call *call)
{
    struct life_work *work = call->work;
    const char *note = tool_text(call->args, "note");
    struct bg_err err;
    if (name_snapshot(call, &err) < 0) {
        call_fail(call, "%s", err.text);
        return;
    }
    BG_AUTOFREE char *note_option = NULL;
    if (asprintf(&note_option, "--note=%s", note ? note : "") < 0) {
        note_option = NULL;
        boxes_drop_snapshot(call->all->boxes, work->snapshot);
        call_fail(call, "out of memory");
        return;
    }
    const char *const argv[] = {"snapshot", note_option, work->snapshot, NULL};
    call_hold(call);
    call_command(call, argv, taken);
}

void call_snapshot(struct call *call)
{
    if (new_work(call) && call_find_box(call, "sandbox"))
        call_queue(call, start_snapshot);
}

/* Finds the snapshot that an argument names. False: the call has ended. */
static bool find_snapshot(struct call *call)
{
    const char *name = tool_text(call->args, "snapshot");
    char quoted[256];
    if (boxes_has_snapshot(call->all->boxes, name))
        return true;
    call_fail(call, "there is no snapshot %s; list_sandboxes says which there are",
              bg_quote(name, quoted, sizeof quoted));
    return false;
}

static void snapshot_removed(struct call *call, int status, const char *out, const char *why)
{
    const char *name = tool_text(call->args, "snapshot");
    (void)out;
    if (status != 0) {
        call_fail(call, "%s", why);
        return;
    }
    boxes_drop_snapshot(call->all->boxes, name);
    call_answer(call, json_pack("{s:s}", "removed", name), NULL, /* is_error= */ false);
}

void call_remove_snapshot(struct call *call)
{
    if (!find_snapshot(call))
        return;
    const char *const argv[] = {"snapshot", "rm", tool_text(call->args, "snapshot"), NULL};
    call_command(call, argv, snapshot_removed);
}

/* ---- one sandbox's state ---- */

static void changed(struct call *call, int status, const char *out, const char *why)
{
    (void)out;
    if (status != 0)
        call_fail(call, "%s", why);
    else
        answer_state(call, call->box);
}

static void start_restore(struct call *call)
{
    const char *name = tool_text(call->args, "snapshot");
    size_t size = strlen(call->box->sandbox.name);
    if (strncmp(name, call->box->sandbox.name, size) != 0 || name[size] != '@') {
        call_fail(call,
                  "snapshot '%s' is not one of sandbox '%s': make a sandbox from it with "
                  "fork_sandbox",
                  name, call->box->sandbox.name);
        return;
    }
    const char *const argv[] = {"restore", "-y", name, NULL};
    call_hold(call);
    call_command(call, argv, changed);
}

void call_restore(struct call *call)
{
    if (find_snapshot(call) && call_find_box(call, "sandbox"))
        call_queue(call, start_restore);
}

static void start_suspend(struct call *call)
{
    if (call->box->runs > 0) {
        call_fail(call, "a command runs in sandbox '%s': wait for its end, or cancel it",
                  call->box->sandbox.name);
        return;
    }
    const char *const argv[] = {"suspend", call->box->sandbox.name, NULL};
    call_hold(call);
    call_command(call, argv, changed);
}

void call_suspend(struct call *call)
{
    if (call_find_box(call, "sandbox"))
        call_queue(call, start_suspend);
}

static void answer_awake(struct call *call)
{
    answer_state(call, call->box);
}

static void start_resume(struct call *call)
{
    call_awake(call, answer_awake);
}

void call_resume(struct call *call)
{
    if (call_find_box(call, "sandbox"))
        call_queue(call, start_resume);
}

static void removed(struct call *call, int status, const char *out, const char *why)
{
    (void)out;
    if (status != 0) {
        call_fail(call, "%s", why);
        return;
    }
    struct box *box = BG_TAKE(call->box);
    json_t *answer = json_pack("{s:s}", "removed", box->sandbox.name);
    call_lose_box(call, box);
    boxes_drop(box);
    call_answer(call, answer, NULL, /* is_error= */ false);
}

static void start_removal(struct call *call)
{
    const char *const argv[] = {"rm", "-f", call->box->sandbox.name, NULL};
    call_hold(call);
    call_command(call, argv, removed);
}

void call_remove(struct call *call)
{
    if (!call_find_box(call, "sandbox"))
        return;
    if (call->box->own)
        call_queue(call, start_removal);
    else
        call_fail(call, "sandbox '%s' was not made here: only its user may remove it",
                  call->box->sandbox.name);
}

/* ---- all ---- */

void call_list(struct call *call)
{
    json_t *all = boxes_describe(call->all->boxes);
    json_t *limits = boxes_describe_limits(call->all->boxes, call->all->timeout_s_max);
    if (json_object_set_new(all, "limits", limits) < 0) {
        json_decref(all);
        all = NULL;
    }
    call_answer(call, all, NULL, /* is_error= */ false);
}
