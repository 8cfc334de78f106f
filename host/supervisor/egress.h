/* egress: hands the guest's outgoing connections to the proxy (docs/protocol.md, "Connect" and
 * "Supervisor -> proxy"). It checks sizes and kinds only: names and rules are the proxy's. While
 * there is no proxy every connection is refused. Loop thread only. */
#pragma once

#include <uv.h>

#include "common/err.h"
#include "common/log.h"
#include "host/vsock/vsock.h"

struct egress;

/* log: borrowed. Errors: -ENOMEM. */
int egress_open(uv_loop_t *loop, const struct bg_log *log, struct egress **ret,
                struct bg_err *err) BG_MUST_CHECK;

/* Tells when egress_resume() that said "not yet" is done. */
void egress_on_resumed(struct egress *egress, void (*on_resumed)(void *owner), void *owner);

/* The proxy's socket (SOCK_SEQPACKET), taken; replaces the one before; -1: none. */
void egress_set_proxy(struct egress *egress, int fd);

/* Takes a connection of the guest. */
void egress_take(struct egress *egress, struct vsock_conn *conn);

/* As control_park() and so on (host/supervisor/control.h), but that parking is done at once.
 * Connections of the guest are still taken: it has to be heard out. */
void egress_park(struct egress *egress);
bool egress_resume(struct egress *egress, struct vsock_device *device);
void egress_go_on(struct egress *egress);

/* Connections that are with the proxy. */
size_t egress_streams(const struct egress *egress);

/* A number that grows with what is carried on them. */
uint64_t egress_bytes(const struct egress *egress);

/* The device must be closed first: so nothing is open any more. NULL: no-op. */
void egress_free(struct egress *egress);
