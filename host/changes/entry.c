#include "host/changes/entry.h"

#include <string.h>

#include "common/checked.h"
#include "common/io.h"

/* A list's file: magic, version, count, the entries, and the digest of all before it. */
#define MAGIC   0x4c434742u /* "BGCL" */
#define VERSION 1u

#define ENTRY_MAX (4 + BG_CHANGE_RECORD_MAX + 2 + BG_SHA256_SIZE)
#define FILE_MAX  (512u << 20) /* a million long names; larger: damaged */

int path_compare(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    /* "/" before everything else but the end. */
    int x = *a == '/' ? 1 : *a ? 2 + (unsigned char)*a : 0;
    int y = *b == '/' ? 1 : *b ? 2 + (unsigned char)*b : 0;
    return x - y;
}

bool path_within(const char *path, const char *folder)
{
    size_t size = strlen(folder);
    return size == 0 ||
           (strncmp(path, folder, size) == 0 && (path[size] == '\0' || path[size] == '/'));
}

static void entry_done(struct entry *entry)
{
    free(entry->path);
    free(entry->target);
}

/* Room for one more; NULL when memory is out. */
static struct entry *grow(struct entries *entries)
{
    if (entries->count == entries->room) {
        size_t room = entries->room ? entries->room * 2 : 64;
        struct entry *grown = reallocarray(entries->list, room, sizeof *grown);
        if (!grown)
            return NULL;
        entries->list = grown;
        entries->room = room;
    }
    return &entries->list[entries->count];
}

struct entry *entries_add(struct entries *entries, const struct bg_change *c)
{
    struct entry *entry = grow(entries);
    if (!entry)
        return NULL;
    *entry = (struct entry){.path = strdup(c->path),
                            .target = strdup(c->target),
                            .type = c->type,
                            .flags = c->flags,
                            .mode = c->mode,
                            .size = c->size,
                            .mtime_ns = c->mtime_ns,
                            .ctime_ns = c->ctime_ns,
                            .inode = c->inode};
    if (!entry->path || !entry->target) {
        entry_done(entry);
        return NULL;
    }
    entries->count++;
    return entry;
}

int entries_copy(struct entries *entries, const struct entry *from)
{
    struct entry *entry = grow(entries);
    if (!entry)
        return -ENOMEM;
    *entry = *from;
    entry->path = strdup(from->path);
    entry->target = strdup(from->target);
    if (!entry->path || !entry->target) {
        entry_done(entry);
        return -ENOMEM;
    }
    entries->count++;
    return 0;
}

static int compare(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return path_compare(x->path, y->path);
}

void entries_sort(struct entries *entries)
{
    if (entries->count < 2)
        return;
    /* glibc's qsort is a merge sort, but does not promise it: with equal paths (a torn file that
     * was read again) any of them may stay, and the identity says later whether it is right. */
    qsort(entries->list, entries->count, sizeof *entries->list, compare);
    size_t kept = 1;
    for (size_t i = 1; i < entries->count; i++) {
        struct entry *last = &entries->list[kept - 1], *next = &entries->list[i];
        if (path_compare(last->path, next->path) == 0) {
            entry_done(last);
            *last = *next;
        } else {
            entries->list[kept++] = *next;
        }
    }
    entries->count = kept;
}

void entries_done(struct entries *entries)
{
    for (size_t i = 0; i < entries->count; i++)
        entry_done(&entries->list[i]);
    free(entries->list);
    *entries = (struct entries){0};
}

/* The index of the first entry that is not before path. */
static size_t lower_bound(const struct entries *entries, const char *path)
{
    size_t low = 0, high = entries->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (path_compare(entries->list[middle].path, path) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct entry *entries_find(const struct entries *entries, const char *path)
{
    size_t at = lower_bound(entries, path);
    return at < entries->count && strcmp(entries->list[at].path, path) == 0 ? &entries->list[at]
                                                                            : NULL;
}

void entries_below(const struct entries *entries, const char *path, size_t *ret_first,
                   size_t *ret_end)
{
    size_t first = lower_bound(entries, path);
    if (first < entries->count && strcmp(entries->list[first].path, path) == 0)
        first++;
    size_t end = first;
    while (end < entries->count && path_within(entries->list[end].path, path))
        end++;
    *ret_first = first;
    *ret_end = end;
}

void entry_to_change(const struct entry *entry, struct bg_change *ret)
{
    *ret = (struct bg_change){.type = entry->type,
                              .flags = entry->flags,
                              .mode = entry->mode,
                              .size = entry->size,
                              .mtime_ns = entry->mtime_ns,
                              .ctime_ns = entry->ctime_ns,
                              .inode = entry->inode};
    /* They came out of a record, or were checked like one. */
    (void)snprintf(ret->path, sizeof ret->path, "%s", entry->path);
    (void)snprintf(ret->target, sizeof ret->target, "%s", entry->target);
}

bool entry_same(const struct entry *a, const struct entry *b)
{
    return a->type == b->type && a->flags == b->flags && a->mode == b->mode && a->size == b->size &&
           a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns && a->inode == b->inode &&
           strcmp(a->target, b->target) == 0;
}

int entries_emit(const struct entries *entries, uint8_t **ret, size_t *ret_size)
{
    size_t room = 12 + BG_SHA256_SIZE;
    for (size_t i = 0; i < entries->count; i++)
        room += ENTRY_MAX - 2 * BG_PATH_MAX + strlen(entries->list[i].path) +
                strlen(entries->list[i].target);
    BG_AUTOFREE uint8_t *bytes = malloc(room);
    BG_AUTOFREE struct bg_change *change = malloc(sizeof *change);
    if (!bytes || !change)
        return -ENOMEM;
    struct bg_writer w = bg_writer_init(bytes, room);
    bg_writer_u32le(&w, MAGIC);
    bg_writer_u32le(&w, VERSION);
    bg_writer_u32le(&w, (uint32_t)entries->count);
    for (size_t i = 0; i < entries->count; i++) {
        const struct entry *entry = &entries->list[i];
        entry_to_change(entry, change);
        bg_change_emit(change, &w);
        bg_writer_u8(&w, entry->has_hash);
        bg_writer_u8(&w, entry->torn);
        bg_writer_bytes(&w, entry->hash, sizeof entry->hash);
    }
    struct bg_sha256 hash;
    uint8_t digest[BG_SHA256_SIZE];
    bg_sha256_init(&hash);
    bg_sha256_update(&hash, bytes, w.used);
    bg_sha256_final(&hash, digest);
    bg_writer_bytes(&w, digest, sizeof digest);
    if (!bg_writer_ok(&w))
        return -EOVERFLOW;
    *ret = BG_TAKE(bytes);
    *ret_size = w.used;
    return 0;
}

static int parse_entry(struct bg_reader *in, struct bg_change *change, struct entries *entries)
{
    size_t size;
    const uint8_t *record = bg_reader_blob32le(in, BG_CHANGE_RECORD_MAX, &size);
    uint8_t has_hash = bg_reader_u8(in), torn = bg_reader_u8(in);
    const uint8_t *hash = bg_reader_bytes(in, BG_SHA256_SIZE);
    if (!record || !hash || has_hash > 1 || torn > 1 ||
        bg_change_parse(record, size, change, NULL) < 0)
        return -EUCLEAN;
    struct entry *entry = entries_add(entries, change);
    if (!entry)
        return -ENOMEM;
    entry->has_hash = has_hash;
    entry->torn = torn;
    memcpy(entry->hash, hash, BG_SHA256_SIZE);
    return 0;
}

int entries_parse(const uint8_t *bytes, size_t size, struct entries *ret)
{
    struct bg_sha256 hash;
    uint8_t digest[BG_SHA256_SIZE];
    if (size < 12 + sizeof digest)
        return -EUCLEAN;
    bg_sha256_init(&hash);
    bg_sha256_update(&hash, bytes, size - sizeof digest);
    bg_sha256_final(&hash, digest);
    if (memcmp(bytes + size - sizeof digest, digest, sizeof digest) != 0)
        return -EUCLEAN;
    BG_AUTOFREE struct bg_change *change = malloc(sizeof *change);
    struct bg_reader in = bg_reader_init(bytes, size - sizeof digest);
    uint32_t magic = bg_reader_u32le(&in), version = bg_reader_u32le(&in);
    uint32_t count = bg_reader_u32le(&in);
    if (!change)
        return -ENOMEM;
    if (magic != MAGIC || version != VERSION || count > BG_CHANGES_INDEX_MAX)
        return -EUCLEAN;
    struct entries entries = {0};
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < count; i++)
        r = parse_entry(&in, change, &entries);
    if (r == 0 && !bg_reader_end(&in))
        r = -EUCLEAN;
    if (r < 0) {
        entries_done(&entries);
        return r;
    }
    entries_sort(&entries);
    *ret = entries;
    return 0;
}

int entries_save(const struct entries *entries, int dir_fd, const char *name, struct bg_err *err)
{
    uint8_t *bytes;
    size_t size;
    int r = entries_emit(entries, &bytes, &size);
    if (r < 0)
        return bg_err_errno(err, r, "%s", name);
    BG_AUTOFREE uint8_t *owned = bytes;
    return bg_write_file(dir_fd, name, owned, size, 0600, err);
}

int entries_load(int dir_fd, const char *name, struct entries *ret, struct bg_err *err)
{
    char *bytes;
    size_t size;
    int r = bg_read_file(dir_fd, name, FILE_MAX, &bytes, &size, err);
    if (r < 0)
        return r;
    BG_AUTOFREE char *owned = bytes;
    r = entries_parse((const uint8_t *)owned, size, ret);
    return r < 0 ? bg_err_errno(err, r, "%s", name) : 0;
}
