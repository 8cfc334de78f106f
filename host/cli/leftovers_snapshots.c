#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "common/state/resume.h"
#include "host/cli/leftovers.h"
#include "host/cli/output.h"
#include "host/cli/prunable.h"

struct found {
    size_t snapshots, damaged, left, kept, memories;
    char names[BG_ERR_TEXT_SIZE / 2]; /* of what is damaged, cut */
};

static void add_name(struct found *found, const char *name, size_t *count)
{
    size_t used = strlen(found->names);
    (void)snprintf(found->names + used, sizeof found->names - used, "%s%s", used > 0 ? ", " : "",
                   name);
    (*count)++;
}

static void look_at_snapshot(struct app *app, const char *name, struct found *found)
{
    struct bg_snapshot s;
    int r = bg_snapshot_load(&app->paths, name, &s, NULL);
    if (r == -ENOENT)
        return;
    found->snapshots++;
    if (r == -EUCLEAN)
        add_name(found, name, &found->damaged);
    if (r < 0)
        return;
    BG_AUTOCLOSE int dir = open(s.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0 && bg_snapshot_check_files(&s, dir, NULL) == -EUCLEAN)
        add_name(found, name, &found->damaged);
    bg_snapshot_done(&s);
}

static bool memory_is_damaged(int dir)
{
    struct bg_disk disk;
    struct bg_snapshot resume;
    if (!bg_resume_present(dir) || bg_disk_load(dir, &disk, NULL) < 0)
        return false;
    int r = bg_resume_load(dir, &disk, &resume, NULL);
    bg_disk_done(&disk);
    if (r < 0)
        return r == -EUCLEAN;
    BG_AUTOCLOSE int fd = openat(dir, BG_RESUME_FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    r = fd < 0 ? -errno : bg_snapshot_check_memory(&resume, fd, NULL);
    bg_snapshot_done(&resume);
    return r == -EUCLEAN;
}

/* Of one that does not run; what its start would settle is settled with fix. */
static void look_at_sandbox(struct app *app, const char *name, bool fix, struct found *found)
{
    struct bg_sandbox sandbox;
    BG_AUTOCLOSE int lock = -1;
    if (bg_sandbox_locate(&app->paths, name, &sandbox, NULL) < 0)
        return;
    BG_AUTOCLOSE int dir = open(sandbox.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0 && bg_sandbox_lock(&sandbox, &lock, NULL) == 0) {
        if (fix)
            (void)(bg_resume_settle(dir, NULL) < 0); /* its next start says why */
        if (memory_is_damaged(dir))
            add_name(found, name, &found->memories);
    }
    bg_sandbox_done(&sandbox);
}

static int look_for_leftovers(struct app *app, bool fix, struct found *found, struct bg_err *err)
{
    struct prunable_list list;
    const struct prunable_opts opts = {.now_ms = output_now_ms()};
    int r = prunable_find(app, &opts, &list, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < list.count; i++) {
        if (list.items[i].kind == PRUNABLE_GOLDEN)
            continue; /* it is old, but nobody left it half-way */
        found->left++;
        found->kept += fix && prunable_remove(app, &list.items[i], NULL) < 0;
    }
    prunable_done(&list);
    return 0;
}

static void report(const struct found *found, bool fix, struct check_result *ret)
{
    if (found->damaged + found->left + found->memories == 0) {
        check_found(ret, CHECK_OK, "%zu, none of them damaged", found->snapshots);
        return;
    }
    bool open = found->damaged + found->memories > 0 || !fix || found->kept > 0;
    check_found(ret, open ? CHECK_WARN : CHECK_OK,
                "%s%zu that were not finished; %zu damaged snapshots, %zu sandboxes with damaged "
                "memory%s%s",
                fix && found->left > found->kept ? "removed " : "", found->left, found->damaged,
                found->memories, found->names[0] ? ": " : "", found->names);
    if (found->kept > 0)
        check_hint(ret, "some could not be removed: bellglass prune --yes says why");
    else if (!fix && found->left > 0)
        check_hint(ret, "bellglass doctor --fix");
    else if (found->memories > 0)
        check_hint(ret, "a sandbox's disk can be booted: bellglass start --cold NAME");
    else if (found->damaged > 0)
        check_hint(ret, "bellglass snapshot inspect NAME@TAG says how; remove it with snapshot rm");
}

void leftovers_snapshots(struct app *app, bool fix, struct check_result *ret)
{
    struct bg_err err;
    struct found found = {0};
    char **snapshots = NULL, **sandboxes = NULL;
    int r = app_paths(app, &err);
    if (r == 0)
        r = look_for_leftovers(app, fix, &found, &err);
    if (r == 0)
        r = bg_snapshot_names(&app->paths, &snapshots, &err);
    if (r == 0)
        r = bg_sandbox_names(&app->paths, &sandboxes, &err);
    for (size_t i = 0; r == 0 && snapshots[i]; i++)
        look_at_snapshot(app, snapshots[i], &found);
    for (size_t i = 0; r == 0 && sandboxes[i]; i++)
        look_at_sandbox(app, sandboxes[i], fix, &found);
    bg_sandbox_names_free(snapshots);
    bg_sandbox_names_free(sandboxes);
    if (r < 0)
        check_found(ret, CHECK_FAIL, "%s", err.text);
    else
        report(&found, fix, ret);
}
