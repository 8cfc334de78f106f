/* The server's side against OpenSSL's client, bytes handed over by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "host/gateway/tls.h"

struct files {
    char folder[32], cert[64], key[64];
};

static void make_files(struct files *f)
{
    (void)snprintf(f->folder, sizeof f->folder, "/tmp/bg-tls-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    (void)snprintf(f->cert, sizeof f->cert, "%s/cert", f->folder);
    (void)snprintf(f->key, sizeof f->key, "%s/key", f->folder);
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    assert_non_null(key);
    assert_non_null(cert);
    assert_int_equal(X509_set_version(cert, X509_VERSION_3), 1);
    assert_non_null(X509_gmtime_adj(X509_getm_notBefore(cert), 0));
    assert_non_null(X509_gmtime_adj(X509_getm_notAfter(cert), 3600));
    assert_int_equal(X509_set_pubkey(cert, key), 1);
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    FILE *out = fopen(f->cert, "w");
    assert_non_null(out);
    assert_int_equal(PEM_write_X509(out, cert), 1);
    assert_int_equal(fclose(out), 0);
    out = fopen(f->key, "w");
    assert_non_null(out);
    assert_int_equal(PEM_write_PrivateKey(out, key, NULL, NULL, 0, NULL, NULL), 1);
    assert_int_equal(fclose(out), 0);
    X509_free(cert);
    EVP_PKEY_free(key);
}

static void remove_files(const struct files *f)
{
    assert_int_equal(unlink(f->cert), 0);
    assert_int_equal(unlink(f->key), 0);
    assert_int_equal(rmdir(f->folder), 0);
}

struct pair {
    struct files files;
    struct tls_server *server;
    struct tls *tls;
    SSL_CTX *ctx;
    SSL *client;
    BIO *to_client, *from_client;
    uint8_t got[1 << 20]; /* what the server read */
    size_t size;
    ssize_t last; /* of tls_read */
};

static void open_pair(struct pair *p)
{
    struct bg_err err;
    make_files(&p->files);
    assert_int_equal(tls_server_new(p->files.cert, p->files.key, &p->server, &err), 0);
    assert_int_equal(tls_new(p->server, &p->tls, &err), 0);
    p->ctx = SSL_CTX_new(TLS_client_method());
    p->client = SSL_new(p->ctx);
    p->to_client = BIO_new(BIO_s_mem());
    p->from_client = BIO_new(BIO_s_mem());
    SSL_set_bio(p->client, p->to_client, p->from_client);
    SSL_set_connect_state(p->client);
    p->last = -EAGAIN;
}

static void close_pair(struct pair *p)
{
    SSL_free(p->client);
    SSL_CTX_free(p->ctx);
    tls_free(p->tls);
    tls_server_free(p->server);
    remove_files(&p->files);
    free(p);
}

/* Carries over what each has to say, at most `step` bytes at a time towards the server. */
static void carry(struct pair *p, size_t step)
{
    uint8_t *bytes, piece[4096];
    size_t size;
    int n = BIO_read(p->from_client, piece, (int)(step < sizeof piece ? step : sizeof piece));
    if (n > 0) {
        assert_int_equal(tls_feed(p->tls, piece, (size_t)n), 0);
        while ((p->last = tls_read(p->tls, p->got + p->size, sizeof p->got - p->size)) > 0)
            p->size += (size_t)p->last;
    }
    assert_int_equal(tls_output(p->tls, &bytes, &size), 0);
    if (size > 0)
        assert_int_equal(BIO_write(p->to_client, bytes, (int)size), (int)size);
    free(bytes);
}

static void shake_hands(struct pair *p, size_t step)
{
    for (int i = 0; i < 100000 && SSL_do_handshake(p->client) != 1; i++)
        carry(p, step);
    assert_int_equal(SSL_is_init_finished(p->client), 1);
    while (BIO_ctrl_pending(p->from_client) > 0)
        carry(p, step);
}

static void bytes_pass_in_both_directions(void **state)
{
    (void)state;
    static const size_t steps[] = {1, 7, 4096};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        struct pair *p = calloc(1, sizeof *p);
        static uint8_t sent[100000], back[100000];
        size_t done = 0, n;
        assert_non_null(p);
        open_pair(p);
        shake_hands(p, steps[i]);
        memset(sent, 'a', sizeof sent);
        assert_int_equal(SSL_write(p->client, sent, sizeof sent), sizeof sent);
        while (BIO_ctrl_pending(p->from_client) > 0)
            carry(p, steps[i]);
        assert_int_equal(p->size, sizeof sent);
        assert_memory_equal(p->got, sent, sizeof sent);
        assert_int_equal(p->last, -EAGAIN);
        memset(sent, 'b', sizeof sent);
        assert_int_equal(tls_write(p->tls, sent, sizeof sent), 0);
        carry(p, steps[i]);
        while (SSL_read_ex(p->client, back + done, sizeof back - done, &n) == 1)
            done += n;
        assert_int_equal(done, sizeof back);
        assert_memory_equal(back, sent, sizeof back);
        tls_finish(p->tls);
        carry(p, steps[i]);
        assert_int_equal(SSL_read(p->client, back, sizeof back), 0);
        assert_int_equal(SSL_get_error(p->client, 0), SSL_ERROR_ZERO_RETURN);
        (void)SSL_shutdown(p->client);
        while (BIO_ctrl_pending(p->from_client) > 0)
            carry(p, steps[i]);
        assert_int_equal(p->last, 0);
        close_pair(p);
    }
}

static void what_is_no_tls_is_refused(void **state)
{
    (void)state;
    static const char text[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    struct pair *p = calloc(1, sizeof *p);
    uint8_t byte;
    assert_non_null(p);
    open_pair(p);
    assert_int_equal(tls_feed(p->tls, (const uint8_t *)text, sizeof text - 1), 0);
    assert_int_equal(tls_read(p->tls, &byte, 1), -EPROTO);
    assert_int_equal(tls_read(p->tls, &byte, 1), -EPROTO);
    assert_true(tls_write(p->tls, (const uint8_t *)text, 1) < 0);
    tls_finish(p->tls);
    close_pair(p);
}

static void a_record_that_was_changed_is_refused(void **state)
{
    (void)state;
    struct pair *p = calloc(1, sizeof *p);
    uint8_t record[256], byte;
    assert_non_null(p);
    open_pair(p);
    shake_hands(p, 4096);
    assert_int_equal(SSL_write(p->client, "secret", 6), 6);
    int n = BIO_read(p->from_client, record, sizeof record);
    assert_true(n > 10);
    record[n - 1] ^= 1;
    assert_int_equal(tls_feed(p->tls, record, (size_t)n), 0);
    assert_int_equal(tls_read(p->tls, &byte, 1), -EPROTO);
    close_pair(p);
}

static void files_that_are_none_are_refused(void **state)
{
    (void)state;
    struct files one, other;
    struct tls_server *server;
    struct bg_err err;
    make_files(&one);
    make_files(&other);
    assert_int_equal(tls_server_new("/dev/null", one.key, &server, &err), -EINVAL);
    assert_non_null(strstr(err.text, "--tls-cert"));
    assert_int_equal(tls_server_new(one.cert, "/dev/null", &server, &err), -EINVAL);
    assert_non_null(strstr(err.text, "--tls-key"));
    assert_int_equal(tls_server_new(one.cert, other.key, &server, &err), -EINVAL);
    remove_files(&one);
    remove_files(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_pass_in_both_directions),
        cmocka_unit_test(what_is_no_tls_is_refused),
        cmocka_unit_test(a_record_that_was_changed_is_refused),
        cmocka_unit_test(files_that_are_none_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
