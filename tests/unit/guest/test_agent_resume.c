/* Streams that are cut on purpose and go on with another connection. The test is the host: it tells
 * the agent to park, reads what is on its way, closes every connection and opens new ones. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <netinet/in.h>
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
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "fs/proto/proto.h"
#include "tests/unit/guest/client.h"

#define ARGV(...)    ((const char *const[]){__VA_ARGS__, NULL})
#define DEADLINE_MS  60000
#define READ_AT_ONCE (64 * 1024)

/* One stream as the host sees it: everything that it says and gets, from the header on. */
struct lane {
    int fd;
    uint16_t kind;
    uint32_t id;
    uint8_t *out;
    size_t out_size, out_at; /* out_at bytes are with the socket */
    bool out_ends, shut;     /* a half-close after out; said on this connection */
    uint8_t *in;
    size_t in_size, in_room;
    bool in_ended;
    size_t parsed; /* of in, by whoever looks at it */
};

static void put(struct lane *lane, const void *bytes, size_t size)
{
    lane->out = realloc(lane->out, lane->out_size + size + 1);
    assert_non_null(lane->out);
    if (size > 0)
        memcpy(lane->out + lane->out_size, bytes, size);
    lane->out_size += size;
}

static void put_frame(struct lane *lane, uint8_t type, const void *payload, size_t size)
{
    uint8_t header[BG_FRAME_HEADER_SIZE];
    bg_frame_header_emit(type, (uint32_t)size, header);
    put(lane, header, sizeof header);
    put(lane, payload, size);
}

static void dial(const struct test_agent *agent, struct lane *lane)
{
    lane->fd = client_connect(agent);
    assert_int_equal(fcntl(lane->fd, F_SETFL, O_NONBLOCK), 0);
}

static void lane_open(const struct test_agent *agent, struct lane *lane, uint16_t kind, uint32_t id,
                      const void *body, size_t size)
{
    uint8_t header[BG_STREAM_HEADER_SIZE];
    *lane = (struct lane){.kind = kind, .id = id};
    bg_stream_header_emit(
        &(struct bg_stream_header){.kind = kind, .id = id, .body_size = (uint32_t)size}, header);
    put(lane, header, sizeof header);
    put(lane, body, size);
    dial(agent, lane);
    /* The host parks no stream whose opening is not out. */
    client_write(lane->fd, lane->out, lane->out_size);
    lane->out_at = lane->out_size;
}

static void lane_close(struct lane *lane)
{
    (void)close(lane->fd);
    free(lane->out);
    free(lane->in);
}

/* Whatever is here, up to most bytes: without a bound it ends only when the peer stops for a
 * moment, so not with one that never does. */
static void lane_read(struct lane *lane, size_t most)
{
    while (most > 0 && !lane->in_ended) {
        static uint8_t bytes[64 * 1024];
        ssize_t n = read(lane->fd, bytes, most < sizeof bytes ? most : sizeof bytes);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            lane->in_ended = true;
            return;
        }
        if (lane->in_room - lane->in_size < (size_t)n) {
            lane->in_room = 2 * (lane->in_size + (size_t)n);
            lane->in = realloc(lane->in, lane->in_room);
            assert_non_null(lane->in);
        }
        memcpy(lane->in + lane->in_size, bytes, (size_t)n);
        lane->in_size += (size_t)n;
        most -= (size_t)n;
    }
}

static void lane_write(struct lane *lane, size_t most)
{
    size_t left = lane->out_size - lane->out_at;
    ssize_t n = left == 0 ? 0
                          : send(lane->fd, lane->out + lane->out_at, left < most ? left : most,
                                 MSG_NOSIGNAL);
    if (n > 0)
        lane->out_at += (size_t)n;
    if (lane->out_at == lane->out_size && lane->out_ends && !lane->shut) {
        (void)shutdown(lane->fd, SHUT_WR);
        lane->shut = true;
    }
}

/* ---- the host ---- */

static void send_identity(int fd, uint32_t flags)
{
    uint8_t payload[1024];
    size_t size;
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    const struct bg_identity identity = {
        .flags = flags, .hostname = "test", .sandbox_id = "sbx_test"};
    bg_identity_emit(&identity, &w);
    client_frame(fd, BG_FRAME_IDENTITY, payload, w.used);
    assert_int_equal(client_next(fd, payload, &size), BG_FRAME_READY);
    assert_int_equal(size, 4);
}

static int open_session(const struct test_agent *agent, uint32_t flags)
{
    char reply[BG_REPLY_TEXT_MAX + 1];
    uint8_t payload[BG_FRAME_SIZE_MAX];
    size_t size;
    int fd = client_connect(agent);
    client_open(fd, BG_STREAM_SESSION, NULL, 0);
    assert_int_equal(client_reply(fd, reply), 0);
    assert_int_equal(client_next(fd, payload, &size), BG_FRAME_HELLO);
    send_identity(fd, flags);
    return fd;
}

static void prepare(int session)
{
    uint8_t payload[BG_FRAME_SIZE_MAX];
    size_t size;
    client_frame(session, BG_FRAME_PREPARE, "", 1);
    assert_int_equal(client_next(session, payload, &size), BG_FRAME_PREPARED);
}

static void go_on(int session, enum bg_go_on how)
{
    uint8_t payload = (uint8_t)how;
    client_frame(session, BG_FRAME_GO_ON, &payload, 1);
}

/* The session answers: what was said on it before is done. */
static void ping(int session)
{
    uint8_t payload[BG_FRAME_SIZE_MAX];
    size_t size;
    client_frame(session, BG_FRAME_PING, "12345678", 8);
    assert_int_equal(client_next(session, payload, &size), BG_FRAME_PONG);
}

/* Asks for the stream. Returns the status; *ret_has: what the guest has read. */
static int ask_resume(int fd, uint16_t kind, uint32_t id, uint64_t host_has, uint64_t *ret_has)
{
    uint8_t header[BG_STREAM_HEADER_SIZE], count[BG_RESUME_SIZE];
    char reply[BG_REPLY_TEXT_MAX + 1];
    bg_stream_header_emit(
        &(struct bg_stream_header){
            .kind = kind, .id = id, .flags = BG_STREAM_RESUME, .body_size = BG_RESUME_SIZE},
        header);
    struct bg_writer w = bg_writer_init(count, sizeof count);
    bg_writer_u64le(&w, host_has);
    client_write(fd, header, sizeof header);
    client_write(fd, count, sizeof count);
    int status = client_reply(fd, reply);
    if (status == 0) {
        struct bg_reader in = bg_reader_init((const uint8_t *)reply, BG_RESUME_SIZE);
        *ret_has = bg_reader_u64le(&in);
    }
    return status;
}

static void resume(const struct test_agent *agent, struct lane *lane)
{
    uint64_t has = 0;
    lane->fd = client_connect(agent);
    assert_int_equal(ask_resume(lane->fd, lane->kind, lane->id, lane->in_size, &has), 0);
    assert_true(has <= lane->out_at);
    lane->out_at = (size_t)has;
    lane->shut = false;
    assert_int_equal(fcntl(lane->fd, F_SETFL, O_NONBLOCK), 0);
}

/* A whole snapshot of streams none of which has ended. */
static void cut(const struct test_agent *agent, int *session, struct lane *lanes, size_t count)
{
    prepare(*session);
    for (size_t i = 0; i < count; i++)
        lane_read(&lanes[i], SIZE_MAX);
    for (size_t i = 0; i < count; i++)
        (void)close(lanes[i].fd);
    (void)close(*session);
    *session = open_session(agent, BG_IDENTITY_CONTINUE);
    for (size_t i = 0; i < count; i++)
        if (lanes[i].in_ended)
            dial(agent, &lanes[i]); /* anything that can be closed */
        else
            resume(agent, &lanes[i]);
    go_on(*session, BG_GO_ON_RESUMED);
}

/* ---- kinds ---- */

/* The next frame of a lane after its reply. Returns its type, 0: not here yet. */
static uint8_t next_frame(struct lane *lane, const uint8_t **ret_payload, size_t *ret_size)
{
    struct bg_frame_header frame;
    if (lane->parsed == 0) {
        struct bg_reply_header reply;
        if (lane->in_size < BG_REPLY_HEADER_SIZE)
            return 0;
        assert_int_equal(bg_reply_header_parse(lane->in, BG_REPLY_HEADER_SIZE, &reply, NULL), 0);
        assert_int_equal(reply.status, 0);
        if (lane->in_size < BG_REPLY_HEADER_SIZE + reply.body_size)
            return 0;
        lane->parsed = BG_REPLY_HEADER_SIZE + reply.body_size;
    }
    if (lane->in_size - lane->parsed < BG_FRAME_HEADER_SIZE)
        return 0;
    assert_int_equal(bg_frame_header_parse(lane->in + lane->parsed, BG_FRAME_HEADER_SIZE,
                                           BG_FRAME_SIZE_MAX, &frame, NULL),
                     0);
    if (lane->in_size - lane->parsed - BG_FRAME_HEADER_SIZE < frame.size)
        return 0;
    *ret_payload = lane->in + lane->parsed + BG_FRAME_HEADER_SIZE;
    *ret_size = frame.size;
    lane->parsed += BG_FRAME_HEADER_SIZE + frame.size;
    return frame.type;
}

static void open_exec(const struct test_agent *agent, struct lane *lane, uint32_t id,
                      const struct exec_args *args)
{
    static uint8_t body[64 * 1024];
    size_t size = client_exec_body(args, body, sizeof body);
    lane_open(agent, lane, BG_STREAM_EXEC, id, body, size);
}

/* A command that is given `bytes` on its stdin, as its window allows, and says the same. */
struct echo {
    struct lane *lane;
    const uint8_t *bytes;
    size_t size, given, window, got;
    bool over;
};

static void echo_step(struct echo *e)
{
    const uint8_t *payload;
    size_t size;
    for (uint8_t type; (type = next_frame(e->lane, &payload, &size));) {
        if (type == BG_FRAME_WINDOW) {
            struct bg_reader in = bg_reader_init(payload, size);
            e->window += bg_reader_u32le(&in);
        } else if (type == BG_FRAME_STDOUT) {
            assert_true(size <= e->size - e->got);
            assert_memory_equal(payload, e->bytes + e->got, size);
            e->got += size;
        } else {
            assert_int_equal(type, BG_FRAME_EXIT);
            assert_int_equal(e->got, e->size);
            e->over = true;
        }
    }
    while (e->window > 0 && e->given < e->size) {
        size = e->size - e->given < e->window ? e->size - e->given : e->window;
        if (size > 5000)
            size = 5000;
        put_frame(e->lane, BG_FRAME_STDIN, e->bytes + e->given, size);
        e->given += size;
        e->window -= size;
        if (e->given == e->size)
            put_frame(e->lane, BG_FRAME_STDIN_EOF, NULL, 0);
    }
}

/* A server that says what it hears. Returns its pid. */
static pid_t start_echo_server(uint16_t *ret_port)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof here;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&here, sizeof here), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&here, &size), 0);
    *ret_port = ntohs(here.sin_port);
    pid_t pid = fork();
    if (pid == 0) {
        char bytes[10000];
        int peer = accept(fd, NULL, NULL);
        for (ssize_t n; (n = read(peer, bytes, sizeof bytes)) > 0;)
            if (bg_write_full(peer, bytes, (size_t)n) < 0)
                _exit(1);
        (void)shutdown(peer, SHUT_WR);
        _exit(0);
    }
    (void)close(fd);
    return pid;
}

static void open_forward(const struct test_agent *agent, struct lane *lane, uint32_t id,
                         uint16_t port)
{
    uint8_t body[2] = {(uint8_t)port, (uint8_t)(port >> 8)};
    lane_open(agent, lane, BG_STREAM_FORWARD, id, body, sizeof body);
}

static void open_copy(const struct test_agent *agent, struct lane *lane, uint32_t id,
                      uint8_t direction, const char *path, const char *root, uint32_t flags)
{
    struct bg_copy_request request = {.direction = direction, .flags = flags};
    (void)snprintf(request.user, sizeof request.user, "%s", geteuid() == 0 ? "root" : "");
    (void)snprintf(request.path, sizeof request.path, "%s", path);
    (void)snprintf(request.root, sizeof request.root, "%s", root);
    uint8_t body[2 * BG_PATH_MAX];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    bg_copy_request_emit(&request, &w);
    lane_open(agent, lane, BG_STREAM_COPY, id, body, w.used);
}

/* GETATTR of the root, again and again. */
static void open_fuse(const struct test_agent *agent, struct lane *lane, uint32_t id,
                      const char *path, uint64_t requests)
{
    struct bg_fuse_request request = {0};
    (void)snprintf(request.path, sizeof request.path, "%s", path);
    uint8_t body[2 * BG_PATH_MAX], bytes[FS_HELLO_SIZE];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    bg_fuse_request_emit(&request, &w);
    lane_open(agent, lane, BG_STREAM_FUSE, id, body, w.used);
    fs_hello_emit(&(struct fs_hello){0}, bytes);
    put(lane, bytes, sizeof bytes);
    for (uint64_t unique = 1; unique <= requests; unique++) {
        uint8_t message[FS_REQUEST_HEADER_SIZE + sizeof(struct fuse_getattr_in)] = {0};
        w = bg_writer_init(message, sizeof message);
        bg_writer_u32le(&w, sizeof message);
        bg_writer_u32le(&w, FUSE_GETATTR);
        bg_writer_u64le(&w, unique * 2);
        bg_writer_u64le(&w, 1);
        put(lane, message, sizeof message);
    }
}

/* Each request was answered once and well. Returns how many were. */
static size_t check_fuse(const struct lane *lane, size_t requests)
{
    BG_AUTOFREE bool *answered = calloc(requests + 1, 1);
    size_t count = 0;
    assert_non_null(answered);
    size_t at = BG_REPLY_HEADER_SIZE + FS_HELLO_SIZE;
    while (lane->in_size >= at + FS_REPLY_HEADER_SIZE) {
        struct bg_reader in = bg_reader_init(lane->in + at, FS_REPLY_HEADER_SIZE);
        uint32_t size = bg_reader_u32le(&in);
        assert_int_equal(size, FS_REPLY_HEADER_SIZE + sizeof(struct fuse_attr_out));
        assert_int_equal(bg_reader_u32le(&in), 0);
        uint64_t unique = bg_reader_u64le(&in);
        assert_true(unique % 2 == 0 && unique >= 2 && unique / 2 <= requests);
        if (lane->in_size - at < size)
            break;
        assert_false(answered[unique / 2]);
        answered[unique / 2] = true;
        count++;
        at += size;
    }
    return count;
}

/* ---- tests ---- */

struct world {
    struct test_agent agent;
    char folder[64];
};

static int start(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    (void)snprintf(w->folder, sizeof w->folder, "/tmp/bg-resume-XXXXXX");
    assert_non_null(mkdtemp(w->folder));
    assert_int_equal(chmod(w->folder, 0777), 0);
    test_agent_start(&w->agent, NULL);
    *state = w;
    return 0;
}

static int stop(void **state)
{
    struct world *w = *state;
    test_agent_stop(&w->agent);
    pid_t pid = fork();
    if (pid == 0) {
        (void)execl("/bin/rm", "rm", "-rf", "--", w->folder, NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    free(w);
    return 0;
}

static uint8_t *make_bytes(size_t size)
{
    uint8_t *bytes = malloc(size);
    assert_non_null(bytes);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)((i * 2654435761u) >> 13);
    return bytes;
}

static void make_file(const struct world *w, const char *name, const void *bytes, size_t size)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", w->folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(bg_write_full(fd, bytes, size), 0);
    (void)close(fd);
}

/* The DATA of a copy out, without cuts. */
static void copy_out(const struct world *w, const char *path, uint8_t **ret_tar, size_t *ret_size)
{
    struct lane lane;
    const uint8_t *payload;
    size_t size;
    open_copy(&w->agent, &lane, 500, BG_COPY_OUT_OF_GUEST, path, "top", 0);
    *ret_tar = NULL;
    *ret_size = 0;
    uint8_t type;
    do {
        lane_write(&lane, SIZE_MAX);
        lane_read(&lane, 100000);
        while ((type = next_frame(&lane, &payload, &size)) == BG_FRAME_DATA) {
            *ret_tar = realloc(*ret_tar, *ret_size + size);
            assert_non_null(*ret_tar);
            memcpy(*ret_tar + *ret_size, payload, size);
            *ret_size += size;
        }
    } while (type == 0);
    assert_int_equal(type, BG_FRAME_END);
    lane_close(&lane);
}

enum { ECHO, SEQ, FORWARD, OUT, IN, FUSE, LANES };

struct progress {
    struct lane lanes[LANES];
    struct echo echo;
    bool over[LANES];
    const uint8_t *bytes, *tar;
    size_t bytes_size, tar_size, tar_got, seq_got, fuse_requests;
    char *seq;
    size_t seq_size;
};

/* Looks at what has come on a lane; asserts that it is right as far as it goes. */
static void check_lane(struct progress *p, int which)
{
    struct lane *lane = &p->lanes[which];
    const uint8_t *payload;
    size_t size;
    uint8_t type;
    switch (which) {
    case ECHO:
        echo_step(&p->echo);
        p->over[which] = p->echo.over;
        break;
    case SEQ:
        while ((type = next_frame(lane, &payload, &size)) == BG_FRAME_STDOUT) {
            assert_true(size <= p->seq_size - p->seq_got);
            assert_memory_equal(payload, p->seq + p->seq_got, size);
            p->seq_got += size;
        }
        if (type != 0) {
            assert_int_equal(type, BG_FRAME_EXIT);
            assert_int_equal(p->seq_got, p->seq_size);
            p->over[which] = true;
        }
        break;
    case FORWARD:
        if (lane->in_ended) {
            assert_int_equal(lane->in_size, BG_REPLY_HEADER_SIZE + p->bytes_size);
            assert_memory_equal(lane->in + BG_REPLY_HEADER_SIZE, p->bytes, p->bytes_size);
            p->over[which] = true;
        }
        break;
    case OUT:
        while ((type = next_frame(lane, &payload, &size)) == BG_FRAME_DATA) {
            assert_true(size <= p->tar_size - p->tar_got);
            assert_memory_equal(payload, p->tar + p->tar_got, size);
            p->tar_got += size;
        }
        if (type != 0) {
            assert_int_equal(type, BG_FRAME_END);
            assert_int_equal(p->tar_got, p->tar_size);
            p->over[which] = true;
        }
        break;
    case IN:
        type = next_frame(lane, &payload, &size);
        if (type != 0) {
            assert_int_equal(type, BG_FRAME_END);
            assert_int_equal(size, 4);
            assert_memory_equal(payload, "\0\0\0", 4);
            p->over[which] = true;
        }
        break;
    case FUSE:
        p->over[which] = check_fuse(lane, p->fuse_requests) == p->fuse_requests;
        break;
    }
}

static void open_lanes(const struct world *w, struct progress *p, uint16_t port)
{
    char path[128];
    open_exec(&w->agent, &p->lanes[ECHO], 10, &(struct exec_args){.argv = ARGV("cat")});
    p->echo = (struct echo){.lane = &p->lanes[ECHO],
                            .bytes = p->bytes,
                            .size = p->bytes_size,
                            .window = BG_EXEC_STDIN_WINDOW};
    open_exec(&w->agent, &p->lanes[SEQ], 11,
              &(struct exec_args){.argv = ARGV("seq", "1", "150000")});
    open_forward(&w->agent, &p->lanes[FORWARD], 12, port);
    put(&p->lanes[FORWARD], p->bytes, p->bytes_size);
    p->lanes[FORWARD].out_ends = true;
    (void)snprintf(path, sizeof path, "%s/file", w->folder);
    open_copy(&w->agent, &p->lanes[OUT], 13, BG_COPY_OUT_OF_GUEST, path, "top", 0);
    (void)snprintf(path, sizeof path, "%s/copied", w->folder);
    open_copy(&w->agent, &p->lanes[IN], 14, BG_COPY_INTO_GUEST, path, "top", 0);
    for (size_t at = 0, n; at < p->tar_size; at += n) {
        n = p->tar_size - at < 30000 ? p->tar_size - at : 30000;
        put_frame(&p->lanes[IN], BG_FRAME_DATA, p->tar + at, n);
    }
    put_frame(&p->lanes[IN], BG_FRAME_END, "\0\0\0", 4);
    open_fuse(&w->agent, &p->lanes[FUSE], 15, w->folder, p->fuse_requests);
}

/* All kinds at once, cut at random places: not a byte is lost or doubled. */
static void every_stream_goes_on_whenever_it_is_cut(void **state)
{
    struct world *w = *state;
    const char *given = getenv("BG_TEST_SEED");
    uint32_t seed = given ? (uint32_t)strtoul(given, NULL, 10) : (uint32_t)time(NULL);
    uint32_t random = seed | 1;
    print_message("seed %u\n", seed);
    struct progress p = {.bytes_size = 2000003, .fuse_requests = 4000};
    p.bytes = make_bytes(p.bytes_size);
    p.seq = malloc(2 << 20);
    assert_non_null(p.seq);
    for (int i = 1; i <= 150000; i++)
        p.seq_size += (size_t)snprintf(p.seq + p.seq_size, 16, "%d\n", i);
    make_file(w, "file", p.bytes, p.bytes_size);
    char path[128];
    (void)snprintf(path, sizeof path, "%s/file", w->folder);
    copy_out(w, path, (uint8_t **)(void *)&p.tar, &p.tar_size);
    uint16_t port;
    pid_t server = start_echo_server(&port);
    int session = open_session(&w->agent, 0), cuts = 0;
    open_lanes(w, &p, port);
    uint64_t deadline_ms = bg_now_ms() + DEADLINE_MS;
    for (int left = LANES; left > 0;) {
        assert_true(bg_now_ms() < deadline_ms);
        random = random * 1664525u + 1013904223u;
        uint32_t size = (random >> 4) % (1u << ((random >> 25) % 17 + 1)) + 1;
        if ((random >> 9) % 64 == 0 && cuts < 60) {
            cut(&w->agent, &session, p.lanes, LANES);
            cuts++;
        }
        int which = (int)((random >> 16) % LANES);
        struct lane *lane = &p.lanes[which];
        lane_write(lane, size);
        lane_read(lane, 2 * size);
        if (p.over[which])
            continue;
        check_lane(&p, which);
        left -= p.over[which];
        assert_true(p.over[which] || !lane->in_ended);
    }
    print_message("%d cuts\n", cuts);
    assert_true(cuts > 5);
    char copied[128];
    (void)snprintf(copied, sizeof copied, "%s/copied", w->folder);
    char *text;
    size_t size;
    assert_int_equal(bg_read_file(AT_FDCWD, copied, p.bytes_size, &text, &size, NULL), 0);
    assert_int_equal(size, p.bytes_size);
    assert_memory_equal(text, p.bytes, size);
    free(text);
    int status;
    assert_int_equal(waitpid(server, &status, 0), server);
    assert_int_equal(status, 0);
    for (int i = 0; i < LANES; i++)
        lane_close(&p.lanes[i]);
    (void)close(session);
    free((void *)(uintptr_t)p.bytes);
    free((void *)(uintptr_t)p.tar);
    free(p.seq);
}

static void read_until(struct lane *lane, const char *text)
{
    uint64_t deadline_ms = bg_now_ms() + DEADLINE_MS;
    while (!lane->in || !memmem(lane->in, lane->in_size, text, strlen(text))) {
        struct pollfd p = {.fd = lane->fd, .events = POLLIN};
        assert_true(bg_now_ms() < deadline_ms);
        assert_false(lane->in_ended);
        (void)poll(&p, 1, 1000);
        lane_read(lane, READ_AT_ONCE);
    }
}

static void write_all(struct lane *lane)
{
    while (lane->out_at < lane->out_size)
        lane_write(lane, SIZE_MAX);
}

static void a_terminal_goes_on(void **state)
{
    struct world *w = *state;
    int session = open_session(&w->agent, 0);
    struct lane lane;
    open_exec(&w->agent, &lane, 10,
              &(struct exec_args){.argv = ARGV("sh", "-c", "while read l; do echo \"<$l>\"; done"),
                                  .flags = BG_EXEC_TTY});
    for (int i = 0; i < 5; i++) {
        char line[32], want[32];
        int size = snprintf(line, sizeof line, "line %d\n", i);
        (void)snprintf(want, sizeof want, "<line %d>", i);
        put_frame(&lane, BG_FRAME_STDIN, line, (size_t)size);
        write_all(&lane);
        if (i % 2 == 0) /* else it is cut with the answer on its way */
            read_until(&lane, want);
        cut(&w->agent, &session, &lane, 1);
        write_all(&lane); /* what was not read yet */
        read_until(&lane, want);
    }
    lane_close(&lane);
    (void)close(session);
}

static void what_was_told_meanwhile_is_told(void **state)
{
    struct world *w = *state;
    int session = open_session(&w->agent, 0);
    struct lane lane;
    uint8_t body[BG_PATH_MAX + 16];
    struct bg_writer writer = bg_writer_init(body, sizeof body);
    bg_watch_request_emit(w->folder, &writer);
    lane_open(&w->agent, &lane, BG_STREAM_WATCH, 10, body, writer.used);
    write_all(&lane);
    while (lane.in_size < BG_REPLY_HEADER_SIZE && !lane.in_ended)
        lane_read(&lane, BG_REPLY_HEADER_SIZE);
    struct bg_reply_header reply;
    assert_int_equal(bg_reply_header_parse(lane.in, BG_REPLY_HEADER_SIZE, &reply, NULL), 0);
    if (reply.status == 0) { /* else this machine's files cannot be watched */
        make_file(w, "before", "x", 1);
        read_until(&lane, "before");
        prepare(session);
        lane_read(&lane, SIZE_MAX);
        (void)close(lane.fd);
        make_file(w, "meanwhile", "x", 1);
        resume(&w->agent, &lane);
        go_on(session, BG_GO_ON_RESUMED);
        read_until(&lane, "meanwhile");
        make_file(w, "after", "x", 1);
        read_until(&lane, "after");
    }
    lane_close(&lane);
    (void)close(session);
}

static void nothing_is_sent_while_parked(void **state)
{
    struct world *w = *state;
    int session = open_session(&w->agent, 0);
    struct lane lane, fuse;
    open_exec(&w->agent, &lane, 10, &(struct exec_args){.argv = ARGV("yes")});
    open_fuse(&w->agent, &fuse, 11, w->folder, 10);
    lane_write(&fuse, 200);
    read_until(&lane, "y\ny\n");
    prepare(session);
    lane_read(&lane, SIZE_MAX);
    lane_read(&fuse, SIZE_MAX);
    write_all(&fuse);
    struct pollfd both[2] = {{.fd = lane.fd, .events = POLLIN}, {.fd = fuse.fd, .events = POLLIN}};
    assert_int_equal(poll(both, 2, 300), 0);
    /* The snapshot was given up: they go on with the same connections. */
    go_on(session, BG_GO_ON_ALIVE);
    size_t before = lane.in_size;
    uint64_t deadline_ms = bg_now_ms() + DEADLINE_MS;
    while (lane.in_size < before + 1000000) {
        assert_true(bg_now_ms() < deadline_ms);
        lane_read(&lane, READ_AT_ONCE);
    }
    while (check_fuse(&fuse, 10) < 10) {
        assert_true(bg_now_ms() < deadline_ms);
        lane_read(&fuse, READ_AT_ONCE);
    }
    lane_close(&lane);
    lane_close(&fuse);
    (void)close(session);
}

static void what_is_not_resumed_ends(void **state)
{
    struct world *w = *state;
    int session = open_session(&w->agent, 0);
    struct lane lane, fuse, other;
    open_exec(&w->agent, &lane, 10, &(struct exec_args){.argv = ARGV("sh", "-c", "echo $$; cat")});
    open_exec(&w->agent, &other, 12, &(struct exec_args){.argv = ARGV("cat")});
    open_fuse(&w->agent, &fuse, 11, w->folder, 10);
    write_all(&lane);
    write_all(&other);
    write_all(&fuse);
    const uint8_t *payload;
    size_t size;
    char pid[16] = "";
    uint64_t deadline_ms = bg_now_ms() + DEADLINE_MS;
    uint8_t type;
    while ((type = next_frame(&lane, &payload, &size)) == 0) {
        assert_true(bg_now_ms() < deadline_ms);
        lane_read(&lane, READ_AT_ONCE);
    }
    assert_int_equal(type, BG_FRAME_STDOUT);
    memcpy(pid, payload, size < 15 ? size : 15);
    prepare(session);
    (void)close(lane.fd);
    (void)close(fuse.fd);
    (void)close(other.fd);
    uint64_t has;
    int fd = client_connect(&w->agent);
    assert_int_equal(ask_resume(fd, BG_STREAM_EXEC, 77, 0, &has), -ENOENT);
    (void)close(fd);
    fd = client_connect(&w->agent);
    assert_int_equal(ask_resume(fd, BG_STREAM_COPY, 10, 0, &has), -ENOENT);
    (void)close(fd);
    fd = client_connect(&w->agent);
    assert_int_equal(ask_resume(fd, BG_STREAM_CONNECT, 10, 0, &has), -ENOENT);
    (void)close(fd);
    fd = client_connect(&w->agent); /* not what was sent */
    assert_int_equal(ask_resume(fd, BG_STREAM_EXEC, 10, lane.in_size + 1, &has), -EPROTO);
    (void)close(fd);
    /* Nobody reads this one: then the count is of no matter. */
    other.fd = client_connect(&w->agent);
    assert_int_equal(ask_resume(other.fd, BG_STREAM_EXEC, 12, BG_RESUME_ANY, &has), 0);
    assert_int_equal(has, other.out_size);
    fd = client_connect(&w->agent); /* once only */
    assert_int_equal(ask_resume(fd, BG_STREAM_EXEC, 12, BG_RESUME_ANY, &has), -ENOENT);
    (void)close(fd);
    go_on(session, BG_GO_ON_RESUMED);
    ping(session);
    fd = client_connect(&w->agent);
    assert_int_equal(ask_resume(fd, BG_STREAM_EXEC, 10, lane.in_size, &has), -ENOENT);
    (void)close(fd);
    deadline_ms = bg_now_ms() + DEADLINE_MS;
    while (kill((pid_t)strtol(pid, NULL, 10), 0) == 0) { /* it was killed */
        assert_true(bg_now_ms() < deadline_ms);
        (void)poll(NULL, 0, 5);
    }
    lane.fd = fuse.fd = -1;
    lane_close(&lane);
    lane_close(&fuse);
    lane_close(&other);
    (void)close(session);
}

/* In a fork the same state gets another identity: nothing of before goes on. */
static void another_identity_ends_what_is_parked(void **state)
{
    struct world *w = *state;
    int session = open_session(&w->agent, 0);
    struct lane lane;
    open_fuse(&w->agent, &lane, 11, w->folder, 10);
    write_all(&lane);
    while (check_fuse(&lane, 10) < 10)
        lane_read(&lane, SIZE_MAX);
    prepare(session);
    (void)close(session);
    session = open_session(&w->agent, 0);
    uint64_t has;
    int fd = client_connect(&w->agent);
    assert_int_equal(ask_resume(fd, BG_STREAM_FUSE, 11, lane.in_size, &has), -ENOENT);
    (void)close(fd);
    while (!lane.in_ended)
        lane_read(&lane, SIZE_MAX);
    lane_close(&lane);
    (void)close(session);
}

/* What the host has opened just before counts as much. */
static void an_opening_on_its_way_is_taken(void **state)
{
    struct world *w = *state;
    int session = open_session(&w->agent, 0);
    enum { MANY = 60 };
    static struct lane lanes[MANY];
    for (uint32_t i = 0; i < MANY; i++) {
        char text[16];
        (void)snprintf(text, sizeof text, "say %u", i);
        open_exec(&w->agent, &lanes[i], 10 + i, &(struct exec_args){.argv = ARGV("echo", text)});
        write_all(&lanes[i]);
    }
    cut(&w->agent, &session, lanes, MANY);
    for (uint32_t i = 0; i < MANY; i++) {
        char text[16];
        (void)snprintf(text, sizeof text, "say %u\n", i);
        if (!lanes[i].in_ended)
            read_until(&lanes[i], text);
        else
            assert_non_null(memmem(lanes[i].in, lanes[i].in_size, text, strlen(text)));
        lane_close(&lanes[i]);
    }
    (void)close(session);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, start, stop)

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN); /* a stream that ends early fails a read instead */
    const struct CMUnitTest tests[] = {
        TEST(every_stream_goes_on_whenever_it_is_cut),
        TEST(a_terminal_goes_on),
        TEST(what_was_told_meanwhile_is_told),
        TEST(nothing_is_sent_while_parked),
        TEST(what_is_not_resumed_ends),
        TEST(another_identity_ends_what_is_parked),
        TEST(an_opening_on_its_way_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
