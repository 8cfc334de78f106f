#include "net/tls.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "common/io.h"
#include "net/tls_ca.h"
#include "net/tls_staple.h"
#include "net/tls_tickets.h"

/* OpenSSL writes and reads a record at a time; system calls are saved by doing some at once. */
#define RECORD_MAX ((size_t)SSL3_RT_HEADER_LENGTH + SSL3_RT_MAX_ENCRYPTED_LENGTH)
#define BATCH_SIZE (5 * RECORD_MAX)
#define READ_SIZE  (4 * RECORD_MAX)

struct tls_context {
    uint8_t batch[BATCH_SIZE]; /* records of one tls_write */
    size_t batch_size;
    SSL_CTX *server, *client;
    struct tls_ca *ca; /* NULL: cannot accept */
    BIO_METHOD *method;
    struct tls_tickets *tickets;
};

struct tls_session {
    struct tls_context *context;
    SSL *ssl;
    struct tls_tickets *tickets; /* towards an upstream, as the next two; borrowed */
    struct destination to;
    enum tls_offer offer;      /* towards a guest */
    uint64_t tickets_until_ms; /* for how long those of this connection are good */
    int fd;
    bool batching;   /* records go to the batch */
    uint8_t *unsent; /* owned; records for which the socket had no room */
    size_t unsent_at, unsent_size;
    uint8_t *prefix; /* owned; read before the socket is */
    size_t prefix_at, prefix_size;
    bool eof, wants_write;
    bool wants_certificate; /* the upstream asked for ours; there is none */
    int socket_error;       /* negative errno of the last failed call */
};

/* The BIO between OpenSSL and the socket: gives it the prefix first, and keeps errno. */

static int bio_read(BIO *bio, char *buffer, int size)
{
    struct tls_session *session = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (size <= 0)
        return 0;
    if (session->prefix) {
        size_t left = session->prefix_size - session->prefix_at;
        size_t take = left < (size_t)size ? left : (size_t)size;
        memcpy(buffer, session->prefix + session->prefix_at, take);
        session->prefix_at += take;
        if (take == left) {
            free(session->prefix);
            session->prefix = NULL;
        }
        return (int)take;
    }
    ssize_t n;
    do {
        n = recv(session->fd, buffer, (size_t)size, 0);
    } while (n < 0 && errno == EINTR);
    if (n == 0)
        session->eof = true;
    if (n < 0 && errno == EAGAIN)
        BIO_set_retry_read(bio);
    else if (n < 0)
        session->socket_error = -errno;
    return (int)n;
}

/* Returns how many bytes the socket took, or a negative errno. */
static ssize_t send_some(int fd, const uint8_t *bytes, size_t size)
{
    ssize_t n;
    do {
        n = send(fd, bytes, size, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

int tls_flush(struct tls_session *session)
{
    while (session->unsent) {
        ssize_t n = send_some(session->fd, session->unsent + session->unsent_at,
                              session->unsent_size - session->unsent_at);
        session->wants_write = n == -EAGAIN;
        if (n < 0)
            return (int)n;
        session->unsent_at += (size_t)n;
        if (session->unsent_at == session->unsent_size) {
            free(session->unsent);
            session->unsent = NULL;
        }
    }
    return 0;
}

/* Sends the batch, and keeps what the socket does not take. */
static int send_batch(struct tls_session *session)
{
    const struct tls_context *context = session->context;
    size_t sent = 0;
    while (sent < context->batch_size) {
        ssize_t n = send_some(session->fd, context->batch + sent, context->batch_size - sent);
        if (n == -EAGAIN)
            break;
        if (n < 0)
            return (int)n;
        sent += (size_t)n;
    }
    size_t left = context->batch_size - sent;
    if (left == 0)
        return 0;
    session->unsent = malloc(left);
    if (!session->unsent)
        return -ENOMEM;
    memcpy(session->unsent, context->batch + sent, left);
    session->unsent_at = 0;
    session->unsent_size = left;
    return 0;
}

static int bio_write(BIO *bio, const char *bytes, int size)
{
    struct tls_session *session = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (size <= 0)
        return 0;
    if (session->batching) {
        struct tls_context *context = session->context;
        if ((size_t)size > sizeof context->batch - context->batch_size)
            return -1; /* no record is so large */
        memcpy(context->batch + context->batch_size, bytes, (size_t)size);
        context->batch_size += (size_t)size;
        return size;
    }
    ssize_t n = tls_flush(session); /* what it says in between has to wait its turn */
    if (n == 0)
        n = send_some(session->fd, (const uint8_t *)bytes, (size_t)size);
    if (n == -EAGAIN)
        BIO_set_retry_write(bio);
    else if (n < 0)
        session->socket_error = (int)n;
    return n < 0 ? -1 : (int)n;
}

static long bio_ctrl(BIO *bio, int command, long argument, void *pointer)
{
    const struct tls_session *session = BIO_get_data(bio);
    (void)argument;
    (void)pointer;
    if (command == BIO_CTRL_EOF)
        return session->eof;
    return command == BIO_CTRL_FLUSH;
}

/* As ALPN has them (RFC 7301): what we speak, HTTP/2 first. */
static const unsigned char protocols[] = "\x02h2\x08http/1.1";
#define PROTOCOLS_H2_SIZE 3u

/* A guest that names protocols, and none of ours, is told so. */
static int choose_protocol(SSL *ssl, const unsigned char **ret_name, unsigned char *ret_size,
                           const unsigned char *offered, unsigned offered_size, void *owner)
{
    const struct tls_session *session = SSL_get_app_data(ssl);
    (void)owner;
    unsigned char *chosen;
    size_t left_out = session->offer == TLS_OFFER_H2_TOO ? 0 : PROTOCOLS_H2_SIZE;
    if (SSL_select_next_proto(&chosen, ret_size, protocols + left_out,
                              (unsigned)(sizeof protocols - 1 - left_out), offered,
                              offered_size) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *ret_name = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static SSL_CTX *new_ctx(const SSL_METHOD *method)
{
    SSL_CTX *ctx = SSL_CTX_new(method);
    if (!ctx)
        return NULL;
    /* No tickets for guests: each connection shows its name and is decided alone. */
    (void)SSL_CTX_set_options(ctx,
                              SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET);
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_default_read_buffer_len(ctx, READ_SIZE);
    SSL_CTX_set_security_level(ctx, 2);
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_max_early_data(ctx, 0) != 1) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    return ctx;
}

/* Adds every certificate in the PEM text to the store. Returns how many, or -1. */
static int add_certificates(X509_STORE *store, const char *pem, size_t size)
{
    BIO *bio = BIO_new_mem_buf(pem, (int)size);
    STACK_OF(X509_INFO) *found = bio ? PEM_X509_INFO_read_bio(bio, NULL, NULL, NULL) : NULL;
    int count = 0;
    for (int i = 0; found && i < sk_X509_INFO_num(found); i++) {
        X509 *certificate = sk_X509_INFO_value(found, i)->x509;
        if (certificate)
            count = X509_STORE_add_cert(store, certificate) == 1 ? count + 1 : -1;
        if (count < 0)
            break;
    }
    sk_X509_INFO_pop_free(found, X509_INFO_free);
    BIO_free(bio);
    return count;
}

/* A ticket has come. Returns 0: we keep a reference of our own, or none. */
static int ticket_came(SSL *ssl, SSL_SESSION *ticket)
{
    struct tls_session *session = SSL_get_app_data(ssl);
    if (session->tickets_until_ms == 0) /* TLS 1.2 sends it before the handshake's end */
        session->tickets_until_ms = tls_tickets_until(ssl, bg_now_ms());
    if (session->tickets_until_ms > 0)
        tls_tickets_put(session->tickets, &session->to, ticket, session->tickets_until_ms);
    return 0;
}

static int set_up_tickets(struct tls_context *context, struct bg_err *err)
{
    context->tickets = tls_tickets_new();
    if (!context->tickets)
        return bg_err_errno(err, -ENOMEM, "TLS");
    (void)SSL_CTX_clear_options(context->client, SSL_OP_NO_TICKET);
    (void)SSL_CTX_set_session_cache_mode(context->client,
                                         SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context->client, ticket_came);
    return 0;
}

/* Goes on without one: many servers that ask can do without. */
static int certificate_wanted(SSL *ssl, X509 **ret_certificate, EVP_PKEY **ret_key)
{
    struct tls_session *session = SSL_get_app_data(ssl);
    (void)ret_certificate;
    (void)ret_key;
    session->wants_certificate = true;
    return 0;
}

static int set_up_client(struct tls_context *context, const char *upstream_ca,
                         size_t upstream_ca_size, struct bg_err *err)
{
    context->client = new_ctx(TLS_client_method());
    if (!context->client || SSL_CTX_set_default_verify_paths(context->client) != 1)
        return tls_error(err, -EIO, "cannot set up TLS towards upstreams");
    ERR_clear_error(); /* a file of the default paths that is not there is no error */
    SSL_CTX_set_verify(context->client, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_client_cert_cb(context->client, certificate_wanted);
    if (!tls_staple_set_up(context->client))
        return tls_error(err, -EIO, "cannot set up OCSP stapling");
    int r = set_up_tickets(context, err);
    if (r < 0)
        return r;
    if (!upstream_ca)
        return 0;
    if (upstream_ca_size > INT32_MAX || add_certificates(SSL_CTX_get_cert_store(context->client),
                                                         upstream_ca, upstream_ca_size) <= 0) {
        ERR_clear_error();
        return bg_err_set(err, -EINVAL, "no certificate in there; want PEM");
    }
    return 0;
}

static int set_up_server(struct tls_context *context, const char *data_dir, const char *ca_pem,
                         struct bg_err *err)
{
    int r = tls_ca_open(data_dir, ca_pem, &context->ca, err);
    if (r < 0)
        return r;
    context->server = new_ctx(TLS_server_method());
    if (!context->server || SSL_CTX_set_num_tickets(context->server, 0) != 1)
        return tls_error(err, -EIO, "cannot set up TLS towards guests");
    SSL_CTX_set_alpn_select_cb(context->server, choose_protocol, NULL);
    return 0;
}

int tls_context_new(const char *data_dir, const char *ca_pem, const char *upstream_ca,
                    size_t upstream_ca_size, struct tls_context **ret, struct bg_err *err)
{
    struct tls_context *context = calloc(1, sizeof *context);
    if (!context)
        return bg_err_errno(err, -ENOMEM, "TLS");
    context->method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "bellglass socket");
    int r = context->method && BIO_meth_set_read(context->method, bio_read) == 1 &&
                    BIO_meth_set_write(context->method, bio_write) == 1 &&
                    BIO_meth_set_ctrl(context->method, bio_ctrl) == 1
                ? 0
                : tls_error(err, -EIO, "cannot set up TLS");
    if (r == 0)
        r = set_up_client(context, upstream_ca, upstream_ca_size, err);
    if (r == 0 && data_dir)
        r = set_up_server(context, data_dir, ca_pem, err);
    if (r < 0) {
        tls_context_free(context);
        return r;
    }
    *ret = context;
    return 0;
}

void tls_context_free(struct tls_context *context)
{
    if (!context)
        return;
    SSL_CTX_free(context->server);
    SSL_CTX_free(context->client);
    tls_tickets_free(context->tickets);
    tls_ca_close(context->ca);
    BIO_meth_free(context->method);
    free(context);
}

static int new_session(struct tls_context *context, SSL_CTX *ctx, int fd, struct tls_session **ret,
                       struct bg_err *err)
{
    struct tls_session *session = calloc(1, sizeof *session);
    if (!session)
        return bg_err_errno(err, -ENOMEM, "TLS session");
    session->context = context;
    session->fd = fd;
    session->ssl = SSL_new(ctx);
    BIO *bio = session->ssl ? BIO_new(context->method) : NULL;
    if (!bio) {
        tls_free(session);
        return tls_error(err, -EIO, "TLS session");
    }
    BIO_set_data(bio, session);
    BIO_set_init(bio, 1);
    SSL_set_bio(session->ssl, bio, bio); /* takes it */
    *ret = session;
    return 0;
}

int tls_accept(struct tls_context *context, const struct tls_accept_opts *opts,
               struct tls_session **ret, struct bg_err *err)
{
    const struct tls_ca_leaf leaf = {opts->as, opts->allowed, opts->now_ms};
    struct tls_session *session;
    int r = new_session(context, context->server, opts->fd, &session, err);
    if (r < 0)
        return r;
    session->offer = opts->offer;
    SSL_set_app_data(session->ssl, session);
    if (opts->prefix_size > 0) {
        session->prefix = malloc(opts->prefix_size);
        if (session->prefix)
            memcpy(session->prefix, opts->prefix, opts->prefix_size);
        else
            r = bg_err_errno(err, -ENOMEM, "TLS session");
        session->prefix_size = opts->prefix_size;
    }
    if (r == 0)
        r = tls_ca_use_leaf(context->ca, &leaf, session->ssl, err);
    if (r < 0) {
        tls_free(session);
        return r;
    }
    SSL_set_accept_state(session->ssl);
    *ret = session;
    return 0;
}

int tls_connect(struct tls_context *context, const struct destination *to, enum tls_offer offer,
                int fd, struct tls_session **ret, struct bg_err *err)
{
    const size_t left_out = offer == TLS_OFFER_H2_TOO ? 0 : PROTOCOLS_H2_SIZE;
    struct tls_session *session;
    int r = new_session(context, context->client, fd, &session, err);
    if (r < 0)
        return r;
    X509_VERIFY_PARAM *param = SSL_get0_param(session->ssl);
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS |
                                               X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    char name[DESTINATION_HOST_SIZE]; /* OpenSSL's macro wants one that is not const */
    memcpy(name, to->host, sizeof name);
    bool ok = to->is_address ? X509_VERIFY_PARAM_set1_ip(param, to->address.bytes,
                                                         to->address.family == 4 ? 4 : 16) == 1
                             : X509_VERIFY_PARAM_set1_host(param, name, 0) == 1 &&
                                   SSL_set_tlsext_host_name(session->ssl, name) == 1;
    ok = ok && SSL_set_alpn_protos(session->ssl, protocols + left_out,
                                   (unsigned)(sizeof protocols - 1 - left_out)) == 0;
    if (!ok) {
        tls_free(session);
        return tls_error(err, -EIO, "TLS session");
    }
    session->tickets = context->tickets;
    session->to = *to;
    SSL_set_app_data(session->ssl, session);
    SSL_SESSION *ticket =
        tls_tickets_get(context->tickets, to, bg_now_ms(), &session->tickets_until_ms);
    if (ticket)
        (void)SSL_set_session(session->ssl, ticket); /* without it the handshake is a full one */
    SSL_SESSION_free(ticket);
    SSL_set_connect_state(session->ssl);
    *ret = session;
    return 0;
}

bool tls_is_h2(const struct tls_session *session)
{
    const unsigned char *name;
    unsigned size;
    SSL_get0_alpn_selected(session->ssl, &name, &size);
    return size == 2 && memcmp(name, "h2", 2) == 0;
}

/* What a failed call means. result: of the call. */
static int status_of(struct tls_session *session, int result)
{
    int e = SSL_get_error(session->ssl, result);
    session->wants_write = e == SSL_ERROR_WANT_WRITE;
    switch (e) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        if (session->socket_error < 0)
            return session->socket_error;
        return session->eof ? -ECONNABORTED : -EPROTO;
    }
}

bool tls_wants_certificate(const struct tls_session *session)
{
    return session->wants_certificate;
}

/* Why a handshake failed; r: of the call. */
static int explain(const struct tls_session *session, int r, struct bg_err *err)
{
    long verdict = SSL_get_verify_result(session->ssl);
    if (!SSL_is_server(session->ssl) && verdict != X509_V_OK) {
        ERR_clear_error();
        return bg_err_set(err, -EKEYREJECTED, "its certificate is refused: %s",
                          X509_verify_cert_error_string(verdict));
    }
    if (r == -ECONNABORTED) {
        ERR_clear_error();
        return bg_err_set(err, -EPROTO, "TLS handshake: the peer closed the connection");
    }
    if (session->socket_error < 0) {
        ERR_clear_error();
        return bg_err_set(err, -EPROTO, "TLS handshake: %s", strerror(-session->socket_error));
    }
    return tls_error(err, -EPROTO, "TLS handshake");
}

/* The handshake with an upstream has ended well. */
static int begin_upstream(struct tls_session *session, struct bg_err *err)
{
    if (!SSL_session_reused(session->ssl))
        session->tickets_until_ms = tls_tickets_until(session->ssl, bg_now_ms());
    else if (!tls_tickets_fit(session->ssl, &session->to))
        return bg_err_set(err, -EKEYREJECTED, "its certificate is refused: it is no longer valid");
    return 0;
}

int tls_handshake(struct tls_session *session, struct bg_err *err)
{
    ERR_clear_error();
    int n = SSL_do_handshake(session->ssl);
    int r = n == 1 ? 0 : status_of(session, n);
    if (n != 1 && r == -EAGAIN)
        return r;
    if (n == 1 && session->tickets)
        r = begin_upstream(session, err);
    else if (n != 1)
        r = explain(session, r, err);
    if (r < 0 && session->tickets)
        tls_tickets_drop(session->tickets, &session->to);
    return r;
}

ssize_t tls_read(struct tls_session *session, void *buffer, size_t size)
{
    ERR_clear_error();
    session->wants_write = false;
    int n = SSL_read(session->ssl, buffer, size > INT32_MAX ? INT32_MAX : (int)size);
    if (n > 0)
        return n;
    int r = status_of(session, n);
    /* A server's ticket makes OpenSSL get a buffer to write with, which it would keep until it next
     * does; perhaps nothing is written for a long time. */
    if (r == -EAGAIN && !SSL_is_server(session->ssl))
        (void)SSL_free_buffers(session->ssl); /* fails while something is in them */
    return r;
}

ssize_t tls_write(struct tls_session *session, const void *bytes, size_t size)
{
    ERR_clear_error();
    session->wants_write = false;
    int r = tls_flush(session);
    if (r < 0)
        return r;
    size_t taken = 0;
    session->context->batch_size = 0;
    session->batching = true;
    while (r == 0 && taken < size && session->context->batch_size <= BATCH_SIZE - RECORD_MAX) {
        size_t part =
            size - taken < SSL3_RT_MAX_PLAIN_LENGTH ? size - taken : SSL3_RT_MAX_PLAIN_LENGTH;
        int n = SSL_write(session->ssl, (const uint8_t *)bytes + taken, (int)part);
        if (n > 0) {
            taken += (size_t)n;
            continue;
        }
        r = status_of(session, n);
        if (r == 0)
            r = -EPIPE;
    }
    session->batching = false;
    int sent = send_batch(session);
    if (sent < 0)
        return sent;
    return taken > 0 ? (ssize_t)taken : r;
}

int tls_close_notify(struct tls_session *session)
{
    ERR_clear_error();
    if (!SSL_is_init_finished(session->ssl))
        return 0;
    int n = SSL_shutdown(session->ssl);
    return n < 0 && status_of(session, n) == -EAGAIN ? -EAGAIN : 0;
}

bool tls_wants_write(const struct tls_session *session)
{
    return session->wants_write;
}

void tls_free(struct tls_session *session)
{
    if (!session)
        return;
    /* Or OpenSSL would not let its ticket be used: it wants a close_notify first, which RFC 5246
     * §7.2.1 has given up. One that an alert ended stays unusable. */
    if (session->tickets && session->ssl)
        SSL_set_shutdown(session->ssl, SSL_SENT_SHUTDOWN);
    SSL_free(session->ssl);
    free(session->prefix);
    free(session->unsent);
    free(session);
}

int tls_sha1(const void *bytes, size_t size, uint8_t out[TLS_SHA1_SIZE], struct bg_err *err)
{
    ERR_clear_error();
    return EVP_Digest(bytes, size, out, NULL, EVP_sha1(), NULL) == 1
               ? 0
               : tls_error(err, -EIO, "cannot work out SHA-1");
}

void tls_alert(uint8_t description, uint8_t out[TLS_ALERT_SIZE])
{
    const uint8_t alert[TLS_ALERT_SIZE] = {21, 3, 3, 0, 2, 2, description};
    memcpy(out, alert, sizeof alert);
}
