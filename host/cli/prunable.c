/* What stands on what is found in the files that say so: disk.json of sandboxes, manifests of
 * snapshots. Golden snapshots have names, not links, so they are kept whenever one of those files
 * cannot be read. Of those that nothing refers to, one a kind of machine is kept: the latest, which
 * the next new sandbox is made from. */
#include "host/cli/prunable.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/state/folder.h"
#include "common/state/image.h"
#include "common/state/pool.h"
#include "common/state/resume.h"
#include "common/state/volume.h"
#include "host/cli/reclaim.h"

#define MOMENT_AGE_MS 60000 /* between a snapshot's end and the start of what is made from it */
#define KEY_DIGITS    32
#define GOLDEN_PREFIX "golden-"
#define TEMP_PREFIX   ".tmp-"
#define LOCK_PREFIX   ".lock-"

const char *prunable_kind_name(enum prunable_kind kind)
{
    static const char *const names[] = {[PRUNABLE_UNFINISHED] = "unfinished",
                                        [PRUNABLE_MOMENTARY] = "momentary",
                                        [PRUNABLE_GOLDEN] = "golden",
                                        [PRUNABLE_BOOT] = "boot",
                                        [PRUNABLE_SNAPSHOT] = "snapshot"};
    return names[kind];
}

/* ---- what is needed ---- */

/* Who goes on from which snapshot. */
struct descent {
    char *name;   /* a snapshot's; NULL: a sandbox */
    char *parent; /* or NULL */
    bool needed;  /* a snapshot: a sandbox goes on from it, or from one that does */
};

struct needs {
    char **goldens; /* names, with repeats */
    size_t golden_count;
    char (*layers)[BG_LAYER_ID_SIZE]; /* of sandboxes' disks */
    size_t layer_count;
    struct descent *descents;
    size_t descent_count;
    bool unsure;
};

static void needs_done(struct needs *needs)
{
    for (size_t i = 0; i < needs->golden_count; i++)
        free(needs->goldens[i]);
    for (size_t i = 0; i < needs->descent_count; i++) {
        free(needs->descents[i].name);
        free(needs->descents[i].parent);
    }
    free(needs->descents);
    free(needs->goldens);
    free(needs->layers);
}

static int add_descent(struct needs *needs, const char *name, const char *parent)
{
    struct descent *grown = reallocarray(needs->descents, needs->descent_count + 1, sizeof *grown);
    if (!grown)
        return -ENOMEM;
    needs->descents = grown;
    struct descent *d = &grown[needs->descent_count++];
    *d = (struct descent){.name = name ? strdup(name) : NULL,
                          .parent = parent ? strdup(parent) : NULL};
    return (name && !d->name) || (parent && !d->parent) ? -ENOMEM : 0;
}

static int need_golden(struct needs *needs, const char *name)
{
    char **grown = reallocarray(needs->goldens, needs->golden_count + 1, sizeof *grown);
    if (!grown)
        return -ENOMEM;
    needs->goldens = grown;
    grown[needs->golden_count] = strdup(name);
    return grown[needs->golden_count++] ? 0 : -ENOMEM;
}

static int need_layer(struct needs *needs, const char *id)
{
    char(*grown)[BG_LAYER_ID_SIZE] =
        reallocarray(needs->layers, needs->layer_count + 1, sizeof *grown);
    if (!grown)
        return -ENOMEM;
    needs->layers = grown;
    (void)snprintf(grown[needs->layer_count++], BG_LAYER_ID_SIZE, "%s", id);
    return 0;
}

static int need_sandbox(const char *folder, struct needs *needs)
{
    struct bg_disk disk;
    BG_AUTOCLOSE int dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = dir < 0 ? -errno : bg_disk_load(dir, &disk, NULL);
    if (r < 0) {
        needs->unsure |= r != -ENOENT; /* never started, or removed: it needs nothing */
        return r == -ENOMEM ? r : 0;
    }
    r = need_golden(needs, disk.golden);
    for (size_t i = 0; r == 0 && i < disk.count; i++)
        r = need_layer(needs, disk.layers[i].id);
    if (r == 0)
        r = add_descent(needs, NULL, disk.parent);
    bg_disk_done(&disk);
    return r;
}

/* Those of pools first: meanwhile one may become a sandbox, but none the other way round. */
static int need_sandboxes(struct app *app, struct needs *needs, struct bg_err *err)
{
    struct bg_sandbox *members;
    char **names = NULL;
    size_t count;
    int r = bg_pool_members(&app->paths, &members, &count, err);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < count; i++)
        r = need_sandbox(members[i].dir, needs);
    bg_pool_members_free(members, count);
    if (r == 0)
        r = bg_sandbox_names(&app->paths, &names, err);
    for (size_t i = 0; r == 0 && names[i]; i++) {
        struct bg_sandbox sandbox;
        if (bg_sandbox_locate(&app->paths, names[i], &sandbox, NULL) < 0)
            continue; /* removed meanwhile */
        r = need_sandbox(sandbox.dir, needs);
        bg_sandbox_done(&sandbox);
    }
    bg_sandbox_names_free(names);
    return r;
}

static int need_snapshot(struct app *app, const char *name, struct needs *needs)
{
    struct bg_snapshot s;
    int r = bg_snapshot_load(&app->paths, name, &s, NULL);
    if (r < 0) {
        needs->unsure |= r != -ENOENT;
        return r == -ENOMEM ? r : 0;
    }
    r = need_golden(needs, s.golden);
    if (r == 0)
        r = add_descent(needs, name, s.parent);
    bg_snapshot_done(&s);
    return r;
}

/* Bootable ones: those for data stand on no golden snapshot. */
static int need_volumes(struct app *app, struct needs *needs)
{
    struct bg_volume *all;
    size_t count;
    int r = bg_volume_list(&app->paths, NULL, &all, &count, NULL);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < count; i++) {
        struct bg_disk disk;
        BG_AUTOCLOSE int dir = open(all[i].dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int loaded = dir < 0 ? -errno : bg_disk_load(dir, &disk, NULL);
        needs->unsure |= loaded < 0 && loaded != -ENOENT;
        if (loaded < 0)
            continue; /* it was never booted, or is gone */
        r = need_golden(needs, disk.golden);
        bg_disk_done(&disk);
    }
    bg_volume_list_free(all, count);
    return r;
}

static struct descent *find_descent(const struct needs *needs, const char *name)
{
    for (size_t i = 0; i < needs->descent_count; i++)
        if (needs->descents[i].name && strcmp(needs->descents[i].name, name) == 0)
            return &needs->descents[i];
    return NULL;
}

/* All that a sandbox came from. */
static void follow_descents(struct needs *needs)
{
    for (size_t i = 0; i < needs->descent_count; i++) {
        const struct descent *d = &needs->descents[i];
        if (d->name)
            continue;
        struct descent *next = d->parent ? find_descent(needs, d->parent) : NULL;
        while (next && !next->needed) { /* each only once: also of names that go in a circle */
            next->needed = true;
            next = next->parent ? find_descent(needs, next->parent) : NULL;
        }
    }
}

static int find_needs(struct app *app, char *const *snapshots, struct needs *needs,
                      struct bg_err *err)
{
    int r = need_sandboxes(app, needs, err);
    for (size_t i = 0; r == 0 && snapshots[i]; i++)
        r = need_snapshot(app, snapshots[i], needs);
    if (r == 0)
        r = need_volumes(app, needs);
    if (r == 0)
        follow_descents(needs);
    return r < 0 ? bg_err_errno(err, r, "prune") : 0;
}

static bool golden_needed(const struct needs *needs, const char *name)
{
    for (size_t i = 0; i < needs->golden_count; i++)
        if (strcmp(needs->goldens[i], name) == 0)
            return true;
    return false;
}

/* A sandbox stands on a snapshot if the last layer of that is below it, or was before its disk was
 * flattened: then it does not need it, but it is still one that it came from. */
static bool stood_upon(const struct needs *needs, const struct bg_snapshot *s)
{
    const struct descent *d = find_descent(needs, s->name);
    if (d && d->needed)
        return true;
    for (size_t i = 0; s->disk_count > 0 && i < needs->layer_count; i++)
        if (strcmp(needs->layers[i], s->disk[s->disk_count - 1].id) == 0)
            return true;
    return false;
}

/* ---- the list ---- */

struct finding {
    struct app *app;
    const struct prunable_opts *opts;
    struct prunable_list *list;
    struct reclaim reclaim;
};

static uint64_t folder_time_ms(int parent_fd, const char *name)
{
    struct stat st;
    if (fstatat(parent_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    return (uint64_t)st.st_mtim.tv_sec * 1000 + (uint64_t)st.st_mtim.tv_nsec / 1000000;
}

static int add(struct finding *f, enum prunable_kind kind, int parent_fd, const char *name,
               uint64_t since_ms)
{
    struct prunable_list *list = f->list;
    uint64_t all;
    if (since_ms + f->opts->older_than_ms > f->opts->now_ms)
        return 0;
    struct prunable *grown = reallocarray(list->items, list->count + 1, sizeof *grown);
    if (!grown)
        return -ENOMEM;
    list->items = grown;
    struct prunable *item = &grown[list->count];
    *item = (struct prunable){.kind = kind, .name = strdup(name), .since_ms = since_ms};
    if (!item->name)
        return -ENOMEM;
    list->count++;
    int r = bg_folder_size(parent_fd, name, &all, &item->frees);
    if (r == -ENOENT)
        return 0; /* somebody else has removed it */
    return r < 0 ? r : reclaim_add(&f->reclaim, parent_fd, name);
}

/* True while a command works with it. */
static bool is_held(int parent_fd, const char *name)
{
    BG_AUTOCLOSE int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

static int look_at_snapshot(struct finding *f, int store_fd, const char *name,
                            const struct needs *needs)
{
    struct bg_snapshot s;
    char source[BG_SANDBOX_NAME_MAX + 1], tag[BG_SANDBOX_NAME_MAX + 2];
    if (!bg_snapshot_split(name, source, tag))
        return 0;
    if (tag[0] == '.') {
        uint64_t since_ms = folder_time_ms(store_fd, name);
        bool young = since_ms + MOMENT_AGE_MS > f->opts->now_ms;
        return young || is_held(store_fd, name)
                   ? 0
                   : add(f, PRUNABLE_MOMENTARY, store_fd, name, since_ms);
    }
    if (!f->opts->snapshots || bg_snapshot_load(&f->app->paths, name, &s, NULL) < 0)
        return 0; /* whether a damaged one is worth keeping is for a person to say */
    int r = stood_upon(needs, &s) ? 0 : add(f, PRUNABLE_SNAPSHOT, store_fd, name, s.created_ms);
    bg_snapshot_done(&s);
    return r;
}

static int find_unfinished(struct finding *f, int store_fd, struct bg_err *err)
{
    char **names;
    int r = bg_snapshot_leftovers(&f->app->paths, &names, err);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && names[i]; i++)
        r = add(f, PRUNABLE_UNFINISHED, store_fd, names[i], folder_time_ms(store_fd, names[i]));
    bg_sandbox_names_free(names);
    return r < 0 ? bg_err_errno(err, r, "prune") : 0;
}

/* ---- golden snapshots ---- */

struct golden {
    char *name;
    char machine[160]; /* image, cpus and memory as text; "" if its manifest cannot be read */
    uint64_t created_ms;
    bool chosen; /* new sandboxes of its key are made from it */
};

static int open_goldens(const struct bg_paths *paths, int *ret_fd, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/snapshots", paths->data) < 0)
        return bg_err_errno(err, -ENOMEM, "golden snapshots");
    *ret_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret_fd < 0 && errno != ENOENT ? bg_err_errno(err, -errno, "%s", path) : 0;
}

/* "golden-KEY" of "golden-KEY.TAG"; false if it is none. */
static bool key_link(const char *name, char out[64])
{
    const char *dot = strchr(name, '.');
    size_t prefix = sizeof GOLDEN_PREFIX - 1;
    if (strncmp(name, GOLDEN_PREFIX, prefix) != 0 || !dot ||
        (size_t)(dot - name) != prefix + KEY_DIGITS || !bg_golden_name_ok(name))
        return false;
    (void)snprintf(out, 64, "%.*s", (int)(dot - name), name);
    return true;
}

static bool points_to(int goldens_fd, const char *link, const char *name)
{
    char target[128];
    ssize_t n = readlinkat(goldens_fd, link, target, sizeof target - 1);
    if (n <= 0)
        return false;
    target[n] = '\0';
    return strcmp(target, name) == 0;
}

static void read_golden(int goldens_fd, struct golden *g)
{
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *text = NULL;
    size_t size;
    const char *image;
    json_int_t created_ms, cpus, memory_bytes;
    g->created_ms = folder_time_ms(goldens_fd, g->name);
    if (asprintf(&path, "%s/manifest.json", g->name) < 0 ||
        bg_read_file(goldens_fd, path, BG_MANIFEST_MAX, &text, &size, NULL) < 0)
        return;
    json_auto_t *json = json_loadb(text, size, 0, NULL);
    if (!json || json_unpack(json, "{s:I, s:{s:s, s:I, s:I}}", "created_ms", &created_ms, "key",
                             "image", &image, "cpus", &cpus, "memory_bytes", &memory_bytes) < 0)
        return;
    g->created_ms = created_ms > 0 ? (uint64_t)created_ms : 0;
    (void)snprintf(g->machine, sizeof g->machine, "%.64s %lld %lld", image, (long long)cpus,
                   (long long)memory_bytes);
}

static bool has_image(const struct bg_paths *paths, const struct golden *g)
{
    char digest[65], found[65];
    bool tagged;
    (void)snprintf(digest, sizeof digest, "%.64s", g->machine);
    return bg_image_resolve(paths, digest, found, &tagged, NULL) == 0;
}

/* True for the one that the next new sandbox of its machine is made from. */
static bool is_latest(const struct golden *goldens, size_t count, size_t index)
{
    const struct golden *g = &goldens[index];
    if (!g->chosen || !g->machine[0])
        return false;
    for (size_t i = 0; i < count; i++)
        if (i != index && goldens[i].chosen && strcmp(goldens[i].machine, g->machine) == 0 &&
            goldens[i].created_ms > g->created_ms)
            return false;
    return true;
}

static int by_name(const void *left, const void *right)
{
    return strcmp(((const struct golden *)left)->name, ((const struct golden *)right)->name);
}

static int list_goldens(int goldens_fd, struct golden **ret, size_t *ret_count)
{
    struct golden *goldens = NULL;
    size_t count = 0;
    char link[64];
    int fd = openat(goldens_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int saved = errno;
        if (fd >= 0)
            (void)close(fd); /* nothing was read */
        return -saved;
    }
    int r = 0;
    const struct dirent *entry;
    while (r == 0 && (entry = readdir(dir))) {
        if (!key_link(entry->d_name, link))
            continue;
        struct golden *grown = reallocarray(goldens, count + 1, sizeof *grown);
        r = grown ? 0 : -ENOMEM;
        if (!grown)
            break;
        goldens = grown;
        goldens[count] = (struct golden){.name = strdup(entry->d_name),
                                         .chosen = points_to(goldens_fd, link, entry->d_name)};
        r = goldens[count].name ? 0 : -ENOMEM;
        if (r == 0)
            read_golden(goldens_fd, &goldens[count++]);
    }
    (void)closedir(dir); /* read only */
    if (count > 0)
        qsort(goldens, count, sizeof *goldens, by_name);
    *ret = goldens;
    *ret_count = count;
    return r;
}

/* True if nobody makes the golden snapshot of this key. */
static bool key_is_free(int goldens_fd, const char *key)
{
    char lock[64];
    (void)snprintf(lock, sizeof lock, LOCK_PREFIX "%.32s", key);
    BG_AUTOCLOSE int fd = openat(goldens_fd, lock, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? errno == ENOENT : flock(fd, LOCK_EX | LOCK_NB) == 0;
}

static int find_boots(struct finding *f, int goldens_fd)
{
    int fd = openat(goldens_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int saved = errno;
        if (fd >= 0)
            (void)close(fd); /* nothing was read */
        return -saved;
    }
    int r = 0;
    size_t prefix = sizeof TEMP_PREFIX - 1;
    const struct dirent *entry;
    while (r == 0 && (entry = readdir(dir)))
        if (strncmp(entry->d_name, TEMP_PREFIX, prefix) == 0 &&
            strlen(entry->d_name) == prefix + KEY_DIGITS &&
            key_is_free(goldens_fd, entry->d_name + prefix))
            r = add(f, PRUNABLE_BOOT, goldens_fd, entry->d_name,
                    folder_time_ms(goldens_fd, entry->d_name));
    (void)closedir(dir); /* read only */
    return r;
}

static int find_goldens(struct finding *f, const struct needs *needs, struct bg_err *err)
{
    int fd_number = -1;
    struct golden *goldens = NULL;
    size_t count = 0;
    int r = open_goldens(&f->app->paths, &fd_number, err);
    BG_AUTOCLOSE int fd = fd_number;
    if (r < 0 || fd < 0)
        return r;
    r = find_boots(f, fd);
    if (r == 0 && !needs->unsure)
        r = list_goldens(fd, &goldens, &count);
    for (size_t i = 0; r == 0 && i < count; i++)
        if (!golden_needed(needs, goldens[i].name) &&
            (!is_latest(goldens, count, i) || !has_image(&f->app->paths, &goldens[i])))
            r = add(f, PRUNABLE_GOLDEN, fd, goldens[i].name, goldens[i].created_ms);
    for (size_t i = 0; i < count; i++)
        free(goldens[i].name);
    free(goldens);
    return r < 0 ? bg_err_errno(err, r, "golden snapshots") : 0;
}

int prunable_find(struct app *app, const struct prunable_opts *opts, struct prunable_list *ret,
                  struct bg_err *err)
{
    struct prunable_list list = {0};
    struct needs needs = {0};
    struct finding f = {.app = app, .opts = opts, .list = &list};
    BG_AUTOCLOSE int store = -1;
    char **snapshots = NULL;
    int r = app_paths(app, err);
    if (r == 0)
        r = bg_snapshot_open_store(&app->paths, &store, err);
    if (r == 0)
        r = bg_snapshot_names(&app->paths, &snapshots, err);
    if (r == 0)
        r = find_needs(app, snapshots, &needs, err);
    if (r == 0)
        r = find_unfinished(&f, store, err);
    for (size_t i = 0; r == 0 && snapshots[i]; i++)
        if ((r = look_at_snapshot(&f, store, snapshots[i], &needs)) < 0)
            (void)bg_err_errno(err, r, "snapshot '%s'", snapshots[i]);
    if (r == 0)
        r = find_goldens(&f, &needs, err);
    list.frees = reclaim_bytes(&f.reclaim);
    list.unsure = needs.unsure;
    reclaim_done(&f.reclaim);
    needs_done(&needs);
    bg_sandbox_names_free(snapshots);
    if (r < 0) {
        prunable_done(&list);
        return r;
    }
    *ret = list;
    return 0;
}

void prunable_done(struct prunable_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->items[i].name);
    free(list->items);
    *list = (struct prunable_list){0};
}

/* ---- removing ---- */

/* First nobody new can find it, then it is seen whether somebody has. */
static int remove_golden(struct app *app, const char *name, struct bg_err *err)
{
    char link[64];
    struct needs needs = {0};
    char **snapshots = NULL;
    int fd_number = -1;
    int r = open_goldens(&app->paths, &fd_number, err);
    BG_AUTOCLOSE int fd = fd_number;
    if (r < 0 || fd < 0 || !key_link(name, link))
        return r;
    if (!key_is_free(fd, link + sizeof GOLDEN_PREFIX - 1))
        return bg_err_set(err, -EBUSY, "%s: its like is being made just now", name);
    if (points_to(fd, link, name) && unlinkat(fd, link, 0) < 0 && errno != ENOENT)
        return bg_err_errno(err, -errno, "%s", link);
    r = bg_snapshot_names(&app->paths, &snapshots, err);
    if (r == 0)
        r = find_needs(app, snapshots, &needs, err);
    if (r == 0 && (needs.unsure || golden_needed(&needs, name)))
        r = bg_err_set(err, -EBUSY, "%s: a sandbox has come to stand on it", name);
    if (r == 0 && (r = bg_folder_remove(fd, name)) < 0)
        (void)bg_err_errno(err, r, "%s", name);
    needs_done(&needs);
    bg_sandbox_names_free(snapshots);
    return r;
}

static int remove_boot(struct app *app, const char *name, struct bg_err *err)
{
    int fd_number = -1;
    int r = open_goldens(&app->paths, &fd_number, err);
    BG_AUTOCLOSE int fd = fd_number;
    if (r < 0 || fd < 0)
        return r;
    if (!key_is_free(fd, name + sizeof TEMP_PREFIX - 1))
        return bg_err_set(err, -EBUSY, "%s: a golden snapshot is being made in it", name);
    r = bg_folder_remove(fd, name);
    return r < 0 ? bg_err_errno(err, r, "%s", name) : 0;
}

static int remove_momentary(struct app *app, const char *name, struct bg_err *err)
{
    BG_AUTOCLOSE int store = -1;
    int r = bg_snapshot_open_store(&app->paths, &store, err);
    if (r == 0 && is_held(store, name))
        r = bg_err_set(err, -EBUSY, "snapshot '%s': a command works with it", name);
    return r < 0 ? r : bg_snapshot_remove(&app->paths, name, err);
}

int prunable_remove(struct app *app, const struct prunable *item, struct bg_err *err)
{
    switch (item->kind) {
    case PRUNABLE_UNFINISHED:
        return bg_snapshot_sweep(&app->paths, item->name, err);
    case PRUNABLE_MOMENTARY:
        return remove_momentary(app, item->name, err);
    case PRUNABLE_GOLDEN:
        return remove_golden(app, item->name, err);
    case PRUNABLE_BOOT:
        return remove_boot(app, item->name, err);
    case PRUNABLE_SNAPSHOT:
        break;
    }
    return bg_snapshot_remove(&app->paths, item->name, err);
}
