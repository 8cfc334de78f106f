/* copy_stream: one copy stream (docs/protocol.md, "Copy"), as the calls that tree_tar wants.
 * Blocking, without deadline: a tree may be large and a disk slow. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "common/limits.h"

struct copy_stream {
    int fd;                      /* the stream, its reply read; borrowed */
    bool ended;                  /* the guest's END has come */
    int32_t status;              /* of it */
    int broken;                  /* the first error, which stays */
    char text[BG_ERR_TEXT_SIZE]; /* of it, escaped */
    uint8_t payload[BG_FRAME_SIZE_MAX];
};

/* heap, since it is large; NULL when memory is out. */
struct copy_stream *copy_stream_new(int fd);

/* The next bytes of the guest's tar stream, borrowed until the next call. Returns their count, 0 at
 * its good end, or a negative errno: -ECANCELED the guest ended it with an error, -EPROTO it broke
 * the protocol, -ECONNRESET it is gone. owner: struct copy_stream. */
ssize_t copy_stream_read(void *owner, const void **ret_bytes);

/* Sends bytes of our tar stream. Errors: -ECANCELED the guest ended it early; as above. */
int copy_stream_write(void *owner, const void *bytes, size_t size);

/* Tells the guest that ours is complete; what it says then is for copy_stream_read. */
int copy_stream_end_write(struct copy_stream *stream) BG_MUST_CHECK;

/* Tells the guest that ours is complete and waits for its END. Errors: as copy_stream_read, but
 * with the guest's text. */
int copy_stream_finish_write(struct copy_stream *stream, struct bg_err *err) BG_MUST_CHECK;

/* Reads on to the guest's END, which must come soon. Errors: likewise. */
int copy_stream_finish_read(struct copy_stream *stream, struct bg_err *err) BG_MUST_CHECK;

/* What r (an error of copy_stream_*) means, with the guest's own words. Returns the errno. */
int copy_stream_explain(const struct copy_stream *stream, int r, struct bg_err *err);
