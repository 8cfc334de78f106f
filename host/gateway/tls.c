#include "host/gateway/tls.h"

#include <stdbool.h>
#include <stdlib.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "common/cleanup.h"

struct tls_server {
    SSL_CTX *ctx;
};

struct tls {
    SSL *ssl;
    BIO *in, *out; /* ssl's: from and to the network; they grow */
};

/* OpenSSL's queue, in err. */
static int failed(struct bg_err *err, int code, const char *what)
{
    char text[160];
    unsigned long first = ERR_get_error();
    ERR_error_string_n(first, text, sizeof text);
    ERR_clear_error();
    return bg_err_set(err, code, "%s: %s", what, first ? text : "no memory");
}

/* HTTP/1.1 is all that is spoken here; a client that offers other things alone is told so. */
static int choose_protocol(SSL *ssl, const unsigned char **ret_name, unsigned char *ret_size,
                           const unsigned char *offered, unsigned offered_size, void *owner)
{
    static const unsigned char ours[] = "\x08http/1.1";
    unsigned char *chosen;
    (void)ssl;
    (void)owner;
    if (SSL_select_next_proto(&chosen, ret_size, ours, sizeof ours - 1, offered, offered_size) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *ret_name = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static int set_up(SSL_CTX *ctx, const char *cert_file, const char *key_file, struct bg_err *err)
{
    /* Without tickets nothing is kept between connections. */
    (void)SSL_CTX_set_options(ctx,
                              SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET);
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_security_level(ctx, 2);
    SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, NULL);
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_num_tickets(ctx, 0) != 1)
        return failed(err, -ENOMEM, "TLS");
    if (SSL_CTX_use_certificate_chain_file(ctx, cert_file) != 1) {
        (void)failed(err, -EINVAL, "no certificate as PEM");
        return bg_err_prefix(err, "--tls-cert %s", cert_file);
    }
    if (SSL_CTX_use_PrivateKey_file(ctx, key_file, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(ctx) != 1) {
        (void)failed(err, -EINVAL, "no key as PEM, or not the certificate's");
        return bg_err_prefix(err, "--tls-key %s", key_file);
    }
    return 0;
}

int tls_server_new(const char *cert_file, const char *key_file, struct tls_server **ret,
                   struct bg_err *err)
{
    struct tls_server *server = calloc(1, sizeof *server);
    if (!server)
        return bg_err_errno(err, -ENOMEM, "TLS");
    server->ctx = SSL_CTX_new(TLS_server_method());
    int r =
        server->ctx ? set_up(server->ctx, cert_file, key_file, err) : failed(err, -ENOMEM, "TLS");
    if (r < 0) {
        tls_server_free(server);
        return r;
    }
    *ret = server;
    return 0;
}

void tls_server_free(struct tls_server *server)
{
    if (!server)
        return;
    SSL_CTX_free(server->ctx);
    free(server);
}

int tls_new(struct tls_server *server, struct tls **ret, struct bg_err *err)
{
    struct tls *tls = calloc(1, sizeof *tls);
    if (!tls)
        return bg_err_errno(err, -ENOMEM, "TLS");
    tls->ssl = SSL_new(server->ctx);
    tls->in = BIO_new(BIO_s_mem());
    tls->out = BIO_new(BIO_s_mem());
    if (!tls->ssl || !tls->in || !tls->out) {
        BIO_free(tls->in);
        BIO_free(tls->out);
        SSL_free(tls->ssl);
        free(tls);
        return failed(err, -ENOMEM, "TLS");
    }
    SSL_set_bio(tls->ssl, tls->in, tls->out); /* takes both */
    SSL_set_accept_state(tls->ssl);
    *ret = tls;
    return 0;
}

void tls_free(struct tls *tls)
{
    if (!tls)
        return;
    SSL_free(tls->ssl);
    free(tls);
}

int tls_feed(struct tls *tls, const uint8_t *bytes, size_t size)
{
    size_t written = 0;
    bool ok = BIO_write_ex(tls->in, bytes, size, &written) == 1 && written == size;
    ERR_clear_error();
    return ok || size == 0 ? 0 : -ENOMEM;
}

ssize_t tls_read(struct tls *tls, uint8_t *out, size_t size)
{
    size_t got = 0;
    ERR_clear_error();
    int r = SSL_read_ex(tls->ssl, out, size, &got);
    int why = r == 1 ? SSL_ERROR_NONE : SSL_get_error(tls->ssl, r);
    ERR_clear_error();
    if (r == 1)
        return (ssize_t)got;
    return why == SSL_ERROR_WANT_READ ? -EAGAIN : why == SSL_ERROR_ZERO_RETURN ? 0 : -EPROTO;
}

int tls_write(struct tls *tls, const uint8_t *bytes, size_t size)
{
    size_t written = 0;
    ERR_clear_error();
    /* All of it: the BIO behind it has room for as long as there is memory. */
    int r = size == 0 ? 1 : SSL_write_ex(tls->ssl, bytes, size, &written);
    ERR_clear_error();
    return r == 1 && written == size ? 0 : -EPROTO;
}

int tls_output(struct tls *tls, uint8_t **ret, size_t *ret_size)
{
    size_t size = BIO_ctrl_pending(tls->out), got = 0;
    *ret = NULL;
    *ret_size = 0;
    if (size == 0)
        return 0;
    BG_AUTOFREE uint8_t *bytes = malloc(size);
    if (!bytes || BIO_read_ex(tls->out, bytes, size, &got) != 1)
        return -ENOMEM;
    *ret_size = got;
    *ret = BG_TAKE(bytes);
    return 0;
}

void tls_finish(struct tls *tls)
{
    if (SSL_is_init_finished(tls->ssl))
        (void)SSL_shutdown(tls->ssl); /* nobody waits for the answer */
    ERR_clear_error();
}
