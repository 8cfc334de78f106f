#include "net/upstreams.h"

#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "net/engine.h"
#include "net/h2.h"

struct upstream {
    struct engine *engine;
    struct upstream *next;
    struct upstream_key key;
    char address[ADDRESS_TEXT_SIZE];
    struct channel *channel; /* NULL: taken, or closing */
    uv_timer_t timer;
    unsigned open_handles;
};

bool upstream_key_fits(const struct upstream_key *have, const struct upstream_key *want)
{
    return have->tls == want->tls && have->to.port == want->to.port &&
           destination_same_host(&have->to, &want->to) &&
           policy_same_addresses(have->policy, have->rule, want->rule);
}

static void free_if_closed(struct upstream *upstream)
{
    if (--upstream->open_handles > 0)
        return;
    struct engine *engine = upstream->engine;
    free(upstream);
    engine_released(engine);
}

static void timer_closed(uv_handle_t *handle)
{
    free_if_closed(handle->data);
}

static void channel_closed(void *owner)
{
    free_if_closed(owner);
}

/* Takes it off the list. Its channel is the caller's. */
static struct channel *release(struct upstream *upstream)
{
    struct upstreams *all = &upstream->engine->upstreams;
    struct upstream **at = &all->idle;
    while (*at != upstream)
        at = &(*at)->next;
    *at = upstream->next;
    all->idle_count--;
    uv_close((uv_handle_t *)&upstream->timer, timer_closed);
    return BG_TAKE(upstream->channel);
}

static void drop(struct upstream *upstream)
{
    channel_close(release(upstream));
}

static void timer_fired(uv_timer_t *timer)
{
    drop(timer->data);
}

/* An idle upstream has nothing to say: it has closed, or speaks out of turn. But TLS may have had
 * something to do, such as taking a ticket. */
static void channel_ready(void *owner)
{
    struct upstream *upstream = owner;
    uint8_t byte;
    if (channel_gone(upstream->channel) ||
        channel_read(upstream->channel, &byte, sizeof byte) != -EAGAIN)
        drop(upstream);
    else
        channel_watch(upstream->channel, /* want_read= */ true);
}

static struct upstream *find(struct engine *engine, const struct upstream_key *key)
{
    for (struct upstream *u = engine->upstreams.idle; u; u = u->next)
        if (upstream_key_fits(&u->key, key))
            return u;
    return NULL;
}

/* Whether it is still open, as far as can be seen without waiting. */
static bool still_good(const struct upstream *upstream)
{
    uint8_t byte;
    return !channel_gone(upstream->channel) &&
           channel_read(upstream->channel, &byte, sizeof byte) == -EAGAIN;
}

static bool take_h2(struct engine *engine, const struct upstream_key *key,
                    const struct channel_opts *opts, struct channel **ret_channel,
                    char ret_address[ADDRESS_TEXT_SIZE])
{
    for (struct h2 *h2 = engine->upstreams.sessions; h2; h2 = h2_next(h2)) {
        if (!h2_has_room(h2) || !upstream_key_fits(h2_key(h2), key))
            continue;
        if (h2_open_stream(h2, opts, ret_channel, NULL) < 0)
            return false;
        memcpy(ret_address, h2_address(h2), ADDRESS_TEXT_SIZE);
        return true;
    }
    return false;
}

bool upstreams_take(struct engine *engine, const struct upstream_key *key, bool h2,
                    const struct channel_opts *opts, struct channel **ret_channel,
                    char ret_address[ADDRESS_TEXT_SIZE])
{
    if (h2 && take_h2(engine, key, opts, ret_channel, ret_address))
        return true;
    for (struct upstream *u; (u = find(engine, key)) != NULL;) {
        if (!still_good(u)) {
            drop(u);
            continue;
        }
        memcpy(ret_address, u->address, sizeof u->address);
        struct channel *channel = release(u);
        channel_set_owner(channel, opts);
        free_if_closed(u); /* for the channel, whose closing it will not see */
        *ret_channel = channel;
        return true;
    }
    return false;
}

/* Room for one more to the same destination: the oldest goes. */
static void make_room(struct engine *engine, const struct upstream_key *key)
{
    struct upstream *last = NULL, *last_same = NULL;
    unsigned same = 0;
    for (struct upstream *u = engine->upstreams.idle; u; u = u->next) {
        last = u;
        if (upstream_key_fits(&u->key, key)) {
            last_same = u;
            same++;
        }
    }
    if (same >= BG_EGRESS_IDLE_HOST_MAX)
        drop(last_same);
    else if (engine->upstreams.idle_count >= BG_EGRESS_IDLE_MAX)
        drop(last);
}

static void discarded(void *owner)
{
    engine_released(owner);
}

/* Closes a channel that is nobody's. */
static void discard(struct engine *engine, struct channel *channel)
{
    const struct channel_opts opts = {.on_closed = discarded, .owner = engine};
    channel_set_owner(channel, &opts);
    engine_hold(engine);
    channel_close(channel);
}

void upstreams_put(struct engine *engine, const struct upstream_key *key, struct channel *channel,
                   const char *address)
{
    struct upstream *upstream =
        engine->closing || engine->draining || engine->opts.timeouts.upstream_idle_ms == 0
            ? NULL
            : calloc(1, sizeof *upstream);
    if (!upstream) {
        discard(engine, channel);
        return;
    }
    make_room(engine, key);
    upstream->engine = engine;
    upstream->key = *key;
    (void)snprintf(upstream->address, sizeof upstream->address, "%s", address);
    upstream->channel = channel;
    upstream->open_handles = 2;
    upstream->next = engine->upstreams.idle;
    engine->upstreams.idle = upstream;
    engine->upstreams.idle_count++;
    engine_hold(engine);
    (void)uv_timer_init(engine->loop, &upstream->timer); /* cannot fail */
    upstream->timer.data = upstream;
    (void)uv_timer_start(&upstream->timer, timer_fired, engine->opts.timeouts.upstream_idle_ms,
                         0); /* fails only when closing */
    const struct channel_opts opts = {
        .on_ready = channel_ready, .on_closed = channel_closed, .owner = upstream, .wipe = true};
    channel_set_owner(channel, &opts);
    channel_watch(channel, /* want_read= */ true);
}

int upstreams_add_h2(struct engine *engine, const struct upstream_key *key,
                     struct channel *connection, const char *address,
                     const struct channel_opts *opts, struct channel **ret_channel,
                     struct bg_err *err)
{
    char other[ADDRESS_TEXT_SIZE];
    /* Requests that came at once have each made a connection; one is enough. */
    if (take_h2(engine, key, opts, ret_channel, other)) {
        discard(engine, connection);
        return 0;
    }
    struct h2 *h2;
    const struct h2_client_opts h2_opts = {.key = key, .address = address};
    int r = h2_open_client(engine, &h2_opts, connection, &h2, err);
    if (r < 0) {
        discard(engine, connection);
        return r;
    }
    return h2_open_stream(h2, opts, ret_channel, err);
}

void upstreams_drain(struct engine *engine)
{
    while (engine->upstreams.idle)
        drop(engine->upstreams.idle);
    h2_drain_all(engine->upstreams.sessions);
}

void upstreams_close(struct engine *engine)
{
    while (engine->upstreams.idle)
        drop(engine->upstreams.idle);
    while (engine->upstreams.sessions)
        h2_close(engine->upstreams.sessions);
}
