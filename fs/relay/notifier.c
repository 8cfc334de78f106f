#include "fs/relay/notifier.h"

#include <assert.h>
#include <errno.h>
#include <linux/close_range.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/limits.h"

#define NOTIFY_INC_EPOCH 8 /* FUSE_NOTIFY_INC_EPOCH of protocol 7.44, which our header lacks */
#define MESSAGE_MAX      (16u + 24u + BG_FS_NAME_MAX + 1u)

struct queued {
    struct fs_notice notice;
    char name[BG_FS_NAME_MAX];
};

struct fs_notifier {
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t moved; /* something was queued, or the thread is up */
    enum { NOTIFIER_NEW, NOTIFIER_RUNS, NOTIFIER_ENDS, NOTIFIER_ENDED } state;
    size_t first, count;
    struct queued queue[BG_FS_NOTICES_MAX];

    int fuse_fd;
    pthread_t thread;
};

int fs_notifier_new(struct fs_notifier **ret)
{
    struct fs_notifier *notifier = calloc(1, sizeof *notifier);
    if (!notifier)
        return -ENOMEM;
    (void)pthread_mutex_init(&notifier->lock, NULL); /* neither can fail with these attributes */
    (void)pthread_cond_init(&notifier->moved, NULL);
    *ret = notifier;
    return 0;
}

static void emit(const struct fs_notice *notice, struct bg_writer *w)
{
    int32_t code = notice->all_names ? NOTIFY_INC_EPOCH
                   : notice->name    ? FUSE_NOTIFY_INVAL_ENTRY
                                     : FUSE_NOTIFY_INVAL_INODE;
    bg_writer_u32le(w, 0); /* the size, below */
    bg_writer_u32le(w, (uint32_t)code);
    bg_writer_u64le(w, 0);
    if (notice->name) { /* struct fuse_notify_inval_entry_out */
        bg_writer_u64le(w, notice->node);
        bg_writer_u32le(w, (uint32_t)notice->name_size);
        bg_writer_u32le(w, 0);
        bg_writer_bytes(w, notice->name, notice->name_size);
        bg_writer_u8(w, 0);
    } else if (!notice->all_names) { /* struct fuse_notify_inval_inode_out */
        bg_writer_u64le(w, notice->node);
        bg_writer_u64le(w, notice->contents ? 0 : UINT64_MAX); /* offset; negative: no pages */
        bg_writer_u64le(w, 0);                                 /* size; 0: to the end */
    }
    assert(bg_writer_ok(w));
    struct bg_writer head = bg_writer_init(w->start, 4);
    bg_writer_u32le(&head, (uint32_t)w->used);
}

static void *run(void *arg)
{
    struct fs_notifier *notifier = arg;
    /* Linux 5.9, as openat2. What fails here fails again in main, or leaves fds that are harmless.
     */
    if (notifier->fuse_fd > 0)
        (void)close_range(0, (unsigned)notifier->fuse_fd - 1, CLOSE_RANGE_UNSHARE);
    (void)close_range((unsigned)notifier->fuse_fd + 1, ~0u, CLOSE_RANGE_UNSHARE);
    (void)pthread_mutex_lock(&notifier->lock);
    notifier->state = NOTIFIER_RUNS;
    (void)pthread_cond_broadcast(&notifier->moved);
    while (notifier->state == NOTIFIER_RUNS) {
        if (notifier->count == 0) {
            (void)pthread_cond_wait(&notifier->moved, &notifier->lock);
            continue;
        }
        uint8_t bytes[MESSAGE_MAX];
        struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
        emit(&notifier->queue[notifier->first].notice, &w);
        notifier->first = (notifier->first + 1) % BG_FS_NOTICES_MAX;
        notifier->count--;
        (void)pthread_mutex_unlock(&notifier->lock);
        /* ENOENT: the kernel does not have it. EINVAL: it does not know this kind, which the relay
         * has allowed for. ENODEV: unmounted, which main sees too. */
        ssize_t n = write(notifier->fuse_fd, bytes, w.used);
        (void)n;
        (void)pthread_mutex_lock(&notifier->lock);
    }
    notifier->state = NOTIFIER_ENDED;
    (void)pthread_mutex_unlock(&notifier->lock);
    return NULL;
}

int fs_notifier_start(struct fs_notifier *notifier, int fuse_fd)
{
    notifier->fuse_fd = fuse_fd;
    int r = -pthread_create(&notifier->thread, NULL, run, notifier);
    if (r < 0)
        return r;
    (void)pthread_mutex_lock(&notifier->lock);
    while (notifier->state == NOTIFIER_NEW)
        (void)pthread_cond_wait(&notifier->moved, &notifier->lock);
    (void)pthread_mutex_unlock(&notifier->lock);
    return 0;
}

bool fs_notifier_push(struct fs_notifier *notifier, const struct fs_notice *notice)
{
    (void)pthread_mutex_lock(&notifier->lock);
    bool room = notifier->count < BG_FS_NOTICES_MAX;
    if (room) {
        size_t at = (notifier->first + notifier->count++) % BG_FS_NOTICES_MAX;
        struct queued *queued = &notifier->queue[at];
        queued->notice = *notice;
        if (notice->name) {
            memcpy(queued->name, notice->name, notice->name_size);
            queued->notice.name = queued->name;
        }
        (void)pthread_cond_signal(&notifier->moved);
    }
    (void)pthread_mutex_unlock(&notifier->lock);
    return room;
}

bool fs_notifier_stop(struct fs_notifier *notifier)
{
    (void)pthread_mutex_lock(&notifier->lock);
    if (notifier->state == NOTIFIER_RUNS)
        notifier->state = NOTIFIER_ENDS;
    bool ended = notifier->state != NOTIFIER_ENDS;
    (void)pthread_cond_signal(&notifier->moved);
    (void)pthread_mutex_unlock(&notifier->lock);
    return ended;
}

void fs_notifier_free(struct fs_notifier *notifier)
{
    if (!notifier)
        return;
    if (notifier->state == NOTIFIER_ENDED)
        (void)pthread_join(notifier->thread, NULL);
    (void)pthread_cond_destroy(&notifier->moved);
    (void)pthread_mutex_destroy(&notifier->lock);
    free(notifier);
}
