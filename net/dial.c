#include "net/dial.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/limits.h"

/* One socket that is connecting. It outlives its dial until its handle has closed. */
struct attempt {
    uv_poll_t poll;
    struct dial *dial; /* used only while the handle is open */
    size_t index;      /* of its address */
    int fd;            /* -1: handed over */
};

/* Attempts race (RFC 8305): while one has not been answered the next one begins after
 * BG_EGRESS_RACE_MS, and the first to connect wins. */
struct dial {
    uv_timer_t timer;
    uv_getaddrinfo_t lookup;
    struct dial_opts opts;
    struct destination to;
    struct address addresses[BG_EGRESS_ADDRESSES_MAX];
    size_t count, next;
    struct attempt *attempts[BG_EGRESS_ADDRESSES_MAX]; /* the oldest first */
    size_t attempt_count;
    bool lookup_pending, timer_open;
    bool over;          /* on_done was called, or never will be */
    int error;          /* the most telling one so far */
    size_t error_index; /* of its address */
    /* With a parent proxy: the winner's socket is asked for the way before it is handed over. */
    const struct parent *parent;    /* NULL: straight there */
    const struct destination *peer; /* whom sockets are connected to */
    struct tunnel tunnel;
    bool tunnelling;
};

static void try_next(struct dial *dial);

static void free_if_unused(struct dial *dial)
{
    if (!dial->over || dial->lookup_pending || dial->timer_open)
        return;
    tunnel_done(&dial->tunnel);
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
    free(handle->data);
}

/* The first socket of a dial is accounted for by its connection, further ones are not. */
static void set_attempt_count(struct dial *dial, size_t count)
{
    size_t had = dial->attempt_count > 0 ? dial->attempt_count - 1 : 0;
    size_t has = count > 0 ? count - 1 : 0;
    *dial->opts.racing = (unsigned)(*dial->opts.racing + has - had);
    dial->attempt_count = count;
}

static void drop_attempt(struct dial *dial, struct attempt *attempt)
{
    size_t i = 0;
    while (dial->attempts[i] != attempt)
        i++;
    for (; i + 1 < dial->attempt_count; i++)
        dial->attempts[i] = dial->attempts[i + 1];
    set_attempt_count(dial, dial->attempt_count - 1);
    uv_close((uv_handle_t *)&attempt->poll, attempt_closed);
    if (attempt->fd >= 0)
        (void)close(attempt->fd); /* it never carried anything */
}

/* Ends all handles; from here on only their callbacks run. */
static void end(struct dial *dial)
{
    dial->over = true;
    while (dial->attempt_count > 0)
        drop_attempt(dial, dial->attempts[0]);
    if (dial->lookup_pending)
        (void)uv_cancel((uv_req_t *)&dial->lookup); /* too late: its callback comes in its time */
    uv_close((uv_handle_t *)&dial->timer, timer_closed);
}

static void succeed(struct dial *dial, struct attempt *attempt)
{
    struct dial_result result = {.fd = attempt->fd, .address = dial->addresses[attempt->index]};
    struct dial_opts opts = dial->opts;
    attempt->fd = -1;
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

/* Of several failures one is told: a host that answered says more than one that did not, and an
 * address family that does not work here says nothing. */
static int telling(int error)
{
    switch (error) {
    case 0:
        return 0;
    case ENETUNREACH:
    case EADDRNOTAVAIL:
    case EAFNOSUPPORT:
    case EMFILE:
    case ENFILE:
        return 1;
    case EHOSTUNREACH:
        return 2;
    case ETIMEDOUT:
        return 3;
    }
    return 4;
}

static void note_error(struct dial *dial, size_t index, int error)
{
    if (telling(error) <= telling(dial->error))
        return;
    dial->error = error;
    dial->error_index = index;
}

static void tunnel_ready(uv_poll_t *poll, int status, int events)
{
    struct attempt *attempt = poll->data;
    struct dial *dial = attempt->dial;
    struct bg_err err;
    (void)status; /* the socket says it better */
    (void)events;
    int r = tunnel_step(&dial->tunnel, attempt->fd, &err);
    if (r == -EAGAIN)
        (void)uv_poll_start(poll, tunnel_wants_write(&dial->tunnel) ? UV_WRITABLE : UV_READABLE,
                            tunnel_ready); /* fails only when closing */
    else if (r < 0)
        fail(dial, "parent-refused", &err);
    else
        succeed(dial, attempt);
}

static void timed_out(uv_timer_t *timer);

/* The first one has won. */
static void connected(struct dial *dial, struct attempt *attempt)
{
    if (!dial->parent) {
        succeed(dial, attempt);
        return;
    }
    while (dial->attempt_count > 1)
        drop_attempt(dial, dial->attempts[dial->attempts[0] == attempt]);
    tunnel_init(&dial->tunnel, dial->parent, &dial->to);
    dial->tunnelling = true;
    /* The parent resolves and connects. */
    (void)uv_timer_start(&dial->timer, timed_out, dial->opts.resolve_ms + dial->opts.connect_ms, 0);
    (void)uv_poll_start(&attempt->poll, UV_WRITABLE,
                        tunnel_ready); /* both fail only when closing */
}

static void attempt_ready(uv_poll_t *poll, int status, int events)
{
    struct attempt *attempt = poll->data;
    struct dial *dial = attempt->dial;
    int error = 0;
    socklen_t size = sizeof error;
    (void)status; /* SO_ERROR says it better */
    (void)events;
    if (getsockopt(attempt->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        error = errno;
    if (error == 0) {
        connected(dial, attempt);
        return;
    }
    note_error(dial, attempt->index, error);
    drop_attempt(dial, attempt);
    if (dial->next < dial->count || dial->attempt_count == 0)
        try_next(dial);
}

static bool may_race(const struct dial *dial)
{
    return *dial->opts.racing < BG_EGRESS_RACING_MAX;
}

static void fail_to_connect(struct dial *dial);

static void timed_out(uv_timer_t *timer)
{
    struct dial *dial = timer->data;
    struct bg_err err;
    if (dial->lookup_pending) {
        (void)bg_err_set(&err, -ETIMEDOUT, "%s: DNS did not answer in time", dial->peer->host);
        fail(dial, "timeout", &err);
        return;
    }
    if (dial->tunnelling) {
        (void)bg_err_set(&err, -ETIMEDOUT, "the parent proxy %s did not connect to %s in time",
                         dial->tunnel.at, dial->tunnel.to);
        fail(dial, "timeout", &err);
        return;
    }
    bool last = dial->next == dial->count;
    if (last || !may_race(dial)) {
        note_error(dial, dial->attempts[0]->index, ETIMEDOUT);
        drop_attempt(dial, dial->attempts[0]);
    }
    if (last)
        fail_to_connect(dial);
    else
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
static int begin(struct dial *dial, size_t index)
{
    const struct address *address = &dial->addresses[index];
    struct sockaddr_storage sa;
    socklen_t size = address_to_sockaddr(address, dial->peer->port, &sa);
    struct attempt *attempt = calloc(1, sizeof *attempt);
    if (!attempt)
        return -ENOMEM;
    attempt->dial = dial;
    attempt->index = index;
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
    dial->attempts[dial->attempt_count] = attempt;
    set_attempt_count(dial, dial->attempt_count + 1);
    (void)uv_poll_start(&attempt->poll, UV_WRITABLE, attempt_ready); /* fails only when closing */
    return 0;
}

static void fail_to_connect(struct dial *dial)
{
    char text[ADDRESS_TEXT_SIZE];
    struct bg_err err;
    address_format(&dial->addresses[dial->error_index], text);
    int code = dial->error == ETIMEDOUT      ? -ETIMEDOUT
               : dial->error == ECONNREFUSED ? -ECONNREFUSED
                                             : -EHOSTUNREACH;
    (void)bg_err_set(&err, code, "cannot connect to %s%s port %u (%s%s): %s",
                     dial->parent ? "the parent proxy " : "", dial->peer->host, dial->peer->port,
                     text, dial->count > 1 ? " and others" : "", strerror(dial->error));
    fail(dial, code == -ETIMEDOUT ? "timeout" : "connect-failed", &err);
}

/* Begins with the next address, and says when to look again. Without room to race the oldest
 * attempt is given its time first. */
static void try_next(struct dial *dial)
{
    bool begun = false;
    while (dial->next < dial->count && !begun) {
        int r = begin(dial, dial->next);
        begun = r == 0;
        if (!begun)
            note_error(dial, dial->next, -r);
        dial->next++;
    }
    if (dial->attempt_count == 0) {
        fail_to_connect(dial);
        return;
    }
    uint64_t ms = dial->opts.connect_ms;
    uint64_t next_ms = may_race(dial) ? BG_EGRESS_RACE_MS : BG_EGRESS_TURN_MS;
    if (dial->next < dial->count && ms > next_ms)
        ms = next_ms;
    (void)uv_timer_start(&dial->timer, timed_out, ms, 0); /* fails only when closing */
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
        if (!dial->parent &&
            !policy_address_ok(dial->opts.policy, dial->opts.rule, &dial->to, &a)) {
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
        (void)bg_err_set(&err, -EHOSTUNREACH, "cannot resolve %s%s: %s",
                         dial->parent ? "the parent proxy " : "", dial->peer->host,
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
    if (dial->peer->is_address)
        dial->addresses[dial->count++] = dial->peer->address;
    if (dial->parent || dial->to.is_address)
        return;
    for (size_t i = 0; i < rule->pin_count && dial->count < BG_EGRESS_ADDRESSES_MAX; i++)
        if (policy_address_ok(dial->opts.policy, rule, &dial->to, &rule->pins[i].first))
            dial->addresses[dial->count++] = rule->pins[i].first;
}

/* Where a rule says the address, and an address that is not public, are not for the parent: it is
 * not asked for what is inside. */
static const struct parent *parent_for(const struct dial_opts *opts)
{
    bool inside = opts->to->is_address && address_classify(&opts->to->address) != ADDRESS_PUBLIC;
    return inside || opts->rule->pin_count > 0 ? NULL : opts->parent;
}

int dial_start(uv_loop_t *loop, const struct dial_opts *opts, struct dial **ret, struct bg_err *err)
{
    struct dial *dial = calloc(1, sizeof *dial);
    if (!dial)
        return bg_err_errno(err, -ENOMEM, "dial");
    dial->opts = *opts;
    dial->to = *opts->to;
    dial->parent = parent_for(opts);
    dial->peer = dial->parent ? &dial->parent->at : &dial->to;
    dial->lookup.data = dial;
    bool known = dial->peer->is_address || (!dial->parent && policy_knows_addresses(opts->rule));
    if (known)
        use_known_addresses(dial);
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    if (!known) {
        int r = uv_getaddrinfo(loop, &dial->lookup, looked_up, dial->peer->host, NULL, &hints);
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
