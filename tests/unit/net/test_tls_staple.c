#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/ocsp.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "net/tls_staple.h"

struct authority {
    EVP_PKEY *key;
    X509 *certificate;
};

static void add_extension(X509 *x, int nid, const char *value)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    assert_non_null(extension);
    assert_int_equal(X509_add_ext(x, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

/* issuer: NULL: an authority of that name. */
static X509 *make_certificate(const char *name, EVP_PKEY *key, const struct authority *issuer,
                              bool must_staple)
{
    static long serial = 1;
    X509 *x = X509_new();
    assert_int_equal(X509_set_version(x, 2), 1);
    assert_int_equal(ASN1_INTEGER_set(X509_get_serialNumber(x), serial++), 1);
    assert_non_null(X509_gmtime_adj(X509_getm_notBefore(x), -3600));
    assert_non_null(X509_gmtime_adj(X509_getm_notAfter(x), 3600));
    assert_int_equal(X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                                                (const unsigned char *)name, -1, -1, 0),
                     1);
    assert_int_equal(
        X509_set_issuer_name(x, X509_get_subject_name(issuer ? issuer->certificate : x)), 1);
    assert_int_equal(X509_set_pubkey(x, key), 1);
    if (!issuer)
        add_extension(x, NID_basic_constraints, "critical,CA:TRUE");
    if (must_staple)
        add_extension(x, NID_tlsfeature, "status_request");
    assert_true(X509_sign(x, issuer ? issuer->key : key, EVP_sha256()) > 0);
    return x;
}

static struct authority make_authority(const char *name)
{
    struct authority a = {.key = EVP_EC_gen("P-256")};
    a.certificate = make_certificate(name, a.key, NULL, false);
    return a;
}

static void authority_done(struct authority *a)
{
    EVP_PKEY_free(a->key);
    X509_free(a->certificate);
}

enum staple { NONE, GARBAGE, TRY_LATER, GOOD, REVOKED, UNKNOWN, OTHERS_ONLY };

struct answer {
    enum staple staple;
    bool old, by_stranger, sha256;
};

/* The response's bytes, heap; NULL for NONE. */
static unsigned char *make_response(const struct answer *answer, const struct authority *signer,
                                    X509 *leaf, X509 *other, X509 *issuer, int *ret_size)
{
    static const int statuses[] = {[GOOD] = V_OCSP_CERTSTATUS_GOOD,
                                   [REVOKED] = V_OCSP_CERTSTATUS_REVOKED,
                                   [UNKNOWN] = V_OCSP_CERTSTATUS_UNKNOWN,
                                   [OTHERS_ONLY] = V_OCSP_CERTSTATUS_GOOD};
    if (answer->staple == NONE)
        return NULL;
    if (answer->staple == GARBAGE) {
        static const unsigned char garbage[] = {0x30, 0x82, 0xff, 0xff};
        *ret_size = sizeof garbage;
        return OPENSSL_memdup(garbage, sizeof garbage);
    }
    OCSP_RESPONSE *response;
    if (answer->staple == TRY_LATER) {
        response = OCSP_response_create(OCSP_RESPONSE_STATUS_TRYLATER, NULL);
    } else {
        OCSP_BASICRESP *basic = OCSP_BASICRESP_new();
        long from = answer->old ? -7200 : -60, until = answer->old ? -3600 : 3600;
        ASN1_TIME *this_update = X509_gmtime_adj(NULL, from), *next = X509_gmtime_adj(NULL, until);
        OCSP_CERTID *id = OCSP_cert_to_id(answer->sha256 ? EVP_sha256() : EVP_sha1(),
                                          answer->staple == OTHERS_ONLY ? other : leaf, issuer);
        assert_non_null(OCSP_basic_add1_status(basic, id, statuses[answer->staple], 0, this_update,
                                               this_update, next));
        assert_int_equal(
            OCSP_basic_sign(basic, signer->certificate, signer->key, EVP_sha256(), NULL, 0), 1);
        response = OCSP_response_create(OCSP_RESPONSE_STATUS_SUCCESSFUL, basic);
        OCSP_CERTID_free(id);
        ASN1_TIME_free(this_update);
        ASN1_TIME_free(next);
        OCSP_BASICRESP_free(basic);
    }
    unsigned char *bytes = NULL;
    *ret_size = i2d_OCSP_RESPONSE(response, &bytes);
    assert_true(*ret_size > 0);
    OCSP_RESPONSE_free(response);
    return bytes;
}

static int staple(SSL *ssl, void *owner)
{
    const struct {
        const unsigned char *bytes;
        int size;
    } *response = owner;
    if (!response->bytes)
        return SSL_TLSEXT_ERR_NOACK;
    unsigned char *copy = OPENSSL_memdup(response->bytes, (size_t)response->size);
    (void)SSL_set_tlsext_status_ocsp_resp(ssl, copy, response->size); /* takes it; cannot fail */
    return SSL_TLSEXT_ERR_OK;
}

/* A handshake; returns whether it ended well, and the client's verdict. */
static bool shake_hands(const struct authority *authority, X509 *leaf, EVP_PKEY *key,
                        void *response, int version, long *ret_verdict)
{
    SSL_CTX *ctx[2] = {SSL_CTX_new(TLS_client_method()), SSL_CTX_new(TLS_server_method())};
    SSL *ssl[2];
    BIO *bio[2];
    SSL_CTX_set_verify(ctx[0], SSL_VERIFY_PEER, NULL);
    assert_int_equal(X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx[0]), authority->certificate),
                     1);
    assert_true(tls_staple_set_up(ctx[0]));
    assert_int_equal(SSL_CTX_use_certificate(ctx[1], leaf), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(ctx[1], key), 1);
    assert_int_equal(SSL_CTX_set_max_proto_version(ctx[1], version), 1);
    (void)SSL_CTX_set_tlsext_status_cb(ctx[1], staple); /* cannot fail, as the next one */
    (void)SSL_CTX_set_tlsext_status_arg(ctx[1], response);
    assert_int_equal(BIO_new_bio_pair(&bio[0], 0, &bio[1], 0), 1);
    for (int i = 0; i < 2; i++) {
        ssl[i] = SSL_new(ctx[i]);
        SSL_set_bio(ssl[i], bio[i], bio[i]);
        SSL_CTX_free(ctx[i]);
    }
    SSL_set_connect_state(ssl[0]);
    SSL_set_accept_state(ssl[1]);
    for (int i = 0; i < 8; i++)
        (void)SSL_do_handshake(ssl[i % 2]); /* each wants to read in between */
    bool good = SSL_is_init_finished(ssl[0]);
    *ret_verdict = SSL_get_verify_result(ssl[0]);
    SSL_free(ssl[0]);
    SSL_free(ssl[1]);
    return good;
}

static const struct {
    struct answer answer;
    long plain, must_staple; /* the verdicts for a certificate, and one that demands a staple */
} rows[] = {
    {{.staple = NONE}, X509_V_OK, X509_V_ERR_OCSP_VERIFY_NEEDED},
    {{.staple = GOOD}, X509_V_OK, X509_V_OK},
    {{.staple = GOOD, .sha256 = true}, X509_V_OK, X509_V_OK},
    {{.staple = REVOKED}, X509_V_ERR_CERT_REVOKED, X509_V_ERR_CERT_REVOKED},
    {{.staple = REVOKED, .sha256 = true}, X509_V_ERR_CERT_REVOKED, X509_V_ERR_CERT_REVOKED},
    {{.staple = REVOKED, .old = true}, X509_V_ERR_CERT_REVOKED, X509_V_ERR_CERT_REVOKED},
    /* What proves nothing counts as none. */
    {{.staple = GOOD, .old = true}, X509_V_OK, X509_V_ERR_OCSP_VERIFY_NEEDED},
    {{.staple = GOOD, .by_stranger = true}, X509_V_OK, X509_V_ERR_OCSP_VERIFY_NEEDED},
    {{.staple = REVOKED, .by_stranger = true}, X509_V_OK, X509_V_ERR_OCSP_VERIFY_NEEDED},
    {{.staple = UNKNOWN}, X509_V_OK, X509_V_ERR_OCSP_VERIFY_NEEDED},
    {{.staple = OTHERS_ONLY}, X509_V_OK, X509_V_ERR_OCSP_VERIFY_NEEDED},
    {{.staple = TRY_LATER}, X509_V_OK, X509_V_ERR_OCSP_VERIFY_NEEDED},
    {{.staple = GARBAGE}, X509_V_OK, X509_V_ERR_OCSP_VERIFY_NEEDED},
};

static void heeds_staples(void **state)
{
    struct authority authority = make_authority("ca"), stranger = make_authority("ca");
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *other = make_certificate("other", key, &authority, false);
    (void)state;
    for (int must = 0; must < 2; must++) {
        X509 *leaf = make_certificate("leaf", key, &authority, must);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            struct {
                unsigned char *bytes;
                int size;
            } response = {0};
            response.bytes =
                make_response(&rows[i].answer, rows[i].answer.by_stranger ? &stranger : &authority,
                              leaf, other, authority.certificate, &response.size);
            for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
                long verdict, want = must ? rows[i].must_staple : rows[i].plain;
                bool good = shake_hands(&authority, leaf, key, &response, version, &verdict);
                if (verdict != want || good != (want == X509_V_OK))
                    fail_msg("row %zu, must %d, version %x: %s, %s", i, must, version,
                             good ? "good" : "refused", X509_verify_cert_error_string(verdict));
            }
            OPENSSL_free(response.bytes);
        }
        X509_free(leaf);
    }
    X509_free(other);
    EVP_PKEY_free(key);
    authority_done(&authority);
    authority_done(&stranger);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(heeds_staples)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
