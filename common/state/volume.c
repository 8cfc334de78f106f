#include "common/state/volume.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "common/io.h"
#include "common/quote.h"
#include "common/state/folder.h"
#include "common/state/qcow2.h"
#include "common/state/snapshot.h"

#define TEMP_PREFIX ".tmp-"
#define BLOCK_SIZE  512 /* what st_blocks counts, see stat(2) */

static uint64_t unix_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail with this clock */
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- the store ---- */

/* Opens STATE/volumes, making it. */
static int open_store(const struct bg_paths *paths, int *ret_fd, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/volumes", paths->state) < 0)
        return bg_err_errno(err, -ENOMEM, "volumes");
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return bg_err_errno(err, -errno, "cannot make %s", path);
    *ret_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret_fd < 0 ? bg_err_errno(err, -errno, "%s", path) : 0;
}

static bool is_temp(const char *name)
{
    return strncmp(name, TEMP_PREFIX, sizeof TEMP_PREFIX - 1) == 0;
}

static bool is_volume(const char *name)
{
    return bg_volume_id_ok(name, /* snapshot= */ false) ||
           bg_volume_id_ok(name, /* snapshot= */ true);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Opens it with its lock held, for who makes or removes one; what killed ones left is taken away.
 */
static int lock_store(const struct bg_paths *paths, int *ret_fd, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = -1;
    char **names;
    int r = open_store(paths, &fd, err);
    while (r == 0 && flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            r = bg_err_errno(err, -errno, "volumes");
    if (r < 0)
        return r;
    r = bg_folder_names(fd, is_temp, by_name, &names);
    if (r < 0)
        return bg_err_errno(err, r, "volumes");
    for (size_t i = 0; names[i]; i++)
        (void)(bg_folder_remove(fd, names[i]) < 0); /* the next one tries again */
    bg_folder_names_free(names);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

static int load(const struct bg_paths *paths, int store, const char *id, struct bg_volume *ret,
                struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *text = NULL;
    BG_AUTOFREE char *dir = NULL;
    size_t size;
    if (asprintf(&path, "%s/" BG_VOLUME_FILE, id) < 0 ||
        asprintf(&dir, "%s/volumes/%s", paths->state, id) < 0)
        return bg_err_errno(err, -ENOMEM, "volume");
    int r = bg_read_file(store, path, BG_MANIFEST_MAX, &text, &size, err);
    if (r < 0)
        return r;
    r = bg_volume_parse(text, size, ret, err);
    if (r == 0 && strcmp(ret->id, id) != 0) {
        bg_volume_done(ret);
        r = bg_err_set(err, -EUCLEAN, "it is of another one");
    }
    if (r < 0)
        return bg_err_prefix(err, "%s/" BG_VOLUME_FILE, dir);
    ret->dir = BG_TAKE(dir);
    return 0;
}

static int save(const struct bg_volume *v, int dir_fd, struct bg_err *err)
{
    BG_AUTOFREE char *text = bg_volume_emit(v);
    if (!text)
        return bg_err_errno(err, -ENOMEM, BG_VOLUME_FILE);
    return bg_write_file(dir_fd, BG_VOLUME_FILE, text, strlen(text), 0600, err);
}

static bool is_seen(const struct bg_volume *v, const char *owner)
{
    return !owner || v->owner[0] == '\0' || strcmp(v->owner, owner) == 0;
}

static int by_age(const void *a, const void *b)
{
    const struct bg_volume *left = a, *right = b;
    return left->created_ms != right->created_ms ? (left->created_ms < right->created_ms ? -1 : 1)
                                                 : strcmp(left->id, right->id);
}

static int list(const struct bg_paths *paths, int store, const char *owner, struct bg_volume **ret,
                size_t *ret_count, struct bg_err *err)
{
    char **names;
    int r = bg_folder_names(store, is_volume, by_name, &names);
    if (r < 0)
        return bg_err_errno(err, r, "volumes");
    size_t count = 0, used = 0;
    while (names[count])
        count++;
    struct bg_volume *all = calloc(count + 1, sizeof *all);
    for (size_t i = 0; all && i < count; i++) {
        /* Removed meanwhile, or damaged: it cannot be told whose it is. */
        if (load(paths, store, names[i], &all[used], NULL) < 0)
            continue;
        if (is_seen(&all[used], owner))
            used++;
        else
            bg_volume_done(&all[used]);
    }
    bg_folder_names_free(names);
    if (!all)
        return bg_err_errno(err, -ENOMEM, "volumes");
    qsort(all, used, sizeof *all, by_age);
    *ret = all;
    *ret_count = used;
    return 0;
}

int bg_volume_list(const struct bg_paths *paths, const char *owner, struct bg_volume **ret,
                   size_t *ret_count, struct bg_err *err)
{
    BG_AUTOCLOSE int store = -1;
    int r = open_store(paths, &store, err);
    return r < 0 ? r : list(paths, store, owner, ret, ret_count, err);
}

void bg_volume_list_free(struct bg_volume *volumes, size_t count)
{
    for (size_t i = 0; volumes && i < count; i++)
        bg_volume_done(&volumes[i]);
    free(volumes);
}

static int unknown(const char *name, struct bg_err *err)
{
    char quoted[BG_VOLUME_SLUG_MAX * 2];
    return bg_err_set(err, -ENOMEDIUM, "there is no volume or snapshot %s",
                      bg_quote(name, quoted, sizeof quoted));
}

int bg_volume_find(const struct bg_paths *paths, const char *owner, const char *name,
                   struct bg_volume *ret, struct bg_err *err)
{
    BG_AUTOCLOSE int store = -1;
    int r = open_store(paths, &store, err);
    if (r < 0)
        return r;
    if (is_volume(name)) {
        struct bg_volume v;
        r = load(paths, store, name, &v, err);
        if (r == 0 && is_seen(&v, owner)) {
            *ret = v;
            return 0;
        }
        if (r == 0)
            bg_volume_done(&v);
        return r == 0 || r == -ENOENT ? unknown(name, err) : r;
    }
    struct bg_volume *all;
    size_t count, own = 0, common = 0, found = 0;
    r = list(paths, store, owner, &all, &count, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        if (strcmp(all[i].slug, name) == 0) {
            bool is_common = all[i].owner[0] == '\0';
            if (!is_common || own == 0)
                found = i;
            own += !is_common;
            common += is_common;
        }
    if (own + common == 0)
        r = unknown(name, err);
    else if (own > 1)
        r = bg_err_set(err, -EINVAL, "'%s' is the name of several: give one's id", name);
    else {
        *ret = all[found];
        all[found] = (struct bg_volume){0};
    }
    bg_volume_list_free(all, count);
    return r;
}

/* ---- locks ---- */

int bg_volume_lock(const struct bg_volume *volume, bool shared, int *ret_fd, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = open(volume->dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? unknown(volume->slug, err)
                               : bg_err_errno(err, -errno, "%s", volume->dir);
    if (flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) < 0)
        return errno == EWOULDBLOCK
                   ? bg_err_set(err, -EBUSY, "'%s' is in use: a sandbox or a command has it",
                                volume->slug)
                   : bg_err_errno(err, -errno, "%s", volume->dir);
    struct stat open_one, named;
    if (fstat(fd, &open_one) < 0 || stat(volume->dir, &named) < 0 ||
        open_one.st_ino != named.st_ino)
        return unknown(volume->slug, err); /* it was removed before we had the lock */
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

bool bg_volume_in_use(const struct bg_volume *volume)
{
    BG_AUTOCLOSE int fd = -1;
    return bg_volume_lock(volume, /* shared= */ true, &fd, NULL) == -EBUSY;
}

/* ---- disks ---- */

/* A new layer of one for data. It is there before disk.json says so. */
static int make_top(int dir_fd, uint64_t capacity, struct bg_disk *disk, struct bg_err *err)
{
    unsigned uid, gid;
    char id[BG_LAYER_ID_SIZE];
    bg_layer_new_id(id);
    if (disk->count >= BG_VOLUME_LAYERS_MAX)
        return bg_err_set(err, -EMLINK, "its disk has %d layers, as many as there may be",
                          BG_VOLUME_LAYERS_MAX);
    int r = bg_disk_push(disk, id, disk->count == 0 ? BG_DISK_FIRST : NULL, err);
    if (r < 0)
        return r;
    const char *file = disk->layers[disk->count - 1].file;
    BG_AUTOFREE uint8_t *bytes = calloc(1, QCOW2_EMPTY_SIZE);
    if (!bytes)
        return bg_err_errno(err, -ENOMEM, "disk");
    qcow2_emit_empty(capacity, bytes);
    BG_AUTOCLOSE int fd = openat(dir_fd, file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    r = fd < 0 ? -errno : bg_write_full(fd, bytes, QCOW2_EMPTY_SIZE);
    bg_runner_ids(&uid, &gid);
    if (r == 0 && geteuid() == 0 && fchown(fd, uid, gid) < 0)
        r = -errno;
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    if (r < 0)
        return bg_err_errno(err, r, "%s", file);
    disk->top = true;
    return bg_disk_save(dir_fd, disk, err);
}

int bg_volume_open_disk(const struct bg_volume *volume, int dir_fd, struct bg_disk *ret,
                        struct bg_err *err)
{
    struct bg_disk disk = {0};
    int r = bg_disk_load(dir_fd, &disk, err);
    if (r == 0 && strcmp(disk.golden, BG_VOLUME_NO_GOLDEN) != 0)
        r = bg_err_set(err, -EUCLEAN, BG_DISK_FILE " is none of a volume for data");
    if (r == 0 && !disk.top)
        r = make_top(dir_fd, volume->capacity, &disk, err);
    if (r == 0)
        r = bg_disk_tidy(dir_fd, &disk, err);
    if (r < 0) {
        bg_disk_done(&disk);
        return bg_err_prefix(err, "volume '%s'", volume->slug);
    }
    *ret = disk;
    return 0;
}

int bg_volume_set_ready(const struct bg_volume *volume, struct bg_err *err)
{
    struct bg_volume changed = *volume; /* borrows all */
    changed.ready = true;
    BG_AUTOCLOSE int dir = open(volume->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return dir < 0 ? bg_err_errno(err, -errno, "%s", volume->dir) : save(&changed, dir, err);
}

/* Links frozen layers, and the disk.json of one that goes on from them. */
static int link_disk(int from_fd, int to_fd, const struct bg_disk *disk, struct bg_err *err)
{
    struct bg_disk copy = {0};
    int r = 0;
    copy.golden = strdup(disk->golden);
    if (!copy.golden)
        r = bg_err_errno(err, -ENOMEM, "disk");
    for (size_t i = 0; r == 0 && i < disk->count; i++) {
        r = bg_disk_push(&copy, disk->layers[i].id, NULL, err);
        if (r == 0)
            r = bg_layer_link(from_fd, disk->layers[i].file, to_fd, copy.layers[i].file, err);
    }
    if (r == 0)
        r = bg_disk_save(to_fd, &copy, err);
    bg_disk_done(&copy);
    return r;
}

int bg_volume_fork_into(const struct bg_volume *snapshot, int dir_fd, struct bg_err *err)
{
    BG_AUTOCLOSE int from = -1;
    struct bg_disk disk = {0};
    int r = bg_volume_lock(snapshot, /* shared= */ true, &from, err);
    if (r < 0)
        return r;
    r = bg_disk_load(from, &disk, err);
    if (r == -ENOENT && snapshot->image_digest)
        return 0; /* it was taken before its volume was first booted */
    if (r == 0)
        r = link_disk(from, dir_fd, &disk, err);
    bg_disk_done(&disk);
    return r < 0 ? bg_err_prefix(err, "snapshot '%s'", snapshot->slug) : 0;
}

void bg_volume_sizes(const struct bg_volume *volume, uint64_t *ret_own, uint64_t *ret_all)
{
    BG_AUTOCLOSE int dir = open(volume->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct bg_disk disk = {0};
    struct stat st;
    *ret_own = *ret_all = 0;
    if (dir < 0 || bg_disk_load(dir, &disk, NULL) < 0)
        return; /* it has no disk yet, or is going away */
    for (size_t i = 0; i < disk.count; i++)
        if (fstatat(dir, disk.layers[i].file, &st, AT_SYMLINK_NOFOLLOW) == 0) {
            uint64_t bytes = (uint64_t)st.st_blocks * BLOCK_SIZE;
            *ret_all += bytes;
            *ret_own += st.st_nlink == 1 ? bytes : 0;
        }
    bg_disk_done(&disk);
}

/* ---- making and removing ---- */

/* A slug is unique among what its owner sees. */
static int check_new(const struct bg_paths *paths, int store, const char *slug, const char *owner,
                     struct bg_err *err)
{
    char quoted[BG_VOLUME_SLUG_MAX * 2];
    struct bg_volume *all;
    size_t count;
    if (!bg_volume_slug_ok(slug))
        return bg_err_set(err, -EINVAL,
                          "slug %s: want 2 to %d of a-z, 0-9 and '-', without '-' at its ends or "
                          "'--' in third place",
                          bg_quote(slug, quoted, sizeof quoted), BG_VOLUME_SLUG_MAX);
    int r = list(paths, store, NULL, &all, &count, err);
    if (r < 0)
        return r;
    if (count >= BG_VOLUMES_MAX)
        r = bg_err_set(err, -EUSERS,
                       "there are %d volumes and snapshots already: remove some first",
                       BG_VOLUMES_MAX);
    for (size_t i = 0; r == 0 && i < count; i++)
        if (strcmp(all[i].slug, slug) == 0 && is_seen(&all[i], owner))
            r = bg_err_set(err, -EEXIST, "the slug '%s' is in use: a %s has it", slug,
                           all[i].snapshot ? "snapshot" : "volume");
    bg_volume_list_free(all, count);
    return r;
}

/* The folder of a new one, with a temporary name. */
static int make_temp(int store, const struct bg_volume *v, char name[40], int *ret_fd,
                     struct bg_err *err)
{
    (void)snprintf(name, 40, TEMP_PREFIX "%s", v->id); /* fits */
    if (mkdirat(store, name, 0700) < 0)
        return bg_err_errno(err, -errno, "volumes: cannot make a folder");
    *ret_fd = openat(store, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return *ret_fd < 0 ? bg_err_errno(err, -errno, "%s", name) : 0;
}

/* Gives it its name, with all in it made durable; or takes it away. */
static int settle(int store, const char *temp, int dir, const struct bg_volume *v, int r,
                  struct bg_err *err)
{
    if (r == 0)
        r = save(v, dir, err);
    if (r == 0 && (fsync(dir) < 0 || renameat(store, temp, store, v->id) < 0 || fsync(store) < 0))
        r = bg_err_errno(err, -errno, "%s", v->id);
    if (r < 0)
        (void)(bg_folder_remove(store, temp) < 0); /* the next one's maker would do it too */
    return r;
}

static char *copy(const char *text)
{
    return text ? strdup(text) : NULL;
}

static int describe(const struct bg_paths *paths, const char *slug, const char *owner,
                    const char *region, const char *image_name, const char *image_digest,
                    bool snapshot, const struct bg_volume *source, struct bg_volume *v,
                    struct bg_err *err)
{
    uint8_t random[(BG_VOLUME_ID_SIZE - 5) / 2];
    bg_random(random, sizeof random);
    memcpy(v->id, snapshot ? "snp_" : "vol_", 4);
    bg_hex(random, sizeof random, v->id + 4);
    v->snapshot = snapshot;
    v->created_ms = unix_ms();
    (void)snprintf(v->slug, sizeof v->slug, "%s", slug);
    v->owner = strdup(owner);
    v->region = strdup(region);
    v->image_name = copy(image_name);
    v->image_digest = copy(image_digest);
    if (source) {
        memcpy(v->source.id, source->id, sizeof v->source.id);
        memcpy(v->source.slug, source->slug, sizeof v->source.slug);
    }
    if (!v->owner || !v->region || (image_digest && (!v->image_name || !v->image_digest)) ||
        asprintf(&v->dir, "%s/volumes/%s", paths->state, v->id) < 0) {
        v->dir = NULL;
        return bg_err_errno(err, -ENOMEM, "volume");
    }
    return 0;
}

/* The disk of a new volume. */
static int make_disk(int dir, const struct bg_volume *from, struct bg_volume *v, struct bg_err *err)
{
    if (from && from->image_digest)
        return bg_volume_fork_into(from, dir, err);
    if (v->image_digest)
        return 0; /* its first boot makes it */
    struct bg_disk disk = {0};
    int r = 0;
    if (from) {
        r = bg_volume_fork_into(from, dir, err);
        if (r == 0)
            r = bg_disk_load(dir, &disk, err);
    } else {
        disk.golden = strdup(BG_VOLUME_NO_GOLDEN);
        r = disk.golden ? 0 : bg_err_errno(err, -ENOMEM, "volume");
    }
    if (r == 0)
        r = make_top(dir, v->capacity, &disk, err);
    bg_disk_done(&disk);
    return r;
}

int bg_volume_create(const struct bg_paths *paths, const struct bg_volume_opts *opts,
                     struct bg_volume *ret, struct bg_err *err)
{
    const struct bg_volume *from = opts->from;
    struct bg_volume v = {.capacity = opts->capacity};
    char temp[40] = "";
    BG_AUTOCLOSE int store = -1;
    BG_AUTOCLOSE int dir = -1;
    if (from && opts->capacity < from->capacity)
        return bg_err_set(
            err, -EINVAL,
            "capacity: snapshot '%s' has %llu bytes, and a volume from it cannot have "
            "fewer",
            from->slug, (unsigned long long)from->capacity);
    int r = lock_store(paths, &store, err);
    if (r == 0)
        r = check_new(paths, store, opts->slug, opts->owner, err);
    if (r == 0)
        r = describe(paths, opts->slug, opts->owner, opts->region,
                     from ? from->image_name : opts->image_name,
                     from ? from->image_digest : opts->image_digest, /* snapshot= */ false, from,
                     &v, err);
    /* A bootable one is as large as its image's disk, whatever was asked for. */
    v.ready = v.image_digest || (from && from->ready && from->capacity == v.capacity);
    if (r == 0)
        r = make_temp(store, &v, temp, &dir, err);
    if (r == 0)
        r = make_disk(dir, from, &v, err);
    if (temp[0])
        r = settle(store, temp, dir, &v, r, err);
    if (r < 0) {
        bg_volume_done(&v);
        return r;
    }
    *ret = v;
    return 0;
}

/* A QEMU whose launcher was killed ends a moment after it, and writes until then. */
static bool is_written(int dir, const char *file)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = BG_QEMU_LOCK_WRITE, .l_len = 1};
    BG_AUTOCLOSE int fd = openat(dir, file, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    return fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* From here on nobody writes what is its top now. Its disk.json says so before anybody stands on
 * it. */
static int freeze(int dir, const struct bg_volume *volume, struct bg_disk *disk, struct bg_err *err)
{
    size_t max = volume->image_digest ? BG_DISK_LAYERS_MAX : BG_VOLUME_LAYERS_MAX;
    if (!disk->top)
        return 0;
    if (disk->count >= max)
        return bg_err_set(err, -EMLINK,
                          "its disk has %zu layers, one for each snapshot of it and of those it "
                          "came from, and there may be no more: copy its files to a new volume",
                          disk->count);
    if (is_written(dir, disk->layers[disk->count - 1].file))
        return bg_err_set(err, -EBUSY, "'%s' is in use: what had it is ending", volume->slug);
    disk->top = false;
    int r = bg_disk_save(dir, disk, err);
    return r < 0 ? r : bg_layer_freeze(dir, disk->layers[disk->count - 1].file, err);
}

int bg_volume_snapshot(const struct bg_paths *paths, const struct bg_volume *volume,
                       const char *slug, struct bg_volume *ret, struct bg_err *err)
{
    struct bg_volume v = {.capacity = volume->capacity, .ready = volume->ready};
    struct bg_disk disk = {0};
    char temp[40] = "";
    BG_AUTOCLOSE int store = -1;
    BG_AUTOCLOSE int dir = -1;
    BG_AUTOCLOSE int lock = -1;
    if (volume->snapshot)
        return bg_err_set(err, -EINVAL, "'%s' is a snapshot itself", volume->slug);
    int r = lock_store(paths, &store, err);
    if (r == 0)
        r = bg_volume_lock(volume, /* shared= */ false, &lock, err);
    if (r == 0)
        r = check_new(paths, store, slug, volume->owner, err);
    if (r == 0)
        r = describe(paths, slug, volume->owner, volume->region, volume->image_name,
                     volume->image_digest, /* snapshot= */ true, volume, &v, err);
    bool has_disk = false;
    if (r == 0) {
        r = bg_disk_load(lock, &disk, err);
        has_disk = r == 0;
        r = r == -ENOENT && volume->image_digest ? 0 : r; /* never booted */
    }
    if (r == 0 && has_disk)
        r = freeze(lock, volume, &disk, err);
    if (r == 0)
        r = make_temp(store, &v, temp, &dir, err);
    if (r == 0 && has_disk)
        r = link_disk(lock, dir, &disk, err);
    if (temp[0])
        r = settle(store, temp, dir, &v, r, err);
    bg_disk_done(&disk);
    if (r < 0) {
        bg_volume_done(&v);
        return r;
    }
    *ret = v;
    return 0;
}

int bg_volume_remove(const struct bg_paths *paths, const struct bg_volume *volume,
                     struct bg_err *err)
{
    char temp[40];
    BG_AUTOCLOSE int store = -1;
    BG_AUTOCLOSE int lock = -1;
    int r = lock_store(paths, &store, err);
    if (r == 0)
        r = bg_volume_lock(volume, /* shared= */ false, &lock, err);
    if (r < 0)
        return r == -ENOMEDIUM ? 0 : r;
    (void)snprintf(temp, sizeof temp, TEMP_PREFIX "%s", volume->id); /* fits */
    if (renameat(store, volume->id, store, temp) < 0)
        return bg_err_errno(err, -errno, "%s", volume->dir);
    r = bg_folder_remove(store, temp);
    return r < 0 ? bg_err_errno(err, r, "%s", volume->dir) : 0;
}
