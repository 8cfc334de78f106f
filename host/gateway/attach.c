#include "host/gateway/attach.h"

#include <poll.h>
#include <string.h>

#include "common/io.h"
#include "common/limits.h"

#define WAIT_MS (BG_VOLUME_GRACE_MS + 10000) /* for a sandbox that is ending to end */
#define POLL_MS 50                           /* no event tells of it */

/* Whoever has it may be on the way out. Who comes first has it in the end: its start takes the
 * lock.
 */
static int await_unused(const struct bg_volume *volume, bool waits, struct bg_err *err)
{
    uint64_t deadline_ms = bg_now_ms() + (waits ? WAIT_MS : 0);
    while (bg_volume_in_use(volume)) {
        if (bg_now_ms() >= deadline_ms)
            return bg_err_set(err, -EBUSY,
                              "volume '%s' is in use: another sandbox has it, and it is for one at "
                              "a time",
                              volume->slug);
        (void)poll(NULL, 0, POLL_MS);
    }
    return 0;
}

static int attach_root(const struct bg_paths *paths, const char *token, const char *name,
                       bool waits, struct bg_sandbox *s, struct bg_volume *ret, struct bg_err *err)
{
    struct bg_volume root;
    int r = bg_volume_find(paths, token, name, &root, err);
    if (r < 0)
        return bg_err_prefix(err, "root");
    if (!root.image_digest)
        r = bg_err_set(err, -EINVAL,
                       "root: '%s' is not bootable; a volume is if it is made from an image or a "
                       "bootable snapshot",
                       root.slug);
    if (r == 0 && !root.snapshot) {
        memcpy(s->root_volume, root.id, sizeof s->root_volume);
        r = await_unused(&root, waits, err);
    }
    if (r == 0) {
        free(s->image_name);
        free(s->image_digest);
        s->image_name = strdup(root.image_name);
        s->image_digest = strdup(root.image_digest);
        if (!s->image_name || !s->image_digest)
            r = bg_err_errno(err, -ENOMEM, "root");
    }
    if (r == 0 && root.snapshot)
        *ret = root;
    else
        bg_volume_done(&root);
    return r;
}

static bool has_it(const struct bg_sandbox *s, const char *id)
{
    for (size_t i = 0; i < s->volume_count; i++)
        if (strcmp(s->volumes[i].id, id) == 0)
            return true;
    return false;
}

static int attach_one(const struct bg_paths *paths, const char *token,
                      const struct create_volume *wanted, bool waits, struct bg_sandbox *s,
                      struct bg_err *err)
{
    struct bg_volume volume;
    int r = bg_volume_find(paths, token, wanted->volume, &volume, err);
    if (r < 0)
        return bg_err_prefix(err, "volumes");
    if (volume.snapshot || volume.image_digest)
        r = bg_err_set(err, -EINVAL, "volumes: '%s' is a %s: %s", volume.slug,
                       volume.snapshot ? "snapshot" : "bootable volume",
                       volume.snapshot ? "make a volume from it" : "give it as root");
    else if (has_it(s, volume.id))
        r = bg_err_set(err, -EINVAL, "volumes: '%s' is there twice", volume.slug);
    if (r == 0)
        r = await_unused(&volume, waits, err);
    if (r == 0) {
        struct bg_volume_use *use = &s->volumes[s->volume_count++];
        memcpy(use->id, volume.id, sizeof use->id);
        use->path = strdup(wanted->path);
        r = use->path ? 0 : bg_err_errno(err, -ENOMEM, "volumes");
    }
    bg_volume_done(&volume);
    return r;
}

int attach_volumes(const struct bg_paths *paths, const char *token,
                   const struct create_config *config, bool waits, struct bg_sandbox *sandbox,
                   struct bg_volume *ret_root, struct bg_err *err)
{
    int r = 0;
    if (config->volume_count > 0) {
        sandbox->volumes = calloc(config->volume_count, sizeof *sandbox->volumes);
        if (!sandbox->volumes)
            return bg_err_errno(err, -ENOMEM, "volumes");
    }
    for (size_t i = 0; r == 0 && i < config->volume_count; i++)
        r = attach_one(paths, token, &config->volumes[i], waits, sandbox, err);
    if (r == 0 && config->root)
        r = attach_root(paths, token, config->root, waits, sandbox, ret_root, err);
    return r;
}
