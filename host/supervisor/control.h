/* control: the control socket (docs/protocol.md, "Control socket"): one JSON line in, one out; an
 * `open` turns the connection into a stream to the agent. Clients are the user's own programs, but
 * each is bounded and none can hold up another. Loop thread only. */
#pragma once

#include <jansson.h>
#include <uv.h>

#include "common/err.h"
#include "common/log.h"
#include "host/vsock/vsock.h"

struct control;

struct control_opts {
    int listen_fd; /* taken when control_open succeeds */
    unsigned uid;  /* who may connect, beside root */
    const struct bg_log *log;
    /* The device to open streams on, or NULL while the guest is not ready. */
    struct vsock_device *(*vsock)(void *owner);
    json_t *(*status)(void *owner); /* a new object with the fields of the `status` answer */
    /* The guest is to end: after grace_ms at the latest; 0: now. control_stopped() follows. */
    void (*stop)(void *owner, uint64_t grace_ms);
    void (*reload)(void *owner); /* a new proxy is to take over; the status tells its pid */
    /* A snapshot is wanted: request is the client's JSON. control_snapshot_done() follows on 0. */
    int (*snapshot)(void *owner, const char *request, size_t size, struct bg_err *err);
    /* The disk is to be flattened. control_flat_done() follows on 0. */
    int (*flatten)(void *owner, struct bg_err *err);
    uint32_t next_stream;            /* id of the first one; 0: the usual */
    void (*on_parked)(void *owner);  /* see below; NULL if it is never parked */
    void (*on_resumed)(void *owner); /* likewise */
    void (*on_closed)(void *owner);
    void *owner;
};

int control_open(uv_loop_t *loop, const struct control_opts *opts, struct control **ret,
                 struct bg_err *err) BG_MUST_CHECK;

/* Answers everyone who waits for the end. */
void control_stopped(struct control *control, bool clean);

/* Answers the client that waits for the snapshot. answer: taken. */
void control_snapshot_done(struct control *control, json_t *answer);

/* Answers the clients that wait for the disk to be flat. answer: taken. */
void control_flat_done(struct control *control, json_t *answer);

/* The id that the next stream will have. */
uint32_t control_next_stream(const struct control *control);

/* Streams that are open. */
size_t control_streams(const struct control *control);

/* A number that grows with what is carried on them. */
uint64_t control_bytes(const struct control *control);

/* A snapshot takes the device away for a while (docs/protocol.md, "Resumption"). Requests are taken
 * as ever, but what is to be opened waits. In this order:
 *
 * control_park: no stream sends anything more. Returns whether that holds already; if not,
 * on_parked follows. While a guest does not read an opening it does not come: give up then.
 * control_resume: all streams get connections of this device. Returns whether none is left to wait
 * for; if not, on_resumed follows. Left out when the device was not taken away.
 * control_go_on: what was not resumed goes on with the connection that it has, or ends without one;
 * what waited is opened. */
bool control_park(struct control *control);
bool control_resume(struct control *control, struct vsock_device *device);
void control_go_on(struct control *control);

/* What streams still have for their clients is dropped: some do not read. */
void control_cut(struct control *control);

/* Ends all clients; on_closed later. NULL: no-op. */
void control_close(struct control *control);
