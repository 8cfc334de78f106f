/* How long the kernel may believe what it was told, and what it must forget when the server says
 * that somebody else has changed the files (fs/proto/change.h). For the relay's own files.
 *
 * Every change gets a number. A request remembers the number at which it was sent: when the node
 * that its answer is about has changed since, the answer may be older than the change, so the
 * kernel may use it once and keep it for no time at all. Otherwise names and attributes are kept
 * for a minute, files' pages and folders' names for as long as nothing changes; the kernel is sent
 * a notice as soon as something does.
 *
 * When changes were lost, here or there, everything counts as changed: caches are short until a
 * walk over all nodes has told the kernel to forget each. Without a feed, and for files that it
 * does not cover, caches are short always. */
#pragma once

#include "fs/relay/state.h"

/* Takes a message about changes. Errors: -EPROTO; what came before the fault counts. */
int fs_changes_take(struct fs_relay *relay, const uint8_t *bytes, size_t size, uint64_t now_ms,
                    struct bg_err *err) BG_MUST_CHECK;

/* Sets how long an answer that has node's attributes is valid, and with folder, its name there. To
 * be called once for each answer, before reply goes to the kernel: it says what has changed. */
void fs_changes_date(struct fs_relay *relay, const struct fs_pending *pending,
                     struct fs_rnode *node, const struct fs_rnode *folder, struct fs_reply *reply);

/* The same for the answer that a name is not there. Returns seconds; 0: it may not be kept. */
uint64_t fs_changes_date_absence(const struct fs_relay *relay, const struct fs_pending *pending);

/* FOPEN_* for the answer to an OPEN or OPENDIR. */
uint64_t fs_changes_open_flags(struct fs_relay *relay, const struct fs_pending *pending,
                               struct fs_rnode *node);

/* Nothing has happened to node since the server opened it for reading, and what the kernel keeps of
 * its contents is good. */
bool fs_changes_is_known(const struct fs_relay *relay, const struct fs_rnode *node);

/* The kernel has been given contents of pending's node, and keeps them. */
void fs_changes_filled(struct fs_relay *relay, const struct fs_pending *pending);

/* The kernel has been told that its WRITE is done. */
void fs_changes_wrote(struct fs_relay *relay, const struct fs_pending *pending);

/* A request of the kernel's that changes a file's contents begins (once sent), and ends. */
void fs_changes_write_begins(struct fs_pending *pending);
void fs_changes_write_ended(const struct fs_relay *relay, const struct fs_pending *pending);

/* The feed has been lost or may have missed something. */
void fs_changes_all(struct fs_relay *relay);
/* Goes on with the walk. Returns whether it must be called again soon. */
bool fs_changes_walk(struct fs_relay *relay, uint64_t now_ms);
