/* memory_layer: a file that holds the pages of a guest's RAM that changed since the memory below it
 * was saved, and what a stack of such files means together (docs/protocol.md, "Memory layers").
 *
 *   0            header, one page
 *   4096         data pages, packed, in the order of their place in RAM
 *   table        extents: {u64 ram_page, u64 file_page or MEMORY_ZERO, u32 count, u32 flags = 0}
 *
 * The header is written last, so a layer whose maker died has none. A frozen layer is never written
 * again, and is mapped by every QEMU that stands on it.
 *
 * Also compiled into the library that is loaded into QEMU: only libc and common/ here. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/limits.h"

#define MEMORY_PAGE_SIZE   4096u
#define MEMORY_HEADER_USED 80u /* the rest of the header's page is zero */
#define MEMORY_EXTENT_SIZE 24u
#define MEMORY_ZERO        UINT64_MAX

struct memory_extent {
    uint64_t ram_page;  /* of its first page */
    uint64_t file_page; /* likewise, in the file; or MEMORY_ZERO: zeros, which take no data */
    uint32_t count;     /* pages, > 0 */
};

struct memory_layer {
    int fd; /* borrowed; -1 after memory_layer_parse */
    uint64_t ram_size, data_pages;
    struct memory_extent *extents; /* owned; sorted by ram_page, none overlaps another */
    size_t count;
};

/* What the header says. */
struct memory_head {
    uint64_t ram_size, data_pages, table_offset;
    size_t count;
    uint8_t fields[MEMORY_HEADER_USED]; /* as they stand, for the checksum */
};

/* Reads a header. bytes: the first MEMORY_PAGE_SIZE of a file of file_size bytes, or all of a
 * shorter one. Errors: -EUCLEAN damaged, cut short or never finished, with which. */
int memory_layer_parse_head(const uint8_t *bytes, size_t size, uint64_t file_size,
                            struct memory_head *ret, struct bg_err *err) BG_MUST_CHECK;

/* Reads the table that belongs to a header. bytes: the rest of the file from head->table_offset on.
 * *ret: end with memory_layer_done(). Errors: -EUCLEAN; -ENOMEM. */
int memory_layer_parse(const struct memory_head *head, const uint8_t *bytes, size_t size,
                       struct memory_layer *ret, struct bg_err *err) BG_MUST_CHECK;

/* Reads header and table of an open file, which is borrowed until memory_layer_done().
 * Errors: as above; -EUCLEAN too when it is of a guest whose RAM is not ram_size; errno of read. */
int memory_layer_open(int fd, uint64_t ram_size, struct memory_layer *ret,
                      struct bg_err *err) BG_MUST_CHECK;

void memory_layer_done(struct memory_layer *layer);

/* Writes header or one extent as they stand in the file. */
void memory_layer_put_head(const struct memory_head *head, const uint8_t *table, size_t table_size,
                           uint8_t out[MEMORY_PAGE_SIZE]);
void memory_layer_put_extent(const struct memory_extent *extent, uint8_t out[MEMORY_EXTENT_SIZE]);

/* ---- a stack of layers, seen from above ---- */

struct memory_piece {
    uint64_t ram_page, count;
    uint64_t file_page; /* or MEMORY_ZERO */
    size_t layer;       /* which holds it; 0 for zeros */
};

struct memory_map {
    struct memory_piece *pieces; /* owned; sorted, none overlaps another, neighbours are joined */
    size_t count;
};

/* Where each page comes from that any of the layers has: from the uppermost that has it. layers:
 * bottom to top. *ret: end with memory_map_done(). Errors: -ENOMEM. */
int memory_map_build(const struct memory_layer *layers, size_t count, struct memory_map *ret,
                     struct bg_err *err) BG_MUST_CHECK;

void memory_map_done(struct memory_map *map);
