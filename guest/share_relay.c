/* Requests are gathered while the stream takes them: one write carries many. As long as some of
 * them are unsent the kernel is not asked for more, so nothing here grows. Replies are always read,
 * so the server can always go on and the two never wait for each other. */
#include "guest/share_relay.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"
#include "fs/proto/proto.h"

#define PROTOCOL_MINOR     38u /* what the table speaks */
#define PROTOCOL_MINOR_MIN 31u /* older kernels lay structs out differently */
#define BACKGROUND_MAX     64u
#define CONGESTION         48u
#define OUT_SIZE           (2u * BG_FS_MESSAGE_MAX)
#define IN_SIZE            (2u * BG_FS_MESSAGE_MAX)
#define IDLE_MS            50 /* without a request, before it is asked who needs us */

/* WRITEBACK_CACHE is not here: the host's programs change these files too, and with it the kernel
 * would not see how large they are now. */
static const uint64_t wanted_flags = FUSE_ASYNC_READ | FUSE_POSIX_LOCKS | FUSE_ATOMIC_O_TRUNC |
                                     FUSE_BIG_WRITES | FUSE_FLOCK_LOCKS | FUSE_AUTO_INVAL_DATA |
                                     FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO |
                                     FUSE_PARALLEL_DIROPS | FUSE_ABORT_ERROR | FUSE_MAX_PAGES |
                                     FUSE_HANDLE_KILLPRIV_V2 | FUSE_INIT_EXT;

struct relay {
    int fuse_fd;
    struct link *link;
    uint8_t *out; /* requests, OUT_SIZE */
    size_t out_at, out_used;
    uint8_t *in; /* replies, IN_SIZE */
    size_t in_used;
    bool ending;
};

int share_relay_greet(const struct share_relay_opts *opts, struct bg_err *err)
{
    struct fs_hello hello = {.uid = opts->uid, .gid = opts->gid}, theirs;
    uint8_t bytes[FS_HELLO_SIZE];
    if (opts->read_only)
        hello.flags |= FS_HELLO_READ_ONLY;
    fs_hello_emit(&hello, bytes);
    int r = link_write(opts->link, bytes, sizeof bytes);
    if (r == 0)
        r = link_read_full(opts->link, bytes, sizeof bytes);
    if (r < 0)
        return bg_err_errno(err, r, "share: hello");
    return fs_hello_parse(bytes, sizeof bytes, /* from_server= */ true, &theirs, err);
}

/* ---- from the kernel ---- */

/* Fails only when the mount is gone or the request was given up, which the next read tells. */
static void to_kernel(const struct relay *relay, const void *bytes, size_t size)
{
    ssize_t n = write(relay->fuse_fd, bytes, size);
    (void)n;
}

static void answer_error(const struct relay *relay, const uint8_t *request, int error)
{
    uint8_t bytes[FS_REPLY_HEADER_SIZE];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    bg_writer_u32le(&w, FS_REPLY_HEADER_SIZE);
    bg_writer_u32le(&w, (uint32_t)error);
    bg_writer_bytes(&w, request + 8, 8); /* unique */
    to_kernel(relay, bytes, sizeof bytes);
}

static int answer_init(const struct relay *relay, const uint8_t *bytes, size_t size,
                       struct bg_err *err)
{
    struct fs_request request;
    struct fs_init init;
    int r = fs_request_parse(bytes, size, &request, err);
    if (r == 0)
        r = fs_init_parse(request.data, request.data_size, &init, err);
    if (r < 0)
        return r;
    if (init.major != FUSE_KERNEL_VERSION || init.minor < PROTOCOL_MINOR_MIN)
        return bg_err_set(err, -EPROTO, "this kernel's FUSE is %u.%u: 7.%u is needed", init.major,
                          init.minor, PROTOCOL_MINOR_MIN);
    struct fs_init ours = {.major = FUSE_KERNEL_VERSION,
                           .minor = init.minor < PROTOCOL_MINOR ? init.minor : PROTOCOL_MINOR,
                           .max_readahead = init.max_readahead < BG_FS_IO_MAX ? init.max_readahead
                                                                              : BG_FS_IO_MAX,
                           .flags = init.flags & wanted_flags,
                           .max_background = BACKGROUND_MAX,
                           .congestion_threshold = CONGESTION,
                           .max_write = BG_FS_IO_MAX,
                           .max_pages = BG_FS_IO_MAX / 4096,
                           .time_gran = 1};
    uint8_t reply[FS_REPLY_HEADER_SIZE + 64];
    struct bg_writer w = bg_writer_init(reply, sizeof reply);
    fs_init_reply_emit(request.unique, &ours, &w);
    to_kernel(relay, reply, w.used);
    return 0;
}

/* Takes one request that lies behind what is to be sent: answers it here or leaves it there. */
static int take_request(struct relay *relay, size_t size, struct bg_err *err)
{
    uint8_t *bytes = relay->out + relay->out_used;
    if (size < FS_REQUEST_HEADER_SIZE)
        return bg_err_set(err, -EPROTO, "a request of %zu bytes from the kernel", size);
    struct bg_reader in = bg_reader_init(bytes + 4, 4);
    uint32_t opcode = bg_reader_u32le(&in);
    switch (opcode) {
    case FUSE_INIT:
        return answer_init(relay, bytes, size, err);
    case FUSE_IOCTL:
        answer_error(relay, bytes, -ENOTTY);
        return 0;
    case FUSE_POLL: /* always ready */
    case FUSE_BMAP:
    case FUSE_SYNCFS:
    case FUSE_TMPFILE:
        answer_error(relay, bytes, -ENOSYS);
        return 0;
    default:
        relay->out_used += size;
        return 0;
    }
}

/* Returns 1, 0 when the mount is gone, or negative errno. */
static int read_requests(struct relay *relay, struct bg_err *err)
{
    while (OUT_SIZE - relay->out_used >= BG_FS_MESSAGE_MAX) {
        ssize_t n = read(relay->fuse_fd, relay->out + relay->out_used, BG_FS_MESSAGE_MAX);
        if (n < 0 && (errno == EINTR || errno == ENOENT)) /* ENOENT: it was given up */
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0 && errno == ENODEV)
            return 0;
        if (n <= 0)
            return bg_err_errno(err, n < 0 ? -errno : -ENODATA, "/dev/fuse");
        int r = take_request(relay, (size_t)n, err);
        if (r < 0)
            return r;
    }
    return 1;
}

static int write_requests(struct relay *relay, struct bg_err *err)
{
    while (relay->out_at < relay->out_used) {
        ssize_t n = link_write_now(relay->link, relay->out + relay->out_at,
                                   relay->out_used - relay->out_at);
        if (n == -EAGAIN)
            return 0;
        if (n < 0)
            return bg_err_errno(err, (int)n, "share: asking the host");
        relay->out_at += (size_t)n;
    }
    relay->out_at = relay->out_used = 0;
    return 0;
}

/* ---- from the server ---- */

static int take_replies(struct relay *relay, struct bg_err *err)
{
    size_t at = 0, size;
    while (relay->in_used - at >= 4) {
        int r = fs_message_size(relay->in + at, FS_REPLY_HEADER_SIZE, &size, err);
        if (r < 0)
            return r;
        if (relay->in_used - at < size)
            break;
        to_kernel(relay, relay->in + at, size);
        at += size;
    }
    relay->in_used -= at;
    memmove(relay->in, relay->in + at, relay->in_used);
    return 0;
}

static int read_replies(struct relay *relay, struct bg_err *err)
{
    ssize_t n = link_read_now(relay->link, relay->in + relay->in_used, IN_SIZE - relay->in_used);
    if (n == -EAGAIN)
        return 0;
    if (n == 0)
        return bg_err_set(err, -ENODATA, "share: the host has ended it");
    if (n < 0)
        return bg_err_errno(err, (int)n, "share: answers of the host");
    relay->in_used += (size_t)n;
    return take_replies(relay, err);
}

static int relay_loop(struct relay *relay, const struct share_relay_opts *opts, struct bg_err *err)
{
    for (;;) {
        bool unsent = relay->out_at < relay->out_used;
        struct pollfd fds[] = {
            {.fd = relay->fuse_fd, .events = unsent ? 0 : POLLIN},
            {.fd = relay->link->fd, .events = (short)(POLLIN | (unsent ? POLLOUT : 0))},
            {.fd = relay->ending ? -1 : opts->signal_fd, .events = POLLIN}};
        int n = poll(fds, 3, relay->ending ? IDLE_MS : -1);
        if (n < 0 && errno != EINTR)
            return bg_err_errno(err, -errno, "poll");
        if (n == 0 && !(opts->needed && opts->needed()))
            return 0; /* told to end, and nobody is left to ask */
        if (n <= 0)
            continue;
        int r = 0;
        relay->ending = relay->ending || fds[2].revents;
        if (fds[1].revents & ~POLLOUT)
            r = read_replies(relay, err);
        if (r == 0 && fds[0].revents) {
            /* Without POLLIN it is an error, which reading tells. */
            int more = unsent ? 0 : read_requests(relay, err);
            if (more <= 0)
                return more;
        }
        if (r == 0)
            r = write_requests(relay, err);
        if (r < 0)
            return r;
    }
}

int share_relay_run(const struct share_relay_opts *opts, struct bg_err *err)
{
    BG_AUTOFREE uint8_t *out = malloc(OUT_SIZE);
    BG_AUTOFREE uint8_t *in = malloc(IN_SIZE);
    if (!out || !in)
        return bg_err_errno(err, -ENOMEM, "share");
    struct relay relay = {.fuse_fd = opts->fuse_fd, .link = opts->link, .out = out, .in = in};
    return relay_loop(&relay, opts, err);
}
