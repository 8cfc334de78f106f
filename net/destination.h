/* Who a connection or request is for, in one canonical form, so that the connect request, CONNECT
 * target, SNI, Host and the policy's rules are compared as equal bytes. Pure. */
#pragma once

#include "common/err.h"
#include "net/address.h"

#define DESTINATION_HOST_SIZE 254 /* RFC 1035: 253 and a NUL */
#define DESTINATION_TEXT_SIZE (DESTINATION_HOST_SIZE + 8)

struct destination {
    char host[DESTINATION_HOST_SIZE]; /* lower-case A-labels without a dot at the end, or the
                                         address's canonical text without brackets */
    bool is_address;
    struct address address; /* valid if is_address */
    uint16_t port;          /* 0: not known yet */
};

/* Reads a host without a port (an address may have brackets); port becomes 0. text: untrusted.
 * Errors: -EINVAL neither a host name that DNS allows nor a plain address. */
int destination_parse_host(const char *text, size_t size, struct destination *ret,
                           struct bg_err *err) BG_MUST_CHECK;

/* Reads HOST[:PORT] as in a Host header; an IPv6 address needs brackets. Errors: -EINVAL, also for
 * user names, spaces, an empty or zero port. */
int destination_parse(const char *text, size_t size, uint16_t port_default, struct destination *ret,
                      struct bg_err *err) BG_MUST_CHECK;

/* Decimal, 1 to 65535, nothing else. Errors: -EINVAL. */
int destination_parse_port(const char *text, size_t size, uint16_t *ret) BG_MUST_CHECK;

bool destination_same_host(const struct destination *a, const struct destination *b);

/* HOST:PORT, or only HOST when the port is port_default; brackets around IPv6. */
void destination_format(const struct destination *destination, uint16_t port_default,
                        char out[DESTINATION_TEXT_SIZE]);
