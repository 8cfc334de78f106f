#include "host/supervisor/flatten.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/io.h"
#include "host/supervisor/flatten_plan.h"
#include "host/supervisor/parts.h"

#define FINISHER_NICE 10

void flatten_init(struct flatten *f, const struct flatten_opts *opts)
{
    *f = (struct flatten){.opts = opts, .finisher_fd = -1};
}

static int open_sandbox(const struct flatten *f, int *ret, struct bg_err *err)
{
    const char *dir = f->opts->sandbox->dir;
    *ret = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret < 0 ? bg_err_errno(err, -errno, "%s", dir) : 0;
}

void flatten_drop(struct flatten *f)
{
    char file[BG_LAYER_FILE_SIZE];
    int dir;
    bool made = f->step != FLATTEN_NONE && f->step != FLATTEN_USING; /* and it is of no disk */
    if (f->finisher_fd >= 0)
        (void)close(f->finisher_fd); /* its word is not wanted; it ends by itself */
    f->finisher_fd = -1;
    f->step = FLATTEN_NONE;
    if (!made || open_sandbox(f, &dir, NULL) < 0)
        return;
    BG_AUTOCLOSE int dir_fd = dir;
    bg_layer_disk_file(f->id, file);
    (void)unlinkat(dir_fd, file, 0); /* one that stays goes at the next start */
}

/* ---- beginning ---- */

static int measure(int dir_fd, const struct bg_disk *disk, size_t count, uint64_t *ret_bytes,
                   struct bg_err *err)
{
    for (size_t i = 0; i < count; i++) {
        struct stat st;
        if (fstatat(dir_fd, disk->layers[i].file, &st, AT_SYMLINK_NOFOLLOW) < 0)
            return bg_err_errno(err, -errno, "%s", disk->layers[i].file);
        ret_bytes[i] = (uint64_t)st.st_blocks * 512;
    }
    return 0;
}

/* The guest, too, needs room to write. */
static int check_space(int dir_fd, uint64_t bytes, struct bg_err *err)
{
    struct statvfs fs;
    if (fstatvfs(dir_fd, &fs) < 0)
        return bg_err_errno(err, -errno, "file system");
    uint64_t left = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (left >= BG_FLATTEN_SPACE_MIN && left - BG_FLATTEN_SPACE_MIN >= bytes)
        return 0;
    return bg_err_set(err, -ENOSPC,
                      "its disk is not flattened: that may take %llu MiB, and %llu MiB are to be "
                      "left free; remove snapshots (bellglass prune) or make room",
                      (unsigned long long)(bytes >> 20),
                      (unsigned long long)(BG_FLATTEN_SPACE_MIN >> 20));
}

static int make_file(const struct flatten *f, int dir_fd, int *ret_fd, struct bg_err *err)
{
    char file[BG_LAYER_FILE_SIZE];
    bg_layer_disk_file(f->id, file);
    BG_AUTOCLOSE int fd = openat(dir_fd, file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", file);
    int r = parts_write_overlay(f->opts->golden, fd, err);
    int fault = bg_fault("flatten-begun");
    if (r == 0 && fault < 0)
        r = bg_err_errno(err, fault, "%s", file);
    if (r < 0) {
        (void)unlinkat(dir_fd, file, 0); /* one that stays goes at the next start */
        return r;
    }
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

int flatten_begin(struct flatten *f, bool all, struct link_flatten *ret, int *ret_fd,
                  struct bg_err *err)
{
    const struct bg_disk *disk = &f->opts->source->disk;
    uint64_t bytes[BG_DISK_LAYERS_MAX], sum = 0;
    int dir;
    if (f->step != FLATTEN_NONE)
        return bg_err_set(err, -EBUSY, "its disk is being flattened");
    if (f->off)
        return bg_err_set(err, -EOPNOTSUPP,
                          "QEMU did not take a flat layer (see supervisor.log): its disk can be "
                          "flattened after the next start");
    if (f->opts->source->root_dir)
        return bg_err_set(err, -EOPNOTSUPP, "its disk is a volume, which is not flattened");
    size_t frozen = disk->count > 0 ? disk->count - 1 : 0; /* while it runs it has a top */
    if (frozen < 2)
        return bg_err_set(err, -ENODATA, "its disk is flat");
    int r = open_sandbox(f, &dir, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int dir_fd = dir;
    r = measure(dir_fd, disk, frozen, bytes, err);
    if (r < 0)
        return r;
    f->from = all ? 0 : flatten_plan_from(bytes, frozen);
    f->count = frozen - f->from;
    if (f->count < 2)
        return bg_err_set(err, -ENODATA, "its disk is flat");
    for (size_t i = f->from; i < frozen; i++)
        sum += bytes[i];
    r = check_space(dir_fd, sum, err);
    bg_layer_new_id(f->id);
    if (r == 0)
        r = make_file(f, dir_fd, ret_fd, err);
    if (r < 0)
        return r;
    f->step = FLATTEN_COPYING;
    *ret = (struct link_flatten){.from = (uint32_t)f->from, .count = (uint32_t)f->count};
    return 0;
}

/* ---- syncing ---- */

static int sync_file(const struct flatten *f, struct bg_err *err)
{
    char file[BG_LAYER_FILE_SIZE];
    int dir;
    int r = open_sandbox(f, &dir, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int dir_fd = dir;
    bg_layer_disk_file(f->id, file);
    BG_AUTOCLOSE int fd = openat(dir_fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", file);
    r = source_check_layer(fd, file, err);
    if (r == 0)
        r = bg_layer_freeze(dir_fd, file, err); /* which syncs it */
    int fault = bg_fault("flatten-synced");
    if (r == 0 && fault < 0)
        r = bg_err_errno(err, fault, "%s", file);
    return r;
}

int flatten_copied(struct flatten *f, const struct bg_err *why, struct bg_err *err)
{
    int fds[2];
    assert(f->step == FLATTEN_COPYING);
    if (why->code < 0) {
        flatten_drop(f);
        return bg_err_set(err, why->code, "%s", why->text);
    }
    if (pipe2(fds, O_CLOEXEC) < 0) {
        int saved = errno;
        flatten_drop(f);
        return bg_err_errno(err, -saved, "pipe");
    }
    pid_t pid = fork();
    if (pid == 0) {
        struct bg_err word = {0};
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);            /* at worst it finishes */
        (void)setpriority(PRIO_PROCESS, 0, FINISHER_NICE); /* at worst it is in the way */
        (void)sync_file(f, &word);
        (void)!bg_write_full(fds[1], &word, sizeof word); /* without it it counts as failed */
        _exit(0);
    }
    int fork_errno = errno;
    (void)close(fds[1]);
    if (pid < 0) {
        (void)close(fds[0]);
        flatten_drop(f);
        return bg_err_errno(err, -fork_errno, "fork");
    }
    f->finisher_fd = fds[0];
    f->step = FLATTEN_SYNCING;
    return 0;
}

int flatten_synced(struct flatten *f, struct bg_err *err)
{
    struct bg_err word;
    assert(f->step == FLATTEN_SYNCING);
    if (bg_read_full(f->finisher_fd, &word, sizeof word) < 0)
        (void)bg_err_set(&word, -EIO, "the process that syncs a flat layer died");
    (void)close(f->finisher_fd); /* read to its end */
    f->finisher_fd = -1;
    if (word.code < 0) {
        flatten_drop(f);
        return bg_err_set(err, word.code, "%s", word.text);
    }
    f->step = FLATTEN_READY;
    return 0;
}

/* ---- the disk ---- */

/* The disk with the new layer, texts of its own. */
static int new_disk(const struct flatten *f, struct bg_disk *ret, struct bg_err *err)
{
    const struct bg_disk *is = &f->opts->source->disk;
    struct bg_disk disk = {.top = is->top};
    disk.golden = strdup(is->golden);
    disk.parent = is->parent ? strdup(is->parent) : NULL;
    int r = disk.golden && (disk.parent || !is->parent) ? 0 : bg_err_errno(err, -ENOMEM, "disk");
    for (size_t i = 0; r == 0 && i < is->count; i++) {
        if (i == f->from)
            r = bg_disk_push(&disk, f->id, NULL, err);
        if (r == 0 && (i < f->from || i >= f->from + f->count))
            r = bg_disk_push(&disk, is->layers[i].id, is->layers[i].file, err);
    }
    if (r < 0) {
        bg_disk_done(&disk);
        return r;
    }
    *ret = disk;
    return 0;
}

int flatten_put(struct flatten *f, struct bg_err *err)
{
    struct bg_disk disk = {0};
    int dir = -1;
    assert(f->step == FLATTEN_READY);
    int r = open_sandbox(f, &dir, err);
    BG_AUTOCLOSE int dir_fd = dir;
    if (r == 0)
        r = new_disk(f, &disk, err);
    if (r == 0 && (r = bg_fault("flatten-put")) < 0)
        (void)bg_err_errno(err, r, BG_DISK_FILE);
    if (r == 0)
        r = bg_disk_save(dir_fd, &disk, err);
    if (r < 0) {
        bg_disk_done(&disk);
        flatten_drop(f);
        return r;
    }
    (void)bg_fault("flatten-noted");
    bg_disk_done(&f->opts->source->disk);
    f->opts->source->disk = disk;
    f->step = FLATTEN_USING;
    (void)(bg_disk_tidy(dir_fd, &disk, NULL) < 0); /* what stays goes at the next start */
    (void)bg_fault("flatten-tidied");
    return 0;
}

void flatten_used(struct flatten *f, const struct bg_err *why)
{
    assert(f->step == FLATTEN_USING);
    f->off = why->code < 0;
    f->step = FLATTEN_NONE;
}
