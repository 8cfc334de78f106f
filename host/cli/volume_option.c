#include "host/cli/volume_option.h"

#include <string.h>

#include "common/limits.h"
#include "common/quote.h"
#include "common/state/volume.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/share_spec.h"

#define QUOTED_SIZE 256

int volume_option_parse(const char *text, char **ret_name, char **ret_path, struct bg_err *err)
{
    char quoted[QUOTED_SIZE];
    const char *colon = strchr(text, ':');
    (void)bg_quote(text, quoted, sizeof quoted);
    if (!colon || colon == text || colon[1] == '\0')
        return bg_err_set(err, -EINVAL,
                          "%s: want NAME:PATH, a volume (bellglass volume ls) and where it is "
                          "mounted, such as cache:/home/app/cache",
                          quoted);
    if (strlen(colon + 1) > BG_VOLUME_PATH_MAX)
        return bg_err_set(err, -EINVAL, "%s: a path of more than %d bytes", quoted,
                          BG_VOLUME_PATH_MAX);
    BG_AUTOFREE char *path = NULL;
    int r = share_spec_guest(colon + 1, &path, err);
    if (r < 0)
        return bg_err_prefix(err, "%s", quoted);
    char *name = strndup(text, (size_t)(colon - text));
    if (!name)
        return bg_err_errno(err, -ENOMEM, "%s", quoted);
    *ret_name = name;
    *ret_path = BG_TAKE(path);
    return 0;
}

static bool uses(const struct bg_sandbox *s, const char *id)
{
    if (strcmp(s->root_volume, id) == 0)
        return true;
    for (size_t i = 0; i < s->volume_count; i++)
        if (strcmp(s->volumes[i].id, id) == 0)
            return true;
    return false;
}

/* The name of the sandbox that has it now: heap; NULL: a command has it, or we cannot tell. */
static char *holder_of(const struct app *app, const char *id)
{
    char **names, *found = NULL;
    struct bg_sandbox s;
    enum bg_sandbox_state state;
    if (bg_sandbox_names(&app->paths, &names, NULL) < 0)
        return NULL;
    for (size_t i = 0; names[i] && !found; i++) {
        if (bg_sandbox_load(&app->paths, names[i], &s, NULL) < 0)
            continue;
        if (uses(&s, id) && bg_sandbox_state(&s, &state, NULL, NULL) == 0 &&
            !bg_sandbox_rests(state))
            found = strdup(s.name);
        bg_sandbox_done(&s);
    }
    bg_sandbox_names_free(names);
    return found;
}

static int check_volume(const struct app *app, const struct bg_volume *v,
                        const struct bg_sandbox *s, struct bg_err *err)
{
    if (v->snapshot)
        return bg_err_set(err, -EINVAL,
                          "'%s' is a snapshot; make a volume of it: bellglass volume create --from "
                          "%s SLUG",
                          v->slug, v->slug);
    if (v->image_digest)
        return bg_err_set(err, -EINVAL,
                          "'%s' is bootable: it is the whole disk of a sandbox, for clients of "
                          "bellglass serve; give one for data",
                          v->slug);
    if (uses(s, v->id))
        return bg_err_set(err, -EINVAL, "'%s' is there twice", v->slug);
    if (!bg_volume_in_use(v))
        return 0;
    BG_AUTOFREE char *holder = holder_of(app, v->id);
    if (!holder)
        return bg_err_set(err, -EBUSY, "'%s' is in use: a sandbox or a command has it", v->slug);
    return bg_err_set(err, -EBUSY,
                      "'%s' is in use: sandbox '%s' has it until it ends: bellglass stop %s",
                      v->slug, holder, holder);
}

static int check_path(const struct bg_sandbox *s, const char *path, struct bg_err *err)
{
    for (size_t i = 0; i < s->volume_count; i++)
        if (strcmp(s->volumes[i].path, path) == 0)
            return bg_err_set(err, -EINVAL, "two volumes at %s", path);
    for (size_t i = 0; i < s->share_count; i++)
        if (strcmp(s->shares[i].guest, path) == 0)
            return bg_err_set(err, -EINVAL, "a folder of --mount is at %s, too", path);
    return 0;
}

/* name, path: taken. */
static int add(const struct app *app, char *name, char *path, struct bg_sandbox *s,
               struct bg_err *err)
{
    struct bg_volume v = {0};
    int r = check_path(s, path, err);
    if (r == 0)
        r = bg_volume_find(&app->paths, NULL, name, &v, err);
    if (r == -ENOMEDIUM)
        r = bg_err_set(err, -ENOMEDIUM,
                       "there is no volume '%s'; make it: bellglass volume create %s", name, name);
    if (r == 0)
        r = check_volume(app, &v, s, err);
    if (r == 0) {
        struct bg_volume_use *use = &s->volumes[s->volume_count++];
        memcpy(use->id, v.id, sizeof use->id);
        use->path = BG_TAKE(path);
    }
    bg_volume_done(&v);
    free(name);
    free(path);
    return r;
}

/* A volume that holds another's folder is mounted first, as its path is shorter. */
static int by_path(const void *a, const void *b)
{
    const struct bg_volume_use *left = a, *right = b;
    return strcmp(left->path, right->path);
}

int volume_option_read(struct app *app, const struct args *args, struct bg_sandbox *s,
                       struct bg_err *err)
{
    size_t at = 0;
    int r = 0;
    for (const char *text; r == 0 && (text = args_next(args, OPTION_VOLUME, &at));) {
        char *name = NULL, *path = NULL;
        if (!s->volumes && !(s->volumes = calloc(BG_SANDBOX_VOLUMES_MAX, sizeof *s->volumes)))
            return bg_err_errno(err, -ENOMEM, "--volume");
        r = s->volume_count == BG_SANDBOX_VOLUMES_MAX
                ? bg_err_set(err, -EMFILE, "a sandbox has at most %d", BG_SANDBOX_VOLUMES_MAX)
                : volume_option_parse(text, &name, &path, err);
        if (r == 0)
            r = add(app, name, path, s, err);
    }
    if (r < 0)
        return bg_err_prefix(err, "--volume");
    if (s->volume_count > 0 && s->idle_suspend_s > 0)
        return bg_err_set(err, -EINVAL,
                          "--idle-suspend does not go with --volume: a sandbox with volumes cannot "
                          "be suspended; --ttl stops it");
    if (s->volume_count > 0)
        qsort(s->volumes, s->volume_count, sizeof *s->volumes, by_path);
    return 0;
}
