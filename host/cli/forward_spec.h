/* forward_spec: what `bellglass forward` takes: which port here leads to which one in the sandbox,
 * and where it listens. Pure. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "common/err.h"

struct forward_spec {
    uint16_t host_port; /* 0: any that is free */
    uint16_t guest_port;
};

/* "PORT" or "HOSTPORT:PORT". Errors: -EINVAL with the text quoted. */
int forward_spec_parse(const char *text, struct forward_spec *ret,
                       struct bg_err *err) BG_MUST_CHECK;

/* An IPv4 or IPv6 address, in brackets or not, its port 0. *ret_loopback: only this machine's own
 * programs reach it. Errors: -EINVAL with the text quoted. */
int forward_spec_address(const char *text, struct sockaddr_storage *ret, socklen_t *ret_size,
                         bool *ret_loopback, struct bg_err *err) BG_MUST_CHECK;
