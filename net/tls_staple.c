#include "net/tls_staple.h"

#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/x509v3.h>

#define SKEW_S 300 /* between the responder's clock and ours */

/* RFC 7633: the certificate lists status_request (5) among the TLS features it insists on. */
static bool demands_staple(const X509 *certificate)
{
    TLS_FEATURE *features = X509_get_ext_d2i(certificate, NID_tlsfeature, NULL, NULL);
    bool found = false;
    for (int i = 0; features && i < sk_ASN1_INTEGER_num(features); i++)
        found |= ASN1_INTEGER_get(sk_ASN1_INTEGER_value(features, i)) == TLSEXT_TYPE_status_request;
    TLS_FEATURE_free(features);
    return found;
}

static OCSP_RESPONSE *stapled(SSL *ssl)
{
    const unsigned char *bytes;
    long size = SSL_get_tlsext_status_ocsp_resp(ssl, &bytes);
    return size > 0 ? d2i_OCSP_RESPONSE(NULL, &bytes, size) : NULL;
}

/* What the response says of the certificate: V_OCSP_CERTSTATUS_*; UNKNOWN also if it is too old to
 * say that it is good. */
static int status_in(OCSP_BASICRESP *basic, X509 *certificate, X509 *issuer)
{
    for (int sha256 = 0; sha256 < 2; sha256++) {
        OCSP_CERTID *id = OCSP_cert_to_id(sha256 ? EVP_sha256() : EVP_sha1(), certificate, issuer);
        int status = V_OCSP_CERTSTATUS_UNKNOWN, reason;
        ASN1_GENERALIZEDTIME *revoked, *from, *until;
        bool found =
            id && OCSP_resp_find_status(basic, id, &status, &reason, &revoked, &from, &until) == 1;
        OCSP_CERTID_free(id);
        if (!found)
            continue;
        if (status == V_OCSP_CERTSTATUS_REVOKED ||
            OCSP_check_validity(from, until, SKEW_S, -1) == 1)
            return status;
    }
    return V_OCSP_CERTSTATUS_UNKNOWN;
}

static int status_of(SSL *ssl, STACK_OF(X509) * chain, X509_STORE *store)
{
    int status = V_OCSP_CERTSTATUS_UNKNOWN;
    OCSP_RESPONSE *response = stapled(ssl);
    OCSP_BASICRESP *basic =
        response && OCSP_response_status(response) == OCSP_RESPONSE_STATUS_SUCCESSFUL
            ? OCSP_response_get1_basic(response)
            : NULL;
    if (basic && sk_X509_num(chain) > 1 && OCSP_basic_verify(basic, chain, store, 0) == 1)
        status = status_in(basic, sk_X509_value(chain, 0), sk_X509_value(chain, 1));
    OCSP_BASICRESP_free(basic);
    OCSP_RESPONSE_free(response);
    ERR_clear_error();
    return status;
}

/* Called once the certificate is verified. Returns 1, or 0 to end the handshake. */
static int check_staple(SSL *ssl, void *owner)
{
    STACK_OF(X509) *chain = SSL_get0_verified_chain(ssl);
    (void)owner;
    if (SSL_session_reused(ssl)) /* it was looked at when the session began */
        return 1;
    if (!chain || sk_X509_num(chain) == 0)
        return 0;
    int status = status_of(ssl, chain, SSL_CTX_get_cert_store(SSL_get_SSL_CTX(ssl)));
    long verdict = X509_V_OK;
    if (status == V_OCSP_CERTSTATUS_REVOKED)
        verdict = X509_V_ERR_CERT_REVOKED;
    else if (status != V_OCSP_CERTSTATUS_GOOD && demands_staple(sk_X509_value(chain, 0)))
        verdict = X509_V_ERR_OCSP_VERIFY_NEEDED;
    if (verdict == X509_V_OK)
        return 1;
    SSL_set_verify_result(ssl, verdict);
    return 0;
}

bool tls_staple_set_up(SSL_CTX *client)
{
    return SSL_CTX_set_tlsext_status_type(client, TLSEXT_STATUSTYPE_ocsp) == 1 &&
           SSL_CTX_set_tlsext_status_cb(client, check_staple) == 1;
}
