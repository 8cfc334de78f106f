/* guest_memory: the guest's RAM as seen through the vhost-user memory table. Guest addresses are
 * untrusted: each is looked up in the table, and an access that is not wholly inside is an error.
 *
 * QEMU maps the RAM privately (every sandbox is a fork), so there is nothing that we could mmap:
 * bytes are copied in and out of QEMU's own address space with process_vm_readv/writev, at the user
 * addresses of the table. A system call per copy would be too slow: struct guest_copy gathers many
 * and does them in one. The accessor is a parameter: tests use one over a local buffer, and one
 * over a shared mapping would fit.
 *
 * Copies made this way do not go through QEMU's dirty tracking or its translation cache. Both are
 * harmless here: snapshots find dirty pages by pagemap, and nobody runs code in a vsock buffer. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "common/err.h"
#include "common/limits.h"

struct guest_region {
    uint64_t guest_addr, size;
    uint64_t user_addr; /* where QEMU has it */
};

/* How bytes get across. local[i] and remote[i] have one size; remote holds user addresses. All or
 * nothing as far as the caller can know. Errors: negative errno; -EFAULT not mapped there. */
struct guest_memory_access {
    int (*read)(void *context, const struct iovec *local, const struct iovec *remote, size_t count);
    int (*write)(void *context, const struct iovec *local, const struct iovec *remote,
                 size_t count);
    void *context; /* borrowed as long as the memory is used */
};

struct guest_memory {
    struct guest_memory_access access;
    struct guest_region regions[BG_VSOCK_REGIONS_MAX]; /* not empty, no wrap, no overlap */
    size_t region_count;
};

/* The accessor for a process's memory; *pid is borrowed as its context. */
struct guest_memory_access guest_memory_process(pid_t *pid);

/* Replaces the table. An error changes nothing.
 * Errors: -EPROTO too many regions, or one is empty, wraps around or overlaps another. */
int guest_memory_set(struct guest_memory *memory, const struct guest_region *regions, size_t count,
                     struct bg_err *err) BG_MUST_CHECK;

/* True when all of [guest_addr, guest_addr + size) is RAM; it may span regions. */
bool guest_memory_contains(const struct guest_memory *memory, uint64_t guest_addr, uint64_t size);

/* The guest address of QEMU's [user_addr, user_addr + size).
 * Errors: -EFAULT it is not inside one region. */
int guest_memory_from_user(const struct guest_memory *memory, uint64_t user_addr, uint64_t size,
                           uint64_t *ret_guest_addr) BG_MUST_CHECK;

/* Copies that wait to be done together, in the order in which they were added. */
#define GUEST_COPY_PARTS 512 /* 1024 is the kernel's limit (IOV_MAX) */

struct guest_copy {
    const struct guest_memory *memory; /* borrowed */
    bool to_guest;
    size_t count;
    struct iovec local[GUEST_COPY_PARTS], remote[GUEST_COPY_PARTS];
};

void guest_copy_init(struct guest_copy *copy, const struct guest_memory *memory, bool to_guest);

/* Adds one copy; does those that wait when there is no place for it. local: borrowed until
 * guest_copy_run(). Errors: -EFAULT not RAM; of the accessor. After an error nothing waits. */
int guest_copy_add(struct guest_copy *copy, uint64_t guest_addr, void *local,
                   size_t size) BG_MUST_CHECK;

/* Does what waits. Errors: of the accessor; nothing waits then either. */
int guest_copy_run(struct guest_copy *copy) BG_MUST_CHECK;
