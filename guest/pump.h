/* Moves raw bytes between two connected sockets, both ways, until both directions have ended.
 * Half-closes are passed on; an error on either side resets the other. What one side does not take
 * is bounded by BG_AGENT_PUMP_MAX, then the other is not read. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "common/err.h"

struct pump;

struct pump_opts {
    uv_loop_t *loop;
    int fds[2];       /* taken, also on failure */
    uint8_t *scratch; /* borrowed: used within callbacks only */
    size_t scratch_size;
    void (*on_done)(void *owner); /* both fds are closed; the pump is gone */
    void *owner;                  /* borrowed until on_done */
};

/* Errors: -ENOMEM; those of uv_poll_init. on_done is not called then. */
int pump_open(const struct pump_opts *opts, struct pump **ret_pump,
              struct bg_err *err) BG_MUST_CHECK;

/* Resets both sides; on_done follows. A second call is a no-op. */
void pump_abort(struct pump *pump);

/* Closes a TCP socket so that its peer gets a reset, not an orderly end. For others a plain close.
 */
void pump_reset_fd(int fd);
