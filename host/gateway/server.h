/* server: the gateway's listener and its end. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/log.h"
#include "host/cli/app.h"

struct server_opts {
    struct app *app; /* borrowed, as all of these; with its paths */
    const struct bg_log *log;
    const char *listen;             /* ADDRESS:PORT, [ADDRESS]:PORT */
    const char *tls_cert, *tls_key; /* PEM files; both or none */
    bool plain;                     /* other machines may be served without TLS */
    const char *token_file;
    const char *const *host_names; /* NULL-terminated */
    const char *image, *region, *upstream_ca;
    const char *const *allow; /* NULL-terminated */
    unsigned cpus;
    uint64_t idle_ms; /* as of sandboxes_opts */
};

/* Serves until a signal ends it. Prints where it listens. Errors: -EINVAL listen, the certificate;
 * errno of bind; as sandboxes_open. */
int server_run(const struct server_opts *opts, struct bg_err *err) BG_MUST_CHECK;
