/* A process of its own, as root, asks the kernel for the events of every file system that has a
 * part below the path (fanotify(7)) and tells those whose place is there. An event names its folder
 * by a handle, which is opened to learn where that folder is now; what is gone by then is not
 * told, but the end of a folder above it is. */
#include "guest/watch.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "common/io.h"
#include "fs/proto/change.h"
#include "fs/server/events.h"
#include "guest/worker.h"

#define FILE_SYSTEMS_MAX 64 /* below one path; further ones are not watched */
#define EVENTS_SIZE      (64u * 1024)
#define OUTPUT_SIZE      (128u * 1024)
#define PAUSE_MS         10 /* after each look, for the kernel to merge what follows */
#define HANDLE_SIZE_MAX  128
#define CHANGE_SIZE_MAX  (BG_FRAME_HEADER_SIZE + 12u + 2u * BG_PATH_MAX)

static_assert((int)FS_CHANGE_CREATED == (int)BG_WATCH_CREATED &&
                  (int)FS_CHANGE_MOVED == (int)BG_WATCH_MOVED &&
                  (int)FS_CHANGE_MODIFIED == (int)BG_WATCH_MODIFIED &&
                  (int)FS_CHANGE_ATTRIBUTES == (int)BG_WATCH_ATTRIBUTES &&
                  (int)FS_CHANGE_WRITTEN == (int)BG_WATCH_WRITTEN &&
                  (int)FS_CHANGE_DELETED == (int)BG_WATCH_DELETED &&
                  (int)FS_CHANGE_IS_FOLDER == (int)BG_WATCH_IS_FOLDER,
              "both streams name the kinds by the same numbers");

struct file_system {
    uint64_t fsid;
    int fd; /* a folder on it: handles are opened by it */
};

struct watcher {
    char path[BG_PATH_MAX];
    const struct bg_log *log;

    struct link *link;
    int events_fd;
    struct file_system file_systems[FILE_SYSTEMS_MAX];
    size_t file_system_count;
    uint8_t events[EVENTS_SIZE], output[OUTPUT_SIZE];
    struct bg_writer out;
};

/* ---- what is watched ---- */

static bool is_below(const char *path, const char *top)
{
    size_t size = strcmp(top, "/") == 0 ? 0 : strlen(top);
    return strncmp(path, top, size) == 0 && (path[size] == '/' || path[size] == '\0');
}

/* Errors: errno of open, fanotify_mark: it cannot be watched. */
static int watch_file_system(struct watcher *w, const char *folder)
{
    struct statfs fs;
    struct file_system new;
    BG_AUTOCLOSE int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstatfs(fd, &fs) < 0)
        return -errno;
    memcpy(&new.fsid, &fs.f_fsid, sizeof new.fsid);
    for (size_t i = 0; i < w->file_system_count; i++)
        if (w->file_systems[i].fsid == new.fsid)
            return 0;
    if (w->file_system_count == FILE_SYSTEMS_MAX)
        return -ENOSPC;
    if (fanotify_mark(w->events_fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FS_EVENT_MASK, fd, NULL) <
        0)
        return -errno;
    new.fd = bg_take_fd(&fd);
    w->file_systems[w->file_system_count++] = new;
    return 0;
}

/* Views into the kernel: what happens there says nothing about files. */
static bool is_view(const char *type)
{
    static const char *const views[] = {
        "proc",      "sysfs",      "cgroup", "cgroup2", "devtmpfs",   "devpts",   "debugfs",
        "tracefs",   "securityfs", "pstore", "bpf",     "mqueue",     "configfs", "fusectl",
        "hugetlbfs", "efivarfs",   "autofs", "nsfs",    "binfmt_misc"};
    for (size_t i = 0; i < sizeof views / sizeof *views; i++)
        if (strcmp(type, views[i]) == 0)
            return true;
    return false;
}

/* What is mounted below the path. What cannot be watched there is left out. */
static void watch_mounts(struct watcher *w)
{
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    struct mntent entry;
    char text[2 * BG_PATH_MAX];
    while (mounts && getmntent_r(mounts, &entry, text, sizeof text))
        if (is_below(entry.mnt_dir, w->path) && !is_view(entry.mnt_type)) {
            int r = watch_file_system(w, entry.mnt_dir);
            if (r < 0)
                bg_log(w->log, BG_LOG_INFO, "watch: %s is not watched: %s", entry.mnt_dir,
                       strerror(-r));
        }
    if (mounts)
        (void)endmntent(mounts);
}

static int start(struct watcher *w, struct bg_err *err)
{
    char folder[BG_PATH_MAX];
    struct stat st;
    BG_AUTOFREE char *path = realpath(w->path, NULL);
    if (!path || stat(path, &st) < 0)
        return bg_err_errno(err, -errno, "'%s' in the sandbox", w->path);
    if (strlen(path) >= sizeof w->path)
        return bg_err_errno(err, -ENAMETOOLONG, "'%s' in the sandbox", w->path);
    memcpy(w->path, path, strlen(path) + 1);
    memcpy(folder, w->path, sizeof folder);
    char *slash = strrchr(folder, '/');
    if (!S_ISDIR(st.st_mode)) /* a file is watched by its folder */
        slash[slash == folder] = '\0';
    w->events_fd =
        fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_DFID_NAME_TARGET,
                      O_RDONLY | O_CLOEXEC);
    if (w->events_fd < 0)
        return bg_err_errno(err, -errno, "the guest's kernel cannot watch files: Linux 5.17 can");
    int r = watch_file_system(w, folder);
    if (r < 0)
        return bg_err_errno(err, r, "'%s': its file system cannot be watched", w->path);
    watch_mounts(w);
    return 0;
}

/* ---- what is told ---- */

static int flush(struct watcher *w)
{
    int r = link_write(w->link, w->output, w->out.used);
    w->out = bg_writer_init(w->output, sizeof w->output);
    return r;
}

static int tell(struct watcher *w, const struct bg_watch_change *change)
{
    int r = w->out.size - w->out.used < CHANGE_SIZE_MAX ? flush(w) : 0;
    size_t at = w->out.used;
    (void)bg_writer_room(&w->out, BG_FRAME_HEADER_SIZE);
    bg_watch_change_emit(change, &w->out);
    bg_frame_header_emit(BG_FRAME_CHANGE, (uint32_t)(w->out.used - at - BG_FRAME_HEADER_SIZE),
                         w->output + at);
    return r;
}

/* Where the folder is now. False: nowhere, or not in our view. */
static bool find_folder(const struct watcher *w, const struct fs_event_file *file,
                        char out[BG_PATH_MAX])
{
    struct {
        struct file_handle head;
        unsigned char bytes[HANDLE_SIZE_MAX];
    } h = {.head = {.handle_bytes = (unsigned)file->handle_size, .handle_type = file->handle_type}};
    size_t i = 0;
    while (i < w->file_system_count && w->file_systems[i].fsid != file->fsid)
        i++;
    if (!file->handle || file->handle_size > HANDLE_SIZE_MAX || i == w->file_system_count)
        return false;
    memcpy(h.bytes, file->handle, file->handle_size);
    BG_AUTOCLOSE int fd =
        open_by_handle_at(w->file_systems[i].fd, &h.head, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct stat st;
    char link[32];
    if (fd < 0 || fstat(fd, &st) < 0 || st.st_nlink == 0)
        return false;
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, BG_PATH_MAX);
    if (n <= 0 || n >= BG_PATH_MAX || out[0] != '/')
        return false;
    out[n] = '\0';
    return true;
}

/* The path that an event is about; "" if it is not below ours. */
static void find_path(const struct watcher *w, const struct fs_event_file *file,
                      char out[BG_PATH_MAX])
{
    bool found = find_folder(w, file, out);
    if (found && file->name) {
        size_t used = strcmp(out, "/") == 0 ? 0 : strlen(out);
        int size = snprintf(out + used, BG_PATH_MAX - used, "/%s", file->name);
        found = size > 0 && (size_t)size < BG_PATH_MAX - used;
    }
    if (!found || !is_below(out, w->path))
        out[0] = '\0';
}

static int take_event(struct watcher *w, const struct fs_event *event)
{
    struct bg_watch_change change = {.kinds = fs_event_kinds(event->mask)};
    if (event->mask & FAN_Q_OVERFLOW) {
        change.kinds = BG_WATCH_LOST;
        return tell(w, &change);
    }
    if (!(change.kinds & FS_CHANGE_HAPPENED))
        return 0;
    if (change.kinds & BG_WATCH_MOVED) {
        change.kinds &= (uint32_t)(BG_WATCH_MOVED | BG_WATCH_IS_FOLDER);
        find_path(w, &event->folder, change.old_path);
        find_path(w, &event->folder_to, change.path);
    } else {
        find_path(w, &event->folder, change.path);
    }
    return change.path[0] != '\0' || change.old_path[0] != '\0' ? tell(w, &change) : 0;
}

/* Reads once. Errors: the stream's or fanotify's. */
static int take_events(struct watcher *w)
{
    ssize_t n = read(w->events_fd, w->events, sizeof w->events);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    struct bg_reader in = bg_reader_init(w->events, (size_t)n);
    struct fs_event event;
    int r;
    while ((r = fs_event_next(&in, &event, NULL)) > 0)
        if ((r = take_event(w, &event)) < 0)
            return r;
    return r < 0 ? r : flush(w);
}

/* The stream has something to tell: 0: it goes on; 1: the host has closed it. */
static int look_at_stream(struct watcher *w)
{
    char byte;
    ssize_t n = link_read_now(w->link, &byte, 1);
    return n == -EAGAIN ? 0 : n < 0 ? (int)n : 1; /* the host says nothing but the end */
}

/* Until the host closes the stream. */
static int serve(struct watcher *w)
{
    int r = 0;
    w->out = bg_writer_init(w->output, sizeof w->output);
    while (r == 0) {
        struct pollfd fds[2] = {{.fd = w->link->fd, .events = POLLIN},
                                {.fd = w->events_fd, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0)
            continue; /* interrupted */
        if (fds[0].revents)
            r = look_at_stream(w);
        else if ((r = take_events(w)) == 0 && poll(fds, 1, PAUSE_MS) > 0)
            r = look_at_stream(w);
    }
    return r < 0 ? r : 0;
}

static void send_end(struct link *link, int code)
{
    struct bg_err err;
    uint8_t frame[BG_FRAME_HEADER_SIZE + 4 + BG_ERR_TEXT_SIZE];
    struct bg_writer w = bg_writer_init(frame, sizeof frame);
    (void)bg_err_errno(&err, code, "watch");
    (void)bg_writer_room(&w, BG_FRAME_HEADER_SIZE);
    bg_writer_u32le(&w, (uint32_t)err.code);
    bg_writer_bytes(&w, err.text, strnlen(err.text, sizeof err.text));
    bg_frame_header_emit(BG_FRAME_END, (uint32_t)(w.used - BG_FRAME_HEADER_SIZE), frame);
    int r = link_write(link, frame, w.used);
    (void)r; /* the host has gone: it needs no reason */
}

static int run(struct link *link, void *arg)
{
    struct watcher *w = arg;
    struct bg_err err = {0};
    w->link = link;
    int r = start(w, &err);
    if (link_reply(link, &err) < 0 || r < 0)
        return 1;
    r = serve(w);
    if (r < 0 && r != -EPIPE && r != -ECONNRESET)
        send_end(link, r);
    return 0;
}

static int watch_open(struct stream *stream, const uint8_t *body, size_t size, struct bg_err *err)
{
    BG_AUTOFREE struct watcher *w = calloc(1, sizeof *w);
    if (!w)
        return bg_err_errno(err, -ENOMEM, "watch");
    w->log = stream->agent->log;
    int r = bg_watch_request_parse(body, size, w->path, err);
    if (r < 0)
        return r;
    const struct worker_opts opts = {
        .name = "bellglass-watch", .stream = stream, .lasts = true, .run = run, .arg = w};
    /* Detached: if there is no worker, the host sees the connection close. */
    if (worker_start(stream->agent, &opts, err) < 0)
        bg_log(stream->agent->log, BG_LOG_ERROR, "watch: %s", err->text);
    return 0;
}

const struct stream_kind watch_kind = {.name = "watch", .open = watch_open};
