#include "host/cli/follow.h"

#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

struct source {
    int fd;       /* -1: not there yet */
    char *buffer; /* FOLLOW_LINE_MAX; what is there of an unfinished line */
    size_t used;
};

struct follower {
    const struct follow_opts *opts;
    int dir_fd, watch_fd;
    struct source sources[FOLLOW_FILES_MAX];
};

static int give(const struct follower *f, size_t index, const char *line, size_t size)
{
    return f->opts->on_line(f->opts->owner, index, line, size);
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
    do {
        for (size_t i = 0; r == 0 && i < opts->count; i++) {
            r = read_source(f, i);
            if (r < 0)
                (void)bg_err_errno(err, r, "%s/%s", opts->dir, opts->names[i]);
        }
        if (r == 0 && opts->on)
            opts->on_idle(opts->owner);
    } while (r == 0 && opts->on && wait_for_more(f));
    for (size_t i = 0; r == 0 && i < opts->count; i++)
        r = give_rest(f, i);
    return r;
}

int follow_files(const struct follow_opts *opts, struct bg_err *err)
{
    struct follower f = {.opts = opts, .dir_fd = -1, .watch_fd = -1};
    assert(opts->count <= FOLLOW_FILES_MAX);
    for (size_t i = 0; i < FOLLOW_FILES_MAX; i++)
        f.sources[i].fd = -1;
    int r = follow(&f, err);
    int fds[FOLLOW_FILES_MAX + 2] = {f.dir_fd, f.watch_fd};
    for (size_t i = 0; i < FOLLOW_FILES_MAX; i++) {
        fds[i + 2] = f.sources[i].fd;
        free(f.sources[i].buffer);
    }
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            (void)close(fds[i]); /* read only */
    return r;
}
