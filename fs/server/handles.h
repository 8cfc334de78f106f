/* The server's open files and folders: what handle numbers mean. A handle that is closed while a
 * request uses it lives until that request ends. Thread-safe. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/server/nodes.h"

struct fs_handles;

#define FS_DIR_BUFFER_SIZE (32u * 1024)

struct fs_handle {
    uint64_t id;
    int fd;             /* open for I/O, or for reading the folder */
    struct fs_pin node; /* pinned as long as the handle is open */
    /* Folders only; the lock guards what follows. */
    pthread_mutex_t lock;
    uint8_t *entries; /* FS_DIR_BUFFER_SIZE, from getdents64 */
    size_t entries_at, entries_size;
    int64_t next_offset; /* where the entry at entries_at continues from */

    unsigned refs; /* guarded by the table's lock, as is the next */
    bool closed;
};

/* Errors: -ENOMEM. */
int fs_handles_open(struct fs_nodes *nodes, size_t count_max,
                    struct fs_handles **ret) BG_MUST_CHECK;
/* Closes all. No request may be running. */
void fs_handles_close(struct fs_handles *handles);

/* Takes fd; node gets one more pin. Errors: -ENFILE too many; -ENOMEM. fd is untouched then. */
int fs_handles_add(struct fs_handles *handles, const struct fs_pin *node, int fd,
                   uint64_t *ret_id) BG_MUST_CHECK;

/* The handle with this id, if it is one of this node and a folder or not as asked; NULL otherwise.
 * Until fs_handles_put. */
struct fs_handle *fs_handles_get(struct fs_handles *handles, uint64_t id, uint64_t node,
                                 bool folder);
void fs_handles_put(struct fs_handles *handles, struct fs_handle *handle);

/* Ends the handle: no more gets. The caller still has to put what it got. */
void fs_handles_end(struct fs_handles *handles, struct fs_handle *handle);
