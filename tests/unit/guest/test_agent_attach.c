/* Execs that outlive their stream, of an agent on a Unix socket: after the machine was restored
 * from a snapshot, after the host has left, and what who is attached next gets to know. */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "tests/unit/guest/client.h"

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define SELF      "sbx_self"

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

/* A new session whose identity says how the machine came here. */
static void begin(const struct test_agent *agent, uint32_t flags, const char *id)
{
    static int session = -1;
    char reply[BG_REPLY_TEXT_MAX + 1];
    uint8_t payload[BG_FRAME_SIZE_MAX];
    size_t size;
    if (session >= 0)
        (void)close(session);
    session = client_connect(agent);
    client_open(session, BG_STREAM_SESSION, NULL, 0);
    assert_int_equal(client_reply(session, reply), 0);
    assert_int_equal(client_next(session, payload, &size), BG_FRAME_HELLO);
    struct bg_identity identity = {.flags = flags, .hostname = "test"};
    (void)snprintf(identity.sandbox_id, sizeof identity.sandbox_id, "%s", id);
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_identity_emit(&identity, &w);
    client_frame(session, BG_FRAME_IDENTITY, payload, w.used);
    assert_int_equal(client_next(session, payload, &size), BG_FRAME_READY);
    struct bg_reader in = bg_reader_init(payload, size);
    assert_int_equal(bg_reader_u32le(&in), 0);
}

static uint32_t pid_of(const struct exec_result *r)
{
    assert_int_equal(r->status, 0);
    struct bg_reader in = bg_reader_init((const uint8_t *)r->reply, 4);
    return bg_reader_u32le(&in);
}

/* Starts a script. Returns the stream. */
static int run(const struct test_agent *agent, const char *script, uint32_t flags,
               struct exec_result *r)
{
    return client_exec_start(
        agent, &(struct exec_args){.argv = ARGV("sh", "-c", script), .flags = flags}, r);
}

/* Returns the status; on success *ret_fd is the stream. */
static int attach(const struct test_agent *agent, struct bg_exec_attach request, int *ret_fd,
                  struct bg_exec_attached *ret)
{
    uint8_t body[64];
    char reply[BG_REPLY_TEXT_MAX + 1];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    request.flags |= BG_EXEC_ATTACH;
    bg_exec_attach_emit(&request, &w);
    int fd = client_connect(agent);
    client_open(fd, BG_STREAM_EXEC, body, w.used);
    int status = client_reply(fd, reply);
    if (status < 0) {
        (void)close(fd);
        return status;
    }
    assert_int_equal(
        bg_exec_attached_parse((const uint8_t *)reply, BG_EXEC_ATTACHED_SIZE, ret, NULL), 0);
    *ret_fd = fd;
    return 0;
}

/* What a client has of a command's stdout so far. */
struct got {
    char *text;
    size_t size;
    bool exited;
    uint32_t value;
};

static void take(struct got *got, const void *bytes, size_t size)
{
    got->text = realloc(got->text, got->size + size + 1);
    assert_non_null(got->text);
    memcpy(got->text + got->size, bytes, size);
    got->size += size;
    got->text[got->size] = '\0';
}

/* Reads to the stream's end, of a frame that is cut as well, or until at least `until` bytes are
 * there. Returns false at the end. */
static bool read_on(int fd, struct got *got, size_t until)
{
    uint8_t payload[BG_FRAME_SIZE_MAX];
    while (got->size < until) {
        uint8_t header[BG_FRAME_HEADER_SIZE];
        struct bg_frame_header frame;
        ssize_t n = recv(fd, header, sizeof header, MSG_WAITALL);
        if (n < (ssize_t)sizeof header)
            return false;
        assert_int_equal(
            bg_frame_header_parse(header, sizeof header, BG_FRAME_SIZE_MAX, &frame, NULL), 0);
        n = frame.size > 0 ? recv(fd, payload, frame.size, MSG_WAITALL) : 0;
        if (frame.type == BG_FRAME_STDOUT && n > 0)
            take(got, payload, (size_t)n);
        if (n < (ssize_t)frame.size)
            return false;
        if (frame.type == BG_FRAME_EXIT) {
            struct bg_reader in = bg_reader_init(payload, frame.size);
            got->exited = true;
            assert_int_equal(bg_reader_u32le(&in), BG_EXIT_STATUS);
            got->value = bg_reader_u32le(&in);
        } else {
            assert_true(frame.type == BG_FRAME_STDOUT || frame.type == BG_FRAME_WINDOW ||
                        frame.type == BG_FRAME_TAKEN);
        }
    }
    return true;
}

/* Waits until the process is gone. */
static void await_end(uint32_t pid)
{
    uint64_t deadline_ms = bg_now_ms() + 60000;
    while (kill((pid_t)pid, 0) == 0) {
        assert_true(bg_now_ms() < deadline_ms);
        (void)poll(NULL, 0, 1); /* of another's child there is no event */
    }
}

static void processes_live_through_a_restore(void **state)
{
    struct exec_result r;
    struct bg_exec_attached attached;
    struct got got = {0};
    begin(*state, 0, SELF);
    int fd = run(*state, "echo begun; read x; echo $x; exit 5", 0, &r);
    assert_true(read_on(fd, &got, 6));
    begin(*state, BG_IDENTITY_AGAIN, SELF);
    assert_false(read_on(fd, &got, SIZE_MAX)); /* without an exit */
    assert_false(got.exited);
    (void)close(fd);
    assert_int_equal(
        attach(*state, (struct bg_exec_attach){.pid = pid_of(&r), .out_at = 6}, &fd, &attached), 0);
    assert_int_equal(attached.pid, pid_of(&r));
    assert_int_equal(attached.flags, 0);
    assert_true(attached.out_at == 6 && attached.stdin_taken == 0);
    client_frame(fd, BG_FRAME_STDIN, "on\n", 3);
    assert_false(read_on(fd, &got, SIZE_MAX));
    assert_string_equal(got.text, "begun\non\n");
    assert_true(got.exited && got.value == 5);
    (void)close(fd);
    free(got.text);
    /* Its end was told. */
    assert_int_equal(attach(*state, (struct bg_exec_attach){.pid = pid_of(&r)}, &fd, &attached),
                     -ESRCH);
}

/* The text of `seq 1 count`. */
static char *numbers(int count)
{
    size_t size = 0, room = (size_t)count * 8;
    char *text = malloc(room);
    assert_non_null(text);
    for (int i = 1; i <= count; i++)
        size += (size_t)snprintf(text + size, room - size, "%d\n", i);
    return text;
}

static void no_byte_of_output_is_lost_or_doubled(void **state)
{
    enum { COUNT = 400000, STEPS = 12 };
    struct exec_result r;
    struct bg_exec_attached attached;
    struct got got = {0};
    BG_AUTOFREE char *want = numbers(COUNT);
    begin(*state, 0, SELF);
    int fd = run(*state, "seq 1 400000; exit 3", 0, &r);
    for (size_t i = 1; i < STEPS; i++) {
        /* Mostly in the middle of a frame, since the reader is slower than the command. */
        (void)read_on(fd, &got, i * strlen(want) / STEPS);
        begin(*state, BG_IDENTITY_AGAIN, SELF);
        (void)read_on(fd, &got, SIZE_MAX); /* what was in the socket */
        if (got.exited)
            break; /* the rest fitted into the socket */
        (void)close(fd);
        assert_int_equal(attach(*state,
                                (struct bg_exec_attach){.pid = pid_of(&r), .out_at = got.size}, &fd,
                                &attached),
                         0);
        assert_int_equal(attached.out_at, got.size);
    }
    if (!got.exited)
        assert_false(read_on(fd, &got, SIZE_MAX));
    assert_true(got.exited && got.value == 3);
    assert_string_equal(got.text, want);
    (void)close(fd);
    free(got.text);
}

static void no_byte_of_input_is_lost_or_doubled(void **state)
{
    enum { SIZE = 3 * BG_EXEC_STDIN_WINDOW, PIECE = 30000 };
    static uint8_t input[SIZE];
    struct exec_result r;
    struct bg_exec_attached attached = {0};
    struct got got = {0};
    for (size_t i = 0; i < SIZE; i++)
        input[i] = (uint8_t)('a' + i * 7 % 26);
    begin(*state, 0, SELF);
    int fd = run(*state, "cat", 0, &r);
    for (size_t sent = 0; sent < SIZE;) {
        /* A frame that is cut is as if it had never been sent. */
        size_t size = SIZE - sent < PIECE ? SIZE - sent : PIECE;
        uint8_t header[BG_FRAME_HEADER_SIZE];
        if (attached.stdin_owed + size > BG_EXEC_STDIN_WINDOW) {
            size = 0;
            (void)read_on(fd, &got, got.size + 1); /* until the command has taken some */
        }
        if (size > 0)
            client_frame(fd, BG_FRAME_STDIN, input + sent, size);
        if (size == PIECE) {
            bg_frame_header_emit(BG_FRAME_STDIN, PIECE, header);
            client_write(fd, header, sizeof header);
            client_write(fd, "lost", 4);
        }
        begin(*state, BG_IDENTITY_AGAIN, SELF);
        (void)read_on(fd, &got, SIZE_MAX);
        (void)close(fd);
        assert_int_equal(attach(*state,
                                (struct bg_exec_attach){.pid = pid_of(&r), .out_at = got.size}, &fd,
                                &attached),
                         0);
        assert_true(attached.stdin_taken == sent || attached.stdin_taken == sent + size);
        assert_true(attached.stdin_owed <= BG_EXEC_STDIN_WINDOW);
        sent = attached.stdin_taken;
    }
    client_frame(fd, BG_FRAME_STDIN_EOF, NULL, 0);
    assert_false(read_on(fd, &got, SIZE_MAX));
    assert_true(got.exited && got.value == 0);
    assert_int_equal(got.size, SIZE);
    assert_memory_equal(got.text, input, SIZE);
    (void)close(fd);
    free(got.text);
}

static void output_without_a_reader_is_bounded(void **state)
{
    struct exec_result r;
    struct bg_exec_attached attached;
    struct got got = {0};
    BG_AUTOFREE char *want = numbers(1000000);
    begin(*state, 0, SELF);
    int fd = run(*state, "read x; seq 1 1000000", 0, &r);
    client_frame(fd, BG_FRAME_STDIN, "\n", 1);
    begin(*state, BG_IDENTITY_AGAIN, SELF);
    (void)read_on(fd, &got, SIZE_MAX);
    (void)close(fd);
    /* It stands still with a full pipe; the agent lives on. */
    begin(*state, BG_IDENTITY_AGAIN, SELF);
    assert_int_equal(
        attach(*state, (struct bg_exec_attach){.pid = pid_of(&r), .out_at = got.size, .rows = 1},
               &fd, &attached),
        0);
    if (attached.stdin_taken == 0)
        client_frame(fd, BG_FRAME_STDIN, "\n", 1);
    assert_false(read_on(fd, &got, SIZE_MAX));
    assert_true(got.exited);
    assert_string_equal(got.text, want);
    (void)close(fd);
    free(got.text);
}

static void a_position_beyond_what_is_kept_is_told(void **state)
{
    struct exec_result r;
    struct bg_exec_attached attached;
    struct got got = {0};
    begin(*state, 0, SELF);
    int fd = run(*state, "echo 12345; read x; echo $x", 0, &r);
    assert_true(read_on(fd, &got, 6));
    begin(*state, BG_IDENTITY_AGAIN, SELF);
    (void)close(fd);
    struct bg_exec_attach request = {.pid = pid_of(&r), .out_at = 3};
    assert_int_equal(attach(*state, request, &fd, &attached), 0);
    assert_int_equal(attached.out_at, 6);
    (void)close(fd);
    request.out_at = 1000;
    while (attach(*state, request, &fd, &attached) == -EBUSY)
        (void)poll(NULL, 0, 1); /* until it has seen the end of the other */
    assert_int_equal(attached.out_at, 6);
    (void)close(fd);
    free(got.text);
}

static void an_end_that_nobody_saw_is_told_later(void **state)
{
    struct exec_result r;
    struct bg_exec_attached attached;
    struct got got = {0};
    begin(*state, 0, SELF);
    int fd = run(*state, "read x; echo last words; exit 9", 0, &r);
    client_frame(fd, BG_FRAME_LEAVE, NULL, 0);
    assert_true(client_at_end(fd));
    (void)close(fd);
    assert_int_equal(attach(*state, (struct bg_exec_attach){.flags = BG_EXEC_KEPT}, &fd, &attached),
                     0);
    assert_int_equal(attached.pid, pid_of(&r));
    /* In one piece: between two of them it could end, and tell us. */
    uint8_t both[2 * BG_FRAME_HEADER_SIZE + 1];
    bg_frame_header_emit(BG_FRAME_STDIN, 1, both);
    both[BG_FRAME_HEADER_SIZE] = '\n';
    bg_frame_header_emit(BG_FRAME_LEAVE, 0, both + BG_FRAME_HEADER_SIZE + 1);
    client_write(fd, both, sizeof both);
    assert_true(client_at_end(fd));
    (void)close(fd);
    await_end(pid_of(&r));
    assert_int_equal(attach(*state, (struct bg_exec_attach){.flags = BG_EXEC_KEPT}, &fd, &attached),
                     0);
    assert_false(read_on(fd, &got, SIZE_MAX));
    assert_true(got.exited && got.value == 9);
    (void)close(fd);
    free(got.text);
}

static void one_at_a_time(void **state)
{
    struct exec_result r;
    struct bg_exec_attached attached;
    uint8_t payload[BG_FRAME_SIZE_MAX];
    size_t size;
    int other;
    begin(*state, 0, SELF);
    int fd = run(*state, "echo begun; cat", BG_EXEC_TTY, &r);
    assert_int_equal(client_next(fd, payload, &size), BG_FRAME_STDOUT);
    struct bg_exec_attach request = {.pid = pid_of(&r)};
    uint8_t type;
    assert_int_equal(attach(*state, request, &other, &attached), -EBUSY);
    request.flags = BG_EXEC_STEAL;
    assert_int_equal(attach(*state, request, &other, &attached), 0);
    assert_int_equal(attached.flags, BG_EXEC_IS_TTY);
    while ((type = client_next(fd, payload, &size)) == BG_FRAME_STDOUT)
        ; /* a terminal gives out a line in pieces */
    assert_int_equal(type, BG_FRAME_TAKEN);
    assert_true(client_at_end(fd));
    (void)close(fd);
    client_frame(other, BG_FRAME_STDIN, "hello\n", 6);
    struct got got = {0};
    while (!got.text || !strstr(got.text, "hello\r\nhello\r\n"))
        assert_true(read_on(other, &got, got.size + 1));
    (void)close(other);
    free(got.text);
}

static void who_owns_it_ends_it(void **state)
{
    struct exec_result r;
    struct bg_exec_attached attached;
    begin(*state, 0, SELF);
    int fd = run(*state, "exec sleep 1000", 0, &r);
    begin(*state, BG_IDENTITY_AGAIN, SELF);
    (void)close(fd);
    /* One that only looks in leaves it as it is. */
    assert_int_equal(attach(*state, (struct bg_exec_attach){.pid = pid_of(&r)}, &fd, &attached), 0);
    (void)close(fd);
    struct bg_exec_attach request = {.pid = pid_of(&r), .flags = BG_EXEC_OWN};
    int status;
    while ((status = attach(*state, request, &fd, &attached)) == -EBUSY)
        (void)poll(NULL, 0, 1);
    assert_int_equal(status, 0);
    (void)close(fd);
    await_end(pid_of(&r));
}

static void a_fork_has_no_part_in_a_conversation(void **state)
{
    struct exec_result talk, work;
    struct bg_exec_attached attached;
    begin(*state, 0, SELF);
    int first = run(*state, "exec cat", BG_EXEC_DETACH, &talk);
    int second = run(*state, "exec cat", 0, &work);
    begin(*state, BG_IDENTITY_CONTINUE, ""); /* a snapshot was taken of it */
    begin(*state, BG_IDENTITY_AGAIN, SELF);  /* the same sandbox: both go on */
    (void)close(first);
    (void)close(second);
    assert_int_equal(
        attach(*state, (struct bg_exec_attach){.pid = pid_of(&talk)}, &first, &attached), 0);
    begin(*state, BG_IDENTITY_AGAIN, "sbx_other");
    (void)close(first);
    await_end(pid_of(&talk)); /* by the end of its input */
    assert_int_equal(
        attach(*state, (struct bg_exec_attach){.pid = pid_of(&talk)}, &first, &attached), -ESRCH);
    assert_int_equal(
        attach(*state, (struct bg_exec_attach){.pid = pid_of(&work)}, &second, &attached), 0);
    (void)close(second);
}

static void another_beginning_ends_them_all(void **state)
{
    struct exec_result r;
    struct bg_exec_attached attached;
    begin(*state, 0, SELF);
    int fd = run(*state, "exec sleep 1000", 0, &r);
    begin(*state, BG_IDENTITY_AGAIN, SELF);
    (void)close(fd);
    begin(*state, 0, SELF);
    await_end(pid_of(&r));
    assert_int_equal(attach(*state, (struct bg_exec_attach){.pid = pid_of(&r)}, &fd, &attached),
                     -ESRCH);
}

/* The records of a list; returns their number. */
static size_t list(const struct test_agent *agent, struct bg_exec_info *infos, size_t room)
{
    char reply[BG_REPLY_TEXT_MAX + 1];
    uint8_t payload[BG_FRAME_SIZE_MAX];
    size_t count = 0, size;
    int fd = client_connect(agent);
    client_open(fd, BG_STREAM_EXECS, NULL, 0);
    assert_int_equal(client_reply(fd, reply), 0);
    uint8_t type;
    while ((type = client_next(fd, payload, &size)) == BG_FRAME_EXEC_INFO) {
        assert_true(count < room);
        assert_int_equal(bg_exec_info_parse(payload, size, &infos[count++], NULL), 0);
    }
    assert_int_equal(type, BG_FRAME_END);
    assert_true(client_at_end(fd));
    (void)close(fd);
    return count;
}

static void lists_what_runs(void **state)
{
    struct bg_exec_info infos[4];
    struct exec_result one, two;
    uint8_t payload[BG_FRAME_SIZE_MAX];
    size_t size;
    begin(*state, 0, SELF);
    assert_int_equal(list(*state, infos, 4), 0);
    int first = run(*state, "echo begun; exec sleep 1000", 0, &one);
    int second = run(*state, "cat", BG_EXEC_TTY, &two);
    assert_int_equal(client_next(first, payload, &size), BG_FRAME_STDOUT);
    client_frame(first, BG_FRAME_LEAVE, NULL, 0);
    assert_true(client_at_end(first));
    assert_int_equal(list(*state, infos, 4), 2);
    assert_int_equal(infos[0].pid, pid_of(&two)); /* the newest first */
    assert_int_equal(infos[0].flags, BG_EXEC_INFO_TTY | BG_EXEC_INFO_ATTACHED);
    assert_string_equal(infos[0].command, "sh -c cat");
    assert_int_equal(infos[1].pid, pid_of(&one));
    assert_int_equal(infos[1].flags, 0);
    assert_true(infos[1].waiting == 0 && infos[1].age_ms < 600000);
    struct bg_exec_attached attached;
    assert_int_equal(attach(*state, (struct bg_exec_attach){0}, &first, &attached), -ENOTUNIQ);
    (void)close(first);
    (void)close(second);
}

static void few_ends_are_remembered(void **state)
{
    struct bg_exec_info infos[2 * BG_AGENT_ENDED_MAX];
    struct exec_result first, r;
    struct bg_exec_attached attached;
    begin(*state, 0, SELF);
    for (int i = 0; i < BG_AGENT_ENDED_MAX + 1; i++) {
        int fd = run(*state, "read x", 0, i == 0 ? &first : &r);
        client_frame(fd, BG_FRAME_LEAVE, NULL, 0);
        assert_true(client_at_end(fd));
        (void)close(fd);
        uint32_t pid = pid_of(i == 0 ? &first : &r);
        assert_int_equal(kill((pid_t)pid, SIGKILL), 0);
        await_end(pid);
    }
    size_t count;
    while ((count = list(*state, infos, 2 * BG_AGENT_ENDED_MAX)) > BG_AGENT_ENDED_MAX)
        (void)poll(NULL, 0, 1);
    assert_int_equal(count, BG_AGENT_ENDED_MAX);
    int fd;
    assert_int_equal(attach(*state, (struct bg_exec_attach){.pid = pid_of(&first)}, &fd, &attached),
                     -ESRCH);
}

int main(void)
{
#define WITH_AGENT(f) cmocka_unit_test_setup_teardown(f, start, stop)
    const struct CMUnitTest tests[] = {
        WITH_AGENT(processes_live_through_a_restore),
        WITH_AGENT(no_byte_of_output_is_lost_or_doubled),
        WITH_AGENT(no_byte_of_input_is_lost_or_doubled),
        WITH_AGENT(output_without_a_reader_is_bounded),
        WITH_AGENT(a_position_beyond_what_is_kept_is_told),
        WITH_AGENT(an_end_that_nobody_saw_is_told_later),
        WITH_AGENT(one_at_a_time),
        WITH_AGENT(who_owns_it_ends_it),
        WITH_AGENT(a_fork_has_no_part_in_a_conversation),
        WITH_AGENT(another_beginning_ends_them_all),
        WITH_AGENT(lists_what_runs),
        WITH_AGENT(few_ends_are_remembered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
