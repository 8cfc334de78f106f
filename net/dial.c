#include "net/dial.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/limits.h"

/* With more addresses left, one that does not answer is given up early. */
#define NEXT_ADDRESS_MS 2000u

/* One socket that is connecting. It outlives its dial until its handle has closed. */
struct attempt {
    uv_poll_t poll;
    struct dial *dial; /* used only while the handle is open */
    int fd;            /* -1: handed over */
};

struct dial {
    uv_timer_t timer;
    uv_getaddrinfo_t lookup;
    struct dial_opts opts;
    struct destination to;
    struct address addresses[BG_EGRESS_ADDRESSES_MAX];
    size_t count, next;
    struct attempt *attempt;
    bool lookup_pending, timer_open;
    bool over; /* on_done was called, or never will be */
    int last_error;
};

static void try_next(struct dial *dial);

static void free_if_unused(struct dial *dial)
{
    if (dial->over && !dial->lookup_pending && !dial->timer_open)
        free(dial);
}

static void timer_closed(uv_handle_t *handle)
{
    struct dial *dial = handle->data;
    dial->timer_open = false;
    free_if_unused(dial);
}

static void attempt_closed(uv_handle_t *handle)
{
    struct attempt *attempt = handle->data;
    if (attempt->fd >= 0)
        (void)close(attempt->fd); /* it never carried anything */
    free(attempt);
}

static void drop_attempt(struct dial *dial)
{
    if (dial->attempt)
        uv_close((uv_handle_t *)&dial->attempt->poll, attempt_closed);
    dial->attempt = NULL;
}

/* Ends all handles; from here on only their callbacks run. */
static void end(struct dial *dial)
{
    dial->over = true;
    drop_attempt(dial);
    if (dial->lookup_pending)
        (void)uv_cancel((uv_req_t *)&dial->lookup); /* too late: its callback comes in its time */
    uv_close((uv_handle_t *)&dial->timer, timer_closed);
}

static void succeed(struct dial *dial)
{
    struct dial_result result = {.fd = dial->attempt->fd,
                                 .address = dial->addresses[dial->next - 1]};
    struct dial_opts opts = dial->opts;
    dial->attempt->fd = -1;
    end(dial);
    opts.on_done(opts.owner, &result);
}

static void fail(struct dial *dial, const char *reason, const struct bg_err *err)
{
    struct dial_result result = {.fd = -1, .reason = reason, .err = *err};
    struct dial_opts opts = dial->opts;
    end(dial);
    opts.on_done(opts.owner, &result);
}

static void attempt_ready(uv_poll_t *poll, int status, int events)
{
    const struct attempt *attempt = poll->data;
    struct dial *dial = attempt->dial;
    int error = 0;
    socklen_t size = sizeof error;
    (void)status; /* SO_ERROR says it better */
    (void)events;
    if (getsockopt(attempt->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        error = errno;
    if (error == 0) {
        succeed(dial);
        return;
    }
    dial->last_error = error;
    drop_attempt(dial);
    try_next(dial);
}

static void timed_out(uv_timer_t *timer)
{
    struct dial *dial = timer->data;
    struct bg_err err;
    if (dial->lookup_pending) {
        (void)bg_err_set(&err, -ETIMEDOUT, "%s: DNS did not answer in time", dial->to.host);
        fail(dial, "timeout", &err);
        return;
    }
    dial->last_error = ETIMEDOUT;
    drop_attempt(dial);
    try_next(dial);
}

static int open_socket(const struct address *address)
{
    int fd = socket(address->family == 4 ? AF_INET : AF_INET6,
                    SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;
    if (fd < 0)
        return -errno;
    /* Both are wishes. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    return fd;
}

/* Begins to connect to one address. Errors: errno; nothing is left open then. */
static int begin(struct dial *dial, const struct address *address)
{
    struct sockaddr_storage sa;
    socklen_t size = address_to_sockaddr(address, dial->to.port, &sa);
    struct attempt *attempt = calloc(1, sizeof *attempt);
    if (!attempt)
        return -ENOMEM;
    attempt->dial = dial;
    attempt->fd = open_socket(address);
    int r = attempt->fd < 0 ? attempt->fd : 0;
    if (r == 0 && connect(attempt->fd, (const struct sockaddr *)&sa, size) < 0 &&
        errno != EINPROGRESS)
        r = -errno;
    if (r == 0)
        r = uv_poll_init(dial->timer.loop, &attempt->poll, attempt->fd);
    if (r < 0) {
        if (attempt->fd >= 0)
            (void)close(attempt->fd); /* it never carried anything */
        free(attempt);
        return r;
    }
    attempt->poll.data = attempt;
    dial->attempt = attempt;
    (void)uv_poll_start(&attempt->poll, UV_WRITABLE, attempt_ready); /* fails only when closing */
    return 0;
}

static void fail_to_connect(struct dial *dial)
{
    char text[ADDRESS_TEXT_SIZE];
    struct bg_err err;
    address_format(&dial->addresses[dial->count - 1], text);
    int code = dial->last_error == ETIMEDOUT      ? -ETIMEDOUT
               : dial->last_error == ECONNREFUSED ? -ECONNREFUSED
                                                  : -EHOSTUNREACH;
    (void)bg_err_set(&err, code, "cannot connect to %s port %u (%s%s): %s", dial->to.host,
                     dial->to.port, text, dial->count > 1 ? " and others" : "",
                     strerror(dial->last_error));
    fail(dial, code == -ETIMEDOUT ? "timeout" : "connect-failed", &err);
}

static void try_next(struct dial *dial)
{
    while (dial->next < dial->count) {
        int r = begin(dial, &dial->addresses[dial->next++]);
        if (r == 0) {
            uint64_t ms = dial->opts.connect_ms;
            if (dial->next < dial->count && ms > NEXT_ADDRESS_MS)
                ms = NEXT_ADDRESS_MS;
            (void)uv_timer_start(&dial->timer, timed_out, ms, 0); /* fails only when closing */
            return;
        }
        dial->last_error = -r;
    }
    fail_to_connect(dial);
}

/* Keeps those addresses that may be dialled, in the resolver's order, families in turn so that one
 * that leads nowhere costs one attempt. */
static void choose(struct dial *dial, const struct addrinfo *found, struct address *ret_refused)
{
    struct address of[2][BG_EGRESS_ADDRESSES_MAX]; /* the first one's family, the other */
    size_t counts[2] = {0};
    uint8_t first = 0;
    for (const struct addrinfo *ai = found; ai; ai = ai->ai_next) {
        struct address a;
        if (address_from_sockaddr(ai->ai_addr, &a) < 0)
            continue;
        if (!policy_address_ok(dial->opts.policy, dial->opts.rule, &dial->to, &a)) {
            *ret_refused = a;
            continue;
        }
        if (first == 0)
            first = a.family;
        size_t list = a.family != first;
        if (counts[list] < BG_EGRESS_ADDRESSES_MAX)
            of[list][counts[list]++] = a;
    }
    for (size_t i = 0; i < BG_EGRESS_ADDRESSES_MAX; i++)
        for (size_t list = 0; list < 2; list++)
            if (i < counts[list] && dial->count < BG_EGRESS_ADDRESSES_MAX)
                dial->addresses[dial->count++] = of[list][i];
}

/* address: one of those that the name has; family 0: none. */
static void refuse_address(struct dial *dial, const struct address *address)
{
    const struct destination *to = &dial->to;
    char text[ADDRESS_TEXT_SIZE] = "nothing";
    struct bg_err err;
    if (address->family != 0)
        address_format(address, text);
    enum address_class class = address_classify(address);
    if (class == ADDRESS_PUBLIC || dial->opts.rule->pin_count > 0) {
        (void)bg_err_set(&err, -EACCES,
                         "%s is at %s, and this sandbox's rules allow no connection to that "
                         "address",
                         to->host, text);
        fail(dial, "address-not-allowed", &err);
        return;
    }
    (void)bg_err_set(&err, -EACCES,
                     "%s resolves to %s, %s; if that is meant, allow it with --allow %s:%u=%s",
                     to->host, text, address_class_text(class), to->host, to->port, text);
    fail(dial, "address-not-public", &err);
}

static void looked_up(uv_getaddrinfo_t *lookup, int status, struct addrinfo *found)
{
    struct dial *dial = lookup->data;
    struct bg_err err;
    dial->lookup_pending = false;
    if (dial->over) {
        uv_freeaddrinfo(found);
        free_if_unused(dial);
        return;
    }
    if (status < 0) {
        (void)bg_err_set(&err, -EHOSTUNREACH, "cannot resolve %s: %s", dial->to.host,
                         uv_strerror(status));
        fail(dial, "resolve-failed", &err);
        return;
    }
    struct address refused = {0};
    choose(dial, found, &refused);
    uv_freeaddrinfo(found);
    if (dial->count > 0) {
        try_next(dial);
        return;
    }
    refuse_address(dial, &refused);
}

/* The timer fires at once: dial_start must not call back itself. */
static void start_without_lookup(uv_timer_t *timer)
{
    struct dial *dial = timer->data;
    if (dial->count > 0)
        try_next(dial);
    else /* a rule before its own denies all that there are */
        refuse_address(dial, &dial->opts.rule->pins[0].first);
}

static void use_known_addresses(struct dial *dial)
{
    const struct policy_rule *rule = dial->opts.rule;
    if (dial->to.is_address) {
        dial->addresses[dial->count++] = dial->to.address;
        return;
    }
    for (size_t i = 0; i < rule->pin_count && dial->count < BG_EGRESS_ADDRESSES_MAX; i++)
        if (policy_address_ok(dial->opts.policy, rule, &dial->to, &rule->pins[i].first))
            dial->addresses[dial->count++] = rule->pins[i].first;
}

int dial_start(uv_loop_t *loop, const struct dial_opts *opts, struct dial **ret, struct bg_err *err)
{
    struct dial *dial = calloc(1, sizeof *dial);
    if (!dial)
        return bg_err_errno(err, -ENOMEM, "dial");
    dial->opts = *opts;
    dial->to = *opts->to;
    dial->lookup.data = dial;
    bool known = dial->to.is_address || policy_knows_addresses(opts->rule);
    if (known)
        use_known_addresses(dial);
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    if (!known) {
        int r = uv_getaddrinfo(loop, &dial->lookup, looked_up, dial->to.host, NULL, &hints);
        if (r < 0) {
            free(dial);
            return bg_err_set(err, r, "resolver: %s", uv_strerror(r));
        }
        dial->lookup_pending = true;
    }
    (void)uv_timer_init(loop, &dial->timer); /* cannot fail */
    dial->timer.data = dial;
    dial->timer_open = true;
    (void)uv_timer_start(&dial->timer, dial->lookup_pending ? timed_out : start_without_lookup,
                         dial->lookup_pending ? opts->resolve_ms : 0, 0);
    *ret = dial;
    return 0;
}

void dial_cancel(struct dial *dial)
{
    if (dial)
        end(dial);
}
