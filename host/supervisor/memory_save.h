/* memory_save: writes memory layers (memory_layer.h): one from the RAM of a stopped QEMU, or one in
 * place of several.
 *
 * What a fork has written is what its mapping no longer shares with a file: the pages that pagemap
 * shows as present or swapped and not as a file's. QEMU's own view of its RAM is the truth in every
 * case, so contents always come from there, also of pages that lower layers hold.
 *
 * Takes no system calls but process_vm_readv, ioctl and pread64 (pagemap), pread64, pwrite64,
 * fallocate, lseek, ftruncate, clock_gettime and those of malloc: it runs inside the supervisor's
 * filter, which can open nothing. The VM is paused meanwhile. */
#pragma once

#include <sys/types.h>

#include "host/supervisor/dead_pages.h"
#include "host/supervisor/memory_layer.h"

struct memory_save_opts {
    /* A fork: where its RAM is, and /proc/PID/pagemap, opened before by the same process or one
     * that may look into QEMU. */
    pid_t qemu_pid;
    uint64_t ram_address; /* in QEMU; the RAM is one contiguous mapping */
    int pagemap_fd;
    /* A guest that was booted cold in shared memory: that file; else -1. Such a guest stands on
     * zeros, and of the above nothing is used. */
    int shared_fd;
    uint64_t ram_size;
    int out_fd; /* for reading and writing; its content is replaced */
    /* Layers that the new one replaces: the pages that any of them has are written too. They are
     * the upper ones of what the guest stands on. Only their tables are used. */
    const struct memory_layer *fold;
    size_t fold_count;
    /* The layers right below the new one, bottom to top, with their fds: pages whose content is
     * already there are left out. What a guest has written it has for good, so a second snapshot
     * names the layer of the first here. May be fewer than there are (none: all is written), but
     * the uppermost must be among them. */
    const struct memory_layer *previous;
    size_t previous_count;
    /* Where the guest's kernel has its page records, and which of its addresses are RAM: dirty
     * pages that are free by them become zeros, and are not read. NULL: not known. */
    const struct bg_page_records *records;
    const struct guest_region *regions;
    size_t region_count;
    size_t extents_max; /* 0: BG_MEMORY_EXTENTS_MAX; at half of it clean pages fill the gaps */
};

struct memory_save_stats {
    uint64_t dirty_pages;            /* that the guest has written, and those of folded layers */
    uint64_t dead_pages;             /* of these: free, and left out */
    uint64_t zero_pages, same_pages; /* of the others: all zero; left out since previous has them */
    uint64_t filled_pages;           /* clean ones written to save extents */
    uint64_t written_bytes;          /* size of the file */
    uint64_t extents;
    uint64_t scan_us, copy_us; /* finding the pages; copying them */
};

/* Writes the layer; it is complete, but not synced, when this returns 0. After an error out_fd is
 * empty. Errors: -ENOSPC, -EFBIG, -EIO and others of writing; -ESRCH QEMU is gone; -EPERM it may
 * not be looked into; -EFAULT the RAM is not there; -ENOMEM. */
int memory_save(const struct memory_save_opts *opts, struct memory_save_stats *ret,
                struct bg_err *err) BG_MUST_CHECK;

#define MEMORY_FLATTEN_MAX 64u

/* Writes one layer that means what those in fds mean together. fds: bottom to top, at most
 * MEMORY_FLATTEN_MAX, read only. No guest needs to run. Errors: as above; -EUCLEAN: a layer is
 * damaged, the text says which of them. */
int memory_flatten(const int *fds, size_t count, uint64_t ram_size, int out_fd,
                   struct memory_save_stats *ret, struct bg_err *err) BG_MUST_CHECK;
