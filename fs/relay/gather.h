/* Write-behind: a WRITE is acknowledged at once, and what is written after it joins it on its way
 * to the server: to its end if it goes on there, else as another piece of the same message, where
 * the server knows those (FS_WRITE_PIECES). Pure, like the relay that it is a part of.
 *
 * A file that is written to has one queue. At most one of its writes is with the server at a time;
 * the others wait behind it, and so does every request that could tell whether they are done
 * (attributes, reads, truncation, locks, copies, FSYNC, FLUSH, RELEASE). So all of it happens in
 * the order in which the kernel asked, however the server runs its requests. A write that others
 * may still join waits a few milliseconds for them.
 *
 * What an acknowledged write fails with later is kept and given to each handle that was open by
 * then: at its next WRITE or FSYNC, once, and at every FLUSH (close) until then. FSYNC and FLUSH
 * wait for everything before them. An answer that never comes is such an error (EIO), as is a
 * server that is stale or gone.
 *
 * No more than BG_FS_GATHER_FILE_MAX of a file and BG_FS_GATHER_MAX in all are acknowledged and not
 * done; above that, writers wait for the server. What is written with O_SYNC, O_DSYNC, O_DIRECT or
 * O_APPEND is never acknowledged early. */
#pragma once

#include "fs/relay/state.h"

/* One file's; hangs on its node, and is freed with it. */
struct fs_gather {
    struct fs_gather *next, *previous; /* among those that have something to do */
    bool listed;
    struct fs_rnode *node;           /* valid while listed: the queue refers to it */
    struct fs_pending *first, *last; /* not sent yet, oldest first */
    struct fs_pending *sent;         /* the write that the server has; NULL */
    size_t bytes;                    /* acknowledged and not done, with what they cost us */
    uint64_t end;                    /* how far such writes reached, lately */
    uint64_t settled; /* requests with a lower number were sent before the last was done */
    unsigned errors;  /* how often a write was lost */
    int error;        /* why, the last time */
};

/* Sends a request that is checked and translated, or lets it wait for its turn, or answers it.
 * pending: taken; has what the kernel said. */
void fs_gather_forward(struct fs_relay *relay, struct fs_request *request,
                       struct fs_pending *pending, uint64_t now_ms);

/* The server's answer to a write of ours; error 0: and how much it wrote. pending is freed by the
 * caller. */
void fs_gather_settled(struct fs_relay *relay, struct fs_pending *pending, int error, uint64_t size,
                       uint64_t now_ms);

/* pending will not be answered, or not be sent: it leaves the queue, and if it was an acknowledged
 * write, that is an error of the file. Sends nothing. */
void fs_gather_lost(struct fs_relay *relay, struct fs_pending *pending, int error);

/* Sends what may be sent by now. Returns in how many ms to come again; UINT64_MAX: no need. */
uint64_t fs_gather_tick(struct fs_relay *relay, uint64_t now_ms);

/* Attributes of node came with the answer to another request (a look-up, a folder's entries), which
 * does not wait for writes: makes them say what the kernel knows already. unique: of the request.
 */
void fs_gather_amend(const struct fs_rnode *node, uint64_t unique, struct fs_reply *reply);

/* True when a write is acknowledged or waiting, and not done. */
bool fs_gather_is_busy(const struct fs_rnode *node);
