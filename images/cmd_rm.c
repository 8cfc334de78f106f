#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/state/image.h"
#include "common/state/sandbox.h"
#include "common/state/snapshot.h"
#include "common/state/volume.h"
#include "images/commands.h"

static const char usage_text[] =
    "usage: bellglass image rm NAME\n"
    "\n"
    "Removes an image and the golden snapshots made of it. NAME is a tag, a digest or the first 6\n"
    "digits of one; an image with other tags only loses this one. An image that a sandbox uses\n"
    "or a snapshot stands on stays.\n";

/* True if the text is anywhere in a value. */
static bool mentions(json_t *value, const char *text)
{
    const char *string = json_string_value(value);
    if (string)
        return strcmp(string, text) == 0;
    size_t i;
    json_t *item;
    json_array_foreach(value, i, item) if (mentions(item, text)) return true;
    for (void *at = json_object_iter(value); at; at = json_object_iter_next(value, at))
        if (mentions(json_object_iter_value(at), text))
            return true;
    return false;
}

/* True if the snapshot's manifest names the image. One that cannot be read names none: its owner
 * remakes it. */
static bool snapshot_is_of(int snapshots_fd, const char *name, const char *digest)
{
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *text = NULL;
    size_t size;
    if (asprintf(&path, "%s/manifest.json", name) < 0 ||
        bg_read_file(snapshots_fd, path, BG_MANIFEST_MAX, &text, &size, NULL) < 0)
        return false;
    json_t *manifest = json_loadb(text, size, 0, NULL);
    bool found = manifest && mentions(manifest, digest);
    json_decref(manifest);
    return found;
}

/* Removes those of the entries that are snapshots of the image, and frees all. A snapshot may be
 * reached by several names (a link to the folder in use), so all are judged before the first is
 * gone. */
static int remove_snapshots(int fd, struct dirent **entries, size_t count, const char *digest)
{
    int r = 0;
    for (size_t i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;
        if (strncmp(name, "golden-", strlen("golden-")) == 0 && snapshot_is_of(fd, name, digest))
            continue;
        free(entries[i]);
        entries[i] = NULL;
    }
    for (size_t i = 0; i < count; i++) {
        int one = entries[i] ? store_remove_tree(fd, entries[i]->d_name) : 0;
        free(entries[i]);
        if (r == 0)
            r = one;
    }
    return r;
}

int remove_golden(const struct bg_paths *paths, const char *digest, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/snapshots", paths->data) < 0)
        return bg_err_errno(err, -ENOMEM, "snapshots");
    BG_AUTOCLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : bg_err_errno(err, -errno, "%s", path);
    struct dirent **entries = NULL;
    int count = scandirat(fd, ".", &entries, NULL, NULL);
    if (count < 0)
        return bg_err_errno(err, -errno, "%s", path);
    int r = remove_snapshots(fd, entries, (size_t)count, digest);
    free(entries);
    return r < 0 ? bg_err_errno(err, r, "%s", path) : 0;
}

/* The same of snapshots. */
static int check_snapshots(const struct bg_paths *paths, const char *digest, struct bg_err *err)
{
    char **names;
    int r = bg_snapshot_names(paths, &names, err);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && names[i]; i++) {
        struct bg_snapshot s;
        r = bg_snapshot_load(paths, names[i], &s, err);
        if (r == -ENOENT) {
            r = 0; /* removed since */
        } else if (r == 0) {
            if (strcmp(s.image_digest, digest) == 0)
                r = bg_err_set(err, -EBUSY,
                               "snapshot '%s' stands on it; `bellglass snapshot rm %s` removes "
                               "that",
                               names[i], names[i]);
            bg_snapshot_done(&s);
        }
    }
    bg_sandbox_names_free(names);
    return r;
}

/* Fails if a sandbox uses the image. One whose file is damaged cannot be told, so it counts. */
static int check_unused(const struct bg_paths *paths, const char *digest, struct bg_err *err)
{
    char **names;
    int r = bg_sandbox_names(paths, &names, err);
    if (r < 0)
        return r;
    for (size_t i = 0; names[i]; i++) {
        struct bg_sandbox sandbox;
        if (r == 0) {
            r = bg_sandbox_load(paths, names[i], &sandbox, err);
            if (r == -ENOENT) {
                r = 0; /* removed since */
            } else if (r == 0) {
                if (sandbox.image_digest && strcmp(sandbox.image_digest, digest) == 0)
                    r = bg_err_set(err, -EBUSY,
                                   "sandbox '%s' uses it; `bellglass rm %s` removes that", names[i],
                                   names[i]);
                bg_sandbox_done(&sandbox);
            }
        }
        free(names[i]);
    }
    free(names);
    return r;
}

/* The same of volumes and their snapshots. */
static int check_volumes(const struct bg_paths *paths, const char *digest, struct bg_err *err)
{
    struct bg_volume *all;
    size_t count;
    int r = bg_volume_list(paths, NULL, &all, &count, err);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < count; i++)
        if (all[i].image_digest && strcmp(all[i].image_digest, digest) == 0)
            r = bg_err_set(err, -EBUSY,
                           "volume or snapshot '%s' stands on it; `bellglass volume rm %s` removes "
                           "that",
                           all[i].slug, all[i].id);
    bg_volume_list_free(all, count);
    return r;
}

static int remove_image(const struct bg_paths *paths, const struct store *store, const char *name,
                        struct bg_err *err)
{
    char digest[65];
    bool tagged;
    size_t tags = 0;
    int r = bg_image_resolve(paths, name, digest, &tagged, err);
    if (r == -EUCLEAN)
        return store_untag(store, name, err); /* the tag itself is damaged and leads nowhere */
    if (r == 0 && tagged)
        r = store_count_tags(store, digest, &tags, err);
    if (r < 0)
        return r;
    if (tags > 1)
        return store_untag(store, name, err);
    r = check_unused(paths, digest, err);
    if (r == 0)
        r = check_snapshots(paths, digest, err);
    if (r == 0)
        r = check_volumes(paths, digest, err);
    if (r < 0)
        return bg_err_prefix(err, "image '%s'", name);
    r = remove_golden(paths, digest, err);
    return r < 0 ? r : store_remove(store, digest, err);
}

int cmd_rm(int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {0}};
    int option = getopt_long(argc, argv, "", options, NULL);
    if (option != -1 || argc - optind != 1)
        return usage(usage_text, /* asked= */ option == 'h');
    struct bg_err err = {0};
    struct bg_paths paths;
    if (bg_paths_init(&paths, &err) < 0)
        return fail(&err);
    struct store store;
    int r = store_open(&paths, &store, &err);
    if (r == 0) {
        r = remove_image(&paths, &store, argv[optind], &err);
        store_close(&store);
    }
    bg_paths_done(&paths);
    return r < 0 ? fail(&err) : 0;
}
