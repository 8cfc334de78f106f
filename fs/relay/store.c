#include "fs/relay/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/sha256.h"

#define NAME_SIZE         (BG_SHA256_SIZE * 2) /* of a file: hex digits */
#define LEFTOVER_AGE_S    60                   /* writing one takes well under a second */
#define FILES_SCANNED_MAX (4 * BG_GUARD_FILES_MAX)

/* One approval that is there. */
struct kept {
    char name[NAME_SIZE + 1];
    char *path;
    size_t size;
    char sum[NAME_SIZE + 1]; /* of its bytes: tells what is known from what others wrote. Not its
                                inode: the next file may have the number of the one before. */
};

struct fs_store {
    int dir_fd, watch_fd;
    struct kept kept[BG_GUARD_FILES_MAX];
    size_t count, bytes;
};

static struct kept *find(struct fs_store *store, const char *name)
{
    for (size_t i = 0; i < store->count; i++)
        if (strcmp(store->kept[i].name, name) == 0)
            return &store->kept[i];
    return NULL;
}

static void forget(struct fs_store *store, struct kept *kept)
{
    store->bytes -= kept->size;
    free(kept->path);
    *kept = store->kept[--store->count];
}

/* Takes a file of that name into the list. Errors: -ENOSPC, -ENOMEM. */
static int remember(struct fs_store *store, const char *name, const struct fs_pin_note *note,
                    const char *sum)
{
    struct kept *old = find(store, name);
    size_t before = old ? old->size : 0;
    if ((!old && store->count == BG_GUARD_FILES_MAX) ||
        store->bytes - before + note->size > BG_GUARD_BYTES_MAX)
        return -ENOSPC;
    char *path = strdup(note->path);
    if (!path)
        return -ENOMEM;
    if (old)
        forget(store, old);
    struct kept *kept = &store->kept[store->count++];
    *kept = (struct kept){.path = path, .size = note->size};
    memcpy(kept->name, name, NAME_SIZE + 1);
    memcpy(kept->sum, sum, NAME_SIZE + 1);
    store->bytes += note->size;
    return 0;
}

static bool is_name(const char *name)
{
    return strlen(name) == NAME_SIZE && strspn(name, "0123456789abcdef") == NAME_SIZE;
}

static void name_of(const char *path, char out[NAME_SIZE + 1])
{
    bg_sha256_hex(path, strlen(path), out);
}

/* Reads one file. *ret_bytes: heap, which note borrows from. Errors: -ENOENT; -EUCLEAN it is no
 * approval of that name. */
static int read_one(const struct fs_store *store, const char *name, struct fs_pin_note *note,
                    char ret_sum[NAME_SIZE + 1], uint8_t **ret_bytes)
{
    struct stat st;
    char want[NAME_SIZE + 1];
    BG_AUTOCLOSE int fd =
        openat(store->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT ? -ENOENT : -EUCLEAN;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > (off_t)FS_PIN_NOTE_MAX)
        return -EUCLEAN;
    size_t size = (size_t)st.st_size;
    BG_AUTOFREE uint8_t *bytes = malloc(size + 1);
    if (!bytes)
        return -ENOMEM;
    if (bg_read_full(fd, bytes, size) < 0 || fs_pin_note_parse(bytes, size, note, NULL) < 0 ||
        note->forget)
        return -EUCLEAN;
    name_of(note->path, want);
    if (strcmp(want, name) != 0)
        return -EUCLEAN;
    bg_sha256_hex(bytes, size, ret_sum);
    *ret_bytes = BG_TAKE(bytes);
    return 0;
}

int fs_store_open(const char *dir, struct fs_store **ret, struct bg_err *err)
{
    struct fs_store *store = calloc(1, sizeof *store);
    if (!store)
        return bg_err_errno(err, -ENOMEM, "%s", dir);
    store->watch_fd = -1;
    if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
        int r = bg_err_errno(err, -errno, "%s", dir);
        free(store);
        return r;
    }
    store->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (store->dir_fd >= 0)
        store->watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (store->watch_fd < 0 ||
        inotify_add_watch(store->watch_fd, dir, IN_MOVED_TO | IN_DELETE | IN_ONLYDIR) < 0) {
        int r = bg_err_errno(err, -errno, "%s", dir);
        fs_store_close(store);
        return r;
    }
    *ret = store;
    return 0;
}

void fs_store_close(struct fs_store *store)
{
    if (!store)
        return;
    for (size_t i = 0; i < store->count; i++)
        free(store->kept[i].path);
    if (store->dir_fd >= 0)
        (void)close(store->dir_fd);
    if (store->watch_fd >= 0)
        (void)close(store->watch_fd);
    free(store);
}

/* Reads a file, and hands it on if it is another one than the list has. */
static int take_one(struct fs_store *store, const char *name,
                    int (*take)(void *owner, const struct fs_pin_note *note), void *owner)
{
    struct fs_pin_note note;
    BG_AUTOFREE uint8_t *bytes = NULL;
    char sum[NAME_SIZE + 1];
    int r = read_one(store, name, &note, sum, &bytes);
    if (r < 0)
        return r;
    const struct kept *kept = find(store, name);
    if (kept && strcmp(kept->sum, sum) == 0)
        return 0;
    r = remember(store, name, &note, sum);
    return r < 0 ? r : take(owner, &note);
}

/* What a keeper that was killed while it wrote has left. */
static void sweep(const struct fs_store *store, const char *name)
{
    size_t size = strlen(name);
    struct stat st;
    if (size > NAME_SIZE + 4 && strcmp(name + size - 4, ".tmp") == 0 &&
        fstatat(store->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        time(NULL) - st.st_mtim.tv_sec > LEFTOVER_AGE_S)
        (void)unlinkat(store->dir_fd, name, 0); /* or the next time */
}

int fs_store_load(struct fs_store *store, int (*take)(void *owner, const struct fs_pin_note *note),
                  void *owner, size_t *ret_damaged, struct bg_err *err)
{
    int r = 0, copy = openat(store->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = copy < 0 ? NULL : fdopendir(copy);
    size_t scanned = 0;
    *ret_damaged = 0;
    if (!dir) {
        r = bg_err_errno(err, -errno, "the store of approvals");
        if (copy >= 0)
            (void)close(copy);
        return r;
    }
    for (struct dirent *entry; r == 0 && scanned++ < FILES_SCANNED_MAX && (entry = readdir(dir));) {
        if (!is_name(entry->d_name)) {
            sweep(store, entry->d_name);
            continue;
        }
        r = take_one(store, entry->d_name, take, owner);
        if (r == -EUCLEAN || r == -ENOSPC)
            (*ret_damaged)++;
        if (r == -EUCLEAN || r == -ENOSPC || r == -ENOENT)
            r = 0;
    }
    (void)closedir(dir);
    return r < 0 ? bg_err_errno(err, r, "the store of approvals") : 0;
}

int fs_store_keep(struct fs_store *store, const struct fs_pin_note *note, struct bg_err *err)
{
    char name[NAME_SIZE + 1], sum[NAME_SIZE + 1];
    name_of(note->path, name);
    struct kept *kept = find(store, name);
    if (note->forget) {
        if (kept)
            forget(store, kept); /* before: the event is ours */
        if (unlinkat(store->dir_fd, name, 0) < 0 && errno != ENOENT)
            return bg_err_errno(err, -errno, "forgetting an approval");
        return 0;
    }
    size_t before = kept ? kept->size : 0;
    if ((!kept && store->count == BG_GUARD_FILES_MAX) ||
        store->bytes - before + note->size > BG_GUARD_BYTES_MAX)
        return bg_err_set(err, -ENOSPC, "there are too many approved files, or too large ones");
    BG_AUTOFREE uint8_t *bytes = malloc(FS_PIN_NOTE_MAX);
    if (!bytes)
        return bg_err_errno(err, -ENOMEM, "keeping an approval");
    size_t head = fs_pin_note_emit(note, bytes);
    if (note->size > 0)
        memcpy(bytes + head, note->bytes, note->size);
    int r = bg_write_file(store->dir_fd, name, bytes, head + note->size, 0600, err);
    if (r < 0)
        return r;
    /* If somebody has replaced or removed it meanwhile, an event tells. */
    bg_sha256_hex(bytes, head + note->size, sum);
    r = remember(store, name, note, sum);
    return r < 0 ? bg_err_errno(err, r, "keeping an approval") : 0;
}

int fs_store_watch_fd(const struct fs_store *store)
{
    return store->watch_fd;
}

static int take_event(struct fs_store *store, const struct inotify_event *event,
                      int (*take)(void *owner, const struct fs_pin_note *note), void *owner)
{
    if (event->len == 0 || !is_name(event->name))
        return 0;
    int r = take_one(store, event->name, take, owner);
    if (r == -EUCLEAN || r == -ENOSPC)
        return 0; /* as if it were not there */
    struct kept *kept = r == -ENOENT ? find(store, event->name) : NULL;
    if (r != -ENOENT || !kept)
        return r == -ENOENT ? 0 : r;
    struct fs_pin_note note = {.forget = true};
    memcpy(note.path, kept->path, strlen(kept->path) + 1); /* it was in a note */
    forget(store, kept);
    return take(owner, &note);
}

int fs_store_changes(struct fs_store *store,
                     int (*take)(void *owner, const struct fs_pin_note *note), void *owner,
                     struct bg_err *err)
{
    union {
        struct inotify_event event; /* aligns */
        char bytes[16 * (sizeof(struct inotify_event) + NAME_MAX + 1)];
    } buffer;
    ssize_t n;
    int r = 0;
    while (r == 0 && (n = read(store->watch_fd, &buffer, sizeof buffer)) > 0)
        for (size_t at = 0; r == 0 && at < (size_t)n;) {
            const struct inotify_event *event = (const void *)(buffer.bytes + at);
            r = take_event(store, event, take, owner);
            at += sizeof *event + event->len;
        }
    return r < 0 ? bg_err_errno(err, r, "the store of approvals") : 0;
}
