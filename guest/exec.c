#include "guest/exec.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "common/io.h"
#include "guest/backlog.h"
#include "guest/cgroup.h"
#include "guest/plan.h"
#include "guest/spawn.h"

/* Input is given back in steps of this, so that few WINDOW frames carry much. The host has the
 * rest of the window meanwhile, so it never waits for less. */
#define WINDOW_STEP (BG_EXEC_STDIN_WINDOW / 4)

/* What a pty can hold when its last process ends: its buffers have no exact count. */
#define PTY_DRAIN (128 * 1024)

#define COMMAND_SIZE 200 /* of what is shown of one */

#define TTY_GROUP 5 /* Debian's "tty", as in devpts' gid= */

struct output {
    struct exec *exec;
    struct channel channel;
    uint8_t frame;     /* BG_FRAME_STDOUT or _STDERR */
    size_t drain_left; /* DRAINING: bytes that were in it when the command ended */
    struct backlog log;
    uint64_t sent; /* position up to which the stream has it; within log's window */
};

struct exec {
    LIST_ENTRY(exec) link; /* in agent.execs, until DONE */
    struct agent *agent;
    struct stream *stream; /* NULL: it has let go */
    struct child child;
    struct plan *plan; /* until it is known how the start went */
    enum { EXEC_STARTING, EXEC_RUNNING, EXEC_DRAINING, EXEC_ENDED, EXEC_DONE } state;
    pid_t pid;
    bool reaped;
    int wait_status;
    bool has_cgroup;
    uint32_t cgroup;
    struct channel status; /* how the start went */
    struct channel input;  /* the pipe to stdin; unused with a pty */
    struct output output[2];
    int slave_fd;          /* kept open while the command runs: a pty without users hangs up */
    unsigned open_handles; /* channels whose memory the loop has */
    size_t outstanding;    /* stdin bytes taken from the host and not given back */
    uint64_t input_taken;  /* all of them */
    bool tty, detach, alone, input_ended;
    bool kept;              /* it lives on without a stream */
    bool exit_sent;         /* though it may not be in the socket yet */
    uint64_t early_signals; /* bit n: signal n + 1 came before the command ran */
    uint64_t started_ms, ended_ms;
    char command[COMMAND_SIZE]; /* its arguments with spaces between, cut */
};

static void settle(struct exec *x);
static void on_room(void *context);

/* ---- release ---- */

static void free_if_done(struct exec *x)
{
    if (x->stream || x->kept || !x->reaped || x->open_handles > 0)
        return;
    if (x->plan)
        plan_done(x->plan);
    free(x->plan);
    backlog_done(&x->output[0].log);
    backlog_done(&x->output[1].log);
    free(x);
}

/* Nobody will hear of it any more. */
static void finish(struct exec *x)
{
    if (x->state == EXEC_DONE)
        return;
    x->state = EXEC_DONE;
    x->kept = false;
    LIST_REMOVE(x, link);
    x->agent->exec_count--;
}

static void channel_closed(void *owner)
{
    struct exec *x = owner;
    x->open_handles--;
    free_if_done(x);
}

static void output_closed(void *owner)
{
    channel_closed(((struct output *)owner)->exec);
}

static void close_status(struct exec *x)
{
    if (x->status.state == CHANNEL_OPEN)
        channel_close(&x->status, channel_closed);
}

static void close_input(struct exec *x)
{
    if (x->input.state == CHANNEL_OPEN)
        channel_close(&x->input, channel_closed);
}

static void close_output(struct output *out)
{
    if (out->channel.state == CHANNEL_OPEN)
        channel_close(&out->channel, output_closed);
}

static void close_slave(struct exec *x)
{
    if (x->slave_fd >= 0)
        (void)close(x->slave_fd); /* a tty of which we wrote nothing */
    x->slave_fd = -1;
}

static void close_all(struct exec *x)
{
    close_status(x);
    close_input(x);
    close_output(&x->output[0]);
    close_output(&x->output[1]);
    close_slave(x);
}

static void remove_cgroup(struct exec *x)
{
    if (x->has_cgroup && !cgroup_remove(x->agent->cgroup_fd, x->cgroup))
        agent_sweep_later(x->agent); /* it has left processes in the background */
    x->has_cgroup = false;
}

static void kill_all(struct exec *x)
{
    if (x->has_cgroup && cgroup_kill(x->agent->cgroup_fd, x->cgroup))
        return;
    /* Without a cgroup the group is what we know; a reaped leader's number may be another's. */
    if (!x->reaped && kill(-x->pid, SIGKILL) < 0)
        (void)kill(x->pid, SIGKILL); /* not yet a leader; unreaped, so the pid is its own */
}

/* ---- input ---- */

static struct channel *input_channel(struct exec *x)
{
    return x->tty ? &x->output[0].channel : &x->input;
}

/* Gives back what the command has taken, and ends its input when all is written. */
static void settle_input(struct exec *x)
{
    struct channel *in = input_channel(x);
    size_t queued = in->state == CHANNEL_OPEN ? channel_queued(in) : 0;
    /* With a pty the end-of-file character is in the queue and no part of the window. */
    size_t owed = x->outstanding > queued ? x->outstanding - queued : 0;
    /* The reply comes first, even if the input was faster than the command. */
    if (x->stream && x->state != EXEC_STARTING && owed >= WINDOW_STEP) {
        x->outstanding -= owed;
        uint8_t payload[4];
        struct bg_writer w = bg_writer_init(payload, sizeof payload);
        bg_writer_u32le(&w, (uint32_t)owed);
        stream_send(x->stream, BG_FRAME_WINDOW, payload, sizeof payload);
    }
    if (x->input_ended && queued == 0)
        close_input(x);
}

static void input_room(void *owner)
{
    settle_input(owner);
}

static void input_broken(void *owner, int status)
{
    (void)status; /* the command does not read any more: what comes is dropped */
    close_input(owner);
    settle_input(owner);
}

static const struct channel_ops input_ops = {.on_room = input_room, .on_broken = input_broken};

static void write_input(struct exec *x, const void *bytes, size_t size)
{
    struct channel *in = input_channel(x);
    if (in->state != CHANNEL_OPEN)
        return;
    struct iovec part = {.iov_len = size};
    memcpy(&part.iov_base, &bytes, sizeof bytes); /* only read from; iovec has no const */
    if (channel_write(in, &part, 1) < 0 && !x->tty)
        close_input(x); /* EPIPE: as above */
}

static int take_input(struct exec *x, const uint8_t *bytes, size_t size, struct bg_err *err)
{
    if (x->input_ended)
        return bg_err_set(err, -EPROTO, "stdin after its end");
    if (size > BG_EXEC_STDIN_WINDOW - x->outstanding)
        return bg_err_set(err, -EPROTO, "%zu bytes of stdin, the window has %zu", size,
                          BG_EXEC_STDIN_WINDOW - x->outstanding);
    x->outstanding += size;
    x->input_taken += size;
    write_input(x, bytes, size);
    settle_input(x);
    return 0;
}

static int end_input(struct exec *x, struct bg_err *err)
{
    if (x->input_ended)
        return bg_err_set(err, -EPROTO, "a second end of stdin");
    x->input_ended = true;
    struct termios t;
    if (x->tty && x->output[0].channel.state == CHANNEL_OPEN &&
        tcgetattr(x->output[0].channel.fd, &t) == 0 && (t.c_lflag & ICANON))
        write_input(x, &t.c_cc[VEOF], 1); /* a terminal has no other end */
    settle_input(x);
    return 0;
}

/* ---- output ---- */

/* All that was sent is in the socket, and more can be. */
static bool is_idle(const struct stream *stream)
{
    return stream->state == STREAM_OPEN && stream_room(stream) == BG_AGENT_OUT_MAX;
}

static bool is_unsent(const struct output *out)
{
    return out->sent < out->log.end;
}

/* Reads at most want bytes to where a frame's payload is. False: nothing came, or its end. */
static bool read_output(struct output *out, size_t want, size_t *ret_size)
{
    struct exec *x = out->exec;
    bool draining = x->state == EXEC_DRAINING;
    if (out->channel.state != CHANNEL_OPEN)
        return false;
    if (want > BG_FRAME_SIZE_MAX)
        want = BG_FRAME_SIZE_MAX;
    if (draining && out->drain_left < want)
        want = out->drain_left;
    ssize_t n =
        want == 0 ? 0 : channel_read(&out->channel, x->agent->scratch + BG_FRAME_HEADER_SIZE, want);
    if (n == -EAGAIN && !draining)
        return false;
    if (n <= 0) {
        close_output(out);
        return false;
    }
    if (draining)
        out->drain_left -= (size_t)n;
    *ret_size = (size_t)n;
    return true;
}

/* Sends one frame of what was not sent yet, or of what there is to read. */
static bool send_output(struct output *out)
{
    struct exec *x = out->exec;
    uint8_t *payload = x->agent->scratch + BG_FRAME_HEADER_SIZE;
    size_t size;
    for (int i = 0; i < 2; i++)
        backlog_forget(&x->output[i].log, x->output[i].sent);
    if (is_unsent(out)) {
        const uint8_t *bytes = backlog_from(&out->log, out->sent, &size);
        if (size > BG_FRAME_SIZE_MAX)
            size = BG_FRAME_SIZE_MAX;
        memcpy(payload, bytes, size);
        stream_send_scratch(x->stream, out->frame, size);
    } else {
        if (!read_output(out, BG_FRAME_SIZE_MAX, &size))
            return false;
        stream_send_scratch(x->stream, out->frame, size);
        if (is_idle(x->stream))
            backlog_pass(&out->log, size);
        else
            backlog_put(&out->log, payload, size);
        if (out->sent < backlog_start(&out->log))
            out->sent = backlog_start(&out->log); /* it could not be kept */
    }
    out->sent += size;
    if (out->sent > out->log.end)
        out->sent = out->log.end;
    return true;
}

/* Without a stream. */
static bool keep_output(struct output *out)
{
    struct exec *x = out->exec;
    size_t size = (size_t)(out->log.end - backlog_start(&out->log));
    size_t room = size < BG_AGENT_KEEP_MAX ? BG_AGENT_KEEP_MAX - size : 0;
    if (room == 0) {
        if (out->channel.state == CHANNEL_OPEN)
            channel_want_input(&out->channel, false);
        return false;
    }
    if (!read_output(out, room, &size))
        return false;
    backlog_put(&out->log, x->agent->scratch + BG_FRAME_HEADER_SIZE, size);
    if (out->sent < backlog_start(&out->log))
        out->sent = backlog_start(&out->log); /* memory is out: it is lost */
    return true;
}

/* One read, one write. False when there was nothing to do it for: no room, no input, closed. */
static bool move_output(struct output *out)
{
    struct exec *x = out->exec;
    if (!x->stream)
        return x->kept && keep_output(out);
    if (is_idle(x->stream))
        return send_output(out);
    if (out->channel.state == CHANNEL_OPEN)
        channel_want_input(&out->channel, false);
    return false;
}

static void output_readable(void *owner)
{
    struct output *out = owner;
    (void)move_output(out); /* one read a turn: commands take turns */
    if (out->exec->state == EXEC_DRAINING)
        settle(out->exec); /* may free it */
}

static void output_room(void *owner)
{
    settle_input(((struct output *)owner)->exec); /* a pty: both ways in one channel */
}

static void output_broken(void *owner, int status)
{
    (void)status; /* a pipe that fails is at its end */
    struct output *out = owner;
    close_output(out);
    settle(out->exec);
}

static const struct channel_ops output_ops = {
    .on_readable = output_readable, .on_room = output_room, .on_broken = output_broken};

/* ---- end ---- */

static void send_exit(struct exec *x)
{
    uint8_t payload[8];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    if (WIFSIGNALED(x->wait_status)) {
        bg_writer_u32le(&w, BG_EXIT_SIGNAL);
        bg_writer_u32le(&w, (uint32_t)WTERMSIG(x->wait_status));
    } else {
        bg_writer_u32le(&w, BG_EXIT_STATUS);
        bg_writer_u32le(&w, (uint32_t)WEXITSTATUS(x->wait_status));
    }
    stream_send(x->stream, BG_FRAME_EXIT, payload, sizeof payload);
}

/* Bytes in the pipe now; what a process in the background writes later is not the command's. */
static size_t held(const struct exec *x, const struct output *out)
{
    int size = 0;
    if (x->tty)
        return PTY_DRAIN;
    return ioctl(out->channel.fd, FIONREAD, &size) == 0 && size > 0 ? (size_t)size : 0;
}

static void begin_draining(struct exec *x)
{
    x->state = EXEC_DRAINING;
    x->ended_ms = bg_now_ms();
    close_slave(x);
    close_input(x);
    for (int i = 0; i < 2; i++) {
        struct output *out = &x->output[i];
        if (out->channel.state != CHANNEL_OPEN)
            continue;
        channel_want_input(&out->channel, false); /* settle() reads from here on */
        out->drain_left = held(x, out);
    }
}

/* Of those that have ended with nobody attached only some are remembered. */
static void forget_oldest(struct agent *agent)
{
    struct exec *x, *oldest = NULL;
    unsigned count = 0;
    LIST_FOREACH(x, &agent->execs, link)
    {
        if (x->stream || x->state < EXEC_DRAINING)
            continue;
        count++;
        if (!oldest || x->ended_ms <= oldest->ended_ms)
            oldest = x;
    }
    if (count <= BG_AGENT_ENDED_MAX)
        return;
    finish(oldest);
    close_all(oldest);
    remove_cgroup(oldest);
    free_if_done(oldest);
}

/* Moves on what can: called whenever something has changed. */
static void settle(struct exec *x)
{
    if (x->state == EXEC_RUNNING && x->reaped && (x->stream || x->kept))
        begin_draining(x);
    if (x->state == EXEC_DRAINING) {
        while (move_output(&x->output[0]) || move_output(&x->output[1]))
            ;
        if (x->output[0].channel.state == CHANNEL_OPEN ||
            x->output[1].channel.state == CHANNEL_OPEN)
            return; /* no room; on_room comes back here */
        x->state = EXEC_ENDED;
    }
    if (x->state != EXEC_ENDED || !x->stream)
        return;
    while (move_output(&x->output[0]) || move_output(&x->output[1]))
        ;
    if (is_unsent(&x->output[0]) || is_unsent(&x->output[1]) || !is_idle(x->stream))
        return; /* likewise */
    if (!x->exit_sent) {
        x->exit_sent = true;
        send_exit(x);
        if (!is_idle(x->stream))
            return;
    }
    finish(x);
    stream_finish(x->stream);
    x->stream = NULL;
    remove_cgroup(x);
    free_if_done(x);
}

static void ended(struct child *child, int wait_status)
{
    struct exec *x = CONTAINER_OF(child, struct exec, child);
    struct agent *agent = x->agent;
    x->reaped = true;
    x->wait_status = wait_status;
    if (x->stream) {
        settle(x); /* may free x */
        return;
    }
    if (x->kept) {
        settle(x); /* does not: there is nobody to tell */
        forget_oldest(agent);
        return;
    }
    remove_cgroup(x);
    free_if_done(x);
}

/* ---- without a stream ---- */

/* Its output waits from here on. Sends and reads nothing. */
static void orphan(struct exec *x)
{
    x->kept = true;
    x->exit_sent = false;
    for (int i = 0; i < 2; i++) {
        x->output[i].sent = backlog_start(&x->output[i].log);
        if (x->output[i].channel.state == CHANNEL_OPEN)
            channel_want_input(&x->output[i].channel, true);
    }
}

/* The stream ends with what is queued, and the exec is kept. */
static void leave(struct exec *x)
{
    struct stream *stream = x->stream;
    x->stream = NULL;
    for (int i = 0; i < 2; i++)
        backlog_forget(&x->output[i].log, x->output[i].sent);
    orphan(x);
    stream_finish(stream);
}

/* ---- start ---- */

static int send_signal(struct exec *x, uint32_t number)
{
    if (x->reaped)
        return 0;
    pid_t group = 0;
    if (x->tty && (ioctl(x->output[0].channel.fd, TIOCGPGRP, &group) < 0 || group <= 0))
        group = 0;
    /* Fails when the group has just ended: so it was too late. */
    (void)kill(group > 0 ? -group : -x->pid, (int)number);
    return 0;
}

static void started(struct exec *x)
{
    x->state = EXEC_RUNNING;
    plan_done(x->plan);
    free(BG_TAKE(x->plan));
    uint8_t payload[4];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u32le(&w, (uint32_t)x->pid);
    stream_reply(x->stream, payload, sizeof payload);
    settle_input(x);
    for (uint32_t i = 0; i < 64; i++)
        if (x->early_signals & (1ull << i))
            (void)send_signal(x, i + 1);
    if (x->alone)
        leave(x);
    if (x->reaped) {
        settle(x);
        return;
    }
    for (int i = 0; i < 2; i++)
        if (x->output[i].channel.state == CHANNEL_OPEN)
            channel_want_input(&x->output[i].channel, true);
}

static void not_started(struct exec *x, const uint8_t *bytes)
{
    struct bg_err err = {0};
    spawn_status_explain(bytes, x->plan->argv[1], x->plan->cwd, &err);
    finish(x);
    stream_refuse(x->stream, &err);
    x->stream = NULL;
    close_all(x);
    if (x->reaped)
        remove_cgroup(x);
    free_if_done(x);
}

static void status_readable(void *owner)
{
    struct exec *x = owner;
    uint8_t bytes[SPAWN_STATUS_SIZE] = {0};
    ssize_t n = channel_read(&x->status, bytes, sizeof bytes);
    if (n == -EAGAIN)
        return;
    close_status(x);
    if (n == 0)
        started(x);
    else
        not_started(x, bytes);
}

static void status_broken(void *owner, int status)
{
    (void)status; /* the read end of a pipe: its end is all that can come */
    status_readable(owner);
}

static const struct channel_ops status_ops = {.on_readable = status_readable,
                                              .on_broken = status_broken};

static int on_frame(void *context, uint8_t type, const uint8_t *payload, size_t size,
                    struct bg_err *err)
{
    struct exec *x = context;
    struct bg_reader in = bg_reader_init(payload, size);
    switch (type) {
    case BG_FRAME_STDIN:
        return take_input(x, payload, size, err);
    case BG_FRAME_STDIN_EOF:
        if (size != 0)
            break;
        return end_input(x, err);
    case BG_FRAME_RESIZE: {
        struct winsize ws = {.ws_row = bg_reader_u16le(&in)};
        ws.ws_col = bg_reader_u16le(&in);
        if (!bg_reader_end(&in))
            break;
        if (x->tty && x->output[0].channel.state == CHANNEL_OPEN)
            (void)ioctl(x->output[0].channel.fd, TIOCSWINSZ, &ws); /* any size is taken */
        return 0;
    }
    case BG_FRAME_SIGNAL: {
        uint32_t number = bg_reader_u32le(&in);
        if (!bg_reader_end(&in) || number < 1 || number > 64)
            break;
        if (x->state == EXEC_STARTING) {
            x->early_signals |= 1ull << (number - 1);
            return 0;
        }
        return send_signal(x, number);
    }
    case BG_FRAME_LEAVE:
        if (size != 0 || x->state == EXEC_STARTING)
            break;
        leave(x);
        return 0;
    default:
        return bg_err_set(err, -EPROTO, "frame type %u in an exec", type);
    }
    return bg_err_set(err, -EPROTO, "frame type %u with %zu bytes", type, size);
}

static void on_room(void *context)
{
    struct exec *x = context;
    for (int i = 0; x->state == EXEC_RUNNING && i < 2; i++) {
        struct output *out = &x->output[i];
        while (is_unsent(out) && move_output(out))
            ;
        if (out->channel.state == CHANNEL_OPEN)
            channel_want_input(&out->channel, true);
    }
    settle(x);
}

static void on_gone(void *context)
{
    struct exec *x = context;
    x->stream = NULL;
    /* While a snapshot is taken connections end without a meaning. */
    if ((x->kept || x->agent->frozen) && x->state != EXEC_STARTING) {
        orphan(x);
        return;
    }
    finish(x);
    if (!x->detach)
        kill_all(x);
    close_all(x); /* which tells one that was not killed */
    if (x->reaped)
        remove_cgroup(x);
    free_if_done(x);
}

void exec_orphan_all(struct agent *agent, bool fork)
{
    struct exec *next;
    for (struct exec *x = LIST_FIRST(&agent->execs); x; x = next) {
        next = LIST_NEXT(x, link);
        if (x->stream)
            x->stream->context = NULL; /* it ends by itself */
        x->kept = x->state != EXEC_STARTING && !(fork && x->detach);
        on_gone(x);
    }
}

void exec_forget_all(struct agent *agent)
{
    struct exec *next;
    for (struct exec *x = LIST_FIRST(&agent->execs); x; x = next) {
        next = LIST_NEXT(x, link);
        x->kept = x->detach = false;
        if (!x->stream)
            on_gone(x); /* of the others it follows */
    }
}

/* ---- open ---- */

/* The command's three fds, and our ends of them. */
struct fds {
    int theirs[3]; /* with a pty all the same */
    int input, output, error;
};

static void fds_close(struct fds *fds)
{
    if (fds->theirs[1] != fds->theirs[0])
        for (int i = 1; i < 3; i++)
            bg_cleanup_close(&fds->theirs[i]);
    bg_cleanup_close(&fds->theirs[0]);
    bg_cleanup_close(&fds->input);
    bg_cleanup_close(&fds->output);
    bg_cleanup_close(&fds->error);
}

static int open_pipe(int *ret_read, int *ret_write)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    *ret_read = ends[0];
    *ret_write = ends[1];
    return 0;
}

static int open_pipes(struct fds *fds)
{
    int r = open_pipe(&fds->theirs[0], &fds->input);
    if (r == 0)
        r = open_pipe(&fds->output, &fds->theirs[1]);
    if (r == 0)
        r = open_pipe(&fds->error, &fds->theirs[2]);
    return r;
}

static int open_pty(struct fds *fds, const struct bg_exec_request *request, uid_t uid)
{
    fds->output = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    int unlocked = 0;
    if (fds->output < 0 || ioctl(fds->output, TIOCSPTLCK, &unlocked) < 0)
        return -errno;
    int slave = ioctl(fds->output, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0)
        return -errno;
    fds->theirs[0] = fds->theirs[1] = fds->theirs[2] = slave;
    struct winsize ws = {.ws_row = request->rows ? request->rows : 24,
                         .ws_col = request->columns ? request->columns : 80};
    /* So that the command can open it by name; without the right to, it still has the fd. */
    if (geteuid() == 0 && (fchown(slave, uid, TTY_GROUP) < 0 || fchmod(slave, 0620) < 0))
        return -errno;
    return ioctl(slave, TIOCSWINSZ, &ws) < 0 ? -errno : 0;
}

static int open_channel(struct exec *x, struct channel *ch, int *fd,
                        const struct channel_ops *channel_ops, void *owner)
{
    if (*fd < 0)
        return 0;
    int r = channel_open(ch, &x->agent->loop, *fd, channel_ops, owner);
    if (r == 0) {
        x->open_handles++;
        *fd = -1;
    }
    return r;
}

static struct exec *find(struct agent *agent, uint32_t pid, struct bg_err *err)
{
    struct exec *x, *found = NULL;
    LIST_FOREACH(x, &agent->execs, link)
    {
        if (x->state == EXEC_STARTING || (pid != 0 && x->pid != (pid_t)pid))
            continue;
        if (found) {
            (void)bg_err_set(err, -ENOTUNIQ, "several commands run in it: say which one");
            return NULL;
        }
        found = x;
    }
    if (!found && pid == 0)
        (void)bg_err_set(err, -ESRCH, "no command runs in it that could be attached to");
    else if (!found)
        (void)bg_err_set(err, -ESRCH, "no command with process number %u in it", pid);
    return found;
}

/* Where the output goes on for who has the bytes before `at`. */
static void seek_output(struct output *out, bool all, uint64_t at)
{
    uint64_t start = backlog_start(&out->log);
    out->sent = all || at < start ? start : at > out->log.end ? out->log.end : at;
}

static int attach_stream(struct stream *stream, const struct bg_exec_attach *request,
                         struct bg_err *err)
{
    struct exec *x = find(stream->agent, request->pid, err);
    if (!x)
        return err ? err->code : -ESRCH;
    if (x->stream && !(request->flags & BG_EXEC_STEAL))
        return bg_err_set(err, -EBUSY, "somebody is attached to process %d", (int)x->pid);
    if (x->stream) {
        stream_send(x->stream, BG_FRAME_TAKEN, NULL, 0);
        leave(x);
    }
    x->stream = stream;
    stream->context = x;
    x->kept = !(request->flags & BG_EXEC_OWN);
    bool all = request->flags & BG_EXEC_KEPT;
    seek_output(&x->output[0], all, request->out_at);
    seek_output(&x->output[1], all, request->err_at);
    struct winsize ws = {.ws_row = request->rows, .ws_col = request->columns};
    if (x->tty && ws.ws_row > 0 && ws.ws_col > 0 && x->output[0].channel.state == CHANNEL_OPEN)
        (void)ioctl(x->output[0].channel.fd, TIOCSWINSZ, &ws); /* any size is taken */
    uint8_t payload[BG_EXEC_ATTACHED_SIZE];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_exec_attached_emit(
        &(struct bg_exec_attached){.pid = (uint32_t)x->pid,
                                   .flags = (x->tty ? BG_EXEC_IS_TTY : 0) |
                                            (x->input_ended ? BG_EXEC_STDIN_ENDED : 0),
                                   .out_at = x->output[0].sent,
                                   .err_at = x->output[1].sent,
                                   .stdin_taken = x->input_taken,
                                   .stdin_owed = (uint32_t)x->outstanding},
        &w);
    stream_reply(stream, payload, w.used);
    settle_input(x);
    on_room(x); /* may end the stream and free x */
    return 0;
}

/* ---- the list ---- */

static int execs_open(struct stream *stream, const uint8_t *body, size_t size, struct bg_err *err)
{
    (void)body;
    if (size != 0)
        return bg_err_set(err, -EPROTO, "execs with a body of %zu bytes", size);
    stream_reply(stream, NULL, 0);
    const struct exec *x;
    LIST_FOREACH(x, &stream->agent->execs, link)
    {
        if (x->state == EXEC_STARTING)
            continue;
        struct bg_exec_info info = {.pid = (uint32_t)x->pid,
                                    .flags = (x->tty ? BG_EXEC_INFO_TTY : 0) |
                                             (x->stream ? BG_EXEC_INFO_ATTACHED : 0) |
                                             (x->reaped ? BG_EXEC_INFO_ENDED : 0),
                                    .age_ms = bg_now_ms() - x->started_ms};
        for (int i = 0; i < 2; i++)
            info.waiting += x->output[i].log.end - x->output[i].sent;
        memcpy(info.command, x->command, sizeof x->command);
        uint8_t payload[sizeof info + 16];
        struct bg_writer w = bg_writer_init(payload, sizeof payload);
        bg_exec_info_emit(&info, &w);
        stream_send(stream, BG_FRAME_EXEC_INFO, payload, w.used);
    }
    stream_send(stream, BG_FRAME_END, (uint8_t[4]){0}, 4);
    stream_finish(stream);
    return 0;
}

static int execs_frame(void *context, uint8_t type, const uint8_t *payload, size_t size,
                       struct bg_err *err)
{
    (void)context;
    (void)payload;
    return bg_err_set(err, -EPROTO, "frame type %u with %zu bytes in execs", type, size);
}

static void execs_gone(void *context)
{
    (void)context;
}

const struct stream_kind execs_kind = {.name = "execs",
                                       .lasts = true,
                                       .frame_size_max = BG_FRAME_SIZE_MAX,
                                       .open = execs_open,
                                       .on_frame = execs_frame,
                                       .on_gone = execs_gone};

/* ---- start of one ---- */

/* What is shown of the request's arguments. */
static void note_command(struct exec *x, const struct bg_exec_request *request)
{
    struct bg_reader in = bg_reader_init(request->strings, request->strings_size);
    size_t used = 0;
    for (uint32_t i = 0; i < request->argc && used < sizeof x->command - 1; i++) {
        size_t size;
        const uint8_t *bytes = bg_reader_blob32le(&in, BG_STREAM_BODY_MAX, &size);
        if (i > 0)
            x->command[used++] = ' ';
        size_t room = sizeof x->command - 1 - used;
        size = size < room ? size : room;
        if (size > 0 && bytes)
            memcpy(x->command + used, bytes, size);
        used += size;
    }
    x->command[used] = '\0';
}

/* The process runs; from here x is its owner, whatever fails. */
static int attach(struct exec *x, struct fds *fds, int status_fd)
{
    BG_AUTOCLOSE int status = status_fd;
    int r = open_channel(x, &x->status, &status, &status_ops, x);
    if (r == 0)
        r = open_channel(x, &x->input, &fds->input, &input_ops, x);
    if (r == 0)
        r = open_channel(x, &x->output[0].channel, &fds->output, &output_ops, &x->output[0]);
    if (r == 0)
        r = open_channel(x, &x->output[1].channel, &fds->error, &output_ops, &x->output[1]);
    if (r < 0)
        return r;
    if (x->tty) {
        x->slave_fd = fds->theirs[0];
        fds->theirs[0] = fds->theirs[1] = fds->theirs[2] = -1;
    }
    channel_want_input(&x->status, true);
    return 0;
}

static int launch(struct exec *x, struct fds *fds, struct bg_err *err)
{
    struct agent *agent = x->agent;
    BG_AUTOCLOSE int cgroup_fd = -1;
    if (agent->cgroup_fd >= 0) {
        x->cgroup = agent->next_cgroup++;
        cgroup_fd = cgroup_make(agent->cgroup_fd, x->cgroup);
        if (cgroup_fd < 0)
            return bg_err_errno(err, cgroup_fd, "cgroup of the command");
        x->has_cgroup = true;
    }
    const struct spawn_opts opts = {
        .argv = x->plan->argv,
        .env = &x->plan->env,
        .account = &x->plan->account,
        .cwd = x->plan->cwd,
        .cwd_optional = x->plan->cwd_optional,
        .stdio = {fds->theirs[0], fds->theirs[1], fds->theirs[2]},
        .tty = x->tty,
        .cgroup_fd = cgroup_fd,
        .drop_rights = geteuid() == 0,
    };
    int status_fd;
    int r = spawn(&opts, &x->pid, &status_fd, err);
    if (r < 0) {
        remove_cgroup(x);
        return r;
    }
    x->child = (struct child){.pid = x->pid, .on_exit = ended};
    agent_watch_child(agent, &x->child);
    r = attach(x, fds, status_fd);
    if (r < 0) {
        kill_all(x);
        close_all(x);
        return bg_err_errno(err, r, "pipes of the command");
    }
    return 0;
}

static int exec_open(struct stream *stream, const uint8_t *body, size_t size, struct bg_err *err)
{
    struct bg_exec_request request;
    if (bg_exec_is_attach(body, size)) {
        struct bg_exec_attach to;
        int r = bg_exec_attach_parse(body, size, &to, err);
        return r < 0 ? r : attach_stream(stream, &to, err);
    }
    int r = bg_exec_request_parse(body, size, &request, err);
    if (r < 0)
        return r;
    if (stream->agent->exec_count == BG_AGENT_EXECS_MAX)
        return bg_err_set(err, -EAGAIN, "%d commands run already", BG_AGENT_EXECS_MAX);
    struct exec *x = calloc(1, sizeof *x);
    struct plan *plan = calloc(1, sizeof *plan);
    r = x && plan ? plan_make(&request, &stream->agent->env, plan, err)
                  : bg_err_errno(err, -ENOMEM, "exec");
    if (!x || !plan || r < 0) {
        free(plan);
        free(x);
        return r;
    }
    x->agent = stream->agent;
    x->plan = plan;
    x->slave_fd = -1;
    x->tty = request.flags & BG_EXEC_TTY;
    x->detach = request.flags & BG_EXEC_DETACH;
    x->alone = request.flags & BG_EXEC_ALONE;
    x->reaped = true; /* until there is a process */
    for (int i = 0; i < 2; i++) {
        x->output[i].exec = x;
        x->output[i].frame = i == 0 ? BG_FRAME_STDOUT : BG_FRAME_STDERR;
    }
    struct fds fds = {{-1, -1, -1}, -1, -1, -1};
    r = x->tty ? open_pty(&fds, &request, plan->account.uid) : open_pipes(&fds);
    if (r < 0) {
        (void)bg_err_errno(err, r, x->tty ? "terminal of the command" : "pipes of the command");
    } else {
        x->reaped = false;
        r = launch(x, &fds, err);
        if (r < 0 && x->pid == 0)
            x->reaped = true;
    }
    fds_close(&fds);
    if (r < 0) {
        free_if_done(x); /* else it goes when its process has been reaped */
        return r;
    }
    note_command(x, &request);
    x->started_ms = bg_now_ms();
    LIST_INSERT_HEAD(&stream->agent->execs, x, link);
    stream->agent->exec_count++;
    x->stream = stream;
    stream->context = x;
    return 0;
}

const struct stream_kind exec_kind = {.name = "exec",
                                      .frame_size_max = BG_FRAME_SIZE_MAX,
                                      .lasts = true,
                                      .open = exec_open,
                                      .on_frame = on_frame,
                                      .on_room = on_room,
                                      .on_gone = on_gone};
