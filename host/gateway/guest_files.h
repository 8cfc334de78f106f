/* guest_files: a files stream to a guest, on the loop (docs/protocol.md, "Files"). Calls are
 * answered in their order. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "common/err.h"
#include "common/files.h"
#include "common/state/sandbox.h"

struct guest_files;

/* An answer. status: 0 or a negative errno, of the guest's or -ECONNRESET: the stream is gone.
 * more: another one follows. in: the guest's bytes, unchecked, borrowed for the call. May close us.
 */
typedef void guest_files_answer(void *owner, int status, bool more, struct bg_reader *in);

/* umask: of what is made. Errors: as guest_stream_open. */
int guest_files_open(uv_loop_t *loop, const struct bg_paths *paths,
                     const struct bg_sandbox *sandbox, uint32_t umask, struct guest_files **ret,
                     struct bg_err *err) BG_MUST_CHECK;

/* Makes a call; call: enum bg_files_op and its parameters. Errors: -ENOMEM, -ECONNRESET: on_answer
 * is not called then. */
int guest_files_call(struct guest_files *files, const struct bg_writer *call,
                     guest_files_answer *on_answer, void *owner) BG_MUST_CHECK;

/* The stream is gone: it answers no call any more. */
bool guest_files_lost(const struct guest_files *files);

/* Closes it at once, and what is open there with it; nothing is called after that. NULL: no-op. */
void guest_files_close(struct guest_files *files);
