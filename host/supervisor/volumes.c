#include "host/supervisor/volumes.h"

#include <string.h>

#include "common/wire.h"
#include "host/supervisor/source.h"

static int take(const struct bg_paths *paths, struct volumes *all, const char *id,
                struct bg_volume *volume, int *ret_lock, struct bg_err *err)
{
    int r = bg_volume_find(paths, NULL, id, volume, err);
    if (r == 0)
        r = bg_volume_lock(volume, /* shared= */ false, &all->locks[all->lock_count], err);
    if (r < 0)
        return r;
    *ret_lock = all->locks[all->lock_count++];
    return 0;
}

static int take_data(const struct bg_paths *paths, struct volumes *all,
                     const struct bg_volume_use *use, struct bg_err *err)
{
    struct bg_volume *volume = &all->list[all->count].volume;
    struct supervisor_volume *its = &all->list[all->count].its;
    struct bg_disk disk = {0};
    int dir;
    all->count++; /* first, so that volumes_done frees a half-taken one */
    int r = take(paths, all, use->id, volume, &dir, err);
    if (r < 0)
        return r;
    if (volume->image_digest)
        return bg_err_set(err, -EINVAL, "volume '%s' is a bootable one: give it as root",
                          volume->slug);
    its->path = use->path;
    its->flags = volume->ready ? 0 : BG_VOLUME_NEW;
    r = bg_volume_open_disk(volume, dir, &disk, err);
    if (r == 0)
        r = source_open_chain(dir, &disk, /* write= */ true, its->fds, &its->count, err);
    if (r < 0)
        (void)bg_err_prefix(err, "volume '%s'", volume->slug);
    bg_disk_done(&disk);
    return r;
}

int volumes_take(const struct bg_paths *paths, const struct bg_sandbox *sandbox,
                 struct volumes *ret, struct bg_err *err)
{
    int dir, r = 0;
    if (sandbox->root_volume[0])
        r = take(paths, ret, sandbox->root_volume, &ret->root, &dir, err);
    for (size_t i = 0; r == 0 && i < sandbox->volume_count; i++)
        r = take_data(paths, ret, &sandbox->volumes[i], err);
    if (r < 0)
        volumes_done(ret);
    return r;
}

void volumes_note_ready(struct volumes *volumes, const struct bg_log *log)
{
    struct bg_err err;
    for (size_t i = 0; i < volumes->count; i++) {
        struct bg_volume *volume = &volumes->list[i].volume;
        if (volume->ready)
            continue;
        if (bg_volume_set_ready(volume, &err) < 0)
            bg_log(log, BG_LOG_WARN, "%s", err.text); /* the next mount looks again */
        volume->ready = true;
    }
}

void volumes_done(struct volumes *volumes)
{
    for (size_t i = 0; i < volumes->count; i++) {
        for (size_t k = 0; k < volumes->list[i].its.count; k++)
            (void)close(volumes->list[i].its.fds[k]); /* QEMU has its own */
        bg_volume_done(&volumes->list[i].volume);
    }
    for (size_t i = 0; i < volumes->lock_count; i++)
        (void)close(volumes->locks[i]); /* a folder */
    bg_volume_done(&volumes->root);
    *volumes = (struct volumes){0};
}
