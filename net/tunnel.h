/* The way through a parent proxy: CONNECT on a socket that leads to it, before anything else. Not a
 * byte behind its answer is read: that is the destination's. */
#pragma once

#include <stdbool.h>

#include "common/err.h"
#include "net/buffer.h"
#include "net/destination.h"
#include "net/http_reader.h"

/* A proxy that connections go through. */
struct parent {
    struct destination at;
    char *authorization; /* what the field's value is to be; locked memory; NULL: none */
    size_t authorization_size;
};

struct tunnel {
    struct buffer request; /* of it, what is not sent yet */
    struct http_reader reply;
    char to[DESTINATION_TEXT_SIZE], at[DESTINATION_TEXT_SIZE];
    bool logs_in;
};

/* parent: borrowed for the call. */
void tunnel_init(struct tunnel *tunnel, const struct parent *parent, const struct destination *to);
void tunnel_done(struct tunnel *tunnel); /* a zeroed one: no-op */

/* Goes on; fd: not blocking. Returns 0 when the tunnel stands. Errors: -EAGAIN wait for the socket
 * (see tunnel_wants_write); -ECONNREFUSED the parent refuses, or speaks no HTTP; -ENOMEM. */
int tunnel_step(struct tunnel *tunnel, int fd, struct bg_err *err) BG_MUST_CHECK;

bool tunnel_wants_write(const struct tunnel *tunnel);

/* "Basic ..." for a login "USER:PASSWORD", into a parent. Errors: -EINVAL no colon in it; -ENOMEM.
 */
int parent_set_login(struct parent *parent, const void *login, size_t size,
                     struct bg_err *err) BG_MUST_CHECK;
void parent_done(struct parent *parent);
