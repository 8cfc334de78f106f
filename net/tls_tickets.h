/* What upstreams gave us to resume their TLS sessions with, so that a further connection to the
 * same host and port costs no certificate and half a handshake. A ticket stands for a certificate
 * that was verified for exactly that host: it is never given for another one, not after
 * BG_EGRESS_SESSION_MS or the end of a certificate in the verified chain, and a ticket of a resumed
 * session is good for no longer than the first. TLS 1.3's are used once. Only in memory: another
 * process, such as the one with a new policy, begins with none. Times are in milliseconds of a
 * clock that only goes forward. */
#pragma once

#include <stdbool.h>

#include <openssl/ssl.h>

#include "common/err.h"
#include "net/destination.h"

struct tls_tickets;

/* Returns NULL when out of memory. */
struct tls_tickets *tls_tickets_new(void);
void tls_tickets_free(struct tls_tickets *tickets);

/* Keeps one, with a reference of its own. until_ms: for how long; see tls_tickets_until. */
void tls_tickets_put(struct tls_tickets *tickets, const struct destination *to,
                     SSL_SESSION *session, uint64_t until_ms);

/* The newest one for the destination; the reference is the caller's. NULL: there is none. */
SSL_SESSION *tls_tickets_get(struct tls_tickets *tickets, const struct destination *to,
                             uint64_t now_ms, uint64_t *ret_until_ms);

/* Forgets the destination's: something was wrong there. */
void tls_tickets_drop(struct tls_tickets *tickets, const struct destination *to);

/* How long tickets of a connection whose certificate has just been verified may be used; 0: not at
 * all. */
uint64_t tls_tickets_until(SSL *ssl, uint64_t now_ms);

/* Whether a resumed session's certificate is good for the host, and still valid: the table has seen
 * to it; this looks at the certificate itself. */
bool tls_tickets_fit(SSL *ssl, const struct destination *to);
