/* What a peer of HTTP/2 sends after an orderly start, in two pieces: a guest whose requests are all
 * refused by a policy, or an upstream that answers one request. Whatever it is, everything ends,
 * and nothing is left on the loop. First byte: which of the two; second: where it is cut. */
#include <assert.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/engine.h"
#include "net/h2.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define TURNS 6

static const char client_start[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
static const char server_start[] = "\0\0\0\4\0\0\0\0\0\0\0\0\4\1\0\0\0\0";
static const char request[] =
    "POST /x HTTP/1.1\r\nHost: h.test\r\nTE: trailers\r\nConnection: TE\r\n"
    "Content-Length: 3\r\n\r\nabc";

/* A channel of ours, whose bytes are dropped. */
struct end {
    struct channel *channel;
    bool at_end;
};

static void end_ready(void *owner)
{
    struct end *end = owner;
    uint8_t sink[4096];
    ssize_t n;
    while (end->channel && !end->at_end &&
           (n = channel_read(end->channel, sink, sizeof sink)) != -EAGAIN)
        end->at_end = n <= 0;
    if (end->channel)
        channel_watch(end->channel, !end->at_end);
}

static void end_closed(void *owner)
{
    (void)owner;
}

static void engine_gone(void *owner)
{
    *(bool *)owner = true;
}

/* Allows some request to h.test, so that all are looked at, but none that is sent. */
static void make_policy(struct policy *policy)
{
    struct policy_rule rule;
    struct request_match match = {0};
    assert(policy_rule_parse("h.test", &rule, NULL) == 0);
    assert(request_match_add_method(&match, "NONE", NULL) == 0);
    rule.match = match;
    assert(policy_add(policy, &rule, NULL) == 0);
}

static void turn(uv_loop_t *loop)
{
    for (int i = 0; i < TURNS; i++)
        (void)uv_run(loop, UV_RUN_NOWAIT);
}

static void feed(uv_loop_t *loop, struct end *end, const void *bytes, size_t size)
{
    if (size > 0 && !channel_gone(end->channel)) {
        buffer_put(channel_out(end->channel), bytes, size);
        if (channel_flush(end->channel) == 0)
            channel_watch(end->channel, true);
    }
    turn(loop);
}

/* The far end of a connection whose near end h2 is given. */
static struct channel *open_link(uv_loop_t *loop, struct end *far)
{
    const struct channel_opts opts[2] = {
        {.on_ready = end_ready, .on_closed = end_closed, .owner = far},
        {.on_ready = end_ready, .on_closed = end_closed, .owner = NULL}};
    struct channel *ends[2];
    assert(channel_open_pair(loop, opts, ends, NULL) == 0);
    far->channel = ends[0];
    channel_watch(far->channel, true);
    return ends[1];
}

static void open_upstream(struct engine *engine, struct channel *link, struct end *inner)
{
    const struct upstream_key key = {
        .to = {.host = "h.test", .port = 443}, .policy = engine->opts.policy, .tls = true};
    const struct h2_client_opts opts = {.key = &key, .address = "192.0.2.1"};
    const struct channel_opts inner_opts = {
        .on_ready = end_ready, .on_closed = end_closed, .owner = inner};
    struct h2 *h2;
    assert(h2_open_client(engine, &opts, link, &h2, NULL) == 0);
    assert(h2_open_stream(h2, &inner_opts, &inner->channel, NULL) == 0);
    feed(engine->loop, inner, request, sizeof request - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size < 2 || size > 64 * 1024)
        return 0;
    bool guest = bytes[0] & 1, gone = false;
    size_t cut = (size - 2) * bytes[1] / 255;
    uv_loop_t loop;
    struct policy policy = {0};
    struct secrets secrets = {0};
    struct end far = {0}, inner = {0};
    const struct bg_log log = {.fd = -1, .level = BG_LOG_ERROR, .tag = ""};
    int audit_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    struct engine *engine = malloc(sizeof *engine);
    assert(engine && audit_fd >= 0 && uv_loop_init(&loop) == 0);
    make_policy(&policy);
    const struct engine_opts opts = {.sandbox = "fuzz",
                                     .policy = &policy,
                                     .secrets = &secrets,
                                     .audit_fd = audit_fd,
                                     .log = &log,
                                     .timeouts = engine_timeouts_default,
                                     .conns_max = 16};
    engine_init(engine, &loop, &opts);
    struct channel *link = open_link(&loop, &far);
    const struct destination to = {.host = "h.test", .port = 443};
    const struct h2_server_opts server = {.stream = 1, .to = &to};
    if (guest)
        assert(h2_open_server(engine, &server, link, NULL) == 0);
    else
        open_upstream(engine, link, &inner);
    feed(&loop, &far, guest ? client_start : server_start,
         (guest ? sizeof client_start : sizeof server_start) - 1);
    feed(&loop, &far, bytes + 2, cut);
    feed(&loop, &far, bytes + 2 + cut, size - 2 - cut);
    channel_close(BG_TAKE(far.channel));
    turn(&loop);
    channel_close(BG_TAKE(inner.channel));
    engine_close(engine, engine_gone, &gone);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    assert(gone && uv_loop_close(&loop) == 0);
    free(engine);
    policy_done(&policy);
    (void)close(audit_fd);
    return 0;
}
