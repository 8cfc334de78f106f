/* Writing. A byte that is written after the host has been told that all is still would be lost with
 * the connection. So writers pass the gate: they count themselves into it, make one call that does
 * not wait, and count themselves out; waiting for room is done outside.
 *
 * Reading may go on: what is read counts, what is not is sent again. But the count must stand when
 * the host asks for it, so then nobody begins to read either, and a reader is known from before its
 * call until the bytes are counted.
 * One that waits for bytes gets an error when its connection is taken away; it then waits at the
 * closed gate. It tells a cut from an end by the gate and the generation, which the agent changes
 * only after the connection is gone. */
#include "guest/link.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/io.h"
#include "guest/stream.h"

#define GATE_CLOSED 0x80000000u /* nobody begins to write */
#define GATE_HELD   0x40000000u /* nor to read */
#define GATE_FLAGS  (GATE_CLOSED | GATE_HELD)
#define PARTS_MAX   4

static void futex(const _Atomic uint32_t *word, int op, uint32_t value)
{
    /* Fails when the word has changed, or by a signal: the caller looks again. */
    (void)syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

/* ---- in the agent ---- */

struct gate *gate_new(uint64_t read)
{
    struct gate *gate =
        mmap(NULL, sizeof *gate, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (gate == MAP_FAILED)
        return NULL;
    atomic_store(&gate->read, read);
    return gate;
}

void gate_free(struct gate *gate)
{
    if (gate)
        (void)munmap(gate, sizeof *gate); /* it is a mapping: cannot fail */
}

void gate_close(struct gate *gate)
{
    (void)atomic_fetch_or(&gate->state, GATE_CLOSED);
}

bool gate_is_quiet(const struct gate *gate)
{
    return (atomic_load(&gate->state) & ~GATE_FLAGS) == 0;
}

bool gate_hold(struct gate *gate)
{
    (void)atomic_fetch_or(&gate->state, GATE_HELD);
    return gate_is_quiet(gate) && atomic_load(&gate->readers) == 0;
}

void gate_open(struct gate *gate, bool renewed)
{
    if (renewed)
        (void)atomic_fetch_add(&gate->generation, 1);
    (void)atomic_fetch_and(&gate->state, ~GATE_FLAGS);
    futex(&gate->state, FUTEX_WAKE, INT_MAX);
}

/* ---- in the worker ---- */

void link_init(struct link *link, int fd, int control_fd, int event_fd, struct gate *gate)
{
    *link = (struct link){.fd = fd, .control_fd = control_fd, .event_fd = event_fd, .gate = gate};
    (void)pthread_mutex_init(&link->lock, NULL); /* cannot fail with these attributes */
}

static bool is_closed(const struct link *link)
{
    return atomic_load(&link->gate->state) & GATE_FLAGS;
}

static void tell_agent(const struct link *link)
{
    uint64_t one = 1;
    ssize_t n = write(link->event_fd, &one, sizeof one);
    (void)n; /* it counts to 2^64 */
}

static void wait_until_open(const struct link *link)
{
    uint32_t state;
    while ((state = atomic_load(&link->gate->state)) & GATE_FLAGS)
        futex(&link->gate->state, FUTEX_WAIT, state);
}

/* Puts a new connection in fd's place, if there is one. */
static void renew(struct link *link)
{
    if (atomic_load(&link->gate->generation) == atomic_load(&link->generation))
        return;
    (void)pthread_mutex_lock(&link->lock);
    uint32_t generation = atomic_load(&link->gate->generation);
    while (atomic_load(&link->generation) != generation) {
        int fds[BG_RECV_FDS_MAX];
        size_t count = 0;
        char byte;
        ssize_t n = bg_recv_fds(link->control_fd, &byte, sizeof byte, fds, &count);
        if (n == -EINTR)
            continue;
        if (n <= 0 || count != 1 || dup3(fds[0], link->fd, O_CLOEXEC) < 0)
            abort();         /* the agent is gone, and we with it */
        (void)close(fds[0]); /* a duplicate */
        (void)atomic_fetch_add(&link->generation, 1);
    }
    (void)pthread_mutex_unlock(&link->lock);
}

/* ---- reading ---- */

static ssize_t read_flags(struct link *link, void *buffer, size_t size, int flags)
{
    struct gate *gate = link->gate;
    for (;;) {
        uint32_t generation = atomic_load(&gate->generation);
        renew(link);
        (void)atomic_fetch_add(&gate->readers, 1); /* before the look at the gate */
        bool held = atomic_load(&gate->state) & GATE_HELD;
        if (!held && atomic_load(&gate->generation) != atomic_load(&link->generation)) {
            /* Held and let go since renew(): what the old connection still has is sent again. */
            (void)atomic_fetch_sub(&gate->readers, 1);
            continue;
        }
        ssize_t n = held ? -1 : recv(link->fd, buffer, size, flags);
        int code = held ? EINTR : n < 0 ? errno : 0;
        if (n > 0)
            (void)atomic_fetch_add(&gate->read, (uint64_t)n);
        (void)atomic_fetch_sub(&gate->readers, 1);
        bool closed = is_closed(link);
        if (closed)
            tell_agent(link); /* it may wait for just this */
        if (atomic_load(&link->stopped))
            return 0;
        if (n > 0 || code == EAGAIN)
            return n > 0 ? n : -code;
        if (held)
            wait_until_open(link);
        if (code == EINTR)
            continue;
        if (!closed && atomic_load(&gate->generation) == generation)
            return -code; /* 0 at the end */
        wait_until_open(link);
    }
}

ssize_t link_read(struct link *link, void *buffer, size_t size)
{
    return read_flags(link, buffer, size, 0);
}

ssize_t link_read_now(struct link *link, void *buffer, size_t size)
{
    return read_flags(link, buffer, size, MSG_DONTWAIT);
}

int link_read_full(struct link *link, void *buffer, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = link_read(link, (char *)buffer + at, size - at);
        if (n <= 0)
            return n == 0 ? -ENODATA : (int)n;
        at += (size_t)n;
    }
    return 0;
}

/* ---- writing ---- */

static void enter(struct link *link)
{
    _Atomic uint32_t *state = &link->gate->state;
    for (;;) {
        uint32_t now = atomic_load(state);
        if (now & GATE_CLOSED)
            wait_until_open(link);
        else if (atomic_compare_exchange_weak(state, &now, now + 1))
            break;
    }
    renew(link);
}

static void leave(struct link *link)
{
    if (((atomic_fetch_sub(&link->gate->state, 1) - 1) | GATE_HELD) == GATE_FLAGS)
        tell_agent(link);
}

static ssize_t send_now(struct link *link, struct iovec *parts, int count)
{
    struct msghdr msg = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    enter(link);
    ssize_t n = sendmsg(link->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    int code = n < 0 ? errno : 0;
    if (n > 0)
        (void)atomic_fetch_add(&link->gate->written, (uint64_t)n);
    leave(link);
    return n < 0 ? -code : n;
}

ssize_t link_write_now(struct link *link, const void *bytes, size_t size)
{
    struct iovec part = {.iov_len = size};
    memcpy(&part.iov_base, &bytes, sizeof bytes); /* only read from; iovec has no const */
    ssize_t n;
    do {
        n = send_now(link, &part, 1);
    } while (n == -EINTR);
    return n;
}

int link_writev(struct link *link, const struct iovec *given, int count)
{
    struct iovec parts[PARTS_MAX];
    assert(count <= PARTS_MAX);
    memcpy(parts, given, (size_t)count * sizeof *given);
    for (int first = 0; first < count;) {
        if (parts[first].iov_len == 0) {
            first++;
            continue;
        }
        ssize_t n = send_now(link, parts + first, count - first);
        if (n == -EAGAIN) {
            struct pollfd room = {.fd = link->fd, .events = POLLOUT};
            (void)poll(&room, 1, -1); /* a connection that is gone ends it too */
        } else if (n < 0 && n != -EINTR) {
            return (int)n;
        }
        for (size_t left = n > 0 ? (size_t)n : 0; left > 0;) {
            size_t here = left < parts[first].iov_len ? left : parts[first].iov_len;
            parts[first].iov_base = (char *)parts[first].iov_base + here;
            parts[first].iov_len -= here;
            left -= here;
            if (parts[first].iov_len == 0)
                first++;
        }
    }
    return 0;
}

int link_write(struct link *link, const void *bytes, size_t size)
{
    struct iovec part = {.iov_len = size};
    memcpy(&part.iov_base, &bytes, sizeof bytes); /* as above */
    return link_writev(link, &part, 1);
}

int link_reply(struct link *link, const struct bg_err *err)
{
    uint8_t bytes[STREAM_REPLY_MAX];
    return link_write(link, bytes, stream_emit_reply(err, bytes));
}

/* ---- ends ---- */

void link_finish(struct link *link)
{
    enter(link);
    atomic_store(&link->gate->shut, 1);
    (void)shutdown(link->fd, SHUT_WR); /* fails if the host is gone */
    leave(link);
}

void link_stop(struct link *link)
{
    atomic_store(&link->stopped, true);
    (void)shutdown(link->fd, SHUT_RD); /* wakes who reads; fails if the host is gone */
}

void link_close(struct link *link)
{
    enter(link);
    atomic_store(&link->gate->ended, 1);
    (void)close(link->fd); /* all that was written is on its way */
    leave(link);
    link->fd = -1;
}
