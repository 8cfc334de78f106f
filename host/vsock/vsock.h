/* vsock: a virtio-vsock device (virtio 1.2 §5.10) for one guest, served here over vhost-user, and
 * the connections through it. Loop thread only. The guest and QEMU are untrusted: whatever they do
 * wrong ends this device or one connection of it, never the process.
 *
 * Rules for all calls: no callback is made from inside a function of this header; a callback may
 * call any of them. Bytes are never queued here: vsock_write() copies into guest memory what the
 * guest has room for and says how much that was; what arrives goes to on_data at once and is held
 * against the guest's credit until vsock_consumed(). */
#pragma once

#include <stdbool.h>
#include <sys/types.h>
#include <uv.h>

#include "common/err.h"
#include "common/log.h"
#include "host/vsock/guest_memory.h"

struct vsock_device;
struct vsock_conn;

struct vsock_device_opts {
    int fd; /* our end of the vhost-user socketpair; taken on success */
    /* QEMU's pid: its memory is read and written with process_vm_readv/writev. It must be our child
     * (or we its ptracer by other rights), and the device must be closed before the pid can be
     * reused: at the latest in the callback that learns of QEMU's end. */
    pid_t memory_pid;
    uint64_t guest_cid; /* >= 3 */
    /* Where the ports of our connects begin. A guest that has had another device may hold sockets
     * of that one, and refuses what looks like one of them: give any number. */
    uint32_t first_port;
    const struct bg_log *log; /* borrowed until on_closed; may be NULL */
    /* The guest's driver is up and has given us receive buffers: connects can be tried. Again after
     * each reset and new start of the driver; a mere pause of the VM keeps all connections and does
     * not call this. */
    void (*on_ready)(void *owner);
    /* The guest connects to host_port. Answer with vsock_accept() or vsock_reset(), now or later;
     * conn stays valid until one of them or on_closed, even if the guest gives up meanwhile. */
    void (*on_request)(void *owner, struct vsock_conn *conn, uint32_t host_port);
    /* QEMU hung up, or the guest or QEMU broke the protocol. Every connection has had its on_end.
     * At most once; nothing but vsock_device_close() is useful afterwards. err: borrowed. */
    void (*on_failed)(void *owner, const struct bg_err *err);
    void (*on_closed)(void *owner); /* last callback */
    void *owner;                    /* borrowed until on_closed */
};

/* Serves the device from now on; QEMU blocks in device_add (and at its start) until the loop runs.
 * Errors: -EINVAL fd is no stream socket; -ENOMEM; of libuv. */
int vsock_device_open(uv_loop_t *loop, const struct vsock_device_opts *opts,
                      struct vsock_device **ret_device, struct bg_err *err) BG_MUST_CHECK;

/* Takes device. Later the connections that are left get on_end(-ECONNRESET), then on_closed is
 * called. Once, in any state, also from a callback. NULL: no-op. */
void vsock_device_close(struct vsock_device *device);

/* Whether both rings run. They do not before on_ready, while the VM is paused, and when the guest
 * has unbound its driver: its connections are then as good as dead, and end with the next one. */
bool vsock_driver_is_up(const struct vsock_device *device);

/* What a connection tells its owner. Each may be NULL except on_end. */
struct vsock_conn_ops {
    void (*on_open)(void *owner); /* the guest has accepted our vsock_connect() */
    /* Bytes from the guest: borrowed for the call. At most BG_VSOCK_BUFFER_MAX are outstanding
     * until given back by vsock_consumed(). NULL: they are dropped and given back. */
    void (*on_data)(void *owner, const uint8_t *bytes, size_t size);
    /* There is room again after vsock_write() took less than it was given or vsock_write_room()
     * said 0, or the guest has stopped reading (vsock_write_closed()). */
    void (*on_writable)(void *owner);
    void (*on_eof)(void *owner); /* the guest will send no more */
    /* Gone; conn is invalid from here on. code: 0 closed by both sides, or by the guest as a whole;
     * -ECONNREFUSED our connect was refused; -ECONNRESET reset by the guest, or the driver or the
     * device went away. */
    void (*on_end)(void *owner, int code);
};

/* Asks the guest for a connection to guest_port; on_open or on_end follows. There is no time limit:
 * give up with vsock_reset(). ops, owner: borrowed until on_end or vsock_reset().
 * Errors: -ENOTCONN no driver in the guest yet (wait for on_ready); -EMFILE BG_VSOCK_CONNS_MAX
 * reached; -ENOMEM. */
int vsock_connect(struct vsock_device *device, uint32_t guest_port,
                  const struct vsock_conn_ops *ops, void *owner, struct vsock_conn **ret_conn,
                  struct bg_err *err) BG_MUST_CHECK;

/* Answers a request from on_request with yes. If the guest has given up, on_end follows. */
void vsock_accept(struct vsock_conn *conn, const struct vsock_conn_ops *ops, void *owner);

/* Gives conn to another owner, between two callbacks or in one. Callbacks that have been made are
 * not repeated: see the questions below. */
void vsock_attach(struct vsock_conn *conn, const struct vsock_conn_ops *ops, void *owner);

/* Sends what there is room for and returns how much that was. 0 before on_open. When it is less
 * than size, on_writable follows. */
size_t vsock_write(struct vsock_conn *conn, const uint8_t *bytes, size_t size);

/* How much vsock_write() would take now; when 0, on_writable follows. */
size_t vsock_write_room(struct vsock_conn *conn);

/* How much of what was written the guest has not read, by what it says: nothing that can be relied
 * on but by the guest itself. */
uint32_t vsock_unread(const struct vsock_conn *conn);

/* Counts bytes that the owner holds from another connection against what the guest may send on this
 * one, as if on_data had given them: vsock_consumed() them. Right after vsock_connect(). The guest
 * may send at least `leave` bytes all the same. Returns how many were counted. */
size_t vsock_owe(struct vsock_conn *conn, size_t size, size_t leave);

/* The guest may send size bytes more; size: of bytes that on_data has given. */
void vsock_consumed(struct vsock_conn *conn, size_t size);

/* We send no more: the guest reads end of file after what has been written. When the guest has
 * sent its own, the connection is over and on_end(0) follows. */
void vsock_shutdown(struct vsock_conn *conn);

/* We read no more: the guest's writers get EPIPE. Bytes in flight are dropped. */
void vsock_stop_reading(struct vsock_conn *conn);

/* Ends conn now with a RST; conn is invalid from here on and no callback follows. Also refuses a
 * request from on_request. NULL: no-op. */
void vsock_reset(struct vsock_conn *conn);

bool vsock_is_open(const struct vsock_conn *conn);      /* on_open has been due, or accepted */
bool vsock_at_eof(const struct vsock_conn *conn);       /* on_eof has been due */
bool vsock_write_closed(const struct vsock_conn *conn); /* the guest reads no more: writes vanish */

/* QEMU's address of the guest's RAM, from its first byte on; 0: not told yet. */
uint64_t vsock_ram_address(const struct vsock_device *device);

/* QEMU's memory table: what of the guest's addresses is RAM. Returns the number of regions. */
size_t vsock_ram_regions(const struct vsock_device *device,
                         struct guest_region ret[BG_VSOCK_REGIONS_MAX]);
