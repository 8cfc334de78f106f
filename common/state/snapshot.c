#include "common/state/snapshot.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/checked.h"
#include "common/fault.h"
#include "common/io.h"
#include "common/quote.h"
#include "common/sha256.h"
#include "common/state/folder.h"

#define TEMP_PREFIX   ".tmp-"
#define ID_PREFIX_MIN 6
#define NUMBER_MAX    999999999 /* of the tags that we choose */
#define NAME_ATTEMPTS 1000      /* for a name that nobody else takes at that moment */

int bg_snapshot_open_store(const struct bg_paths *paths, int *ret_fd, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/snapshots", paths->state) < 0)
        return bg_err_errno(err, -ENOMEM, "snapshots");
    bool made = mkdir(path, 0700) == 0;
    if (!made && errno != EEXIST)
        return bg_err_errno(err, -errno, "cannot make %s", path);
    BG_AUTOCLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || (made && geteuid() == 0 && fchmod(fd, 0711) < 0))
        return bg_err_errno(err, -errno, "%s", path);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

/* ---- manifests ---- */

/* Errors: -EUCLEAN without a word of which snapshot it is. */
static int read_manifest(int dir_fd, char **ret, size_t *ret_size, struct bg_err *err)
{
    BG_AUTOFREE char *text = NULL;
    BG_AUTOFREE char *sum = NULL;
    size_t size = 0, sum_size = 0;
    int r = bg_read_file(dir_fd, BG_SNAPSHOT_MANIFEST, BG_MANIFEST_MAX, &text, &size, err);
    if (r == 0)
        r = bg_read_file(dir_fd, BG_SNAPSHOT_SUM, BG_NAME_MAX, &sum, &sum_size, err);
    if (r == -EFBIG || (r == -ENOENT && text))
        return bg_err_set(err, -EUCLEAN, "%s is %s", text ? BG_SNAPSHOT_SUM : BG_SNAPSHOT_MANIFEST,
                          r == -EFBIG ? "too large" : "missing");
    if (r < 0)
        return r;
    char want[BG_SHA256_SIZE * 2 + 2];
    bg_sha256_hex(text, size, want);
    want[sizeof want - 2] = '\n';
    if (sum_size != sizeof want - 1 || memcmp(sum, want, sizeof want - 1) != 0)
        return bg_err_set(err, -EUCLEAN, "%s is not what was written: its checksum is another",
                          BG_SNAPSHOT_MANIFEST);
    *ret = BG_TAKE(text);
    *ret_size = size;
    return 0;
}

int bg_snapshot_load_at(int dir_fd, struct bg_snapshot *ret, struct bg_err *err)
{
    BG_AUTOFREE char *text = NULL;
    size_t size;
    int r = read_manifest(dir_fd, &text, &size, err);
    if (r < 0)
        return r;
    r = bg_snapshot_parse(text, size, ret, err);
    if (r < 0)
        (void)bg_err_prefix(err, "%s", BG_SNAPSHOT_MANIFEST);
    return r;
}

int bg_snapshot_load_dir(const char *dir, struct bg_snapshot *ret, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", dir);
    int r = bg_snapshot_load_at(fd, ret, err);
    if (r < 0)
        (void)bg_err_prefix(err, "%s", dir);
    return r;
}

static int unknown(const char *name, struct bg_err *err)
{
    char quoted[BG_SNAPSHOT_NAME_SIZE + 32];
    return bg_err_set(err, -ENOENT, "no snapshot %s: see bellglass snapshot ls",
                      bg_quote(name, quoted, sizeof quoted));
}

/* Says which one it is, and the way out. */
static int damaged(const char *name, struct bg_err *err)
{
    struct bg_err why = err ? *err : (struct bg_err){0};
    return bg_err_set(err, -EUCLEAN,
                      "snapshot '%s' is damaged: %.300s; remove it: bellglass snapshot rm %s", name,
                      why.text, name);
}

int bg_snapshot_load(const struct bg_paths *paths, const char *name, struct bg_snapshot *ret,
                     struct bg_err *err)
{
    char source[BG_SANDBOX_NAME_MAX + 1], tag[BG_SANDBOX_NAME_MAX + 2];
    struct bg_snapshot s = {0};
    BG_AUTOFREE char *dir = NULL;
    BG_AUTOFREE char *own_name = strdup(name);
    if (!own_name || asprintf(&dir, "%s/snapshots/%s", paths->state, name) < 0)
        return bg_err_errno(err, -ENOMEM, "snapshot");
    if (!bg_snapshot_split(name, source, tag))
        return unknown(name, err);
    BG_AUTOCLOSE int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR ? unknown(name, err)
                                                   : bg_err_errno(err, -errno, "%s", dir);
    int r = bg_snapshot_load_at(fd, &s, err);
    if (r == 0 && (strcmp(s.source_name, source) != 0 || strcmp(s.tag, tag) != 0 ||
                   s.kind == BG_SNAPSHOT_SUSPEND))
        r = bg_err_set(err, -EUCLEAN, "%s is of %s '%s@%s'", BG_SNAPSHOT_MANIFEST,
                       bg_snapshot_kind_name(s.kind), s.source_name, s.tag);
    if (r == -ENOENT)
        r = bg_err_set(err, -EUCLEAN, "%s is missing", BG_SNAPSHOT_MANIFEST);
    if (r < 0) {
        bg_snapshot_done(&s);
        if (r == -EUCLEAN)
            return damaged(name, err);
        (void)bg_err_prefix(err, "snapshot '%s'", name);
        return r;
    }
    s.name = BG_TAKE(own_name);
    s.dir = BG_TAKE(dir);
    *ret = s;
    return 0;
}

int bg_snapshot_write(int dir_fd, const struct bg_snapshot *snapshot, struct bg_err *err)
{
    char sum[BG_SHA256_SIZE * 2 + 2];
    BG_AUTOFREE char *text = bg_snapshot_emit(snapshot);
    if (!text)
        return bg_err_errno(err, -ENOMEM, "%s", BG_SNAPSHOT_MANIFEST);
    bg_sha256_hex(text, strlen(text), sum);
    sum[sizeof sum - 2] = '\n';
    int r = bg_write_file(dir_fd, BG_SNAPSHOT_MANIFEST, text, strlen(text), 0644, err);
    return r < 0 ? r : bg_write_file(dir_fd, BG_SNAPSHOT_SUM, sum, sizeof sum - 1, 0644, err);
}

/* ---- files ---- */

int bg_layer_measure(int dir_fd, const char *file, struct bg_layer *layer, struct bg_err *err)
{
    struct stat st;
    if (fstatat(dir_fd, file, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? bg_err_set(err, -EUCLEAN, "%s is missing", file)
                               : bg_err_errno(err, -errno, "%s", file);
    if (!S_ISREG(st.st_mode))
        return bg_err_set(err, -EUCLEAN, "%s is not a file", file);
    layer->size = (uint64_t)st.st_size;
    layer->mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    return 0;
}

static int check_layer(int dir_fd, const char *file, const struct bg_layer *layer,
                       struct bg_err *err)
{
    struct bg_layer is;
    int r = bg_layer_measure(dir_fd, file, &is, err);
    if (r == 0 && (is.size != layer->size || is.mtime_ns != layer->mtime_ns))
        r = bg_err_set(err, -EUCLEAN, "%s was changed after the snapshot was made", file);
    return r;
}

static int check_memory(const struct bg_snapshot *s, int dir_fd, struct bg_err *err)
{
    char file[BG_LAYER_FILE_SIZE], sum[BG_SHA256_SIZE * 2 + 1];
    struct bg_layer state;
    int r = 0;
    for (size_t i = 0; r == 0 && i < s->memory_count; i++) {
        bg_layer_memory_file(s->memory[i].id, file);
        r = check_layer(dir_fd, file, &s->memory[i], err);
    }
    if (r < 0 || s->kind == BG_SNAPSHOT_DISK)
        return r;
    r = bg_layer_measure(dir_fd, BG_SNAPSHOT_STATE, &state, err);
    if (r == 0 && state.size != s->state_size)
        return bg_err_set(err, -EUCLEAN, "%s was changed after the snapshot was made",
                          BG_SNAPSHOT_STATE);
    if (r == 0)
        r = bg_sha256_file(dir_fd, BG_SNAPSHOT_STATE, sum, NULL, err);
    if (r == 0 && strcmp(sum, s->state_sha256) != 0)
        r = bg_err_set(err, -EUCLEAN, "%s: its checksum is not the one in %s", BG_SNAPSHOT_STATE,
                       BG_SNAPSHOT_MANIFEST);
    return r;
}

static int check_disk(const struct bg_snapshot *s, int dir_fd, struct bg_err *err)
{
    char file[BG_LAYER_FILE_SIZE];
    int r = 0;
    for (size_t i = 0; r == 0 && i < s->disk_count; i++) {
        bg_layer_disk_file(s->disk[i].id, file);
        r = check_layer(dir_fd, file, &s->disk[i], err);
    }
    return r;
}

/* Memory that is damaged does no harm to the disk. */
static int say_damage(const struct bg_snapshot *s, int r, struct bg_err *err)
{
    return r == -EUCLEAN && s->name ? damaged(s->name, err) : r;
}

int bg_snapshot_check_memory(const struct bg_snapshot *snapshot, int dir_fd, struct bg_err *err)
{
    return say_damage(snapshot, check_memory(snapshot, dir_fd, err), err);
}

int bg_snapshot_check_files(const struct bg_snapshot *snapshot, int dir_fd, struct bg_err *err)
{
    int r = check_memory(snapshot, dir_fd, err);
    if (r == 0)
        r = check_disk(snapshot, dir_fd, err);
    return say_damage(snapshot, r, err);
}

/* ---- the store ---- */

/* By source, then by tag. */
static int by_name(const void *left, const void *right)
{
    const char *a = *(char *const *)left, *b = *(char *const *)right;
    size_t size = strcspn(a, "@"), other = strcspn(b, "@");
    int order = memcmp(a, b, size < other ? size : other);
    return order != 0      ? order
           : size != other ? (size < other ? -1 : 1)
                           : strverscmp(a + size, b + size);
}

static int list(int store_fd, bool (*wanted)(const char *name), char ***ret, struct bg_err *err)
{
    int r = bg_folder_names(store_fd, wanted, by_name, ret);
    return r < 0 ? bg_err_errno(err, r, "snapshots") : 0;
}

int bg_snapshot_names(const struct bg_paths *paths, char ***ret_names, struct bg_err *err)
{
    BG_AUTOCLOSE int store = -1;
    int r = bg_snapshot_open_store(paths, &store, err);
    return r < 0 ? r : list(store, bg_snapshot_name_ok, ret_names, err);
}

static bool tag_is(const char *name, const char *tag)
{
    return strcmp(strchr(name, '@') + 1, tag) == 0; /* a name of the store has its '@' */
}

static bool id_begins(const struct bg_paths *paths, const char *name, const char *prefix)
{
    struct bg_snapshot s;
    if (bg_snapshot_load(paths, name, &s, NULL) < 0)
        return false;
    bool same = strncmp(s.id, prefix, strlen(prefix)) == 0;
    bg_snapshot_done(&s);
    return same;
}

int bg_snapshot_resolve(const struct bg_paths *paths, const char *text, char **ret_name,
                        struct bg_err *err)
{
    char **names;
    char quoted[BG_SNAPSHOT_NAME_SIZE + 32];
    int r = bg_snapshot_names(paths, &names, err);
    if (r < 0)
        return r;
    bool whole = strchr(text, '@') != NULL;
    size_t digits = strspn(text, "0123456789abcdef");
    const char *found = NULL, *other = NULL;
    for (size_t i = 0; names[i]; i++)
        if (whole ? strcmp(names[i], text) == 0 : tag_is(names[i], text)) {
            other = found;
            found = names[i];
        }
    /* Ids last: who calls a snapshot "deadbeef" means that one. */
    if (!found && digits == strlen(text) && digits >= ID_PREFIX_MIN)
        for (size_t i = 0; names[i]; i++)
            if (id_begins(paths, names[i], text)) {
                other = found;
                found = names[i];
            }
    char *copy = found && !other ? strdup(found) : NULL;
    if (!found)
        r = unknown(text, err);
    else if (other)
        r = bg_err_set(err, -EINVAL, "%s: '%s' and '%s' are called so: give one's whole name",
                       bg_quote(text, quoted, sizeof quoted), other, found);
    else if (!copy)
        r = bg_err_errno(err, -ENOMEM, "snapshot");
    bg_sandbox_names_free(names);
    if (r == 0)
        *ret_name = copy;
    return r;
}

/* ---- making and removing ---- */

static void temp_name(char out[BG_SNAPSHOT_TEMP_SIZE])
{
    uint32_t tag;
    bg_random(&tag, sizeof tag);
    (void)snprintf(out, BG_SNAPSHOT_TEMP_SIZE, TEMP_PREFIX "%08x", tag); /* fits */
}

static bool is_temp(const char *name)
{
    return strncmp(name, TEMP_PREFIX, sizeof TEMP_PREFIX - 1) == 0 &&
           strlen(name) == BG_SNAPSHOT_TEMP_SIZE - 1;
}

/* True if the name still stands for the open folder. */
static bool is_still(int store_fd, const char *name, int fd)
{
    struct stat open, named;
    return fstat(fd, &open) == 0 && fstatat(store_fd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           open.st_ino == named.st_ino && open.st_dev == named.st_dev;
}

int bg_snapshot_begin(const struct bg_paths *paths, int *ret_fd, char **ret_temp_name,
                      struct bg_err *err)
{
    BG_AUTOCLOSE int store = -1;
    int r = bg_snapshot_open_store(paths, &store, err);
    if (r < 0)
        return r;
    BG_AUTOFREE char *name = malloc(BG_SNAPSHOT_TEMP_SIZE);
    if (!name)
        return bg_err_errno(err, -ENOMEM, "snapshot");
    for (int attempt = 0; attempt < NAME_ATTEMPTS; attempt++) {
        temp_name(name);
        if (mkdirat(store, name, 0700) < 0) {
            if (errno == EEXIST)
                continue;
            return bg_err_errno(err, -errno, "%s/snapshots: cannot make a folder", paths->state);
        }
        BG_AUTOCLOSE int fd = openat(store, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        /* A sweep that came between had the lock, and took the folder for a dead one's. */
        if (fd < 0 && errno == ENOENT)
            continue;
        while (fd >= 0 && flock(fd, LOCK_EX) < 0 && errno == EINTR)
            ;
        if (fd < 0)
            return bg_err_errno(err, -errno, "%s/snapshots/%s", paths->state, name);
        if (!is_still(store, name, fd))
            continue;
        *ret_fd = bg_take_fd(&fd);
        *ret_temp_name = BG_TAKE(name);
        return 0;
    }
    return bg_err_set(err, -EAGAIN, "%s/snapshots: no free name", paths->state);
}

/* The number after the largest of this source's tags. */
static int next_number(int store_fd, const char *source, uint64_t *ret, struct bg_err *err)
{
    char **names;
    char own[BG_SANDBOX_NAME_MAX + 1], tag[BG_SANDBOX_NAME_MAX + 2];
    uint64_t number, last = 0;
    int r = list(store_fd, bg_snapshot_name_ok, &names, err);
    if (r < 0)
        return r;
    for (size_t i = 0; names[i]; i++)
        if (bg_snapshot_split(names[i], own, tag) && strcmp(own, source) == 0 &&
            bg_parse_u64(tag, 0, NUMBER_MAX, &number) == 0 && number > last)
            last = number;
    bg_sandbox_names_free(names);
    *ret = last + 1;
    return 0;
}

/* The manifest repeats the folder's name. */
static int put_tag(int temp_fd, const char *source, const char *tag, struct bg_err *err)
{
    struct bg_snapshot s;
    int r = bg_snapshot_load_at(temp_fd, &s, err);
    if (r < 0)
        return r;
    if (strcmp(s.source_name, source) != 0)
        r = bg_err_set(err, -EINVAL, "a snapshot of '%s' is none of '%s'", s.source_name, source);
    if (r == 0 && strcmp(s.tag, tag) != 0) {
        char *copy = strdup(tag);
        free(s.tag);
        s.tag = copy;
        r = copy ? bg_snapshot_write(temp_fd, &s, err) : bg_err_errno(err, -ENOMEM, "tag");
    }
    bg_snapshot_done(&s);
    return r;
}

static int rename_new(int store_fd, const char *from, const char *to)
{
    return syscall(SYS_renameat2, store_fd, from, store_fd, to, RENAME_NOREPLACE) < 0 ? -errno : 0;
}

static int commit_as(int store_fd, int temp_fd, const char *temp, const char *source,
                     const char *tag, char **ret_name, struct bg_err *err)
{
    BG_AUTOFREE char *name = NULL;
    if (asprintf(&name, "%s@%s", source, tag) < 0)
        return bg_err_errno(err, -ENOMEM, "snapshot");
    if (!bg_snapshot_name_ok(name))
        return bg_err_set(err, -EINVAL,
                          "a tag is made of a-z, 0-9, '.', '_', '-', at most %d, and begins with a "
                          "letter or digit",
                          BG_SANDBOX_NAME_MAX);
    int r = put_tag(temp_fd, source, tag, err);
    if (r < 0)
        return r;
    r = bg_folder_sync(temp_fd);
    if (r < 0)
        return bg_err_errno(err, r, "snapshot '%s'", name);
    (void)bg_fault("store-written");
    r = rename_new(store_fd, temp, name);
    (void)bg_fault("store-renamed");
    if (r == -EEXIST)
        return bg_err_set(err, r,
                          "snapshot '%s' is there already: choose another tag, or remove it: "
                          "bellglass snapshot rm %s",
                          name, name);
    if (r == 0 && fsync(store_fd) < 0)
        r = -errno;
    if (r < 0)
        return bg_err_errno(err, r, "snapshot '%s'", name);
    *ret_name = BG_TAKE(name);
    return 0;
}

int bg_snapshot_commit(const struct bg_paths *paths, int temp_fd, const char *temp_name,
                       const char *source_name, const char *tag, char **ret_name,
                       struct bg_err *err)
{
    BG_AUTOCLOSE int store = -1;
    int r = bg_snapshot_open_store(paths, &store, err);
    if (r < 0 || tag)
        return r < 0 ? r : commit_as(store, temp_fd, temp_name, source_name, tag, ret_name, err);
    /* Whoever takes the number first has it. */
    for (int attempt = 0; attempt < NAME_ATTEMPTS; attempt++) {
        uint64_t number;
        char text[24];
        r = next_number(store, source_name, &number, err);
        if (r < 0)
            return r;
        (void)snprintf(text, sizeof text, "%llu", (unsigned long long)number);
        r = commit_as(store, temp_fd, temp_name, source_name, text, ret_name, err);
        if (r != -EEXIST)
            return r;
    }
    return r;
}

void bg_snapshot_abandon(const struct bg_paths *paths, const char *temp_name)
{
    BG_AUTOCLOSE int store = -1;
    if (is_temp(temp_name) && bg_snapshot_open_store(paths, &store, NULL) == 0)
        (void)(bg_folder_remove(store, temp_name) < 0); /* the sweep takes what stays */
}

int bg_snapshot_remove(const struct bg_paths *paths, const char *name, struct bg_err *err)
{
    char temp[BG_SNAPSHOT_TEMP_SIZE];
    BG_AUTOCLOSE int store = -1;
    if (!bg_snapshot_name_ok(name))
        return unknown(name, err);
    int r = bg_snapshot_open_store(paths, &store, err);
    if (r < 0)
        return r;
    do {
        temp_name(temp);
        r = rename_new(store, name, temp);
    } while (r == -EEXIST);
    (void)bg_fault("remove-renamed");
    if (r == -ENOENT)
        return unknown(name, err);
    if (r == 0 && fsync(store) < 0)
        r = -errno;
    if (r == 0)
        r = bg_folder_remove(store, temp);
    return r < 0 ? bg_err_errno(err, r, "snapshot '%s': cannot remove it", name) : 0;
}

/* Takes the lock of a leftover. Errors: -EWOULDBLOCK its maker lives. */
static int lock_leftover(int store_fd, const char *name, int *ret_fd)
{
    BG_AUTOCLOSE int fd = openat(store_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return -errno;
    if (!is_still(store_fd, name, fd))
        return -ENOENT; /* it has its final name, or is gone */
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

int bg_snapshot_leftovers(const struct bg_paths *paths, char ***ret_names, struct bg_err *err)
{
    BG_AUTOCLOSE int store = -1;
    char **names;
    int r = bg_snapshot_open_store(paths, &store, err);
    if (r == 0)
        r = list(store, is_temp, &names, err);
    if (r < 0)
        return r;
    size_t kept = 0;
    for (size_t i = 0; names[i]; i++) {
        BG_AUTOCLOSE int lock = -1;
        char *name = names[i];
        names[i] = NULL;
        if (lock_leftover(store, name, &lock) == 0)
            names[kept++] = name;
        else
            free(name);
    }
    *ret_names = names;
    return 0;
}

int bg_snapshot_sweep(const struct bg_paths *paths, const char *leftover, struct bg_err *err)
{
    BG_AUTOCLOSE int store = -1;
    BG_AUTOCLOSE int lock = -1;
    int r = is_temp(leftover) ? bg_snapshot_open_store(paths, &store, err)
                              : bg_err_set(err, -EINVAL, "%s: no leftover", leftover);
    if (r < 0)
        return r;
    r = lock_leftover(store, leftover, &lock);
    if (r == -ENOENT)
        return 0;
    if (r == -EWOULDBLOCK)
        return bg_err_set(err, -EBUSY, "%s: a snapshot is being made in it", leftover);
    if (r == 0 || r == -ENOTDIR || r == -ELOOP)
        r = bg_folder_remove(store, leftover);
    return r < 0 ? bg_err_errno(err, r, "%s/snapshots/%s", paths->state, leftover) : 0;
}

/* ---- links ---- */

static int link_once(int from_fd, const char *from, int to_fd, const char *to)
{
    return linkat(from_fd, from, to_fd, to, 0) < 0 ? -errno : 0;
}

/* What has the name goes, in one step. */
static int link_over(int from_fd, const char *from, int to_fd, const char *to)
{
    struct stat is, wanted;
    char temp[BG_LAYER_FILE_SIZE], id[BG_LAYER_ID_SIZE];
    if (fstatat(from_fd, from, &wanted, AT_SYMLINK_NOFOLLOW) < 0 ||
        fstatat(to_fd, to, &is, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (is.st_ino == wanted.st_ino && is.st_dev == wanted.st_dev)
        return 0;
    bg_layer_new_id(id);
    (void)snprintf(temp, sizeof temp, ".link-%s", id);
    int r = link_once(from_fd, from, to_fd, temp);
    if (r == 0 && renameat(to_fd, temp, to_fd, to) < 0) {
        r = -errno;
        (void)unlinkat(to_fd, temp, 0); /* ours */
    }
    return r;
}

int bg_layer_link(int from_dir_fd, const char *from_name, int to_dir_fd, const char *to_name,
                  struct bg_err *err)
{
    int r = link_once(from_dir_fd, from_name, to_dir_fd, to_name);
    if (r == -EEXIST)
        r = link_over(from_dir_fd, from_name, to_dir_fd, to_name);
    if (r == -EXDEV)
        return bg_err_set(err, r,
                          "%s: snapshots and sandboxes must be on one file system, since they "
                          "share files by hard links: put both folders of STATE there",
                          from_name);
    if (r == -EMLINK)
        return bg_err_set(err, r,
                          "%s: so many stand on it that the file system allows no more: remove "
                          "some snapshots or forks of it",
                          from_name);
    if (r == -ENOENT)
        return bg_err_set(err, -EUCLEAN, "%s is missing", from_name);
    return r < 0 ? bg_err_errno(err, r, "%s", from_name) : 0;
}

int bg_layer_freeze(int dir_fd, const char *file, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = openat(dir_fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || (geteuid() == 0 && fchown(fd, 0, 0) < 0) || fchmod(fd, 0400) < 0 || fsync(fd) < 0)
        return bg_err_errno(err, -errno, "%s", file);
    return 0;
}

int bg_snapshot_link_layers(int from_dir_fd, int to_dir_fd, const struct bg_snapshot *snapshot,
                            unsigned sets, struct bg_err *err)
{
    char file[BG_LAYER_FILE_SIZE];
    int r = 0;
    bool memory = (sets & BG_LAYERS_MEMORY) && snapshot->kind != BG_SNAPSHOT_DISK;
    for (size_t i = 0; r == 0 && memory && i < snapshot->memory_count; i++) {
        bg_layer_memory_file(snapshot->memory[i].id, file);
        r = bg_layer_link(from_dir_fd, file, to_dir_fd, file, err);
    }
    if (r == 0 && memory)
        r = bg_layer_link(from_dir_fd, BG_SNAPSHOT_STATE, to_dir_fd, BG_SNAPSHOT_STATE, err);
    for (size_t i = 0; r == 0 && (sets & BG_LAYERS_DISK) && i < snapshot->disk_count; i++) {
        bg_layer_disk_file(snapshot->disk[i].id, file);
        r = bg_layer_link(from_dir_fd, file, to_dir_fd, file, err);
    }
    return r;
}
