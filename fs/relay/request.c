/* From the kernel to the server: what is answered here, what is refused, and how the rest is
 * translated. The kernel is trusted to mean well, but a request is parsed as strictly as any. */
#include "fs/relay/ahead.h"
#include "fs/relay/changes.h"
#include "fs/relay/echo.h"
#include "fs/relay/gather.h"
#include "fs/relay/guarded.h"
#include "fs/relay/lazy.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#define PROTOCOL_MINOR       38u /* what the table speaks */
#define PROTOCOL_MINOR_EPOCH 44u /* since then FUSE_NOTIFY_INC_EPOCH */
#define PROTOCOL_MINOR_MIN   31u /* older kernels lay structs out differently */
#define BACKGROUND_MAX       64u
#define CONGESTION           48u

/* WRITEBACK_CACHE is not here: with it the kernel keeps its own idea of a file's size and times,
 * and what the guest writes stays unseen. CACHE_SYMLINKS is not: links are checked at each walk. */
static const uint64_t wanted_flags =
    FUSE_ASYNC_READ | FUSE_POSIX_LOCKS | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_FLOCK_LOCKS |
    FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS |
    FUSE_ABORT_ERROR | FUSE_MAX_PAGES | FUSE_HANDLE_KILLPRIV_V2 | FUSE_INIT_EXT;

static void answer_init(struct fs_relay *relay, const struct fs_request *request, uint64_t now_ms)
{
    struct fs_init init;
    struct bg_err err;
    int r = fs_init_parse(request->data, request->data_size, &init, &err);
    if (r < 0 || init.major != FUSE_KERNEL_VERSION || init.minor < PROTOCOL_MINOR_MIN) {
        bg_log(relay->opts.log, BG_LOG_ERROR, "this kernel's FUSE is too old: 7.%u is needed",
               PROTOCOL_MINOR_MIN);
        fs_relay_fail(relay, request->unique, -EPROTO);
        return;
    }
    /* Pages are dropped when the server says that they have changed, else when the kernel sees it
     * by a file's time. */
    uint64_t flags =
        wanted_flags | (relay->changes.agreed ? FUSE_EXPLICIT_INVAL_DATA : FUSE_AUTO_INVAL_DATA);
    relay->changes.epochs = init.minor >= PROTOCOL_MINOR_EPOCH;
    struct fs_init ours = {.major = FUSE_KERNEL_VERSION,
                           .minor = init.minor < PROTOCOL_MINOR ? init.minor : PROTOCOL_MINOR,
                           .max_readahead = init.max_readahead < BG_FS_IO_MAX ? init.max_readahead
                                                                              : BG_FS_IO_MAX,
                           .flags = init.flags & flags,
                           .max_background = BACKGROUND_MAX,
                           .congestion_threshold = CONGESTION,
                           .max_write = BG_FS_IO_MAX,
                           .max_pages = BG_FS_IO_MAX / 4096,
                           .time_gran = 1};
    uint8_t bytes[FS_REPLY_HEADER_SIZE + 64];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    fs_init_reply_emit(request->unique, &ours, &w);
    struct iovec part = {.iov_base = bytes, .iov_len = w.used};
    if (relay->opts.to_kernel(relay->opts.owner, &part, 1) < 0)
        return; /* the mount is being taken down */
    relay->initialised = true;
    relay->heard_ms = now_ms;
    fs_relay_probe(relay, now_ms);
}

static void forget_one(struct fs_relay *relay, uint64_t id, uint64_t count)
{
    struct fs_rnode *node = fs_tree_find(&relay->tree, id);
    if (node)
        fs_tree_forget(&relay->tree, node, count);
    else
        (void)fs_guard_forgets(relay, id, count); /* or nobody's */
}

static void interrupt(struct fs_relay *relay, const struct fs_request *request, uint64_t now_ms)
{
    /* Only a wait for a lock may end early. Anything else may have been done already, and a program
     * that is told EINTR after its rename worked, just because a timer of its own went off, fails
     * for no reason; those end at their deadline. */
    fs_rebind_interrupt(relay, request->interrupted);
    struct fs_pending *pending = fs_pending_find_kernel(relay, request->interrupted);
    if (!pending || pending->class != FS_CLASS_WAIT || pending->interrupted)
        return;
    if (pending->unique == 0) { /* the server has not heard of it */
        uint64_t kernel_unique = pending->kernel_unique;
        fs_pending_free(relay, pending);
        fs_relay_fail(relay, kernel_unique, -EINTR);
        return;
    }
    pending->interrupted = true;
    pending->interrupted_ms = now_ms;
    struct fs_request pass = {.opcode = FUSE_INTERRUPT, .interrupted = pending->unique};
    fs_relay_send(relay, &pass, NULL, now_ms);
}

/* ---- what is refused ---- */

/* Names that are hidden from the host: they are not there, and cannot be made. */
static int check_names(const struct fs_relay *relay, const struct fs_request *request)
{
    bool raw = relay->opts.raw_names;
    bool makes = request->opcode == FUSE_MKDIR || request->opcode == FUSE_MKNOD ||
                 request->opcode == FUSE_SYMLINK || request->opcode == FUSE_CREATE ||
                 request->opcode == FUSE_LINK;
    bool moves = request->opcode == FUSE_RENAME || request->opcode == FUSE_RENAME2;
    if (request->name && !fs_check_name_shown(request->name, request->name_size, raw))
        return makes ? -EPERM : -ENOENT;
    if (moves && !fs_check_name_shown(request->name2, request->name2_size, raw))
        return -EPERM;
    return 0;
}

static int check_rename(const struct fs_request *request, const struct fs_rnode *to)
{
    if (request->flags & ~(uint64_t)(RENAME_NOREPLACE | RENAME_EXCHANGE))
        return -EINVAL;
    return fs_tree_depth(to) + 1 > BG_FS_DEPTH_MAX ? -ENAMETOOLONG : 0;
}

static int check_setattr(const struct fs_relay *relay, struct fs_request *request,
                         const struct fs_rnode *node)
{
    const uint64_t known = FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE | FATTR_ATIME |
                           FATTR_MTIME | FATTR_FH | FATTR_ATIME_NOW | FATTR_MTIME_NOW;
    if (node->special)
        return -EPERM;
    request->valid &= known;
    request->mode &= 0777; /* set-id and sticky bits do not exist on this mount */
    if (((request->valid & FATTR_UID) && request->uid != relay->owners.uid) ||
        ((request->valid & FATTR_GID) && request->gid != relay->owners.gid))
        return -EPERM; /* files can be given to nobody but the user */
    if (relay->owners.all)
        request->valid &= ~(uint64_t)(FATTR_UID | FATTR_GID); /* all are the user's as they are */
    request->uid = relay->owners.server_uid;
    request->gid = relay->owners.server_gid;
    return 0;
}

static bool opens_for_change(uint64_t flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC);
}

static int check_open(const struct fs_relay *relay, struct fs_request *request,
                      const struct fs_rnode *node)
{
    const uint64_t known = O_ACCMODE | O_APPEND | O_TRUNC | O_SYNC | O_DSYNC | O_NOATIME;
    if (request->opcode == FUSE_OPENDIR)
        return node->type == S_IFDIR ? 0 : -ENOTDIR;
    if (node->special || node->type != S_IFREG)
        return -EACCES;
    if (relay->read_only && opens_for_change(request->flags))
        return -EROFS;
    request->flags &= known;
    request->flags2 = 0;
    return 0;
}

static bool is_in_folder(uint32_t opcode)
{
    enum fs_tail tail = fs_op_find(opcode)->tail;
    return tail == FS_TAIL_NAME_NAME || tail == FS_TAIL_NAME_TEXT ||
           (tail == FS_TAIL_NAME && opcode != FUSE_GETXATTR && opcode != FUSE_REMOVEXATTR);
}

/* Everything that a request may not do; also takes out of it what goes no further. */
static int check_request(const struct fs_relay *relay, struct fs_request *request,
                         const struct fs_rnode *node)
{
    if (relay->read_only && fs_op_mutates(request->opcode))
        return -EROFS;
    if (is_in_folder(request->opcode)) {
        int r = node->type == S_IFDIR ? check_names(relay, request) : -ENOTDIR;
        if (r < 0)
            return r;
    }
    switch (request->opcode) {
    case FUSE_MKNOD:
        if ((request->mode & S_IFMT) != S_IFREG)
            return -EPERM;
        request->mode &= S_IFREG | 0777;
        request->rdev = 0;
        return 0;
    case FUSE_MKDIR:
        request->mode &= 0777;
        return 0;
    case FUSE_CREATE:
    case FUSE_TMPFILE:
        request->mode &= S_IFREG | 0777;
        request->flags &= O_ACCMODE | O_APPEND | O_TRUNC | O_SYNC | O_DSYNC | O_EXCL;
        request->flags2 = 0;
        return 0;
    case FUSE_OPEN:
    case FUSE_OPENDIR:
        return check_open(relay, request, node);
    case FUSE_SETATTR:
        return check_setattr(relay, request, node);
    case FUSE_READLINK:
        return node->type == S_IFLNK ? 0 : -EINVAL;
    case FUSE_SETXATTR:
        if (request->data_size > BG_FS_XATTR_MAX)
            return -E2BIG;
        return fs_check_xattr_name(request->name) ? 0 : -EOPNOTSUPP;
    case FUSE_GETXATTR:
    case FUSE_REMOVEXATTR:
        return fs_check_xattr_name(request->name) ? 0 : -EOPNOTSUPP;
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_WRITE:
        return request->size > BG_FS_IO_MAX ? -EINVAL : 0;
    default:
        return 0;
    }
}

/* ---- translation ---- */

/* The second node of a request: which one, and that it may be it. */
static int find_node2(const struct fs_relay *relay, const struct fs_request *request,
                      struct fs_rnode **ret)
{
    *ret = NULL;
    bool moves = request->opcode == FUSE_RENAME || request->opcode == FUSE_RENAME2;
    if (!moves && request->opcode != FUSE_LINK && request->opcode != FUSE_COPY_FILE_RANGE)
        return 0;
    struct fs_rnode *node = fs_tree_find(&relay->tree, request->node2);
    if (!node || node->stale)
        return -ESTALE;
    if (moves && node->type != S_IFDIR)
        return -ENOTDIR;
    if (!moves && node->type == S_IFDIR)
        return -EPERM;
    *ret = node;
    return moves ? check_rename(request, node) : 0;
}

static int translate_handle(const struct fs_relay *relay, uint64_t *fh, const struct fs_rnode *node)
{
    const struct fs_rhandle *handle = fs_handle_find(relay, *fh);
    if (!handle || handle->node != node)
        return -EBADF;
    if (!handle->bound)
        return -EIO; /* what it was opened on is gone with its server */
    *fh = handle->server_fh;
    return 0;
}

bool fs_request_has_handle(const struct fs_request *request)
{
    return fs_op_has_handle(request->opcode) &&
           (request->opcode != FUSE_GETATTR || (request->flags & FUSE_GETATTR_FH)) &&
           (request->opcode != FUSE_SETATTR || (request->valid & FATTR_FH));
}

static int translate_handles(const struct fs_relay *relay, struct fs_request *request,
                             const struct fs_rnode *node, const struct fs_rnode *node2)
{
    if (!fs_request_has_handle(request))
        return 0;
    int r = translate_handle(relay, &request->fh, node);
    if (r == 0 && request->opcode == FUSE_COPY_FILE_RANGE)
        r = translate_handle(relay, &request->fh2, node2);
    return r;
}

static struct fs_pending *pending_new(const struct fs_request *request, struct fs_rnode *node,
                                      struct fs_rnode *node2)
{
    struct fs_pending *pending = calloc(1, sizeof *pending);
    if (!pending)
        return NULL;
    pending->kernel_unique = request->unique;
    pending->fh = request->fh;
    pending->size = request->size;
    pending->offset = request->offset;
    pending->flags = request->flags;
    pending->thread = request->caller_pid;
    if (request->name && is_in_folder(request->opcode))
        pending->name = strdup(request->name);
    if (request->name2)
        pending->name2 = strdup(request->name2);
    if ((request->name && is_in_folder(request->opcode) && !pending->name) ||
        (request->name2 && !pending->name2)) {
        free(pending->name);
        free(pending->name2);
        free(pending);
        return NULL;
    }
    pending->node = node;
    fs_tree_ref(node);
    if (node2) {
        pending->node2 = node2;
        fs_tree_ref(node2);
    }
    return pending;
}

/* The kernel has closed a handle: it is gone here whatever the server says. */
static void release(struct fs_relay *relay, const struct fs_request *request, uint64_t now_ms)
{
    struct fs_rhandle *handle = fs_handle_find(relay, request->fh);
    struct fs_reply reply = {0};
    if (!handle && fs_guard_releases(relay, request, now_ms))
        return;
    if (handle && handle->echo)
        fs_handle_free(relay, handle);
    else if (handle)
        fs_relay_release(relay, handle, request->opcode == FUSE_RELEASEDIR, now_ms);
    (void)fs_relay_answer(relay, request->unique, request->opcode, &reply); /* nobody waits */
}

static bool has_slow_room(const struct fs_relay *relay, uint32_t opcode)
{
    enum fs_class class = fs_op_find(opcode)->class;
    bool slow = class == FS_CLASS_WAIT || class == FS_CLASS_SYNC;
    return !slow || relay->slow < BG_FS_SLOW_MAX;
}

/* Closing a file that was only read and has had no locks changes nothing: the server need not hear
 * of it, and every reader is spared a round trip. */
static bool flush_is_idle(const struct fs_relay *relay, const struct fs_request *request,
                          const struct fs_rnode *node)
{
    const struct fs_rhandle *handle = fs_handle_find(relay, request->fh);
    return request->opcode == FUSE_FLUSH && handle && handle->node == node &&
           (handle->flags & O_ACCMODE) == O_RDONLY && !node->locked;
}

static int forward(struct fs_relay *relay, struct fs_request *request, const uint8_t *bytes,
                   size_t size, uint64_t now_ms)
{
    int r;
    if (fs_guard_takes(relay, request, now_ms, &r))
        return r;
    struct fs_rnode *node = fs_tree_find(&relay->tree, request->node);
    if (!node)
        return -ESTALE;
    if (flush_is_idle(relay, request, node)) {
        (void)fs_relay_answer(relay, request->unique, FUSE_FLUSH, &(struct fs_reply){0});
        return 0;
    }
    if (relay->state == FS_RELAY_LOST || relay->state == FS_RELAY_REBINDING)
        return fs_relay_answer_from_memory(relay, request->unique, request->opcode, node)
                   ? 0
                   : fs_rebind_wait(relay, request->unique, bytes, size, now_ms);
    if (relay->state == FS_RELAY_STALE || relay->state == FS_RELAY_GONE)
        return fs_relay_answer_from_memory(relay, request->unique, request->opcode, node) ? 0
                                                                                          : -EIO;
    if (node->stale)
        return -ESTALE;
    if (fs_rebind_tells_loss(relay, request))
        return -EIO;
    if (fs_ahead_answer(relay, request, now_ms))
        return 0;
    struct fs_rnode *node2;
    r = check_request(relay, request, node);
    if (r == 0)
        r = find_node2(relay, request, &node2);
    if (r == 0 && !has_slow_room(relay, request->opcode))
        r = request->opcode == FUSE_SETLKW ? -ENOLCK : -EIO;
    if (r < 0)
        return r;
    if (fs_lazy_opens(relay, request, node))
        return 0;
    r = fs_lazy_waits(relay, request, bytes, size, now_ms);
    if (r != 0)
        return r < 0 ? r : 0;
    if (request->opcode == FUSE_RENAME || request->opcode == FUSE_RENAME2) {
        r = fs_walks_rename(relay, request, node, node2, now_ms);
        if (r != 0)
            return r < 0 ? r : 0;
    }
    struct fs_pending *pending = pending_new(request, node, node2);
    if (!pending)
        return -ENOMEM;
    fs_rebind_keep(relay, pending, request, bytes, size);
    pending->since_ms = relay->walks.retried_since_ms;
    r = translate_handles(relay, request, node, node2);
    if (r < 0) {
        fs_pending_free(relay, pending);
        return r;
    }
    request->node = node->peer->id;
    if (node2)
        request->node2 = node2->peer->id;
    if (request->opcode == FUSE_SETLK || request->opcode == FUSE_SETLKW) {
        pending->request = *request;
        node->locked = true;
    }
    fs_ahead_changed(request, pending);
    fs_ahead_ask(relay, request, pending);
    fs_gather_forward(relay, request, pending, now_ms);
    return 0;
}

void fs_relay_request(struct fs_relay *relay, const uint8_t *bytes, size_t size, uint64_t now_ms)
{
    struct fs_request request = {0};
    struct bg_err err;
    int r = fs_request_parse(bytes, size, &request, &err);
    if (r == -EPROTO) {
        bg_log(relay->opts.log, BG_LOG_ERROR, "from the kernel: %s", err.text);
        struct fs_reply head;
        /* A request's unique is where a reply's is. */
        head.unique = size >= FS_REQUEST_HEADER_SIZE ? fs_reply_unique(bytes) : 0;
        if (head.unique != 0)
            fs_relay_fail(relay, head.unique, -EIO);
        return;
    }
    if (r < 0) {
        fs_relay_fail(relay, request.unique, r);
        return;
    }
    fs_walks_see(relay, &request, now_ms);
    switch (request.opcode) {
    case FUSE_INIT:
        answer_init(relay, &request, now_ms);
        return;
    case FUSE_FORGET:
        forget_one(relay, request.node, request.nlookup);
        return;
    case FUSE_BATCH_FORGET:
        for (size_t i = 0; i < request.count; i++) {
            uint64_t id, count;
            fs_forget_at(&request, i, &id, &count);
            forget_one(relay, id, count);
        }
        return;
    case FUSE_INTERRUPT:
        interrupt(relay, &request, now_ms);
        return;
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
        release(relay, &request, now_ms);
        return;
    case FUSE_DESTROY:
        (void)fs_relay_answer(relay, request.unique, FUSE_DESTROY, &(struct fs_reply){0});
        return;
    case FUSE_IOCTL:
        r = -ENOTTY;
        break;
    case FUSE_POLL:
    case FUSE_BMAP:
    case FUSE_SYNCFS:
        r = -ENOSYS; /* the kernel asks no more, and does without */
        break;
    default:
        if (relay->initialised && fs_echo_answers(relay, &request, now_ms))
            return;
        r = relay->initialised ? forward(relay, &request, bytes, size, now_ms) : -EIO;
    }
    if (r < 0)
        fs_relay_fail(relay, request.unique, r);
}
