#include "tests/unit/guest/client.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "guest/agent.h"
#include "guest/network.h"

/* Longer than any wait on a loaded machine; a test that needs it has failed. */
#define DEADLINE_S 60

static int listen_unix(const char *path)
{
    struct sockaddr_un here = {.sun_family = AF_UNIX};
    (void)snprintf(here.sun_path, sizeof here.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&here, sizeof here), 0);
    assert_int_equal(listen(fd, 128), 0);
    return fd;
}

static void find_cgroup(struct test_agent *agent)
{
    static unsigned count; /* each agent has its own: ids begin anew */
    count++;
    static const char *const roots[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
    agent->cgroup_path[0] = '\0';
    for (size_t i = 0; i < 2; i++) {
        char path[64], probe[96];
        (void)snprintf(path, sizeof path, "%s/bg-test-%d-%u", roots[i], (int)getpid(), count);
        if (mkdir(path, 0755) < 0)
            continue;
        (void)snprintf(probe, sizeof probe, "%s/cgroup.kill", path);
        if (access(probe, W_OK) == 0) {
            (void)snprintf(agent->cgroup_path, sizeof agent->cgroup_path, "%s", path);
            return;
        }
        (void)rmdir(path);
    }
}

void test_agent_start(struct test_agent *agent, const char *network)
{
    (void)snprintf(agent->folder, sizeof agent->folder, "/tmp/bg-agent-XXXXXX");
    assert_non_null(mkdtemp(agent->folder));
    (void)snprintf(agent->socket_path, sizeof agent->socket_path, "%s/socket", agent->folder);
    find_cgroup(agent);
    int listener = listen_unix(agent->socket_path);
    /* A SIGTERM that comes before the agent waits for it is not to be lost. */
    sigset_t terminate, before;
    (void)sigemptyset(&terminate);
    (void)sigaddset(&terminate, SIGTERM);
    assert_int_equal(sigprocmask(SIG_BLOCK, &terminate, &before), 0);
    (void)signal(SIGQUIT, SIG_IGN); /* as a shell does for what it starts in the background */
    agent->pid = fork();
    assert_true(agent->pid >= 0);
    if (agent->pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that is cut off leaves nothing */
        const struct bg_log log = {.fd = 2, .level = BG_LOG_INFO, .tag = "agent under test"};
        const struct agent_opts opts = {.listen_fd = listener,
                                        .cgroup_path =
                                            agent->cgroup_path[0] ? agent->cgroup_path : NULL,
                                        .log = getenv("BG_TEST_VERBOSE") ? &log : NULL,
                                        .start_network = network ? network_start : NULL,
                                        .egress_path = network};
        struct bg_err err = {0};
        int r = agent_run(&opts, &err);
        if (r < 0)
            (void)fprintf(stderr, "agent under test: %s\n", err.text);
        exit(r < 0);
    }
    assert_int_equal(sigprocmask(SIG_SETMASK, &before, NULL), 0);
    (void)close(listener);
}

/* Everything in it was killed; the last processes may still be ending. */
static void remove_cgroups(const char *path)
{
    uint64_t deadline_ms = bg_now_ms() + DEADLINE_S * 1000;
    while (rmdir(path) < 0) {
        for (unsigned i = 0; i < 256; i++) {
            char one[192];
            (void)snprintf(one, sizeof one, "%s/%u", path, i);
            (void)rmdir(one);
        }
        assert_true(bg_now_ms() < deadline_ms);
    }
}

void test_agent_stop(struct test_agent *agent)
{
    int status;
    assert_int_equal(kill(agent->pid, SIGTERM), 0);
    assert_int_equal(waitpid(agent->pid, &status, 0), agent->pid);
    assert_int_equal(status, 0);
    (void)unlink(agent->socket_path);
    (void)rmdir(agent->folder);
    if (agent->cgroup_path[0])
        remove_cgroups(agent->cgroup_path);
}

int client_connect(const struct test_agent *agent)
{
    struct sockaddr_un there = {.sun_family = AF_UNIX};
    (void)snprintf(there.sun_path, sizeof there.sun_path, "%s", agent->socket_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    struct timeval deadline = {.tv_sec = DEADLINE_S};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof deadline), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &deadline, sizeof deadline), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&there, sizeof there), 0);
    return fd;
}

void client_write(int fd, const void *bytes, size_t size)
{
    const char *at = bytes;
    while (size > 0) {
        ssize_t n = send(fd, at, size, MSG_NOSIGNAL);
        assert_true(n > 0);
        at += n;
        size -= (size_t)n;
    }
}

void client_read(int fd, void *bytes, size_t size)
{
    assert_int_equal(bg_read_full(fd, bytes, size), 0);
}

bool client_at_end(int fd)
{
    char byte;
    ssize_t n = read(fd, &byte, 1);
    return n == 0 || (n < 0 && (errno == ECONNRESET || errno == EPIPE));
}

void client_open(int fd, uint16_t kind, const void *body, size_t size)
{
    uint8_t header[BG_STREAM_HEADER_SIZE];
    bg_stream_header_emit(
        &(struct bg_stream_header){.kind = kind, .id = 1, .body_size = (uint32_t)size}, header);
    client_write(fd, header, sizeof header);
    if (size > 0)
        client_write(fd, body, size);
}

int client_reply(int fd, char *body)
{
    uint8_t header[BG_REPLY_HEADER_SIZE];
    client_read(fd, header, sizeof header);
    struct bg_reply_header reply;
    assert_int_equal(bg_reply_header_parse(header, sizeof header, &reply, NULL), 0);
    client_read(fd, body, reply.body_size);
    body[reply.body_size] = '\0';
    return reply.status;
}

void client_frame(int fd, uint8_t type, const void *payload, size_t size)
{
    uint8_t header[BG_FRAME_HEADER_SIZE];
    bg_frame_header_emit(type, (uint32_t)size, header);
    client_write(fd, header, sizeof header);
    if (size > 0)
        client_write(fd, payload, size);
}

uint8_t client_next(int fd, void *payload, size_t *ret_size)
{
    uint8_t header[BG_FRAME_HEADER_SIZE];
    client_read(fd, header, sizeof header);
    struct bg_frame_header frame;
    assert_int_equal(bg_frame_header_parse(header, sizeof header, BG_FRAME_SIZE_MAX, &frame, NULL),
                     0);
    client_read(fd, payload, frame.size);
    *ret_size = frame.size;
    return frame.type;
}

static const char *own_name(void)
{
    return geteuid() == 0 ? "root" : "";
}

size_t client_exec_body(const struct exec_args *args, uint8_t *body, size_t body_size)
{
    uint32_t argc = 0, envc = 0;
    while (args->argv[argc])
        argc++;
    while (args->env && args->env[envc])
        envc++;
    struct bg_writer w = bg_writer_init(body, body_size);
    bg_writer_u32le(&w, args->flags);
    bg_writer_u16le(&w, args->rows);
    bg_writer_u16le(&w, args->columns);
    bg_writer_text32le(&w, args->user ? args->user : own_name());
    bg_writer_text32le(&w, args->cwd ? args->cwd : "/");
    bg_writer_u32le(&w, argc);
    bg_writer_u32le(&w, envc);
    for (uint32_t i = 0; i < argc; i++)
        bg_writer_text32le(&w, args->argv[i]);
    for (uint32_t i = 0; i < envc; i++)
        bg_writer_text32le(&w, args->env[i]);
    assert_true(bg_writer_ok(&w));
    return w.used;
}

void exec_result_done(struct exec_result *result)
{
    free(result->out);
    free(result->err);
    *result = (struct exec_result){0};
}

int client_exec_start(const struct test_agent *agent, const struct exec_args *args,
                      struct exec_result *result)
{
    *result = (struct exec_result){0};
    uint8_t *body = malloc(BG_STREAM_BODY_MAX);
    assert_non_null(body);
    size_t size = client_exec_body(args, body, BG_STREAM_BODY_MAX);
    int fd = client_connect(agent);
    client_open(fd, BG_STREAM_EXEC, body, size);
    free(body);
    result->status = client_reply(fd, result->reply);
    return fd;
}

static void append(char **text, size_t *size, const void *bytes, size_t more)
{
    *text = realloc(*text, *size + more + 1);
    assert_non_null(*text);
    memcpy(*text + *size, bytes, more);
    *size += more;
    (*text)[*size] = '\0';
}

void client_exec_finish(int fd, struct exec_result *result)
{
    static uint8_t payload[BG_FRAME_SIZE_MAX];
    append(&result->out, &result->out_size, "", 0);
    append(&result->err, &result->err_size, "", 0);
    for (;;) {
        size_t size;
        uint8_t type = client_next(fd, payload, &size);
        if (type == BG_FRAME_STDOUT)
            append(&result->out, &result->out_size, payload, size);
        else if (type == BG_FRAME_STDERR)
            append(&result->err, &result->err_size, payload, size);
        else if (type == BG_FRAME_EXIT) {
            assert_int_equal(size, 8);
            struct bg_reader in = bg_reader_init(payload, size);
            result->how = bg_reader_u32le(&in);
            result->value = bg_reader_u32le(&in);
            break;
        } else
            assert_int_equal(type, BG_FRAME_WINDOW);
    }
    assert_true(client_at_end(fd));
    (void)close(fd);
}

void client_exec(const struct test_agent *agent, const struct exec_args *args, const char *input,
                 struct exec_result *result)
{
    int fd = client_exec_start(agent, args, result);
    if (result->status < 0) {
        assert_true(client_at_end(fd));
        (void)close(fd);
        return;
    }
    if (input)
        client_frame(fd, BG_FRAME_STDIN, input, strlen(input));
    client_frame(fd, BG_FRAME_STDIN_EOF, NULL, 0);
    client_exec_finish(fd, result);
}
