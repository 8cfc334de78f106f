#include "fs/server/feed.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "fs/proto/change.h"
#include "fs/proto/proto.h"
#include "fs/server/events.h"

#define FILE_SYSTEMS_MAX 64u /* as many as are opened by handle; further ones are not watched */
#define EVENTS_SIZE      (64u * 1024)
#define PAUSE_MS         10 /* for the kernel to merge what follows on one another */
#define READS_AT_ONCE    16 /* before the next pause: about 15,000 events */
#define EVENTS                                                                                     \
    (FAN_CREATE | FAN_DELETE | FAN_RENAME | FAN_MODIFY | FAN_ATTRIB | FAN_CLOSE_WRITE | FAN_ONDIR)

struct file_system {
    uint64_t fsid, device;
};

struct fs_feed {
    struct fs_feed_opts opts;
    int events_fd, end_fd;
    pid_t self;
    pthread_t thread;
    bool running;
    struct file_system known[FILE_SYSTEMS_MAX];
    atomic_size_t known_count; /* entries below it do not change any more */
    uint8_t events[EVENTS_SIZE], message[BG_FS_CHANGES_SIZE];
    struct bg_writer out;
};

int fs_feed_open(struct fs_feed **ret)
{
    struct fs_feed *feed = calloc(1, sizeof *feed);
    if (!feed)
        return -ENOMEM;
    feed->self = getpid();
    feed->end_fd = -1;
    feed->events_fd =
        fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_DFID_NAME_TARGET,
                      O_RDONLY | O_CLOEXEC);
    int r = feed->events_fd < 0 ? -errno : 0;
    if (r == 0 && (feed->end_fd = eventfd(0, EFD_CLOEXEC)) < 0)
        r = -errno;
    if (r < 0) {
        fs_feed_close(feed);
        return r;
    }
    *ret = feed;
    return 0;
}

bool fs_feed_watch(void *owner, int fd)
{
    struct fs_feed *feed = owner;
    struct statfs fs;
    uint64_t device, count = atomic_load(&feed->known_count);
    struct file_system found;
    if (fs_nodes_device(fd, &device) < 0 || fstatfs(fd, &fs) < 0)
        return false;
    memcpy(&found.fsid, &fs.f_fsid, sizeof found.fsid);
    found.device = device;
    for (size_t i = 0; i < count; i++)
        if (feed->known[i].device == device)
            return true; /* another mount of it */
    if (count == FILE_SYSTEMS_MAX ||
        fanotify_mark(feed->events_fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, EVENTS, fd, NULL) < 0)
        return false;
    feed->known[count] = found;
    atomic_store(&feed->known_count, count + 1);
    return true;
}

/* ---- events to changes ---- */

static void flush(struct fs_feed *feed)
{
    if (feed->out.used <= FS_REPLY_HEADER_SIZE)
        return;
    fs_changes_end(&feed->out);
    feed->opts.emit(feed->opts.owner, feed->message, feed->out.used);
    feed->out = bg_writer_init(feed->message, sizeof feed->message);
    fs_changes_begin(&feed->out);
}

static void add(struct fs_feed *feed, const struct fs_change *change)
{
    if (fs_changes_add(&feed->out, change))
        return;
    flush(feed);
    (void)fs_changes_add(&feed->out, change); /* an empty message has room for any */
}

/* The client's id of a file, 0 if it does not know it. */
static uint64_t node_of(const struct fs_feed *feed, const struct fs_event_file *file)
{
    size_t count = atomic_load(&feed->known_count);
    if (file->handle)
        for (size_t i = 0; i < count; i++)
            if (feed->known[i].fsid == file->fsid)
                return fs_nodes_find_handle(feed->opts.nodes, feed->known[i].device,
                                            file->handle_type, file->handle, file->handle_size);
    return 0;
}

/* Where an event happened, if the client knows that folder. */
static uint64_t place_of(const struct fs_feed *feed, const struct fs_event_file *file,
                         const char **ret_name, size_t *ret_size)
{
    size_t size = file->name ? strlen(file->name) : 0;
    uint64_t id = fs_name_ok(file->name, size) ? node_of(feed, file) : 0;
    if (id != 0) {
        *ret_name = file->name;
        *ret_size = size;
    }
    return id;
}

static uint32_t kinds_of(uint64_t mask)
{
    static const struct {
        uint64_t mask;
        uint32_t kind;
    } table[] = {
        {FAN_CREATE, FS_CHANGE_CREATED},      {FAN_RENAME, FS_CHANGE_MOVED},
        {FAN_MODIFY, FS_CHANGE_MODIFIED},     {FAN_ATTRIB, FS_CHANGE_ATTRIBUTES},
        {FAN_CLOSE_WRITE, FS_CHANGE_WRITTEN}, {FAN_DELETE, FS_CHANGE_DELETED},
        {FAN_ONDIR, FS_CHANGE_IS_FOLDER},
    };
    uint32_t kinds = 0;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (mask & table[i].mask)
            kinds |= table[i].kind;
    return kinds;
}

static void take_event(struct fs_feed *feed, const struct fs_event *event)
{
    if (event->mask & FAN_Q_OVERFLOW) {
        const struct fs_change all = {.kinds = FS_CHANGE_EVERYTHING};
        add(feed, &all);
        return;
    }
    if (event->pid == feed->self)
        return;
    struct fs_change change = {.kinds = kinds_of(event->mask)};
    if (!(change.kinds & FS_CHANGE_HAPPENED))
        return;
    /* A folder's own events name it as the place, without a name in it. */
    bool itself = !event->file.handle && !event->folder.name;
    change.node = node_of(feed, itself ? &event->folder : &event->file);
    change.folder = place_of(feed, &event->folder, &change.name, &change.name_size);
    if (change.kinds & FS_CHANGE_MOVED) {
        change.kinds &= (uint32_t)(FS_CHANGE_MOVED | FS_CHANGE_IS_FOLDER);
        change.folder2 = place_of(feed, &event->folder_to, &change.name2, &change.name2_size);
    }
    if (change.node != 0 || change.folder != 0 || change.folder2 != 0)
        add(feed, &change);
}

/* Reads what there is, within bounds. Errors: errno of read; -EPROTO. */
static int take_events(struct fs_feed *feed)
{
    for (int i = 0; i < READS_AT_ONCE; i++) {
        ssize_t n = read(feed->events_fd, feed->events, sizeof feed->events);
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
        struct bg_reader in = bg_reader_init(feed->events, n < 0 ? 0 : (size_t)n);
        struct fs_event event;
        int r;
        while ((r = fs_event_next(&in, &event, NULL)) > 0)
            take_event(feed, &event);
        if (r < 0)
            return r;
    }
    return 0;
}

static void *run(void *arg)
{
    struct fs_feed *feed = arg;
    feed->out = bg_writer_init(feed->message, sizeof feed->message);
    fs_changes_begin(&feed->out);
    int r = 0;
    while (r == 0) {
        struct pollfd fds[2] = {{.fd = feed->end_fd, .events = POLLIN},
                                {.fd = feed->events_fd, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0)
            continue; /* interrupted: nothing else can go wrong with two good fds */
        if (fds[0].revents || poll(fds, 1, PAUSE_MS) > 0)
            return NULL;
        r = take_events(feed);
        flush(feed);
    }
    const struct fs_change ended = {.kinds = FS_CHANGE_ENDED};
    add(feed, &ended);
    flush(feed);
    return NULL;
}

int fs_feed_start(struct fs_feed *feed, const struct fs_feed_opts *opts)
{
    feed->opts = *opts;
    int r = -pthread_create(&feed->thread, NULL, run, feed);
    feed->running = r == 0;
    return r;
}

void fs_feed_close(struct fs_feed *feed)
{
    if (!feed)
        return;
    if (feed->running) {
        uint64_t one = 1;
        ssize_t n = write(feed->end_fd, &one, sizeof one);
        (void)n; /* an eventfd takes a 1 unless it is full */
        (void)pthread_join(feed->thread, NULL);
    }
    if (feed->events_fd >= 0)
        (void)close(feed->events_fd);
    if (feed->end_fd >= 0)
        (void)close(feed->end_fd);
    free(feed);
}
