#include "host/cli/forward.h"

#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/cleanup.h"

#define BUFFER_SIZE (64 * 1024) /* one each way */

enum { TO_GUEST, TO_CLIENT, WAYS };

struct way {
    int from, to;
    uint8_t *bytes; /* BUFFER_SIZE */
    size_t at, used;
    bool ended; /* no more comes from where it comes */
    bool over;  /* and that has been said */
};

struct carrier {
    const struct forward_opts *opts;
    struct way ways[WAYS];
    bool client_up; /* its end was not seen: whether it is reset is of interest */
};

/* What is left is dropped: the sandbox reads no more of it. */
static void give_up(struct way *way)
{
    way->at = way->used = 0;
    way->ended = way->over = true;
}

static int take(struct carrier *c, struct way *way)
{
    ssize_t n = recv(way->from, way->bytes, BUFFER_SIZE, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -ECONNRESET;
    if (n == 0 && way == &c->ways[TO_CLIENT] && c->opts->is_lost(c->opts->owner))
        return -ECONNRESET;
    way->at = 0;
    way->used = (size_t)n;
    way->ended = n == 0;
    return 0;
}

static int give(struct carrier *c, struct way *way)
{
    ssize_t n =
        send(way->to, way->bytes + way->at, way->used - way->at, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0)
        way->at += (size_t)n;
    else if (errno != EAGAIN && errno != EINTR && way == &c->ways[TO_GUEST])
        give_up(way); /* what it has to say may still come */
    else if (errno != EAGAIN && errno != EINTR)
        return -ECONNRESET;
    return 0;
}

static bool is_full(const struct way *way)
{
    return way->at < way->used;
}

static int turn_way(struct carrier *c, struct way *way, bool readable, bool writable)
{
    int r = 0;
    if (readable && !way->ended && !is_full(way)) {
        r = take(c, way);
        writable = true; /* likely; if not, the next turn waits for it */
    }
    if (r == 0 && writable && is_full(way))
        r = give(c, way);
    if (r == 0 && way->ended && !is_full(way) && !way->over) {
        (void)shutdown(way->to, SHUT_WR); /* one that is gone needs no word */
        way->over = true;
    }
    return r;
}

static short wanted(const struct way *in, const struct way *out)
{
    return (short)((in->ended || is_full(in) ? 0 : POLLIN) | (is_full(out) ? POLLOUT : 0));
}

static int turn(struct carrier *c)
{
    struct way *up = &c->ways[TO_GUEST], *down = &c->ways[TO_CLIENT];
    short client = wanted(up, down), stream = wanted(down, up);
    const short ended = POLLERR | POLLHUP;
    /* A stream that has ended says so without being asked, again and again. */
    struct pollfd fds[] = {
        {.fd = client || c->client_up ? c->opts->client_fd : -1, .events = client},
        {.fd = stream ? c->opts->stream_fd : -1, .events = stream}};
    if (poll(fds, 2, -1) < 0)
        return errno == EINTR ? 0 : -errno;
    if (fds[0].revents & POLLERR)
        return -ECONNRESET;
    if (fds[0].revents & POLLHUP)
        c->client_up = false;
    int r = turn_way(c, up, fds[0].revents & (POLLIN | ended), fds[1].revents & (POLLOUT | ended));
    if (r == 0)
        r = turn_way(c, down, fds[1].revents & (POLLIN | ended),
                     fds[0].revents & (POLLOUT | ended));
    return r;
}

int forward_carry(const struct forward_opts *opts)
{
    BG_AUTOFREE uint8_t *bytes = malloc((size_t)WAYS * BUFFER_SIZE);
    if (!bytes)
        return -ENOMEM;
    struct carrier c = {
        .opts = opts,
        .ways = {[TO_GUEST] = {.from = opts->client_fd, .to = opts->stream_fd, .bytes = bytes},
                 [TO_CLIENT] = {.from = opts->stream_fd,
                                .to = opts->client_fd,
                                .bytes = bytes + BUFFER_SIZE}},
        .client_up = true};
    int r = 0;
    while (r == 0 && !(c.ways[TO_GUEST].over && c.ways[TO_CLIENT].over))
        r = turn(&c);
    return r;
}

void forward_reset(int client_fd)
{
    const struct linger now = {.l_onoff = 1};
    (void)setsockopt(client_fd, SOL_SOCKET, SO_LINGER, &now, sizeof now); /* an end, then */
}
