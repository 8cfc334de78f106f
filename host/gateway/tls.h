/* tls: the server's side of TLS on bytes; OpenSSL does it. What comes from the network is fed, what
 * is to go there is fetched, so this knows no socket. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

struct tls_server; /* the certificate and its key */
struct tls;        /* one connection */

/* PEM files: the certificate with its chain, and its key. Errors: -EINVAL they are none, or do not
 * belong together; -ENOMEM. */
int tls_server_new(const char *cert_file, const char *key_file, struct tls_server **ret,
                   struct bg_err *err) BG_MUST_CHECK;
void tls_server_free(struct tls_server *server); /* NULL: no-op */

/* server: borrowed until tls_free. Errors: -ENOMEM. */
int tls_new(struct tls_server *server, struct tls **ret, struct bg_err *err) BG_MUST_CHECK;
void tls_free(struct tls *tls); /* NULL: no-op */

/* Takes what came from the network. Errors: -ENOMEM. */
int tls_feed(struct tls *tls, const uint8_t *bytes, size_t size) BG_MUST_CHECK;

/* What it means, as far as it is whole: bytes, at most size; -EAGAIN nothing more for now; 0 the
 * other side has said that it is done; -EPROTO it is broken, or no TLS. After any of these look at
 * tls_output. */
ssize_t tls_read(struct tls *tls, uint8_t *out, size_t size) BG_MUST_CHECK;

/* Takes all bytes, after the handshake only. Then look at tls_output. Errors: -EPROTO; -ENOMEM. */
int tls_write(struct tls *tls, const uint8_t *bytes, size_t size) BG_MUST_CHECK;

/* What is to go to the network: heap, the caller's; NULL if there is nothing (*ret_size 0) or no
 * memory (-ENOMEM). */
int tls_output(struct tls *tls, uint8_t **ret, size_t *ret_size) BG_MUST_CHECK;

/* Says that nothing more is sent. Then look at tls_output. */
void tls_finish(struct tls *tls);
