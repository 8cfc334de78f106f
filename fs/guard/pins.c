#include "fs/guard/pins.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/limits.h"

#define INO_FIRST   (1ull << 48) /* far from what file systems number their files */
#define NOTE_PIN    1u
#define NOTE_FORGET 2u
#define NOTE_FIXED  24u /* of a note, without path and bytes */

void fs_pins_init(struct fs_pins *pins)
{
    *pins = (struct fs_pins){.next_ino = INO_FIRST};
}

static void pin_free(struct fs_pin *pin)
{
    free(pin->path);
    free(pin->bytes);
    free(pin);
}

void fs_pins_done(struct fs_pins *pins)
{
    for (size_t i = 0; i < pins->count; i++)
        pin_free(pins->all[i]);
    free(pins->all);
    *pins = (struct fs_pins){0};
}

struct fs_pin *fs_pins_find(const struct fs_pins *pins, const char *path)
{
    for (size_t i = 0; i < pins->count; i++)
        if (strcmp(pins->all[i]->path, path) == 0)
            return pins->all[i];
    return NULL;
}

int fs_pins_add(struct fs_pins *pins, const char *path, struct fs_pin **ret)
{
    if (pins->count >= BG_GUARD_FILES_MAX)
        return -ENOSPC;
    struct fs_pin **grown = reallocarray(pins->all, pins->count + 1, sizeof(struct fs_pin *));
    if (!grown)
        return -ENOMEM;
    pins->all = grown;
    struct fs_pin *pin = calloc(1, sizeof *pin);
    char *copy = strdup(path);
    if (!pin || !copy) {
        free(pin);
        free(copy);
        return -ENOMEM;
    }
    pin->path = copy;
    pin->mode = 0644;
    pin->ino = pins->next_ino++;
    pins->all[pins->count++] = pin;
    *ret = pin;
    return 0;
}

void fs_pins_remove(struct fs_pins *pins, struct fs_pin *pin)
{
    size_t at = 0;
    while (pins->all[at] != pin)
        at++;
    assert(at < pins->count);
    pins->all[at] = pins->all[--pins->count];
    pins->bytes -= pin->size;
    pin_free(pin);
}

static int check_size(const struct fs_pins *pins, const struct fs_pin *pin, uint64_t size)
{
    if (size > BG_GUARD_FILE_MAX)
        return -EFBIG;
    return pins->bytes - pin->size + size > BG_GUARD_BYTES_MAX ? -ENOSPC : 0;
}

int fs_pins_resize(struct fs_pins *pins, struct fs_pin *pin, uint64_t size)
{
    int r = check_size(pins, pin, size);
    if (r < 0)
        return r;
    uint8_t *grown = size == 0 ? NULL : realloc(pin->bytes, (size_t)size);
    if (size > 0 && !grown)
        return -ENOMEM;
    if (size == 0)
        free(pin->bytes);
    else if (size > pin->size)
        memset(grown + pin->size, 0, (size_t)size - pin->size);
    pin->bytes = grown;
    pins->bytes = pins->bytes - pin->size + (size_t)size;
    pin->size = (size_t)size;
    return 0;
}

int fs_pins_write(struct fs_pins *pins, struct fs_pin *pin, uint64_t offset, const uint8_t *bytes,
                  size_t size)
{
    if (offset > BG_GUARD_FILE_MAX || size > BG_GUARD_FILE_MAX)
        return -EFBIG;
    int r = offset + size > pin->size ? fs_pins_resize(pins, pin, offset + size) : 0;
    if (r == 0 && size > 0)
        memcpy(pin->bytes + offset, bytes, size);
    return r;
}

int fs_pins_set(struct fs_pins *pins, struct fs_pin *pin, const uint8_t *bytes, size_t size)
{
    int r = check_size(pins, pin, size);
    if (r < 0)
        return r;
    uint8_t *copy = size == 0 ? NULL : malloc(size);
    if (size > 0 && !copy)
        return -ENOMEM;
    if (size > 0)
        memcpy(copy, bytes, size);
    free(pin->bytes);
    pin->bytes = copy;
    pins->bytes = pins->bytes - pin->size + size;
    pin->size = size;
    return 0;
}

int fs_pins_move(struct fs_pin *pin, const char *path)
{
    char *copy = strdup(path);
    if (!copy)
        return -ENOMEM;
    free(pin->path);
    pin->path = copy;
    return 0;
}

struct fs_pin *fs_pins_next_in(const struct fs_pins *pins, const char *folder, uint64_t after,
                               const char **ret_name)
{
    size_t size = strlen(folder);
    struct fs_pin *next = NULL;
    for (size_t i = 0; i < pins->count; i++) {
        struct fs_pin *pin = pins->all[i];
        if (pin->ino <= after || (next && pin->ino >= next->ino) ||
            strncmp(pin->path, folder, size) != 0 || pin->path[size] != '/' ||
            strchr(pin->path + size + 1, '/'))
            continue;
        next = pin;
        *ret_name = pin->path + size + 1;
    }
    return next;
}

bool fs_pins_is_below(const char *path, const char *folder)
{
    size_t size = strlen(folder);
    return strncmp(path, folder, size) == 0 && (path[size] == '/' || path[size] == '\0');
}

bool fs_pin_path_ok(const char *path)
{
    if (path[0] != '/' || path[1] == '\0' || strlen(path) >= BG_PATH_MAX)
        return false;
    for (const char *p = path; *p != '\0';) {
        size_t size = strcspn(++p, "/"); /* p was at a "/" */
        if (size == 0 || size > BG_FS_NAME_MAX || (size == 1 && p[0] == '.') ||
            (size == 2 && p[0] == '.' && p[1] == '.'))
            return false;
        p += size;
    }
    return true;
}

int fs_pin_note_parse(const uint8_t *bytes, size_t size, struct fs_pin_note *ret,
                      struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct fs_pin_note note = {0};
    uint32_t kind = bg_reader_u32le(&in);
    note.mode = bg_reader_u32le(&in);
    note.mtime = bg_reader_u64le(&in);
    bg_reader_text32le(&in, note.path, sizeof note.path);
    note.bytes = bg_reader_blob32le(&in, BG_GUARD_FILE_MAX, &note.size);
    if (!bg_reader_end(&in) || (kind != NOTE_PIN && kind != NOTE_FORGET) || note.mode > 0777 ||
        (kind == NOTE_FORGET && note.size > 0))
        return bg_err_set(err, -EPROTO, "an approval of %zu bytes that is none", size);
    if (!fs_pin_path_ok(note.path))
        return bg_err_set(err, -EPROTO, "an approval of a path that is none");
    note.forget = kind == NOTE_FORGET;
    *ret = note;
    return 0;
}

size_t fs_pin_note_emit(const struct fs_pin_note *note, uint8_t *head)
{
    struct bg_writer w = bg_writer_init(head, NOTE_FIXED + BG_PATH_MAX);
    bg_writer_u32le(&w, note->forget ? NOTE_FORGET : NOTE_PIN);
    bg_writer_u32le(&w, note->mode);
    bg_writer_u64le(&w, note->mtime);
    bg_writer_text32le(&w, note->path);
    bg_writer_u32le(&w, (uint32_t)note->size);
    assert(bg_writer_ok(&w));
    return w.used;
}
