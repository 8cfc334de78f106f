#include "fs/server/handles.h"

#include <assert.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/table.h"

struct slot {
    struct fs_link link;
    struct fs_handle handle;
};

struct fs_handles {
    pthread_mutex_t lock;
    struct fs_table table;
    struct fs_nodes *nodes; /* borrowed */
    uint64_t next_id;
    size_t count_max;
};

int fs_handles_open(struct fs_nodes *nodes, size_t count_max, struct fs_handles **ret)
{
    struct fs_handles *handles = calloc(1, sizeof *handles);
    if (!handles || fs_table_init(&handles->table) < 0) {
        free(handles);
        return -ENOMEM;
    }
    (void)pthread_mutex_init(&handles->lock, NULL); /* cannot fail with these attributes on Linux */
    handles->nodes = nodes;
    handles->next_id = 1;
    handles->count_max = count_max;
    *ret = handles;
    return 0;
}

static void slot_free(struct fs_handles *handles, struct slot *slot)
{
    (void)close(slot->handle.fd); /* FLUSH and FSYNC have reported what there was to report */
    fs_nodes_put(handles->nodes, &slot->handle.node);
    free(slot->handle.entries);
    (void)pthread_mutex_destroy(&slot->handle.lock);
    free(slot);
}

void fs_handles_close(struct fs_handles *handles)
{
    if (!handles)
        return;
    size_t cursor = 0;
    for (struct fs_link *link; (link = fs_table_pop(&handles->table, &cursor));)
        slot_free(handles, FS_LINK_OWNER(link, struct slot, link));
    fs_table_done(&handles->table);
    (void)pthread_mutex_destroy(&handles->lock);
    free(handles);
}

int fs_handles_add(struct fs_handles *handles, const struct fs_pin *node, int fd, uint64_t *ret_id)
{
    struct slot *slot = calloc(1, sizeof *slot);
    if (!slot)
        return -ENOMEM;
    if (node->type == S_IFDIR) {
        slot->handle.entries = malloc(FS_DIR_BUFFER_SIZE);
        if (!slot->handle.entries) {
            free(slot);
            return -ENOMEM;
        }
    }
    (void)pthread_mutex_lock(&handles->lock);
    bool room = handles->table.count < handles->count_max;
    if (room) {
        slot->handle.id = *ret_id = handles->next_id++;
        slot->handle.fd = fd;
        slot->handle.node = fs_nodes_pin_again(handles->nodes, node);
        slot->handle.refs = 1; /* being open */
        (void)pthread_mutex_init(&slot->handle.lock, NULL);
        fs_table_insert(&handles->table, &slot->link,
                        fs_table_hash(&handles->table, slot->handle.id));
    }
    (void)pthread_mutex_unlock(&handles->lock);
    if (!room) {
        free(slot->handle.entries);
        free(slot);
        return -ENFILE;
    }
    return 0;
}

struct fs_handle *fs_handles_get(struct fs_handles *handles, uint64_t id, uint64_t node,
                                 bool folder)
{
    struct fs_handle *found = NULL;
    (void)pthread_mutex_lock(&handles->lock);
    struct fs_link *link = fs_table_first(&handles->table, fs_table_hash(&handles->table, id));
    for (; link && !found; link = fs_table_next(link)) {
        struct fs_handle *handle = &FS_LINK_OWNER(link, struct slot, link)->handle;
        if (handle->id == id && !handle->closed && handle->node.id == node &&
            (handle->node.type == S_IFDIR) == folder)
            found = handle;
    }
    if (found)
        found->refs++;
    (void)pthread_mutex_unlock(&handles->lock);
    return found;
}

void fs_handles_put(struct fs_handles *handles, struct fs_handle *handle)
{
    if (!handle)
        return;
    struct slot *slot = FS_LINK_OWNER(handle, struct slot, handle);
    (void)pthread_mutex_lock(&handles->lock);
    bool last = --handle->refs == 0;
    if (last)
        fs_table_remove(&handles->table, &slot->link);
    (void)pthread_mutex_unlock(&handles->lock);
    if (last)
        slot_free(handles, slot);
}

void fs_handles_end(struct fs_handles *handles, struct fs_handle *handle)
{
    (void)pthread_mutex_lock(&handles->lock);
    if (!handle->closed) {
        handle->closed = true;
        assert(handle->refs > 1); /* open, and got by the caller */
        handle->refs--;
    }
    (void)pthread_mutex_unlock(&handles->lock);
}
