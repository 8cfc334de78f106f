/* qmp: a client of QEMU's machine protocol over a Unix socket (QEMU docs/interop/qmp-spec). QEMU's
 * answers are untrusted: its process may be the guest's. Loop thread only.
 *
 * Commands are answered in the order sent, so the callbacks wait in a queue. A line longer than
 * QMP_LINE_MAX, bytes that are not JSON, or an answer to nothing end the connection. */
#pragma once

#include <jansson.h>
#include <uv.h>

#include "common/err.h"

struct qmp;

/* Called once per command. err: NULL, or why it failed: -EREMOTEIO with QEMU's text, -ECANCELED
 * when the connection went away first. value: QEMU's "return", borrowed for the call; NULL on
 * error. */
typedef void (*qmp_done)(void *arg, const struct bg_err *err, const json_t *value);

struct qmp_opts {
    int fd;                        /* our end; taken when qmp_open succeeds */
    void (*on_ready)(void *owner); /* commands may be sent */
    /* data: QEMU's event data, borrowed for the call; may be NULL */
    void (*on_event)(void *owner, const char *name, const json_t *data);
    void (*on_lost)(void *owner, const struct bg_err *err); /* once; the owner should close */
    void (*on_closed)(void *owner);
    void *owner;
};

/* Errors: -ENOMEM; libuv's. */
int qmp_open(uv_loop_t *loop, const struct qmp_opts *opts, struct qmp **ret,
             struct bg_err *err) BG_MUST_CHECK;

/* Sends a command. arguments: taken, also on failure; NULL: none. fd: passed along (for getfd) and
 * left with the caller; -1: none. A failure is told by the callback, before this returns only if
 * the connection is lost already. */
void qmp_send(struct qmp *qmp, const char *command, json_t *arguments, int fd, qmp_done done,
              void *arg);

/* Pending callbacks get -ECANCELED now; on_closed comes in a later turn. NULL: no-op. */
void qmp_close(struct qmp *qmp);
