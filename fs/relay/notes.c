#include "fs/relay/notes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/limits.h"

#define IN_SIZE (FS_PIN_NOTE_MAX + 4)
#define OUT_MAX (2 * BG_GUARD_BYTES_MAX) /* a whole store, and as much again on its way */

int fs_notes_init(struct fs_notes *notes, int fd)
{
    int flags = fcntl(fd, F_GETFL);
    *notes = (struct fs_notes){.fd = fd};
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    notes->in = malloc(IN_SIZE);
    return notes->in ? 0 : -ENOMEM;
}

void fs_notes_done(struct fs_notes *notes)
{
    free(notes->in);
    free(notes->out);
    *notes = (struct fs_notes){.fd = -1};
}

/* Hands on the whole ones that have come. */
static int take_all(struct fs_notes *notes,
                    int (*take)(void *owner, const struct fs_pin_note *note), void *owner,
                    struct bg_err *err)
{
    size_t at = 0;
    int r = 0;
    while (r == 0 && notes->in_size - at >= 4) {
        struct bg_reader in = bg_reader_init(notes->in + at, notes->in_size - at);
        size_t size = bg_reader_u32le(&in);
        if (size > FS_PIN_NOTE_MAX)
            return bg_err_set(err, -EPROTO, "an approval of %zu bytes", size);
        if (in.left < size)
            break;
        struct fs_pin_note note;
        r = fs_pin_note_parse(in.at, size, &note, err);
        if (r == 0) {
            r = take(owner, &note);
            if (r < 0)
                (void)bg_err_errno(err, r, "an approval");
        }
        at += 4 + size;
    }
    memmove(notes->in, notes->in + at, notes->in_size - at);
    notes->in_size -= at;
    return r;
}

int fs_notes_read(struct fs_notes *notes, int (*take)(void *owner, const struct fs_pin_note *note),
                  void *owner, struct bg_err *err)
{
    for (;;) {
        ssize_t n = read(notes->fd, notes->in + notes->in_size, IN_SIZE - notes->in_size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n <= 0)
            return bg_err_errno(err, n < 0 ? -errno : -ECONNRESET, "approvals");
        notes->in_size += (size_t)n;
        int r = take_all(notes, take, owner, err);
        if (r < 0)
            return r;
    }
}

bool fs_notes_waits(const struct fs_notes *notes)
{
    return notes->out_size > notes->out_at;
}

int fs_notes_flush(struct fs_notes *notes)
{
    while (fs_notes_waits(notes)) {
        ssize_t n = write(notes->fd, notes->out + notes->out_at, notes->out_size - notes->out_at);
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
        notes->out_at += n > 0 ? (size_t)n : 0;
    }
    free(notes->out);
    notes->out = NULL;
    notes->out_at = notes->out_size = notes->out_room = 0;
    return 0;
}

int fs_notes_send(struct fs_notes *notes, const struct fs_pin_note *note)
{
    uint8_t head[BG_PATH_MAX + 36];
    size_t size = fs_pin_note_emit(note, head + 4);
    struct bg_writer w = bg_writer_init(head, 4);
    bg_writer_u32le(&w, (uint32_t)(size + note->size));
    size += 4;
    size_t need = notes->out_size + size + note->size;
    if (need > OUT_MAX + IN_SIZE)
        return -ENOSPC;
    if (need > notes->out_room) {
        uint8_t *grown = realloc(notes->out, need);
        if (!grown)
            return -ENOMEM;
        notes->out = grown;
        notes->out_room = need;
    }
    memcpy(notes->out + notes->out_size, head, size);
    if (note->size > 0)
        memcpy(notes->out + notes->out_size + size, note->bytes, note->size);
    notes->out_size = need;
    return fs_notes_flush(notes);
}
