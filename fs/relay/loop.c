#include "fs/relay/loop.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "fs/proto/proto.h"
#include "fs/relay/notes.h"

#define INPUT_SIZE       (2u * BG_FS_MESSAGE_MAX) /* one whole message and the start of the next */
#define NOTES_WAIT_MS    2000 /* for the keeper to take more of them, at the end */
#define REQUESTS_AT_ONCE 64   /* then the replies have their turn */

struct fs_loop {
    struct fs_loop_opts opts;
    struct fs_relay *relay;
    int fuse_fd;
    bool ready, broken; /* broken: the stream is of no use any more */
    struct bg_err why;

    uint8_t *request; /* BG_FS_MESSAGE_MAX */
    uint8_t *input;   /* INPUT_SIZE, from the server */
    size_t input_at, input_size;
    uint8_t *output; /* what the stream would not take yet */
    size_t output_at, output_size, output_room;
    struct fs_notes notes; /* fd -1: none, or the keeper is gone */
};

static void stream_failed(struct fs_loop *loop, int code, const char *what)
{
    if (loop->broken)
        return;
    loop->broken = true;
    (void)bg_err_errno(&loop->why, code, "%s", what);
}

/* ---- to the kernel ---- */

static int to_kernel(void *owner, const struct iovec *parts, int count)
{
    struct fs_loop *loop = owner;
    ssize_t n;
    do {
        n = writev(loop->fuse_fd, parts, count);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

/* ---- to the server ---- */

static size_t output_left(const struct fs_loop *loop)
{
    return loop->output_size - loop->output_at;
}

static int output_append(struct fs_loop *loop, const void *bytes, size_t size)
{
    if (loop->output_at > 0 && output_left(loop) == 0)
        loop->output_at = loop->output_size = 0;
    if (loop->output_at > 0 && size > loop->output_room - loop->output_size) {
        memmove(loop->output, loop->output + loop->output_at, output_left(loop));
        loop->output_size -= loop->output_at;
        loop->output_at = 0;
    }
    if (size > loop->output_room - loop->output_size) {
        size_t room = loop->output_size + size + BG_FS_MESSAGE_MAX;
        uint8_t *grown = realloc(loop->output, room);
        if (!grown)
            return -ENOMEM;
        loop->output = grown;
        loop->output_room = room;
    }
    memcpy(loop->output + loop->output_size, bytes, size);
    loop->output_size += size;
    return 0;
}

static void to_server(void *owner, const struct iovec *parts, int count)
{
    struct fs_loop *loop = owner;
    size_t sent = 0;
    if (loop->broken)
        return;
    if (output_left(loop) == 0) {
        ssize_t n;
        do {
            n = writev(loop->opts.out_fd, parts, count);
        } while (n < 0 && errno == EINTR);
        if (n < 0 && errno != EAGAIN) {
            stream_failed(loop, -errno, "sending to the guest");
            return;
        }
        sent = n < 0 ? 0 : (size_t)n;
    }
    for (int i = 0; i < count; i++) {
        size_t skip = sent < parts[i].iov_len ? sent : parts[i].iov_len;
        sent -= skip;
        if (skip < parts[i].iov_len &&
            output_append(loop, (const uint8_t *)parts[i].iov_base + skip,
                          parts[i].iov_len - skip) < 0)
            stream_failed(loop, -ENOMEM, "sending to the guest");
    }
}

static void write_output(struct fs_loop *loop)
{
    while (output_left(loop) > 0 && !loop->broken) {
        ssize_t n = write(loop->opts.out_fd, loop->output + loop->output_at, output_left(loop));
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0 && errno != EINTR)
            stream_failed(loop, -errno, "sending to the guest");
        if (n > 0)
            loop->output_at += (size_t)n;
    }
    /* A burst of writes must not cost memory for good. */
    if (output_left(loop) == 0 && loop->output_room > 2 * BG_FS_MESSAGE_MAX) {
        free(loop->output);
        loop->output = NULL;
        loop->output_at = loop->output_size = loop->output_room = 0;
    }
}

/* ---- from the server ---- */

/* Hands on the whole messages that have come. */
static int take_replies(struct fs_loop *loop, uint64_t now_ms, struct bg_err *err)
{
    for (;;) {
        size_t left = loop->input_size - loop->input_at, size;
        const uint8_t *at = loop->input + loop->input_at;
        if (left < 4)
            return 0;
        int r = fs_message_size(at, FS_REPLY_HEADER_SIZE, &size, err);
        if (r < 0)
            return r;
        if (left < size)
            return 0;
        r = fs_relay_reply(loop->relay, at, size, now_ms, err);
        if (r < 0)
            return r;
        loop->input_at += size;
    }
}

static void read_input(struct fs_loop *loop, uint64_t now_ms)
{
    if (INPUT_SIZE - loop->input_size < BG_FS_MESSAGE_MAX || loop->input_at == loop->input_size) {
        memmove(loop->input, loop->input + loop->input_at, loop->input_size - loop->input_at);
        loop->input_size -= loop->input_at;
        loop->input_at = 0;
    }
    ssize_t n =
        read(loop->opts.in_fd, loop->input + loop->input_size, INPUT_SIZE - loop->input_size);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        stream_failed(loop, n < 0 ? -errno : -ECONNRESET, "the guest's file server is gone");
        return;
    }
    loop->input_size += (size_t)n;
    struct bg_err err;
    if (take_replies(loop, now_ms, &err) < 0 && !loop->broken) {
        loop->broken = true;
        loop->why = err;
    }
}

/* ---- from the kernel ---- */

/* Returns 1 when unmounted, 0, or negative errno. */
static int read_requests(struct fs_loop *loop, uint64_t now_ms)
{
    for (int i = 0; i < REQUESTS_AT_ONCE; i++) {
        /* A full window still has to see that the mount is gone. */
        if (i > 0 && !fs_relay_has_room(loop->relay))
            return 0;
        ssize_t n = read(loop->fuse_fd, loop->request, BG_FS_MESSAGE_MAX);
        if (n >= 0) {
            fs_relay_request(loop->relay, loop->request, (size_t)n, now_ms);
            continue;
        }
        if (errno == EAGAIN)
            return 0;
        if (errno == ENODEV || errno == ECONNABORTED)
            return 1;
        if (errno != EINTR && errno != ENOENT) /* ENOENT: its caller was killed meanwhile */
            return -errno;
    }
    return 0;
}

/* ---- approvals ---- */

static void drop_notes(struct fs_loop *loop, const char *why)
{
    bg_log(loop->opts.relay.log, BG_LOG_WARN, "approvals are not kept any more: %s", why);
    fs_notes_done(&loop->notes);
}

static void keep_note(void *owner, const struct fs_pin_note *note)
{
    struct fs_loop *loop = owner;
    int r = loop->notes.fd < 0 ? 0 : fs_notes_send(&loop->notes, note);
    if (r < 0)
        drop_notes(loop, strerror(-r));
}

static int take_note(void *owner, const struct fs_pin_note *note)
{
    struct fs_loop *loop = owner;
    if (fs_relay_note(loop->relay, note) < 0)
        bg_log(loop->opts.relay.log, BG_LOG_WARN, "no room for an approved file");
    return 0;
}

static void carry_notes(struct fs_loop *loop, short events)
{
    struct bg_err err;
    int r = 0;
    if (events & POLLOUT)
        r = fs_notes_flush(&loop->notes);
    if (r < 0)
        drop_notes(loop, strerror(-r));
    else if ((events & ~POLLOUT) && fs_notes_read(&loop->notes, take_note, loop, &err) < 0)
        drop_notes(loop, err.text);
}

int fs_loop_note(struct fs_loop *loop, const struct fs_pin_note *note)
{
    return fs_relay_note(loop->relay, note);
}

/* ---- life ---- */

static int set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

int fs_loop_new(const struct fs_loop_opts *opts, struct fs_loop **ret, struct bg_err *err)
{
    struct fs_loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return bg_err_set(err, -ENOMEM, "mount: out of memory");
    loop->opts = *opts;
    loop->fuse_fd = -1;
    loop->opts.relay.to_kernel = to_kernel;
    loop->opts.relay.to_server = to_server;
    loop->opts.relay.owner = loop;
    loop->opts.relay.guard.on_note = keep_note;
    loop->opts.relay.guard.owner = loop;
    loop->notes.fd = -1;
    loop->request = malloc(BG_FS_MESSAGE_MAX);
    loop->input = malloc(INPUT_SIZE);
    int r = loop->request && loop->input ? 0 : -ENOMEM;
    if (r == 0)
        r = fs_relay_new(&loop->opts.relay, &loop->relay);
    if (r == 0 && opts->notes_fd >= 0)
        r = fs_notes_init(&loop->notes, opts->notes_fd);
    if (r == 0)
        r = set_nonblocking(opts->in_fd);
    if (r == 0)
        r = set_nonblocking(opts->out_fd);
    if (r < 0) {
        fs_loop_free(loop);
        return bg_err_errno(err, r, "mount");
    }
    *ret = loop;
    return 0;
}

void fs_loop_free(struct fs_loop *loop)
{
    if (!loop)
        return;
    fs_relay_free(loop->relay);
    fs_notes_done(&loop->notes);
    free(loop->request);
    free(loop->input);
    free(loop->output);
    free(loop);
}

static int wait_for_hello(struct fs_loop *loop, uint64_t until_ms, struct bg_err *err)
{
    while (loop->input_size < FS_HELLO_SIZE) {
        uint64_t now_ms = bg_now_ms();
        struct pollfd in = {.fd = loop->opts.in_fd, .events = POLLIN};
        if (now_ms >= until_ms || poll(&in, 1, (int)(until_ms - now_ms)) == 0)
            return bg_err_set(err, -ETIMEDOUT, "the guest's file server does not answer");
        ssize_t n = read(loop->opts.in_fd, loop->input + loop->input_size,
                         FS_HELLO_SIZE - loop->input_size);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n <= 0)
            return bg_err_set(err, n < 0 ? -errno : -ECONNRESET,
                              "the guest's file server closed the connection");
        loop->input_size += (size_t)n;
    }
    return 0;
}

int fs_loop_greet(struct fs_loop *loop, uint64_t timeout_ms, struct bg_err *err)
{
    uint8_t hello[FS_HELLO_SIZE];
    fs_relay_hello(loop->relay, hello);
    struct iovec part = {.iov_base = hello, .iov_len = sizeof hello};
    to_server(loop, &part, 1);
    int r = wait_for_hello(loop, bg_now_ms() + timeout_ms, err);
    if (r == 0)
        r = fs_relay_greeted(loop->relay, loop->input, FS_HELLO_SIZE, err);
    loop->input_size = 0;
    return r;
}

/* After the stream: nothing is read or sent any more, requests get EIO. */
static int drop_stream(struct fs_loop *loop, struct bg_err *err)
{
    if (fs_relay_state(loop->relay) != FS_RELAY_GONE) {
        bg_log(loop->opts.relay.log, BG_LOG_WARN, "%s: every access fails until the unmount",
               loop->why.text);
        fs_relay_gone(loop->relay);
        loop->output_at = loop->output_size = 0;
    }
    if (!loop->ready) {
        if (err)
            *err = loop->why;
        return loop->why.code;
    }
    return 0;
}

static int run(struct fs_loop *loop, int fuse_fd, int signal_fd, struct bg_err *err)
{
    loop->fuse_fd = fuse_fd;
    for (;;) {
        uint64_t now_ms = bg_now_ms(), next_ms;
        struct bg_err why;
        if (fs_relay_tick(loop->relay, now_ms, &next_ms, &why) < 0 && !loop->broken) {
            loop->broken = true;
            loop->why = why;
        }
        if (!loop->broken && output_left(loop) < BG_FS_WINDOW_BYTES)
            fs_relay_flush_forgets(loop->relay);
        if (loop->broken) {
            int r = drop_stream(loop, err);
            if (r < 0)
                return r;
        }
        if (!loop->ready && fs_relay_state(loop->relay) == FS_RELAY_LIVE) {
            loop->ready = true;
            loop->opts.on_ready(loop->opts.owner);
        }
        bool room = fs_relay_has_room(loop->relay) && output_left(loop) < BG_FS_WINDOW_BYTES;
        short notes = fs_notes_waits(&loop->notes) ? POLLIN | POLLOUT : POLLIN;
        struct pollfd fds[5] = {
            {.fd = fuse_fd, .events = room ? POLLIN : 0},
            {.fd = signal_fd, .events = POLLIN},
            {.fd = loop->broken ? -1 : loop->opts.in_fd, .events = POLLIN},
            {.fd = output_left(loop) > 0 ? loop->opts.out_fd : -1, .events = POLLOUT},
            {.fd = loop->notes.fd, .events = notes}};
        int n = poll(fds, 5, next_ms == UINT64_MAX ? -1 : (int)next_ms);
        if (n < 0 && errno != EINTR)
            return bg_err_errno(err, -errno, "mount: poll");
        if (n <= 0)
            continue;
        now_ms = bg_now_ms();
        if (fds[1].revents) {
            fs_relay_gone(loop->relay);
            return 0;
        }
        if (fds[4].revents)
            carry_notes(loop, fds[4].revents);
        if (fds[3].revents)
            write_output(loop);
        if (fds[2].revents)
            read_input(loop, now_ms);
        if (fds[0].revents) {
            int r = read_requests(loop, now_ms);
            if (r < 0)
                return bg_err_errno(err, r, "/dev/fuse");
            if (r > 0)
                return 0;
        }
    }
}

/* Approvals that the keeper has not read yet. */
static void flush_notes(struct fs_loop *loop)
{
    while (fs_notes_waits(&loop->notes)) {
        struct pollfd out = {.fd = loop->notes.fd, .events = POLLOUT};
        int n = poll(&out, 1, NOTES_WAIT_MS);
        if ((n < 0 && errno != EINTR) || n == 0 || fs_notes_flush(&loop->notes) < 0)
            return;
    }
}

int fs_loop_run(struct fs_loop *loop, int fuse_fd, int signal_fd, struct bg_err *err)
{
    int r = run(loop, fuse_fd, signal_fd, err);
    flush_notes(loop);
    return r;
}
