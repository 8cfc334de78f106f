/* Lists of files as one side has them: the host's folder when it was last looked at (the base), the
 * host's folder now, and the guest's layer. Pure, but for reading and writing a list's file. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/changes.h"
#include "common/sha256.h"

struct entry {
    char *path, *target; /* owned; target is "" but for a symlink */
    uint8_t type, flags; /* enum bg_change_type, BG_CHANGE_* */
    uint16_t mode;
    bool has_hash; /* of a file of the guest's: its contents are in the store */
    bool torn;     /* of a file of the guest's: it was written to while it was read */
    uint8_t hash[BG_SHA256_SIZE];
    uint64_t size, mtime_ns, ctime_ns, inode;
};

/* Sorted by path_compare once entries_sort was called; paths are unique then. */
struct entries {
    struct entry *list;
    size_t count, room;
};

/* By components: what is in a folder comes directly after it. */
int path_compare(const char *a, const char *b);

/* True if path is folder or is below it; everything is below "". */
bool path_within(const char *path, const char *folder);

/* Appends a copy. Returns it, or NULL when memory is out. */
struct entry *entries_add(struct entries *entries, const struct bg_change *change);
/* Appends a copy of an entry. Errors: -ENOMEM. */
int entries_copy(struct entries *entries, const struct entry *entry) BG_MUST_CHECK;
/* Of two entries with one path the later one stays. */
void entries_sort(struct entries *entries);
void entries_done(struct entries *entries);

/* NULL: it has no such path. */
struct entry *entries_find(const struct entries *entries, const char *path);

/* Those below path, path itself not among them: from *ret_first up to *ret_end. */
void entries_below(const struct entries *entries, const char *path, size_t *ret_first,
                   size_t *ret_end);

/* The record of an entry. */
void entry_to_change(const struct entry *entry, struct bg_change *ret);

/* True if both are the same file in the same state, as far as can be told without reading it. */
bool entry_same(const struct entry *a, const struct entry *b);

/* A list as the bytes of a file: heap, the caller's. Errors: -ENOMEM. */
int entries_emit(const struct entries *entries, uint8_t **ret, size_t *ret_size) BG_MUST_CHECK;
/* Errors: -EUCLEAN damaged; -ENOMEM. */
int entries_parse(const uint8_t *bytes, size_t size, struct entries *ret) BG_MUST_CHECK;

/* The same with a file. Errors: errno; -EUCLEAN. */
int entries_save(const struct entries *entries, int dir_fd, const char *name,
                 struct bg_err *err) BG_MUST_CHECK;
int entries_load(int dir_fd, const char *name, struct entries *ret,
                 struct bg_err *err) BG_MUST_CHECK;
