#include "host/cli/forward_spec.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "common/checked.h"
#include "common/quote.h"

int forward_spec_parse(const char *text, struct forward_spec *ret, struct bg_err *err)
{
    char quoted[128], host[8];
    uint64_t host_port, guest_port;
    const char *colon = strchr(text, ':');
    size_t size = colon ? (size_t)(colon - text) : strlen(text);
    if (size < sizeof host) {
        memcpy(host, text, size);
        host[size] = '\0';
        /* A port of one's own may be left to the system; the sandbox's not. */
        if (bg_parse_u64(colon ? colon + 1 : text, 1, 65535, &guest_port) == 0 &&
            bg_parse_u64(host, 0, 65535, &host_port) == 0) {
            *ret = (struct forward_spec){.host_port = (uint16_t)host_port,
                                         .guest_port = (uint16_t)guest_port};
            return 0;
        }
    }
    return bg_err_set(err, -EINVAL,
                      "%s: want PORT, or HOSTPORT:PORT, each from 1 to 65535; HOSTPORT 0 takes one "
                      "that is free",
                      bg_quote(text, quoted, sizeof quoted));
}

int forward_spec_address(const char *text, struct sockaddr_storage *ret, socklen_t *ret_size,
                         bool *ret_loopback, struct bg_err *err)
{
    char quoted[128], bare[INET6_ADDRSTRLEN];
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    size_t size = strlen(text);
    bool brackets = size >= 2 && text[0] == '[' && text[size - 1] == ']';
    size -= brackets ? 2 : 0;
    if (size < sizeof bare) {
        memcpy(bare, text + brackets, size);
        bare[size] = '\0';
        if (!brackets && inet_pton(AF_INET, bare, &v4.sin_addr) == 1) {
            memcpy(ret, &v4, sizeof v4);
            *ret_size = sizeof v4;
            *ret_loopback = ntohl(v4.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
            return 0;
        }
        if (inet_pton(AF_INET6, bare, &v6.sin6_addr) == 1) {
            memcpy(ret, &v6, sizeof v6);
            *ret_size = sizeof v6;
            *ret_loopback = IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
            return 0;
        }
    }
    return bg_err_set(err, -EINVAL,
                      "--address %s: want an address such as 127.0.0.1, ::1 or 0.0.0.0",
                      bg_quote(text, quoted, sizeof quoted));
}
