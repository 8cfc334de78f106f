/* image ls and image inspect. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/state/image.h"
#include "images/commands.h"

static const char ls_usage[] = "usage: bellglass image ls [--json]\n"
                               "\n"
                               "Lists the images, newest first.\n";
static const char inspect_usage[] =
    "usage: bellglass image inspect NAME [--json]\n"
    "\n"
    "Shows all about an image. NAME is a tag, a digest or the first 6 digits of one.\n";

static const struct option options[] = {
    {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {0}};

/* Returns the exit status, or -1 to go on. */
static int parse(int argc, char **argv, const char *text, int arguments, bool *ret_json)
{
    int option;
    *ret_json = false;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option != 'j')
            return usage(text, /* asked= */ option == 'h');
        *ret_json = true;
    }
    return argc - optind == arguments ? -1 : usage(text, /* asked= */ false);
}

static json_t *image_json(const struct bg_image *image)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:I, s:I}", "name", image->name, "digest",
                     image->digest, "created_ms", (json_int_t)image->created_ms, "user",
                     image->user, "kernel_release", image->kernel_release, "virtual_bytes",
                     (json_int_t)image->virtual_bytes, "stored_bytes",
                     (json_int_t)image->stored_bytes);
}

static void format_time(uint64_t created_ms, char *out, size_t out_size)
{
    time_t seconds = (time_t)(created_ms / 1000);
    struct tm tm;
    out[0] = '\0';
    if (localtime_r(&seconds, &tm))
        (void)strftime(out, out_size, "%Y-%m-%d %H:%M", &tm);
}

static int print_list(const struct bg_image *images, size_t count, bool json)
{
    json_t *array = json ? json_array() : NULL;
    if (!json && count > 0)
        (void)printf("%-20s %-12s %-16s %10s %8s\n", "NAME", "DIGEST", "CREATED", "STORED", "DISK");
    for (size_t i = 0; i < count; i++) {
        char created[32];
        if (json) {
            if (json_array_append_new(array, image_json(&images[i])) < 0) {
                json_decref(array);
                return print_json(NULL);
            }
            continue;
        }
        format_time(images[i].created_ms, created, sizeof created);
        (void)printf("%-20s %-12.12s %-16s %6" PRIu64 " MiB %4" PRIu64 " GiB\n",
                     images[i].name[0] ? images[i].name : "-", images[i].digest, created,
                     images[i].stored_bytes >> 20, images[i].virtual_bytes >> 30);
    }
    return json ? print_json(array) : 0;
}

int cmd_ls(int argc, char **argv)
{
    bool json;
    int status = parse(argc, argv, ls_usage, 0, &json);
    if (status >= 0)
        return status;
    struct bg_err err = {0};
    struct bg_paths paths;
    int r = bg_paths_init(&paths, &err);
    if (r < 0)
        return fail(&err);
    struct bg_image *images;
    size_t count, damaged;
    r = bg_image_list(&paths, &images, &count, &damaged, &err);
    if (r < 0) {
        bg_paths_done(&paths);
        return fail(&err);
    }
    status = print_list(images, count, json);
    bg_image_list_free(images, count);
    if (damaged > 0)
        (void)fprintf(stderr,
                      "bellglass image: %zu damaged image%s left out; `bellglass image rm` removes "
                      "them by their names in %s/images/tags or digests in %s/images\n",
                      damaged, damaged == 1 ? "" : "s", paths.data, paths.data);
    bg_paths_done(&paths);
    return status;
}

static int print_image(const struct bg_image *image, bool json)
{
    if (json) {
        json_t *object = image_json(image);
        if (object && json_object_set(object, "manifest", image->manifest) < 0) {
            json_decref(object);
            object = NULL;
        }
        return print_json(object);
    }
    char created[32];
    format_time(image->created_ms, created, sizeof created);
    (void)printf("name      %s\ndigest    %s\ncreated   %s\nuser      %s\nkernel    %s\n"
                 "disk      %" PRIu64 " MiB, %" PRIu64 " MiB stored\nfolder    %s\npackages  %zu\n",
                 image->name[0] ? image->name : "-", image->digest, created, image->user,
                 image->kernel_release, image->virtual_bytes >> 20, image->stored_bytes >> 20,
                 image->dir, json_array_size(json_object_get(image->manifest, "packages")));
    return 0;
}

int cmd_inspect(int argc, char **argv)
{
    bool json;
    int status = parse(argc, argv, inspect_usage, 1, &json);
    if (status >= 0)
        return status;
    struct bg_err err = {0};
    struct bg_paths paths;
    int r = bg_paths_init(&paths, &err);
    if (r < 0)
        return fail(&err);
    struct bg_image image;
    r = bg_image_find(&paths, argv[optind], &image, &err);
    bg_paths_done(&paths);
    if (r < 0)
        return fail(&err);
    status = print_image(&image, json);
    bg_image_done(&image);
    return status;
}
