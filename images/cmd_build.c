#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/sha256.h"
#include "common/state/image.h"
#include "images/bootstrap.h"
#include "images/commands.h"
#include "images/disk.h"

static const char usage_text[] =
    "usage: bellglass image build [RECIPE] [--name TAG] [--refresh] [--json]\n"
    "\n"
    "Builds an image. RECIPE is the name of a recipe that comes with bellglass (default: debian)\n"
    "or the path of a .yaml file. A recipe that was built before is not built again.\n"
    "\n"
    "  --name TAG   call the image TAG instead of the recipe's name\n"
    "  --refresh    build even so, with the packages of today\n"
    "  --json       print the result as JSON\n";

struct build {
    const char *recipe_name, *tag; /* tag NULL: the recipe's */
    bool refresh, json;
    struct recipe *recipe;
    json_t *packages;
    char digest[65];
};

/* The newest healthy image of an equal recipe. False if there is none. */
static bool find_cached(const struct maker *maker, struct build *build)
{
    struct bg_image *images;
    size_t count, damaged;
    if (bg_image_list(&maker->paths, &images, &count, &damaged, NULL) < 0)
        return false;
    bool found = false;
    for (size_t i = 0; i < count && !found; i++) {
        if (!json_equal(json_object_get(images[i].manifest, "recipe"), build->recipe->canonical))
            continue;
        memcpy(build->digest, images[i].digest, sizeof build->digest);
        found = true;
    }
    bg_image_list_free(images, count);
    return found;
}

static int read_packages(struct maker *maker, struct build *build, struct bg_err *err)
{
    BG_AUTOFREE char *text = NULL;
    size_t size;
    int r = bg_read_file(maker->work.fd, BOOTSTRAP_PACKAGES, BG_MANIFEST_MAX, &text, &size, err);
    if (r < 0)
        return r;
    build->packages = json_array();
    char *rest = text, *line;
    while (build->packages && (line = strsep(&rest, "\n")))
        if (line[0] && json_array_append_new(build->packages, json_string(line)) < 0)
            return bg_err_errno(err, -ENOMEM, "packages");
    return build->packages ? 0 : bg_err_errno(err, -ENOMEM, "packages");
}

/* The digest of what the recipe says and what it came to. */
static int name_image(struct maker *maker, struct build *build, struct bg_err *err)
{
    json_t *whole = json_pack("{s:O, s:O, s:s}", "recipe", build->recipe->canonical, "packages",
                              build->packages, "kernel", maker->kernel.version);
    BG_AUTOFREE char *text = whole ? json_dumps(whole, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
    json_decref(whole);
    if (!text)
        return bg_err_errno(err, -ENOMEM, "image");
    bg_sha256_hex(text, strlen(text), build->digest);
    return 0;
}

static int step_bootstrap(struct maker *maker, struct build *build, struct bg_err *err)
{
    struct bootstrap bootstrap = {
        .folder = maker->work.dir, .tmp = maker->work.tmp, .log = maker->log};
    int r = bootstrap_run(&maker->jobs, &bootstrap, build->recipe, err);
    return r < 0 ? r : read_packages(maker, build, err);
}

static int step_kernel(struct maker *maker, struct build *build, struct bg_err *err)
{
    (void)build;
    int r = maker_unpack_kernel(maker, err);
    return r < 0 ? r : maker_install_kernel(maker, err);
}

struct disk_job {
    struct disk_opts opts;
    const char *tar;
};

static int run_disk_job(void *arg, struct bg_err *err)
{
    const struct disk_job *job = arg;
    return disk_from_tar(&job->opts, job->tar, err);
}

static int step_disk(struct maker *maker, struct build *build, struct bg_err *err)
{
    BG_AUTOFREE char *tar = NULL;
    BG_AUTOFREE char *appliance = NULL;
    if (asprintf(&tar, "%s/" BOOTSTRAP_TAR, maker->work.dir) < 0 ||
        asprintf(&appliance, "%s/appliance", maker->store.cache) < 0)
        return bg_err_errno(err, -ENOMEM, "disk");
    struct disk_job job = {.opts = {.kernel = &maker->kernel,
                                    .appliance = appliance,
                                    .tmp = maker->work.tmp,
                                    .out = maker->partial,
                                    .virtual_bytes = build->recipe->disk_bytes},
                           .tar = tar};
    int r = job_run(
        &maker->jobs,
        &(struct job){.name = "libguestfs", .call = run_disk_job, .arg = &job, .log = maker->log},
        err);
    if (r == 0 && unlink(tar) < 0)
        r = bg_err_errno(err, -errno, "%s", tar);
    return r;
}

static int step_publish(struct maker *maker, struct build *build, struct bg_err *err)
{
    int r = maker_compact(maker, err);
    if (r == 0)
        r = name_image(maker, build, err);
    if (r < 0)
        return r;
    struct maker_facts facts = {.recipe = build->recipe->canonical,
                                .packages = build->packages,
                                .user = build->recipe->user ? build->recipe->user : "root",
                                .virtual_bytes = build->recipe->disk_bytes,
                                .digest = build->digest};
    char digest[65];
    return maker_publish(maker, &facts, build->tag, digest, err);
}

static const struct step {
    const char *name, *text;
    int (*run)(struct maker *maker, struct build *build, struct bg_err *err);
} steps[] = {
    {"bootstrap", "downloading and installing packages", step_bootstrap},
    {"kernel", "unpacking the kernel and packing its modules", step_kernel},
    {"disk", "filling the file system", step_disk},
    {"publish", "compacting and checking in", step_publish},
};

static int make(struct maker *maker, struct build *build, struct bg_err *err)
{
    int r = maker_begin(maker, err);
    for (size_t i = 0; r == 0 && i < sizeof steps / sizeof steps[0]; i++) {
        progress_begin(&maker->progress, steps[i].name, "%s", steps[i].text);
        r = steps[i].run(maker, build, err);
        progress_end(&maker->progress, r == 0);
        if (r < 0)
            (void)bg_err_prefix(err, "step '%s'", steps[i].name);
    }
    return r;
}

/* The modules that the agent loads are in the image, so another list of them is another image. */
static int add_modules(struct build *build, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *list = NULL;
    int r = bg_data_path("modules.list", &path, err);
    if (r == 0)
        r = bg_read_file(AT_FDCWD, path, BG_MANIFEST_MAX / 4, &list, NULL, err);
    if (r == 0 && json_object_set_new(build->recipe->canonical, "modules", json_string(list)) < 0)
        r = bg_err_errno(err, -ENOMEM, "modules");
    return r;
}

static int build_image(struct maker *maker, struct build *build, bool *ret_cached,
                       struct bg_err *err)
{
    int r = maker_init(maker, err);
    if (r == 0)
        r = recipe_load(build->recipe_name, &build->recipe, err);
    if (r == 0)
        r = add_modules(build, err);
    if (r < 0)
        return r;
    if (!build->tag)
        build->tag = build->recipe->name;
    bool cached = !build->refresh && find_cached(maker, build);
    if (!cached) {
        r = maker_lock(maker, err);
        if (r < 0)
            return r;
        cached = !build->refresh && find_cached(maker, build); /* by whom we waited for */
    }
    *ret_cached = cached;
    return cached ? store_tag(&maker->store, build->tag, build->digest, err)
                  : make(maker, build, err);
}

static int report(const struct build *build, bool cached)
{
    if (build->json)
        return print_json(json_pack("{s:s, s:s, s:b}", "name", build->tag, "digest", build->digest,
                                    "cached", cached));
    (void)printf("%s %s%s\n", build->tag, build->digest, cached ? " (built before)" : "");
    return 0;
}

static int parse(int argc, char **argv, struct build *build)
{
    static const struct option options[] = {{"name", required_argument, NULL, 'n'},
                                            {"refresh", no_argument, NULL, 'r'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'h')
            return usage(usage_text, /* asked= */ true);
        if (option == 'n')
            build->tag = optarg;
        else if (option == 'r')
            build->refresh = true;
        else if (option == 'j')
            build->json = true;
        else
            return usage(usage_text, /* asked= */ false);
    }
    if (argc - optind > 1)
        return usage(usage_text, /* asked= */ false);
    build->recipe_name = optind < argc ? argv[optind] : "debian";
    return -1;
}

int cmd_build(int argc, char **argv)
{
    struct build build = {0};
    struct bg_err err = {0};
    int status = parse(argc, argv, &build);
    if (status >= 0)
        return status;
    if (build.tag && !bg_image_name_ok(build.tag)) {
        (void)bg_err_set(&err, -EINVAL, "--name: up to 63 of a-z, 0-9, '.', '_', '-' are possible");
        return fail(&err);
    }
    struct maker maker;
    bool cached;
    int r = build_image(&maker, &build, &cached, &err);
    if (r == 0)
        status = report(&build, cached);
    int done = maker_done(&maker, &err);
    json_decref(build.packages);
    recipe_free(build.recipe);
    return r < 0 ? done : status;
}
