#include "host/cli/follow.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

struct follower {
    const struct follow_opts *opts;
    char *buffer; /* FOLLOW_LINE_MAX */
    size_t used;
};

static int give_lines(struct follower *f)
{
    size_t at = 0;
    for (const char *end; (end = memchr(f->buffer + at, '\n', f->used - at));) {
        size_t size = (size_t)(end - (f->buffer + at));
        int r = f->opts->on_line(f->opts->owner, f->buffer + at, size);
        if (r < 0)
            return r;
        at += size + 1;
    }
    memmove(f->buffer, f->buffer + at, f->used - at);
    f->used -= at;
    return 0;
}

static int give_rest(struct follower *f)
{
    size_t size = f->used;
    f->used = 0;
    return size > 0 ? f->opts->on_line(f->opts->owner, f->buffer, size) : 0;
}

/* Reads to the present end of the file. */
static int read_to_end(struct follower *f, int fd, struct bg_err *err)
{
    for (;;) {
        ssize_t n = read(fd, f->buffer + f->used, FOLLOW_LINE_MAX - f->used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? bg_err_errno(err, -errno, "%s", f->opts->path) : 0;
        f->used += (size_t)n;
        int r = give_lines(f);
        if (r == 0 && f->used == FOLLOW_LINE_MAX)
            r = give_rest(f);
        if (r < 0)
            return bg_err_errno(err, r, "%s", f->opts->path);
    }
}

/* Waits until the file has changed. False when it is gone: we keep it open, so its removal is only
 * seen as a link count of 0. */
static bool wait_for_more(int watch_fd, int fd)
{
    char events[sizeof(struct inotify_event) + NAME_MAX + 1]
        __attribute__((aligned(__alignof__(struct inotify_event))));
    struct stat st;
    if (fstat(fd, &st) < 0 || st.st_nlink == 0)
        return false;
    ssize_t n = read(watch_fd, events, sizeof events);
    return n > 0 || errno == EINTR;
}

static int follow(struct follower *f, int fd, struct bg_err *err)
{
    BG_AUTOCLOSE int watch_fd = -1;
    if (f->opts->on) {
        watch_fd = inotify_init1(IN_CLOEXEC);
        /* Before the first reading, so that nothing written after it is missed. */
        if (watch_fd < 0 ||
            inotify_add_watch(watch_fd, f->opts->path, IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF) < 0)
            return bg_err_errno(err, -errno, "%s: cannot follow it", f->opts->path);
    }
    int r;
    do {
        r = read_to_end(f, fd, err);
        if (r == 0 && f->opts->on && f->opts->on_idle)
            f->opts->on_idle(f->opts->owner);
    } while (r == 0 && f->opts->on && wait_for_more(watch_fd, fd));
    return r == 0 ? give_rest(f) : r;
}

int follow_file(const struct follow_opts *opts, struct bg_err *err)
{
    BG_AUTOFREE char *buffer = malloc(FOLLOW_LINE_MAX);
    struct follower f = {.opts = opts, .buffer = buffer};
    if (!buffer)
        return bg_err_errno(err, -ENOMEM, "%s", opts->path);
    BG_AUTOCLOSE int fd = open(opts->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", opts->path);
    return follow(&f, fd, err);
}
