/* A device with a fake QEMU and guest at its other end, and a record of its callbacks. */
#pragma once

#include "host/vsock/vsock_device.h"
#include "tests/lib/vhost_front.h"

#define FIXTURE_CONNS 8

/* One connection as its owner sees it. */
struct peer {
    struct fixture *fixture;
    struct vsock_conn *conn; /* NULL after on_end */
    uint8_t *data;           /* what came: FRONT_MEMORY bytes of room */
    size_t size;             /* of it */
    size_t written;          /* in on_writable */
    int opens, eofs, ends, writables;
    int end_code;
    bool hold;         /* give no credit back */
    bool reset_on_eof; /* in the callback */
    bool write_when_writable;
};

struct fixture {
    uv_loop_t loop;
    struct vhost_front front;
    struct vsock_device *device;
    int readies, failures, closes;
    struct bg_err failure;
    struct vsock_conn *requests[FIXTURE_CONNS];
    uint32_t request_ports[FIXTURE_CONNS];
    int request_count;
    bool accept; /* requests at once, as peers[request_count] */
    bool close_on_request;
    struct peer peers[FIXTURE_CONNS];
};

extern const struct vsock_conn_ops peer_ops;

/* cmocka set-ups. The first only opens the device; the second also starts the driver with
 * FRONT_FEATURES and 4 KiB receive buffers. The tear-down closes what is open and asserts that the
 * loop is empty and no fd is left. */
int fixture_open(void **state);
int fixture_start(void **state);
int fixture_close(void **state);

/* A packet of the guest, from guest_port to host_port, with credit for 1 MiB. */
struct vsock_packet guest_packet(uint16_t op, uint32_t guest_port, uint32_t host_port);
void guest_sends(struct fixture *f, const struct vsock_packet *p, const void *payload);
/* guest_packet and guest_sends, then settles. */
void guest_says(struct fixture *f, uint16_t op, uint32_t guest_port, uint32_t host_port);
/* Awaits one packet, asserts its op; payload may be NULL. */
struct vsock_packet guest_gets(struct fixture *f, uint16_t op, uint8_t *payload);
/* Asserts that the guest has been sent nothing. */
void guest_gets_nothing(struct fixture *f);

/* vsock_connect as peers[index] to guest_port, answered by the guest. Returns the host's port. */
uint32_t open_conn(struct fixture *f, size_t index, uint32_t guest_port);
