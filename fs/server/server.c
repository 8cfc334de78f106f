/* How the server runs: one thread at a time is the reader. It takes the next message off the stream
 * into its own buffer, works on it, and writes the reply in one piece (under a lock). Meanwhile
 * another is the reader, so requests are worked on in parallel and answered in any order, as the
 * kernel's own requests are.
 *
 * Waking that other thread costs more than most requests take, and most come one by one. So it is
 * woken when there is more on the stream already, or when the request is of a slow kind. Else the
 * thread comes back and reads on; that it does is watched by one of those that are idle, which
 * takes over if it is away for too long. */
#include "fs/server/server.h"

#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "common/io.h"
#include "fs/server/feed.h"
#include "fs/server/ops.h"

#define INPUT_SIZE      (64u * 1024) /* read ahead: small requests come many at a time */
#define REPLY_HEAD_SIZE 256u         /* header and the largest fixed part */
#define WATCH_NS        300000       /* for which there may be no reader */

struct server {
    int in_fd, out_fd;
    struct fs_server_io io;
    struct fs_identity identity;
    struct fs_ops ops;
    struct fs_feed *feed; /* NULL: changes are not told */

    uint8_t *input; /* the reader's, with the next two */
    size_t input_at, input_size;

    pthread_mutex_t in_lock; /* guards the rest */
    pthread_cond_t changed;
    bool reading;   /* there is a reader */
    bool wanted;    /* there should be one at once */
    bool watched;   /* a thread looks whether there is one, now and then */
    unsigned idle;  /* threads that wait for their turn */
    uint64_t taken; /* messages */
    bool ended;
    struct bg_err end; /* why, when it was not the client closing */

    pthread_mutex_t out_lock;
};

/* ---- the stream, when it is fds ---- */

static ssize_t read_fd(void *owner, void *buffer, size_t size)
{
    struct server *server = owner;
    ssize_t n;
    do {
        n = read(server->in_fd, buffer, size);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static int write_fd(void *owner, const struct iovec *parts, int count)
{
    struct server *server = owner;
    ssize_t n;
    do {
        n = writev(server->out_fd, parts, count);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    int r = 0;
    size_t skip = (size_t)n;
    for (int i = 0; i < count && r == 0; i++) {
        size_t over = skip < parts[i].iov_len ? skip : parts[i].iov_len;
        skip -= over;
        if (over < parts[i].iov_len)
            r = bg_write_full(server->out_fd, (char *)parts[i].iov_base + over,
                              parts[i].iov_len - over);
    }
    return r;
}

static void stop_fd(void *owner)
{
    struct server *server = owner;
    /* Fails on what is not a socket, where the read ends when the client goes. */
    (void)shutdown(server->in_fd, SHUT_RD);
}

/* ---- the reader ---- */

/* Ends the stream for all threads. err: NULL when the client has closed. in_lock is held. */
static void end_stream(struct server *server, const struct bg_err *err)
{
    if (err && server->end.code == 0) /* after the end too: it is why it came */
        server->end = *err;
    server->ended = true;
    (void)pthread_cond_broadcast(&server->changed);
}

static void fail_stream(struct server *server, const struct bg_err *err)
{
    server->io.stop(server->io.owner); /* wakes a thread that reads */
    (void)pthread_mutex_lock(&server->in_lock);
    end_stream(server, err);
    (void)pthread_mutex_unlock(&server->in_lock);
}

/* Exactly size bytes. Errors: -ENODATA at the end. */
static int take(struct server *server, uint8_t *out, size_t size)
{
    while (size > 0) {
        size_t have = server->input_size - server->input_at;
        if (have == 0) {
            bool direct = size >= INPUT_SIZE;
            ssize_t n = server->io.read(server->io.owner, direct ? out : server->input,
                                        direct ? size : INPUT_SIZE);
            if (n <= 0)
                return n < 0 ? (int)n : -ENODATA;
            if (direct) {
                out += n;
                size -= (size_t)n;
                continue;
            }
            server->input_at = 0;
            have = server->input_size = (size_t)n;
        }
        size_t piece = have < size ? have : size;
        memcpy(out, server->input + server->input_at, piece);
        server->input_at += piece;
        out += piece;
        size -= piece;
    }
    return 0;
}

/* One message. Errors: -ENODATA the client has closed, between two messages. */
static int take_message(struct server *server, uint8_t *out, size_t *ret_size, struct bg_err *err)
{
    int r = take(server, out, 4);
    if (r == -ENODATA)
        return r;
    if (r < 0)
        return bg_err_errno(err, r, "file server: reading");
    r = fs_message_size(out, FS_REQUEST_HEADER_SIZE, ret_size, err);
    if (r == 0 && (r = take(server, out + 4, *ret_size - 4)) < 0)
        return bg_err_errno(err, r, "file server: reading a request");
    return r;
}

/* Looks for as long as messages come. Returns true when one came and its thread is not back.
 * in_lock is held. */
static bool watch(struct server *server)
{
    uint64_t seen;
    server->watched = true;
    do {
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until); /* cannot fail */
        until.tv_nsec += WATCH_NS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        seen = server->taken;
        (void)pthread_cond_timedwait(&server->changed, &server->in_lock, &until);
    } while (!server->ended && !server->wanted && server->taken != seen);
    server->watched = false;
    return !server->reading && !server->ended && server->taken == seen;
}

/* Returns when the caller is the reader, or false at the end. */
static bool become_reader(struct server *server)
{
    (void)pthread_mutex_lock(&server->in_lock);
    bool mine = !server->reading;
    server->idle++;
    while (!mine && !server->ended) {
        if (!server->watched)
            mine = watch(server);
        if (!mine && !server->wanted && !server->ended)
            (void)pthread_cond_wait(&server->changed, &server->in_lock);
        mine = mine || (server->wanted && !server->reading);
    }
    server->idle--;
    bool go_on = !server->ended;
    if (go_on) {
        server->wanted = false;
        server->reading = true;
    }
    (void)pthread_mutex_unlock(&server->in_lock);
    return go_on;
}

/* Whether a request may take so long that the next one should not wait for it to be over. */
static bool is_slow(const uint8_t *message, size_t size)
{
    uint32_t opcode;
    memcpy(&opcode, message + 4, sizeof opcode); /* little endian, as the machine is */
    return size > INPUT_SIZE || opcode == FUSE_FSYNC || opcode == FUSE_FSYNCDIR ||
           opcode == FUSE_COPY_FILE_RANGE || opcode == FUSE_FALLOCATE;
}

/* The next whole message, or false when the stream has ended. */
static bool next_message(struct server *server, uint8_t *out, size_t *ret_size)
{
    struct bg_err err = {0};
    if (!become_reader(server))
        return false;
    int r = take_message(server, out, ret_size, &err);
    bool more = server->input_at < server->input_size;
    (void)pthread_mutex_lock(&server->in_lock);
    if (r < 0)
        /* A client that goes while something is on its way to it resets the connection. */
        end_stream(server, r == -ENODATA || r == -ECONNRESET ? NULL : &err);
    server->reading = false;
    server->taken++;
    server->wanted = r == 0 && (more || is_slow(out, *ret_size));
    if (server->idle > 0 && (server->wanted || !server->watched))
        (void)pthread_cond_signal(&server->changed);
    bool go_on = !server->ended;
    (void)pthread_mutex_unlock(&server->in_lock);
    return go_on;
}

static int write_bytes(struct server *server, const uint8_t *bytes, size_t size)
{
    struct iovec part = {.iov_len = size};
    memcpy(&part.iov_base, &bytes, sizeof bytes); /* writing only reads it */
    return server->io.write(server->io.owner, &part, 1);
}

static void send_reply(struct server *server, uint32_t opcode, const struct fs_reply *reply)
{
    uint8_t head[REPLY_HEAD_SIZE];
    struct bg_writer w = bg_writer_init(head, sizeof head);
    fs_reply_emit(opcode, reply, &w);
    assert(bg_writer_ok(&w));
    struct iovec parts[2] = {{.iov_base = head, .iov_len = w.used}, {.iov_len = reply->data_size}};
    memcpy(&parts[1].iov_base, &reply->data, sizeof reply->data); /* writing only reads it */
    bool has_data = reply->data_size > 0 && reply->error >= 0;
    (void)pthread_mutex_lock(&server->out_lock);
    int r = server->io.write(server->io.owner, parts, has_data ? 2 : 1);
    (void)pthread_mutex_unlock(&server->out_lock);
    if (r < 0) {
        struct bg_err err = {0};
        /* A client that has gone away is how every stream ends. */
        if (r != -EPIPE && r != -ECONNRESET)
            (void)bg_err_errno(&err, r, "file server: answering");
        fail_stream(server, err.code < 0 ? &err : NULL);
    }
}

static void changes_seen(void *owner, const uint8_t *bytes, size_t size)
{
    struct server *server = owner;
    (void)pthread_mutex_lock(&server->out_lock);
    int r = write_bytes(server, bytes, size);
    (void)pthread_mutex_unlock(&server->out_lock);
    if (r < 0)
        fail_stream(server, NULL); /* a worker that answers will say why */
}

static void lock_granted(void *owner, uint64_t unique, int error)
{
    struct fs_reply reply = {.unique = unique, .error = error};
    send_reply(owner, FUSE_SETLKW, &reply);
}

/* Returns false when the client has broken the protocol. */
static bool serve_one(struct server *server, const uint8_t *bytes, size_t size, uint8_t *out)
{
    struct fs_request request;
    struct bg_err err = {0};
    int r = fs_request_parse(bytes, size, &request, &err);
    if (r == -EPROTO) {
        fail_stream(server, &err);
        return false;
    }
    const struct fs_op *op = fs_op_find(request.opcode);
    if (r == 0 && op->reply == FS_REPLY_NONE) {
        fs_ops_run_silent(&server->ops, &request);
        return true;
    }
    struct fs_reply reply = {0};
    if (r == 0)
        r = fs_ops_run(&server->ops, &request, out, &reply);
    if (r == -EINPROGRESS)
        return true;
    if (r < 0)
        reply = (struct fs_reply){.unique = request.unique, .error = r};
    send_reply(server, request.opcode, &reply);
    return true;
}

static void *work(void *arg)
{
    struct server *server = arg;
    struct bg_err err = {0};
    BG_AUTOFREE uint8_t *in = malloc(BG_FS_MESSAGE_MAX);
    BG_AUTOFREE uint8_t *out = malloc(FS_OPS_OUT_SIZE);
    int r = 0;
    if (!in || !out)
        r = bg_err_set(&err, -ENOMEM, "file server: out of memory");
    if (r == 0)
        r = fs_identity_assume(&server->identity, &err);
    if (r < 0) {
        fail_stream(server, &err);
        return NULL;
    }
    size_t size;
    while (next_message(server, in, &size) && serve_one(server, in, size, out))
        ;
    return NULL;
}

static void signal_seen(int number)
{
    (void)number; /* that a system call was interrupted is all there is to it */
}

/* How many fds of each kind fit into the process's limit, raised as far as it goes. */
static void share_fds(size_t *ret_nodes, size_t *ret_handles, size_t *ret_locks)
{
    struct rlimit limit = {.rlim_cur = 1024, .rlim_max = 1024};
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        rlim_t before = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
            limit.rlim_cur = before;
    }
    size_t all = limit.rlim_cur > 1u << 20 ? 1u << 20 : (size_t)limit.rlim_cur;
    *ret_nodes = all / 4 < BG_FS_SERVER_FDS ? all / 4 : BG_FS_SERVER_FDS;
    *ret_locks = all / 16 < BG_FS_LOCK_OWNERS_MAX ? all / 16 : BG_FS_LOCK_OWNERS_MAX;
    /* An open file has its own fd and keeps its node's; some fds are for requests as they run. */
    size_t rest = all - *ret_nodes - *ret_locks;
    *ret_handles = rest > 128 ? (rest - 128) / 2 : 8;
    if (*ret_handles > BG_FS_HANDLES_MAX)
        *ret_handles = BG_FS_HANDLES_MAX;
}

/* The first 8 bytes of the kernel's boot id, which is a UUID as text. 0 where there is none. */
static uint64_t boot_number(void)
{
    char text[64];
    uint64_t boot = 0;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text);
    if (fd >= 0)
        (void)close(fd); /* only read */
    unsigned digits = 0;
    for (ssize_t i = 0; i < n && digits < 16; i++) {
        const char *hex = "0123456789abcdef", *at = memchr(hex, text[i], 16);
        if (!at)
            continue;
        boot = boot << 4 | (uint64_t)(at - hex);
        digits++;
    }
    return boot;
}

static int exchange_hellos(struct server *server, const struct fs_server_opts *opts,
                           struct bg_err *err)
{
    struct fs_hello hello = {.server = true, .boot = boot_number()};
    hello.uid = server->identity.switched ? opts->uid : geteuid();
    hello.gid = server->identity.switched ? opts->gid : getegid();
    hello.flags = FS_HELLO_PIECES;
    if (opts->read_only)
        hello.flags |= FS_HELLO_READ_ONLY;
    if (hello.uid == 0 && !opts->share)
        hello.flags |= FS_HELLO_ALL_USERS;
    if (server->ops.whole)
        hello.flags |= FS_HELLO_WHOLE;
    if (server->feed)
        hello.flags |= FS_HELLO_FEED;
    uint8_t bytes[FS_HELLO_SIZE];
    fs_hello_emit(&hello, bytes);
    int r = write_bytes(server, bytes, sizeof bytes);
    if (r == 0)
        r = take(server, bytes, sizeof bytes);
    if (r < 0)
        return bg_err_errno(err, r, "file server: hello");
    struct fs_hello theirs;
    r = fs_hello_parse(bytes, sizeof bytes, /* from_server= */ false, &theirs, err);
    server->ops.clean_links = r == 0 && (theirs.flags & FS_HELLO_CLEAN_LINKS);
    if (r == 0 && opts->share)
        fs_share_set_client(server->ops.share, theirs.uid, theirs.gid);
    if (r == 0 && opts->on_ready)
        opts->on_ready(opts->owner);
    if (r == 0 && server->feed && !(theirs.flags & FS_HELLO_FEED)) {
        fs_nodes_unwatch(server->ops.nodes);
        fs_feed_close(server->feed);
        server->feed = NULL;
    }
    return r;
}

static int start_feed(struct server *server, struct bg_err *err)
{
    if (!server->feed)
        return 0;
    const struct fs_feed_opts opts = {
        .nodes = server->ops.nodes, .emit = changes_seen, .owner = server};
    int r = fs_feed_start(server->feed, &opts);
    return r < 0 ? bg_err_errno(err, r, "file server: starting a thread") : 0;
}

static int run_threads(struct server *server, unsigned count, struct bg_err *err)
{
    pthread_t threads[FS_SERVER_THREADS_MAX];
    unsigned started = 0;
    int r = 0;
    for (; started < count && r == 0; started++) {
        r = -pthread_create(&threads[started], NULL, work, server);
        if (r < 0) {
            (void)bg_err_errno(err, r, "file server: starting a thread");
            fail_stream(server, err);
            break;
        }
    }
    for (unsigned i = 0; i < started; i++)
        (void)pthread_join(threads[i], NULL); /* cannot fail: it is ours and joined once */
    return r;
}

int fs_server_run(int in_fd, int out_fd, const struct fs_server_opts *opts, struct bg_err *err)
{
    assert(opts->threads >= 1 && opts->threads <= FS_SERVER_THREADS_MAX);
    struct server server = {.in_fd = in_fd, .out_fd = out_fd, .io = opts->io};
    if (!server.io.read)
        server.io = (struct fs_server_io){
            .read = read_fd, .write = write_fd, .stop = stop_fd, .owner = &server};
    server.identity = (struct fs_identity){.switched = geteuid() == 0 && !opts->as_root,
                                           .uid = opts->uid,
                                           .gid = opts->gid,
                                           .groups = opts->groups,
                                           .group_count = opts->group_count};
    server.ops.read_only = opts->read_only;
    server.ops.whole = (opts->whole || strcmp(opts->root, "/") == 0) && !opts->share;
    (void)pthread_mutex_init(&server.in_lock, NULL); /* none can fail with these attributes */
    (void)pthread_mutex_init(&server.out_lock, NULL);
    pthread_condattr_t clock;
    (void)pthread_condattr_init(&clock);
    (void)pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&server.changed, &clock);
    (void)pthread_condattr_destroy(&clock);
    bg_send_buffer(out_fd, BG_FS_MESSAGE_MAX);
    size_t node_fds, handle_count, lock_owners;
    share_fds(&node_fds, &handle_count, &lock_owners);

    struct sigaction seen = {.sa_handler = signal_seen}, ignore = {.sa_handler = SIG_IGN};
    struct sigaction before_usr2, before_pipe;
    (void)sigaction(SIGUSR2, &seen, &before_usr2); /* fails only for numbers that do not exist */
    (void)sigaction(SIGPIPE, &ignore, &before_pipe);

    server.input = malloc(INPUT_SIZE);
    int r = server.input ? 0 : bg_err_set(err, -ENOMEM, "file server: out of memory");
    if (r == 0 && geteuid() == 0 && !opts->share && fs_feed_open(&server.feed) < 0)
        server.feed = NULL; /* a plain user's server, or an older kernel: it does without */
    if (r == 0) {
        struct fs_nodes_opts nodes_opts = {.root = opts->root,
                                           .fds_max = node_fds,
                                           .handles = geteuid() == 0 && !opts->share,
                                           .one_mount = opts->share != NULL,
                                           .nodes_max = opts->share ? BG_SHARE_NODES_MAX : 0,
                                           .watch = server.feed ? fs_feed_watch : NULL,
                                           .watch_owner = server.feed,
                                           .identity = &server.identity};
        r = fs_nodes_open(&nodes_opts, &server.ops.nodes, err);
    }
    if (r == 0 && opts->share &&
        fs_share_open(opts->share, server.ops.nodes, &server.ops.share) < 0)
        r = bg_err_set(err, -ENOMEM, "file server: out of memory");
    if (r == 0 && fs_handles_open(server.ops.nodes, handle_count, &server.ops.handles) < 0)
        r = bg_err_set(err, -ENOMEM, "file server: out of memory");
    if (r == 0) {
        struct fs_locks_opts locks_opts = {.handles = server.ops.handles,
                                           .identity = &server.identity,
                                           .owners_max = lock_owners,
                                           .answer = lock_granted,
                                           .owner = &server};
        if (fs_locks_open(&locks_opts, &server.ops.locks) < 0)
            r = bg_err_set(err, -ENOMEM, "file server: out of memory");
    }
    if (r == 0)
        r = exchange_hellos(&server, opts, err);
    if (r == 0)
        r = start_feed(&server, err);
    if (r == 0)
        r = run_threads(&server, opts->threads, err);
    if (r == 0 && server.end.code < 0) {
        if (err)
            *err = server.end;
        r = server.end.code;
    }

    fs_feed_close(server.feed);
    fs_locks_close(server.ops.locks);
    fs_handles_close(server.ops.handles);
    fs_share_close(server.ops.share);
    fs_nodes_close(server.ops.nodes);
    free(server.input);
    /* So that the client sees the end even if somebody else has a copy of the socket. */
    (void)shutdown(in_fd, SHUT_RDWR);
    (void)shutdown(out_fd, SHUT_RDWR);
    (void)sigaction(SIGUSR2, &before_usr2, NULL);
    (void)sigaction(SIGPIPE, &before_pipe, NULL);
    (void)pthread_cond_destroy(&server.changed);
    (void)pthread_mutex_destroy(&server.in_lock);
    (void)pthread_mutex_destroy(&server.out_lock);
    return r;
}
