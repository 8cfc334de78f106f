#include "fs/relay/loop.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "fs/proto/proto.h"
#include "fs/relay/echoer.h"
#include "fs/relay/notes.h"
#include "fs/relay/notifier.h"

#define INPUT_SIZE       (2u * BG_FS_MESSAGE_MAX) /* one whole message and the start of the next */
#define NOTES_WAIT_MS    2000   /* for the keeper to take more of them, at the end */
#define REQUESTS_AT_ONCE 64     /* then the replies have their turn */
#define GREET_TIMEOUT_MS 30000u /* for the hello of a stream that came later */

#define NOTICES_END_MS      1000 /* then the keeper aborts the mount */
#define NOTICES_END_TICK_MS 5

struct fs_loop {
    struct fs_loop_opts opts;
    struct fs_relay *relay;
    struct fs_notifier *notifier;
    int fuse_fd, echo_fd;   /* echo_fd: -1 without echoes */
    bool ready, broken;     /* broken: the stream is of no use any more */
    uint64_t greeted_by_ms; /* until then a new stream's hello is awaited; 0: none is */
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

static void needed(void *owner)
{
    struct fs_loop *loop = owner;
    loop->opts.on_needed(loop->opts.owner);
}

static bool notify(void *owner, const struct fs_notice *notice)
{
    struct fs_loop *loop = owner;
    return fs_notifier_push(loop->notifier, notice);
}

/* ---- echoes ---- */

static void end_echoes(struct fs_loop *loop)
{
    loop->echo_fd = -1;
    int r = fs_relay_echo_by(loop->relay, 0);
    (void)r; /* ending them takes no memory */
}

bool fs_loop_is_told(const struct fs_loop *loop)
{
    return fs_relay_is_told(loop->relay);
}

int fs_loop_echo_by(struct fs_loop *loop, int fd, pid_t pid, struct bg_err *err)
{
    int r = fs_relay_echo_by(loop->relay, pid);
    if (r < 0)
        return bg_err_errno(err, r, "mount: echoes");
    loop->echo_fd = fd;
    return 0;
}

static bool to_echoer(void *owner, const uint8_t *bytes, size_t size)
{
    struct fs_loop *loop = owner;
    return write(loop->echo_fd, bytes, size) == (ssize_t)size; /* one at a time: there is room */
}

static void read_echo(struct fs_loop *loop, uint64_t now_ms)
{
    uint8_t result[FS_ECHO_RESULT_SIZE];
    ssize_t n = read(loop->echo_fd, result, sizeof result);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n != (ssize_t)sizeof result) {
        bg_log(loop->opts.relay.log, BG_LOG_WARN,
               "the process for file events here has ended: changes of the guest make none");
        end_echoes(loop);
        return;
    }
    struct bg_reader in = bg_reader_init(result, sizeof result);
    fs_relay_echoed(loop->relay, (int32_t)bg_reader_u32le(&in), now_ms);
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

/* The hello of a stream that came later. */
static int take_hello(struct fs_loop *loop, uint64_t now_ms, struct bg_err *err)
{
    if (loop->input_size < FS_HELLO_SIZE)
        return 0;
    loop->greeted_by_ms = 0;
    loop->input_at = FS_HELLO_SIZE;
    return fs_relay_returned(loop->relay, loop->input, FS_HELLO_SIZE, now_ms, err);
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
    int r = loop->greeted_by_ms > 0 ? take_hello(loop, now_ms, &err) : 0;
    if (r == 0 && loop->greeted_by_ms == 0)
        r = take_replies(loop, now_ms, &err);
    if (r < 0 && !loop->broken) {
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
    loop->fuse_fd = loop->echo_fd = -1;
    loop->opts.relay.to_kernel = to_kernel;
    loop->opts.relay.to_server = to_server;
    loop->opts.relay.notify = notify;
    loop->opts.relay.to_echoer = to_echoer;
    loop->opts.relay.on_needed = needed;
    loop->opts.relay.owner = loop;
    loop->opts.relay.returns = opts->return_fd >= 0;
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
        r = fs_notifier_new(&loop->notifier);
    bg_send_buffer(opts->out_fd, BG_FS_MESSAGE_MAX);
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
    fs_notifier_free(loop->notifier);
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

static void never_again(struct fs_loop *loop)
{
    if (fs_relay_state(loop->relay) == FS_RELAY_GONE)
        return;
    bg_log(loop->opts.relay.log, BG_LOG_WARN, "%s: every access fails until the unmount",
           loop->why.text);
    fs_relay_gone(loop->relay);
}

/* After the stream: nothing is read or sent any more; another one may come. */
static int drop_stream(struct fs_loop *loop, uint64_t now_ms, struct bg_err *err)
{
    if (loop->opts.in_fd >= 0) {
        if (loop->opts.out_fd != loop->opts.in_fd)
            (void)close(loop->opts.out_fd);
        (void)close(loop->opts.in_fd); /* the server shall see it, if there is one */
        loop->opts.in_fd = loop->opts.out_fd = -1;
        loop->output_at = loop->output_size = loop->input_at = loop->input_size = 0;
        loop->greeted_by_ms = 0;
        bool again = fs_relay_state(loop->relay) == FS_RELAY_LOST; /* it has been said */
        if (loop->ready && loop->opts.return_fd >= 0 && fs_relay_lost(loop->relay, now_ms) == 0) {
            if (!again)
                bg_log(loop->opts.relay.log, BG_LOG_WARN, "%s: trying to get it back",
                       loop->why.text);
            loop->opts.on_lost(loop->opts.owner);
        } else {
            never_again(loop);
        }
    }
    if (!loop->ready) {
        if (err)
            *err = loop->why;
        return loop->why.code;
    }
    return 0;
}

/* A word of whoever looks for another stream. */
static void take_return(struct fs_loop *loop, uint64_t now_ms)
{
    char word = 0;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {.iov_base = &word, .iov_len = 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(loop->opts.return_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    int fd = -1;
    const struct cmsghdr *header = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(header), sizeof fd);
    bool wanted = loop->broken && fs_relay_state(loop->relay) == FS_RELAY_LOST;
    if (n > 0 && word == FS_LOOP_STREAM && fd >= 0 && wanted) {
        loop->opts.in_fd = loop->opts.out_fd = fd;
        loop->broken = false;
        loop->greeted_by_ms = now_ms + GREET_TIMEOUT_MS;
        uint8_t hello[FS_HELLO_SIZE];
        fs_relay_hello(loop->relay, hello);
        part = (struct iovec){.iov_base = hello, .iov_len = sizeof hello};
        to_server(loop, &part, 1);
        return;
    }
    if (fd >= 0)
        (void)close(fd);
    if (n > 0 && word == FS_LOOP_NOT_SOON && wanted) {
        fs_relay_not_soon(loop->relay);
    } else if (n > 0 && word == FS_LOOP_ASLEEP && wanted) {
        fs_relay_asleep(loop->relay, now_ms);
    } else if (n <= 0 || word == FS_LOOP_NEVER) {
        loop->opts.return_fd = -1; /* borrowed */
        if (wanted)
            never_again(loop);
    }
}

int fs_loop_start(struct fs_loop *loop, int fuse_fd, struct bg_err *err)
{
    int r = fs_notifier_start(loop->notifier, fuse_fd);
    return r < 0 ? bg_err_errno(err, r, "mount: starting a thread") : 0;
}

/* The second thread may be in the kernel, waiting for somebody who waits for an answer: every
 * request gets one until it has come out. */
static void end_notices(struct fs_loop *loop)
{
    uint64_t until_ms = bg_now_ms() + NOTICES_END_MS;
    fs_relay_gone(loop->relay);
    while (!fs_notifier_stop(loop->notifier) && bg_now_ms() < until_ms) {
        struct pollfd fuse = {.fd = loop->fuse_fd, .events = POLLIN};
        if (poll(&fuse, 1, NOTICES_END_TICK_MS) > 0 && read_requests(loop, bg_now_ms()) != 0)
            return; /* unmounted: the kernel has let go of it */
    }
}

/* The mount is no more: what was acknowledged is still brought to the server, if it answers. */
static void finish(struct fs_loop *loop)
{
    uint64_t now_ms = bg_now_ms(), until_ms = now_ms + FS_LOOP_FINISH_MS, next_ms;
    struct bg_err why;
    while (!loop->broken && now_ms < until_ms && !fs_relay_finish(loop->relay, now_ms)) {
        struct pollfd fds[2] = {
            {.fd = loop->opts.in_fd, .events = POLLIN},
            {.fd = output_left(loop) > 0 ? loop->opts.out_fd : -1, .events = POLLOUT}};
        if (fs_relay_tick(loop->relay, now_ms, &next_ms, &why) < 0)
            return;
        int n = poll(fds, 2, next_ms < until_ms - now_ms ? (int)next_ms : (int)(until_ms - now_ms));
        if (n < 0 && errno != EINTR)
            return;
        now_ms = bg_now_ms();
        if (n > 0 && fds[1].revents)
            write_output(loop);
        if (n > 0 && fds[0].revents)
            read_input(loop, now_ms);
    }
}

static int run(struct fs_loop *loop, int fuse_fd, int signal_fd, struct bg_err *err)
{
    loop->fuse_fd = fuse_fd;
    for (;;) {
        uint64_t now_ms = bg_now_ms(), next_ms = UINT64_MAX;
        struct bg_err why;
        if (loop->greeted_by_ms > 0 && now_ms >= loop->greeted_by_ms)
            stream_failed(loop, -ETIMEDOUT, "the file server that came back");
        if (loop->broken) {
            int r = drop_stream(loop, now_ms, err);
            if (r < 0)
                return r;
        }
        if (fs_relay_tick(loop->relay, now_ms, &next_ms, &why) < 0 && !loop->broken) {
            loop->broken = true;
            loop->why = why;
            continue;
        }
        if (loop->greeted_by_ms > 0 && loop->greeted_by_ms - now_ms < next_ms)
            next_ms = loop->greeted_by_ms - now_ms;
        if (!loop->broken && output_left(loop) < BG_FS_WINDOW_BYTES)
            fs_relay_flush_forgets(loop->relay);
        if (loop->broken && loop->opts.in_fd >= 0)
            continue; /* the stream broke as the last was sent */
        if (!loop->ready && fs_relay_state(loop->relay) == FS_RELAY_LIVE) {
            loop->ready = true;
            loop->opts.on_ready(loop->opts.owner);
        }
        bool room = fs_relay_has_room(loop->relay) && output_left(loop) < BG_FS_WINDOW_BYTES;
        short notes = fs_notes_waits(&loop->notes) ? POLLIN | POLLOUT : POLLIN;
        struct pollfd fds[7] = {
            {.fd = fuse_fd, .events = room ? POLLIN : 0},
            {.fd = signal_fd, .events = POLLIN},
            {.fd = loop->broken ? -1 : loop->opts.in_fd, .events = POLLIN},
            {.fd = output_left(loop) > 0 ? loop->opts.out_fd : -1, .events = POLLOUT},
            {.fd = loop->opts.return_fd, .events = POLLIN},
            {.fd = loop->notes.fd, .events = notes},
            {.fd = loop->echo_fd, .events = POLLIN}};
        int n = poll(fds, 7, next_ms == UINT64_MAX ? -1 : (int)next_ms);
        if (n < 0 && errno != EINTR)
            return bg_err_errno(err, -errno, "mount: poll");
        if (n <= 0)
            continue;
        now_ms = bg_now_ms();
        if (fds[1].revents) {
            finish(loop);
            end_notices(loop);
            return 0;
        }
        if (fds[4].revents)
            take_return(loop, now_ms);
        if (fds[5].revents)
            carry_notes(loop, fds[5].revents);
        if (fds[3].revents && !loop->broken)
            write_output(loop);
        if (fds[2].revents && !loop->broken)
            read_input(loop, now_ms);
        if (fds[6].revents)
            read_echo(loop, now_ms);
        if (fds[0].revents) {
            int r = read_requests(loop, now_ms);
            if (r < 0)
                return bg_err_errno(err, r, "/dev/fuse");
            if (r > 0) {
                finish(loop);
                return 0;
            }
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
