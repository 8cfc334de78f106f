/* parking: the streams across a snapshot, which takes the connections away (docs/protocol.md,
 * "Resumption"). At PREPARE all that can outlive its connection is parked: it sends nothing more,
 * and when nothing is just being sent either, the agent may say so. After that each goes on with a
 * connection that the host opens for it, or is dropped at the end. Loop thread only. */
#pragma once

#include "common/wire.h"
#include "guest/agent.h"

/* Errors: errno of eventfd; those of uv_poll_init. */
int parking_open(struct agent *agent, struct bg_err *err) BG_MUST_CHECK;
void parking_close(struct agent *agent);

/* The network process and its socket (taken); it is not there until this, and after its end. */
void parking_network_started(struct agent *agent, int fd);
void parking_network_ended(struct agent *agent);

/* Takes all openings that have come, and parks. Returns whether all is quiet; if not, on_quiet
 * follows. owner: borrowed until then, or parking_forget(). */
bool parking_begin(struct agent *agent, void (*on_quiet)(void *owner), void *owner) BG_MUST_CHECK;
void parking_forget(struct agent *agent, const void *owner);

/* What is still parked goes on with its own connection, or is dropped. */
void parking_end(struct agent *agent, enum bg_go_on how);

/* Drops what is parked, and resets every connection of the network. */
void parking_drop(struct agent *agent);

/* A stream's state has changed that somebody may wait for. */
void parking_changed(struct agent *agent);

/* For streams whose header says RESUME. */
extern const struct stream_kind resume_kind;
