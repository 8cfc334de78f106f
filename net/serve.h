/* Sets a proxy up from files, gives rights up, and serves until its intake ends or it is told to
 * stop (SIGTERM, SIGINT). The whole life of a proxy process but for its options. */
#pragma once

#include "common/err.h"
#include "common/log.h"
#include "common/state/sandbox.h"
#include "net/engine.h"
#include "net/intake.h"

struct serve_opts {
    const struct bg_paths *paths;
    const char *sandbox; /* name, for the audit */
    char *const *allow;
    size_t allow_count;
    const char *policy; /* a policy file's text, or NULL; its rules come after allow */
    const struct bg_secret_use *secrets;
    size_t secret_count;
    const char *own_dir;      /* its secrets/NAME come before the store's (store.h), or NULL */
    const char *ledger;       /* path of the file that limits count in; NULL: they begin anew */
    const char *secrets_file; /* path, or NULL: looked into before the store (net/secrets_file.h) */
    const char *upstream_ca;  /* path, or NULL */
    const char *ca_pem;       /* the CA that the guest trusts; NULL: the present one */
    int audit_fd;             /* taken if audit_socket_fd is given: it changes then */
    int audit_socket_fd;      /* of the launcher, for further audit files (audit_socket.h), or -1 */
    int fd;                   /* the supervisor's socket, or the listener */
    bool listening;
    struct intake_clients clients;     /* listening: who may come */
    const struct serve_shared *shared; /* a worker's; NULL: it is alone */
    const struct bg_log *log;
    struct engine_timeouts timeouts;
    unsigned conns_max;
};

/* What a worker has from the process that started it (net/forward.h). */
struct serve_shared {
    int ledger_fd; /* what limits count in (net/ledger.h) */
    int ready_fd;  /* a zero byte is written there when it serves */
    int life_fd;   /* at its end the worker takes no more connections and ends with those it has */
};

/* Once in a process. Errors: of the set-up; 0 when it was told to stop. */
int serve_run(const struct serve_opts *opts, struct bg_err *err) BG_MUST_CHECK;
