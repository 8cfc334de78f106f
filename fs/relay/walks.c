#include "fs/relay/walks.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/relay/state.h"

#define WALK_MS 100u /* for the kernel between an answer and its next step; mount.md's figure */

static bool is_before(uint64_t now_ms, uint64_t until_ms)
{
    return now_ms < until_ms;
}

/* ---- walks ---- */

static void walk_remove(struct fs_relay *relay, size_t index)
{
    struct fs_walks *w = &relay->walks;
    struct fs_rnode *folder = w->walks[index].folder;
    w->walks[index] = w->walks[--w->walk_count];
    fs_tree_unref(&relay->tree, folder);
}

static void end_old_walks(struct fs_relay *relay, uint64_t now_ms)
{
    struct fs_walks *w = &relay->walks;
    for (size_t i = w->walk_count; i > 0; i--) {
        struct fs_walk *walk = &w->walks[i - 1];
        if (walk->asked != 0 && !fs_pending_find_kernel(relay, walk->asked)) {
            walk->asked = 0;
            walk->until_ms = now_ms + WALK_MS;
        }
        if (walk->asked == 0 && !is_before(now_ms, walk->until_ms))
            walk_remove(relay, i - 1);
    }
}

void fs_walks_see(struct fs_relay *relay, const struct fs_request *request, uint64_t now_ms)
{
    struct fs_walks *w = &relay->walks;
    if (w->walk_count == 0 || request->opcode == FUSE_FORGET ||
        request->opcode == FUSE_BATCH_FORGET || request->opcode == FUSE_INTERRUPT)
        return;
    end_old_walks(relay, now_ms);
    bool on_the_way = request->opcode == FUSE_GETATTR && !(request->flags & FUSE_GETATTR_FH);
    for (size_t i = w->walk_count; i > 0; i--) {
        struct fs_walk *walk = &w->walks[i - 1];
        if (walk->thread != request->caller_pid)
            continue;
        if (on_the_way)
            walk->asked = request->unique;
        else if (walk->thread != 0)
            walk_remove(relay, i - 1);
    }
}

static void walk_add(struct fs_relay *relay, const struct fs_rnode *link, uint64_t thread,
                     unsigned up, uint64_t now_ms)
{
    struct fs_walks *w = &relay->walks;
    end_old_walks(relay, now_ms);
    if (w->walk_count == BG_FS_WALKS_MAX) {
        w->full_until_ms = now_ms + WALK_MS;
        return;
    }
    w->walks[w->walk_count++] = (struct fs_walk){
        .thread = thread, .folder = link->parent, .up = up, .until_ms = now_ms + WALK_MS};
    fs_tree_ref(link->parent);
}

/* Whether moving node up by this many folders would lead somebody out. */
static bool is_walked(const struct fs_relay *relay, const struct fs_rnode *node, unsigned less,
                      uint64_t now_ms)
{
    const struct fs_walks *w = &relay->walks;
    if (is_before(now_ms, w->full_until_ms))
        return true;
    for (size_t i = 0; i < w->walk_count; i++)
        if (fs_tree_is_below(w->walks[i].folder, node) &&
            w->walks[i].up + less > fs_tree_depth(w->walks[i].folder))
            return true;
    return false;
}

/* ---- moves ---- */

static void move_remove(struct fs_relay *relay, size_t index)
{
    struct fs_walks *w = &relay->walks;
    struct fs_rnode *node = w->moves[index].node;
    w->moves[index] = w->moves[--w->move_count];
    fs_tree_unref(&relay->tree, node);
}

static bool is_held(const struct fs_walks *w, uint64_t unique)
{
    const struct fs_held *held = w->first;
    while (held && held->unique != unique)
        held = held->next;
    return held;
}

static void end_old_moves(struct fs_relay *relay, uint64_t now_ms)
{
    struct fs_walks *w = &relay->walks;
    for (size_t i = w->move_count; i > 0; i--) {
        const struct fs_move *move = &w->moves[i - 1];
        if (!is_before(now_ms, move->until_ms) && !is_held(w, move->request) &&
            !fs_pending_find_kernel(relay, move->request))
            move_remove(relay, i - 1);
    }
}

static void move_add(struct fs_relay *relay, struct fs_rnode *node, unsigned before, unsigned after,
                     uint64_t request)
{
    struct fs_walks *w = &relay->walks;
    assert(w->move_count < BG_FS_MOVES_MAX);
    w->moves[w->move_count++] = (struct fs_move){
        .node = node, .before = before, .after = after, .request = request, .until_ms = 0};
    fs_tree_ref(node);
}

/* How deep the folder surely is, whether the kernel has moved what is above it or not. */
static unsigned sure_depth(const struct fs_relay *relay, const struct fs_rnode *folder)
{
    const struct fs_walks *w = &relay->walks;
    unsigned depth = fs_tree_depth(folder), less = 0;
    for (size_t i = 0; i < w->move_count; i++) {
        const struct fs_move *move = &w->moves[i];
        unsigned lower = move->before < move->after ? move->before : move->after;
        unsigned now = fs_tree_depth(move->node);
        if (now > lower && fs_tree_is_below(folder, move->node))
            less += now - lower;
    }
    return less < depth ? depth - less : 0;
}

/* ---- holding ---- */

static int hold(struct fs_relay *relay, const struct fs_request *request, uint64_t since_ms,
                uint64_t now_ms)
{
    struct fs_walks *w = &relay->walks;
    if (since_ms == 0)
        since_ms = now_ms;
    if (w->held_count == BG_FS_HELD_MAX || now_ms - since_ms >= relay->opts.deadline_ms)
        return -EBUSY;
    size_t room = FS_REQUEST_HEADER_SIZE + 64 + 2 * (BG_FS_NAME_MAX + 1);
    struct fs_held *held = malloc(sizeof *held + room);
    if (!held)
        return -ENOMEM;
    struct bg_writer out = bg_writer_init(held->bytes, room);
    fs_request_emit(request, &out);
    assert(bg_writer_ok(&out)); /* renames and READLINK: names and a few numbers */
    held->size = out.used;
    held->since_ms = since_ms;
    held->unique = request->unique;
    held->next = NULL;
    *(w->last ? &w->last->next : &w->first) = held;
    w->last = held;
    w->held_count++;
    return 1;
}

static struct fs_held *take_held(struct fs_walks *w)
{
    struct fs_held *held = w->first;
    if (held) {
        w->first = held->next;
        if (!w->first)
            w->last = NULL;
        w->held_count--;
    }
    return held;
}

bool fs_walks_tick(struct fs_relay *relay, uint64_t now_ms)
{
    struct fs_walks *w = &relay->walks;
    for (size_t left = w->held_count; left > 0; left--) {
        struct fs_held *held = take_held(w);
        w->retried_since_ms = held->since_ms;
        fs_relay_request(relay, held->bytes, held->size, now_ms);
        w->retried_since_ms = 0;
        free(held);
    }
    return w->first;
}

void fs_walks_fail(struct fs_relay *relay, int error)
{
    for (struct fs_held *held; (held = take_held(&relay->walks)); free(held))
        fs_relay_fail(relay, held->unique, error);
}

void fs_walks_done(struct fs_relay *relay)
{
    for (struct fs_held *held; (held = take_held(&relay->walks));)
        free(held);
}

/* ---- rules ---- */

/* One folder of a rename. Returns whether it must wait. */
static bool begin_move(struct fs_relay *relay, struct fs_rnode *node, const struct fs_rnode *to,
                       uint64_t request, uint64_t now_ms)
{
    if (!node || node->type != S_IFDIR)
        return false;
    unsigned before = fs_tree_depth(node), after = fs_tree_depth(to) + 1;
    if (before != after)
        move_add(relay, node, before, after, request);
    return after < before && is_walked(relay, node, before - after, now_ms);
}

int fs_walks_rename(struct fs_relay *relay, const struct fs_request *request, struct fs_rnode *from,
                    struct fs_rnode *to, uint64_t now_ms)
{
    struct fs_walks *w = &relay->walks;
    end_old_walks(relay, now_ms);
    /* Also that of this request, when it is taken up again: it is not held at the moment. */
    end_old_moves(relay, now_ms);
    bool waits = w->move_count + 2 > BG_FS_MOVES_MAX;
    if (!waits) {
        struct fs_rnode *moved = fs_tree_find_place(&relay->tree, from, request->name);
        struct fs_rnode *other = request->flags & RENAME_EXCHANGE
                                     ? fs_tree_find_place(&relay->tree, to, request->name2)
                                     : NULL;
        waits = begin_move(relay, moved, to, request->unique, now_ms);
        waits = begin_move(relay, other, from, request->unique, now_ms) || waits;
    }
    return waits ? hold(relay, request, w->retried_since_ms, now_ms) : 0;
}

void fs_walks_renamed(struct fs_relay *relay, uint64_t request, uint64_t now_ms)
{
    struct fs_walks *w = &relay->walks;
    for (size_t i = 0; i < w->move_count; i++)
        if (w->moves[i].request == request)
            w->moves[i].until_ms = now_ms + WALK_MS;
}

int fs_walks_link(struct fs_relay *relay, uint64_t kernel_unique, const struct fs_rnode *link,
                  uint64_t thread, unsigned up, uint64_t since_ms, uint64_t now_ms)
{
    if (up == 0)
        return 0;
    end_old_moves(relay, now_ms);
    if (up > sure_depth(relay, link->parent)) {
        struct fs_request again = {.opcode = FUSE_READLINK,
                                   .unique = kernel_unique,
                                   .node = link->id,
                                   .caller_pid = (uint32_t)thread};
        return hold(relay, &again, since_ms, now_ms);
    }
    walk_add(relay, link, thread, up, now_ms);
    return 0;
}
