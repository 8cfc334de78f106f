#include "host/changes/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "common/io.h"
#include "host/changes/scan.h"

#define PARTIAL "partial" /* the one that is being written */

static int cow_path(const struct bg_sandbox *sandbox, const struct bg_share *share, char **ret,
                    struct bg_err *err)
{
    if (asprintf(ret, "%s/cow/%u", sandbox->dir, share->id) < 0)
        return bg_err_errno(err, -ENOMEM, "share");
    return 0;
}

static int make_base(int dir, const char *host, struct bg_err *err)
{
    struct entries base;
    BG_AUTOCLOSE int root = open(host, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return bg_err_errno(err, -errno, "%s", host);
    int r = scan_folder(root, &base, err);
    if (r < 0)
        return bg_err_prefix(err, "%s", host);
    r = entries_save(&base, dir, "base.new", err);
    entries_done(&base);
    return r;
}

int store_create(const struct bg_sandbox *sandbox, const struct bg_share *share, struct bg_err *err)
{
    static const char *const old[] = {"base", "shown", "journal", "journal.commit"};
    BG_AUTOFREE char *path = NULL;
    int r = cow_path(sandbox, share, &path, err);
    if (r < 0)
        return r;
    BG_AUTOFREE char *above = strndup(path, (size_t)(strrchr(path, '/') - path));
    if (!above)
        return bg_err_errno(err, -ENOMEM, "share");
    if ((mkdir(above, 0700) < 0 && errno != EEXIST) || (mkdir(path, 0700) < 0 && errno != EEXIST))
        return bg_err_errno(err, -errno, "%s", path);
    BG_AUTOCLOSE int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0 || (mkdirat(dir, "contents", 0700) < 0 && errno != EEXIST))
        return bg_err_errno(err, -errno, "%s", path);
    for (size_t i = 0; i < sizeof old / sizeof *old; i++)
        if (unlinkat(dir, old[i], 0) < 0 && errno != ENOENT)
            return bg_err_errno(err, -errno, "%s/%s", path, old[i]);
    return make_base(dir, share->host, err);
}

int store_open(const struct bg_sandbox *sandbox, const struct bg_share *share, struct store *ret,
               struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    int r = cow_path(sandbox, share, &path, err);
    if (r < 0)
        return r;
    struct store store = {.share = share, .dir = -1, .contents = -1, .lock = -1};
    store.dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store.dir >= 0)
        store.contents = openat(store.dir, "contents", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store.contents >= 0)
        store.lock = openat(store.dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (store.lock < 0)
        r = bg_err_errno(err, -errno, "%s", path);
    else if (flock(store.lock, LOCK_EX | LOCK_NB) < 0)
        r = bg_err_set(err, -EBUSY, "another diff, apply or discard of this sandbox is running");
    if (r < 0) {
        store_close(&store);
        return r;
    }
    *ret = store;
    return 0;
}

void store_close(struct store *store)
{
    bg_cleanup_close(&store->dir);
    bg_cleanup_close(&store->contents);
    bg_cleanup_close(&store->lock);
}

/* ---- contents ---- */

int store_begin(const struct store *store, struct store_file *file, struct bg_err *err)
{
    file->fd = openat(store->contents, PARTIAL, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file->fd < 0)
        return bg_err_errno(err, -errno, "contents");
    bg_sha256_init(&file->hash);
    return 0;
}

int store_write(struct store_file *file, const void *bytes, size_t size, struct bg_err *err)
{
    bg_sha256_update(&file->hash, bytes, size);
    int r = bg_write_full(file->fd, bytes, size);
    return r < 0 ? bg_err_errno(err, r, "contents") : 0;
}

int store_keep(const struct store *store, struct store_file *file, uint8_t ret_hash[BG_SHA256_SIZE],
               struct bg_err *err)
{
    char name[2 * BG_SHA256_SIZE + 1];
    bg_cleanup_close(&file->fd);
    file->fd = -1;
    bg_sha256_final(&file->hash, ret_hash);
    bg_hex(ret_hash, BG_SHA256_SIZE, name);
    /* Not synced: after a crash the hash is wrong, and apply says so. */
    if (renameat(store->contents, PARTIAL, store->contents, name) < 0)
        return bg_err_errno(err, -errno, "contents");
    return 0;
}

void store_drop(const struct store *store, struct store_file *file)
{
    if (file->fd < 0)
        return;
    bg_cleanup_close(&file->fd);
    file->fd = -1;
    (void)unlinkat(store->contents, PARTIAL, 0); /* the next one overwrites it */
}

int store_read(const struct store *store, const uint8_t hash[BG_SHA256_SIZE])
{
    char name[2 * BG_SHA256_SIZE + 1];
    bg_hex(hash, BG_SHA256_SIZE, name);
    int fd = openat(store->contents, name, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int compare_hashes(const void *a, const void *b)
{
    return memcmp(a, b, BG_SHA256_SIZE);
}

static bool hash_of_name(const char *name, uint8_t out[BG_SHA256_SIZE])
{
    for (size_t i = 0; i < BG_SHA256_SIZE; i++) {
        int high = bg_hex_digit(name[2 * i]);
        int low = high < 0 ? -1 : bg_hex_digit(name[2 * i + 1]);
        if (low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return name[2 * BG_SHA256_SIZE] == '\0';
}

void store_sweep(const struct store *store, const struct entries *entries)
{
    size_t count = 0;
    BG_AUTOFREE uint8_t *kept = calloc(entries->count + 1, BG_SHA256_SIZE);
    int fd = openat(store->contents, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (!folder || !kept) {
        bg_cleanup_close(&fd); /* the next one sweeps */
        return;
    }
    for (size_t i = 0; i < entries->count; i++)
        if (entries->list[i].has_hash)
            memcpy(kept + BG_SHA256_SIZE * count++, entries->list[i].hash, BG_SHA256_SIZE);
    qsort(kept, count, BG_SHA256_SIZE, compare_hashes);
    for (const struct dirent *d; (d = readdir(folder));) {
        uint8_t hash[BG_SHA256_SIZE];
        if (hash_of_name(d->d_name, hash) &&
            !bsearch(hash, kept, count, BG_SHA256_SIZE, compare_hashes))
            (void)unlinkat(fd, d->d_name, 0); /* likewise */
    }
    (void)closedir(folder); /* only read from */
}
