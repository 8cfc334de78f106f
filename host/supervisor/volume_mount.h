/* volume_mount: asks the agent to mount a sandbox's volumes, one after the other (docs/protocol.md,
 * "Volume"). Loop thread only. */
#pragma once

#include "common/err.h"
#include "host/vsock/vsock.h"

struct volume_mount;

struct volume_mount_opts {
    struct vsock_device *device;
    size_t count; /* > 0 */
    /* What is asked for; borrowed until on_done. */
    const char *(*path)(void *owner, size_t index);
    uint32_t (*flags)(void *owner, size_t index); /* BG_VOLUME_... */
    /* Once, the last callback: code 0 when all are mounted. It is freed after it. */
    void (*on_done)(void *owner, const struct bg_err *why);
    void *owner;
};

/* Errors: -ENOMEM; as vsock_connect. */
int volume_mount_open(const struct volume_mount_opts *opts, struct volume_mount **ret,
                      struct bg_err *err) BG_MUST_CHECK;
