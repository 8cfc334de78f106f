#include "fs/server/locks.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define KICK_INTERVAL_NS 5000000 /* a signal may come just before the call that it should end */

struct owner {
    struct owner *next;
    uint64_t node, owner;
    uint64_t handle; /* through which it locked first */
    int fd;
    unsigned refs; /* waiters, and 1 while in the list */
};

struct waiter {
    struct waiter *next;
    struct fs_locks *locks;
    pthread_t thread;
    struct fs_handle *handle; /* got */
    struct owner *owner;      /* NULL: flock */
    uint64_t unique;
    struct flock lock;
    bool cancelled;
};

struct fs_locks {
    struct fs_locks_opts opts;
    pthread_mutex_t lock; /* guards the lists and what is in them */
    pthread_cond_t changed;
    struct owner *owners;
    size_t owner_count;
    struct waiter *waiters;
    size_t waiter_count;
    bool closing;
};

int fs_locks_open(const struct fs_locks_opts *opts, struct fs_locks **ret)
{
    struct fs_locks *locks = calloc(1, sizeof *locks);
    if (!locks)
        return -ENOMEM;
    locks->opts = *opts;
    (void)pthread_mutex_init(&locks->lock, NULL); /* neither can fail with these attributes */
    (void)pthread_cond_init(&locks->changed, NULL);
    *ret = locks;
    return 0;
}

static void owner_unref(struct owner *owner)
{
    if (owner && --owner->refs == 0) {
        (void)close(owner->fd); /* ends its locks */
        free(owner);
    }
}

/* The owner's own open file description; made if it is not there. Called with the lock held. */
static int owner_find(struct fs_locks *locks, const struct fs_request *request,
                      const struct fs_handle *handle, struct owner **ret)
{
    for (struct owner *at = locks->owners; at; at = at->next)
        if (at->node == request->node && at->owner == request->owner) {
            *ret = at;
            return 0;
        }
    if (locks->owner_count >= locks->opts.owners_max)
        return -ENOLCK;
    struct owner *owner = calloc(1, sizeof *owner);
    if (!owner)
        return -ENOMEM;
    /* Both ways if that can be had, since one owner may lock through several handles. That the
     * handle allows this kind of lock has been checked, so root's rights give nothing away. */
    char path[32];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", handle->fd);
    const int extra = O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    fs_identity_raise(locks->opts.identity);
    owner->fd = open(path, O_RDWR | extra);
    if (owner->fd < 0)
        owner->fd = open(path, (fcntl(handle->fd, F_GETFL) & O_ACCMODE) | extra);
    int r = owner->fd < 0 ? -errno : 0;
    fs_identity_lower(locks->opts.identity);
    if (r < 0) {
        free(owner);
        return r;
    }
    owner->node = request->node;
    owner->owner = request->owner;
    owner->handle = handle->id;
    owner->refs = 1;
    owner->next = locks->owners;
    locks->owners = owner;
    locks->owner_count++;
    *ret = owner;
    return 0;
}

/* end: inclusive, as FUSE has it. */
static int flock_from(const struct fs_request *request, struct flock *ret)
{
    if (request->lock_start > INT64_MAX || request->lock_end < request->lock_start)
        return -EINVAL;
    if (request->lock_type != F_RDLCK && request->lock_type != F_WRLCK &&
        request->lock_type != F_UNLCK)
        return -EINVAL;
    bool to_end = request->lock_end >= INT64_MAX;
    *ret =
        (struct flock){.l_type = (short)request->lock_type,
                       .l_whence = SEEK_SET,
                       .l_start = (off_t)request->lock_start,
                       .l_len = to_end ? 0 : (off_t)(request->lock_end - request->lock_start) + 1};
    return 0;
}

static int flock_op(short type)
{
    return type == F_RDLCK ? LOCK_SH : type == F_WRLCK ? LOCK_EX : LOCK_UN;
}

static int try_lock(const struct fs_handle *handle, const struct owner *owner, struct flock lock,
                    bool wait)
{
    int r = owner ? fcntl(owner->fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &lock)
                  : flock(handle->fd, flock_op(lock.l_type) | (wait ? 0 : LOCK_NB));
    return r < 0 ? -errno : 0;
}

static void *wait_for_lock(void *arg)
{
    struct waiter *waiter = arg;
    struct fs_locks *locks = waiter->locks;
    int r;
    bool cancelled;
    do {
        r = try_lock(waiter->handle, waiter->owner, waiter->lock, /* wait= */ true);
        (void)pthread_mutex_lock(&locks->lock);
        cancelled = waiter->cancelled;
        (void)pthread_mutex_unlock(&locks->lock);
    } while (r == -EINTR && !cancelled);

    (void)pthread_mutex_lock(&locks->lock);
    bool closing = locks->closing;
    (void)pthread_mutex_unlock(&locks->lock);
    if (!closing)
        locks->opts.answer(locks->opts.owner, waiter->unique, r);

    fs_handles_put(locks->opts.handles, waiter->handle);
    (void)pthread_mutex_lock(&locks->lock);
    owner_unref(waiter->owner);
    struct waiter **at = &locks->waiters;
    while (*at != waiter)
        at = &(*at)->next;
    *at = waiter->next;
    locks->waiter_count--;
    (void)pthread_cond_broadcast(&locks->changed);
    (void)pthread_mutex_unlock(&locks->lock);
    free(waiter);
    return NULL;
}

/* Called with the lock held, and the handle got once more for the waiter. */
static int waiter_start(struct fs_locks *locks, const struct fs_request *request,
                        struct fs_handle *handle, struct owner *owner, const struct flock *lock)
{
    if (locks->waiter_count >= BG_FS_LOCK_WAITS_MAX)
        return -ENOLCK;
    struct waiter *waiter = calloc(1, sizeof *waiter);
    if (!waiter)
        return -ENOMEM;
    waiter->locks = locks;
    waiter->handle = handle;
    waiter->owner = owner;
    waiter->unique = request->unique;
    waiter->lock = *lock;
    pthread_attr_t attr;
    if (pthread_attr_init(&attr) != 0) {
        free(waiter);
        return -ENOMEM;
    }
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attr, 64 * 1024); /* on failure the default does as well */
    int r = pthread_create(&waiter->thread, &attr, wait_for_lock, waiter);
    (void)pthread_attr_destroy(&attr);
    if (r != 0) {
        free(waiter);
        return -ENOLCK;
    }
    if (owner)
        owner->refs++;
    waiter->next = locks->waiters;
    locks->waiters = waiter;
    locks->waiter_count++;
    return 0;
}

int fs_locks_apply(struct fs_locks *locks, const struct fs_request *request,
                   struct fs_handle *handle, struct fs_reply *reply)
{
    bool whole_file = request->flags & FUSE_LK_FLOCK;
    struct flock lock;
    int r = flock_from(request, &lock);
    if (r < 0)
        return r;
    int mode = fcntl(handle->fd, F_GETFL) & O_ACCMODE;
    if (!whole_file && request->opcode != FUSE_GETLK &&
        ((lock.l_type == F_WRLCK && mode == O_RDONLY) ||
         (lock.l_type == F_RDLCK && mode == O_WRONLY)))
        return -EBADF;
    struct owner *owner = NULL;
    (void)pthread_mutex_lock(&locks->lock);
    if (!whole_file)
        r = owner_find(locks, request, handle, &owner);
    else if (request->opcode == FUSE_GETLK)
        r = -EINVAL; /* flock(2) has no such question */
    if (r == 0 && request->opcode == FUSE_GETLK) {
        r = fcntl(owner->fd, F_OFD_GETLK, &lock) < 0 ? -errno : 0;
        reply->lock_type = (uint64_t)lock.l_type;
        if (r == 0 && lock.l_type != F_UNLCK) {
            reply->lock_start = (uint64_t)lock.l_start;
            reply->lock_end =
                lock.l_len == 0 ? INT64_MAX : (uint64_t)lock.l_start + (uint64_t)lock.l_len - 1;
            /* A process id of this machine means nothing on the client's. */
        }
    } else if (r == 0) {
        r = try_lock(handle, owner, lock, /* wait= */ false);
        if (r == -EAGAIN && request->opcode == FUSE_SETLKW) {
            r = waiter_start(locks, request, handle, owner, &lock);
            r = r == 0 ? -EINPROGRESS : r;
        }
    }
    (void)pthread_mutex_unlock(&locks->lock);
    return r;
}

/* Drops the owners on the node that are `owner` or, by_handle, locked through that handle. */
static void owners_remove(struct fs_locks *locks, uint64_t node, bool by_handle, uint64_t which)
{
    (void)pthread_mutex_lock(&locks->lock);
    for (struct owner **at = &locks->owners; *at;) {
        struct owner *o = *at;
        if (o->node == node && (by_handle ? o->handle : o->owner) == which) {
            *at = o->next;
            locks->owner_count--;
            owner_unref(o);
        } else {
            at = &o->next;
        }
    }
    (void)pthread_mutex_unlock(&locks->lock);
}

void fs_locks_flush(struct fs_locks *locks, uint64_t node, uint64_t owner)
{
    owners_remove(locks, node, /* by_handle= */ false, owner);
}

void fs_locks_released(struct fs_locks *locks, uint64_t node, uint64_t handle)
{
    owners_remove(locks, node, /* by_handle= */ true, handle);
}

/* Signals the waiters that are cancelled until they are gone. Called with the lock held. */
static void kick(struct fs_locks *locks, uint64_t unique, bool all)
{
    for (;;) {
        bool found = false;
        for (struct waiter *w = locks->waiters; w; w = w->next)
            if (all || w->unique == unique) {
                w->cancelled = found = true;
                (void)pthread_kill(w->thread, SIGUSR2); /* it is in the list, so it still runs */
            }
        if (!found)
            return;
        struct timespec until;
        (void)clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += KICK_INTERVAL_NS;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
        (void)pthread_cond_timedwait(&locks->changed, &locks->lock, &until);
    }
}

void fs_locks_interrupt(struct fs_locks *locks, uint64_t unique)
{
    (void)pthread_mutex_lock(&locks->lock);
    kick(locks, unique, false);
    (void)pthread_mutex_unlock(&locks->lock);
}

void fs_locks_close(struct fs_locks *locks)
{
    if (!locks)
        return;
    (void)pthread_mutex_lock(&locks->lock);
    locks->closing = true;
    kick(locks, 0, true);
    while (locks->owners) {
        struct owner *owner = locks->owners;
        locks->owners = owner->next;
        owner_unref(owner);
    }
    (void)pthread_mutex_unlock(&locks->lock);
    (void)pthread_cond_destroy(&locks->changed);
    (void)pthread_mutex_destroy(&locks->lock);
    free(locks);
}
