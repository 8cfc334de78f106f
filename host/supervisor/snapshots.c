#include "host/supervisor/snapshots.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "common/fault.h"
#include "common/io.h"
#include "common/sha256.h"
#include "common/state/folder.h"
#include "common/state/resume.h"
#include "host/supervisor/memory_save.h"
#include "host/supervisor/parts.h"

#define NEW_RESUME          SOURCE_RESUME ".new"
#define SNAPSHOT_LAYERS_MAX 4 /* of memory */
#define FINISHER_NICE       10

#define NEW_DISK BG_DISK_FILE ".new"

void snapshots_init(struct snapshots *s, const struct snapshots_opts *opts)
{
    *s = (struct snapshots){.opts = opts, .folder_fd = -1, .memory_fd = -1, .finisher_fd = -1};
}

static int open_sandbox(const struct snapshots *s, int *ret, struct bg_err *err)
{
    const char *dir = s->opts->sandbox->dir;
    *ret = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret < 0 ? bg_err_errno(err, -errno, "%s", dir) : 0;
}

static void remove_top(struct snapshots *s)
{
    char file[BG_LAYER_FILE_SIZE];
    int dir;
    if (!s->has_top || open_sandbox(s, &dir, NULL) < 0)
        return;
    BG_AUTOCLOSE int dir_fd = dir;
    bg_layer_disk_file(s->top_id, file);
    (void)unlinkat(dir_fd, file, 0); /* one that stays is of no chain */
    s->has_top = false;
}

static void done(struct snapshots *s)
{
    if (s->folder_fd >= 0)
        (void)close(s->folder_fd); /* a folder */
    if (s->finisher_fd >= 0)
        (void)close(s->finisher_fd); /* read to its end */
    if (s->memory_fd >= 0)
        (void)close(s->memory_fd); /* synced, or not wanted */
    free(s->folder);
    free(s->tag);
    free(s->note);
    free(s->parent);
    snapshots_init(s, s->opts);
}

void snapshots_drop(struct snapshots *s)
{
    int dir;
    struct link_done word;
    if (!s->active)
        return;
    if (s->finisher != 0) { /* all is there: it shall become a snapshot */
        snapshots_finished(s, &word);
        return;
    }
    remove_top(s);
    if (s->folder && s->suspend && open_sandbox(s, &dir, NULL) == 0) {
        BG_AUTOCLOSE int dir_fd = dir;
        (void)!bg_folder_remove(dir_fd, s->folder); /* the next one removes it too */
    } else if (s->folder) {
        bg_snapshot_abandon(s->opts->paths, s->folder);
    }
    done(s);
}

/* ---- beginning ---- */

static int parse(struct snapshots *s, const char *request, size_t size, struct bg_err *err)
{
    json_auto_t *json = json_loadb(request, size, JSON_REJECT_DUPLICATES, NULL);
    const char *tag = NULL, *note = "", *op;
    int disk_only = 0, suspend = 0;
    if (!json || json_unpack(json, "{s:s, s?:s, s?:s, s?:b, s?:b}", "op", &op, "tag", &tag, "note",
                             &note, "disk_only", &disk_only, "suspend", &suspend) < 0)
        return bg_err_set(err, -EINVAL, "snapshot: malformed request");
    if (disk_only && suspend)
        return bg_err_set(err, -EINVAL, "snapshot: a disk alone cannot be suspended");
    if (tag && !bg_snapshot_tag_ok(tag))
        return bg_err_set(err, -EINVAL, "snapshot: that is no possible tag");
    s->disk_only = disk_only;
    s->suspend = suspend;
    s->tag = tag ? strdup(tag) : NULL;
    s->note = strdup(note);
    return s->note && (!tag || s->tag) ? 0 : bg_err_errno(err, -ENOMEM, "snapshot");
}

/* The tag is wanted before the snapshot is there: disk.json names it. */
static int find_tag(struct snapshots *s, struct bg_err *err)
{
    int store;
    int r = bg_snapshot_open_store(s->opts->paths, &store, err);
    BG_AUTOCLOSE int store_fd = store;
    for (unsigned n = s->tag ? 0 : 1; r == 0; n++) {
        BG_AUTOFREE char *name = NULL, *tag = NULL;
        if (asprintf(&tag, "%u", n) < 0 ||
            asprintf(&name, "%s@%s", s->opts->sandbox->name, n == 0 ? s->tag : tag) < 0)
            return bg_err_errno(err, -ENOMEM, "snapshot");
        bool used = faccessat(store_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
        if (used && n == 0)
            return bg_err_set(err, -EEXIST,
                              "snapshot %s is in use: choose another tag, or remove it with "
                              "bellglass snapshot rm %s",
                              name, name);
        if (!used) {
            if (n > 0)
                s->tag = BG_TAKE(tag);
            return 0;
        }
    }
    return r;
}

static int make_folder(struct snapshots *s, struct bg_err *err)
{
    if (!s->suspend)
        return bg_snapshot_begin(s->opts->paths, &s->folder_fd, &s->folder, err);
    int dir;
    int r = open_sandbox(s, &dir, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int dir_fd = dir;
    (void)!bg_folder_remove(dir_fd, NEW_RESUME); /* of one that was cut short; the lock is ours */
    s->folder = strdup(NEW_RESUME);
    if (!s->folder)
        return bg_err_errno(err, -ENOMEM, "snapshot");
    if (mkdirat(dir_fd, NEW_RESUME, 0700) < 0)
        return bg_err_errno(err, -errno, "%s/" NEW_RESUME, s->opts->sandbox->dir);
    s->folder_fd = openat(dir_fd, NEW_RESUME, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return s->folder_fd < 0 ? bg_err_errno(err, -errno, "%s/" NEW_RESUME, s->opts->sandbox->dir)
                            : 0;
}

static int add_file(struct snapshots_files *files, int dir_fd, const char *name, int flags,
                    struct bg_err *err)
{
    int fd = openat(dir_fd, name, flags | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", name);
    files->fds[files->count++] = fd;
    return 0;
}

static int add_memory(struct snapshots *s, struct snapshots_files *files, struct bg_err *err)
{
    const struct source *source = s->opts->source;
    char file[BG_LAYER_FILE_SIZE];
    /* QEMU looks for an fd whose access mode is just what it wants. */
    int r = add_file(files, s->folder_fd, "state", O_WRONLY, err);
    if (r < 0)
        return r;
    files->said.state = true;
    bg_layer_new_id(s->memory_id);
    bg_layer_memory_file(s->memory_id, file);
    r = add_file(files, s->folder_fd, file, O_RDWR, err);
    if (r < 0)
        return r;
    files->said.memory = true;
    s->memory_fd = fcntl(files->fds[files->count - 1], F_DUPFD_CLOEXEC, 3);
    if (s->memory_fd < 0)
        return bg_err_errno(err, -errno, "%s", file);
    /* What a guest has written it has for good, so a snapshot needs only what is not in the ones
     * before. When those have become too many it is written whole, and stands on what QEMU maps;
     * and when that is too much too, in the place of all. */
    s->stands_on = source->memory_count < BG_MEMORY_LAYERS_MAX   ? source->memory_count
                   : source->mapped_count < BG_MEMORY_LAYERS_MAX ? source->mapped_count
                                                                 : 0;
    return 0;
}

static int add_layers(struct snapshots *s, size_t from, size_t to, struct snapshots_files *files,
                      uint8_t *ret_count, struct bg_err *err)
{
    for (size_t i = from; i < to; i++) {
        int fd = fcntl(s->opts->source->memory[i].fd, F_DUPFD_CLOEXEC, 3);
        if (fd < 0)
            return bg_err_errno(err, -errno, "memory layer");
        files->fds[files->count++] = fd;
        (*ret_count)++;
    }
    return 0;
}

static int add_roles(struct snapshots *s, struct snapshots_files *files, struct bg_err *err)
{
    const struct source *source = s->opts->source;
    if (s->stands_on == 0)
        return add_layers(s, 0, source->mapped_count, files, &files->said.fold, err);
    return add_layers(s, source->mapped_count, s->stands_on, files, &files->said.previous, err);
}

static int add_top(struct snapshots *s, struct snapshots_files *files, struct bg_err *err)
{
    unsigned uid, gid;
    int dir;
    char file[BG_LAYER_FILE_SIZE];
    int r = open_sandbox(s, &dir, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int dir_fd = dir;
    if (s->opts->source->disk.count == BG_DISK_LAYERS_MAX)
        return bg_err_set(err, -EMLINK,
                          "its disk has %d layers already, and each snapshot adds one: make it "
                          "short again: bellglass flatten %s",
                          BG_DISK_LAYERS_MAX, s->opts->sandbox->name);
    bg_layer_new_id(s->top_id);
    bg_layer_disk_file(s->top_id, file);
    r = add_file(files, dir_fd, file, O_RDWR, err);
    if (r < 0)
        return r;
    s->has_top = true;
    files->said.top = true;
    int fd = files->fds[files->count - 1];
    r = parts_write_overlay(s->opts->golden, fd, err);
    bg_runner_ids(&uid, &gid);
    if (r == 0 && geteuid() == 0 && fchown(fd, uid, gid) < 0)
        r = bg_err_errno(err, -errno, "%s", file);
    return r;
}

/* What disk.json will say once the disk has its new top is on the disk before that is so: then only
 * a rename is left to do, which no full disk can refuse. */
static int write_note(struct snapshots *s, struct bg_err *err)
{
    struct bg_disk next = s->opts->source->disk; /* its texts are borrowed, but for the last */
    char file[BG_LAYER_FILE_SIZE];
    int dir;
    int r = open_sandbox(s, &dir, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int dir_fd = dir;
    BG_AUTOFREE char *parent = NULL;
    if (asprintf(&parent, "%s@%s", s->opts->sandbox->name, s->tag) < 0)
        return bg_err_errno(err, -ENOMEM, "disk");
    bg_layer_disk_file(s->top_id, file);
    (void)snprintf(next.layers[next.count].id, sizeof next.layers[0].id, "%s", s->top_id);
    next.layers[next.count++].file = file;
    if (s->tag[0] != '.')
        next.parent = parent;
    BG_AUTOFREE char *text = bg_disk_emit(&next);
    if (!text)
        return bg_err_errno(err, -ENOMEM, "disk");
    BG_AUTOCLOSE int fd = openat(dir_fd, NEW_DISK, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    r = fd < 0 ? -errno : bg_write_full(fd, text, strlen(text));
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    return r < 0 ? bg_err_errno(err, r, "%s/" NEW_DISK, s->opts->sandbox->dir) : 0;
}

static void close_files(struct snapshots_files *files)
{
    while (files->count > 0)
        (void)close(files->fds[--files->count]); /* nothing was written */
}

int snapshots_begin(struct snapshots *s, const char *request, size_t size,
                    struct snapshots_files *ret, struct bg_err *err)
{
    struct snapshots_files files = {.count = 0};
    if (s->active)
        return bg_err_set(err, -EBUSY, "another snapshot of it is under way");
    s->active = true;
    int r = parse(s, request, size, err);
    if (r == 0 && !s->suspend)
        r = find_tag(s, err);
    if (r == 0)
        r = make_folder(s, err);
    if (r == 0 && !s->disk_only)
        r = add_memory(s, &files, err);
    if (r == 0 && !s->suspend)
        r = add_top(s, &files, err);
    if (r == 0 && !s->suspend)
        r = write_note(s, err);
    if (r == 0 && !s->disk_only)
        r = add_roles(s, &files, err);
    int fault = bg_fault("snapshot-begun");
    if (r == 0 && fault < 0)
        r = bg_err_errno(err, fault, "snapshot");
    if (r < 0) {
        close_files(&files);
        snapshots_drop(s);
        return r;
    }
    *ret = files;
    return 0;
}

/* ---- the manifest ---- */

static int note_layer(int dir_fd, const char *file, const char *id, struct bg_layer *ret,
                      struct bg_err *err)
{
    (void)snprintf(ret->id, sizeof ret->id, "%s", id);
    return bg_layer_measure(dir_fd, file, ret, err);
}

/* The layers that the new one stands on become the snapshot's too. */
static int link_memory(struct snapshots *s, int dir_fd, struct bg_snapshot *m, struct bg_err *err)
{
    const struct source *source = s->opts->source;
    char file[BG_LAYER_FILE_SIZE], from[BG_LAYER_FILE_SIZE + sizeof SOURCE_MEMORY];
    for (size_t i = 0; i < s->stands_on; i++) {
        const char *id = source->memory[i].id;
        bg_layer_memory_file(id, file);
        (void)snprintf(from, sizeof from, SOURCE_MEMORY "/%s", file);
        int r = bg_layer_link(dir_fd, from, s->folder_fd, file, err);
        if (r == 0)
            r = note_layer(s->folder_fd, file, id, &m->memory[m->memory_count++], err);
        if (r < 0)
            return r;
    }
    bg_layer_memory_file(s->memory_id, file);
    int r = note_layer(s->folder_fd, file, s->memory_id, &m->memory[m->memory_count++], err);
    if (r < 0 || s->suspend)
        return r;
    /* The next snapshot may stand on this one. */
    (void)snprintf(from, sizeof from, SOURCE_MEMORY "/%s", file);
    if (mkdirat(dir_fd, SOURCE_MEMORY, 0700) < 0 && errno != EEXIST)
        return bg_err_errno(err, -errno, SOURCE_MEMORY);
    return bg_layer_link(s->folder_fd, file, dir_fd, from, err);
}

/* The layers that are frozen by now: all but the new top. In a suspend they stay where they are. */
static int link_disk(struct snapshots *s, int dir_fd, struct bg_snapshot *m, struct bg_err *err)
{
    const struct bg_disk *disk = &s->opts->source->disk;
    size_t count = s->suspend ? disk->count : disk->count - 1;
    char file[BG_LAYER_FILE_SIZE];
    for (size_t i = 0; i < count; i++) {
        int r = 0;
        bg_layer_disk_file(disk->layers[i].id, file);
        if (!s->suspend)
            r = bg_layer_link(dir_fd, disk->layers[i].file, s->folder_fd, file, err);
        if (r == 0 && !s->suspend)
            r = bg_layer_freeze(dir_fd, disk->layers[i].file, err);
        if (r == 0)
            r = note_layer(dir_fd, disk->layers[i].file, disk->layers[i].id,
                           &m->disk[m->disk_count++], err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int sync_file(int dir_fd, const char *name, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fsync(fd) < 0)
        return bg_err_errno(err, -errno, "%s", name);
    return 0;
}

/* What a power failure must not take from the sandbox's own folder; the frozen layers are durable.
 * The snapshot's folder is made so by its commit; a suspend has none. */
static int sync_files(struct snapshots *s, int dir_fd, struct bg_err *err)
{
    const struct bg_disk *disk = &s->opts->source->disk;
    int r = s->suspend ? bg_folder_sync(s->folder_fd) : 0;
    if (r < 0)
        return bg_err_errno(err, r, NEW_RESUME);
    for (size_t i = s->suspend ? 0 : disk->count - 1; i < disk->count && r == 0; i++)
        r = sync_file(dir_fd, disk->layers[i].file, err);
    if (r == 0 && !s->suspend)
        r = sync_file(dir_fd, BG_DISK_FILE, err);
    if (r == 0 && fsync(dir_fd) < 0)
        r = bg_err_errno(err, -errno, "%s", s->opts->sandbox->dir);
    return r;
}

static int note_state(struct snapshots *s, struct bg_snapshot *m, struct bg_err *err)
{
    struct stat st;
    if (fstatat(s->folder_fd, "state", &st, AT_SYMLINK_NOFOLLOW) < 0)
        return bg_err_errno(err, -errno, "state");
    m->state_size = (uint64_t)st.st_size;
    return bg_sha256_file(s->folder_fd, "state", m->state_sha256, NULL, err);
}

/* m: end with bg_snapshot_done(). */
static int fill(struct snapshots *s, struct bg_snapshot *m, struct bg_err *err)
{
    const struct snapshots_opts *o = s->opts;
    *m = (struct bg_snapshot){
        .kind = s->suspend     ? BG_SNAPSHOT_SUSPEND
                : s->disk_only ? BG_SNAPSHOT_DISK
                               : BG_SNAPSHOT_FULL,
        .memory_base_none = o->cold || (o->source->resumes && o->source->snapshot.memory_base_none),
        .next_stream = s->taken.next_stream,
        .dirty_bytes = s->taken.dirty_bytes};
    int r = bg_snapshot_describe(o->sandbox, &o->source->disk, s->suspend ? "" : s->tag, s->note, m,
                                 err);
    if (r < 0)
        return r;
    if (!s->suspend) { /* the disk names this one for its parent by now */
        free(m->parent);
        m->parent = BG_TAKE(s->parent);
    }
    (void)snprintf(m->qemu, sizeof m->qemu, "%s", o->qemu->version);
    (void)snprintf(m->accel, sizeof m->accel, "%s", accel_name(o->accel));
    golden_cpu(o->accel, m->cpu);
    return 0;
}

/* What is forked from a snapshot shall stand on few layers: QEMU maps each, and what stands on many
 * would have to write them all at its own next snapshot. This one has time. */
static int flatten_memory(struct snapshots *s, struct bg_snapshot *m, struct bg_err *err)
{
    int fds[BG_MEMORY_LAYERS_MAX];
    size_t count = 0;
    char id[BG_LAYER_ID_SIZE], file[BG_LAYER_FILE_SIZE];
    struct memory_save_stats stats;
    bg_layer_new_id(id);
    bg_layer_memory_file(id, file);
    BG_AUTOCLOSE int out = openat(s->folder_fd, file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int r = out < 0 ? bg_err_errno(err, -errno, "%s", file) : 0;
    for (; r == 0 && count < m->memory_count; count++) {
        char layer[BG_LAYER_FILE_SIZE];
        bg_layer_memory_file(m->memory[count].id, layer);
        fds[count] = openat(s->folder_fd, layer, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fds[count] < 0) {
            r = bg_err_errno(err, -errno, "%s", layer);
            break;
        }
    }
    if (r == 0)
        r = memory_flatten(fds, count, m->memory_bytes, out, &stats, err);
    for (size_t i = 0; i < count; i++)
        (void)close(fds[i]); /* read only */
    for (size_t i = 0; r == 0 && i < m->memory_count; i++) {
        char layer[BG_LAYER_FILE_SIZE];
        bg_layer_memory_file(m->memory[i].id, layer);
        if (unlinkat(s->folder_fd, layer, 0) < 0)
            r = bg_err_errno(err, -errno, "%s", layer);
    }
    if (r < 0)
        return r;
    m->memory_count = 1;
    return note_layer(s->folder_fd, file, id, &m->memory[0], err);
}

/* Everything but the name. */
static int write_all(struct snapshots *s, struct bg_err *err)
{
    struct bg_snapshot m;
    int dir;
    int r = open_sandbox(s, &dir, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int dir_fd = dir;
    r = fill(s, &m, err);
    if (r == 0 && !s->disk_only)
        r = link_memory(s, dir_fd, &m, err);
    if (r == 0 && !s->suspend && m.memory_count > SNAPSHOT_LAYERS_MAX)
        r = flatten_memory(s, &m, err);
    if (r == 0)
        r = link_disk(s, dir_fd, &m, err);
    if (r == 0 && !s->disk_only)
        r = note_state(s, &m, err);
    if (r == 0) {
        r = bg_fault("snapshot-linked");
        r = r < 0 ? bg_err_errno(err, r, "snapshot") : sync_files(s, dir_fd, err);
    }
    if (r == 0) {
        r = bg_fault("snapshot-synced");
        r = r < 0 ? bg_err_errno(err, r, "manifest") : bg_snapshot_write(s->folder_fd, &m, err);
    }
    (void)bg_fault("snapshot-written");
    bg_snapshot_done(&m);
    return r;
}

/* ---- when it has been taken ---- */

/* From the rename on the new top is the disk's. Not synced: the finisher does that, before the
 * snapshot gets its name, and not while the guest waits. */
static int take_note(struct snapshots *s, struct bg_err *err)
{
    struct bg_disk *disk = &s->opts->source->disk;
    char *parent = NULL;
    int dir;
    int r = open_sandbox(s, &dir, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int dir_fd = dir;
    if (renameat(dir_fd, NEW_DISK, dir_fd, BG_DISK_FILE) < 0)
        return bg_err_errno(err, -errno, "%s/" BG_DISK_FILE, s->opts->sandbox->dir);
    (void)bg_fault("snapshot-noted");
    s->has_top = false; /* it is the disk's, not ours to take away */
    r = bg_disk_push(disk, s->top_id, NULL, err);
    if (r == 0 && s->tag[0] != '.') {
        if (asprintf(&parent, "%s@%s", s->opts->sandbox->name, s->tag) < 0)
            return bg_err_errno(err, -ENOMEM, "disk");
        s->parent = disk->parent;
        disk->parent = parent;
    } else if (r == 0 && disk->parent) {
        s->parent = strdup(disk->parent);
        r = s->parent ? 0 : bg_err_errno(err, -ENOMEM, "disk");
    }
    return r;
}

static int commit_suspend(struct snapshots *s, struct bg_err *err)
{
    int dir;
    int r = open_sandbox(s, &dir, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int dir_fd = dir;
    r = write_all(s, err);
    if (r < 0)
        return r;
    if (fsync(s->folder_fd) < 0 || renameat(dir_fd, NEW_RESUME, dir_fd, SOURCE_RESUME) < 0 ||
        fsync(dir_fd) < 0)
        return bg_err_errno(err, -errno, "%s/" SOURCE_RESUME, s->opts->sandbox->dir);
    (void)bg_fault("suspend-committed");
    return 0;
}

int snapshots_taken(struct snapshots *s, const struct link_taken *taken, struct bg_err *err)
{
    if (!s->active || s->finisher != 0)
        return bg_err_set(err, -EPROTO, "a snapshot that nobody asked for");
    s->taken = *taken;
    s->taken.why.text[sizeof taken->why.text - 1] = '\0';
    int r = taken->why.code < 0 ? bg_err_set(err, taken->why.code, "%s", s->taken.why.text) : 0;
    if (r == 0)
        r = s->suspend ? commit_suspend(s, err) : take_note(s, err);
    return r;
}

/* ---- the finisher ---- */

static void finish(struct snapshots *s, int out)
{
    struct link_done word = {.why.code = 0};
    char *name = NULL;
    int r = write_all(s, &word.why);
    if (r == 0)
        r = bg_snapshot_commit(s->opts->paths, s->folder_fd, s->folder, s->opts->sandbox->name,
                               s->tag, &name, &word.why);
    (void)bg_fault("snapshot-committed");
    if (r == 0)
        (void)snprintf(word.name, sizeof word.name, "%s", name);
    else
        bg_snapshot_abandon(s->opts->paths, s->folder);
    (void)flock(s->folder_fd, LOCK_UN); /* whoever hears of it may lock it before we are gone */
    (void)!bg_write_full(out, &word, sizeof word); /* without it the snapshot counts as failed */
}

int snapshots_finish(struct snapshots *s, struct bg_err *err)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "pipe");
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);            /* at worst it finishes */
        (void)setpriority(PRIO_PROCESS, 0, FINISHER_NICE); /* at worst it is in the way */
        finish(s, fds[1]);
        _exit(0);
    }
    int fork_errno = errno;
    (void)close(fds[1]);
    if (pid < 0) {
        (void)close(fds[0]);
        return bg_err_errno(err, -fork_errno, "fork");
    }
    s->finisher = pid;
    s->finisher_fd = fds[0];
    return 0;
}

/* The next snapshot's memory may leave out what this one's has. Those that were between this one
 * and what it stands on have nothing that it has not. */
static void stand_on_it(struct snapshots *s)
{
    struct source *source = s->opts->source;
    int dir;
    if (open_sandbox(s, &dir, NULL) < 0)
        return;
    BG_AUTOCLOSE int dir_fd = dir;
    while (source->memory_count > s->stands_on && source->memory_count > source->mapped_count) {
        char file[BG_LAYER_FILE_SIZE], path[BG_LAYER_FILE_SIZE + sizeof SOURCE_MEMORY];
        source->memory_count--;
        bg_layer_memory_file(source->memory[source->memory_count].id, file);
        (void)snprintf(path, sizeof path, SOURCE_MEMORY "/%s", file);
        (void)unlinkat(dir_fd, path, 0); /* one that stays goes with the folder */
        (void)close(source->memory[source->memory_count].fd); /* synced */
    }
    if (source->memory_count < BG_MEMORY_LAYERS_MAX) {
        memcpy(source->memory[source->memory_count].id, s->memory_id, sizeof s->memory_id);
        source->memory[source->memory_count++].fd = bg_take_fd(&s->memory_fd);
    }
}

void snapshots_finished(struct snapshots *s, struct link_done *ret)
{
    if (bg_read_full(s->finisher_fd, ret, sizeof *ret) < 0)
        (void)bg_err_set(&ret->why, -EIO, "the process that writes the snapshot died");
    ret->name[sizeof ret->name - 1] = '\0';
    s->finisher = 0;
    if (ret->why.code == 0 && s->memory_fd >= 0)
        stand_on_it(s);
    done(s);
}
