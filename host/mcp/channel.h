/* channel: stdin and stdout as lines, on the loop, whatever they are: pipes, sockets, a terminal or
 * files. While much is unsent nothing is read: a client that does not take its answers gets no more
 * work done. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <uv.h>

#include "common/err.h"
#include "host/mcp/lines.h"

struct channel;

struct channel_opts {
    int in_fd, out_fd; /* borrowed; closed with the channel if they are no files */
    size_t line_max, unsent_max;
    void (*on_line)(void *owner, const char *line, size_t size);
    /* A line was passed over. */
    void (*on_lost_line)(void *owner, enum lines_event why);
    /* No more comes, or nobody reads what is sent: err says why, NULL: the orderly end. Once. */
    void (*on_end)(void *owner, const struct bg_err *err);
    void *owner;
};

/* Errors: -ENOMEM; errno. */
int channel_open(uv_loop_t *loop, const struct channel_opts *opts, struct channel **ret,
                 struct bg_err *err) BG_MUST_CHECK;
/* line: heap, taken. */
void channel_send(struct channel *channel, char *line);
/* What was sent has not all been taken. */
bool channel_busy(const struct channel *channel);
/* Nothing is called after this; it goes in a later turn. What is unsent is lost. NULL: no-op. */
void channel_close(struct channel *channel);
