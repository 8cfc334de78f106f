#include "host/cli/leftovers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/quote.h"
#include "common/state/disk.h"
#include "common/state/pool.h"
#include "host/cli/life.h"
#include "host/cli/mount_probe.h"
#include "host/cli/offline.h"

/* --- mounts --- */

/* What is known of the sandbox, without touching it: the commands that open one clear up after a
 * crash at once, and then there would be nothing to tell. */
static enum mount_sandbox sandbox_of(struct app *app, const struct mount_entry *entry)
{
    struct bg_sandbox sandbox;
    enum bg_sandbox_state state;
    enum bg_sandbox_use use;
    if (bg_sandbox_load(&app->paths, entry->sandbox, &sandbox, NULL) < 0)
        return MOUNT_SANDBOX_UNKNOWN;
    bool same = mounts_match(entry, &sandbox);
    bool told = bg_sandbox_state(&sandbox, &state, NULL, NULL) == 0 &&
                bg_sandbox_use(&sandbox, &use, NULL) == 0;
    bg_sandbox_done(&sandbox);
    if (!same || !told)
        return MOUNT_SANDBOX_UNKNOWN; /* another one of that name */
    if (use != BG_SANDBOX_UNUSED)
        return MOUNT_SANDBOX_RUNS; /* a helper does, for its files */
    return state == BG_SANDBOX_CRASHED || state == BG_SANDBOX_SUSPENDED ? MOUNT_SANDBOX_CRASHED
           : bg_sandbox_rests(state)                                    ? MOUNT_SANDBOX_STOPPED
                                                                        : MOUNT_SANDBOX_RUNS;
}

struct tally {
    size_t dead, silent, kept;
    char names[BG_ERR_TEXT_SIZE / 2]; /* of those that are told, cut */
    struct bg_err why;                /* of the first one that could not be removed */
};

static void add_name(struct tally *tally, const struct mount_entry *entry, const char *what)
{
    char path[128];
    size_t used = strlen(tally->names);
    (void)snprintf(tally->names + used, sizeof tally->names - used, "%s%s (%s: %s)",
                   used > 0 ? ", " : "", bg_quote(entry->path, path, sizeof path), entry->sandbox,
                   what);
}

static void judge_one(struct app *app, const struct mount_entry *entry, int answer, bool fix,
                      struct tally *tally)
{
    struct bg_err err;
    switch (mount_judge(answer, sandbox_of(app, entry))) {
    case MOUNT_LIVES:
        return;
    case MOUNT_SILENT:
        tally->silent++;
        add_name(tally, entry, "does not answer");
        return;
    case MOUNT_ORPHAN:
        add_name(tally, entry, "its process is gone");
        break;
    case MOUNT_STALE:
        add_name(tally, entry, "it hangs, and the sandbox has ended");
        break;
    }
    tally->dead++;
    if (!fix)
        return;
    if (mount_clear(entry, answer, &err) < 0) {
        if (tally->kept == 0)
            tally->why = err;
        tally->kept++;
    }
}

static void report_mounts(const struct tally *tally, size_t count, bool fix,
                          struct check_result *ret)
{
    bool removed = fix && tally->kept == 0;
    if (tally->dead + tally->silent == 0) {
        check_found(ret, CHECK_OK, "%zu, none of them dead", count);
        return;
    }
    check_found(ret, removed && tally->silent == 0 ? CHECK_OK : CHECK_WARN, "%s%zu dead%s: %s",
                removed && tally->dead > 0 ? "removed " : "", tally->dead,
                tally->silent > 0 ? ", others without an answer" : "", tally->names);
    if (tally->kept > 0)
        check_hint(ret, "%s", tally->why.text);
    else if (tally->dead > 0 && !fix)
        check_hint(ret, "bellglass doctor --fix");
    else if (tally->silent > 0)
        check_hint(ret, "if they stay so: bellglass umount DIR");
}

void leftovers_mounts(struct app *app, bool fix, struct check_result *ret)
{
    struct bg_err err;
    struct mount_list mounts = {0};
    struct tally tally = {0};
    int r = app_paths(app, &err);
    if (r == 0)
        r = mounts_read(&mounts, &err);
    BG_AUTOFREE int *answers = calloc(mounts.count + 1, sizeof *answers);
    if (r == 0 && !answers)
        r = bg_err_errno(&err, -ENOMEM, "mounts");
    if (r < 0) {
        check_found(ret, CHECK_FAIL, "%s", err.text);
    } else {
        mount_probe(&mounts, answers);
        for (size_t i = mounts.count; i > 0; i--)
            judge_one(app, &mounts.entries[i - 1], answers[i - 1], fix, &tally);
        report_mounts(&tally, mounts.count, fix, ret);
    }
    mounts_done(&mounts);
}

/* --- sandboxes and sockets --- */

struct found {
    size_t damaged, crashed, sockets, layers, kept;
    char names[BG_ERR_TEXT_SIZE / 2]; /* of the first two, cut */
};

static void add_sandbox(struct found *found, const char *name, size_t *count)
{
    size_t used = strlen(found->names);
    (void)snprintf(found->names + used, sizeof found->names - used, "%s%s", used > 0 ? ", " : "",
                   name);
    (*count)++;
}

/* Files of layers that are of no disk: whoever made them was killed. The next start would remove
 * them too. A sandbox that runs, or is just being changed, may be making one. */
static void look_for_layers(const struct bg_sandbox *sandbox, bool fix, struct found *found)
{
    struct bg_disk disk;
    size_t count = 0;
    BG_AUTOCLOSE int lock = -1;
    if (bg_sandbox_lock(sandbox, &lock, NULL) < 0)
        return;
    BG_AUTOCLOSE int dir = open(sandbox->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0 || bg_disk_load(dir, &disk, NULL) < 0)
        return; /* it was never started, or somebody else tells of it */
    found->kept += bg_disk_strays(dir, &disk, fix, &count, NULL) < 0;
    if (count > 0)
        add_sandbox(found, sandbox->name, &found->layers);
    bg_disk_done(&disk);
}

/* With fix, opening one does what is to be done: a crash is noted, what should have vanished with
 * its command is removed. Of damaged ones only the user can say whether there is something to keep.
 */
static void look_at(struct app *app, const char *name, bool fix, struct found *found)
{
    struct bg_sandbox sandbox;
    enum bg_sandbox_state state, noted;
    char reason[BG_ERR_TEXT_SIZE];
    struct life life;
    int r = bg_sandbox_load(&app->paths, name, &sandbox, NULL);
    if (r == -EUCLEAN)
        add_sandbox(found, name, &found->damaged);
    if (r < 0)
        return;
    bool left = false;
    if (bg_sandbox_state(&sandbox, &state, NULL, NULL) == 0) {
        bool told = bg_sandbox_noted(&sandbox, &noted, reason) && noted == BG_SANDBOX_CRASHED;
        left = (state == BG_SANDBOX_CRASHED && !told) || life_orphaned(&sandbox, state);
        if (bg_sandbox_rests(state))
            look_for_layers(&sandbox, fix, found);
    }
    bg_sandbox_done(&sandbox);
    if (!left)
        return;
    add_sandbox(found, name, &found->crashed);
    if (fix && life_open(app, name, &life, NULL) == 0)
        life_done(&life);
}

/* True if a sandbox of that id runs. */
static bool runs_with_id(struct app *app, char *const *names, const char *id, size_t id_size)
{
    bool runs = false;
    for (size_t i = 0; names[i] && !runs; i++) {
        struct bg_sandbox sandbox;
        enum bg_sandbox_state state;
        if (bg_sandbox_load(&app->paths, names[i], &sandbox, NULL) < 0)
            continue;
        runs = strlen(sandbox.id) == id_size && strncmp(sandbox.id, id, id_size) == 0 &&
               bg_sandbox_state(&sandbox, &state, NULL, NULL) == 0 && !bg_sandbox_rests(state);
        bg_sandbox_done(&sandbox);
    }
    return runs;
}

/* True if the id is that of a pool's member that somebody has. */
static bool is_member(struct app *app, const char *id, size_t id_size)
{
    enum bg_sandbox_use use;
    struct bg_sandbox member = {0};
    BG_AUTOFREE char *dir = NULL;
    if (asprintf(&dir, "%s/sandboxes/" BG_POOL_PREFIX "%.*s", app->paths.state, (int)id_size, id) <
        0)
        return true; /* out of memory: it stays */
    member.dir = dir;
    return bg_sandbox_use(&member, &use, NULL) == 0 && use != BG_SANDBOX_UNUSED;
}

/* True if nobody listens on the socket of a helper. */
static bool helper_is_dead(struct app *app, const char *id)
{
    char name[] = "helper";
    struct bg_sandbox helper = {.name = name};
    BG_AUTOCLOSE int fd = -1;
    (void)snprintf(helper.id, sizeof helper.id, "%s", id);
    return bg_sandbox_connect(&app->paths, &helper, &fd, NULL) == -ENOTCONN;
}

/* Control sockets of sandboxes that do not run, and of helpers. */
static void look_for_sockets(struct app *app, char *const *names, bool fix, struct found *found)
{
    DIR *dir = opendir(app->paths.runtime);
    if (!dir)
        return;
    for (const struct dirent *entry; (entry = readdir(dir));) {
        size_t size = strlen(entry->d_name);
        bool socket = strncmp(entry->d_name, "sbx_", 4) == 0 && size > 5 &&
                      strcmp(entry->d_name + size - 5, ".sock") == 0;
        char id[32];
        bool dead = offline_socket_id(entry->d_name, id)
                        ? helper_is_dead(app, id)
                        : socket && !is_member(app, entry->d_name, size - 5) &&
                              !runs_with_id(app, names, entry->d_name, size - 5);
        if (!dead)
            continue;
        found->sockets++;
        found->kept += fix && unlinkat(dirfd(dir), entry->d_name, 0) < 0;
    }
    (void)closedir(dir); /* read only */
}

void leftovers_files(struct app *app, bool fix, struct check_result *ret)
{
    struct bg_err err;
    struct found found = {0};
    size_t swept = 0;
    char **names = NULL;
    int r = app_paths(app, &err);
    if (r == 0 && fix)
        r = bg_sandbox_sweep(&app->paths, &swept, &err);
    if (r == 0)
        r = bg_sandbox_names(&app->paths, &names, &err);
    if (r < 0) {
        check_found(ret, CHECK_FAIL, "%s", err.text);
        return;
    }
    for (size_t i = 0; names[i]; i++)
        look_at(app, names[i], fix, &found);
    look_for_sockets(app, names, fix, &found);
    bg_sandbox_names_free(names);
    if (found.damaged + found.crashed + found.sockets + found.layers + swept == 0) {
        check_found(ret, CHECK_OK, "nothing was left behind");
        return;
    }
    bool open = found.damaged > 0 || found.kept > 0 || !fix;
    check_found(
        ret, open ? CHECK_WARN : CHECK_OK,
        "%s%zu sandboxes whose processes were killed, %zu dead sockets, %zu disks with layers "
        "that are not theirs; %zu damaged sandboxes%s%s",
        fix && found.kept == 0 ? "cleaned up after " : "", found.crashed, found.sockets,
        found.layers, found.damaged, found.names[0] ? ": " : "", found.names);
    if (found.kept > 0)
        check_hint(ret, "they could not be removed");
    else if (!fix && found.crashed + found.sockets + found.layers > 0)
        check_hint(ret, "bellglass doctor --fix");
    else if (found.damaged > 0)
        check_hint(ret, "see bellglass ls; remove with bellglass rm -f NAME");
}
