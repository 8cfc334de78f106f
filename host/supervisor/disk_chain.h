/* disk_chain: the layers of a disk as QEMU has them open: the names of their block nodes and the
 * sets of fds behind these. It changes as the disk does: a snapshot puts one on top, and flattening
 * one in the place of several. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "host/supervisor/qemu.h"

#define DISK_NODE_SIZE 32

struct disk_chain {
    struct disk_node {
        char name[DISK_NODE_SIZE];
        int64_t fd_set;
    } layers[QEMU_DISKS_MAX]; /* bottom to top */
    size_t count;
    char base[DISK_NODE_SIZE]; /* what is below them: the golden snapshot's disk */
    unsigned named;            /* nodes that were given a name after the start */
};

/* The chain as the command line of qemu.c makes it: count layers, and the golden snapshot's disk
 * below. */
void disk_chain_init(struct disk_chain *chain, size_t count);

/* A name that no node has had: "top7", "flat8". what: one of these words. */
void disk_chain_name(struct disk_chain *chain, const char *what, char out[DISK_NODE_SIZE]);

/* What the layer at index stands on. index: at most count. */
const char *disk_chain_below(const struct disk_chain *chain, size_t index);

/* Another layer on top. name: a node's. */
void disk_chain_push(struct disk_chain *chain, const char *name, int64_t fd_set);

/* The layers [from, from + count) are replaced by one. count: at least 1. */
void disk_chain_replace(struct disk_chain *chain, size_t from, size_t count, const char *name,
                        int64_t fd_set);
