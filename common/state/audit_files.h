/* The files of a sandbox's audit log (docs/protocol.md, "Audit"): audit.ndjson is written, and when
 * it is full it becomes audit.ndjson.1, the latest of the old ones, and so on; the oldest goes.
 * They are in the sandbox's folder and go with it.
 *
 * The proxy writes, but can neither open nor rename a file once it has given its rights up; its
 * launcher turns the files over and hands it the new one. Only the launcher does: it is one process
 * a sandbox. Readers need no lock: at every moment the name audit.ndjson is there, and a file keeps
 * its inode. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/limits.h"

#define BG_AUDIT_FILE      "audit.ndjson"
#define BG_AUDIT_NAME_SIZE 32

/* The name of one of them; 0: the one that is written, then from the latest to the oldest. */
void bg_audit_name(unsigned index, char out[BG_AUDIT_NAME_SIZE]);

/* Opens audit.ndjson for appending, made if it is missing; one of size_max bytes or more is turned
 * over first. *ret_fd: the caller's. Errors: errno of the calls. */
int bg_audit_open(int dir_fd, uint64_t size_max, int *ret_fd, struct bg_err *err) BG_MUST_CHECK;

/* Opens all that are there for reading, the oldest first. Those that are turned over meanwhile are
 * neither missed nor twice in it. fds: the caller's. Errors: errno of the calls; none is open then.
 */
int bg_audit_open_all(int dir_fd, int fds[BG_AUDIT_FILES_MAX], size_t *ret_count,
                      struct bg_err *err) BG_MUST_CHECK;

/* The launcher's part: takes one request of a proxy from its socket and answers with the file to go
 * on with, or, if that cannot be opened, without one. socket: O_NONBLOCK, since a proxy may read no
 * answers. Errors: -ENOTCONN the proxy has gone; -EAGAIN it reads none; those of bg_audit_open. */
int bg_audit_answer(int socket, int dir_fd, uint64_t size_max, struct bg_err *err) BG_MUST_CHECK;
