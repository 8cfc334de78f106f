/* vhost_user: the back end's side of one vhost-user socket: answers QEMU's messages, keeps the
 * memory table and the two rings' settings, and watches the kick fds. Knows nothing of vsock but
 * its config space. Loop thread only. Whatever is wrong in a message ends this device.
 *
 * A ring is active when QEMU has given its size, addresses and kick fd and it is enabled; it ends
 * with GET_VRING_BASE, a disable, or the socket. A pause of the VM ends and restarts both rings,
 * too; then the base tells where to go on. */
#pragma once

#include <uv.h>

#include "host/vsock/vhost_message.h"

struct vhost_user_ops {
    /* A new table; rings may be active. Borrowed for the call. None of the first three may call
     * anyone who could close us. */
    int (*on_memory)(void *owner, const struct guest_region *regions, size_t count,
                     struct bg_err *err);
    /* The ring has become active; see vhost_user_ring(). An error ends the device. */
    int (*on_start)(void *owner, unsigned index, struct bg_err *err);
    /* It no longer is. Returns the next entry of the available ring to use. */
    uint16_t (*on_stop)(void *owner, unsigned index);
    void (*on_kick)(void *owner, unsigned index); /* last statement of ours: may close us */
    /* Hang-up or error; on_stop has been called for active rings. At most once, then only
     * vhost_user_close() is useful. err: borrowed. Last statement too. */
    void (*on_failed)(void *owner, const struct bg_err *err);
    void (*on_closed)(void *owner);
};

struct vhost_ring {
    uint32_t size;              /* unchecked but for 16 bits; 0: not set */
    uint64_t desc, avail, used; /* QEMU's user addresses, unchecked; desc 0: not set */
    uint16_t base;
    bool enabled, active;
    struct kick *kick;   /* NULL: none */
    int call_fd, err_fd; /* -1: none */
};

struct vhost_user {
    uv_loop_t *loop;
    const struct vhost_user_ops *ops;
    void *owner;
    enum { VHOST_OPEN, VHOST_FAILED, VHOST_CLOSING } state; /* only moves right */
    int fd;
    uv_poll_t socket;
    unsigned open_handles;
    uint64_t guest_cid;
    uint64_t features; /* accepted by the driver */
    uint64_t protocol_features;
    bool has_memory;
    struct vhost_ring rings[VHOST_RINGS];
    /* The message that is coming in. */
    uint8_t in[VHOST_HEADER_SIZE + VHOST_PAYLOAD_MAX];
    size_t in_size;
    struct vhost_header header;
    int fds[BG_VSOCK_REGIONS_MAX];
    size_t fd_count;
};

#define VHOST_F_RING_INDIRECT     (UINT64_C(1) << 28)
#define VHOST_F_RING_EVENT_IDX    (UINT64_C(1) << 29)
#define VHOST_F_PROTOCOL_FEATURES (UINT64_C(1) << 30)
#define VHOST_F_VERSION_1         (UINT64_C(1) << 32)

/* Takes fd on success. ops, owner: borrowed until on_closed; vhost is the owner's memory.
 * Errors: of libuv. */
int vhost_user_open(struct vhost_user *vhost, uv_loop_t *loop, int fd, uint64_t guest_cid,
                    const struct vhost_user_ops *ops, void *owner,
                    struct bg_err *err) BG_MUST_CHECK;

/* Closes all fds; on_closed comes in a later turn, nothing else does. Once. */
void vhost_user_close(struct vhost_user *vhost);

/* Interrupts the guest for ring index. Errors: -EIO the call fd does not take it. */
int vhost_user_call(struct vhost_user *vhost, unsigned index) BG_MUST_CHECK;
