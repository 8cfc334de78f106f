#include "host/cli/archive_golden.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <jansson.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/state/disk.h"
#include "common/state/folder.h"
#include "host/cli/archive_format.h"

#define KEY_DIGITS 32
#define TAG_DIGITS 8

/* "golden-KEY.TAG" */
static bool name_ok(const char *name)
{
    static const char prefix[] = "golden-", hex[] = "0123456789abcdef";
    const char *key = name + sizeof prefix - 1;
    return bg_golden_name_ok(name) && strspn(key, hex) == KEY_DIGITS && key[KEY_DIGITS] == '.' &&
           strlen(key) == KEY_DIGITS + 1 + TAG_DIGITS &&
           strspn(key + KEY_DIGITS + 1, hex) == TAG_DIGITS;
}

static int open_store(const struct bg_paths *paths, int *ret_fd, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/snapshots", paths->data) < 0)
        return bg_err_errno(err, -ENOMEM, "golden snapshot");
    if (mkdir(path, geteuid() == 0 ? 0711 : 0700) < 0 && errno != EEXIST)
        return bg_err_errno(err, -errno, "%s", path);
    *ret_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret_fd < 0 ? bg_err_errno(err, -errno, "%s", path) : 0;
}

static int take_lock(struct archive_golden *g, const char *key, struct bg_err *err)
{
    char lock[64];
    (void)snprintf(lock, sizeof lock, ".lock-%.32s", key);
    g->lock_fd = openat(g->store_fd, lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (g->lock_fd < 0)
        return bg_err_errno(err, -errno, "%s", lock);
    if (flock(g->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return bg_err_set(err, -EBUSY,
                          "another command is making the golden snapshot of its kind: try again "
                          "when that is done");
    return 0;
}

int archive_golden_begin(const struct bg_paths *paths, const char *name, struct archive_golden *ret,
                         struct bg_err *err)
{
    struct archive_golden g = {.store_fd = -1, .lock_fd = -1, .dir_fd = -1};
    if (!name_ok(name))
        return bg_err_set(err, -EUCLEAN, "its golden snapshot has no such name as they have");
    const char *key = strchr(name, '-') + 1;
    (void)snprintf(g.name, sizeof g.name, "%s", name); /* fits: it was checked */
    int r = open_store(paths, &g.store_fd, err);
    if (r == 0)
        r = take_lock(&g, key, err);
    if (r == 0 && faccessat(g.store_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0) {
        (void)snprintf(g.temp, sizeof g.temp, ".tmp-%.32s", key);
        r = bg_folder_remove(g.store_fd, g.temp); /* of one that died: the lock is ours */
        if (r == 0 && mkdirat(g.store_fd, g.temp, 0700) < 0)
            r = -errno;
        if (r == 0)
            g.dir_fd = openat(g.store_fd, g.temp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (r < 0 || g.dir_fd < 0)
            r = bg_err_errno(err, r < 0 ? r : -errno, "golden snapshot %s", name);
    }
    if (r < 0) {
        archive_golden_done(&g);
        return r;
    }
    *ret = g;
    return 0;
}

static int note_file(json_t *old, json_t *files, int dir_fd, const char *name, struct bg_err *err)
{
    struct stat st;
    BG_AUTOCLOSE int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    /* As those that were made here: readable by the unprivileged QEMU, written by nobody. */
    if (fd < 0 || (geteuid() == 0 && fchown(fd, 0, 0) < 0) || fchmod(fd, 0444) < 0 ||
        fsync(fd) < 0 || fstat(fd, &st) < 0)
        return errno == ENOENT ? bg_err_set(err, -EUCLEAN, "golden/%s is missing", name)
                               : bg_err_errno(err, -errno, "golden/%s", name);
    json_t *file = json_pack("{s:I, s:I, s:O*}", "size", (json_int_t)st.st_size, "mtime_ns",
                             (json_int_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec,
                             "sha256", json_object_get(json_object_get(old, name), "sha256"));
    return json_object_set_new(files, name, file) < 0 ? bg_err_errno(err, -ENOMEM, "golden") : 0;
}

static int write_manifest(int dir_fd, struct bg_err *err)
{
    BG_AUTOFREE char *text = NULL;
    size_t size;
    int r = bg_read_file(dir_fd, archive_golden_files[0], BG_MANIFEST_MAX, &text, &size, err);
    json_auto_t *json = r < 0 ? NULL : json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    json_t *old = json_object_get(json, "files");
    json_auto_t *files = json_object();
    if (r == 0 && (!json_is_object(old) || !files))
        r = bg_err_set(err, -EUCLEAN, "golden/manifest.json makes no sense");
    for (size_t i = 1; r == 0 && archive_golden_files[i]; i++)
        r = note_file(old, files, dir_fd, archive_golden_files[i], err);
    if (r < 0)
        return r;
    BG_AUTOFREE char *changed =
        json_object_set(json, "files", files) < 0 ? NULL : json_dumps(json, JSON_INDENT(2));
    return changed
               ? bg_write_file(dir_fd, archive_golden_files[0], changed, strlen(changed), 0644, err)
               : bg_err_errno(err, -ENOMEM, "golden/manifest.json");
}

int archive_golden_commit(struct archive_golden *golden, struct bg_err *err)
{
    if (golden->dir_fd < 0)
        return 0;
    int r = write_manifest(golden->dir_fd, err);
    if (r < 0)
        return r;
    r = bg_folder_sync(golden->dir_fd);
    if (r == 0 && geteuid() == 0 && fchmod(golden->dir_fd, 0755) < 0)
        r = -errno;
    if (r == 0 && syscall(SYS_renameat2, golden->store_fd, golden->temp, golden->store_fd,
                          golden->name, RENAME_NOREPLACE) < 0)
        r = -errno;
    if (r == 0 && fsync(golden->store_fd) < 0)
        r = -errno;
    if (r < 0)
        return bg_err_errno(err, r, "golden snapshot %s", golden->name);
    (void)close(golden->dir_fd); /* synced */
    golden->dir_fd = -1;
    return 0;
}

void archive_golden_done(struct archive_golden *golden)
{
    if (golden->dir_fd >= 0) {
        (void)close(golden->dir_fd);                                  /* it goes */
        (void)(bg_folder_remove(golden->store_fd, golden->temp) < 0); /* else the next one's */
    }
    if (golden->lock_fd >= 0)
        (void)close(golden->lock_fd); /* empty */
    if (golden->store_fd >= 0)
        (void)close(golden->store_fd); /* read only */
    *golden = (struct archive_golden){.store_fd = -1, .lock_fd = -1, .dir_fd = -1};
}
