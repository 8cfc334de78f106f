/* The proxy's part of turning the audit log over (common/state/audit_files.h): when the file is
 * full it asks its launcher, and goes on in the file that comes back. Until then, and if none
 * comes, it goes on in the full one, up to twice its size (serve.c); what is written then is lost.
 * Loop thread only. */
#pragma once

#include <uv.h>

#include "common/err.h"

struct audit_socket;
struct engine;

/* fd: of the launcher, SOCK_SEQPACKET, taken on success; engine: borrowed until closed; its
 * audit_fd is taken at the first turn. Errors: -ENOMEM; libuv's. */
int audit_socket_open(uv_loop_t *loop, int fd, struct engine *engine, struct audit_socket **ret,
                      struct bg_err *err) BG_MUST_CHECK;

/* After a line was written: asks if the file is full. */
void audit_socket_check(struct audit_socket *socket);

/* Takes it and frees it in a later loop turn. NULL: no-op. */
void audit_socket_close(struct audit_socket *socket);
