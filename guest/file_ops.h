/* file_ops: carries out the calls of a files stream (common/files.h), one at a time, as whoever the
 * process is. Blocks. */
#pragma once

#include "common/files.h"

struct file_ops {
    int fd; /* of the file that is open, or -1 */
    /* Sends one answer's frame; bytes: borrowed for the call. An error ends the stream. */
    int (*answer)(void *owner, const uint8_t *bytes, size_t size);
    void *owner;
    uint8_t buffer[BG_FRAME_SIZE_MAX]; /* an answer is put together here */
};

/* call: the payload of its frame, from the host. Errors: -EPROTO malformed; what answer returned.
 */
int file_ops_call(struct file_ops *ops, const uint8_t *call, size_t size,
                  struct bg_err *err) BG_MUST_CHECK;
