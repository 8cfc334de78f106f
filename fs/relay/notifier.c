#include "fs/relay/notifier.h"

#include <assert.h>
#include <errno.h>
#include <linux/close_range.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/io.h"
#include "common/limits.h"

#define NOTIFY_INC_EPOCH 8 /* FUSE_NOTIFY_INC_EPOCH of protocol 7.44, which our header lacks */
#define MESSAGE_MAX      (16u + 24u + BG_FS_NAME_MAX + 1u)
/* A node that the kernel does not know is told of again: after this long, then twice as long, up to
 * that; until it has nothing left that it could still believe (changes.h). */
#define AGAIN_FIRST_MS 1u
#define AGAIN_MAX_MS   1000u
#define AGAIN_END_MS   60000u

struct queued {
    struct fs_notice notice;
    char name[BG_FS_NAME_MAX];
};

/* What the kernel did not know a node for. */
struct missed {
    struct fs_notice notice; /* of a node, without a name */
    uint64_t since_ms, next_ms, pause_ms;
};

struct fs_notifier {
    /* The thread's own. */
    struct missed missed[BG_FS_NOTICES_MISSED_MAX];
    size_t missed_count;

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
    pthread_condattr_t clock;
    (void)pthread_mutex_init(&notifier->lock, NULL); /* none can fail with these attributes */
    (void)pthread_condattr_init(&clock);
    (void)pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&notifier->moved, &clock);
    (void)pthread_condattr_destroy(&clock);
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

/* Returns false when the kernel does not know the node. */
static bool tell(const struct fs_notifier *notifier, const struct fs_notice *notice)
{
    uint8_t bytes[MESSAGE_MAX];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    emit(notice, &w);
    /* EINVAL: it does not know this kind, which the relay has allowed for. ENODEV: unmounted, which
     * main sees too. */
    return write(notifier->fuse_fd, bytes, w.used) >= 0 || errno != ENOENT;
}

/* Where a node is, or may be put: none free, the oldest's. */
static struct missed *place_for(struct fs_notifier *notifier, uint64_t node)
{
    struct missed *oldest = notifier->missed;
    for (size_t i = 0; i < notifier->missed_count; i++) {
        struct missed *missed = &notifier->missed[i];
        if (missed->notice.node == node)
            return missed;
        if (missed->since_ms < oldest->since_ms)
            oldest = missed;
    }
    if (notifier->missed_count == BG_FS_NOTICES_MISSED_MAX)
        return oldest;
    struct missed *place = &notifier->missed[notifier->missed_count++];
    *place = (struct missed){0};
    return place;
}

static void miss(struct fs_notifier *notifier, const struct fs_notice *notice, uint64_t now_ms)
{
    struct missed *place = place_for(notifier, notice->node);
    bool contents =
        notice->contents || (place->notice.node == notice->node && place->notice.contents);
    *place = (struct missed){.notice = {.node = notice->node, .contents = contents},
                             .since_ms = now_ms,
                             .next_ms = now_ms + AGAIN_FIRST_MS,
                             .pause_ms = AGAIN_FIRST_MS};
}

/* Tells again what is due. Returns when to come back; UINT64_MAX: there is nothing. */
static uint64_t tell_again(struct fs_notifier *notifier, uint64_t now_ms)
{
    uint64_t first_ms = UINT64_MAX;
    for (size_t i = notifier->missed_count; i > 0; i--) {
        struct missed *missed = &notifier->missed[i - 1];
        if (now_ms >= missed->next_ms) {
            if (tell(notifier, &missed->notice) || now_ms - missed->since_ms >= AGAIN_END_MS) {
                *missed = notifier->missed[--notifier->missed_count];
                continue;
            }
            missed->pause_ms =
                missed->pause_ms * 2 < AGAIN_MAX_MS ? missed->pause_ms * 2 : AGAIN_MAX_MS;
            missed->next_ms = now_ms + missed->pause_ms;
        }
        if (missed->next_ms < first_ms)
            first_ms = missed->next_ms;
    }
    return first_ms;
}

/* Takes what is queued first. lock is held. */
static void take_first(struct fs_notifier *notifier, struct queued *ret)
{
    *ret = notifier->queue[notifier->first];
    if (ret->notice.name)
        ret->notice.name = ret->name;
    notifier->first = (notifier->first + 1) % BG_FS_NOTICES_MAX;
    notifier->count--;
}

/* Until something is queued. lock is held. */
static void wait_until(struct fs_notifier *notifier, uint64_t until_ms)
{
    if (until_ms == UINT64_MAX) {
        (void)pthread_cond_wait(&notifier->moved, &notifier->lock);
        return;
    }
    const struct timespec until = {.tv_sec = (time_t)(until_ms / 1000),
                                   .tv_nsec = (long)(until_ms % 1000) * 1000000};
    (void)pthread_cond_timedwait(&notifier->moved, &notifier->lock, &until);
}

static void *run(void *arg)
{
    struct fs_notifier *notifier = arg;
    /* Linux 5.9, as openat2. What fails here fails again in main, or leaves fds that are harmless.
     */
    if (notifier->fuse_fd > 0)
        (void)close_range(0, (unsigned)notifier->fuse_fd - 1, CLOSE_RANGE_UNSHARE);
    (void)close_range((unsigned)notifier->fuse_fd + 1, ~0u, CLOSE_RANGE_UNSHARE);
    uint64_t again_ms = UINT64_MAX;
    struct queued next;
    (void)pthread_mutex_lock(&notifier->lock);
    notifier->state = NOTIFIER_RUNS;
    (void)pthread_cond_broadcast(&notifier->moved);
    while (notifier->state == NOTIFIER_RUNS) {
        bool again = again_ms != UINT64_MAX && bg_now_ms() >= again_ms;
        if (notifier->count == 0 && !again) {
            wait_until(notifier, again_ms);
            continue;
        }
        bool queued = notifier->count > 0;
        if (queued)
            take_first(notifier, &next);
        (void)pthread_mutex_unlock(&notifier->lock);
        /* A name is found or not there: whoever looks it up holds its folder's lock, which this
         * waits for. A node that is missing may be on its way to the kernel. */
        if (queued && !tell(notifier, &next.notice) && !next.notice.name)
            miss(notifier, &next.notice, bg_now_ms());
        if (notifier->missed_count > 0)
            again_ms = tell_again(notifier, bg_now_ms());
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
