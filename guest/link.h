/* link: a worker's stream, which may be cut on purpose and go on with another connection
 * (docs/protocol.md, "Resumption"). Worker and agent share a gate: a page of memory with the
 * stream's counts, in which a closed gate stops writers. The worker blocks in here; several threads
 * may, but only one reads at a time and only one writes. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "common/err.h"

struct gate {
    _Atomic uint32_t state;         /* GATE_ flags, and how many write at this moment */
    _Atomic uint32_t readers;       /* that read at this moment, or wait for bytes */
    _Atomic uint32_t generation;    /* of the connection */
    _Atomic uint32_t shut, ended;   /* the worker sends no more; wants nothing more of the stream */
    _Atomic uint64_t read, written; /* bytes of the stream */
};

/* ---- in the agent ---- */

/* Memory that forks share. read: bytes of the stream that were read so far. NULL: none left. */
struct gate *gate_new(uint64_t read);
void gate_free(struct gate *gate); /* NULL: no-op */

/* From now on nobody begins to write. event_fd of the link becomes readable when the last one who
 * does has ended, and when a reader has noticed that the connection is gone. */
void gate_close(struct gate *gate);
bool gate_is_quiet(const struct gate *gate); /* nobody writes */
/* Lets nobody begin to read either. Returns whether nobody does: then the counts stand. */
bool gate_hold(struct gate *gate);

/* Lets all go on; renewed: a new connection lies in the control socket. */
void gate_open(struct gate *gate, bool renewed);

/* ---- in the worker ---- */

struct link {
    int fd; /* blocking; its number stays the same */
    int control_fd, event_fd;
    struct gate *gate;
    pthread_mutex_t lock;
    _Atomic uint32_t generation; /* of what fd is; changed under lock */
    _Atomic bool stopped;        /* by link_stop() */
};

void link_init(struct link *link, int fd, int control_fd, int event_fd, struct gate *gate);

/* As read(2), but that a cut is waited out: > 0, 0 at the end, or negative errno. */
ssize_t link_read(struct link *link, void *buffer, size_t size) BG_MUST_CHECK;
/* The same without waiting for bytes: -EAGAIN. */
ssize_t link_read_now(struct link *link, void *buffer, size_t size) BG_MUST_CHECK;
/* Exactly size bytes. Errors: -ENODATA at the end before that. */
int link_read_full(struct link *link, void *buffer, size_t size) BG_MUST_CHECK;

/* All of it. */
int link_write(struct link *link, const void *bytes, size_t size) BG_MUST_CHECK;
int link_writev(struct link *link, const struct iovec *parts, int count) BG_MUST_CHECK;
/* As much as the socket takes: > 0, -EAGAIN or another errno. Waits while the gate is closed. */
ssize_t link_write_now(struct link *link, const void *bytes, size_t size) BG_MUST_CHECK;

/* The stream's reply: err->code < 0: why not, with its text. */
int link_reply(struct link *link, const struct bg_err *err) BG_MUST_CHECK;

void link_finish(struct link *link); /* we send no more (shutdown(2)) */
void link_stop(struct link *link);   /* whoever reads gets 0, now and later */
void link_close(struct link *link);  /* the stream is over, though the worker is not */
