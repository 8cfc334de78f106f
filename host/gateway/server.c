#include "host/gateway/server.h"

#include <assert.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <uv.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"
#include "host/gateway/conn.h"
#include "host/gateway/loopback.h"
#include "host/gateway/tokens.h"

#define BACKLOG 128

struct server {
    const struct server_opts *opts;
    uv_loop_t loop;
    uv_tcp_t listener;
    uv_signal_t signals[2];
    struct token_file tokens;
    struct tls_server *tls;
    struct metrics metrics;
    struct sandboxes *sandboxes;
    struct conn_shared shared;
    bool stopping;
};

static void stop(struct server *server)
{
    if (server->stopping)
        return;
    server->stopping = true;
    uv_close((uv_handle_t *)&server->listener, NULL);
    for (size_t i = 0; i < 2; i++)
        uv_close((uv_handle_t *)&server->signals[i], NULL);
    /* Sandboxes first: their connections then end as ours do, and none ends with one. */
    if (server->sandboxes)
        sandboxes_close(server->sandboxes);
    conn_close_all(&server->shared);
    if (server->shared.volumes)
        volume_jobs_close(server->shared.volumes);
    extra_close(server->shared.extra);
}

static void signalled(uv_signal_t *handle, int number)
{
    struct server *server = handle->data;
    bg_log(server->opts->log, BG_LOG_INFO, "ending, by signal %d; sandboxes run on", number);
    stop(server);
}

static void connected(uv_stream_t *listener, int status)
{
    struct server *server = listener->data;
    struct bg_err err;
    if (status < 0)
        return; /* the connection is gone already */
    if (conn_accept(listener, &server->shared, &err) < 0)
        bg_log(server->opts->log, BG_LOG_ERROR, "%s", err.text);
}

static int parse_listen(const char *text, struct sockaddr_storage *ret, struct bg_err *err)
{
    char host[64], quoted[128];
    const char *colon = strrchr(text, ':');
    uint64_t port = 0;
    size_t size = colon ? (size_t)(colon - text) : 0;
    bool six = size > 2 && text[0] == '[' && text[size - 1] == ']';
    const char *begin = six ? text + 1 : text;
    size -= six ? 2 : 0;
    int r = -EINVAL;
    if (colon && size > 0 && size < sizeof host &&
        bg_parse_u64(colon + 1, 0, UINT16_MAX, &port) == 0) {
        memcpy(host, begin, size);
        host[size] = '\0';
        r = six ? uv_ip6_addr(host, (int)port, (struct sockaddr_in6 *)ret)
                : uv_ip4_addr(host, (int)port, (struct sockaddr_in *)ret);
    }
    return r < 0 ? bg_err_set(err, -EINVAL,
                              "--listen %s: want ADDRESS:PORT with a numeric address, such as "
                              "127.0.0.1:8787 or [::1]:8787",
                              bg_quote(text, quoted, sizeof quoted))
                 : 0;
}

/* Says where: the port may have been ours to choose. */
static int announce(const struct server *server, struct bg_err *err)
{
    struct sockaddr_storage address;
    int size = sizeof address;
    char host[64];
    int r = uv_tcp_getsockname(&server->listener, (struct sockaddr *)&address, &size);
    if (r == 0)
        r = uv_ip_name((struct sockaddr *)&address, host, sizeof host);
    if (r < 0)
        return bg_err_errno(err, r, "listening socket");
    bool six = address.ss_family == AF_INET6;
    unsigned port = ntohs(six ? ((const struct sockaddr_in6 *)&address)->sin6_port
                              : ((const struct sockaddr_in *)&address)->sin_port);
    (void)printf("listening on http%s://%s%s%s:%u\n", server->tls ? "s" : "", six ? "[" : "", host,
                 six ? "]" : "", port);
    if (fflush(stdout) != 0)
        return bg_err_errno(err, -errno, "cannot write to standard output");
    if (!loopback_is(&address) && !server->tls)
        app_note("other machines may connect, and what they send can be read on its way");
    if (server->tokens.tokens.count == 0)
        app_note("there is no token yet: make one with bellglass serve token add NAME");
    return 0;
}

static int open_listener(struct server *server, struct bg_err *err)
{
    struct sockaddr_storage address = {0};
    int r = parse_listen(server->opts->listen, &address, err);
    if (r < 0)
        return r;
    if (!loopback_is(&address) && !server->tls && !server->opts->plain)
        return bg_err_set(err, -EINVAL,
                          "--listen %s: other machines could read tokens on their way; give "
                          "--tls-cert and --tls-key, or --without-tls if something else encrypts",
                          server->opts->listen);
    r = uv_tcp_bind(&server->listener, (struct sockaddr *)&address, 0);
    if (r == 0)
        r = uv_listen((uv_stream_t *)&server->listener, BACKLOG, connected);
    return r < 0 ? bg_err_errno(err, r, "--listen %s", server->opts->listen)
                 : announce(server, err);
}

static int open_all(struct server *server, struct bg_err *err)
{
    static const int numbers[] = {SIGINT, SIGTERM};
    const struct server_opts *opts = server->opts;
    const struct sandboxes_opts sandboxes = {.app = opts->app,
                                             .log = opts->log,
                                             .metrics = &server->metrics,
                                             .image = opts->image,
                                             .region = opts->region,
                                             .upstream_ca = opts->upstream_ca,
                                             .allow = opts->allow,
                                             .cpus = opts->cpus,
                                             .idle_ms = opts->idle_ms};
    int r = token_file_refresh(&server->tokens, err);
    if (r == 0 && opts->tls_cert)
        r = tls_server_new(opts->tls_cert, opts->tls_key, &server->tls, err);
    server->shared.tls = server->tls;
    if (r == 0)
        r = sandboxes_open(&server->loop, &sandboxes, &server->sandboxes, err);
    if (r < 0)
        return r;
    server->shared.session.sandboxes = server->sandboxes;
    const struct volume_jobs_opts volumes = {.paths = &opts->app->paths, .image = opts->image};
    r = volume_jobs_open(&server->loop, &volumes, &server->shared.volumes, err);
    if (r < 0)
        return r;
    const struct extra_opts extra = {
        .app = opts->app, .log = opts->log, .sandboxes = server->sandboxes};
    r = extra_open(&server->loop, &extra, &server->shared.extra, err);
    if (r < 0)
        return r;
    if (!(server->shared.logins = logins_new()))
        return bg_err_errno(err, -ENOMEM, "logins");
    for (size_t i = 0; r == 0 && i < 2; i++)
        r = uv_signal_start(&server->signals[i], signalled, numbers[i]);
    return r < 0 ? bg_err_errno(err, r, "signals") : open_listener(server, err);
}

/* Where stream ids begin: far from those of another gateway that a client may have talked to, and
 * such that a double holds all that will ever follow. */
static uint64_t first_stream(void)
{
    uint32_t random;
    bg_random(&random, sizeof random);
    return (uint64_t)(random >> 12) << 32;
}

int server_run(const struct server_opts *opts, struct bg_err *err)
{
    struct server *server = calloc(1, sizeof *server);
    if (!server)
        return bg_err_errno(err, -ENOMEM, "gateway");
    server->opts = opts;
    server->tokens.path = opts->token_file;
    int r = uv_loop_init(&server->loop);
    if (r < 0) {
        free(server);
        return bg_err_errno(err, r, "loop");
    }
    server->shared = (struct conn_shared){.session = {.loop = &server->loop,
                                                      .paths = &opts->app->paths,
                                                      .log = opts->log,
                                                      .tokens = &server->tokens,
                                                      .metrics = &server->metrics,
                                                      .next_stream = first_stream()},
                                          .tokens = &server->tokens,
                                          .host_names = opts->host_names};
    LIST_INIT(&server->shared.conns);
    (void)uv_tcp_init(&server->loop, &server->listener); /* cannot fail without a family */
    server->listener.data = server;
    for (size_t i = 0; i < 2; i++) {
        /* The first one may fail for want of fds; then start says so. */
        (void)uv_signal_init(&server->loop, &server->signals[i]);
        server->signals[i].data = server;
    }
    r = open_all(server, err);
    if (r < 0)
        stop(server);
    (void)uv_run(&server->loop, UV_RUN_DEFAULT); /* 0: it ends when all is closed */
    token_file_done(&server->tokens);
    logins_free(server->shared.logins);
    tls_server_free(server->tls);
    int busy = uv_loop_close(&server->loop);
    assert(busy == 0); /* a handle was left open: our bug */
    free(server);
    return r;
}
