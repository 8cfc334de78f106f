/* Exec streams of an agent on a Unix socket: what a command gets, what it gives, how it ends. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "tests/unit/guest/client.h"

static int start(void **state)
{
    struct test_agent *agent = calloc(1, sizeof *agent);
    assert_non_null(agent);
    test_agent_start(agent, NULL);
    *state = agent;
    return 0;
}

static int stop(void **state)
{
    test_agent_stop(*state);
    free(*state);
    return 0;
}

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})

static void shell(const struct test_agent *agent, const char *script, const char *input,
                  struct exec_result *result)
{
    client_exec(agent, &(struct exec_args){.argv = ARGV("sh", "-c", script)}, input, result);
}

static void keeps_output_errors_and_status_apart(void **state)
{
    struct exec_result r;
    shell(*state, "cat; echo warning >&2; exit 7", "from stdin", &r);
    assert_int_equal(r.status, 0);
    assert_string_equal(r.out, "from stdin");
    assert_string_equal(r.err, "warning\n");
    assert_int_equal(r.how, BG_EXIT_STATUS);
    assert_int_equal(r.value, 7);
    exec_result_done(&r);
    shell(*state, "kill -KILL $$", NULL, &r);
    assert_int_equal(r.how, BG_EXIT_SIGNAL);
    assert_int_equal(r.value, SIGKILL);
    exec_result_done(&r);
}

/* All of a pipe's worth of input is taken while the command is still on its way. */
static void the_reply_comes_before_all_else(void **state)
{
    enum { INPUT = 64 * 1024, TRIES = 20 };
    static uint8_t bytes[BG_STREAM_HEADER_SIZE + 4096 + BG_FRAME_HEADER_SIZE + INPUT];
    const struct exec_args args = {.argv = ARGV("sleep", "60")};
    for (int i = 0; i < TRIES; i++) {
        char reply[BG_REPLY_TEXT_MAX + 1];
        uint8_t *at = bytes + BG_STREAM_HEADER_SIZE, payload[BG_FRAME_SIZE_MAX];
        size_t size = client_exec_body(&args, at, 4096);
        bg_stream_header_emit(&(struct bg_stream_header){.kind = BG_STREAM_EXEC,
                                                         .id = 1,
                                                         .body_size = (uint32_t)size},
                              bytes);
        bg_frame_header_emit(BG_FRAME_STDIN, INPUT, at + size);
        int fd = client_connect(*state);
        client_write(fd, bytes, BG_STREAM_HEADER_SIZE + size + BG_FRAME_HEADER_SIZE + INPUT);
        assert_int_equal(client_reply(fd, reply), 0);
        assert_int_equal(client_next(fd, payload, &size), BG_FRAME_WINDOW);
        (void)close(fd); /* which ends the command */
    }
}

static void says_why_a_command_cannot_start(void **state)
{
    const struct {
        struct exec_args args;
        int status;
        const char *text;
    } cases[] = {
        {{.argv = ARGV("no-such-thing")}, -ENOENT, "no-such-thing"},
        {{.argv = ARGV("/no/such/thing")}, -ENOENT, "/no/such/thing"},
        {{.argv = ARGV("/etc/passwd")}, -EACCES, "/etc/passwd"},
        {{.argv = ARGV("")}, -ENOENT, "''"},
        {{.argv = ARGV("true"), .cwd = "/no/folder"}, -ENOTDIR, "/no/folder"},
        {{.argv = ARGV("true"), .cwd = "/etc/passwd"}, -ENOTDIR, "/etc/passwd"},
        {{.argv = ARGV("true"), .user = "nobody-here"}, -ESRCH, "nobody-here"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct exec_result r;
        client_exec(*state, &cases[i].args, NULL, &r);
        assert_int_equal(r.status, cases[i].status);
        assert_non_null(strstr(r.reply, cases[i].text));
        exec_result_done(&r);
    }
}

static void gives_the_command_a_clean_process(void **state)
{
    struct exec_result r;
    /* No fd but three, no ignored or blocked signal, a session of its own. */
    shell(*state,
          "ls /proc/self/fd | wc -l; grep -E 'Sig(Blk|Ign)' /proc/self/status;"
          "ps -o sid= -p $$ | tr -d ' ' | grep -qx $$ && echo leader; cat /proc/self/oom_score_adj",
          NULL, &r);
    assert_string_equal(r.err, "");
    assert_non_null(strstr(r.out, "4\n")); /* ls has the folder open */
    assert_non_null(strstr(r.out, "SigBlk:\t0000000000000000"));
    assert_non_null(strstr(r.out, "SigIgn:\t0000000000000000"));
    assert_non_null(strstr(r.out, "leader\n0\n"));
    exec_result_done(&r);
}

static void environment_has_the_user_and_the_request(void **state)
{
    struct exec_result r;
    struct exec_args args = {.argv = ARGV("env"), .env = ARGV("A=1", "HOME=/else", "A=2", "B=x=y")};
    client_exec(*state, &args, NULL, &r);
    assert_non_null(strstr(r.out, "A=2\n"));
    assert_null(strstr(r.out, "A=1\n"));
    assert_non_null(strstr(r.out, "HOME=/else\n"));
    assert_non_null(strstr(r.out, "B=x=y\n"));
    assert_non_null(strstr(r.out, "LANG=C.UTF-8\n"));
    assert_non_null(strstr(r.out, "PATH=/usr/local/sbin:"));
    exec_result_done(&r);
    args.flags = BG_EXEC_CLEAR_ENV;
    args.env = ARGV("ONLY=this");
    client_exec(*state, &args, NULL, &r);
    assert_null(strstr(r.out, "HOME="));
    assert_non_null(strstr(r.out, "ONLY=this\n"));
    assert_non_null(strstr(r.out, "PATH="));
    exec_result_done(&r);
}

static void arguments_are_bytes(void **state)
{
    struct exec_result r;
    client_exec(*state,
                &(struct exec_args){.argv = ARGV("printf", "%s|", "\xff\xfe", "", "a b", "\n")},
                NULL, &r);
    assert_string_equal(r.out, "\xff\xfe||a b|\n|");
    exec_result_done(&r);
}

static void scripts_without_interpreter_run_in_sh(void **state)
{
    char path[] = "/tmp/bg-script-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(bg_write_full(fd, "echo $0 $1\n", 11), 0);
    assert_int_equal(fchmod(fd, 0755), 0);
    (void)close(fd);
    struct exec_result r;
    client_exec(*state, &(struct exec_args){.argv = ARGV(path, "arg")}, NULL, &r);
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "arg\n"));
    assert_non_null(strstr(r.out, path));
    exec_result_done(&r);
    (void)unlink(path);
}

/* Writes what the window allows, reads what comes; the sum of both sides is checked. */
static void stdin_and_stdout_carry_much_at_once(void **state)
{
    const size_t total = 64u << 20;
    struct exec_result r;
    int fd = client_exec_start(*state, &(struct exec_args){.argv = ARGV("cat")}, &r);
    assert_int_equal(r.status, 0);
    static uint8_t chunk[BG_FRAME_SIZE_MAX], payload[BG_FRAME_SIZE_MAX];
    size_t sent = 0, got = 0, window = BG_EXEC_STDIN_WINDOW;
    bool ended = false;
    for (;;) {
        if (!ended && sent == total) {
            client_frame(fd, BG_FRAME_STDIN_EOF, NULL, 0);
            ended = true;
        }
        /* Writes only while nothing is to be read: else both sides could wait for each other. */
        struct pollfd p = {.fd = fd, .events = POLLIN};
        bool may_write = sent < total && window >= sizeof chunk;
        int ready = poll(&p, 1, may_write ? 0 : 60000);
        assert_true(ready >= 0);
        if (ready == 0) {
            assert_true(may_write);
            for (size_t i = 0; i < sizeof chunk; i++)
                chunk[i] = (uint8_t)((sent + i) * 31 >> 3);
            client_frame(fd, BG_FRAME_STDIN, chunk, sizeof chunk);
            sent += sizeof chunk;
            window -= sizeof chunk;
            continue;
        }
        size_t size;
        uint8_t type = client_next(fd, payload, &size);
        if (type == BG_FRAME_EXIT)
            break;
        if (type == BG_FRAME_WINDOW) {
            struct bg_reader in = bg_reader_init(payload, size);
            window += bg_reader_u32le(&in);
            assert_true(window <= BG_EXEC_STDIN_WINDOW);
            continue;
        }
        assert_int_equal(type, BG_FRAME_STDOUT);
        for (size_t i = 0; i < size; i++)
            if (payload[i] != (uint8_t)((got + i) * 31 >> 3))
                fail_msg("byte %zu is wrong", got + i);
        got += size;
    }
    assert_int_equal(got, total);
    (void)close(fd);
}

static void input_that_nobody_reads_is_given_back(void **state)
{
    struct exec_result r;
    int fd = client_exec_start(
        *state, &(struct exec_args){.argv = ARGV("sh", "-c", "exec <&-; echo closed; sleep 1000")},
        &r);
    static uint8_t payload[BG_FRAME_SIZE_MAX];
    size_t size, window = BG_EXEC_STDIN_WINDOW, sent = 0;
    assert_int_equal(client_next(fd, payload, &size), BG_FRAME_STDOUT);
    while (sent < 4 * BG_EXEC_STDIN_WINDOW) {
        while (window < sizeof payload) {
            assert_int_equal(client_next(fd, payload, &size), BG_FRAME_WINDOW);
            struct bg_reader in = bg_reader_init(payload, size);
            window += bg_reader_u32le(&in);
        }
        client_frame(fd, BG_FRAME_STDIN, payload, sizeof payload);
        window -= sizeof payload;
        sent += sizeof payload;
    }
    (void)close(fd);
}

static void input_past_the_window_ends_the_stream(void **state)
{
    struct exec_result r;
    int fd = client_exec_start(*state, &(struct exec_args){.argv = ARGV("sleep", "1000")}, &r);
    assert_int_equal(r.status, 0);
    static uint8_t payload[BG_FRAME_SIZE_MAX];
    /* The command reads nothing: its pipe takes 64 KiB, the agent holds the rest. */
    for (size_t i = 0; i < BG_EXEC_STDIN_WINDOW / sizeof payload; i++)
        client_frame(fd, BG_FRAME_STDIN, payload, sizeof payload);
    size_t size;
    assert_int_equal(client_next(fd, payload, &size), BG_FRAME_WINDOW);
    for (size_t i = 0; i < 2; i++) {
        uint8_t header[BG_FRAME_HEADER_SIZE];
        bg_frame_header_emit(BG_FRAME_STDIN, sizeof payload, header);
        (void)send(fd, header, sizeof header, MSG_NOSIGNAL);
        (void)send(fd, payload, sizeof payload, MSG_NOSIGNAL);
    }
    assert_true(client_at_end(fd));
    (void)close(fd);
}

static void signals_reach_the_group(void **state)
{
    struct exec_result r;
    int fd = client_exec_start(
        *state,
        &(struct exec_args){
            .argv =
                ARGV("sh", "-c", "trap 'echo got; exit 3' TERM; echo ready; sleep 1000 & wait")},
        &r);
    static uint8_t payload[BG_FRAME_SIZE_MAX];
    size_t size;
    assert_int_equal(client_next(fd, payload, &size), BG_FRAME_STDOUT);
    client_frame(fd, BG_FRAME_SIGNAL, (uint8_t[]){SIGTERM, 0, 0, 0}, 4);
    client_exec_finish(fd, &r);
    assert_string_equal(r.out, "got\n");
    assert_int_equal(r.value, 3);
    exec_result_done(&r);
}

static void a_background_process_does_not_hold_the_exit(void **state)
{
    struct exec_result r;
    shell(*state, "(trap '' HUP; sleep 1000) & yes >&2 & echo main", NULL, &r);
    assert_string_equal(r.out, "main\n");
    assert_int_equal(r.how, BG_EXIT_STATUS);
    assert_int_equal(r.value, 0);
    exec_result_done(&r);
}

static bool is_running(pid_t pid)
{
    char path[64];
    BG_AUTOFREE char *text = NULL;
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (bg_read_file(AT_FDCWD, path, 4096, &text, NULL, NULL) < 0)
        return false;
    const char *end = strrchr(text, ')');
    return end && end[2] != 'Z' && end[2] != 'X';
}

static void a_closed_stream_kills_everything(void **state)
{
    const struct test_agent *agent = *state;
    if (!agent->cgroup_path[0])
        skip();
    struct exec_result r;
    /* Out of the process group and the session: only the cgroup knows it. */
    int fd = client_exec_start(
        agent, &(struct exec_args){.argv = ARGV("sh", "-c", "setsid sleep 1000 & echo $!; wait")},
        &r);
    char pid[64] = "";
    size_t size;
    static uint8_t payload[BG_FRAME_SIZE_MAX];
    assert_int_equal(client_next(fd, payload, &size), BG_FRAME_STDOUT);
    memcpy(pid, payload, size < sizeof pid ? size : sizeof pid - 1);
    (void)close(fd);
    pid_t number = (pid_t)strtol(pid, NULL, 10);
    assert_true(number > 0);
    uint64_t deadline_ms = bg_now_ms() + 30000;
    while (is_running(number)) {
        assert_true(bg_now_ms() < deadline_ms);
        (void)poll(NULL, 0, 1); /* there is no event of another's child to wait for */
    }
}

static void a_detached_command_only_loses_its_pipes(void **state)
{
    struct exec_result r;
    char path[] = "/tmp/bg-detached-XXXXXX";
    int made = mkstemp(path);
    assert_true(made >= 0);
    /* It outlives its stream, hears of it by the end of its input, and is reaped at its own end. */
    int fd = client_exec_start(
        *state,
        &(struct exec_args){.argv =
                                ARGV("sh", "-c", "cat; echo $$ >\"$0\"; sleep 1000 & wait", path),
                            .flags = BG_EXEC_DETACH},
        &r);
    (void)close(fd);
    uint64_t deadline_ms = bg_now_ms() + 30000;
    pid_t number = 0;
    while (number == 0) {
        char text[32] = "";
        assert_true(bg_now_ms() < deadline_ms);
        assert_true(pread(made, text, sizeof text - 1, 0) >= 0);
        number = strchr(text, '\n') ? (pid_t)strtol(text, NULL, 10) : 0;
        (void)poll(NULL, 0, 1); /* there is no event of another's file to wait for */
    }
    assert_true(is_running(number));
    assert_int_equal(kill(-number, SIGKILL), 0); /* a leader of its own session */
    while (is_running(number)) {
        assert_true(bg_now_ms() < deadline_ms);
        (void)poll(NULL, 0, 1);
    }
    (void)close(made);
    (void)unlink(path);
}

static void terminals_have_a_size_and_one_stream(void **state)
{
    struct exec_result r;
    client_exec(
        *state,
        &(struct exec_args){.argv = ARGV("sh", "-c", "stty size; test -t 2 && echo tty >&2; cat"),
                            .flags = BG_EXEC_TTY,
                            .rows = 33,
                            .columns = 99},
        "line\n", &r);
    assert_string_equal(r.err, "");
    assert_non_null(strstr(r.out, "33 99\r\n"));
    assert_non_null(strstr(r.out, "tty\r\n"));
    assert_non_null(strstr(r.out, "line\r\n"));
    assert_int_equal(r.value, 0);
    exec_result_done(&r);
}

static void terminals_resize_and_interrupt(void **state)
{
    struct exec_result r;
    static uint8_t payload[BG_FRAME_SIZE_MAX];
    size_t size;
    int fd = client_exec_start(
        *state,
        &(struct exec_args){
            .argv = ARGV("sh", "-c",
                         "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done"),
            .flags = BG_EXEC_TTY},
        &r);
    assert_int_equal(client_next(fd, payload, &size), BG_FRAME_STDOUT);
    client_frame(fd, BG_FRAME_RESIZE, (uint8_t[]){50, 0, 132, 0}, 4);
    char text[256] = "";
    while (!strstr(text, "50 132\r\n")) {
        assert_int_equal(client_next(fd, payload, &size), BG_FRAME_STDOUT);
        assert_true(strlen(text) + size < sizeof text);
        (void)snprintf(text + strlen(text), sizeof text - strlen(text), "%.*s", (int)size,
                       (char *)payload);
    }
    client_frame(fd, BG_FRAME_STDIN, "\x03", 1); /* Ctrl-C */
    client_exec_finish(fd, &r);
    assert_int_equal(r.how, BG_EXIT_SIGNAL);
    assert_int_equal(r.value, SIGINT);
    exec_result_done(&r);
}

static void terminal_output_is_whole_at_the_end(void **state)
{
    struct exec_result r;
    for (int i = 0; i < 20; i++) {
        client_exec(*state,
                    &(struct exec_args){.argv = ARGV("seq", "1", "3000"), .flags = BG_EXEC_TTY},
                    NULL, &r);
        assert_int_equal(r.out_size, 9 * 3 + 90 * 4 + 900 * 5 + 2001 * 6 + 0);
        exec_result_done(&r);
    }
}

static void many_at_once(void **state)
{
    enum { COUNT = 64 };
    int fds[COUNT];
    struct exec_result r[COUNT];
    for (int i = 0; i < COUNT; i++) {
        char number[16];
        (void)snprintf(number, sizeof number, "%d", i);
        fds[i] = client_exec_start(
            *state,
            &(struct exec_args){
                .argv = ARGV("sh", "-c", "read x; seq 1 5000; echo $x; exit $0", number)},
            &r[i]);
        assert_int_equal(r[i].status, 0);
    }
    for (int i = 0; i < COUNT; i++) {
        client_frame(fds[i], BG_FRAME_STDIN, "go\n", 3);
        client_frame(fds[i], BG_FRAME_STDIN_EOF, NULL, 0);
    }
    for (int i = COUNT - 1; i >= 0; i--) {
        client_exec_finish(fds[i], &r[i]);
        assert_int_equal(r[i].value, i);
        assert_int_equal(r[i].out_size, 9 * 2 + 90 * 3 + 900 * 4 + 4001 * 5 + 3);
        exec_result_done(&r[i]);
    }
}

static void cgroups_go_with_their_commands(void **state)
{
    const struct test_agent *agent = *state;
    if (!agent->cgroup_path[0])
        skip();
    for (int i = 0; i < 10; i++) {
        struct exec_result r;
        shell(agent, "true", NULL, &r);
        exec_result_done(&r);
    }
    char path[192];
    for (int i = 0; i < 10; i++) {
        (void)snprintf(path, sizeof path, "%s/%d", agent->cgroup_path, i);
        /* At once, or a second later: the kernel may not be done with the process yet. */
        uint64_t deadline_ms = bg_now_ms() + 30000;
        while (access(path, F_OK) == 0) {
            assert_true(bg_now_ms() < deadline_ms);
            (void)poll(NULL, 0, 10); /* cgroups have no event for their end */
        }
    }
}

int main(void)
{
#define WITH_AGENT(f) cmocka_unit_test_setup_teardown(f, start, stop)
    const struct CMUnitTest tests[] = {
        WITH_AGENT(keeps_output_errors_and_status_apart),
        WITH_AGENT(the_reply_comes_before_all_else),
        WITH_AGENT(says_why_a_command_cannot_start),
        WITH_AGENT(gives_the_command_a_clean_process),
        WITH_AGENT(environment_has_the_user_and_the_request),
        WITH_AGENT(arguments_are_bytes),
        WITH_AGENT(scripts_without_interpreter_run_in_sh),
        WITH_AGENT(stdin_and_stdout_carry_much_at_once),
        WITH_AGENT(input_that_nobody_reads_is_given_back),
        WITH_AGENT(input_past_the_window_ends_the_stream),
        WITH_AGENT(signals_reach_the_group),
        WITH_AGENT(a_background_process_does_not_hold_the_exit),
        WITH_AGENT(a_closed_stream_kills_everything),
        WITH_AGENT(a_detached_command_only_loses_its_pipes),
        WITH_AGENT(terminals_have_a_size_and_one_stream),
        WITH_AGENT(terminals_resize_and_interrupt),
        WITH_AGENT(terminal_output_is_whole_at_the_end),
        WITH_AGENT(many_at_once),
        WITH_AGENT(cgroups_go_with_their_commands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
