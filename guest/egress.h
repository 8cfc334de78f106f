/* The guest's TCP connections, redirected here by nf_tables, go on to the host: one stream each
 * (docs/protocol.md, "Connect"), by name where the guest dialled a synthetic address. A connection
 * that the host refuses is reset. */
#pragma once

#include <uv.h>

#include "common/err.h"
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
