/* exec_stream against a guest that is a child process on the other end of a socket pair. Nothing
 * here waits for time to pass: each side waits for what the other does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"
#include "common/wire.h"
#include "host/cli/exec_stream.h"

/* --- the guest's side: all of it runs in the child, and ends it when something is odd --- */

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            _exit(__LINE__ % 200 + 1);                                                             \
    } while (0)

static void put_frame(int fd, uint8_t type, const void *payload, uint32_t size)
{
    uint8_t header[BG_FRAME_HEADER_SIZE];
    bg_frame_header_emit(type, size, header);
    MUST(bg_write_full(fd, header, sizeof header) == 0);
    MUST(bg_write_full(fd, payload, size) == 0);
}

static void put_u32s(int fd, uint8_t type, uint32_t first, uint32_t second, uint32_t count)
{
    uint8_t payload[8];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u32le(&w, first);
    bg_writer_u32le(&w, second);
    put_frame(fd, type, payload, 4 * count);
}

static void put_reply(int fd, int32_t status, const char *text)
{
    uint8_t header[BG_REPLY_HEADER_SIZE];
    uint32_t size = status == 0 ? 4 : (uint32_t)strlen(text);
    bg_reply_header_emit(&(struct bg_reply_header){.status = status, .body_size = size}, header);
    MUST(bg_write_full(fd, header, sizeof header) == 0);
    MUST(bg_write_full(fd, status == 0 ? "\1\0\0\0" : text, size) == 0);
}

static void put_exit(int fd, uint32_t status)
{
    put_u32s(fd, BG_FRAME_EXIT, BG_EXIT_STATUS, status, 2);
}

/* The next frame from the host. payload: BG_FRAME_SIZE_MAX. */
static uint8_t get_frame(int fd, uint8_t *payload, uint32_t *ret_size)
{
    uint8_t bytes[BG_FRAME_HEADER_SIZE];
    struct bg_frame_header header;
    MUST(bg_read_full(fd, bytes, sizeof bytes) == 0);
    MUST(bg_frame_header_parse(bytes, sizeof bytes, BG_FRAME_SIZE_MAX, &header, NULL) == 0);
    MUST(bg_read_full(fd, payload, header.size) == 0);
    *ret_size = header.size;
    return header.type;
}

/* --- our side --- */

struct run {
    pid_t guest;
    int stream, signals;
    int in[2], out[2], err[2]; /* pipes: [0] is read from */
    struct terminal terminal;
    ssize_t (*on_output)(void *owner, bool is_stderr, const uint8_t *bytes, size_t size,
                         struct bg_err *err);
    int (*on_lost)(void *owner, const struct exec_position *at, int *ret_fd, struct bg_err *err);
    void *owner;
    bool tty, attach, leave, detach_keys;
    struct exec_stream_result result;
    struct bg_err why;
};

static struct run begin(void (*guest)(int fd))
{
    struct run run = {.signals = -1, .terminal = {.fd = -1}};
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    assert_int_equal(pipe2(run.in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(run.out, O_CLOEXEC), 0);
    assert_int_equal(pipe2(run.err, O_CLOEXEC), 0);
    run.guest = fork();
    assert_true(run.guest >= 0);
    if (run.guest == 0) {
        (void)signal(SIGPIPE, SIG_IGN);
        (void)alarm(60); /* a test that hangs ends */
        (void)close(ends[0]);
        (void)close(run.in[1]);
        (void)close(run.out[0]);
        (void)close(run.err[0]);
        guest(ends[1]);
        _exit(0);
    }
    (void)close(ends[1]);
    run.stream = ends[0];
    return run;
}

static int go(struct run *run)
{
    const struct exec_stream_opts opts = {.stream_fd = run->stream,
                                          .stdin_fd = run->in[0],
                                          .stdout_fd = run->out[1],
                                          .stderr_fd = run->err[1],
                                          .signal_fd = run->signals,
                                          .terminal = run->tty ? &run->terminal : NULL,
                                          .attach = run->attach,
                                          .leave = run->leave,
                                          .detach_keys = run->detach_keys,
                                          .on_output = run->on_output,
                                          .on_lost = run->on_lost,
                                          .owner = run->owner};
    return exec_stream_run(&opts, &run->result, &run->why);
}

/* Closes all that is left; the guest must have been content. */
static void end(struct run *run)
{
    int fds[] = {run->stream, run->signals, run->in[0],  run->in[1],
                 run->out[0], run->out[1],  run->err[0], run->err[1]};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
    int status;
    assert_int_equal(waitpid(run->guest, &status, 0), run->guest);
    if (status != 0)
        fail_msg("the guest ended with 0x%x", status);
}

static void close_fd(int *fd)
{
    (void)close(*fd);
    *fd = -1;
}

static void expect_good_end(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (status != 0)
        fail_msg("a helper ended with 0x%x", status);
}

static void expect_output(int *pipe_fds, const char *text)
{
    char bytes[256];
    close_fd(&pipe_fds[1]);
    ssize_t n = read(pipe_fds[0], bytes, sizeof bytes - 1);
    assert_true(n >= 0);
    bytes[n] = '\0';
    assert_string_equal(bytes, text);
}

/* --- the tests --- */

static void says_hello(int fd)
{
    put_reply(fd, 0, NULL);
    put_frame(fd, BG_FRAME_STDOUT, "to out\n", 7);
    put_frame(fd, BG_FRAME_STDERR, "to err\n", 7);
    put_exit(fd, 3);
}

static void keeps_outputs_apart_and_passes_the_status(void **state)
{
    (void)state;
    struct run run = begin(says_hello);
    assert_int_equal(go(&run), 0);
    assert_int_equal(run.result.exit_status, 3);
    expect_output(run.out, "to out\n");
    expect_output(run.err, "to err\n");
    end(&run);
}

/* Takes the first line of stdout, letter by letter, and all of stderr. */
static ssize_t take_a_line(void *owner, bool is_stderr, const uint8_t *bytes, size_t size,
                           struct bg_err *err)
{
    char *line = owner;
    size_t used = strlen(line);
    if (is_stderr)
        return (ssize_t)size;
    if (used > 0 && line[used - 1] == '\n')
        return 0;
    if (bytes[0] == '!')
        return bg_err_set(err, -EPROTO, "not a line");
    line[used] = (char)bytes[0];
    return 1;
}

static void an_owner_takes_output_off_the_front(void **state)
{
    (void)state;
    char line[64] = "";
    struct run run = begin(says_hello);
    run.on_output = take_a_line;
    run.owner = line;
    assert_int_equal(go(&run), 0);
    assert_string_equal(line, "to out\n");
    expect_output(run.out, "");
    expect_output(run.err, "");
    end(&run);
}

static void says_two_lines(int fd)
{
    put_reply(fd, 0, NULL);
    put_frame(fd, BG_FRAME_STDOUT, "fir", 3);
    put_frame(fd, BG_FRAME_STDOUT, "st\n\nsecond\n", 11);
    put_exit(fd, 0);
}

static void says_what_is_no_line(int fd)
{
    put_reply(fd, 0, NULL);
    put_frame(fd, BG_FRAME_STDOUT, "a!\n", 3);
}

static void an_owner_leaves_the_rest_or_ends_the_run(void **state)
{
    (void)state;
    char line[64] = "";
    struct run run = begin(says_two_lines);
    run.on_output = take_a_line;
    run.owner = line;
    assert_int_equal(go(&run), 0);
    assert_string_equal(line, "first\n");
    expect_output(run.out, "\nsecond\n");
    end(&run);
    memset(line, 0, sizeof line);
    run = begin(says_what_is_no_line);
    run.on_output = take_a_line;
    run.owner = line;
    assert_int_equal(go(&run), -EPROTO);
    assert_string_equal(run.why.text, "not a line");
    end(&run);
}

/* Sends back what comes, and gives the window back only when all of it is used up: a host that
 * sends more than the window is found out. */
static void echoes(int fd)
{
    static uint8_t payload[BG_FRAME_SIZE_MAX];
    uint32_t size, owed = 0;
    put_reply(fd, 0, NULL);
    for (;;) {
        uint8_t type = get_frame(fd, payload, &size);
        if (type == BG_FRAME_STDIN_EOF)
            break;
        MUST(type == BG_FRAME_STDIN && size > 0);
        owed += size;
        MUST(owed <= BG_EXEC_STDIN_WINDOW);
        put_frame(fd, BG_FRAME_STDOUT, payload, size);
        if (owed == BG_EXEC_STDIN_WINDOW) {
            put_u32s(fd, BG_FRAME_WINDOW, owed, 0, 1);
            owed = 0;
        }
    }
    put_exit(fd, 0);
}

#define LARGE_SIZE ((size_t)8 << 20)

static uint8_t byte_at(size_t offset)
{
    return (uint8_t)(((uint32_t)offset * 2654435761u) >> 24);
}

enum { CUTS = 9 };

/* The sockets between the two sides, made before the guest is forked: one for each connection. */
static int lines[CUTS + 1][2];

static void make_lines(void)
{
    for (size_t i = 0; i <= CUTS; i++)
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, lines[i]), 0);
}

/* Writes LARGE_SIZE bytes to stdin and checks that they come back, in a child. */
static pid_t start_checker(struct run *run)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    (void)alarm(60);
    size_t written = 0, checked = 0;
    uint8_t bytes[8192];
    (void)close(run->out[1]);
    for (size_t i = 0; i <= CUTS; i++)
        for (size_t k = 0; k < 2 && lines[i][k] > 0; k++)
            (void)close(lines[i][k]);
    MUST(fcntl(run->in[1], F_SETFL, O_NONBLOCK) == 0);
    while (checked < LARGE_SIZE) {
        struct pollfd fds[] = {{.fd = run->out[0], .events = POLLIN},
                               {.fd = written < LARGE_SIZE ? run->in[1] : -1, .events = POLLOUT}};
        MUST(poll(fds, 2, -1) > 0);
        if (fds[1].revents & POLLOUT) {
            /* pieces of all sizes */
            size_t size = 1 + written % sizeof bytes;
            size = size < LARGE_SIZE - written ? size : LARGE_SIZE - written;
            for (size_t i = 0; i < size; i++)
                bytes[i] = byte_at(written + i);
            ssize_t n = write(run->in[1], bytes, size);
            MUST(n > 0 || errno == EAGAIN);
            written += n > 0 ? (size_t)n : 0;
        }
        if (fds[0].revents & POLLIN) {
            ssize_t n = read(run->out[0], bytes, sizeof bytes);
            MUST(n > 0);
            for (ssize_t i = 0; i < n; i++)
                MUST(bytes[i] == byte_at(checked++));
        }
    }
    _exit(0);
}

static void carries_much_both_ways_within_the_window(void **state)
{
    (void)state;
    struct run run = begin(echoes);
    pid_t checker = start_checker(&run);
    close_fd(&run.in[1]);
    assert_int_equal(go(&run), 0);
    assert_int_equal(run.result.exit_status, 0);
    expect_good_end(checker);
    end(&run);
}

/* --- connections that end before their command --- */

/* The next connection; begins with the position that we have, for the guest. */
static int take_line(void *owner, const struct exec_position *at, int *ret_fd, struct bg_err *err)
{
    size_t *count = owner;
    (void)err;
    assert_int_equal(at->pid, 1);
    assert_true(*count <= CUTS);
    *ret_fd = lines[*count][0];
    (void)close(lines[*count][1]);
    assert_int_equal(bg_write_full(*ret_fd, &at->out, sizeof at->out), 0);
    ++*count;
    return 0;
}

static void put_attached(int fd, const struct bg_exec_attached *attached)
{
    uint8_t header[BG_REPLY_HEADER_SIZE], body[BG_EXEC_ATTACHED_SIZE];
    bg_reply_header_emit(&(struct bg_reply_header){.body_size = sizeof body}, header);
    struct bg_writer w = bg_writer_init(body, sizeof body);
    bg_exec_attached_emit(attached, &w);
    MUST(bg_write_full(fd, header, sizeof header) == 0);
    MUST(bg_write_full(fd, body, sizeof body) == 0);
}

/* Sends back what comes, as the agent would, and cuts the connection now and then: in the middle of
 * a frame of output, with input on its way, and with a window given back that never arrives. */
static void echoes_with_cuts(int first)
{
    static uint8_t input[LARGE_SIZE], payload[BG_FRAME_SIZE_MAX];
    size_t taken = 0, out = 0, given = 0;
    bool ended = false;
    int fd = first;
    for (size_t i = 0; i <= CUTS; i++)
        (void)close(lines[i][0]);
    for (size_t cut = 0; !ended || cut <= CUTS; cut++) {
        if (cut == 0) {
            put_reply(fd, 0, NULL);
        } else {
            uint64_t position;
            (void)close(fd);
            fd = lines[cut - 1][1];
            MUST(bg_read_full(fd, &position, sizeof position) == 0);
            MUST(position <= out && out - position <= 2 * sizeof payload);
            out = position;
            put_attached(fd, &(struct bg_exec_attached){.pid = 1,
                                                        .flags = ended ? BG_EXEC_STDIN_ENDED : 0,
                                                        .out_at = out,
                                                        .stdin_taken = taken,
                                                        .stdin_owed = (uint32_t)(taken - given)});
        }
        size_t until = LARGE_SIZE / (CUTS + 1) * (cut + 1);
        while (!ended && (cut == CUTS || taken < until)) {
            uint32_t size;
            uint8_t type = get_frame(fd, payload, &size);
            ended = type == BG_FRAME_STDIN_EOF;
            MUST(ended || (type == BG_FRAME_STDIN && size > 0));
            MUST(size <= LARGE_SIZE - taken && size <= BG_EXEC_STDIN_WINDOW - (taken - given));
            memcpy(input + taken, payload, size);
            taken += size;
            if (taken - given > BG_EXEC_STDIN_WINDOW / 2) {
                put_u32s(fd, BG_FRAME_WINDOW, (uint32_t)(taken - given), 0, 1);
                given = taken;
            }
            while (out < taken && (cut == CUTS || taken < until)) {
                size = (uint32_t)(taken - out < sizeof payload ? taken - out : sizeof payload);
                put_frame(fd, BG_FRAME_STDOUT, input + out, size);
                out += size;
            }
        }
        if (cut < CUTS && out < taken) {
            uint8_t header[BG_FRAME_HEADER_SIZE];
            uint32_t size = (uint32_t)(taken - out < sizeof payload ? taken - out : sizeof payload);
            bg_frame_header_emit(BG_FRAME_STDOUT, size, header);
            MUST(bg_write_full(fd, header, cut % 2 ? sizeof header : 3) == 0);
            if (cut % 2)
                MUST(bg_write_full(fd, input + out, size / 2) == 0);
            out += size;
            given = taken; /* in a WINDOW that is lost */
        }
    }
    while (out < taken) {
        uint32_t size = (uint32_t)(taken - out < sizeof payload ? taken - out : sizeof payload);
        put_frame(fd, BG_FRAME_STDOUT, input + out, size);
        out += size;
    }
    put_exit(fd, 4);
}

static void goes_on_over_other_connections(void **state)
{
    (void)state;
    size_t count = 0;
    make_lines();
    struct run run = begin(echoes_with_cuts);
    pid_t checker = start_checker(&run);
    close_fd(&run.in[1]);
    run.on_lost = take_line;
    run.owner = &count;
    assert_int_equal(go(&run), 0);
    assert_int_equal(run.result.exit_status, 4);
    assert_true(count >= CUTS - 1);
    expect_good_end(checker);
    for (size_t i = count; i <= CUTS; i++) {
        (void)close(lines[i][0]);
        (void)close(lines[i][1]);
    }
    end(&run);
}

static void begins_and_is_gone(int fd)
{
    put_reply(fd, 0, NULL);
    put_frame(fd, BG_FRAME_STDOUT, "begun\n", 6);
}

static int give_up(void *owner, const struct exec_position *at, int *ret_fd, struct bg_err *err)
{
    const int *how = owner;
    (void)ret_fd;
    assert_int_equal(at->out, 6);
    return *how > 0 ? *how : bg_err_set(err, *how, "it is gone");
}

static void gives_up_when_there_is_no_other_connection(void **state)
{
    (void)state;
    int how = -ESRCH;
    struct run run = begin(begins_and_is_gone);
    run.on_lost = give_up;
    run.owner = &how;
    assert_int_equal(go(&run), -ESRCH);
    assert_string_equal(run.why.text, "it is gone");
    end(&run);
    how = SIGTERM; /* which came while we waited */
    run = begin(begins_and_is_gone);
    run.on_lost = give_up;
    run.owner = &how;
    assert_int_equal(go(&run), 0);
    assert_int_equal(run.result.exit_status, 128 + SIGTERM);
    end(&run);
}

static void replies_and_ends(int fd)
{
    put_reply(fd, 0, NULL);
}

static void leaves_a_command_that_was_begun_alone(void **state)
{
    (void)state;
    struct run run = begin(replies_and_ends);
    run.leave = true;
    assert_int_equal(go(&run), 0);
    assert_true(run.result.left && run.result.started);
    assert_int_equal(run.result.exit_status, 0);
    assert_int_equal(run.result.pid, 1);
    end(&run);
}

static void waits_for_the_detach_keys(int fd)
{
    uint8_t payload[BG_FRAME_SIZE_MAX], all[64];
    uint32_t size, used = 0;
    put_attached(fd, &(struct bg_exec_attached){.pid = 1, .flags = BG_EXEC_IS_TTY});
    for (;;) {
        uint8_t type = get_frame(fd, payload, &size);
        if (type == BG_FRAME_LEAVE)
            break;
        MUST(type == BG_FRAME_STDIN && used + size <= sizeof all);
        memcpy(all + used, payload, size);
        used += size;
    }
    /* A Ctrl-P by itself is the command's. */
    MUST(used == 4 && memcmp(all, "a\020bc", 4) == 0);
}

static void the_detach_keys_leave_the_command(void **state)
{
    (void)state;
    static const char *const typed[] = {"a\020bc\020\021", "a", "\020", "bc", "\020", "\021"};
    for (size_t piecewise = 0; piecewise < 2; piecewise++) {
        struct run run = begin(waits_for_the_detach_keys);
        int ends[2];
        run.attach = run.detach_keys = run.tty = true;
        /* A packet each, so that each is read by itself. */
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
        close_fd(&run.in[0]);
        run.in[0] = ends[0];
        for (size_t i = piecewise; i < (piecewise ? sizeof typed / sizeof *typed : 1); i++)
            assert_true(write(ends[1], typed[i], strlen(typed[i])) > 0);
        assert_int_equal(go(&run), 0);
        assert_true(run.result.left);
        (void)close(ends[1]);
        end(&run);
    }
}

static void is_taken(int fd)
{
    put_reply(fd, 0, NULL);
    put_frame(fd, BG_FRAME_TAKEN, NULL, 0);
}

static void says_that_somebody_else_has_it(void **state)
{
    (void)state;
    struct run run = begin(is_taken);
    assert_int_equal(go(&run), -EBUSY);
    end(&run);
}

static void ends_at_once(int fd)
{
    put_reply(fd, 0, NULL);
    put_exit(fd, 0);
}

static void ends_though_stdin_stays_open(void **state)
{
    (void)state;
    struct run run = begin(ends_at_once);
    assert_int_equal(go(&run), 0);
    assert_int_equal(run.result.exit_status, 0);
    end(&run);
}

static void waits_then_exits(int fd)
{
    uint8_t byte;
    put_reply(fd, 0, NULL);
    MUST(bg_read_full(fd, &byte, 1) < 0);
}

static void talks_then_waits(int fd)
{
    uint8_t byte;
    put_reply(fd, 0, NULL);
    put_frame(fd, BG_FRAME_STDOUT, "to out\n", 7);
    MUST(bg_read_full(fd, &byte, 1) < 0);
}

static void stops_when_nobody_reads_the_output(void **state)
{
    (void)state;
    (void)signal(SIGPIPE, SIG_IGN);
    struct run run = begin(talks_then_waits);
    close_fd(&run.out[0]);
    assert_int_equal(go(&run), 0);
    assert_int_equal(run.result.exit_status, 128 + SIGPIPE);
    close_fd(&run.stream);
    end(&run);
}

static void refuses_absent(int fd)
{
    put_reply(fd, -ENOENT, "no command 'x'");
}

static void refuses_unreadable(int fd)
{
    put_reply(fd, -EACCES, "'x' is not executable");
}

static void refuses_user(int fd)
{
    put_reply(fd, -ESRCH, "no user \x1b]0;x\a");
}

static void refuses_folder(int fd)
{
    put_reply(fd, -ENOTDIR, "working folder '/x': No such file or directory");
}

static void tells_refusals_as_shells_do(void **state)
{
    (void)state;
    static const struct {
        void (*guest)(int fd);
        int r, exit_status;
        const char *says;
    } cases[] = {
        {refuses_absent, 0, 127, "no command 'x'"},
        {refuses_unreadable, 0, 126, "not executable"},
        {refuses_user, -ESRCH, 0, "no user \\x1b]0;x\\x07"},
        {refuses_folder, -ENOTDIR, 0, "working folder '/x'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run run = begin(cases[i].guest);
        assert_int_equal(go(&run), cases[i].r);
        if (cases[i].r == 0)
            assert_int_equal(run.result.exit_status, cases[i].exit_status);
        assert_false(run.result.started);
        assert_non_null(strstr(run.why.text, cases[i].says));
        end(&run);
    }
}

static void hangs_up_early(int fd)
{
    put_reply(fd, 0, NULL);
    put_frame(fd, BG_FRAME_STDOUT, "half", 4);
}

static void hangs_up_in_a_frame(int fd)
{
    uint8_t header[BG_FRAME_HEADER_SIZE];
    bg_frame_header_emit(BG_FRAME_STDOUT, 100, header);
    put_reply(fd, 0, NULL);
    MUST(bg_write_full(fd, header, sizeof header) == 0);
    MUST(bg_write_full(fd, "half", 4) == 0);
}

static void hangs_up_in_the_reply(int fd)
{
    MUST(bg_write_full(fd, "BGLR", 4) == 0);
}

static void lies_about_the_window(int fd)
{
    put_reply(fd, 0, NULL);
    put_u32s(fd, BG_FRAME_WINDOW, 1, 0, 1);
}

static void sends_garbage(int fd)
{
    static const uint8_t garbage[4096] = {0xff, 0xff, 0xff, 0xff, 0xff};
    MUST(bg_write_full(fd, garbage, sizeof garbage) == 0);
}

static void survives_hostile_guests(void **state)
{
    (void)state;
    static const struct {
        void (*guest)(int fd);
        int r;
    } cases[] = {
        {hangs_up_early, -ECONNRESET},
        {hangs_up_in_a_frame, -ECONNRESET},
        {hangs_up_in_the_reply, -ECONNRESET},
        {lies_about_the_window, -EPROTO},
        {sends_garbage, -EPROTO},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run run = begin(cases[i].guest);
        assert_int_equal(go(&run), cases[i].r);
        assert_true(run.why.text[0] != '\0');
        end(&run);
    }
}

/* --- signals --- */

/* Blocks the signals and gives their fd; a child that is forked later has them blocked too. */
static int open_signals(void)
{
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGWINCH);
    assert_int_equal(sigprocmask(SIG_BLOCK, &set, NULL), 0);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    assert_true(fd >= 0);
    return fd;
}

/* Sends us the signal when the command has put out `size` bytes; in a child. */
static pid_t start_signaller(struct run *run, size_t size, int number)
{
    pid_t self = getpid(), pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    char bytes[16];
    (void)alarm(60);
    (void)close(run->out[1]);
    MUST(bg_read_full(run->out[0], bytes, size) == 0);
    MUST(kill(self, number) == 0);
    _exit(0);
}

static void expects_sigint(int fd)
{
    static uint8_t payload[BG_FRAME_SIZE_MAX];
    uint32_t size;
    put_reply(fd, 0, NULL);
    put_frame(fd, BG_FRAME_STDOUT, "x", 1);
    MUST(get_frame(fd, payload, &size) == BG_FRAME_SIGNAL);
    MUST(size == 4 && payload[0] == SIGINT && !payload[1] && !payload[2] && !payload[3]);
    put_u32s(fd, BG_FRAME_EXIT, BG_EXIT_SIGNAL, SIGINT, 2);
}

static void passes_a_signal_on(void **state)
{
    (void)state;
    int signals = open_signals();
    struct run run = begin(expects_sigint);
    run.signals = signals;
    pid_t helper = start_signaller(&run, 1, SIGINT);
    assert_int_equal(go(&run), 0);
    assert_int_equal(run.result.exit_status, 128 + SIGINT);
    expect_good_end(helper);
    end(&run);
}

static void ignores_sigint(int fd)
{
    static uint8_t payload[BG_FRAME_SIZE_MAX];
    uint32_t size;
    put_reply(fd, 0, NULL);
    put_frame(fd, BG_FRAME_STDOUT, "x", 1);
    MUST(get_frame(fd, payload, &size) == BG_FRAME_SIGNAL);
    MUST(kill(getppid(), SIGINT) == 0);
    MUST(bg_read_full(fd, payload, 1) < 0); /* we are left */
}

static void leaves_at_the_second_signal(void **state)
{
    (void)state;
    int signals = open_signals();
    struct run run = begin(ignores_sigint);
    run.signals = signals;
    pid_t helper = start_signaller(&run, 1, SIGINT);
    assert_int_equal(go(&run), 0);
    assert_int_equal(run.result.exit_status, 128 + SIGINT);
    expect_good_end(helper);
    close_fd(&run.stream);
    end(&run);
}

static void never_answers(int fd)
{
    uint8_t byte;
    MUST(kill(getppid(), SIGINT) == 0);
    MUST(bg_read_full(fd, &byte, 1) < 0);
}

static void a_guest_that_never_answers_is_left_at_the_first_signal(void **state)
{
    (void)state;
    int signals = open_signals();
    struct run run = begin(never_answers);
    run.signals = signals;
    assert_int_equal(go(&run), 0);
    assert_int_equal(run.result.exit_status, 128 + SIGINT);
    assert_false(run.result.started);
    close_fd(&run.stream);
    end(&run);
}

/* --- terminals --- */

static void expects_size(int fd)
{
    static uint8_t payload[BG_FRAME_SIZE_MAX];
    uint32_t size;
    put_reply(fd, 0, NULL);
    put_frame(fd, BG_FRAME_STDOUT, "ready", 5);
    MUST(get_frame(fd, payload, &size) == BG_FRAME_RESIZE);
    MUST(size == 4 && payload[0] == 55 && payload[2] == 111);
    MUST(get_frame(fd, payload, &size) == BG_FRAME_STDIN);
    MUST(size == 1 && payload[0] == 3); /* Ctrl-C is a byte */
    put_exit(fd, 0);
}

static void gives_a_terminal_to_the_command(void **state)
{
    (void)state;
    int signals = open_signals(), master, slave;
    struct winsize size = {.ws_row = 55, .ws_col = 111};
    struct termios before, after;
    assert_int_equal(openpty(&master, &slave, NULL, NULL, &size), 0);
    assert_int_equal(tcgetattr(slave, &before), 0);
    struct run run = begin(expects_size);
    run.signals = signals;
    run.tty = true;
    terminal_init(&run.terminal, slave);
    close_fd(&run.in[0]);
    run.in[0] = slave;
    pid_t self = getpid(), helper = fork();
    assert_true(helper >= 0);
    if (helper == 0) {
        char bytes[5];
        (void)close(run.out[1]);
        MUST(bg_read_full(run.out[0], bytes, 5) == 0);
        struct termios raw;
        MUST(tcgetattr(slave, &raw) == 0 && !(raw.c_lflag & (ICANON | ISIG | ECHO)));
        MUST(kill(self, SIGWINCH) == 0);
        MUST(write(master, "\x03", 1) == 1);
        _exit(0);
    }
    assert_int_equal(go(&run), 0);
    assert_int_equal(run.result.exit_status, 0);
    assert_int_equal(tcgetattr(slave, &after), 0);
    assert_int_equal(after.c_lflag, before.c_lflag);
    assert_int_equal(after.c_iflag, before.c_iflag);
    expect_good_end(helper);
    end(&run);
    (void)close(master);
}

static void leaves_when_the_terminal_is_closed(void **state)
{
    (void)state;
    int master, slave;
    struct run run = begin(waits_then_exits); /* first, so that it does not hold the terminal */
    assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
    run.tty = true;
    terminal_init(&run.terminal, slave);
    close_fd(&run.in[0]);
    run.in[0] = slave;
    (void)close(master);
    assert_int_equal(go(&run), 0);
    assert_int_equal(run.result.exit_status, 128 + SIGHUP);
    close_fd(&run.stream);
    end(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_outputs_apart_and_passes_the_status),
        cmocka_unit_test(an_owner_takes_output_off_the_front),
        cmocka_unit_test(an_owner_leaves_the_rest_or_ends_the_run),
        cmocka_unit_test(carries_much_both_ways_within_the_window),
        cmocka_unit_test(goes_on_over_other_connections),
        cmocka_unit_test(gives_up_when_there_is_no_other_connection),
        cmocka_unit_test(leaves_a_command_that_was_begun_alone),
        cmocka_unit_test(the_detach_keys_leave_the_command),
        cmocka_unit_test(says_that_somebody_else_has_it),
        cmocka_unit_test(ends_though_stdin_stays_open),
        cmocka_unit_test(stops_when_nobody_reads_the_output),
        cmocka_unit_test(tells_refusals_as_shells_do),
        cmocka_unit_test(survives_hostile_guests),
        cmocka_unit_test(passes_a_signal_on),
        cmocka_unit_test(leaves_at_the_second_signal),
        cmocka_unit_test(a_guest_that_never_answers_is_left_at_the_first_signal),
        cmocka_unit_test(gives_a_terminal_to_the_command),
        cmocka_unit_test(leaves_when_the_terminal_is_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
