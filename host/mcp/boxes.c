#include "host/mcp/boxes.h"

#include <stdio.h>
#include <string.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"
#include "common/state/snapshot.h"
#include "host/gateway/text.h"

#define NAME_CHARS "0123456789abcdefghjkmnpqrstuvwxyz"
#define TAIL_SIZE  6 /* of a name that is made up: few enough to be typed, and there are 10^9 */

struct taken {
    LIST_ENTRY(taken) link;
    char name[];
};

struct boxes {
    struct boxes_opts opts;
    LIST_HEAD(, box) list;
    LIST_HEAD(, taken) snapshots;
    size_t own_count, snapshot_count;
};

/* ---- sandboxes ---- */

static struct box *box_new(struct boxes *all)
{
    struct box *box = calloc(1, sizeof *box);
    if (!box)
        return NULL;
    box->all = all;
    TAILQ_INIT(&box->waiting);
    LIST_INSERT_HEAD(&all->list, box, link);
    return box;
}

static void box_free(struct box *box)
{
    LIST_REMOVE(box, link);
    if (box->own)
        box->all->own_count--;
    bg_sandbox_done(&box->sandbox);
    free(box->parent);
    free(box);
}

int boxes_open(const struct boxes_opts *opts, const char *const *named, struct boxes **ret,
               struct bg_err *err)
{
    struct boxes *all = calloc(1, sizeof *all);
    if (!all)
        return bg_err_errno(err, -ENOMEM, "sandboxes");
    all->opts = *opts;
    LIST_INIT(&all->list);
    LIST_INIT(&all->snapshots);
    int r = 0;
    for (size_t i = 0; r == 0 && named[i]; i++) {
        struct box *box = box_new(all);
        if (!box) {
            r = bg_err_errno(err, -ENOMEM, "sandboxes");
            break;
        }
        box->ready = true;
        r = bg_sandbox_load(&opts->app->paths, named[i], &box->sandbox, err);
        if (r < 0)
            (void)bg_err_prefix(err, "--sandbox");
    }
    if (r < 0)
        boxes_close(all);
    else
        *ret = all;
    return r;
}

void boxes_close(struct boxes *all)
{
    if (!all)
        return;
    while (!LIST_EMPTY(&all->list))
        box_free(LIST_FIRST(&all->list));
    while (!LIST_EMPTY(&all->snapshots)) {
        struct taken *taken = LIST_FIRST(&all->snapshots);
        LIST_REMOVE(taken, link);
        free(taken);
    }
    free(all);
}

static bool is_called(const struct box *box, const char *name)
{
    const char *own = box->sandbox.name, *prefix = box->all->opts.prefix;
    size_t size = strlen(prefix);
    return strcmp(own, name) == 0 || (box->own && strncmp(own, prefix, size) == 0 &&
                                      own[size] == '-' && strcmp(own + size + 1, name) == 0);
}

static struct box *find(struct boxes *all, const char *name)
{
    struct box *box;
    LIST_FOREACH(box, &all->list, link)
    {
        if (is_called(box, name))
            return box;
    }
    return NULL;
}

int boxes_find(struct boxes *all, const char *name, struct box **ret, struct bg_err *err)
{
    char quoted[128];
    struct box *box = find(all, name);
    if (!box)
        return bg_err_set(err, -ENOENT,
                          "there is no sandbox %s; list_sandboxes says which there are, "
                          "create_sandbox makes one",
                          bg_quote(name, quoted, sizeof quoted));
    *ret = box;
    return 0;
}

static char *make_name(const char *prefix, const char *asked)
{
    char tail[TAIL_SIZE + 1];
    char *name = NULL;
    for (size_t used = 0; used < TAIL_SIZE;) {
        uint8_t byte;
        bg_random(&byte, sizeof byte);
        /* 256 is no multiple of 33: the rest would make some more likely. */
        if (byte < 256 / (sizeof NAME_CHARS - 1) * (sizeof NAME_CHARS - 1))
            tail[used++] = NAME_CHARS[byte % (sizeof NAME_CHARS - 1)];
    }
    tail[TAIL_SIZE] = '\0';
    return asprintf(&name, "%s-%s", prefix, asked ? asked : tail) < 0 ? NULL : name;
}

/* One of that name that is not ours: it must not be taken for ours, and be removed with them. */
static int check_free(struct boxes *all, const char *name, struct bg_err *err)
{
    struct bg_sandbox other;
    int r = bg_sandbox_locate(&all->opts.app->paths, name, &other, err);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    bg_sandbox_done(&other);
    return bg_err_set(err, -EEXIST, "name '%s' is in use: take another one", name);
}

int boxes_reserve(struct boxes *all, const char *name, struct box **ret, struct bg_err *err)
{
    char quoted[128];
    if (all->own_count >= all->opts.max)
        return bg_err_set(err, -EDQUOT,
                          "there are %zu sandboxes already, and no more may be made: remove one "
                          "that is not needed any more (remove_sandbox)",
                          all->own_count);
    BG_AUTOFREE char *full = make_name(all->opts.prefix, name);
    if (!full)
        return bg_err_errno(err, -ENOMEM, "sandbox");
    if (!bg_sandbox_name_ok(full))
        return bg_err_set(err, -EINVAL,
                          "name %s: want a-z, 0-9, '.', '_' and '-', at most %zu of them",
                          bg_quote(name, quoted, sizeof quoted),
                          BG_SANDBOX_NAME_MAX - strlen(all->opts.prefix) - 1);
    int r = check_free(all, full, err);
    if (r < 0)
        return r;
    struct box *box = box_new(all);
    if (!box)
        return bg_err_errno(err, -ENOMEM, "sandbox");
    box->own = true;
    all->own_count++;
    box->sandbox.name = BG_TAKE(full);
    *ret = box;
    return 0;
}

int boxes_expect(struct box *box, struct bg_err *err)
{
    return keeper_tell(box->all->opts.keeper, KEEPER_SANDBOX, box->sandbox.name, /* remove= */ true,
                       err);
}

/* All of the settings that point somewhere are borrowed, but for what a sandbox has of its own. */
int boxes_make(struct box *box, struct bg_err *err)
{
    const struct bg_sandbox *settings = box->all->opts.settings;
    struct bg_sandbox s = *settings;
    BG_AUTOFREE char *name = strdup(box->sandbox.name);
    BG_AUTOFREE struct bg_secret_use *secrets = calloc(s.secret_count + 1, sizeof *secrets);
    if (!name || !secrets)
        return bg_err_errno(err, -ENOMEM, "sandbox");
    if (s.secret_count > 0)
        memcpy(secrets, s.secrets, s.secret_count * sizeof *secrets);
    s.name = name;
    s.secrets = secrets;
    s.dir = NULL;
    int r = bg_sandbox_create(&box->all->opts.app->paths, &s, err);
    free(s.dir);
    if (r == 0)
        r = boxes_expect(box, err);
    return r == 0 ? boxes_load(box, err) : r;
}

int boxes_load(struct box *box, struct bg_err *err)
{
    struct bg_sandbox loaded;
    int r = bg_sandbox_load(&box->all->opts.app->paths, box->sandbox.name, &loaded, err);
    if (r < 0)
        return r;
    bg_sandbox_done(&box->sandbox);
    box->sandbox = loaded;
    return 0;
}

void boxes_drop(struct box *box)
{
    struct bg_err err; /* the keeper is gone, and we are about to end */
    (void)(keeper_tell(box->all->opts.keeper, KEEPER_SANDBOX, box->sandbox.name,
                       /* remove= */ false, &err) < 0);
    box_free(box);
}

/* ---- snapshots ---- */

static struct taken *find_snapshot(const struct boxes *all, const char *name)
{
    struct taken *taken;
    LIST_FOREACH(taken, &all->snapshots, link)
    {
        if (strcmp(taken->name, name) == 0)
            return taken;
    }
    return NULL;
}

bool boxes_has_snapshot(const struct boxes *all, const char *name)
{
    return find_snapshot(all, name) != NULL;
}

int boxes_add_snapshot(struct boxes *all, const char *name, struct bg_err *err)
{
    struct bg_snapshot other;
    if (all->snapshot_count >= BG_MCP_SNAPSHOTS_MAX)
        return bg_err_set(err, -EDQUOT,
                          "there are %zu snapshots already, and no more may be taken: remove one "
                          "that is not needed any more (remove_snapshot)",
                          all->snapshot_count);
    int r =
        find_snapshot(all, name) ? 0 : bg_snapshot_load(&all->opts.app->paths, name, &other, err);
    if (r != -ENOENT) {
        if (r == 0 && !find_snapshot(all, name))
            bg_snapshot_done(&other);
        return bg_err_set(err, -EEXIST, "snapshot '%s' is there already: take another tag", name);
    }
    size_t size = strlen(name) + 1;
    BG_AUTOFREE struct taken *taken = calloc(1, sizeof *taken + size);
    if (!taken)
        return bg_err_errno(err, -ENOMEM, "snapshot");
    memcpy(taken->name, name, size);
    r = keeper_tell(all->opts.keeper, KEEPER_SNAPSHOT, name, /* remove= */ true, err);
    if (r < 0)
        return r;
    LIST_INSERT_HEAD(&all->snapshots, taken, link);
    (void)BG_TAKE(taken);
    all->snapshot_count++;
    return 0;
}

void boxes_drop_snapshot(struct boxes *all, const char *name)
{
    struct taken *taken = find_snapshot(all, name);
    struct bg_err err; /* as in boxes_drop */
    (void)(keeper_tell(all->opts.keeper, KEEPER_SNAPSHOT, name, /* remove= */ false, &err) < 0);
    if (!taken)
        return;
    LIST_REMOVE(taken, link);
    all->snapshot_count--;
    free(taken);
}

/* ---- what there is ---- */

const char *box_state_name(const struct box *box)
{
    enum bg_sandbox_state state;
    if (!box->ready)
        return "starting";
    return bg_sandbox_state(&box->sandbox, &state, NULL, NULL) < 0 ? "gone"
                                                                   : bg_sandbox_state_name(state);
}

static json_t *describe(const struct box *box)
{
    const struct bg_sandbox *s = &box->sandbox;
    json_t *created = box->ready ? text_time((int64_t)s->created_ms * 1000000) : NULL;
    return json_pack("{s:s, s:s, s:s*, s:o*, s:s*, s:b}", "sandbox", s->name, "state",
                     box_state_name(box), "image", s->image_name, "created", created, "parent",
                     box->parent, "removable", box->own);
}

json_t *boxes_describe(struct boxes *all)
{
    struct box *box;
    const struct taken *taken;
    json_auto_t *sandboxes = json_array(), *snapshots = json_array();
    LIST_FOREACH(box, &all->list, link)
    {
        if (json_array_insert_new(sandboxes, 0, describe(box)) < 0)
            return NULL;
    }
    LIST_FOREACH(taken, &all->snapshots, link)
    {
        if (json_array_insert_new(snapshots, 0, json_string(taken->name)) < 0)
            return NULL;
    }
    return json_pack("{s:O, s:O}", "sandboxes", sandboxes, "snapshots", snapshots);
}

/* Texts of the user's, one after the other. */
static json_t *texts(char *const *list, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++)
        if (json_array_append_new(array, text_lossy(list[i], strlen(list[i]))) < 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static json_t *secrets_json(const struct bg_sandbox *s)
{
    json_t *array = json_array();
    for (size_t i = 0; i < s->secret_count; i++) {
        const struct bg_secret_use *use = &s->secrets[i];
        json_t *one = json_pack("{s:s, s:o}", "variable", use->name, "hosts",
                                texts(use->hosts, use->host_count));
        if (json_array_append_new(array, one) < 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static json_t *folders_json(const struct bg_sandbox *s)
{
    json_t *array = json_array();
    for (size_t i = 0; i < s->share_count; i++) {
        const struct bg_share *share = &s->shares[i];
        json_t *one =
            json_pack("{s:o, s:s}", "path", text_lossy(share->guest, strlen(share->guest)), "mode",
                      bg_share_mode_name(share->mode));
        if (json_array_append_new(array, one) < 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

json_t *boxes_describe_limits(const struct boxes *all, unsigned timeout_s_max)
{
    const struct bg_sandbox *s = all->opts.settings;
    return json_pack("{s:I, s:I, s:s, s:i, s:I, s:I, s:o, s:b, s:o, s:o}", "sandboxes_max",
                     (json_int_t)all->opts.max, "snapshots_max", (json_int_t)BG_MCP_SNAPSHOTS_MAX,
                     "image", s->image_name, "cpus", (int)s->cpus, "memory_bytes",
                     (json_int_t)s->memory_bytes, "timeout_seconds_max", (json_int_t)timeout_s_max,
                     "hosts_allowed", texts(s->allow, s->allow_count), "has_network_policy",
                     s->policy != NULL, "secrets", secrets_json(s), "folders", folders_json(s));
}
