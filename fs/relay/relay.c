#include "fs/relay/ahead.h"
#include "fs/relay/changes.h"
#include "fs/relay/echo.h"
#include "fs/relay/gather.h"
#include "fs/relay/guarded.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define TICK_MS            50u
#define WALK_TICK_MS       10u
#define HELD_TICK_MS       10u
#define PROBE_INTERVAL_MS  1000u
#define INTERRUPT_GRACE_MS 100u /* for the server to give up a lock by itself */
#define TIMEOUTS_TO_STALE  3u
#define LIFE_EXTENSION     4u    /* deadlines, while other answers come */
#define FORGETS_AT_ONCE    4000u /* of one message: 64 KB */
#define FORGETS_ROOM       64u   /* of the list at first */

#define COMPLAINTS_MAX 100u /* a hostile server must not fill the disk with log lines */

void fs_relay_complain(struct fs_relay *relay, uint32_t opcode, const char *what)
{
    if (relay->complaints++ < COMPLAINTS_MAX)
        bg_log(relay->opts.log, BG_LOG_WARN, "%s: the guest's answer is refused: %s",
               fs_op_find(opcode)->name, what);
}

/* ---- answers to the kernel ---- */

int fs_relay_answer(struct fs_relay *relay, uint64_t kernel_unique, uint32_t opcode,
                    struct fs_reply *reply)
{
    uint8_t head[FS_HEAD_SIZE];
    struct bg_writer w = bg_writer_init(head, sizeof head);
    reply->unique = kernel_unique;
    fs_reply_emit(opcode, reply, &w);
    assert(bg_writer_ok(&w));
    struct iovec parts[2] = {{.iov_base = head, .iov_len = w.used}};
    int count = 1;
    if (reply->error == 0 && reply->data_size > 0) {
        memcpy(&parts[1].iov_base, &reply->data, sizeof reply->data); /* only read */
        parts[1].iov_len = reply->data_size;
        count = 2;
    }
    int r = relay->opts.to_kernel(relay->opts.owner, parts, count);
    if (r == -EINVAL && reply->error == 0) /* it finds fault with what we let through */
        fs_relay_fail(relay, kernel_unique, -EIO);
    return r;
}

void fs_relay_fail(struct fs_relay *relay, uint64_t kernel_unique, int error)
{
    struct fs_reply reply = {.error = error};
    /* A kernel that no longer waits for an error has lost nothing. */
    (void)fs_relay_answer(relay, kernel_unique, FUSE_FLUSH, &reply);
}

bool fs_relay_answer_from_memory(struct fs_relay *relay, uint64_t kernel_unique, uint32_t opcode,
                                 const struct fs_rnode *node)
{
    struct fs_reply reply = {0};
    if (opcode == FUSE_STATFS) {
        reply.statfs = relay->statfs; /* all 0 if it was never asked: an empty file system */
        fs_check_statfs(&reply.statfs);
    } else if (opcode == FUSE_GETATTR && node == relay->tree.root && relay->root_known) {
        reply.attr = relay->root_attr;
    } else {
        return false;
    }
    (void)fs_relay_answer(relay, kernel_unique, opcode, &reply);
    return true;
}

/* ---- pending requests ---- */

struct fs_pending *fs_pending_find(const struct fs_relay *relay, uint64_t unique)
{
    struct fs_link *link =
        fs_table_first(&relay->by_unique, fs_table_hash(&relay->by_unique, unique));
    for (; link; link = fs_table_next(link)) {
        struct fs_pending *pending = FS_LINK_OWNER(link, struct fs_pending, by_unique);
        if (pending->unique == unique)
            return pending;
    }
    return NULL;
}

struct fs_pending *fs_pending_find_kernel(const struct fs_relay *relay, uint64_t kernel_unique)
{
    struct fs_link *link =
        fs_table_first(&relay->by_kernel, fs_table_hash(&relay->by_kernel, kernel_unique));
    for (; link; link = fs_table_next(link)) {
        struct fs_pending *pending = FS_LINK_OWNER(link, struct fs_pending, by_kernel);
        if (pending->kernel_unique == kernel_unique)
            return pending;
    }
    return NULL;
}

/* Which counter a pending request stands in. */
static size_t *counter_of(struct fs_relay *relay, const struct fs_pending *pending)
{
    if (pending->late)
        return &relay->late;
    if (pending->kernel_unique == 0)
        return &relay->own;
    bool slow = pending->class == FS_CLASS_WAIT || pending->class == FS_CLASS_SYNC;
    return slow ? &relay->slow : &relay->in_window;
}

static void append(struct fs_relay *relay, struct fs_pending *pending)
{
    pending->next = NULL;
    pending->previous = relay->last;
    *(relay->last ? &relay->last->next : &relay->first) = pending;
    relay->last = pending;
}

static void take_out(struct fs_relay *relay, struct fs_pending *pending)
{
    *(pending->previous ? &pending->previous->next : &relay->first) = pending->next;
    *(pending->next ? &pending->next->previous : &relay->last) = pending->previous;
}

void fs_pending_list(struct fs_relay *relay, struct fs_pending *pending, uint32_t opcode,
                     uint64_t now_ms)
{
    pending->opcode = opcode;
    pending->class = fs_op_find(opcode)->class;
    pending->sent_ms = now_ms;
    pending->listed = true;
    append(relay, pending);
    if (pending->kernel_unique != 0)
        fs_table_insert(&relay->by_kernel, &pending->by_kernel,
                        fs_table_hash(&relay->by_kernel, pending->kernel_unique));
    (*counter_of(relay, pending))++;
}

void fs_pending_disown(struct fs_relay *relay, struct fs_pending *pending)
{
    if (pending->listed) {
        (*counter_of(relay, pending))--;
        fs_table_remove(&relay->by_kernel, &pending->by_kernel);
    }
    pending->kernel_unique = 0;
    if (pending->listed)
        (*counter_of(relay, pending))++;
}

void fs_pending_free(struct fs_relay *relay, struct fs_pending *pending)
{
    fs_gather_lost(relay, pending, -EIO);
    if (pending->listed) {
        (*counter_of(relay, pending))--;
        take_out(relay, pending);
        if (pending->unique != 0)
            fs_table_remove(&relay->by_unique, &pending->by_unique);
        if (pending->kernel_unique != 0 && !pending->late)
            fs_table_remove(&relay->by_kernel, &pending->by_kernel);
    }
    fs_changes_write_ended(relay, pending);
    fs_tree_unref(&relay->tree, pending->node);
    fs_tree_unref(&relay->tree, pending->node2);
    fs_errand_free(relay, pending->errand);
    free(pending->name);
    free(pending->name2);
    free(pending->again);
    free(pending->data);
    free(pending);
}

/* Answers the kernel in place of the server; the request is late from now on, or gone if the server
 * has never seen it. */
static void give_up(struct fs_relay *relay, struct fs_pending *pending, int error)
{
    fs_gather_lost(relay, pending, error);
    if (pending->kernel_unique != 0) {
        if (!fs_relay_answer_from_memory(relay, pending->kernel_unique, pending->opcode,
                                         pending->node))
            fs_relay_fail(relay, pending->kernel_unique, error);
    }
    (*counter_of(relay, pending))--;
    if (pending->kernel_unique != 0)
        fs_table_remove(&relay->by_kernel, &pending->by_kernel);
    pending->late = true;
    (*counter_of(relay, pending))++;
    if (pending->unique == 0)
        fs_pending_free(relay, pending);
}

/* Somebody waits for it, or has been told that it is done. */
static bool is_waiting(const struct fs_pending *pending)
{
    return !pending->late && (pending->kernel_unique != 0 || pending->gathered);
}

/* ---- requests to the server ---- */

void fs_relay_send(struct fs_relay *relay, struct fs_request *request, struct fs_pending *pending,
                   uint64_t now_ms)
{
    request->unique = relay->next_unique++;
    request->caller_uid = request->caller_gid = request->caller_pid =
        0; /* not the server's affair */
    request->lock_pid = 0;
    if (pending) {
        if (!pending->listed) {
            fs_pending_list(relay, pending, request->opcode, now_ms);
        } else { /* it has waited: others have smaller numbers */
            take_out(relay, pending);
            append(relay, pending);
        }
        pending->unique = request->unique;
        if (request->opcode == FUSE_FSYNC)
            pending->writes = pending->node->writes; /* those before it are done */
        pending->change_number = relay->changes.number;
        fs_changes_write_begins(pending);
        fs_table_insert(&relay->by_unique, &pending->by_unique,
                        fs_table_hash(&relay->by_unique, pending->unique));
    }
    uint8_t head[FS_HEAD_SIZE];
    struct bg_writer w = bg_writer_init(head, sizeof head);
    fs_request_emit(request, &w);
    assert(bg_writer_ok(&w)); /* it came from the kernel through the same table */
    struct iovec parts[2] = {{.iov_base = head, .iov_len = w.used}};
    memcpy(&parts[1].iov_base, &request->data, sizeof request->data); /* only read */
    parts[1].iov_len = request->data_size;
    relay->opts.to_server(relay->opts.owner, parts, request->data_size > 0 ? 2 : 1);
}

void fs_relay_send_own(struct fs_relay *relay, struct fs_request *request, uint64_t now_ms)
{
    struct fs_pending *pending = calloc(1, sizeof *pending);
    if (pending && fs_relay_has_server(relay))
        fs_relay_send(relay, request, pending, now_ms);
    else
        free(pending);
}

void fs_relay_send_release(struct fs_relay *relay, uint64_t server_node, uint64_t server_fh,
                           bool folder, uint64_t now_ms)
{
    struct fs_request request = {
        .opcode = folder ? FUSE_RELEASEDIR : FUSE_RELEASE, .node = server_node, .fh = server_fh};
    fs_relay_send_own(relay, &request, now_ms);
}

void fs_relay_forget(void *owner, uint64_t server_id, uint64_t count)
{
    struct fs_relay *relay = owner;
    if (!fs_relay_has_server(relay) || fs_echo_is_stand_in(server_id))
        return;
    if (relay->forget_count == relay->forget_room) {
        size_t room = relay->forget_room ? relay->forget_room * 2 : FORGETS_ROOM;
        uint8_t *grown = realloc(relay->forgets, room * FS_FORGET_SIZE);
        if (!grown)
            return; /* the server keeps a node that nobody uses */
        relay->forgets = grown;
        relay->forget_room = room;
    }
    struct bg_writer w =
        bg_writer_init(relay->forgets + relay->forget_count++ * FS_FORGET_SIZE, FS_FORGET_SIZE);
    bg_writer_u64le(&w, server_id);
    bg_writer_u64le(&w, count);
}

void fs_relay_flush_forgets(struct fs_relay *relay)
{
    if (!fs_relay_has_server(relay))
        relay->forget_count = 0;
    for (size_t sent = 0; sent < relay->forget_count;) {
        size_t count = relay->forget_count - sent;
        if (count > FORGETS_AT_ONCE)
            count = FORGETS_AT_ONCE;
        struct fs_request request = {.opcode = FUSE_BATCH_FORGET,
                                     .count = count,
                                     .data = relay->forgets + sent * FS_FORGET_SIZE,
                                     .data_size = count * FS_FORGET_SIZE};
        fs_relay_send(relay, &request, NULL, 0);
        sent += count;
    }
    relay->forget_count = 0;
}

/* ---- handles ---- */

struct fs_rhandle *fs_handle_find(const struct fs_relay *relay, uint64_t id)
{
    struct fs_link *link = fs_table_first(&relay->handles, fs_table_hash(&relay->handles, id));
    for (; link; link = fs_table_next(link)) {
        struct fs_rhandle *handle = FS_LINK_OWNER(link, struct fs_rhandle, link);
        if (handle->id == id)
            return handle;
    }
    return NULL;
}

struct fs_rhandle *fs_handle_new(struct fs_relay *relay, struct fs_rnode *node, uint64_t server_fh,
                                 uint64_t flags, bool quiet)
{
    if (relay->handles.count >= BG_FS_HANDLES_MAX)
        return NULL;
    struct fs_rhandle *handle = calloc(1, sizeof *handle);
    if (!handle)
        return NULL;
    handle->id = relay->next_handle++;
    handle->server_fh = server_fh;
    handle->flags = flags;
    handle->bound = true;
    handle->quiet = quiet;
    handle->errors_seen = node->gather ? node->gather->errors : 0;
    handle->node = node;
    fs_tree_ref(node);
    fs_table_insert(&relay->handles, &handle->link, fs_table_hash(&relay->handles, handle->id));
    return handle;
}

void fs_handle_free(struct fs_relay *relay, struct fs_rhandle *handle)
{
    fs_ahead_drop(relay, handle);
    fs_table_remove(&relay->handles, &handle->link);
    fs_tree_unref(&relay->tree, handle->node);
    free(handle);
}

void fs_relay_release(struct fs_relay *relay, struct fs_rhandle *handle, bool folder,
                      uint64_t now_ms)
{
    struct fs_rnode *node = handle->node;
    struct fs_pending *pending = fs_gather_is_busy(node) ? calloc(1, sizeof *pending) : NULL;
    if (!handle->bound) {
        free(pending); /* no server has it */
    } else if (pending) {
        struct fs_request request = {.opcode = folder ? FUSE_RELEASEDIR : FUSE_RELEASE,
                                     .node = node->peer->id,
                                     .fh = handle->server_fh};
        pending->node = node;
        fs_tree_ref(node);
        fs_gather_forward(relay, &request, pending, now_ms);
    } else {
        fs_relay_send_release(relay, node->peer->id, handle->server_fh, folder, now_ms);
    }
    fs_handle_free(relay, handle);
}

/* ---- deadlines ---- */

static uint64_t deadline_of(const struct fs_relay *relay, enum fs_class class)
{
    switch (class) {
    case FS_CLASS_META:
        return relay->opts.deadline_ms;
    case FS_CLASS_DATA:
        return relay->opts.deadline_ms * 2;
    case FS_CLASS_SYNC:
        return relay->opts.deadline_ms * 8;
    case FS_CLASS_WAIT:
        break;
    }
    return UINT64_MAX;
}

static bool is_overdue(const struct fs_relay *relay, const struct fs_pending *pending,
                       uint64_t now_ms)
{
    uint64_t deadline = deadline_of(relay, pending->class), waited = now_ms - pending->sent_ms;
    if (deadline == UINT64_MAX || waited < deadline)
        return false;
    /* A server that is busy answers others; one that picks out this request does not get away. */
    bool silent = now_ms - relay->heard_ms >= deadline;
    return silent || waited >= deadline * LIFE_EXTENSION;
}

static void give_up_all(struct fs_relay *relay)
{
    for (struct fs_pending *p = relay->first, *next; p; p = next) {
        next = p->next;
        if (is_waiting(p))
            give_up(relay, p, -EIO);
    }
    fs_walks_fail(relay, -EIO);
}

static void become_stale(struct fs_relay *relay, uint64_t now_ms)
{
    bg_log(relay->opts.log, BG_LOG_WARN,
           "the guest does not answer: every access fails until it does");
    relay->state = FS_RELAY_STALE;
    relay->probed_ms = now_ms;
    give_up_all(relay);
}

/* Returns whether there is a request left that time can end. */
static bool expire(struct fs_relay *relay, uint64_t now_ms)
{
    bool timed = false;
    for (struct fs_pending *p = relay->first, *next; p; p = next) {
        next = p->next;
        if (!is_waiting(p) || (p->kernel_unique == 0 && p->unique == 0))
            continue; /* the last: a write that waits behind one that has a deadline */
        timed = timed || p->interrupted || p->class != FS_CLASS_WAIT;
        if (p->interrupted && now_ms - p->interrupted_ms >= INTERRUPT_GRACE_MS) {
            /* The first INTERRUPT may have come before the server began to wait. */
            struct fs_request again = {.opcode = FUSE_INTERRUPT, .interrupted = p->unique};
            fs_relay_send(relay, &again, NULL, now_ms);
            give_up(relay, p, -EINTR);
        } else if (is_overdue(relay, p, now_ms)) {
            bg_log(relay->opts.log, BG_LOG_WARN, "%s: no answer for %llu ms",
                   fs_op_find(p->opcode)->name, (unsigned long long)(now_ms - p->sent_ms));
            relay->timeouts += p->unique != 0; /* not by one that only waits behind another */
            give_up(relay, p, -EIO);
        }
    }
    if (relay->timeouts >= TIMEOUTS_TO_STALE && relay->state == FS_RELAY_LIVE)
        become_stale(relay, now_ms);
    return timed;
}

void fs_relay_probe(struct fs_relay *relay, uint64_t now_ms)
{
    struct fs_request request = {.opcode = FUSE_GETATTR, .node = FS_TREE_ROOT};
    relay->probed_ms = now_ms;
    relay->probing = true;
    fs_relay_send_own(relay, &request, now_ms);
}

static void probe(struct fs_relay *relay, uint64_t now_ms)
{
    if (now_ms - relay->probed_ms < PROBE_INTERVAL_MS || relay->probing)
        return;
    fs_relay_probe(relay, now_ms); /* one is enough: it is answered when the server comes back */
}

int fs_relay_tick(struct fs_relay *relay, uint64_t now_ms, uint64_t *ret_next_ms,
                  struct bg_err *err)
{
    *ret_next_ms = UINT64_MAX;
    if (relay->state == FS_RELAY_GONE)
        return 0;
    int waits = fs_rebind_tick(relay, now_ms, err);
    if (waits < 0)
        return waits;
    bool timed = expire(relay, now_ms) || waits > 0;
    bool held = fs_walks_tick(relay, now_ms);
    if (relay->state == FS_RELAY_STALE)
        probe(relay, now_ms);
    if (relay->late > BG_FS_LATE_MAX)
        return bg_err_set(err, -EPROTO, "%zu requests without an answer", relay->late);
    *ret_next_ms = fs_gather_tick(relay, now_ms);
    if ((timed || relay->state == FS_RELAY_STALE) && *ret_next_ms > TICK_MS)
        *ret_next_ms = TICK_MS;
    if (held && *ret_next_ms > HELD_TICK_MS)
        *ret_next_ms = HELD_TICK_MS;
    if (fs_changes_walk(relay, now_ms))
        *ret_next_ms = WALK_TICK_MS;
    uint64_t echo_ms = fs_echo_tick(relay, now_ms);
    if (echo_ms < *ret_next_ms)
        *ret_next_ms = echo_ms;
    return 0;
}

bool fs_relay_finish(struct fs_relay *relay, uint64_t now_ms)
{
    relay->finishing = true;
    if (relay->state != FS_RELAY_GONE)
        (void)fs_gather_tick(relay, now_ms);
    return relay->gathers == NULL;
}

/* ---- life ---- */

enum fs_relay_state fs_relay_state(const struct fs_relay *relay)
{
    return relay->state;
}

void fs_relay_gone(struct fs_relay *relay)
{
    if (relay->state == FS_RELAY_GONE)
        return;
    give_up_all(relay);
    fs_rebind_free(relay);
    relay->state = FS_RELAY_GONE;
    while (relay->first)
        fs_pending_free(relay, relay->first); /* nothing will come for them */
}

void fs_relay_hello(const struct fs_relay *relay, uint8_t *out)
{
    struct fs_hello hello = {.flags = relay->opts.read_only ? FS_HELLO_READ_ONLY : 0};
    /* The kernel cannot be told later that there is one after all. */
    if (relay->opts.notify && (!relay->hello.server || relay->changes.agreed))
        hello.flags |= FS_HELLO_FEED;
    if (relay->opts.links == FS_LINKS_INSIDE)
        hello.flags |= FS_HELLO_CLEAN_LINKS;
    fs_hello_emit(&hello, out);
}

int fs_relay_greeted(struct fs_relay *relay, const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct fs_hello hello;
    int r = fs_hello_parse(bytes, size, /* from_server= */ true, &hello, err);
    if (r < 0)
        return r;
    relay->hello = hello;
    relay->owners.server_uid = hello.uid;
    relay->owners.server_gid = hello.gid;
    relay->owners.all = hello.flags & FS_HELLO_ALL_USERS;
    relay->read_only = relay->opts.read_only || (hello.flags & FS_HELLO_READ_ONLY);
    relay->whole = hello.flags & FS_HELLO_WHOLE;
    relay->takes_pieces = hello.flags & FS_HELLO_PIECES;
    relay->changes.agreed = relay->changes.told =
        relay->opts.notify && (hello.flags & FS_HELLO_FEED);
    return 0;
}

bool fs_relay_is_told(const struct fs_relay *relay)
{
    return relay->changes.told;
}

int fs_relay_new(const struct fs_relay_opts *opts, struct fs_relay **ret)
{
    assert(opts->deadline_ms > 0);
    struct fs_relay *relay = calloc(1, sizeof *relay);
    if (!relay)
        return -ENOMEM;
    relay->opts = *opts;
    relay->owners.uid = opts->uid;
    relay->owners.gid = opts->gid;
    relay->next_unique = relay->next_handle = 1;
    relay->scratch = malloc(BG_FS_MESSAGE_MAX);
    int r = relay->scratch ? fs_tree_init(&relay->tree, BG_FS_NODES_MAX) : -ENOMEM;
    if (r == 0) {
        relay->tree.on_forget = fs_relay_forget;
        relay->tree.owner = relay;
        r = fs_table_init(&relay->handles);
    }
    if (r == 0)
        r = fs_table_init(&relay->by_unique);
    if (r == 0)
        r = fs_table_init(&relay->by_kernel);
    if (r == 0)
        r = fs_guard_new(&opts->guard, &relay->guard);
    if (r < 0) {
        fs_relay_free(relay);
        return r;
    }
    *ret = relay;
    return 0;
}

void fs_relay_free(struct fs_relay *relay)
{
    if (!relay)
        return;
    relay->state = FS_RELAY_GONE; /* nothing is given back any more */
    fs_echo_done(relay);
    while (relay->first)
        fs_pending_free(relay, relay->first);
    fs_rebind_free(relay);
    size_t cursor = 0;
    if (relay->handles.buckets)
        for (struct fs_link *link; (link = fs_table_pop(&relay->handles, &cursor));) {
            free(FS_LINK_OWNER(link, struct fs_rhandle, link)->ahead);
            free(FS_LINK_OWNER(link, struct fs_rhandle, link));
        }
    fs_walks_done(relay);
    fs_table_done(&relay->handles);
    fs_table_done(&relay->by_unique);
    fs_table_done(&relay->by_kernel);
    fs_guard_free(relay->guard);
    if (relay->tree.root)
        fs_tree_done(&relay->tree);
    free(relay->forgets);
    free(relay->scratch);
    free(relay);
}
