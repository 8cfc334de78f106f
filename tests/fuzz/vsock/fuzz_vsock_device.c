/* A whole device between a hostile front end, a hostile driver and busy owners. The input is a
 * script of steps, each an u8 and its arguments (enum step). Whatever it says, all must be freed
 * and the loop empty in the end. */
#include <assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "host/vsock/vsock_device.h"
#include "host/vsock/vsock_pipe.h"
#include "tests/lib/vhost_front.h"

#define CONNS           8
#define HOST_PORT_FIRST 0x10000u /* what the device gives out */

enum step {
    STEP_TURN,    /* the loop runs */
    STEP_MESSAGE, /* u8 number of fds, u8 size, bytes: to the vhost-user socket */
    STEP_POKE,    /* u16 offset, u8 size, bytes: into guest memory */
    STEP_KICK,    /* u8 ring */
    STEP_PACKET,  /* u8 op, u8 guest port, u8 host port, u8 flags, u16 size, u32 buf_alloc, u32
                     fwd_cnt: transmitted */
    STEP_OWNER,   /* u8 connection, u8 what (enum act), u16 size */
    STEP_REFILL,  /* u8 count: receive buffers */
    STEP_COUNT,
};

enum act {
    ACT_CONNECT,
    ACT_WRITE,
    ACT_SHUTDOWN,
    ACT_STOP,
    ACT_RESET,
    ACT_CONSUME,
    ACT_PIPE,
    ACT_FD
};

struct slot {
    struct run *run;
    struct vsock_conn *conn; /* ours, or NULL */
    struct vsock_pipe *pipe; /* has conn, or NULL */
    size_t held;             /* bytes not consumed */
    int fd;                  /* our end of the pipe's socket, or -1 */
};

struct run {
    uv_loop_t loop;
    struct vhost_front front;
    struct vsock_device *device;
    int kick_fd;
    struct slot slots[CONNS];
    bool closed;
    unsigned failures;
};

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void got_data(void *owner, const uint8_t *bytes, size_t size)
{
    struct slot *s = owner;
    if (size == 0 || size > BG_VSOCK_PACKET_MAX)
        abort();
    /* Every byte is there to be read. */
    for (size_t i = 0; i < size; i += 97)
        s->held += bytes[i] & 0;
    s->held += size;
    if (s->held > BG_VSOCK_BUFFER_MAX)
        abort(); /* beyond any credit given */
}

static void got_eof(void *owner)
{
    struct slot *s = owner;
    if (s->held % 3 == 1) {
        vsock_reset(s->conn);
        s->conn = NULL;
    }
}

static void writable(void *owner)
{
    static const uint8_t zeros[3000];
    struct slot *s = owner;
    if (!(s->conn->own_shutdown & VSOCK_SHUTDOWN_SEND))
        (void)vsock_write(s->conn, zeros, sizeof zeros); /* how much is the device's affair */
}

static void ended(void *owner, int code)
{
    struct slot *s = owner;
    if (!s->conn || code > 0)
        abort();
    s->conn = NULL;
}

static const struct vsock_conn_ops ops = {
    .on_data = got_data, .on_writable = writable, .on_eof = got_eof, .on_end = ended};

static struct slot *free_slot(struct run *run)
{
    for (size_t i = 0; i < CONNS; i++) {
        struct slot *s = &run->slots[i];
        if (!s->conn && !s->pipe && s->fd < 0) {
            s->held = 0;
            return s;
        }
    }
    return NULL;
}

static void requested(void *owner, struct vsock_conn *conn, uint32_t host_port)
{
    struct run *run = owner;
    struct slot *s = free_slot(run);
    if (host_port == 3)
        return; /* never answered */
    if (!s || host_port % 2 == 1) {
        vsock_reset(conn);
        return;
    }
    s->conn = conn;
    vsock_accept(conn, &ops, s);
}

static void ready(void *owner)
{
    (void)owner;
}

static void failed(void *owner, const struct bg_err *err)
{
    struct run *run = owner;
    if (run->failures++ > 0 || err->code >= 0)
        abort();
}

static void closed(void *owner)
{
    ((struct run *)owner)->closed = true;
}

static void pipe_ended(void *owner, uint64_t to_guest, uint64_t from_guest)
{
    struct slot *s = owner;
    (void)to_guest;
    (void)from_guest;
    s->pipe = NULL;
    if (s->fd >= 0)
        (void)close(s->fd);
    s->fd = -1;
}

static void start_pipe(struct run *run, struct slot *s)
{
    int pair[2];
    if (!s->conn || s->pipe || s->fd >= 0 || s->conn->own_shutdown)
        return;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        abort();
    vsock_consumed(s->conn, s->held);
    s->held = 0;
    const struct vsock_pipe_opts opts = {.conn = s->conn,
                                         .fd = pair[0],
                                         .to_guest = (const uint8_t *)"first",
                                         .to_guest_size = 5,
                                         .opening_size = 5,
                                         .kind = BG_STREAM_EXEC,
                                         .id = 1,
                                         .to_fd = (const uint8_t *)"also",
                                         .to_fd_size = 4,
                                         .on_end = pipe_ended,
                                         .owner = s};
    if (vsock_pipe_start(&run->loop, &opts, &s->pipe, NULL) < 0)
        abort();
    s->conn = NULL;
    s->fd = pair[1];
}

/* The other end of a pipe's socket: reads, writes, shuts or closes. */
static void use_fd(struct slot *s, uint16_t size)
{
    static uint8_t bytes[4096];
    if (s->fd < 0)
        return;
    /* Results do not matter: the other side sees what there was. */
    switch (size % 5) {
    case 0:
        (void)!read(s->fd, bytes, sizeof bytes);
        break;
    case 1:
        (void)!send(s->fd, bytes, size % sizeof bytes, MSG_NOSIGNAL);
        break;
    case 2:
        (void)shutdown(s->fd, SHUT_WR);
        break;
    case 3:
        (void)shutdown(s->fd, SHUT_RD);
        break;
    default:
        (void)close(s->fd);
        s->fd = -1;
    }
}

static void owner_acts(struct run *run, struct slot *s, uint8_t act, uint16_t size)
{
    static const uint8_t zeros[UINT16_MAX];
    if (act == ACT_CONNECT && !s->conn && !s->pipe && s->fd < 0) {
        s->held = 0;
        if (vsock_connect(run->device, size % 8, &ops, s, &s->conn, NULL) < 0)
            s->conn = NULL;
    } else if (act == ACT_FD) {
        use_fd(s, size);
    } else if (act == ACT_PIPE) {
        if (!s->pipe)
            start_pipe(run, s);
        else if (size % 7 == 0)
            vsock_pipe_stop(s->pipe);
        else if (size % 7 == 1)
            (void)vsock_pipe_park(s->pipe); /* what follows is fine with one that is not yet */
        else if (size % 7 == 2)
            (void)vsock_pipe_resume(s->pipe, run->device); /* likewise: it then ends */
        else if (size % 7 == 3)
            vsock_pipe_go_on(s->pipe);
    }
    if (!s->conn)
        return;
    if (act == ACT_WRITE && !(s->conn->own_shutdown & VSOCK_SHUTDOWN_SEND)) {
        size_t room = vsock_write_room(s->conn);
        size_t n = vsock_write(s->conn, zeros, size);
        if (n > size || (run->failures == 0 && room > 0 && n < size && n < room))
            abort();
    } else if (act == ACT_SHUTDOWN) {
        vsock_shutdown(s->conn);
    } else if (act == ACT_STOP) {
        vsock_stop_reading(s->conn);
    } else if (act == ACT_RESET) {
        vsock_reset(s->conn);
        s->conn = NULL;
    } else if (act == ACT_CONSUME) {
        size_t n = size < s->held ? size : s->held;
        s->held -= n;
        vsock_consumed(s->conn, n);
    }
}

static void send_message(struct run *run, struct bg_reader *in)
{
    size_t fd_count = bg_reader_u8(in) % 10, size = bg_reader_u8(in);
    const uint8_t *bytes = bg_reader_bytes(in, size);
    if (!bytes || size == 0)
        return;
    int fds[10];
    for (size_t i = 0; i < fd_count; i++)
        fds[i] = run->kick_fd;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof fds)];
    } control = {0};
    /* Sending only reads. NOLINTNEXTLINE(performance-no-int-to-ptr) */
    struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
    struct msghdr msg = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_count > 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
    }
    (void)sendmsg(run->front.fd, &msg, MSG_NOSIGNAL); /* the device may have hung up */
}

static void transmit(struct run *run, struct bg_reader *in)
{
    static const uint8_t zeros[UINT16_MAX];
    struct vsock_packet p = {.src_cid = FRONT_GUEST_CID, .dst_cid = 2};
    uint8_t op = bg_reader_u8(in);
    p.type = op & 0x80 ? 2 : VSOCK_TYPE_STREAM;
    p.op = op & 0x7f;
    p.src_port = bg_reader_u8(in) % 8;
    uint8_t port = bg_reader_u8(in);
    p.dst_port = port < 128 ? port : HOST_PORT_FIRST + port - 128;
    p.flags = bg_reader_u8(in);
    p.size = bg_reader_u16le(in);
    p.buf_alloc = bg_reader_u32le(in);
    p.fwd_cnt = bg_reader_u32le(in);
    uint16_t in_ring =
        (uint16_t)(run->front.rings[FRONT_TX].avail_idx - front_used_idx(&run->front, FRONT_TX));
    if (in_ring < FRONT_QUEUE)
        front_transmit(&run->front, &p, zeros);
}

static void step(struct run *run, struct bg_reader *in)
{
    switch ((enum step)(bg_reader_u8(in) % STEP_COUNT)) {
    case STEP_TURN:
        (void)uv_run(&run->loop, UV_RUN_NOWAIT);
        break;
    case STEP_MESSAGE:
        send_message(run, in);
        break;
    case STEP_POKE: {
        uint16_t offset = bg_reader_u16le(in);
        size_t size = bg_reader_u8(in);
        const uint8_t *bytes = bg_reader_bytes(in, size);
        if (bytes)
            memcpy(run->front.memory + offset, bytes, size);
        break;
    }
    case STEP_KICK:
        front_kick(&run->front, bg_reader_u8(in) % 2 == 0 ? FRONT_RX : FRONT_TX);
        break;
    case STEP_PACKET:
        transmit(run, in);
        break;
    case STEP_OWNER: {
        struct slot *s = &run->slots[bg_reader_u8(in) % CONNS];
        uint8_t act = bg_reader_u8(in);
        owner_acts(run, s, act % (ACT_FD + 1), bg_reader_u16le(in));
        break;
    }
    case STEP_REFILL:
        for (uint8_t count = bg_reader_u8(in) % (FRONT_QUEUE + 1); count > 0; count--)
            front_publish(&run->front, FRONT_RX,
                          run->front.rings[FRONT_RX].avail_idx % FRONT_QUEUE);
        front_kick(&run->front, FRONT_RX);
        break;
    case STEP_COUNT:
        break;
    }
}

static void finish(struct run *run)
{
    vsock_device_close(run->device);
    for (size_t i = 0; i < CONNS; i++) {
        if (run->slots[i].pipe)
            vsock_pipe_stop(run->slots[i].pipe);
    }
    (void)uv_run(&run->loop, UV_RUN_DEFAULT);
    for (size_t i = 0; i < CONNS; i++) {
        struct slot *s = &run->slots[i];
        if (s->conn || s->pipe)
            abort();
        if (s->fd >= 0)
            (void)close(s->fd);
    }
    front_done(&run->front);
    if (!run->closed || uv_loop_close(&run->loop) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct run *run = calloc(1, sizeof *run);
    if (!run || uv_loop_init(&run->loop) < 0)
        abort();
    for (size_t i = 0; i < CONNS; i++)
        run->slots[i] = (struct slot){.run = run, .fd = -1};
    int fd;
    front_init(&run->front, &run->loop, &fd);
    const struct vsock_device_opts opts = {.fd = fd,
                                           .memory_pid = getpid(),
                                           .guest_cid = FRONT_GUEST_CID,
                                           .on_ready = ready,
                                           .on_request = requested,
                                           .on_failed = failed,
                                           .on_closed = closed,
                                           .owner = run};
    if (vsock_device_open_access(&run->loop, &opts, &run->front.access, &run->device, NULL) < 0)
        abort();
    (void)front_handshake(&run->front);
    front_start(&run->front, FRONT_FEATURES);
    front_fill_rx(&run->front, 4096);
    run->kick_fd = run->front.rings[FRONT_RX].kick_fd;
    struct bg_reader in = bg_reader_init(bytes, size);
    for (int steps = 0; steps < 256 && in.left > 0 && bg_reader_ok(&in); steps++)
        step(run, &in);
    finish(run);
    free(run);
    return 0;
}
