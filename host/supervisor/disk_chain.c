#include "host/supervisor/disk_chain.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

void disk_chain_init(struct disk_chain *chain, size_t count)
{
    assert(count <= QEMU_DISKS_MAX);
    *chain = (struct disk_chain){.count = count};
    for (size_t i = 0; i < count; i++) {
        size_t from_top = count - 1 - i; /* which is how qemu.c counts; its sets begin with 1 */
        (void)snprintf(chain->layers[i].name, DISK_NODE_SIZE, QEMU_DISK_NODE "%zu", from_top);
        chain->layers[i].fd_set = (int64_t)from_top + 1;
    }
    (void)snprintf(chain->base, sizeof chain->base, QEMU_DISK_NODE "%zu", count);
}

void disk_chain_name(struct disk_chain *chain, const char *what, char out[DISK_NODE_SIZE])
{
    (void)snprintf(out, DISK_NODE_SIZE, "%s%u", what, ++chain->named); /* fits */
}

const char *disk_chain_below(const struct disk_chain *chain, size_t index)
{
    assert(index <= chain->count);
    return index > 0 ? chain->layers[index - 1].name : chain->base;
}

static void put(struct disk_node *node, const char *name, int64_t fd_set)
{
    (void)snprintf(node->name, sizeof node->name, "%s", name);
    node->fd_set = fd_set;
}

void disk_chain_push(struct disk_chain *chain, const char *name, int64_t fd_set)
{
    assert(chain->count < QEMU_DISKS_MAX);
    put(&chain->layers[chain->count++], name, fd_set);
}

void disk_chain_replace(struct disk_chain *chain, size_t from, size_t count, const char *name,
                        int64_t fd_set)
{
    assert(count > 0 && from < chain->count && count <= chain->count - from);
    put(&chain->layers[from], name, fd_set);
    memmove(&chain->layers[from + 1], &chain->layers[from + count],
            (chain->count - from - count) * sizeof chain->layers[0]);
    chain->count -= count - 1;
}
