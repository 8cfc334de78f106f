/* forward: carries one connection between a TCP client here and a port in a sandbox. Blocks until
 * both ways are over. */
#pragma once

#include <stdbool.h>

#include "common/err.h"

struct forward_opts {
    int client_fd; /* TCP; borrowed */
    int stream_fd; /* the forward stream, its reply read; borrowed */
    /* Asked when the stream has come to an end: true if that was the sandbox's end and not the end
     * of what it had to say. */
    bool (*is_lost)(void *owner);
    void *owner;
};

/* Each way ends by itself, as TCP's do. Errors: -ECONNRESET one of the two is gone: the client is
 * to be reset (forward_reset); -ENOMEM. */
int forward_carry(const struct forward_opts *opts) BG_MUST_CHECK;

/* Has the client see a reset instead of an end when client_fd is closed. */
void forward_reset(int client_fd);
