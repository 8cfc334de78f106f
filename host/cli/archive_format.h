/* archive_format: which files an export has, and what each may be (docs/protocol.md, "Exports").
 * Pure. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/state/snapshot.h"

#define ARCHIVE_FORMAT_TEXT "bellglass snapshot 1\n"
#define ARCHIVE_NAME_SIZE   64 /* of an entry */
#define ARCHIVE_ENTRIES_MAX 64

enum archive_part {
    ARCHIVE_FORMAT,   /* "format": the first */
    ARCHIVE_SNAPSHOT, /* "snapshot/FILE", manifest.json and manifest.sha256 first */
    ARCHIVE_GOLDEN,   /* "golden/FILE" */
    ARCHIVE_SUMS,     /* "sums": the last */
};

/* Which part an entry is of, and its file's name there. False for a name that no export has: none
 * that passes leads out of a folder. */
bool archive_split(const char *entry, enum archive_part *ret_part, const char **ret_file);

/* The files of a golden snapshot, NULL-terminated, its manifest first. */
extern const char *const archive_golden_files[];

/* The largest size that a file may have. snapshot: NULL as long as its manifest was not read; then
 * only what comes before it has a size. */
uint64_t archive_size_max(enum archive_part part, const char *file,
                          const struct bg_snapshot *snapshot);

/* True if the snapshot has a file of that name. */
bool archive_has_file(const struct bg_snapshot *snapshot, const char *file);

/* Takes "HEX  NAME\n" lines apart: *at moves behind the line; false at the end, or *ret_bad. */
bool archive_next_sum(const char **at, char hex[65], char name[ARCHIVE_NAME_SIZE], bool *ret_bad);
