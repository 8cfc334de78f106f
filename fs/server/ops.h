/* The server's operations: one request in, its reply out. Knows no stream. Thread-safe. */
#pragma once

#include "fs/proto/proto.h"
#include "fs/server/handles.h"
#include "fs/server/locks.h"
#include "fs/server/nodes.h"
#include "fs/server/share.h"

struct fs_ops {
    struct fs_nodes *nodes;
    struct fs_handles *handles;
    struct fs_locks *locks;
    struct fs_share *share; /* NULL: client and folder belong together */
    bool read_only;
    bool whole;       /* the root is that of this machine */
    bool clean_links; /* the client wants links without ".." after a name */
};

#define FS_OPS_OUT_SIZE BG_FS_IO_MAX /* what a reply's data may need */

/* Does what request asks. ret->data points into out. Returns 0, or negative errno for the client,
 * or -EINPROGRESS: the answer comes from the locks' own thread. Not for requests without a reply.
 */
int fs_ops_run(struct fs_ops *ops, const struct fs_request *request, uint8_t out[FS_OPS_OUT_SIZE],
               struct fs_reply *ret) BG_MUST_CHECK;

/* FORGET, BATCH_FORGET and INTERRUPT. */
void fs_ops_run_silent(struct fs_ops *ops, const struct fs_request *request);
