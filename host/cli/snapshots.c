#include "host/cli/snapshots.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/quote.h"
#include "common/state/resume.h"
#include "host/cli/client.h"
#include "host/cli/flattening.h"
#include "host/cli/offline.h"
#include "host/cli/output.h"

#define TAKE_MS (1800 * 1000) /* for all of a large memory to a slow disk */

int snapshots_check_tag(const char *tag, struct bg_err *err)
{
    char quoted[128];
    if (bg_sandbox_name_ok(tag))
        return 0;
    return bg_err_set(err, -EINVAL,
                      "tag %s: use a-z, 0-9, '.', '_', '-', at most %d, and begin with a letter or "
                      "digit",
                      bg_quote(tag, quoted, sizeof quoted), BG_SANDBOX_NAME_MAX);
}

/* ---- taking ---- */

static uint64_t number_of(const json_t *answer, const char *key)
{
    double value = json_number_value(json_object_get(answer, key)); /* times have fractions */
    return value > 0 && value < 1e15 ? (uint64_t)(value + 0.5) : 0;
}

static int take_running(struct app *app, const struct life *life,
                        const struct snapshots_take_opts *opts, struct snapshots_taken *ret,
                        struct bg_err *err)
{
    char note[128];
    json_auto_t *answer = NULL;
    json_auto_t *request = json_pack("{s:s, s:s*, s:s*, s:b}", "op", "snapshot", "tag", opts->tag,
                                     "note", opts->note, "disk_only", opts->disk_only);
    if (!request)
        return bg_err_set(err, -EINVAL, "--note: want UTF-8");
    (void)snprintf(note, sizeof note, "taking a snapshot of '%.63s'", life->sandbox.name);
    int r = client_request_noted(&app->paths, &life->sandbox, request, TAKE_MS,
                                 opts->quiet ? NULL : note, &answer, err);
    if (r < 0)
        return r;
    const char *name = json_string_value(json_object_get(answer, "name"));
    if (!name || !bg_snapshot_name_ok(name))
        return bg_err_set(err, -EPROTO, "sandbox '%s': its supervisor's answer makes no sense",
                          life->sandbox.name);
    *ret = (struct snapshots_taken){.name = strdup(name),
                                    .ran = true,
                                    .pause_ms = number_of(answer, "pause_ms"),
                                    .stream_pause_ms = number_of(answer, "stream_pause_ms"),
                                    .dirty_bytes = number_of(answer, "dirty_bytes"),
                                    .written_bytes = number_of(answer, "written_bytes")};
    return ret->name ? 0 : bg_err_errno(err, -ENOMEM, "snapshot");
}

int snapshots_take(struct app *app, const struct life *life, const struct snapshots_take_opts *opts,
                   struct snapshots_taken *ret, struct bg_err *err)
{
    const struct bg_sandbox *sandbox = &life->sandbox;
    if (life->state == BG_SANDBOX_RUNNING) {
        struct flattened flat;
        int r = take_running(app, life, opts, ret, err);
        if (r != -EMLINK)
            return r;
        /* Its disk has as many layers as there may be: flattening was slower than the snapshots. */
        r = flattening_run(app, life, opts->quiet, &flat, err);
        return r < 0 ? r : take_running(app, life, opts, ret, err);
    }
    if (!bg_sandbox_rests(life->state))
        return bg_err_set(err, -EAGAIN, "sandbox '%s' is %s: try again in a moment", sandbox->name,
                          bg_sandbox_state_name(life->state));
    char *name;
    int r = offline_await(sandbox, /* write= */ true, err);
    if (r == 0)
        r = bg_snapshot_of_folder(&app->paths, sandbox, opts->tag, opts->note, opts->disk_only,
                                  &name, err);
    if (r == 0)
        *ret = (struct snapshots_taken){.name = name};
    return r;
}

void snapshots_taken_done(struct snapshots_taken *taken)
{
    free(taken->name);
    *taken = (struct snapshots_taken){0};
}

/* ---- sources ---- */

static int take_for_a_moment(struct app *app, const struct life *life,
                             const struct snapshots_open_opts *source_opts, char **ret_name,
                             struct bg_err *err)
{
    uint32_t random;
    char tag[32];
    struct snapshots_taken taken;
    bg_random(&random, sizeof random);
    (void)snprintf(tag, sizeof tag, ".fork-%08x", random);
    const struct snapshots_take_opts opts = {
        .tag = tag, .disk_only = source_opts->disk_only, .quiet = source_opts->quiet};
    int r = snapshots_take(app, life, &opts, &taken, err);
    if (r == 0)
        *ret_name = taken.name;
    return r;
}

/* Who else might remove it sees that it is in use. */
static int hold(const struct bg_snapshot *snapshot, int *ret_fd, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = open(snapshot->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_SH | LOCK_NB) < 0)
        return bg_err_errno(err, -errno, "snapshot '%s'", snapshot->name);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

static int find_name(struct app *app, const char *text, const struct snapshots_open_opts *opts,
                     char **ret_name, bool *ret_temporary, struct bg_err *err)
{
    struct life life;
    *ret_temporary = false;
    int r = app_paths(app, err);
    if (r < 0)
        return r;
    if (!opts->sandboxes || strchr(text, '@'))
        return bg_snapshot_resolve(&app->paths, text, ret_name, err);
    r = life_open(app, text, &life, err);
    if (r == -ENOENT) { /* what it says of sandboxes stands, unless a snapshot is called so */
        struct bg_err other;
        int found = bg_snapshot_resolve(&app->paths, text, ret_name, &other);
        return found == 0 ? 0 : found == -EINVAL ? bg_err_set(err, found, "%s", other.text) : r;
    }
    if (r < 0)
        return r;
    r = take_for_a_moment(app, &life, opts, ret_name, err);
    *ret_temporary = r == 0;
    life_done(&life);
    return r;
}

int snapshots_open(struct app *app, const char *text, const struct snapshots_open_opts *opts,
                   struct snapshots_source *ret, struct bg_err *err)
{
    struct snapshots_source source = {.hold_fd = -1};
    BG_AUTOFREE char *name = NULL;
    int r = find_name(app, text, opts, &name, &source.temporary, err);
    if (r < 0)
        return r;
    r = bg_snapshot_load(&app->paths, name, &source.snapshot, err);
    if (r == 0)
        r = hold(&source.snapshot, &source.hold_fd, err);
    if (r < 0) {
        if (source.temporary && !source.snapshot.name)
            (void)(bg_snapshot_remove(&app->paths, name, NULL) < 0); /* prune finds it */
        snapshots_close(app, &source);
        return r;
    }
    *ret = source;
    return 0;
}

void snapshots_close(struct app *app, struct snapshots_source *source)
{
    struct bg_err err;
    if (source->temporary && source->snapshot.name &&
        bg_snapshot_remove(&app->paths, source->snapshot.name, &err) < 0)
        app_note("%s", err.text);
    if (source->hold_fd >= 0)
        (void)close(source->hold_fd); /* read only */
    bg_snapshot_done(&source->snapshot);
    *source = (struct snapshots_source){.hold_fd = -1};
}

/* ---- children ---- */

int snapshots_child(const struct snapshots_source *source, const char *name, struct bg_sandbox *ret,
                    struct bg_err *err)
{
    int r = bg_sandbox_fork_config(source->snapshot.sandbox, name, ret, err);
    return r < 0 ? bg_err_prefix(err, "snapshot '%s'", source->snapshot.name) : 0;
}

struct filling {
    struct app *app;
    const struct snapshots_source *source;
};

/* Without its base a copy-on-write share would begin with an empty layer, and lose the one that is
 * in the guest. */
static int link_base(int from_dir, int to_dir, unsigned id, struct bg_err *err)
{
    char folder[32], file[48];
    (void)snprintf(folder, sizeof folder, "cow/%u", id);
    (void)snprintf(file, sizeof file, "%s/base", folder);
    if (faccessat(from_dir, file, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
        return 0; /* it was never started with that share */
    if ((mkdirat(to_dir, "cow", 0700) < 0 && errno != EEXIST) ||
        (mkdirat(to_dir, folder, 0700) < 0 && errno != EEXIST))
        return bg_err_errno(err, -errno, "%s", folder);
    return bg_layer_link(from_dir, file, to_dir, file, err);
}

static int link_bases(struct app *app, const struct bg_snapshot *snapshot,
                      const struct bg_sandbox *child, int dir_fd, struct bg_err *err)
{
    struct bg_sandbox parent;
    if (bg_sandbox_load(&app->paths, snapshot->source_name, &parent, NULL) < 0)
        return 0; /* it is gone, and its bases are too */
    BG_AUTOCLOSE int parent_dir = open(parent.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = 0;
    if (parent_dir >= 0 && strcmp(parent.id, snapshot->source_id) == 0)
        for (size_t i = 0; r == 0 && i < child->share_count; i++)
            if (child->shares[i].mode == BG_SHARE_COW)
                r = link_base(parent_dir, dir_fd, child->shares[i].id, err);
    bg_sandbox_done(&parent);
    return r;
}

static int fill(void *owner, const struct bg_sandbox *child, int dir_fd, struct bg_err *err)
{
    const struct filling *filling = owner;
    const struct bg_snapshot *snapshot = &filling->source->snapshot;
    int r = bg_snapshot_fork_into(&filling->app->paths, snapshot, dir_fd, err);
    return r < 0 ? r : link_bases(filling->app, snapshot, child, dir_fd, err);
}

/* One that is not started at once shall be seen for what it is. */
static int note_suspended(const struct bg_sandbox *child, struct bg_err *err)
{
    BG_AUTOCLOSE int lock = -1;
    int r = bg_sandbox_lock(child, &lock, err);
    return r < 0 ? r : bg_sandbox_set_state(child, BG_SANDBOX_SUSPENDED, NULL, err);
}

int snapshots_create(struct app *app, const struct snapshots_source *source,
                     struct bg_sandbox *child, struct bg_err *err)
{
    struct filling owner = {app, source};
    const struct bg_sandbox_filling filling = {fill, &owner};
    int r = bg_sandbox_create_filled(&app->paths, child, &filling, err);
    /* One that goes with its command is no better than one that never ran. */
    if (r == 0 && source->snapshot.kind != BG_SNAPSHOT_DISK && !child->ephemeral)
        r = note_suspended(child, err);
    return r;
}

/* ---- showing ---- */

json_t *snapshots_json(const struct bg_snapshot *snapshot, uint64_t bytes, uint64_t frees)
{
    BG_AUTOFREE char *text = bg_snapshot_emit(snapshot);
    json_t *json = text ? json_loads(text, 0, NULL) : NULL;
    if (!json)
        return NULL;
    if (json_object_set_new(json, "name", json_string(snapshot->name)) < 0 ||
        json_object_set_new(json, "dir", output_text(snapshot->dir)) < 0 ||
        json_object_set_new(json, "bytes", json_integer((json_int_t)bytes)) < 0 ||
        json_object_set_new(json, "frees_bytes", json_integer((json_int_t)frees)) < 0) {
        json_decref(json);
        return NULL;
    }
    return json;
}
