#include "common/state/resume.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "common/fault.h"
#include "common/io.h"
#include "common/state/folder.h"
#include "common/state/sandbox_json.h"

#define NEXT_FOLDER    "resume.next"
#define RUNNING_FOLDER "memory" /* what resume/ is called while the sandbox runs on it */

static bool is_there(int dir_fd, const char *name)
{
    return faccessat(dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

bool bg_resume_present(int dir_fd)
{
    return is_there(dir_fd, BG_RESUME_FOLDER);
}

/* True if the manifest's disk is this one, or this one but for the layer that a start puts on top.
 */
static bool belongs_to(const struct bg_snapshot *s, const struct bg_disk *disk)
{
    size_t above = disk->count - s->disk_count;
    if (s->kind == BG_SNAPSHOT_DISK || s->disk_count > disk->count || above > (disk->top ? 1 : 0))
        return false;
    for (size_t i = 0; i < s->disk_count; i++)
        if (strcmp(s->disk[i].id, disk->layers[i].id) != 0)
            return false;
    return true;
}

/* Reads the manifest in a folder below dir_fd. Errors: -ENOENT no folder; -EUCLEAN. */
static int load_below(int dir_fd, const char *folder, struct bg_snapshot *ret, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = openat(dir_fd, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? bg_err_set(err, -ENOENT, "nothing to go on from")
                               : bg_err_errno(err, -errno, "%s", folder);
    int r = bg_snapshot_load_at(fd, ret, err);
    if (r == -ENOENT)
        r = bg_err_set(err, -EUCLEAN, "%s is missing", BG_SNAPSHOT_MANIFEST);
    if (r < 0)
        (void)bg_err_prefix(err, "%s", folder);
    return r;
}

/* True if the folder below dir_fd is whole and of this disk. replacing: of the disk as it is put
 * there for it. One with a layer on top is still the old one then: it may have been made from the
 * same snapshot, and its guest has run. */
static bool counts(int dir_fd, const char *folder, const struct bg_disk *disk, bool replacing,
                   int *ret_error)
{
    struct bg_snapshot s;
    *ret_error = load_below(dir_fd, folder, &s, NULL);
    if (*ret_error < 0)
        return false;
    bool same = belongs_to(&s, disk) && !(replacing && disk->top);
    bg_snapshot_done(&s);
    return same;
}

static int take_next(int dir_fd)
{
    bool replaces = bg_resume_present(dir_fd);
    if (syscall(SYS_renameat2, dir_fd, NEXT_FOLDER, dir_fd, BG_RESUME_FOLDER,
                replaces ? RENAME_EXCHANGE : RENAME_NOREPLACE) < 0 ||
        fsync(dir_fd) < 0)
        return -errno;
    (void)bg_fault("fork-exchanged");
    return replaces ? bg_folder_remove(dir_fd, NEXT_FOLDER) : 0;
}

/* disk: NULL of a sandbox that has none, which has no instant either. */
static int settle(int dir_fd, const struct bg_disk *disk)
{
    int why, r = 0;
    if (is_there(dir_fd, NEXT_FOLDER))
        r = disk && counts(dir_fd, NEXT_FOLDER, disk, /* replacing= */ true, &why)
                ? take_next(dir_fd)
                : bg_folder_remove(dir_fd, NEXT_FOLDER);
    /* One that is damaged stays, so that somebody is told. */
    if (r == 0 && bg_resume_present(dir_fd) &&
        (!disk ||
         (!counts(dir_fd, BG_RESUME_FOLDER, disk, /* replacing= */ false, &why) && why == 0)))
        r = bg_folder_remove(dir_fd, BG_RESUME_FOLDER);
    if (r == 0)
        r = bg_folder_remove(dir_fd, RUNNING_FOLDER);
    return r;
}

int bg_resume_settle(int dir_fd, struct bg_err *err)
{
    struct bg_disk disk;
    int r = bg_disk_load(dir_fd, &disk, err);
    if (r < 0 && r != -ENOENT)
        return r;
    bool has_disk = r == 0;
    r = settle(dir_fd, has_disk ? &disk : NULL);
    if (has_disk)
        bg_disk_done(&disk);
    return r < 0 ? bg_err_errno(err, r, "%s", BG_RESUME_FOLDER) : 0;
}

int bg_resume_load(int dir_fd, const struct bg_disk *disk, struct bg_snapshot *ret,
                   struct bg_err *err)
{
    struct bg_snapshot s;
    int r = load_below(dir_fd, BG_RESUME_FOLDER, &s, err);
    if (r < 0)
        return r;
    if (!belongs_to(&s, disk)) {
        bg_snapshot_done(&s);
        return bg_err_set(err, -ENOENT, "%s is of another disk", BG_RESUME_FOLDER);
    }
    *ret = s;
    return 0;
}

int bg_resume_drop(int dir_fd, struct bg_err *err)
{
    int r = bg_folder_remove(dir_fd, BG_RESUME_FOLDER);
    return r < 0 ? bg_err_errno(err, r, "%s", BG_RESUME_FOLDER) : 0;
}

/* ---- from a snapshot to a sandbox ---- */

/* The manifest comes last: without it the folder is nothing. */
static int make_next(int from_fd, const struct bg_snapshot *s, int dir_fd, struct bg_err *err)
{
    int r = bg_folder_remove(dir_fd, NEXT_FOLDER); /* of one that was killed */
    if (r == 0 && mkdirat(dir_fd, NEXT_FOLDER, 0700) < 0)
        r = -errno;
    BG_AUTOCLOSE int next =
        r < 0 ? -1 : openat(dir_fd, NEXT_FOLDER, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (r == 0 && next < 0)
        r = -errno;
    if (r < 0)
        return bg_err_errno(err, r, "%s", NEXT_FOLDER);
    r = bg_snapshot_link_layers(from_fd, next, s, BG_LAYERS_MEMORY, err);
    if (r == 0)
        r = bg_layer_link(from_fd, BG_SNAPSHOT_SUM, next, BG_SNAPSHOT_SUM, err);
    if (r == 0)
        r = bg_layer_link(from_fd, BG_SNAPSHOT_MANIFEST, next, BG_SNAPSHOT_MANIFEST, err);
    if (r == 0 && fsync(next) < 0)
        r = bg_err_errno(err, -errno, "%s", NEXT_FOLDER);
    return r;
}

/* The disk of one that goes on from the snapshot. */
static int disk_of(const struct bg_snapshot *s, struct bg_disk *ret, struct bg_err *err)
{
    struct bg_disk disk = {0};
    int r = 0;
    disk.golden = strdup(s->golden);
    disk.parent = strdup(s->name);
    if (!disk.golden || !disk.parent)
        r = bg_err_errno(err, -ENOMEM, "disk");
    for (size_t i = 0; r == 0 && i < s->disk_count; i++)
        r = bg_disk_push(&disk, s->disk[i].id, NULL, err);
    if (r < 0) {
        bg_disk_done(&disk);
        return r;
    }
    *ret = disk;
    return 0;
}

int bg_snapshot_fork_into(const struct bg_paths *paths, const struct bg_snapshot *snapshot,
                          int sandbox_dir_fd, struct bg_err *err)
{
    const struct bg_snapshot *s = snapshot;
    int dir = sandbox_dir_fd;
    struct bg_disk disk = {0};
    (void)paths; /* the snapshot knows its folder */
    assert(s->dir && s->name);
    BG_AUTOCLOSE int from = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (from < 0)
        return errno == ENOENT
                   ? bg_err_set(err, -ENOENT, "snapshot '%s' was removed just now", s->name)
                   : bg_err_errno(err, -errno, "%s", s->dir);
    int r = bg_snapshot_check_files(s, from, err);
    if (r == 0)
        r = disk_of(s, &disk, err);
    if (r == 0 && s->kind != BG_SNAPSHOT_DISK)
        r = make_next(from, s, dir, err);
    if (r == 0 && (r = bg_fault("fork-linked")) < 0)
        (void)bg_err_errno(err, r, NEXT_FOLDER);
    if (r == 0)
        r = bg_snapshot_link_layers(from, dir, s, BG_LAYERS_DISK, err);
    if (r == 0 && (r = bg_fault("fork-layers")) < 0)
        (void)bg_err_errno(err, r, BG_DISK_FILE);
    if (r == 0)
        r = bg_disk_save(dir, &disk, err);
    if (r < 0) {
        (void)(bg_folder_remove(dir, NEXT_FOLDER) < 0); /* settling would do it too */
        bg_disk_done(&disk);
        return r;
    }
    (void)bg_fault("fork-noted");
    if (s->kind == BG_SNAPSHOT_DISK)
        r = bg_resume_drop(dir, err);
    if (r == 0 && (r = settle(dir, &disk)) < 0)
        (void)bg_err_errno(err, r, "%s", BG_RESUME_FOLDER);
    if (r == 0)
        r = bg_disk_tidy(dir, &disk, err);
    bg_disk_done(&disk);
    return r;
}

/* ---- from a sandbox to a snapshot ---- */

static uint64_t unix_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail with this clock */
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static char *copy(const char *text)
{
    return strdup(text ? text : "");
}

int bg_snapshot_describe(const struct bg_sandbox *sandbox, const struct bg_disk *disk,
                         const char *tag, const char *note, struct bg_snapshot *s,
                         struct bg_err *err)
{
    BG_AUTOFREE char *config = sandbox_json_emit(sandbox);
    json_decref(s->sandbox);
    s->sandbox = config ? json_loads(config, JSON_REJECT_DUPLICATES, NULL) : NULL;
    bg_layer_new_id(s->id);
    s->created_ms = unix_ms();
    s->cpus = sandbox->cpus;
    s->memory_bytes = sandbox->memory_bytes;
    memcpy(s->source_id, sandbox->id, sizeof s->source_id);
    s->tag = copy(tag);
    s->note = copy(note);
    s->source_name = copy(sandbox->name);
    s->image_name = copy(sandbox->image_name);
    s->image_digest = copy(sandbox->image_digest);
    s->golden = copy(disk->golden);
    s->parent = disk->parent ? copy(disk->parent) : NULL;
    bool whole = s->sandbox && s->tag && s->note && s->source_name && s->image_name &&
                 s->image_digest && s->golden && (s->parent || !disk->parent);
    return whole ? 0 : bg_err_errno(err, -ENOMEM, "snapshot");
}

/* Memory and state are as they were suspended. */
static void take_instant(const struct bg_snapshot *resume, struct bg_snapshot *s)
{
    s->kind = BG_SNAPSHOT_FULL;
    memcpy(s->qemu, resume->qemu, sizeof s->qemu);
    memcpy(s->accel, resume->accel, sizeof s->accel);
    memcpy(s->cpu, resume->cpu, sizeof s->cpu);
    s->memory_base_none = resume->memory_base_none;
    memcpy(s->memory, resume->memory, sizeof s->memory);
    s->memory_count = resume->memory_count;
    s->state_size = resume->state_size;
    memcpy(s->state_sha256, resume->state_sha256, sizeof s->state_sha256);
    s->next_stream = resume->next_stream;
    s->dirty_bytes = resume->dirty_bytes;
}

/* The next start puts another layer on top. */
static int freeze(int dir_fd, struct bg_disk *disk, struct bg_err *err)
{
    disk->top = false;
    int r = bg_disk_save(dir_fd, disk, err);
    (void)bg_fault("folder-frozen");
    return r < 0 ? r : bg_layer_freeze(dir_fd, disk->layers[disk->count - 1].file, err);
}

/* The disk as it is at the instant, with no layer that is written. resume: NULL of a disk alone. */
static int settle_disk(int dir_fd, struct bg_disk *disk, const struct bg_snapshot *resume,
                       struct bg_err *err)
{
    bool above = resume && disk->count > resume->disk_count;
    if (above) { /* a start that was killed has put it there, and nothing in it */
        free(disk->layers[--disk->count].file);
        disk->top = false;
        int r = bg_disk_save(dir_fd, disk, err);
        return r < 0 ? r : bg_disk_tidy(dir_fd, disk, err);
    }
    if (disk->count == BG_DISK_LAYERS_MAX)
        return bg_err_set(err, -EMLINK,
                          "its disk has %zu layers, and with this one frozen it could get no "
                          "other: let it run, and it is made short again (bellglass flatten)",
                          disk->count);
    return disk->top ? freeze(dir_fd, disk, err) : 0;
}

static int link_disk(int dir_fd, const struct bg_disk *disk, int temp_fd, struct bg_snapshot *s,
                     struct bg_err *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < disk->count; i++) {
        char file[BG_LAYER_FILE_SIZE];
        memcpy(s->disk[i].id, disk->layers[i].id, BG_LAYER_ID_SIZE);
        bg_layer_disk_file(s->disk[i].id, file);
        r = bg_layer_link(dir_fd, disk->layers[i].file, temp_fd, file, err);
        if (r == 0)
            r = bg_layer_measure(temp_fd, file, &s->disk[i], err);
    }
    s->disk_count = disk->count;
    return r;
}

static int open_resume(int dir_fd, int *ret_fd, struct bg_err *err)
{
    *ret_fd = openat(dir_fd, BG_RESUME_FOLDER, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return *ret_fd < 0 ? bg_err_errno(err, -errno, "%s", BG_RESUME_FOLDER) : 0;
}

static int link_memory(int dir_fd, int temp_fd, const struct bg_snapshot *s, struct bg_err *err)
{
    int fd;
    int r = open_resume(dir_fd, &fd, err);
    BG_AUTOCLOSE int resume = fd;
    return r < 0 ? r : bg_snapshot_link_layers(resume, temp_fd, s, BG_LAYERS_MEMORY, err);
}

/* Fills a new snapshot's folder and gives it its name. */
static int make(const struct bg_paths *paths, int dir_fd, const struct bg_disk *disk,
                struct bg_snapshot *s, const char *tag, char **ret_name, struct bg_err *err)
{
    BG_AUTOCLOSE int temp = -1;
    BG_AUTOFREE char *temp_name = NULL;
    int r = bg_snapshot_begin(paths, &temp, &temp_name, err);
    if (r < 0)
        return r;
    r = link_disk(dir_fd, disk, temp, s, err);
    if (r == 0 && s->kind == BG_SNAPSHOT_FULL)
        r = link_memory(dir_fd, temp, s, err);
    if (r == 0 && (r = bg_fault("folder-linked")) < 0)
        (void)bg_err_errno(err, r, "%s", temp_name);
    if (r == 0)
        r = bg_snapshot_write(temp, s, err);
    if (r == 0)
        r = bg_snapshot_commit(paths, temp, temp_name, s->source_name, tag, ret_name, err);
    if (r < 0)
        bg_snapshot_abandon(paths, temp_name);
    return r;
}

/* The next one's parent. That the snapshot is there counts more than a line of the family's tree.
 */
static void note_parent(int dir_fd, struct bg_disk *disk, const char *name)
{
    char *parent = strdup(name);
    if (!parent)
        return;
    free(disk->parent);
    disk->parent = parent;
    (void)(bg_disk_save(dir_fd, disk, NULL) < 0); /* see above */
}

/* Errors: -ENOENT none that counts; -EUCLEAN. */
static int load_instant(int dir_fd, const struct bg_disk *disk, bool check, struct bg_snapshot *ret,
                        struct bg_err *err)
{
    struct bg_snapshot s;
    int fd = -1;
    int r = bg_resume_load(dir_fd, disk, &s, err);
    if (r < 0)
        return r;
    if (check)
        r = open_resume(dir_fd, &fd, err);
    BG_AUTOCLOSE int resume = fd;
    if (r == 0 && check)
        r = bg_snapshot_check_memory(&s, resume, err);
    if (r < 0) {
        bg_snapshot_done(&s);
        return r;
    }
    *ret = s;
    return 0;
}

int bg_snapshot_of_folder(const struct bg_paths *paths, const struct bg_sandbox *sandbox,
                          const char *tag, const char *note, bool disk_only, char **ret_name,
                          struct bg_err *err)
{
    struct bg_snapshot s = {.kind = BG_SNAPSHOT_DISK}, resume = {0};
    struct bg_disk disk = {0};
    BG_AUTOCLOSE int lock = -1;
    BG_AUTOCLOSE int dir = open(sandbox->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return bg_err_errno(err, -errno, "%s", sandbox->dir);
    if (sandbox->root_volume[0])
        return bg_err_set(err, -EOPNOTSUPP,
                          "its disk is the volume %s: take a snapshot of that: bellglass volume "
                          "snapshot",
                          sandbox->root_volume);
    int r = bg_sandbox_lock(sandbox, &lock, err);
    if (r == 0)
        r = bg_resume_settle(dir, err);
    if (r == 0)
        r = bg_disk_load(dir, &disk, err);
    bool suspended = false;
    if (r == 0 && bg_resume_present(dir)) {
        r = load_instant(dir, &disk, /* check= */ !disk_only, &resume, err);
        suspended = r == 0;
        if (r == -EUCLEAN && !disk_only)
            (void)bg_err_prefix(err, "what it was suspended with is damaged, its disk is not "
                                     "(--disk-only)");
        else if (r == -ENOENT || disk_only)
            r = 0;
    }
    bool full = suspended && !disk_only;
    if (r == 0)
        r = settle_disk(dir, &disk, suspended ? &resume : NULL, err);
    if (r == 0)
        r = bg_snapshot_describe(sandbox, &disk, "1", note, &s, err); /* the commit puts it right */
    if (r == 0 && full)
        take_instant(&resume, &s);
    if (r == 0)
        r = make(paths, dir, &disk, &s, tag, ret_name, err);
    if (r == 0)
        note_parent(dir, &disk, *ret_name);
    if (r < 0)
        (void)bg_err_prefix(err, "sandbox '%s'", sandbox->name);
    bg_snapshot_done(&s);
    bg_snapshot_done(&resume);
    bg_disk_done(&disk);
    return r;
}
