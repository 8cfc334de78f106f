/* forward: the proxy on its own, an HTTP forward proxy for containers and CI. One process reads the
 * options and files and opens the listeners; the work is done by processes that it forks, one a
 * processor, each with a listener of its own (SO_REUSEPORT spreads the connections) and each
 * confined as a sandbox's proxy is.
 *
 * The parent never reads a secret's value: its workers do, before they give up files. It keeps the
 * listeners open, so that a connection that waits in one outlives the worker that it was meant for.
 *   SIGHUP         policy, secrets and the audit log are opened anew by a new generation of
 *                  workers; once all of them serve, the old ones take no more connections and end
 *                  with what they have begun. If the new ones cannot start, the old ones go on
 *   SIGTERM, SIGINT  all of them end
 * A worker that dies is replaced, at once or, if it keeps dying, after a while. What a policy's
 * limits have counted is in a ledger that all workers have, as long as the parent runs. */
#pragma once

#include "common/err.h"
#include "common/log.h"
#include "net/address.h"
#include "net/engine.h"

struct forward_opts {
    const char *listen; /* ADDRESS:PORT; port 0: any free one */
    const struct address_network *clients;
    size_t client_count; /* 0: any; only on loopback */
    unsigned workers;    /* 0: as many as there are processors */
    const char *policy, *secrets_file, *upstream_ca,
        *audit; /* paths, or NULL; audit: then stderr */
    char *const *allow;
    size_t allow_count;
    char *const *secrets; /* NAME@HOST[,HOST...] */
    size_t secret_count;
    bool json; /* prints where it listens so */
    const struct bg_log *log;
    struct engine_timeouts timeouts;
    unsigned conns_max; /* of each worker */
};

/* Serves until it is told to stop. Errors: of the set-up. */
int forward_run(const struct forward_opts *opts, struct bg_err *err) BG_MUST_CHECK;
