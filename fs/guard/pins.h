/* guard/pins: the approved files of one sandbox, in memory: path and bytes, as the host wrote or
 * approved them. Bounded by BG_GUARD_FILES_MAX, BG_GUARD_FILE_MAX and BG_GUARD_BYTES_MAX. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/cleanup.h"
#include "common/err.h"
#include "common/limits.h"
#include "common/sha256.h"

struct fs_pin {
    char *path;     /* absolute, in the sandbox */
    uint8_t *bytes; /* NULL when size is 0 */
    size_t size;
    mode_t mode;    /* 0 .. 0777 */
    uint64_t mtime; /* seconds since 1970 */
    uint64_t ino;   /* as shown; never used twice */
    bool dirty;     /* written to and not committed yet */
    /* git's configuration: the guest's file has more than these bytes since the host wrote it, and
     * this is its SHA-256. */
    bool has_twin;
    uint8_t twin[BG_SHA256_SIZE];
    unsigned writers;
};

struct fs_pins {
    struct fs_pin **all;
    size_t count, bytes;
    uint64_t next_ino;
};

void fs_pins_init(struct fs_pins *pins);
void fs_pins_done(struct fs_pins *pins);

/* NULL: not approved. */
struct fs_pin *fs_pins_find(const struct fs_pins *pins, const char *path);

/* An empty one. path: copied, not there yet. Errors: -ENOSPC, -ENOMEM. */
int fs_pins_add(struct fs_pins *pins, const char *path, struct fs_pin **ret) BG_MUST_CHECK;
void fs_pins_remove(struct fs_pins *pins, struct fs_pin *pin); /* freed */

/* Makes a pin's bytes these, a copy. Errors, which change nothing: -EFBIG, -ENOSPC, -ENOMEM. */
int fs_pins_set(struct fs_pins *pins, struct fs_pin *pin, const uint8_t *bytes,
                size_t size) BG_MUST_CHECK;
/* Cuts, or adds zeros. Errors as above. */
int fs_pins_resize(struct fs_pins *pins, struct fs_pin *pin, uint64_t size) BG_MUST_CHECK;
int fs_pins_write(struct fs_pins *pins, struct fs_pin *pin, uint64_t offset, const uint8_t *bytes,
                  size_t size) BG_MUST_CHECK;

/* Gives it another path, not in use. Errors: -ENOMEM. */
int fs_pins_move(struct fs_pin *pin, const char *path) BG_MUST_CHECK;

/* The first pin directly in folder (an absolute path without "/" at its end; "": the root) whose
 * ino is larger than after. NULL: none. *ret_name: its name, borrowed. */
struct fs_pin *fs_pins_next_in(const struct fs_pins *pins, const char *folder, uint64_t after,
                               const char **ret_name);

/* True if path is folder or below it. */
bool fs_pins_is_below(const char *path, const char *folder);

/* An approval as it is stored and sent: u32 1, u32 mode, u64 mtime, path and bytes each with their
 * u32 size. bytes NULL and size 0 with forget: the path is not approved any more, kind 2. */
struct fs_pin_note {
    bool forget;
    char path[BG_PATH_MAX];
    mode_t mode;
    uint64_t mtime;
    const uint8_t *bytes; /* borrowed */
    size_t size;
};

#define FS_PIN_NOTE_MAX (BG_GUARD_FILE_MAX + BG_PATH_MAX + 32)

/* Parses one whole note of untrusted bytes; the path is canonical. Errors: -EPROTO. */
int fs_pin_note_parse(const uint8_t *bytes, size_t size, struct fs_pin_note *ret,
                      struct bg_err *err) BG_MUST_CHECK;
/* Writes all but the bytes, of which there are size. Returns the size. head: BG_PATH_MAX + 32. */
size_t fs_pin_note_emit(const struct fs_pin_note *note, uint8_t *head);

/* True for an absolute path of good names without "//", "." and "..", not "/". */
bool fs_pin_path_ok(const char *path);
