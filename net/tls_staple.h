/* What an upstream's certificate says about its revocation: an OCSP response that is stapled to the
 * handshake (RFC 6066 §8). Nobody is asked: a host that staples nothing is believed, unless its
 * certificate demands a staple (RFC 7633). A response that is not proven to be about the
 * certificate counts as none, and one that says it is revoked counts whatever its age. */
#pragma once

#include <stdbool.h>

#include <openssl/ssl.h>

/* Has every client session ask for it and look at it. A certificate that is refused shows in
 * SSL_get_verify_result. Returns false on OpenSSL's errors. */
bool tls_staple_set_up(SSL_CTX *client);
