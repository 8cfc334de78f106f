/* dead_pages: which pages of a stopped guest's RAM its kernel does not use, by the page records
 * that its agent has told of. Does no I/O of its own.
 *
 * All of it is the guest's word. A lie costs the guest the pages that it lies about, in what is
 * made from the snapshot, and nobody else anything: every address is looked up in QEMU's memory
 * table and bounded by the RAM. Nothing runs in the guest meanwhile, so there is no moment between
 * asking and saving in which a free page could be taken into use. */
#pragma once

#include "common/page_records.h"
#include "host/vsock/guest_memory.h"

struct dead_pages_opts {
    const struct bg_page_records *records; /* borrowed, as the others */
    const struct guest_region *regions;    /* as guest_memory_set wants them */
    size_t region_count;
    uint64_t ram_address, ram_size; /* where QEMU has the RAM, in one piece */
    /* Reads size bytes of RAM at offset, which is inside. Errors: negative errno. */
    int (*read)(void *context, uint64_t offset, void *buffer, size_t size);
    void *context;
};

struct dead_pages;

/* *ret: end with dead_pages_free(). Errors: -ENOMEM. */
int dead_pages_new(const struct dead_pages_opts *opts, struct dead_pages **ret,
                   struct bg_err *err) BG_MUST_CHECK;

/* Whether the page of this number in RAM is free. Quick if asked in the order of RAM. What cannot
 * be read is not free. */
bool dead_pages_has(struct dead_pages *dead, uint64_t ram_page);

void dead_pages_free(struct dead_pages *dead); /* NULL: no-op */
