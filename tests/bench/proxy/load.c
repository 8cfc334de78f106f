/* proxy-load keep|fresh|idle OPTIONS: an HTTPS client that goes through a forward proxy by CONNECT
 * (or, for comparison, straight to the server), many connections at once in one thread.
 *   keep   each connection sends its next request when an answer is whole, for --seconds
 *   fresh  the same, but each request on a connection of its own
 *   idle   each connection sends one request and stays open; prints, then waits for stdin to end
 * Prints one line of JSON. Ends the program when anything at all fails: a benchmark with failures
 * is none. */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "common/checked.h"
#include "common/cleanup.h"

#define HOST        "localhost" /* of the server; its certificate is for that */
#define HEAD_MAX    8192
#define READ_SIZE   ((size_t)64 * 1024)
#define LATENCY_MAX (4u * 1024 * 1024)
#define EVENTS_MAX  256

enum state { CONNECT, TUNNEL, HANDSHAKE, SEND, HEAD, BODY, IDLE };

struct client {
    int fd;
    SSL *ssl;
    enum state state;
    size_t sent;
    char head[HEAD_MAX];
    size_t head_size;
    bool chunked;
    uint64_t body_left; /* of the body, or of the chunk */
    char line[64];      /* chunked: the line of a chunk's size, or the one behind a chunk */
    size_t line_size;
    bool last_chunk;
    uint64_t started_ns;
};

struct load {
    const char *mode, *ca, *path, *header;
    uint64_t port, proxy_port, seconds, connections;
    SSL_CTX *ctx;
    int epoll;
    char request[2048], connect[256];
    uint64_t requests, bytes, idle;
    uint32_t *latency_us;
    size_t latency_count;
    uint64_t end_ns; /* no request begins after it */
    size_t open;
    uint8_t buffer[READ_SIZE];
};

static _Noreturn BG_PRINTF(1, 2) void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail with this clock */
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void open_client(struct load *load, struct client *c)
{
    int on = 1;
    uint64_t port = load->proxy_port ? load->proxy_port : load->port;
    const struct sockaddr_in to = {.sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    memset(c, 0, sizeof *c);
    c->started_ns = now_ns();
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0 || setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        fail("socket: %s", strerror(errno));
    if (connect(c->fd, (const struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    if (epoll_ctl(load->epoll, EPOLL_CTL_ADD, c->fd, &event) < 0)
        fail("epoll: %s", strerror(errno));
    c->state = load->proxy_port ? CONNECT : HANDSHAKE;
    load->open++;
}

static void close_client(struct load *load, struct client *c)
{
    if (c->ssl) {
        (void)SSL_shutdown(c->ssl); /* says so to the peer; nobody waits for its word */
        SSL_free(c->ssl);
    }
    c->ssl = NULL;
    (void)close(c->fd);
    load->open--;
}

/* The rest returns false when the socket has to be waited for. */

static bool would_block(const struct client *c, int result, const char *what)
{
    int e = SSL_get_error(c->ssl, result);
    if (e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE)
        return true;
    fail("%s: TLS error %d after %zu bytes of a head: %.*s", what, e, c->head_size,
         (int)c->head_size, c->head);
}

static bool send_connect(struct load *load, struct client *c)
{
    size_t size = strlen(load->connect);
    ssize_t n = send(c->fd, load->connect, size, MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == ENOTCONN))
        return false;
    if (n != (ssize_t)size) /* so little always fits */
        fail("connection to the proxy: %s", strerror(errno));
    c->state = TUNNEL;
    return true;
}

static bool await_tunnel(struct client *c)
{
    ssize_t n = recv(c->fd, c->head + c->head_size, sizeof c->head - 1 - c->head_size, 0);
    if (n < 0 && errno == EAGAIN)
        return false;
    if (n <= 0)
        fail("the proxy closed the connection at CONNECT");
    c->head_size += (size_t)n;
    c->head[c->head_size] = '\0';
    const char *end = strstr(c->head, "\r\n\r\n");
    if (!end)
        return true;
    if (!strstr(c->head, " 200 ") || end + 4 != c->head + c->head_size)
        fail("CONNECT: %s", c->head);
    c->head_size = 0;
    c->state = HANDSHAKE;
    return true;
}

static bool shake_hands(struct load *load, struct client *c)
{
    if (!c->ssl) {
        char name[] = HOST; /* OpenSSL's macro wants one that is not const */
        c->ssl = SSL_new(load->ctx);
        if (!c->ssl || SSL_set_fd(c->ssl, c->fd) != 1 || SSL_set1_host(c->ssl, HOST) != 1 ||
            SSL_set_tlsext_host_name(c->ssl, name) != 1)
            fail("cannot set up TLS");
    }
    int n = SSL_connect(c->ssl);
    if (n != 1)
        return !would_block(c, n, "handshake");
    if (strcmp(load->mode, "fresh") != 0) /* a request's time is then its own alone */
        c->started_ns = now_ns();
    c->state = SEND;
    return true;
}

static bool send_request(struct load *load, struct client *c)
{
    int n = SSL_write(c->ssl, load->request, (int)strlen(load->request));
    if (n <= 0)
        return !would_block(c, n, "request");
    load->requests++;
    c->head_size = 0;
    c->state = HEAD;
    return true;
}

/* One whole answer is there. */
static bool answered(struct load *load, struct client *c)
{
    uint64_t now = now_ns();
    if (load->latency_count < LATENCY_MAX)
        load->latency_us[load->latency_count++] = (uint32_t)((now - c->started_ns) / 1000);
    if (strcmp(load->mode, "idle") == 0) {
        load->idle++;
        c->state = IDLE;
        return false;
    }
    if (now >= load->end_ns) {
        close_client(load, c);
        return false;
    }
    if (strcmp(load->mode, "fresh") == 0) {
        close_client(load, c);
        open_client(load, c);
        return false; /* it is told when it is connected */
    }
    c->started_ns = now;
    c->state = SEND;
    return true;
}

/* Takes a chunk's line apart: a size before a chunk, nothing behind it. */
static void end_line(struct client *c)
{
    c->line[c->line_size] = '\0';
    c->line_size = 0;
    if (c->line[0] == '\r') /* behind a chunk, or the end of all */
        return;
    char *end;
    c->body_left = strtoull(c->line, &end, 16);
    if (*end != '\r')
        fail("chunk: %s", c->line);
    c->last_chunk = c->body_left == 0;
}

/* Returns whether the body is whole. */
static bool take_body(struct load *load, struct client *c, const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        size_t take = c->body_left < size ? (size_t)c->body_left : size;
        load->bytes += take;
        c->body_left -= take;
        bytes += take;
        size -= take;
        if (!c->chunked || c->body_left > 0)
            break;
        for (bool line = true; line && size > 0; size--, bytes++) {
            if (c->line_size == sizeof c->line - 1)
                fail("a chunk's line is too long");
            c->line[c->line_size++] = (char)*bytes;
            if (*bytes != '\n')
                continue;
            bool empty = c->line[0] == '\r';
            end_line(c);
            if (empty && c->last_chunk)
                return size == 1;
            line = empty || c->last_chunk;
        }
    }
    if (size > 0)
        fail("more bytes than the answer has");
    return !c->chunked && c->body_left == 0;
}

static bool take_head(struct load *load, struct client *c)
{
    c->head[c->head_size] = '\0';
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end)
        return true;
    if (strncmp(c->head, "HTTP/1.1 200 ", 13) != 0)
        fail("answer: %s", c->head);
    *end = '\0';
    const char *length = strcasestr(c->head, "\r\ncontent-length:");
    c->chunked = strcasestr(c->head, "\r\ntransfer-encoding: chunked") != NULL;
    if (!c->chunked && !length)
        fail("an answer without a length: %s", c->head);
    c->body_left = c->chunked ? 0 : strtoull(length + strlen("\r\ncontent-length:"), NULL, 10);
    c->line_size = 0;
    c->last_chunk = false;
    c->state = BODY;
    const char *rest = end + 4;
    size_t size = c->head_size - (size_t)(rest - c->head);
    return !take_body(load, c, (const uint8_t *)rest, size) || answered(load, c);
}

static bool read_head(struct load *load, struct client *c)
{
    int n = SSL_read(c->ssl, c->head + c->head_size, (int)(sizeof c->head - 1 - c->head_size));
    if (n <= 0)
        return !would_block(c, n, "answer");
    c->head_size += (size_t)n;
    return take_head(load, c);
}

static bool read_body(struct load *load, struct client *c)
{
    int n = SSL_read(c->ssl, load->buffer, (int)sizeof load->buffer);
    if (n <= 0)
        return !would_block(c, n, "body");
    return !take_body(load, c, load->buffer, (size_t)n) || answered(load, c);
}

static void run_client(struct load *load, struct client *c)
{
    bool more = true;
    while (more) {
        switch (c->state) {
        case CONNECT:
            more = send_connect(load, c);
            break;
        case TUNNEL:
            more = await_tunnel(c);
            break;
        case HANDSHAKE:
            more = shake_hands(load, c);
            break;
        case SEND:
            more = send_request(load, c);
            break;
        case HEAD:
            more = read_head(load, c);
            break;
        case BODY:
            more = read_body(load, c);
            break;
        case IDLE:
            more = false;
            break;
        }
    }
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void print(struct load *load, double seconds)
{
    size_t n = load->latency_count;
    if (n == 0)
        fail("no answer at all");
    qsort(load->latency_us, n, sizeof *load->latency_us, by_value);
    (void)printf(
        "{\"requests\":%llu,\"seconds\":%.6f,\"bytes\":%llu,\"p50_us\":%u,\"p99_us\":%u}\n",
        (unsigned long long)load->requests, seconds, (unsigned long long)load->bytes,
        load->latency_us[n / 2], load->latency_us[n - 1 - n / 100]);
    (void)fflush(stdout);
}

static void run(struct load *load)
{
    struct client *clients = calloc(load->connections, sizeof *clients);
    load->latency_us = malloc(LATENCY_MAX * sizeof *load->latency_us);
    load->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!clients || !load->latency_us || load->epoll < 0)
        fail("out of memory");
    bool idle = strcmp(load->mode, "idle") == 0;
    uint64_t start_ns = now_ns();
    load->end_ns = start_ns + load->seconds * 1000000000;
    size_t opened = 0;
    /* Not all at once: a proxy's backlog is not what is measured. */
    while (opened < load->connections && opened < 64)
        open_client(load, &clients[opened++]);
    while (idle ? load->idle < load->connections : load->open > 0) {
        struct epoll_event events[EVENTS_MAX];
        int n = epoll_wait(load->epoll, events, EVENTS_MAX, 60000);
        if (n <= 0)
            fail("nothing has come for a minute");
        for (int i = 0; i < n; i++)
            run_client(load, events[i].data.ptr);
        while (opened < load->connections && (!idle || opened < load->idle + 64))
            open_client(load, &clients[opened++]);
    }
    print(load, (double)(now_ns() - start_ns) / 1e9);
    char byte;
    while (idle && read(STDIN_FILENO, &byte, 1) > 0)
        continue;
    free(load->latency_us);
    free(clients);
}

static void set_up(struct load *load)
{
    load->ctx = SSL_CTX_new(TLS_client_method());
    if (!load->ctx || SSL_CTX_load_verify_locations(load->ctx, load->ca, NULL) != 1)
        fail("%s: no CA", load->ca);
    SSL_CTX_set_verify(load->ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_read_ahead(load->ctx, 1);
    if (strcmp(load->mode, "idle") == 0) /* ours shall not be what runs out */
        (void)SSL_CTX_set_mode(load->ctx, SSL_MODE_RELEASE_BUFFERS);
    int n = snprintf(load->request, sizeof load->request,
                     "GET %s HTTP/1.1\r\nHost: " HOST ":%llu\r\nUser-Agent: proxy-load\r\n"
                     "Accept: */*\r\n%s%s\r\n",
                     load->path, (unsigned long long)load->port, load->header ? load->header : "",
                     load->header ? "\r\n" : "");
    if (n < 0 || (size_t)n >= sizeof load->request)
        fail("--header: too long");
    (void)snprintf(load->connect, sizeof load->connect,
                   "CONNECT " HOST ":%llu HTTP/1.1\r\nHost: " HOST ":%llu\r\n\r\n",
                   (unsigned long long)load->port, (unsigned long long)load->port);
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"port", required_argument, NULL, 'p'},    {"proxy", required_argument, NULL, 'x'},
        {"ca", required_argument, NULL, 'a'},      {"path", required_argument, NULL, 'g'},
        {"header", required_argument, NULL, 'e'},  {"connections", required_argument, NULL, 'c'},
        {"seconds", required_argument, NULL, 's'}, {0},
    };
    static struct load load;
    load.path = "/";
    load.connections = load.seconds = 1;
    bool ok = true;
    for (int option; (option = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (option) {
        case 'p':
            ok &= bg_parse_u64(optarg, 1, 65535, &load.port) == 0;
            break;
        case 'x':
            ok &= bg_parse_u64(optarg, 1, 65535, &load.proxy_port) == 0;
            break;
        case 'a':
            load.ca = optarg;
            break;
        case 'g':
            load.path = optarg;
            break;
        case 'e':
            load.header = optarg;
            break;
        case 'c':
            ok &= bg_parse_u64(optarg, 1, 100000, &load.connections) == 0;
            break;
        case 's':
            ok &= bg_parse_u64(optarg, 1, 3600, &load.seconds) == 0;
            break;
        default:
            ok = false;
        }
    }
    load.mode = optind + 1 == argc ? argv[optind] : "";
    if (!ok || !load.ca || load.port == 0 ||
        (strcmp(load.mode, "keep") != 0 && strcmp(load.mode, "fresh") != 0 &&
         strcmp(load.mode, "idle") != 0))
        fail("usage: %s keep|fresh|idle --port N --ca FILE [--proxy N] [--path PATH] "
             "[--header LINE] [--connections N] [--seconds N]",
             argv[0]);
    set_up(&load);
    run(&load);
    SSL_CTX_free(load.ctx);
    return 0;
}
