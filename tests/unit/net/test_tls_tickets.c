#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "common/limits.h"
#include "net/tls_tickets.h"

static struct destination at(const char *text)
{
    struct destination d;
    assert_int_equal(destination_parse(text, strlen(text), 443, &d, NULL), 0);
    return d;
}

/* Keeps a ticket of that name, and no reference of ours. */
static void put(struct tls_tickets *tickets, const char *to, int version, unsigned char id,
                uint64_t until_ms)
{
    SSL_SESSION *session = SSL_SESSION_new();
    struct destination d = at(to);
    assert_non_null(session);
    assert_int_equal(SSL_SESSION_set_protocol_version(session, version), 1);
    assert_int_equal(SSL_SESSION_set1_id(session, &id, 1), 1);
    tls_tickets_put(tickets, &d, session, until_ms);
    SSL_SESSION_free(session);
}

/* The id of what it gives, or -1. */
static int get(struct tls_tickets *tickets, const char *to, uint64_t now_ms)
{
    struct destination d = at(to);
    uint64_t until_ms = 0;
    unsigned size;
    SSL_SESSION *session = tls_tickets_get(tickets, &d, now_ms, &until_ms);
    if (!session)
        return -1;
    assert_true(until_ms > now_ms);
    int id = SSL_SESSION_get_id(session, &size)[0];
    SSL_SESSION_free(session);
    return id;
}

static int set_up(void **state)
{
    *state = tls_tickets_new();
    assert_non_null(*state);
    return 0;
}

static int tear_down(void **state)
{
    tls_tickets_free(*state);
    return 0;
}

static void gives_them_for_one_host_and_port(void **state)
{
    put(*state, "a.org", TLS1_3_VERSION, 1, 100);
    put(*state, "192.0.2.1", TLS1_3_VERSION, 2, 100);
    const char *const others[] = {"b.org", "www.a.org", "a.org:8443", "192.0.2.2", "[::1]"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_int_equal(get(*state, others[i], 1), -1);
    assert_int_equal(get(*state, "A.org.", 1), 1);
    assert_int_equal(get(*state, "192.0.2.1", 1), 2);
}

static void gives_those_of_tls_1_3_once(void **state)
{
    put(*state, "a.org", TLS1_3_VERSION, 1, 100);
    put(*state, "a.org", TLS1_3_VERSION, 2, 100);
    assert_int_equal(get(*state, "a.org", 1), 2);
    assert_int_equal(get(*state, "a.org", 1), 1);
    assert_int_equal(get(*state, "a.org", 1), -1);
    put(*state, "a.org", TLS1_2_VERSION, 3, 100);
    assert_int_equal(get(*state, "a.org", 1), 3);
    assert_int_equal(get(*state, "a.org", 1), 3);
}

static void gives_none_that_is_too_old(void **state)
{
    put(*state, "a.org", TLS1_2_VERSION, 1, 100);
    assert_int_equal(get(*state, "a.org", 99), 1);
    assert_int_equal(get(*state, "a.org", 100), -1);
    assert_int_equal(get(*state, "a.org", 1), -1); /* it is gone */
}

static void forgets_those_of_a_host(void **state)
{
    struct destination d = at("a.org");
    put(*state, "a.org", TLS1_2_VERSION, 1, 100);
    put(*state, "a.org", TLS1_3_VERSION, 2, 100);
    put(*state, "a.org:8443", TLS1_3_VERSION, 3, 100);
    tls_tickets_drop(*state, &d);
    assert_int_equal(get(*state, "a.org", 1), -1);
    assert_int_equal(get(*state, "a.org:8443", 1), 3);
}

static void keeps_a_few_of_each_and_not_many(void **state)
{
    char name[16];
    for (unsigned char i = 1; i <= BG_EGRESS_SESSIONS_EACH + 1; i++)
        put(*state, "a.org", TLS1_3_VERSION, i, 100);
    for (int i = BG_EGRESS_SESSIONS_EACH + 1; i > 1; i--)
        assert_int_equal(get(*state, "a.org", 1), i);
    assert_int_equal(get(*state, "a.org", 1), -1);
    for (unsigned char i = 0; i < BG_EGRESS_SESSIONS_MAX + 2; i++) {
        (void)snprintf(name, sizeof name, "h%u.org", i);
        put(*state, name, TLS1_3_VERSION, i, 100);
    }
    assert_int_equal(get(*state, "h0.org", 1), -1);
    assert_int_equal(get(*state, "h1.org", 1), -1);
    for (unsigned char i = 2; i < BG_EGRESS_SESSIONS_MAX + 2; i++) {
        (void)snprintf(name, sizeof name, "h%u.org", i);
        assert_int_equal(get(*state, name, 1), i);
    }
}

static void keeps_none_that_cannot_be_used(void **state)
{
    SSL_SESSION *session = SSL_SESSION_new(); /* without an id or a ticket */
    struct destination d = at("a.org");
    tls_tickets_put(*state, &d, session, 100);
    SSL_SESSION_free(session);
    assert_int_equal(get(*state, "a.org", 1), -1);
}

/* ---- with a certificate ---- */

static X509 *make_certificate(EVP_PKEY *key, long seconds)
{
    X509 *x = X509_new();
    X509_EXTENSION *name = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:a.org");
    assert_non_null(X509_gmtime_adj(X509_getm_notBefore(x), -60));
    assert_non_null(X509_gmtime_adj(X509_getm_notAfter(x), seconds));
    assert_int_equal(X509_set_version(x, 2), 1);
    assert_int_equal(X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                                                (const unsigned char *)"x", -1, -1, 0),
                     1);
    assert_int_equal(X509_set_issuer_name(x, X509_get_subject_name(x)), 1);
    assert_int_equal(X509_set_pubkey(x, key), 1);
    assert_int_equal(X509_add_ext(x, name, -1), 1);
    assert_true(X509_sign(x, key, EVP_sha256()) > 0);
    X509_EXTENSION_free(name);
    return x;
}

/* A client that has verified a certificate for a.org, valid for that long, and its server. */
static void connect_pair(long seconds, bool trusted, SSL *ret[2])
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = make_certificate(key, seconds);
    SSL_CTX *ctx[2] = {SSL_CTX_new(TLS_client_method()), SSL_CTX_new(TLS_server_method())};
    BIO *bio[2];
    assert_int_equal(SSL_CTX_use_certificate(ctx[1], certificate), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(ctx[1], key), 1);
    if (trusted)
        assert_int_equal(X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx[0]), certificate), 1);
    assert_int_equal(BIO_new_bio_pair(&bio[0], 0, &bio[1], 0), 1);
    for (int i = 0; i < 2; i++) {
        ret[i] = SSL_new(ctx[i]);
        assert_non_null(ret[i]);
        SSL_set_bio(ret[i], bio[i], bio[i]);
        SSL_CTX_free(ctx[i]);
    }
    SSL_set_connect_state(ret[0]);
    SSL_set_accept_state(ret[1]);
    for (int i = 0; i < 8; i++)
        (void)SSL_do_handshake(ret[i % 2]); /* each wants to read in between */
    assert_true(SSL_is_init_finished(ret[0]));
    X509_free(certificate);
    EVP_PKEY_free(key);
}

static void ends_with_the_certificate(void **state)
{
    static const struct {
        long seconds;
        uint64_t from_ms, to_ms; /* the answer, at 1000 */
        bool trusted, fits;
    } rows[] = {
        {86400, 1000 + BG_EGRESS_SESSION_MS, 1000 + BG_EGRESS_SESSION_MS, true, true},
        {600, 1000 + 500000, 1000 + 600000, true, true},
        {-10, 0, 0, true, false},
        {86400, 0, 0, false, true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        SSL *pair[2];
        struct destination good = at("a.org"), bad = at("b.org"), address = at("192.0.2.1");
        connect_pair(rows[i].seconds, rows[i].trusted, pair);
        uint64_t until_ms = tls_tickets_until(pair[0], 1000);
        if (until_ms < rows[i].from_ms || until_ms > rows[i].to_ms ||
            tls_tickets_fit(pair[0], &good) != rows[i].fits)
            fail_msg("row %zu: until %llu", i, (unsigned long long)until_ms);
        assert_false(tls_tickets_fit(pair[0], &bad));
        assert_false(tls_tickets_fit(pair[0], &address));
        SSL_free(pair[0]);
        SSL_free(pair[1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(gives_them_for_one_host_and_port, set_up, tear_down),
        cmocka_unit_test_setup_teardown(gives_those_of_tls_1_3_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(gives_none_that_is_too_old, set_up, tear_down),
        cmocka_unit_test_setup_teardown(forgets_those_of_a_host, set_up, tear_down),
        cmocka_unit_test_setup_teardown(keeps_a_few_of_each_and_not_many, set_up, tear_down),
        cmocka_unit_test_setup_teardown(keeps_none_that_cannot_be_used, set_up, tear_down),
        cmocka_unit_test(ends_with_the_certificate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
