#include "host/vsock/guest_memory.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

static size_t total_size(const struct iovec *parts, size_t count)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += parts[i].iov_len;
    return total;
}

static int process_result(ssize_t n, size_t wanted)
{
    if (n < 0)
        return -errno;
    /* The kernel stops short at the first page that is not there. */
    return (size_t)n == wanted ? 0 : -EFAULT;
}

static int process_read(void *context, const struct iovec *local, const struct iovec *remote,
                        size_t count)
{
    const pid_t *pid = context;
    return process_result(process_vm_readv(*pid, local, count, remote, count, 0),
                          total_size(local, count));
}

static int process_write(void *context, const struct iovec *local, const struct iovec *remote,
                         size_t count)
{
    const pid_t *pid = context;
    return process_result(process_vm_writev(*pid, local, count, remote, count, 0),
                          total_size(local, count));
}

struct guest_memory_access guest_memory_process(pid_t *pid)
{
    return (struct guest_memory_access){
        .read = process_read, .write = process_write, .context = pid};
}

static bool wraps(uint64_t start, uint64_t size)
{
    return size > UINT64_MAX - start;
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b ? b - a < a_size : a - b < b_size;
}

int guest_memory_set(struct guest_memory *memory, const struct guest_region *regions, size_t count,
                     struct bg_err *err)
{
    if (count > BG_VSOCK_REGIONS_MAX)
        return bg_err_set(err, -EPROTO, "memory table of %zu regions: at most %d", count,
                          BG_VSOCK_REGIONS_MAX);
    for (size_t i = 0; i < count; i++) {
        const struct guest_region *r = &regions[i];
        if (r->size == 0 || wraps(r->guest_addr, r->size) || wraps(r->user_addr, r->size))
            return bg_err_set(err, -EPROTO,
                              "memory region %zu (guest 0x%" PRIx64 ", size 0x%" PRIx64
                              ") is empty or wraps around",
                              i, r->guest_addr, r->size);
        for (size_t j = 0; j < i; j++) {
            if (overlap(r->guest_addr, r->size, regions[j].guest_addr, regions[j].size))
                return bg_err_set(err, -EPROTO, "memory regions %zu and %zu overlap", j, i);
        }
    }
    if (count > 0)
        memcpy(memory->regions, regions, count * sizeof regions[0]);
    memory->region_count = count;
    return 0;
}

/* The region that holds guest_addr, or NULL. */
static const struct guest_region *find(const struct guest_memory *memory, uint64_t guest_addr)
{
    for (size_t i = 0; i < memory->region_count; i++) {
        const struct guest_region *r = &memory->regions[i];
        if (guest_addr >= r->guest_addr && guest_addr - r->guest_addr < r->size)
            return r;
    }
    return NULL;
}

bool guest_memory_contains(const struct guest_memory *memory, uint64_t guest_addr, uint64_t size)
{
    while (size > 0) {
        const struct guest_region *r = find(memory, guest_addr);
        if (!r)
            return false;
        uint64_t here = r->size - (guest_addr - r->guest_addr);
        if (size <= here)
            return true;
        size -= here;
        guest_addr += here; /* cannot wrap: regions do not */
    }
    return true;
}

int guest_memory_from_user(const struct guest_memory *memory, uint64_t user_addr, uint64_t size,
                           uint64_t *ret_guest_addr)
{
    for (size_t i = 0; i < memory->region_count; i++) {
        const struct guest_region *r = &memory->regions[i];
        if (user_addr < r->user_addr || user_addr - r->user_addr >= r->size)
            continue;
        uint64_t offset = user_addr - r->user_addr;
        if (size > r->size - offset)
            continue;
        *ret_guest_addr = r->guest_addr + offset;
        return 0;
    }
    return -EFAULT;
}

void guest_copy_init(struct guest_copy *copy, const struct guest_memory *memory, bool to_guest)
{
    copy->memory = memory;
    copy->to_guest = to_guest;
    copy->count = 0;
}

static int add_part(struct guest_copy *copy, uint64_t user_addr, void *local, size_t size)
{
    if (copy->count == GUEST_COPY_PARTS) {
        int r = guest_copy_run(copy);
        if (r < 0)
            return r;
    }
    copy->local[copy->count] = (struct iovec){.iov_base = local, .iov_len = size};
    /* An address in QEMU, never dereferenced here. NOLINTNEXTLINE(performance-no-int-to-ptr) */
    void *remote = (void *)(uintptr_t)user_addr;
    copy->remote[copy->count] = (struct iovec){.iov_base = remote, .iov_len = size};
    copy->count++;
    return 0;
}

int guest_copy_add(struct guest_copy *copy, uint64_t guest_addr, void *local, size_t size)
{
    uint8_t *at = local;
    while (size > 0) {
        const struct guest_region *r = find(copy->memory, guest_addr);
        if (!r) {
            copy->count = 0;
            return -EFAULT;
        }
        uint64_t offset = guest_addr - r->guest_addr;
        size_t here = r->size - offset < size ? (size_t)(r->size - offset) : size;
        int result = add_part(copy, r->user_addr + offset, at, here);
        if (result < 0)
            return result;
        at += here;
        guest_addr += here;
        size -= here;
    }
    return 0;
}

int guest_copy_run(struct guest_copy *copy)
{
    if (copy->count == 0)
        return 0;
    const struct guest_memory_access *a = &copy->memory->access;
    size_t count = copy->count;
    copy->count = 0;
    return copy->to_guest ? a->write(a->context, copy->local, copy->remote, count)
                          : a->read(a->context, copy->local, copy->remote, count);
}
