/* disk_stream: the supervisor's end of the disk stream of a helper's guest (docs/protocol.md,
 * "Disk"). Loop thread only. */
#pragma once

#include "common/err.h"
#include "host/vsock/vsock.h"

struct disk_stream;

struct disk_stream_opts {
    struct vsock_device *device;
    uint32_t flags; /* BG_DISK_... */
    const char *serial;
    void (*on_mounted)(void *owner);
    /* Once, the last callback: code 0 when all is written back and found in order, after
     * disk_stream_finish(). The stream is freed after it. */
    void (*on_ended)(void *owner, const struct bg_err *why);
    void *owner;
};

/* Asks the agent to mount the disk. Errors: -ENOMEM; as vsock_connect. */
int disk_stream_open(const struct disk_stream_opts *opts, struct disk_stream **ret,
                     struct bg_err *err) BG_MUST_CHECK;

/* Asks it to unmount the disk, once. */
void disk_stream_finish(struct disk_stream *stream);
