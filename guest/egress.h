/* The guest's TCP connections, redirected here by nf_tables, go on to the host: one stream each
 * (docs/protocol.md, "Connect"), by name where the guest dialled a synthetic address. A connection
 * that the host refuses is reset. */
#pragma once

#include <uv.h>

#include "common/err.h"
#include "common/wire.h"
#include "guest/names.h"

struct egress;

struct egress_opts {
    uv_loop_t *loop;
    struct names *names;   /* borrowed until the process ends */
    const char *unix_path; /* where the host listens; NULL: its vsock port */
};

/* Opens the listening sockets; they stay until the process ends. Errors: -ENOMEM; errno of socket,
 * bind, listen. */
int egress_open(const struct egress_opts *opts, struct egress **ret_egress,
                struct bg_err *err) BG_MUST_CHECK;

/* The streams are cut (guest/parking.h): nothing is sent on them from now on. New connections of
 * the guest's wait. */
void egress_park(struct egress *egress);

/* Goes on with a connection of the host's (nonblocking, taken), or refuses it. */
void egress_resume(struct egress *egress, uint32_t id, uint64_t host_has, int fd);

/* Those that were not resumed go on with what they have, or are reset. The host has not heard of
 * those whose opening was not sent: they are opened. */
void egress_go_on(struct egress *egress, enum bg_go_on how);

/* All connections that were there are reset; it is no longer parked. */
void egress_reset(struct egress *egress);
