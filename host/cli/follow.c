#include "host/cli/follow.h"

#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/state/audit_files.h"

static_assert(BG_AUDIT_FILES_MAX <= FOLLOW_FILES_MAX, "each has a source");

struct source {
    int fd;       /* -1: not there yet */
    char *buffer; /* FOLLOW_LINE_MAX; what is there of an unfinished line */
    size_t used;
};

struct follower {
    const struct follow_opts *opts;
    int dir_fd, watch_fd;
    struct source sources[FOLLOW_FILES_MAX];
    size_t count; /* of sources */
};

static int give(const struct follower *f, size_t index, const char *line, size_t size)
{
    return f->opts->on_line(f->opts->owner, f->opts->audit ? 0 : index, line, size);
}

static int give_lines(struct follower *f, size_t index)
{
    struct source *s = &f->sources[index];
    size_t at = 0;
    for (const char *end; (end = memchr(s->buffer + at, '\n', s->used - at));) {
        size_t size = (size_t)(end - (s->buffer + at));
        int r = give(f, index, s->buffer + at, size);
        if (r < 0)
            return r;
        at += size + 1;
    }
    memmove(s->buffer, s->buffer + at, s->used - at);
    s->used -= at;
    return 0;
}

static int give_rest(struct follower *f, size_t index)
{
    struct source *s = &f->sources[index];
    size_t size = s->used;
    s->used = 0;
    return size > 0 ? give(f, index, s->buffer, size) : 0;
}

static int open_source(struct follower *f, size_t index)
{
    struct source *s = &f->sources[index];
    s->fd = openat(f->dir_fd, f->opts->names[index], O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (s->fd < 0)
        return errno == ENOENT ? 0 : -errno;
    s->buffer = malloc(FOLLOW_LINE_MAX);
    return s->buffer ? 0 : -ENOMEM;
}

static void close_source(struct source *s)
{
    if (s->fd >= 0)
        (void)close(s->fd); /* read only */
    free(s->buffer);
    *s = (struct source){.fd = -1};
}

static bool has_source(const struct follower *f, int fd)
{
    struct stat ours, theirs;
    for (size_t i = 0; i < f->count; i++)
        if (fstat(f->sources[i].fd, &ours) == 0 && fstat(fd, &theirs) == 0 &&
            ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev)
            return true;
    return false;
}

/* Takes fd. The oldest source makes room, whose file has no name any more. */
static int add_source(struct follower *f, int fd)
{
    char *buffer = malloc(FOLLOW_LINE_MAX);
    int r = buffer ? 0 : -ENOMEM;
    if (r == 0 && f->count == BG_AUDIT_FILES_MAX) {
        r = give_rest(f, 0);
        close_source(&f->sources[0]);
        memmove(f->sources, f->sources + 1, (f->count - 1) * sizeof *f->sources);
        f->count--;
    }
    if (r < 0) {
        free(buffer);
        (void)close(fd); /* read only */
        return r;
    }
    f->sources[f->count++] = (struct source){.fd = fd, .buffer = buffer};
    return 0;
}

/* The files that have come since the last time become sources. The older ones stay: a proxy that
 * was replaced may still write to its own. */
static int find_audit_files(struct follower *f, struct bg_err *err)
{
    int fds[BG_AUDIT_FILES_MAX];
    size_t count;
    int r = bg_audit_open_all(f->dir_fd, fds, &count, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++) {
        if (r < 0 || has_source(f, fds[i]))
            (void)close(fds[i]); /* read only */
        else
            r = add_source(f, fds[i]);
    }
    return r < 0 ? bg_err_errno(err, r, "%s", BG_AUDIT_FILE) : 0;
}

/* Reads to the present end of the file. */
static int read_source(struct follower *f, size_t index)
{
    struct source *s = &f->sources[index];
    int r = s->fd < 0 ? open_source(f, index) : 0;
    while (r == 0 && s->fd >= 0) {
        ssize_t n = read(s->fd, s->buffer + s->used, FOLLOW_LINE_MAX - s->used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : 0;
        s->used += (size_t)n;
        r = give_lines(f, index);
        if (r == 0 && s->used == FOLLOW_LINE_MAX)
            r = give_rest(f, index);
    }
    return r;
}

/* Waits until something in the folder has changed. False when it has gone from its place, which
 * begins with a rename (bg_sandbox_remove): of a folder that is open, the kernel tells no more. */
static bool wait_for_more(const struct follower *f)
{
    char events[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    struct stat ours, named;
    if (fstat(f->dir_fd, &ours) < 0 || stat(f->opts->dir, &named) < 0 ||
        ours.st_ino != named.st_ino || ours.st_dev != named.st_dev)
        return false;
    return read(f->watch_fd, events, sizeof events) > 0 || errno == EINTR;
}

static int follow(struct follower *f, struct bg_err *err)
{
    const struct follow_opts *opts = f->opts;
    f->dir_fd = open(opts->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f->dir_fd < 0)
        return bg_err_errno(err, -errno, "%s", opts->dir);
    if (opts->on) {
        /* Before the first reading, so that nothing written after it is missed. */
        f->watch_fd = inotify_init1(IN_CLOEXEC);
        if (f->watch_fd < 0 || inotify_add_watch(f->watch_fd, opts->dir,
                                                 IN_MODIFY | IN_CREATE | IN_MOVED_TO |
                                                     IN_MOVE_SELF | IN_DELETE_SELF) < 0)
            return bg_err_errno(err, -errno, "%s: cannot follow it", opts->dir);
    }
    int r = 0;
    bool last = !opts->on; /* once more when the folder has gone: for what came just before */
    for (;;) {
        if (opts->audit)
            r = find_audit_files(f, err);
        for (size_t i = 0; r == 0 && i < f->count; i++) {
            r = read_source(f, i);
            if (r < 0)
                (void)bg_err_errno(err, r, "%s/%s", opts->dir,
                                   opts->audit ? BG_AUDIT_FILE : opts->names[i]);
        }
        if (r < 0 || last)
            break;
        opts->on_idle(opts->owner);
        last = !wait_for_more(f);
    }
    for (size_t i = 0; r == 0 && i < f->count; i++)
        r = give_rest(f, i);
    return r;
}

int follow_files(const struct follow_opts *opts, struct bg_err *err)
{
    struct follower f = {.opts = opts, .dir_fd = -1, .watch_fd = -1, .count = opts->count};
    assert(opts->count <= FOLLOW_FILES_MAX && !(opts->audit && opts->count > 0));
    for (size_t i = 0; i < FOLLOW_FILES_MAX; i++)
        f.sources[i].fd = -1;
    int r = follow(&f, err);
    for (size_t i = 0; i < FOLLOW_FILES_MAX; i++)
        close_source(&f.sources[i]);
    const int fds[] = {f.dir_fd, f.watch_fd};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            (void)close(fds[i]); /* read only */
    return r;
}
