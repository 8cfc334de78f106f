/* bellglass-echo: a web server that answers every request with the request itself, head and body,
 * as plain text. Over TLS it uses a CA and a certificate of its own. For tests and the quickstart:
 * it shows what reached an upstream. A thread for each connection; nothing here is fast or for the
 * open network. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/checked.h"
#include "common/io.h"
#include "net/buffer.h"
#include "net/http_reader.h"
#include "net/tls.h"
#include "net/tls_ca.h"

#define BODY_MAX   (16u * 1024 * 1024)
#define CONNS_MAX  256
#define SILENCE_S  300 /* an emulated guest that is busy takes its time */
#define CHUNK_SIZE (64u * 1024)

static const char help[] =
    "usage: bellglass-echo [--dir FOLDER] [--host NAME] [--listen ADDRESS] [--https-port N]\n"
    "                      [--http-port N] [--log FILE]\n"
    "\n"
    "A demo and test service: answers every request with the request itself. Prints 'https PORT',\n"
    "'http PORT' and 'ca FILE' (the CA to trust), then serves until it is ended.\n"
    "\n"
    "--dir FOLDER     where the CA is kept, made on first use (default: .); the certificate is\n"
    "                 FOLDER/ca/ca.pem\n"
    "--host NAME      the name in its certificate (default: echo.test)\n"
    "--listen ADDRESS (default: 127.0.0.1)\n"
    "--https-port N, --http-port N  (default: any free one)\n"
    "--log FILE       append every request there, as it came\n";

struct options {
    const char *dir, *host, *listen, *log;
    uint16_t https_port, http_port;
    bool help;
};

struct server {
    struct tls_context *tls;
    struct destination host;
    pthread_mutex_t lock; /* of tls, whose certificates and batch of records are shared */
    atomic_uint conns;
    int log_fd; /* -1: none */
};

struct conn {
    struct server *server;
    int fd;
    bool over_tls;
    struct tls_session *tls; /* NULL: bare, or no handshake yet */
    struct http_reader reader;
    struct buffer body;
};

static void body_came(void *owner, const uint8_t *bytes, size_t size)
{
    struct conn *conn = owner;
    buffer_put(&conn->body, bytes, size);
}

/* Waits until the connection is ready for what is wanted. False: the peer has been silent for too
 * long. */
static bool wait_for(const struct conn *conn, short events)
{
    struct pollfd fd = {.fd = conn->fd, .events = events};
    return poll(&fd, 1, SILENCE_S * 1000) > 0;
}

/* Returns 0 at the end, also of the peer's time. */
static ssize_t receive(struct conn *conn, void *bytes, size_t size)
{
    for (;;) {
        ssize_t n = conn->tls ? tls_read(conn->tls, bytes, size) : recv(conn->fd, bytes, size, 0);
        if (n < 0 && !conn->tls)
            n = -errno;
        if (n != -EAGAIN)
            return n;
        if (!wait_for(conn, POLLIN))
            return 0;
    }
}

/* One attempt, which does not wait: other connections may want the lock. */
static ssize_t send_some(struct conn *conn, const uint8_t *bytes, size_t size)
{
    if (!conn->tls) {
        ssize_t n = send(conn->fd, bytes, size, MSG_NOSIGNAL);
        return n < 0 ? -errno : n;
    }
    (void)pthread_mutex_lock(&conn->server->lock); /* fails only for a mutex that is none */
    ssize_t n = tls_write(conn->tls, bytes, size);
    (void)pthread_mutex_unlock(&conn->server->lock);
    return n;
}

static bool send_all(struct conn *conn, const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        ssize_t n = send_some(conn, bytes, size);
        if (n == -EAGAIN && wait_for(conn, POLLOUT))
            continue;
        if (n <= 0)
            return false;
        bytes += n;
        size -= (size_t)n;
    }
    /* What the socket had no room for. */
    int r;
    while (conn->tls && (r = tls_flush(conn->tls)) < 0)
        if (r != -EAGAIN || !wait_for(conn, POLLOUT))
            return false;
    return true;
}

/* One write for a request, so that those of two connections do not mix. */
static bool write_log(const struct conn *conn)
{
    const struct buffer *parts[] = {&conn->reader.raw, &conn->body};
    struct buffer entry = buffer_init(2 * BODY_MAX);
    if (conn->server->log_fd < 0)
        return true;
    for (size_t i = 0; i < 2; i++)
        if (buffer_size(parts[i]) > 0)
            buffer_put(&entry, buffer_bytes(parts[i]), buffer_size(parts[i]));
    buffer_put_text(&entry, "\n");
    bool written = buffer_ok(&entry) && bg_write_full(conn->server->log_fd, buffer_bytes(&entry),
                                                      buffer_size(&entry)) == 0;
    buffer_reset(&entry);
    return written;
}

static bool answer(struct conn *conn)
{
    const struct buffer *head = &conn->reader.raw;
    size_t head_size = buffer_size(head), body_size = buffer_size(&conn->body);
    bool keep_alive = conn->reader.head.keep_alive;
    struct buffer out = buffer_init(BODY_MAX + 1024 + head_size);
    buffer_printf(&out,
                  "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n%s\r\n",
                  head_size + body_size, keep_alive ? "" : "Connection: close\r\n");
    if (!slice_is(conn->reader.head.method, "head")) {
        buffer_put(&out, buffer_bytes(head), head_size);
        if (body_size > 0)
            buffer_put(&out, buffer_bytes(&conn->body), body_size);
    }
    bool sent = buffer_ok(&out) && buffer_ok(&conn->body) &&
                send_all(conn, buffer_bytes(&out), buffer_size(&out));
    buffer_reset(&out);
    buffer_reset(&conn->body);
    return sent && keep_alive;
}

static bool go_on(struct conn *conn, struct bg_err *err)
{
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (http_head_field(&conn->reader.head, "expect", NULL) &&
        !send_all(conn, (const uint8_t *)interim, sizeof interim - 1))
        return false;
    return http_reader_go_on(&conn->reader, err) == 0;
}

static void serve(struct conn *conn)
{
    struct bg_err err;
    BG_AUTOFREE uint8_t *chunk = malloc(CHUNK_SIZE);
    for (;;) {
        ssize_t n = chunk ? receive(conn, chunk, CHUNK_SIZE) : 0;
        for (size_t at = 0; n > 0 && at < (size_t)n;) {
            ssize_t used = http_reader_feed(&conn->reader, chunk + at, (size_t)n - at, &err);
            if (used < 0)
                return;
            at += (size_t)used;
            if (conn->reader.state == HTTP_READER_HAVE_HEAD && !go_on(conn, &err))
                return;
            if (conn->reader.state == HTTP_READER_DONE) {
                if (!write_log(conn) || !answer(conn))
                    return;
                http_reader_next(&conn->reader);
            }
        }
        if (n <= 0)
            return;
    }
}

static bool shake_hands(struct conn *conn)
{
    struct server *server = conn->server;
    struct bg_err err;
    const struct tls_accept_opts opts = {.as = &server->host, .allowed = true, .fd = conn->fd};
    (void)pthread_mutex_lock(&server->lock); /* fails only for a mutex that is none */
    int r = tls_accept(server->tls, &opts, &conn->tls, &err);
    (void)pthread_mutex_unlock(&server->lock);
    while (r == 0 && (r = tls_handshake(conn->tls, &err)) == -EAGAIN)
        r = wait_for(conn, tls_wants_write(conn->tls) ? POLLOUT : POLLIN) ? 0 : -ETIMEDOUT;
    return r == 0;
}

static void *conn_main(void *argument)
{
    struct conn *conn = argument;
    conn->body = buffer_init(BODY_MAX);
    http_reader_init(&conn->reader, /* is_response= */ false, body_came, conn);
    if (!conn->over_tls || shake_hands(conn))
        serve(conn);
    if (conn->tls)
        (void)tls_close_notify(conn->tls); /* the peer may be gone */
    tls_free(conn->tls);
    http_reader_done(&conn->reader);
    buffer_reset(&conn->body);
    (void)close(conn->fd); /* all that matters was sent */
    (void)atomic_fetch_sub(&conn->server->conns, 1);
    free(conn);
    return NULL;
}

static void start(struct server *server, int listener, bool tls)
{
    pthread_t thread;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    struct conn *conn = atomic_load(&server->conns) < CONNS_MAX ? calloc(1, sizeof *conn) : NULL;
    if (conn) {
        *conn = (struct conn){.server = server, .fd = fd, .over_tls = tls};
        (void)atomic_fetch_add(&server->conns, 1);
        if (pthread_create(&thread, NULL, conn_main, conn) == 0) {
            (void)pthread_detach(thread); /* it ends by itself */
            return;
        }
        (void)atomic_fetch_sub(&server->conns, 1);
    }
    free(conn);
    (void)close(fd); /* the client sees it */
}

static int open_listener(const char *address, uint16_t port, int *ret_fd, uint16_t *ret_port,
                         struct bg_err *err)
{
    struct address a;
    struct sockaddr_storage sa;
    int on = 1;
    if (address_parse(address, strlen(address), &a) < 0)
        return bg_err_set(err, -EINVAL, "--listen %s: no IP address", address);
    socklen_t size = address_to_sockaddr(&a, port, &sa);
    BG_AUTOCLOSE int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, (const struct sockaddr *)&sa, size) < 0 || listen(fd, SOMAXCONN) < 0 ||
        getsockname(fd, (struct sockaddr *)&sa, &size) < 0)
        return bg_err_errno(err, -errno, "cannot listen on %s port %u", address, port);
    struct sockaddr_in in; /* the port is at the same place in both families */
    memcpy(&in, &sa, sizeof in);
    *ret_port = ntohs(in.sin_port);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

static int run(const struct options *o, struct bg_err *err)
{
    struct server server = {.lock = PTHREAD_MUTEX_INITIALIZER, .log_fd = -1};
    BG_AUTOCLOSE int https = -1;
    BG_AUTOCLOSE int http = -1;
    uint16_t https_port, http_port;
    (void)signal(SIGPIPE, SIG_IGN); /* fails only for numbers that are none */
    BG_AUTOCLOSE int log = -1;
    if (o->log) {
        log = open(o->log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (log < 0)
            return bg_err_errno(err, -errno, "%s", o->log);
        server.log_fd = log;
    }
    int r = destination_parse_host(o->host, strlen(o->host), &server.host, err);
    if (r == 0)
        r = tls_context_new(o->dir, NULL, NULL, 0, &server.tls, err);
    if (r == 0)
        r = open_listener(o->listen, o->https_port, &https, &https_port, err);
    if (r == 0)
        r = open_listener(o->listen, o->http_port, &http, &http_port, err);
    BG_AUTOFREE char *ca = tls_ca_path(o->dir);
    if (r == 0 && (!ca || printf("https %u\nhttp %u\nca %s\n", https_port, http_port, ca) < 0 ||
                   fflush(stdout) != 0))
        r = bg_err_set(err, -EIO, "cannot print the ports");
    while (r == 0) {
        struct pollfd fds[2] = {{.fd = https, .events = POLLIN}, {.fd = http, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            r = bg_err_errno(err, -errno, "poll");
        for (size_t i = 0; r == 0 && i < 2; i++)
            if (fds[i].revents)
                start(&server, fds[i].fd, i == 0);
    }
    tls_context_free(server.tls);
    return r;
}

static int parse_port(const char *text, uint16_t *ret, struct bg_err *err)
{
    uint64_t number;
    if (bg_parse_u64(text, 0, UINT16_MAX, &number) < 0)
        return bg_err_set(err, -EINVAL, "'%s' is no port", text);
    *ret = (uint16_t)number;
    return 0;
}

static int parse_options(int argc, char **argv, struct options *o, struct bg_err *err)
{
    static const struct option longs[] = {{"dir", required_argument, NULL, 'd'},
                                          {"host", required_argument, NULL, 'n'},
                                          {"listen", required_argument, NULL, 'l'},
                                          {"https-port", required_argument, NULL, 's'},
                                          {"http-port", required_argument, NULL, 'p'},
                                          {"log", required_argument, NULL, 'g'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    int r = 0;
    for (int option; r == 0 && (option = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
        switch (option) {
        case 'd':
            o->dir = optarg;
            break;
        case 'n':
            o->host = optarg;
            break;
        case 'l':
            o->listen = optarg;
            break;
        case 's':
            r = parse_port(optarg, &o->https_port, err);
            break;
        case 'p':
            r = parse_port(optarg, &o->http_port, err);
            break;
        case 'g':
            o->log = optarg;
            break;
        case 'h':
            o->help = true;
            break;
        default:
            r = bg_err_set(err, -EINVAL, "see --help");
        }
    }
    if (r == 0 && optind < argc)
        r = bg_err_set(err, -EINVAL, "'%s': see --help", argv[optind]);
    return r;
}

int main(int argc, char **argv)
{
    struct options o = {.dir = ".", .host = "echo.test", .listen = "127.0.0.1"};
    struct bg_err err = {0};
    int r = parse_options(argc, argv, &o, &err);
    if (r == 0 && o.help)
        return fputs(help, stdout) < 0 || fflush(stdout) != 0 ? 1 : 0;
    if (r == 0)
        r = run(&o, &err);
    (void)fprintf(stderr, "bellglass-echo: %s\n", err.text);
    return 1;
}
