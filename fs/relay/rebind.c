/* When the stream is lost and another one comes. Folders are found again from the root downwards,
 * each by LOOKUP of its name in its folder, then the open files and folders, which are opened
 * again. Up to a window of requests is on its way at once. What is left unbound at the end is
 * stale. */
#include "fs/relay/changes.h"
#include "fs/relay/state.h"

#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SLOWNESS_MAX 4u /* deadlines that finding everything again may take */

/* A request of the kernel that was not sent. */
struct waiting {
    struct waiting *next;
    uint64_t kernel_unique;
    size_t size;
    uint8_t bytes[];
};

struct place {
    struct fs_rnode *node; /* referenced */
    unsigned depth;
};

struct fs_rebind {
    uint64_t since_ms; /* of the loss, or of the return */
    bool waits;        /* requests may wait; else they get EIO */
    bool asleep;       /* nobody brings the server before somebody needs it */
    struct waiting *first, **last;
    size_t waiting_count;

    struct place *places; /* to be found again, by depth */
    size_t place_count, next_place;
    uint64_t *handles; /* to be opened again */
    size_t handle_count, next_handle;
    size_t in_flight;
    size_t folders, files, failed;
};

bool fs_relay_has_server(const struct fs_relay *relay)
{
    return relay->state != FS_RELAY_GONE && relay->state != FS_RELAY_LOST;
}

/* ---- requests that wait ---- */

/* Somebody waits: the server is to be brought, and has a deadline for it from now on. */
static void need(struct fs_relay *relay, uint64_t now_ms)
{
    struct fs_rebind *rebind = relay->rebind;
    if (!rebind->asleep)
        return;
    rebind->asleep = false;
    rebind->since_ms = now_ms;
    relay->opts.on_needed(relay->opts.owner);
}

int fs_rebind_wait(struct fs_relay *relay, uint64_t kernel_unique, const uint8_t *bytes,
                   size_t size, uint64_t now_ms)
{
    struct fs_rebind *rebind = relay->rebind;
    need(relay, now_ms);
    if (!rebind->waits || rebind->waiting_count >= BG_FS_WINDOW)
        return -EIO;
    struct waiting *waiting = malloc(sizeof *waiting + size);
    if (!waiting)
        return -ENOMEM;
    *waiting = (struct waiting){.kernel_unique = kernel_unique, .size = size};
    memcpy(waiting->bytes, bytes, size);
    *rebind->last = waiting;
    rebind->last = &waiting->next;
    rebind->waiting_count++;
    return 0;
}

void fs_rebind_interrupt(struct fs_relay *relay, uint64_t kernel_unique)
{
    struct fs_rebind *rebind = relay->rebind;
    for (struct waiting **at = rebind ? &rebind->first : NULL; at && *at; at = &(*at)->next) {
        struct waiting *waiting = *at;
        if (waiting->kernel_unique != kernel_unique)
            continue;
        *at = waiting->next;
        if (!*at)
            rebind->last = at;
        rebind->waiting_count--;
        fs_relay_fail(relay, kernel_unique, -EINTR);
        free(waiting);
        return;
    }
}

static void refuse_waiting(struct fs_relay *relay)
{
    struct fs_rebind *rebind = relay->rebind;
    for (struct waiting *waiting; (waiting = rebind->first);) {
        rebind->first = waiting->next;
        fs_relay_fail(relay, waiting->kernel_unique, -EIO);
        free(waiting);
    }
    rebind->last = &rebind->first;
    rebind->waiting_count = 0;
    rebind->waits = rebind->asleep = false;
}

bool fs_relay_has_room(const struct fs_relay *relay)
{
    size_t used = relay->rebind ? relay->rebind->waiting_count : relay->in_window;
    return used < BG_FS_WINDOW;
}

void fs_rebind_keep(const struct fs_relay *relay, struct fs_pending *pending,
                    const struct fs_request *request, const uint8_t *bytes, size_t size)
{
    bool twice = false;
    switch (request->opcode) {
    case FUSE_OPEN:
        twice = !(request->flags & O_TRUNC);
        break;
    case FUSE_LOOKUP:
    case FUSE_GETATTR:
    case FUSE_READLINK:
    case FUSE_READ:
    case FUSE_STATFS:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_OPENDIR:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_GETLK:
    case FUSE_ACCESS:
    case FUSE_LSEEK:
        twice = true;
        break;
    default: /* it may have been done: whether twice is the same, or what it then says, is unknown
              */
        break;
    }
    if (!relay->opts.returns || !twice)
        return;
    pending->again = malloc(size);
    if (!pending->again)
        return; /* then it fails when the server goes */
    memcpy(pending->again, bytes, size);
    pending->again_size = size;
}

bool fs_rebind_tells_loss(const struct fs_relay *relay, const struct fs_request *request)
{
    if (request->opcode != FUSE_FSYNC && request->opcode != FUSE_FLUSH)
        return false;
    struct fs_rhandle *handle = fs_handle_find(relay, request->fh);
    bool lost = handle && handle->lost_writes;
    if (lost)
        handle->lost_writes = false;
    return lost;
}

/* ---- the loss ---- */

static void drop_work(struct fs_relay *relay)
{
    struct fs_rebind *rebind = relay->rebind;
    for (size_t i = 0; i < rebind->place_count; i++)
        fs_tree_unref(&relay->tree, rebind->places[i].node);
    free(rebind->places);
    free(rebind->handles);
    rebind->places = NULL;
    rebind->handles = NULL;
    rebind->place_count = rebind->next_place = rebind->handle_count = rebind->next_handle = 0;
    rebind->in_flight = rebind->folders = rebind->files = rebind->failed = 0;
}

void fs_rebind_free(struct fs_relay *relay)
{
    if (!relay->rebind)
        return;
    refuse_waiting(relay);
    drop_work(relay);
    free(relay->rebind);
    relay->rebind = NULL;
}

int fs_relay_lost(struct fs_relay *relay, uint64_t now_ms)
{
    if (relay->state == FS_RELAY_NEW || relay->state == FS_RELAY_GONE)
        return -EPROTO;
    if (!relay->rebind) {
        relay->rebind = calloc(1, sizeof *relay->rebind);
        if (!relay->rebind)
            return -ENOMEM;
        relay->rebind->last = &relay->rebind->first;
        relay->rebind->waits = true;
    }
    /* A stream that was no server's changes nothing for those who wait. */
    if (relay->state != FS_RELAY_LOST)
        relay->rebind->since_ms = now_ms;
    relay->rebind->asleep = false;
    relay->state = FS_RELAY_LOST;
    for (struct fs_pending *p; (p = relay->first);) {
        if (!p->late && p->again &&
            fs_rebind_wait(relay, p->kernel_unique, p->again, p->again_size, now_ms) == 0) {
            fs_pending_free(relay, p); /* its answer comes from the next server */
            continue;
        }
        if (!p->late && p->kernel_unique != 0)
            fs_relay_fail(relay, p->kernel_unique, -EIO);
        fs_pending_free(relay, p);
    }
    drop_work(relay);
    relay->forget_count = 0;
    relay->changes.told = false; /* what the kernel has may be used a while yet */
    relay->probing = false;
    relay->timeouts = 0;
    fs_tree_unbind(&relay->tree);
    for (struct fs_link *link = NULL; (link = fs_table_walk(&relay->handles, link));)
        FS_LINK_OWNER(link, struct fs_rhandle, link)->bound = false;
    return 0;
}

void fs_relay_not_soon(struct fs_relay *relay)
{
    if (relay->state == FS_RELAY_LOST)
        refuse_waiting(relay);
}

void fs_relay_asleep(struct fs_relay *relay, uint64_t now_ms)
{
    struct fs_rebind *rebind = relay->rebind;
    if (relay->state != FS_RELAY_LOST)
        return;
    rebind->waits = rebind->asleep = true;
    if (rebind->first)
        need(relay, now_ms);
}

/* ---- the return ---- */

static int by_depth(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->depth < y->depth ? -1 : x->depth > y->depth;
}

static bool add_place(struct fs_rebind *rebind, struct fs_rnode *node)
{
    if (rebind->place_count == BG_FS_REBIND_MAX)
        return false;
    fs_tree_ref(node);
    rebind->places[rebind->place_count++] =
        (struct place){.node = node, .depth = fs_tree_depth(node)};
    return true;
}

/* A file or folder that is open, and can be opened again: not where somebody has had a lock, since
 * another may have it by now. */
static bool reopens(const struct fs_rhandle *handle)
{
    return !handle->node->stale && !handle->node->locked && !handle->echo;
}

/* Lists what is to be found again: all folders, and the files that are open. */
static int collect(struct fs_relay *relay)
{
    struct fs_rebind *rebind = relay->rebind;
    rebind->places = calloc(BG_FS_REBIND_MAX, sizeof *rebind->places);
    rebind->handles = calloc(relay->handles.count + 1, sizeof *rebind->handles);
    if (!rebind->places || !rebind->handles)
        return -ENOMEM;
    for (struct fs_link *link = NULL; (link = fs_table_walk(&relay->handles, link));) {
        const struct fs_rhandle *handle = FS_LINK_OWNER(link, struct fs_rhandle, link);
        if (!reopens(handle))
            continue;
        if (!handle->lazy) /* else it is opened when it is used */
            rebind->handles[rebind->handle_count++] = handle->id;
        if (handle->node->type == S_IFREG)
            (void)add_place(rebind, handle->node); /* twice if it is open twice: see below */
    }
    for (struct fs_link *link = NULL; (link = fs_table_walk(&relay->tree.by_id, link));) {
        struct fs_rnode *node = FS_LINK_OWNER(link, struct fs_rnode, by_id);
        if (node->type == S_IFDIR && node->placed && !add_place(rebind, node))
            break;
    }
    qsort(rebind->places, rebind->place_count, sizeof *rebind->places, by_depth);
    return 0;
}

static struct fs_pending *own_pending(struct fs_rnode *node)
{
    struct fs_pending *pending = calloc(1, sizeof *pending);
    if (!pending)
        return NULL;
    pending->rebinds = true;
    pending->node = node;
    fs_tree_ref(node);
    return pending;
}

/* Returns false when it has to wait for its folder. */
static bool look_up(struct fs_relay *relay, struct fs_rnode *node, uint64_t now_ms)
{
    struct fs_rebind *rebind = relay->rebind;
    if (fs_tree_is_bound(node) || node->stale)
        return true;
    if (!fs_tree_is_bound(node->parent) && !node->parent->stale && rebind->in_flight > 0)
        return false;
    bool named = fs_name_ok(node->name, strlen(node->name)); /* TMPFILE's are not */
    struct fs_pending *pending = named && fs_tree_is_bound(node->parent) ? own_pending(node) : NULL;
    if (!pending) {
        fs_tree_stale(&relay->tree, node);
        return true;
    }
    struct fs_request request = {.opcode = FUSE_LOOKUP,
                                 .node = node->parent->peer->id,
                                 .name = node->name,
                                 .name_size = strlen(node->name)};
    rebind->in_flight++;
    fs_relay_send(relay, &request, pending, now_ms);
    return true;
}

static void reopen(struct fs_relay *relay, uint64_t id, uint64_t now_ms)
{
    struct fs_rebind *rebind = relay->rebind;
    const struct fs_rhandle *handle = fs_handle_find(relay, id);
    struct fs_pending *pending =
        handle && fs_tree_is_bound(handle->node) ? own_pending(handle->node) : NULL;
    if (!pending) {
        rebind->failed += handle ? 1 : 0;
        return;
    }
    bool folder = handle->node->type == S_IFDIR;
    struct fs_request request = {.opcode = folder ? FUSE_OPENDIR : FUSE_OPEN,
                                 .node = handle->node->peer->id,
                                 .flags = handle->flags & ~(uint64_t)(O_TRUNC | O_EXCL)};
    pending->fh = id;
    rebind->in_flight++;
    fs_relay_send(relay, &request, pending, now_ms);
}

/* The kernel may ask again. */
static void finish(struct fs_relay *relay, uint64_t now_ms)
{
    struct fs_rebind *rebind = relay->rebind;
    bg_log(relay->opts.log, BG_LOG_INFO,
           "the files are back: %zu folders and %zu open files found again, %zu not",
           rebind->folders, rebind->files, rebind->failed);
    for (struct fs_link *link = NULL; (link = fs_table_walk(&relay->tree.by_id, link));) {
        struct fs_rnode *node = FS_LINK_OWNER(link, struct fs_rnode, by_id);
        if (!fs_tree_is_bound(node) && !node->stale)
            fs_tree_stale(&relay->tree, node);
    }
    drop_work(relay);
    relay->rebind = NULL;
    relay->state = FS_RELAY_LIVE;
    relay->heard_ms = now_ms;
    for (struct waiting *waiting; (waiting = rebind->first);) {
        rebind->first = waiting->next;
        fs_relay_request(relay, waiting->bytes, waiting->size, now_ms);
        free(waiting);
    }
    free(rebind);
}

/* Sends what can be sent. */
static void go_on(struct fs_relay *relay, uint64_t now_ms)
{
    struct fs_rebind *rebind = relay->rebind;
    while (rebind->next_place < rebind->place_count && rebind->in_flight < BG_FS_WINDOW) {
        if (!look_up(relay, rebind->places[rebind->next_place].node, now_ms))
            return;
        rebind->next_place++;
    }
    /* Files are opened when the last of them has been found. */
    if (rebind->next_place < rebind->place_count ||
        (rebind->next_handle == 0 && rebind->in_flight > 0))
        return;
    while (rebind->next_handle < rebind->handle_count && rebind->in_flight < BG_FS_WINDOW)
        reopen(relay, rebind->handles[rebind->next_handle++], now_ms);
    if (rebind->in_flight == 0)
        finish(relay, now_ms);
}

int fs_relay_returned(struct fs_relay *relay, const uint8_t *bytes, size_t size, uint64_t now_ms,
                      struct bg_err *err)
{
    assert(relay->state == FS_RELAY_LOST);
    struct fs_hello hello;
    int r = fs_hello_parse(bytes, size, /* from_server= */ true, &hello, err);
    if (r < 0)
        return r;
    const uint32_t feed = FS_HELLO_FEED; /* it may or may not have one */
    if ((hello.flags | feed) != (relay->hello.flags | feed) || hello.uid != relay->hello.uid ||
        hello.gid != relay->hello.gid)
        return bg_err_set(err, -EPROTO, "the file server that came back is another one");
    if (collect(relay) < 0) {
        drop_work(relay);
        return bg_err_set(err, -ENOMEM, "mount: out of memory");
    }
    bool rebooted = hello.boot == 0 || hello.boot != relay->hello.boot;
    for (struct fs_link *link = NULL; rebooted && (link = fs_table_walk(&relay->handles, link));) {
        struct fs_rhandle *handle = FS_LINK_OWNER(link, struct fs_rhandle, link);
        if ((handle->flags & O_ACCMODE) != O_RDONLY && handle->node->writes != handle->node->synced)
            handle->lost_writes = true;
    }
    relay->hello = hello;
    relay->changes.told = relay->changes.agreed && (hello.flags & FS_HELLO_FEED);
    if (relay->changes.agreed)
        fs_changes_all(relay); /* nobody told what changed meanwhile */
    relay->state = FS_RELAY_REBINDING;
    relay->rebind->since_ms = now_ms;
    relay->rebind->waits = true;
    relay->rebind->asleep = false;
    go_on(relay, now_ms);
    return 0;
}

static void found(struct fs_relay *relay, const struct fs_pending *pending, struct fs_reply *reply)
{
    struct fs_rebind *rebind = relay->rebind;
    struct fs_tree_entry entry;
    if (reply->error < 0 || reply->node == 0 ||
        fs_relay_look_at(relay, reply->node, &reply->attr, &entry) < 0) {
        if (reply->error == 0 && reply->node != 0)
            fs_relay_forget(relay, reply->node, 1);
        fs_tree_stale(&relay->tree, pending->node);
    } else if (fs_tree_is_bound(pending->node)) { /* open twice, asked for twice */
        fs_relay_forget(relay, reply->node, 1);
    } else if (fs_tree_bind(&relay->tree, pending->node, &entry) == 0 &&
               pending->node->type == S_IFDIR) {
        rebind->folders++;
    }
}

static void opened(struct fs_relay *relay, const struct fs_pending *pending,
                   const struct fs_reply *reply, uint64_t now_ms)
{
    struct fs_rebind *rebind = relay->rebind;
    struct fs_rhandle *handle = fs_handle_find(relay, pending->fh);
    if (reply->error < 0) {
        rebind->failed++;
    } else if (handle) {
        handle->server_fh = reply->fh;
        handle->bound = true;
        rebind->files++;
    } else { /* closed meanwhile */
        fs_relay_send_release(relay, pending->node->peer->id, reply->fh,
                              pending->opcode == FUSE_OPENDIR, now_ms);
    }
}

void fs_rebind_reply(struct fs_relay *relay, struct fs_pending *pending, struct fs_reply *reply,
                     uint64_t now_ms)
{
    assert(relay->state == FS_RELAY_REBINDING);
    relay->rebind->in_flight--;
    if (pending->opcode == FUSE_LOOKUP)
        found(relay, pending, reply);
    else
        opened(relay, pending, reply, now_ms);
    go_on(relay, now_ms);
}

int fs_rebind_tick(struct fs_relay *relay, uint64_t now_ms, struct bg_err *err)
{
    struct fs_rebind *rebind = relay->rebind;
    if (!rebind || rebind->asleep)
        return 0;
    uint64_t waited = now_ms - rebind->since_ms;
    if (relay->state == FS_RELAY_REBINDING && waited >= SLOWNESS_MAX * relay->opts.deadline_ms)
        return bg_err_set(err, -ETIMEDOUT, "the file server that came back is too slow");
    if (relay->state == FS_RELAY_LOST && rebind->waits && waited >= relay->opts.deadline_ms)
        refuse_waiting(relay);
    return relay->state == FS_RELAY_REBINDING || rebind->waits;
}

void fs_rebind_renamed(struct fs_relay *relay, const struct fs_pending *pending)
{
    for (struct fs_link *link = NULL; (link = fs_table_walk(&relay->handles, link));) {
        struct fs_rnode *node = FS_LINK_OWNER(link, struct fs_rhandle, link)->node;
        if (node->type == S_IFREG && node->parent == pending->node &&
            strcmp(node->name, pending->name) == 0)
            fs_tree_seen_at(&relay->tree, node, pending->node2, pending->name2);
    }
}
