/* Approvals between the relay and its keeper: over a socket, each a u32 size and a note
 * (fs/guard/pins.h). The relay may have been taken over: the keeper checks what it reads, and never
 * waits for the relay to read. */
#pragma once

#include "fs/guard/pins.h"

struct fs_notes {
    int fd; /* non-blocking for reading; borrowed */
    uint8_t *in;
    size_t in_size;
    uint8_t *out; /* what could not be sent yet */
    size_t out_at, out_size, out_room;
};

/* Errors: -ENOMEM; errno of fcntl. */
int fs_notes_init(struct fs_notes *notes, int fd) BG_MUST_CHECK;
void fs_notes_done(struct fs_notes *notes);

/* Reads what there is. Errors: -EPROTO not notes; -ECONNRESET the other side is gone; what take
 * returns. */
int fs_notes_read(struct fs_notes *notes, int (*take)(void *owner, const struct fs_pin_note *note),
                  void *owner, struct bg_err *err) BG_MUST_CHECK;

/* Sends one, or keeps it to be sent: fs_notes_flush when the fd is writable. Errors: -ENOSPC the
 * other side does not read; -ENOMEM; -EPIPE. */
int fs_notes_send(struct fs_notes *notes, const struct fs_pin_note *note) BG_MUST_CHECK;
int fs_notes_flush(struct fs_notes *notes) BG_MUST_CHECK;
bool fs_notes_waits(const struct fs_notes *notes);
