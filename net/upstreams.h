/* Connections to upstreams that are kept for the next request of any guest connection of this
 * sandbox: idle ones of HTTP/1.1, and those of HTTP/2, which carry many requests at once. One is
 * used again only for the same host and port, in the same way (TLS or not), and for a rule that
 * lets the same addresses be dialled. Loop thread only. */
#pragma once

#include <uv.h>

#include "common/err.h"
#include "net/address.h"
#include "net/channel.h"
#include "net/policy.h"

struct engine;
struct upstream; /* an idle one */
struct h2;

struct upstreams {
    struct upstream *idle; /* the one put last first */
    unsigned idle_count;
    struct h2 *sessions;
};

/* What a request needs, and what a connection is good for. */
struct upstream_key {
    struct destination to;
    const struct policy *policy; /* borrowed for the engine's life, as its rule */
    const struct policy_rule *rule;
    bool tls;
};

/* Whether the connection that was made for the one is as good for the other. */
bool upstream_key_fits(const struct upstream_key *have, const struct upstream_key *want);

/* Takes a kept connection: *ret_channel is then the caller's, with opts as its owner;
 * *ret_address: whom it is connected to. h2: one of those will do. Returns false if there is none.
 */
bool upstreams_take(struct engine *engine, const struct upstream_key *key, bool h2,
                    const struct channel_opts *opts, struct channel **ret_channel,
                    char ret_address[ADDRESS_TEXT_SIZE]);

/* Keeps an idle connection of HTTP/1.1, or closes it; takes it from its owner in any case, whose
 * on_closed is not called. */
void upstreams_put(struct engine *engine, const struct upstream_key *key, struct channel *channel,
                   const char *address);

/* A connection on which TLS has agreed on HTTP/2, to be used for this request and others: takes it
 * from its owner and gives back a channel for one request, as upstreams_take does. Errors: -ENOMEM;
 * -ECONNRESET it ended at once. */
int upstreams_add_h2(struct engine *engine, const struct upstream_key *key,
                     struct channel *connection, const char *address,
                     const struct channel_opts *opts, struct channel **ret_channel,
                     struct bg_err *err) BG_MUST_CHECK;

/* Closes all that are idle; those of HTTP/2 when their last request has ended. */
void upstreams_drain(struct engine *engine);

/* Closes all. */
void upstreams_close(struct engine *engine);
