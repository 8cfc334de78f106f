/* The guest's interfaces: the loopback, and a dummy that all traffic is routed to, so that every
 * address looks reachable until the redirection (guest/redirect.h) takes the packets. */
#pragma once

#include "common/err.h"

/* Brings up `lo`. Errors: what the kernel says. */
int interface_loopback_up(struct bg_err *err) BG_MUST_CHECK;

/* Makes `dummy0` if it is missing, with our IPv4 and IPv6 addresses and the default routes. May be
 * called again. Errors: what the kernel says. */
int interface_dummy_up(struct bg_err *err) BG_MUST_CHECK;
