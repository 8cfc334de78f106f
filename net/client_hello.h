/* Looks into a TLS ClientHello (RFC 8446 §4.1.2) before anything answers it: whom the guest asks
 * for and what it speaks. Pure. */
#pragma once

#include "common/err.h"
#include "net/destination.h"

struct client_hello {
    bool has_server_name;
    struct destination server_name; /* a name, never an address; port 0 */
    bool has_alpn, alpn_ours;       /* it named protocols, "h2" or "http/1.1" among them */
    bool has_ech;                   /* or what looks like it: there may be another name inside */
};

/* Parses the bytes that a connection began with: TLS records whose handshake fragments make up the
 * ClientHello. Bytes after it are not looked at. bytes: untrusted.
 * Errors: -EAGAIN so far so good, more is needed; -EPROTO it is none, or malformed; -EMSGSIZE it is
 * larger than BG_EGRESS_HELLO_MAX. */
int client_hello_parse(const uint8_t *bytes, size_t size, struct client_hello *ret,
                       struct bg_err *err) BG_MUST_CHECK;
