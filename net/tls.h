/* TLS on sockets: towards the guest as the server that it asked for, towards the upstream as a
 * client that takes nothing unverified. Of the rest of net/ only tls_* know OpenSSL.
 * Sessions with upstreams are resumed where they may be (tls_tickets.h). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "net/destination.h"

struct tls_context; /* what all sessions share */
struct tls_session; /* one connection */

/* data_dir: where the CA is, or is made; NULL: only towards upstreams. ca_pem: which one, as for
 * tls_ca_open. upstream_ca: PEM
 * certificates that are trusted beside the system's, or NULL. Errors: -EUCLEAN CA damaged; -EINVAL
 * upstream_ca has no certificate; -ENOMEM; -EIO OpenSSL's. */
int tls_context_new(const char *data_dir, const char *ca_pem, const char *upstream_ca,
                    size_t upstream_ca_size, struct tls_context **ret,
                    struct bg_err *err) BG_MUST_CHECK;
void tls_context_free(struct tls_context *context);

enum tls_offer { TLS_OFFER_HTTP11, TLS_OFFER_H2_TOO };

struct tls_accept_opts {
    const struct destination *as; /* its host is whom the session poses as */
    enum tls_offer offer;         /* the protocols that the peer may have */
    bool allowed;                 /* by a rule; see tls_ca.h */
    uint64_t now_ms;              /* of a clock that only goes forward */
    int fd;                       /* borrowed until the session is freed; may be blocking or not */
    const uint8_t *prefix;        /* what was read from it already; copied */
    size_t prefix_size;
};

/* A session that poses as a host. Errors: -EAGAIN too many new names in this time; -ENOMEM, -EIO.
 */
int tls_accept(struct tls_context *context, const struct tls_accept_opts *opts,
               struct tls_session **ret, struct bg_err *err) BG_MUST_CHECK;

/* A session with the destination; its certificate must be good for the host. offer: the protocols
 * that it may choose from. Errors: -ENOMEM, -EIO. */
int tls_connect(struct tls_context *context, const struct destination *to, enum tls_offer offer,
                int fd, struct tls_session **ret, struct bg_err *err) BG_MUST_CHECK;

/* Goes on with the handshake. Errors: -EAGAIN call again when the socket is ready (see
 * tls_wants_write); -EPROTO failed, err says why; -EKEYREJECTED the peer's certificate. */
int tls_handshake(struct tls_session *session, struct bg_err *err) BG_MUST_CHECK;

/* After the handshake: whether HTTP/2 was chosen by ALPN (RFC 7301). */
bool tls_is_h2(const struct tls_session *session);

/* Whether the upstream asked for a client's certificate. It got none: with TLS 1.3 it may refuse
 * that only after the handshake. */
bool tls_wants_certificate(const struct tls_session *session);

/* Bytes read, 0 at the peer's close_notify, -EAGAIN, -ECONNABORTED the stream ended without a
 * close_notify, -EPROTO, or errno of the socket. */
ssize_t tls_read(struct tls_session *session, void *buffer, size_t size) BG_MUST_CHECK;

/* Bytes taken, at least 1, or -EAGAIN (call again with the same bytes first), -EPROTO, errno. What
 * it took has been sent only when tls_flush says so. */
ssize_t tls_write(struct tls_session *session, const void *bytes, size_t size) BG_MUST_CHECK;

/* Sends what tls_write has left. 0: nothing is left; -EAGAIN, errno. */
int tls_flush(struct tls_session *session) BG_MUST_CHECK;

/* Says that nothing more will be sent. 0, or -EAGAIN; other failures are not worth knowing. */
int tls_close_notify(struct tls_session *session);

/* Whether the last -EAGAIN waits for room to write and not for something to read. */
bool tls_wants_write(const struct tls_session *session);

/* Frees it, the fd is left open. NULL: no-op. */
void tls_free(struct tls_session *session);

/* For a WebSocket's handshake, which asks for it. Errors: -EIO. */
#define TLS_SHA1_SIZE 20
int tls_sha1(const void *bytes, size_t size, uint8_t out[TLS_SHA1_SIZE],
             struct bg_err *err) BG_MUST_CHECK;

/* A fatal alert before any handshake, ready to be sent (RFC 8446 §6). */
#define TLS_ALERT_SIZE                    7
#define TLS_ALERT_HANDSHAKE_FAILURE       40
#define TLS_ALERT_DECODE_ERROR            50
#define TLS_ALERT_INTERNAL_ERROR          80
#define TLS_ALERT_UNRECOGNIZED_NAME       112
#define TLS_ALERT_NO_APPLICATION_PROTOCOL 120
void tls_alert(uint8_t description, uint8_t out[TLS_ALERT_SIZE]);
