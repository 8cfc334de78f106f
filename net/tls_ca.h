/* The installation's own certificate authority (P-256), which the guests trust, and the leaf
 * certificates that it signs on demand. Only programs of net/ ever read its key.
 *
 * DATA/ca/ca.key (0600) is the key and its certificate: one file, so that a new CA is there by one
 * rename. DATA/ca/ca.pem is a copy of the certificate for those who may not read the key. After a
 * rotate the CA before is DATA/ca/old/SHA256 (0600, likewise), for the sandboxes that were started
 * with it: their guests know no other. All is read and written under DATA/ca/lock. */
#pragma once

#include <openssl/ssl.h>

#include "common/err.h"
#include "net/destination.h"

struct tls_ca;

/* Opens DATA/ca, and makes what is missing there first, so that of several that come at once one
 * makes it and all use the same. pem: the certificate of the CA that is wanted, which may be one
 * before the present; NULL: the present one. Errors: -EUCLEAN key and certificate do not fit each
 * other or cannot be read; -ENOKEY there is no such CA any more; errno of the calls; -ENOMEM. */
int tls_ca_open(const char *data_dir, const char *pem, struct tls_ca **ret,
                struct bg_err *err) BG_MUST_CHECK;
void tls_ca_close(struct tls_ca *ca);

/* Puts a new CA in the place of the present one, which is kept; of one that is damaged nothing is.
 * Errors: -EUSERS BG_CA_OLD_MAX are kept already; as above. */
int tls_ca_rotate(const char *data_dir, struct bg_err *err) BG_MUST_CHECK;

struct tls_ca_facts {
    char subject[256];
    char sha256[2 * 32 + 1];            /* of the certificate's DER, in hex */
    char not_before[32], not_after[32]; /* RFC 3339, UTC */
};

/* Of a certificate in PEM. Errors: -EUCLEAN it is none. */
int tls_ca_facts(const char *pem, struct tls_ca_facts *ret, struct bg_err *err) BG_MUST_CHECK;

/* Removes the kept ones that is_used does not want; called with tls_ca_facts.sha256,
 * under the lock. */
int tls_ca_forget(const char *data_dir, bool (*is_used)(void *owner, const char *sha256),
                  void *owner, struct bg_err *err) BG_MUST_CHECK;

/* Path of the certificate, heap, the caller's; NULL: out of memory. */
char *tls_ca_path(const char *data_dir);

/* Whom a certificate is for. */
struct tls_ca_leaf {
    const struct destination *destination;
    bool allowed;    /* by a rule; others take no place in the cache, and no part of the rate, that
                        allowed ones may want */
    uint64_t now_ms; /* of a clock that only goes forward */
};

/* Gives the session a certificate for a host: one from the cache, or a new one. All leaves of a
 * process share a key that is never stored.
 * Errors: -EAGAIN too many new names in this time; -ENOMEM and OpenSSL's, as -EIO. */
int tls_ca_use_leaf(struct tls_ca *ca, const struct tls_ca_leaf *what, SSL *ssl,
                    struct bg_err *err) BG_MUST_CHECK;

/* Takes the first entry of OpenSSL's error queue into err, and empties the queue. Returns code. */
int tls_error(struct bg_err *err, int code, const char *what);
