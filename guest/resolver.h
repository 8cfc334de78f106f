/* The sockets of the guest's DNS server (guest/dns.h): UDP and TCP on 127.0.0.53:53, which
 * /etc/resolv.conf names, and where the redirection sends queries to other servers. */
#pragma once

#include <uv.h>

#include "common/err.h"
#include "guest/names.h"

#define RESOLVER_ADDRESS "127.0.0.53"

struct resolver;

/* Opens the sockets; they stay until the process ends. names: borrowed for as long.
 * Errors: -ENOMEM; errno of socket, bind, listen. */
int resolver_open(uv_loop_t *loop, struct names *names, struct resolver **ret_resolver,
                  struct bg_err *err) BG_MUST_CHECK;
