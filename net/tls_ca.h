/* The installation's own certificate authority (P-256), which the guests trust, and the leaf
 * certificates that it signs on demand. Only the proxy ever reads its key. */
#pragma once

#include <openssl/ssl.h>

#include "common/err.h"
#include "net/destination.h"

struct tls_ca;

/* Opens DATA/ca, and makes what is missing there first: the folder, ca.key (0600) and ca.pem, under
 * a lock, so that of several that come at once one makes it and all use the same.
 * Errors: -EUCLEAN key and certificate do not fit each other or cannot be read; errno of the calls;
 * -ENOMEM. */
int tls_ca_open(const char *data_dir, struct tls_ca **ret, struct bg_err *err) BG_MUST_CHECK;
void tls_ca_close(struct tls_ca *ca);

/* Path of the certificate, heap, the caller's; NULL: out of memory. */
char *tls_ca_path(const char *data_dir);

/* Gives the session a certificate for the destination's host: one from the cache, or a new one. All
 * leaves of a process share a key that is never stored. Errors: -ENOMEM and OpenSSL's, as -EIO. */
int tls_ca_use_leaf(struct tls_ca *ca, const struct destination *destination, SSL *ssl,
                    struct bg_err *err) BG_MUST_CHECK;

/* Takes the first entry of OpenSSL's error queue into err, and empties the queue. Returns code. */
int tls_error(struct bg_err *err, int code, const char *what);
