/* How it works: two buffers of fixed size, one each way.
 *
 * In: bytes are read from the stream only when the buffer is used up, parsed by exec_frames, and
 * output goes from the buffer straight to stdout or stderr. If that cannot take more, nothing is
 * read until it can; the guest's vsock credit then stops the command. Outputs are never made
 * non-blocking, since they are shared with other processes; instead no more is written at once than
 * poll() has promised room for (pipes: PIPE_BUF).
 *
 * Out: stdin is read into the buffer behind a frame header, never more than the window allows, and
 * only when the frame before has left. Signals and sizes are small, have room of their own, and
 * never wait for the window.
 *
 * When the connection ends before the command, as when its sandbox is suspended, another one is
 * attached to it (on_lost). The guest then says how much of stdin it has got, and what it has not
 * is sent again: stdin is kept until the command has taken it, which is at most the window. What of
 * a signal was on its way is lost. */
#include "host/cli/exec_stream.h"

#include <assert.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/wire.h"
#include "host/cli/exec_frames.h"
#include "host/cli/signals.h"

#define SECOND_SIGNAL_MS 2000
#define HANGUP_GRACE_MS  2000
#define IN_SIZE          (128 * 1024)
#define CONTROL_SIZE     512  /* signals and sizes that wait; more are dropped */
#define DETACH_FIRST     0x10 /* Ctrl-P */
#define DETACH_SECOND    0x11 /* Ctrl-Q */

struct output {
    int fd;
    bool is_socket, is_pipe;
};

struct stream {
    const struct exec_stream_opts *opts;
    int fd; /* opts->stream_fd, or that of a later stream, which is ours */
    struct exec_frames frames;
    struct exec_position at;
    struct output stdout_to, stderr_to;
    bool running;         /* the reply said so */
    bool stdin_open;      /* it may give more, or its end is still to be told */
    bool stdin_ended;     /* its end was told, once at least */
    uint32_t window;      /* stdin bytes that may be sent */
    uint64_t sent, given; /* of stdin: bytes sent, and those of them that the guest gave back */
    uint64_t resent;      /* position up to which this stream has been sent it; else as sent */
    uint8_t *kept;        /* the last BG_EXEC_STDIN_WINDOW of it, by position; NULL: nobody asks */
    bool tell_end;        /* STDIN_EOF is to be sent again, after the rest */
    bool leaving;         /* LEAVE was sent, or is to be */
    bool held;            /* a Ctrl-P that may be half of the detach keys */
    struct exec_event output; /* being written; size 0: none */
    uint8_t *in;              /* IN_SIZE */
    size_t in_at, in_used;
    uint8_t *out; /* one STDIN frame */
    size_t out_at, out_used;
    uint8_t control[CONTROL_SIZE]; /* goes before the next STDIN frame */
    size_t control_used;
    uint64_t last_signal_ms; /* of the last INT, TERM or QUIT; 0: none */
    uint64_t leave_at_ms;    /* when to leave the stream, 0: never */
    int leave_status;
    bool over;
    struct exec_stream_result result;
};

static struct output output_of(int fd)
{
    struct stat st;
    struct output o = {.fd = fd};
    if (fstat(fd, &st) == 0) {
        o.is_socket = S_ISSOCK(st.st_mode);
        o.is_pipe = S_ISFIFO(st.st_mode);
    }
    return o;
}

/* Writes what fits without waiting, after poll() said that something does. */
static ssize_t output_write(const struct output *o, const uint8_t *bytes, size_t size)
{
    if (o->is_socket)
        return send(o->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    return write(o->fd, bytes, o->is_pipe && size > PIPE_BUF ? PIPE_BUF : size);
}

static void leave(struct stream *s, int exit_status)
{
    s->over = true;
    s->result.exit_status = exit_status;
}

static void control_frame(struct stream *s, uint8_t type, const uint8_t *payload, uint32_t size)
{
    struct bg_writer w =
        bg_writer_init(s->control + s->control_used, sizeof s->control - s->control_used);
    uint8_t header[BG_FRAME_HEADER_SIZE];
    bg_frame_header_emit(type, size, header);
    bg_writer_bytes(&w, header, sizeof header);
    bg_writer_bytes(&w, payload, size);
    if (bg_writer_ok(&w)) /* else the guest takes nothing: a further signal would not help */
        s->control_used += w.used;
}

static void send_size(struct stream *s)
{
    uint16_t rows, columns;
    uint8_t payload[4];
    terminal_size(s->opts->terminal->fd, &rows, &columns);
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u16le(&w, rows);
    bg_writer_u16le(&w, columns);
    if (rows > 0 && columns > 0)
        control_frame(s, BG_FRAME_RESIZE, payload, sizeof payload);
}

static void take_signal(struct stream *s, int number, uint64_t now_ms)
{
    bool with_tty = s->opts->terminal && s->opts->terminal->fd >= 0;
    if (number == SIGWINCH || number == SIGCONT) {
        if (!with_tty)
            return;
        if (number == SIGCONT)
            terminal_raw(s->opts->terminal);
        send_size(s);
        return;
    }
    bool impatient = number == SIGINT || number == SIGTERM || number == SIGQUIT;
    if (!s->running ||
        (impatient && s->last_signal_ms && now_ms - s->last_signal_ms <= SECOND_SIGNAL_MS)) {
        leave(s, 128 + number);
        return;
    }
    if (impatient)
        s->last_signal_ms = now_ms;
    if (number == SIGHUP && !s->leave_at_ms) {
        s->leave_at_ms = now_ms + HANGUP_GRACE_MS;
        s->leave_status = 128 + number;
    }
    uint8_t payload[4];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u32le(&w, (uint32_t)number);
    control_frame(s, BG_FRAME_SIGNAL, payload, sizeof payload);
}

/* --- to the guest --- */

/* Notes what is sent, for a stream that comes after this one. */
static void keep_stdin(struct stream *s, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; s->kept && i < size;) {
        size_t at = (size_t)((s->sent + i) % BG_EXEC_STDIN_WINDOW);
        size_t take = BG_EXEC_STDIN_WINDOW - at < size - i ? BG_EXEC_STDIN_WINDOW - at : size - i;
        memcpy(s->kept + at, bytes + i, take);
        i += take;
    }
    s->sent += size;
    s->resent = s->sent;
}

/* Makes a frame of what the buffer has behind the header; of nothing: the end. */
static void stdin_frame(struct stream *s, uint32_t size)
{
    bg_frame_header_emit(size > 0 ? BG_FRAME_STDIN : BG_FRAME_STDIN_EOF, size, s->out);
    s->out_at = 0;
    s->out_used = BG_FRAME_HEADER_SIZE + size;
    s->window -= size;
    if (size > 0)
        exec_frames_sent(&s->frames, size);
}

/* The command goes on without us; the guest ends the stream when it knows. */
static void begin_leaving(struct stream *s)
{
    s->leaving = true;
    s->stdin_open = false;
    control_frame(s, BG_FRAME_LEAVE, NULL, 0);
}

/* Takes the detach keys out of what was typed. Returns what is left of it; a Ctrl-P at its end is
 * held until the next key. bytes has room for one more than size. */
static size_t find_keys(struct stream *s, uint8_t *bytes, size_t size, bool *ret_found)
{
    size_t used = 0, at = 0;
    if (s->held) {
        memmove(bytes + 1, bytes, size++);
        bytes[0] = DETACH_FIRST;
        s->held = false;
    }
    *ret_found = false;
    for (; at < size; at++) {
        if (bytes[at] == DETACH_FIRST && at + 1 < size && bytes[at + 1] == DETACH_SECOND) {
            *ret_found = true;
            break;
        }
        if (bytes[at] == DETACH_FIRST && at + 1 == size) {
            s->held = true;
            break;
        }
        bytes[used++] = bytes[at];
    }
    return used;
}

/* Sends again what the guest did not get. */
static void repeat_stdin(struct stream *s)
{
    size_t at = (size_t)(s->resent % BG_EXEC_STDIN_WINDOW);
    size_t size = BG_EXEC_STDIN_WINDOW - at;
    if (size > s->sent - s->resent)
        size = (size_t)(s->sent - s->resent);
    if (size > BG_FRAME_SIZE_MAX)
        size = BG_FRAME_SIZE_MAX;
    memcpy(s->out + BG_FRAME_HEADER_SIZE, s->kept + at, size);
    s->resent += size;
    stdin_frame(s, (uint32_t)size);
}

/* Reads stdin into a frame. Its end, and an error as well (a closed terminal), become STDIN_EOF. */
static int read_stdin(struct stream *s, struct bg_err *err)
{
    assert(s->out_at == s->out_used && s->window > s->held);
    size_t room = s->window < BG_FRAME_SIZE_MAX ? s->window : BG_FRAME_SIZE_MAX;
    uint8_t *payload = s->out + BG_FRAME_HEADER_SIZE;
    ssize_t n = read(s->opts->stdin_fd, payload, room - s->held);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return 0;
    const struct terminal *terminal = s->opts->terminal;
    /* A raw terminal has no end but its own. One that was closed before is none any more. */
    if (n <= 0 && terminal && terminal->fd >= 0 &&
        (n < 0 || terminal->raw || !isatty(terminal->fd))) {
        leave(s, 128 + SIGHUP);
        return 0;
    }
    if (n < 0 && errno != EIO && errno != EBADF)
        return bg_err_errno(err, -errno, "cannot read standard input");
    uint32_t size = n > 0 ? (uint32_t)n : 0;
    bool keys = false, ended = n <= 0;
    if (s->opts->detach_keys && s->frames.tty && size > 0)
        size = (uint32_t)find_keys(s, payload, size, &keys);
    if (size > 0)
        keep_stdin(s, payload, size);
    if (size > 0 || ended)
        stdin_frame(s, size);
    s->stdin_open = !ended;
    s->stdin_ended |= ended;
    if (keys)
        begin_leaving(s);
    return 0;
}

/* A guest that has closed its side for writing may still have told us why: what it sent is read
 * first, so an error here only stops the sending. */
static void send_out(struct stream *s)
{
    /* A frame that has begun to leave goes first, then control frames, then the next one. */
    bool control = s->control_used > 0 && (s->out_at == 0 || s->out_at == s->out_used);
    if (s->leaving && s->out_at < s->out_used)
        control = false; /* LEAVE is the last */
    const uint8_t *bytes = control ? s->control : s->out + s->out_at;
    size_t size = control ? s->control_used : s->out_used - s->out_at;
    ssize_t n = send(s->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        s->control_used = 0;
        s->out_at = s->out_used = 0;
        s->stdin_open = false;
    } else if (control) {
        /* Cut frames stay in front; nothing else is sent before their rest. */
        memmove(s->control, s->control + n, s->control_used - (size_t)n);
        s->control_used -= (size_t)n;
    } else {
        s->out_at += (size_t)n;
    }
}

/* --- from the guest --- */

static int write_output(struct stream *s, struct bg_err *err)
{
    struct exec_event *o = &s->output;
    const struct output *to = o->is_stderr ? &s->stderr_to : &s->stdout_to;
    ssize_t n = output_write(to, o->bytes, o->size);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n < 0 && errno == EPIPE) {
        leave(s, 128 + SIGPIPE); /* as a command in a pipeline ends */
        return 0;
    }
    if (n < 0)
        return bg_err_errno(err, -errno, "cannot write to standard %s",
                            o->is_stderr ? "error" : "output");
    o->bytes += n;
    o->size -= (size_t)n;
    return 0;
}

static int refused(struct stream *s, const struct exec_event *event, struct bg_err *err)
{
    const char *text = event->text[0] ? event->text : strerror(-event->status);
    if (s->frames.attach)
        return bg_err_set(err, event->status, "cannot attach to the command: %s", text);
    (void)bg_err_set(err, event->status, "cannot run the command: %s", text);
    if (event->status == -ENOENT)
        leave(s, 127);
    else if (event->status == -EACCES || event->status == -ENOEXEC || event->status == -EISDIR ||
             event->status == -EPERM || event->status == -ELOOP)
        leave(s, 126);
    else
        return event->status;
    return 0;
}

/* Lets the owner take what it wants of new output. */
static int offer_output(struct stream *s, struct bg_err *err)
{
    struct exec_event *o = &s->output;
    if (!s->opts->on_output || o->size == 0)
        return 0;
    ssize_t n = s->opts->on_output(s->opts->owner, o->is_stderr, o->bytes, o->size, err);
    if (n < 0)
        return (int)n;
    assert((size_t)n <= o->size);
    o->bytes += n;
    o->size -= (size_t)n;
    /* What is left is a piece of its own: a greeting ends in the middle of one. */
    return n > 0 ? offer_output(s, err) : 0;
}

/* So that a program with a full screen paints it anew: nobody has what it painted before. */
static void send_sizes(struct stream *s)
{
    uint16_t rows, columns;
    uint8_t payload[4];
    terminal_size(s->opts->terminal->fd, &rows, &columns);
    if (rows < 2)
        return;
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u16le(&w, (uint16_t)(rows - 1));
    bg_writer_u16le(&w, columns);
    control_frame(s, BG_FRAME_RESIZE, payload, sizeof payload);
}

static void attached(struct stream *s, const struct bg_exec_attached *to)
{
    bool again = s->at.pid != 0;
    s->running = s->result.started = true;
    if (again && to->out_at + to->err_at > s->at.out + s->at.err)
        (void)dprintf(s->opts->stderr_fd, "bellglass: some of its output is lost\r\n");
    s->at = (struct exec_position){.pid = to->pid, .out = to->out_at, .err = to->err_at};
    s->result.pid = to->pid;
    /* Sent again is what the guest has not got and we still have; of another time, or of another
     * client, nothing. */
    s->resent = to->stdin_taken;
    if (!again || to->stdin_taken < s->given || to->stdin_taken > s->sent ||
        s->sent - to->stdin_taken + to->stdin_owed > BG_EXEC_STDIN_WINDOW)
        s->sent = s->resent;
    s->given = to->stdin_taken - to->stdin_owed;
    s->window = BG_EXEC_STDIN_WINDOW - to->stdin_owed;
    s->stdin_open = !(to->flags & BG_EXEC_STDIN_ENDED);
    if (s->stdin_ended && s->stdin_open)
        s->tell_end = true;
    if (s->frames.tty && s->opts->terminal && s->opts->terminal->fd >= 0) {
        if (!again)
            send_sizes(s);
        send_size(s);
    }
}

/* Goes through what was read until output has to wait. */
static int parse_in(struct stream *s, struct bg_err *err)
{
    while (!s->over && s->output.size == 0 && s->in_at < s->in_used) {
        struct exec_event event;
        size_t used;
        int r = exec_frames_next(&s->frames, s->in + s->in_at, s->in_used - s->in_at, &used, &event,
                                 err);
        if (r < 0)
            return r;
        s->in_at += used;
        switch (event.kind) {
        case EXEC_NEED_MORE:
            break;
        case EXEC_STARTED:
            s->running = s->stdin_open = s->result.started = true;
            s->at.pid = s->result.pid = event.pid;
            if (s->opts->leave) {
                s->leaving = true;
                s->stdin_open = false;
            }
            break;
        case EXEC_ATTACHED:
            attached(s, &event.attached);
            break;
        case EXEC_TAKEN:
            return bg_err_set(err, -EBUSY, "somebody else has attached to it");
        case EXEC_REFUSED:
            r = refused(s, &event, err);
            if (r < 0)
                return r;
            break;
        case EXEC_OUTPUT:
            s->output = event;
            *(event.is_stderr ? &s->at.err : &s->at.out) += event.size;
            r = offer_output(s, err);
            if (r < 0)
                return r;
            break;
        case EXEC_WINDOW:
            s->window += event.window;
            s->given += event.window;
            break;
        case EXEC_ENDED:
            leave(s, event.exit_status);
            break;
        }
    }
    return 0;
}

/* The connection is gone; with luck another one leads to the same command. */
static int lost(struct stream *s, struct bg_err *err)
{
    if (!s->opts->on_lost || s->at.pid == 0)
        return bg_err_set(err, -ECONNRESET,
                          "the connection ended before the command did: the sandbox stopped or "
                          "crashed");
    if (s->opts->terminal)
        terminal_restore(s->opts->terminal);
    int fd = -1;
    int r = s->opts->on_lost(s->opts->owner, &s->at, &fd, err);
    if (r > 0)
        leave(s, 128 + r);
    if (r != 0)
        return r < 0 ? r : 0;
    if (s->fd != s->opts->stream_fd)
        (void)close(s->fd); /* a connection that has ended */
    s->fd = fd;
    exec_frames_init_attach(&s->frames);
    s->running = false;
    s->in_at = s->in_used = 0;
    s->out_at = s->out_used = s->control_used = 0;
    return 0;
}

static int read_in(struct stream *s, struct bg_err *err)
{
    ssize_t n = recv(s->fd, s->in, IN_SIZE, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0 && s->leaving) {
        s->result.left = true;
        leave(s, 0);
        return 0;
    }
    if (n <= 0)
        return lost(s, err);
    s->in_at = 0;
    s->in_used = (size_t)n;
    return parse_in(s, err);
}

/* --- the loop --- */

enum { POLL_STREAM, POLL_STDIN, POLL_OUTPUT, POLL_SIGNAL, POLL_COUNT };

static void fill_poll(const struct stream *s, struct pollfd fds[POLL_COUNT])
{
    bool pending = s->control_used > 0 || s->out_at < s->out_used;
    bool blocked = s->output.size > 0;
    short stream_events = (short)((blocked ? 0 : POLLIN) | (s->running && pending ? POLLOUT : 0));
    bool want_stdin =
        s->running && s->stdin_open && !s->tell_end && s->window > 0 && s->out_at == s->out_used;
    fds[POLL_STREAM] = (struct pollfd){.fd = stream_events ? s->fd : -1, .events = stream_events};
    fds[POLL_STDIN] = (struct pollfd){.fd = want_stdin ? s->opts->stdin_fd : -1, .events = POLLIN};
    const struct output *to = s->output.is_stderr ? &s->stderr_to : &s->stdout_to;
    fds[POLL_OUTPUT] = (struct pollfd){.fd = blocked ? to->fd : -1, .events = POLLOUT};
    fds[POLL_SIGNAL] = (struct pollfd){.fd = s->opts->signal_fd, .events = POLLIN};
}

static int wait_ms(const struct stream *s)
{
    if (!s->leave_at_ms)
        return -1;
    uint64_t now = bg_now_ms();
    return now >= s->leave_at_ms ? 0 : (int)(s->leave_at_ms - now);
}

static int turn(struct stream *s, struct bg_err *err)
{
    struct pollfd fds[POLL_COUNT];
    if (s->running && s->out_at == s->out_used && s->resent < s->sent)
        repeat_stdin(s);
    if (s->running && s->out_at == s->out_used && s->tell_end) {
        s->tell_end = s->stdin_open = false;
        stdin_frame(s, 0);
    }
    fill_poll(s, fds);
    if (poll(fds, POLL_COUNT, wait_ms(s)) < 0)
        return errno == EINTR ? 0 : bg_err_errno(err, -errno, "poll");
    int r = 0;
    for (int number;
         fds[POLL_SIGNAL].revents && !s->over && (number = signals_next(s->opts->signal_fd)) > 0;)
        take_signal(s, number, bg_now_ms());
    if (!s->over && s->leave_at_ms && bg_now_ms() >= s->leave_at_ms)
        leave(s, s->leave_status);
    if (!s->over && fds[POLL_OUTPUT].revents) {
        r = write_output(s, err);
        if (r == 0)
            r = parse_in(s, err);
    }
    if (r == 0 && !s->over && (fds[POLL_STREAM].revents & (POLLIN | POLLHUP | POLLERR)) &&
        s->output.size == 0 && s->in_at == s->in_used)
        r = read_in(s, err);
    if (r == 0 && !s->over && (fds[POLL_STREAM].revents & POLLOUT))
        send_out(s);
    if (r == 0 && !s->over && fds[POLL_STDIN].revents && s->running && s->stdin_open &&
        !s->tell_end && s->window > s->held && s->out_at == s->out_used)
        r = read_stdin(s, err);
    return r;
}

int exec_stream_run(const struct exec_stream_opts *opts, struct exec_stream_result *ret,
                    struct bg_err *err)
{
    BG_AUTOFREE uint8_t *in = malloc(IN_SIZE);
    BG_AUTOFREE uint8_t *out = malloc(BG_FRAME_HEADER_SIZE + BG_FRAME_SIZE_MAX);
    BG_AUTOFREE uint8_t *kept = opts->on_lost ? malloc(BG_EXEC_STDIN_WINDOW) : NULL;
    if (!in || !out || (opts->on_lost && !kept))
        return bg_err_errno(err, -ENOMEM, "exec");
    struct stream s = {.opts = opts,
                       .fd = opts->stream_fd,
                       .kept = kept,
                       .in = in,
                       .out = out,
                       .window = BG_EXEC_STDIN_WINDOW,
                       .stdout_to = output_of(opts->stdout_fd),
                       .stderr_to = output_of(opts->stderr_fd)};
    if (opts->attach)
        exec_frames_init_attach(&s.frames);
    else
        exec_frames_init(&s.frames, opts->terminal != NULL);
    int r = 0;
    bool raw = false;
    while (r == 0 && !s.over) {
        bool want_raw = s.running && s.frames.tty; /* not while another stream is waited for */
        if (want_raw && !raw && opts->terminal)
            terminal_raw(opts->terminal);
        raw = want_raw;
        r = turn(&s, err);
    }
    if (opts->terminal)
        terminal_restore(opts->terminal);
    if (s.fd != opts->stream_fd)
        (void)close(s.fd); /* all that counts was read from it */
    if (r < 0)
        return r;
    *ret = s.result;
    return 0;
}
