/* Moves raw bytes between two connected sockets, both ways, until both directions have ended.
 * Half-closes are passed on; an error on either side resets the other. What one side does not take
 * is bounded by BG_AGENT_PUMP_MAX, then the other is not read. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "common/err.h"

struct pump;

struct pump_opts {
    uv_loop_t *loop;
    int fds[2]; /* taken, also on failure */
    int stream; /* which of them is a stream's connection; pump_park() and so on are about it */
    uint64_t bytes_read, bytes_written; /* of that one so far */
    uint8_t *scratch;                   /* borrowed: used within callbacks only */
    size_t scratch_size;
    void (*on_done)(void *owner); /* both fds are closed; the pump is gone */
    void *owner;                  /* borrowed until on_done */
};

/* Errors: -ENOMEM; those of uv_poll_init. on_done is not called then. */
int pump_open(const struct pump_opts *opts, struct pump **ret_pump,
              struct bg_err *err) BG_MUST_CHECK;

/* Resets both sides; on_done follows. A second call is a no-op. */
void pump_abort(struct pump *pump);

/* See guest/channel.h. The first two return false, and -ENOENT, when the pump is at its end. */
bool pump_park(struct pump *pump);
int pump_counts(const struct pump *pump, uint64_t *ret_read, uint64_t *ret_written) BG_MUST_CHECK;
void pump_swap(struct pump *pump, int fd); /* taken; on an error the pump ends */
void pump_go_on(struct pump *pump);

/* Closes a TCP socket so that its peer gets a reset, not an orderly end. For others a plain close.
 */
void pump_reset_fd(int fd);
