#include "host/cli/family_store.h"

#include <fcntl.h>

#include "common/state/snapshot.h"
#include "host/cli/life.h"

static int add_snapshot(struct app *app, const char *name, struct family *family,
                        struct bg_err *err)
{
    struct bg_snapshot s;
    const char *layers[BG_DISK_LAYERS_MAX];
    int r = bg_snapshot_load(&app->paths, name, &s, err);
    if (r < 0) /* a damaged one has no place in it that is known; ls and doctor tell of it */
        return r == -ENOMEM ? r : 0;
    for (size_t i = 0; i < s.disk_count; i++)
        layers[i] = s.disk[i].id;
    const struct family_entry entry = {.kind = FAMILY_SNAPSHOT,
                                       .name = name,
                                       .parent = s.parent,
                                       .state = bg_snapshot_kind_name(s.kind),
                                       .note = s.note,
                                       .created_ms = s.created_ms,
                                       .layers = layers,
                                       .layer_count = s.disk_count};
    r = family_add(family, &entry);
    bg_snapshot_done(&s);
    return r;
}

static int add_sandbox(struct app *app, const char *name, struct family *family, struct bg_err *err)
{
    struct life life;
    struct bg_disk disk = {0};
    const char *layers[BG_DISK_LAYERS_MAX];
    int r = life_open(app, name, &life, err);
    if (r < 0)
        return r == -ENOMEM ? r : 0; /* removed meanwhile, or damaged */
    BG_AUTOCLOSE int dir = open(life.sandbox.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0 && bg_disk_load(dir, &disk, NULL) < 0)
        disk.count = 0; /* never started, or damaged: it has no parent */
    size_t frozen = disk.count - (disk.count > 0 && disk.top);
    for (size_t i = 0; i < frozen; i++)
        layers[i] = disk.layers[i].id;
    const struct family_entry entry = {.kind = FAMILY_SANDBOX,
                                       .name = name,
                                       .parent = disk.parent,
                                       .state = bg_sandbox_state_name(life.state),
                                       .created_ms = life.sandbox.created_ms,
                                       .layers = layers,
                                       .layer_count = frozen};
    r = family_add(family, &entry);
    bg_disk_done(&disk);
    life_done(&life);
    return r;
}

static bool wanted(const struct family_store_filter *filter, const char *name)
{
    return !filter || filter->wants(filter->owner, name);
}

int family_store_collect(struct app *app, struct family *family,
                         const struct family_store_filter *filter, struct bg_err *err)
{
    char **snapshots = NULL, **sandboxes = NULL;
    int r = app_paths(app, err);
    if (r == 0)
        r = bg_snapshot_names(&app->paths, &snapshots, err);
    if (r == 0)
        r = bg_sandbox_names(&app->paths, &sandboxes, err);
    for (size_t i = 0; r == 0 && snapshots[i]; i++)
        if (wanted(filter, snapshots[i]))
            r = add_snapshot(app, snapshots[i], family, err);
    for (size_t i = 0; r == 0 && sandboxes[i]; i++)
        if (wanted(filter, sandboxes[i]))
            r = add_sandbox(app, sandboxes[i], family, err);
    bg_sandbox_names_free(snapshots);
    bg_sandbox_names_free(sandboxes);
    if (r == 0)
        r = family_link(family);
    return r == -ENOMEM ? bg_err_errno(err, r, "tree") : r;
}
