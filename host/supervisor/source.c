#include "host/supervisor/source.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/io.h"
#include "common/state/folder.h"
#include "common/state/qcow2.h"
#include "host/supervisor/parts.h"

#define OTHERS_EXIT_MS 30000

/* Where its disk is: of one that boots a volume, that's folder. */
static const char *disk_dir(const struct bg_sandbox *sandbox, const char *root_dir)
{
    return root_dir ? root_dir : sandbox->dir;
}

static int open_folder(const char *dir, int *ret, struct bg_err *err)
{
    *ret = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret < 0 ? bg_err_errno(err, -errno, "%s", dir) : 0;
}

void source_done(struct source *source)
{
    for (size_t i = 0; i < source->memory_count; i++)
        (void)close(source->memory[i].fd); /* read only, or written and synced */
    for (size_t i = 0; i < source->disk_count; i++)
        (void)close(source->disk_fds[i]); /* QEMU has its own */
    if (source->state_fd >= 0)
        (void)close(source->state_fd); /* read only */
    if (source->base_fd >= 0)
        (void)close(source->base_fd); /* nothing is in it */
    if (source->resumes)
        bg_snapshot_done(&source->snapshot);
    bg_disk_done(&source->disk);
    *source = (struct source){.state_fd = -1, .base_fd = -1};
}

/* ---- what it goes on from ---- */

/* QEMU's state can be loaded only by what wrote it. */
static int check_machine(const struct bg_sandbox *sandbox, const struct bg_snapshot *snapshot,
                         const struct qemu_program *qemu, enum accel accel, struct bg_err *err)
{
    char cpu[GOLDEN_CPU_SIZE];
    const char *what = NULL, *was = NULL, *is = NULL;
    golden_cpu(accel, cpu);
    if (strcmp(snapshot->qemu, qemu->version) != 0)
        what = "QEMU", was = snapshot->qemu, is = qemu->version;
    else if (strcmp(snapshot->accel, accel_name(accel)) != 0)
        what = "accelerator", was = snapshot->accel, is = accel_name(accel);
    else if (strcmp(snapshot->cpu, cpu) != 0)
        what = "CPU", was = "another model", is = "this one";
    else if (snapshot->memory_bytes != sandbox->memory_bytes || snapshot->cpus != sandbox->cpus)
        what = "size", was = "another", is = "its sandbox.json's";
    if (!what)
        return 0;
    return bg_err_set(err, -ENOTSUP,
                      "its memory was saved with another %s (%s, now %s) and cannot be restored; "
                      "its disk can be booted: bellglass start --cold %s",
                      what, was, is, sandbox->name);
}

/* Each layer of the disk must be as it was at the instant of the memory. */
static int check_disk(const struct source *source, int dir_fd, struct bg_err *err)
{
    const struct bg_snapshot *snapshot = &source->snapshot;
    for (size_t i = 0; i < snapshot->disk_count; i++) {
        struct bg_layer now;
        const char *file = source->disk.layers[i].file;
        int r = bg_layer_measure(dir_fd, file, &now, err);
        if (r < 0)
            return r;
        if (now.size != snapshot->disk[i].size || now.mtime_ns != snapshot->disk[i].mtime_ns)
            return bg_err_set(err, -EUCLEAN, "%s has changed since its memory was saved", file);
    }
    return 0;
}

static int open_memory(struct source *source, int resume_fd, struct bg_err *err)
{
    const struct bg_snapshot *snapshot = &source->snapshot;
    source->state_fd = openat(resume_fd, "state", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (source->state_fd < 0)
        return bg_err_errno(err, -errno, "state");
    for (size_t i = 0; i < snapshot->memory_count; i++) {
        char file[BG_LAYER_FILE_SIZE];
        bg_layer_memory_file(snapshot->memory[i].id, file);
        int fd = openat(resume_fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
            return bg_err_errno(err, -errno, "%s", file);
        (void)snprintf(source->memory[i].id, sizeof source->memory[i].id, "%s",
                       snapshot->memory[i].id);
        source->memory[source->memory_count++].fd = fd;
    }
    source->mapped_count = source->memory_count;
    if (!snapshot->memory_base_none)
        return 0;
    source->base_fd = memfd_create("no-memory", MFD_CLOEXEC);
    if (source->base_fd < 0 || ftruncate(source->base_fd, (off_t)snapshot->memory_bytes) < 0)
        return bg_err_errno(err, -errno, "guest memory");
    return 0;
}

static int find_resume(const struct bg_sandbox *sandbox, const struct qemu_program *qemu,
                       enum accel accel, int dir_fd, struct source *source, struct bg_err *err)
{
    int r = bg_resume_settle(dir_fd, err);
    if (r == 0)
        r = bg_resume_load(dir_fd, &source->disk, &source->snapshot, err);
    if (r == -ENOENT)
        return 0;
    if (r == 0) {
        source->resumes = true;
        r = check_machine(sandbox, &source->snapshot, qemu, accel, err);
    }
    BG_AUTOCLOSE int resume_fd =
        r < 0 ? -1 : openat(dir_fd, SOURCE_RESUME, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (r == 0 && resume_fd < 0)
        r = bg_err_errno(err, -errno, SOURCE_RESUME);
    if (r == 0)
        r = bg_snapshot_check_memory(&source->snapshot, resume_fd, err);
    if (r == 0)
        r = check_disk(source, dir_fd, err);
    if (r == 0)
        r = open_memory(source, resume_fd, err);
    if (r < 0 && r != -ENOTSUP) {
        size_t used = strlen(err->text);
        (void)snprintf(err->text + used, sizeof err->text - used,
                       "; its disk can be booted without its memory: bellglass start --cold %s",
                       sandbox->name);
    }
    return r;
}

int source_find(const struct bg_sandbox *sandbox, const char *root_dir,
                const struct qemu_program *qemu, enum accel accel, bool cold, struct source *ret,
                struct bg_err *err)
{
    struct source source = {.state_fd = -1, .base_fd = -1, .root_dir = root_dir};
    int dir_number;
    int r = open_folder(disk_dir(sandbox, root_dir), &dir_number, err);
    BG_AUTOCLOSE int dir_fd = dir_number;
    if (r == 0) {
        r = bg_disk_load(dir_fd, &source.disk, err);
        source.has_disk = r == 0;
        r = r == -ENOENT ? 0 : r;
    }
    if (r == 0 && source.has_disk && !cold)
        r = find_resume(sandbox, qemu, accel, dir_fd, &source, err);
    if (r < 0) {
        source_done(&source);
        return r;
    }
    *ret = source;
    return 0;
}

/* ---- the disk ---- */

/* The file is there before disk.json says so. It is not synced: what a power failure could take is
 * a layer on which nothing has been written. */
static int make_top(int dir_fd, const struct golden *golden, struct bg_disk *disk,
                    struct bg_err *err)
{
    unsigned uid, gid;
    char id[BG_LAYER_ID_SIZE];
    bg_layer_new_id(id);
    int r = bg_disk_push(disk, id, disk->count == 0 ? BG_DISK_FIRST : NULL, err);
    if (r < 0)
        return r;
    const char *file = disk->layers[disk->count - 1].file;
    BG_AUTOCLOSE int fd = openat(dir_fd, file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", file);
    r = parts_write_overlay(golden, fd, err);
    bg_runner_ids(&uid, &gid);
    if (r == 0 && geteuid() == 0 && fchown(fd, uid, gid) < 0)
        r = bg_err_errno(err, -errno, "%s", file);
    disk->top = true;
    return r < 0 ? r : bg_disk_save(dir_fd, disk, err);
}

int source_check_layer(int fd, const char *file, struct bg_err *err)
{
    uint8_t header[QCOW2_HEADER_SIZE];
    ssize_t n = pread(fd, header, sizeof header, 0);
    int r = n < 0 ? bg_err_errno(err, -errno, "read") : qcow2_check(header, (size_t)n, err);
    return r < 0 ? bg_err_prefix(err, "%s", file) : 0;
}

/* Who has it may be a process that is ending: it has been killed, and its locks go last. A writer
 * is in everybody's way, a reader in a writer's. */
static int await_others(int fd, const char *file, bool write, struct bg_err *err)
{
    const uint64_t deadline = bg_now_ms() + OTHERS_EXIT_MS;
    for (;;) {
        struct flock lock = {.l_type = F_WRLCK,
                             .l_whence = SEEK_SET,
                             .l_start = write ? BG_QEMU_LOCKS : BG_QEMU_LOCK_WRITE,
                             .l_len = write ? BG_QEMU_LOCKS_SIZE : 1};
        if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
            return bg_err_errno(err, -errno, "%s", file);
        if (lock.l_type == F_UNLCK)
            return 0;
        if (bg_now_ms() >= deadline)
            return bg_err_set(err, -EBUSY, "%s is being used by another process", file);
        (void)poll(NULL, 0, 10);
    }
}

int source_open_chain(int dir_fd, const struct bg_disk *disk, bool write, int *ret_fds,
                      size_t *ret_count, struct bg_err *err)
{
    *ret_count = 0;
    for (size_t i = disk->count; i-- > 0;) {
        bool top = i + 1 == disk->count;
        int fd = openat(dir_fd, disk->layers[i].file,
                        (top && write ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            return bg_err_errno(err, -errno, "%s", disk->layers[i].file);
        ret_fds[(*ret_count)++] = fd;
        int r = source_check_layer(fd, disk->layers[i].file, err);
        if (r == 0 && top)
            r = await_others(fd, disk->layers[i].file, write, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int source_open_disk(const struct bg_sandbox *sandbox, const struct golden *golden,
                     struct source *source, struct bg_err *err)
{
    const char *dir = disk_dir(sandbox, source->root_dir);
    int dir_number;
    int r = open_folder(dir, &dir_number, err);
    BG_AUTOCLOSE int dir_fd = dir_number;
    if (r == 0 && !source->has_disk) {
        source->disk.golden = strdup(strrchr(golden->dir, '/') + 1);
        r = source->disk.golden ? 0 : bg_err_errno(err, -ENOMEM, "disk");
    }
    /* Of a snapshot or a flattening that was killed. */
    if (r == 0 && source->has_disk)
        r = bg_disk_tidy(dir_fd, &source->disk, err);
    if (r == 0 && !source->disk.top)
        r = make_top(dir_fd, golden, &source->disk, err);
    if (r == 0)
        r = source_open_chain(dir_fd, &source->disk, /* write= */ true, source->disk_fds,
                              &source->disk_count, err);
    return r < 0 ? bg_err_prefix(err, "%s", dir) : 0;
}

int source_open_layers(const struct bg_sandbox *sandbox, bool write, struct bg_disk *ret_disk,
                       int *ret_fds, size_t *ret_count, struct bg_err *err)
{
    int dir_number;
    *ret_count = 0;
    int r = open_folder(sandbox->dir, &dir_number, err);
    BG_AUTOCLOSE int dir_fd = dir_number;
    if (r == 0)
        r = bg_disk_load(dir_fd, ret_disk, err);
    if (r < 0)
        return r == -ENOENT
                   ? bg_err_set(err, -ENOENT, "it has no disk yet; start it: bellglass start %s",
                                sandbox->name)
                   : r;
    if (write && faccessat(dir_fd, SOURCE_RESUME, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return bg_err_set(err, -EBUSY,
                          "it is suspended: its memory would not agree with a disk that was "
                          "written; resume it, or start it with --cold, first");
    if (write && !ret_disk->top)
        return bg_err_set(err, -EBUSY,
                          "its disk is part of a snapshot, and it has none of its own to write "
                          "before it is started: bellglass start %s",
                          sandbox->name);
    r = source_open_chain(dir_fd, ret_disk, write, ret_fds, ret_count, err);
    return r < 0 ? bg_err_prefix(err, "%s", sandbox->dir) : 0;
}

/* ---- life ---- */

int source_consume(const struct bg_sandbox *sandbox, struct bg_err *err)
{
    int dir_number;
    int r = open_folder(sandbox->dir, &dir_number, err);
    BG_AUTOCLOSE int dir_fd = dir_number;
    if (r < 0)
        return r;
    if (renameat(dir_fd, SOURCE_RESUME, dir_fd, SOURCE_MEMORY) < 0 && errno != ENOENT)
        return bg_err_errno(err, -errno, "%s/" SOURCE_RESUME, sandbox->dir);
    return 0;
}

void source_forget_memory(const struct bg_sandbox *sandbox)
{
    BG_AUTOCLOSE int dir_fd = open(sandbox->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd >= 0)
        (void)!bg_folder_remove(dir_fd, SOURCE_MEMORY); /* what stays is removed next time */
}
