/* image import: a foreign disk becomes an image of our layout. The disk is hostile: qemu-img looks
 * at its header with little memory and time, and only libguestfs's appliance reads what is in it;
 * both as an unprivileged user if we are root. */
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"
#include "common/state/image.h"
#include "images/bootstrap.h"
#include "images/commands.h"
#include "images/disk.h"

#define INFO_MEMORY_MAX (UINT64_C(1) << 30)
#define INFO_CPU_S_MAX  30
#define DISK_BYTES_MIN  (UINT64_C(10) << 30) /* smaller disks get this much room */

static const char usage_text[] =
    "usage: bellglass image import FILE.qcow2 [--name TAG] [--user USER] [--json]\n"
    "\n"
    "Makes an image of the Linux root that is on a disk. It gets bellglass's kernel.\n"
    "\n"
    "  --name TAG    call the image TAG instead of the file's name\n"
    "  --user USER   who runs commands in it (default: app, else uid 1000, else root)\n"
    "  --json        print the result as JSON\n";

struct import {
    const char *path, *user;
    char tag[64];
    bool json;
    unsigned uid, gid; /* who looks at the disk; 0: we */
    char *folder;      /* in the work folder, that user's */
    char *disk;        /* absolute path of the disk to look at */
    uint64_t virtual_bytes;
    struct disk_facts facts;
    char digest[65];
};

/* The file's name up to the first dot, in the characters that a tag may have. */
static int name_from_path(const char *path, char ret_tag[64], struct bg_err *err)
{
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    size_t used = 0;
    for (; *base && *base != '.' && used < 63; base++) {
        char c = *base >= 'A' && *base <= 'Z' ? (char)(*base - 'A' + 'a') : *base;
        bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (plain || used > 0)
            ret_tag[used++] = plain ? c : '-';
    }
    ret_tag[used] = '\0';
    char quoted[128];
    return used > 0 ? 0
                    : bg_err_set(err, -EINVAL, "%s: no name can be made of it; give --name",
                                 bg_quote(path, quoted, sizeof quoted));
}

/* Finds the disk and, as root, makes a copy that the unprivileged user can read. */
static int step_open(struct maker *maker, struct import *import, struct bg_err *err)
{
    char *real = realpath(import->path, NULL);
    struct stat st;
    if (!real || stat(real, &st) < 0) {
        free(real);
        return bg_err_errno(err, -errno, "%s", import->path);
    }
    if (!S_ISREG(st.st_mode)) {
        free(real);
        return bg_err_set(err, -EINVAL, "%s: not a file", import->path);
    }
    import->disk = real;
    if (asprintf(&import->folder, "%s/import", maker->work.dir) < 0) {
        import->folder = NULL;
        return bg_err_errno(err, -ENOMEM, "import");
    }
    if (mkdir(import->folder, 0700) < 0)
        return bg_err_errno(err, -errno, "%s", import->folder);
    if (geteuid() != 0)
        return 0;
    bg_runner_ids(&import->uid, &import->gid);
    char *copy;
    if (asprintf(&copy, "%s/in.qcow2", import->folder) < 0)
        return bg_err_errno(err, -ENOMEM, "import");
    int r = store_check_space(maker->work.dir, (uint64_t)st.st_blocks * 512, err);
    if (r == 0) {
        char *const argv[] = {(char[]){"cp"},
                              (char[]){"--reflink=auto"},
                              (char[]){"--sparse=auto"},
                              (char[]){"--no-preserve=mode"},
                              (char[]){"--"},
                              real,
                              copy,
                              NULL};
        r = job_run(&maker->jobs, &(struct job){.name = "cp", .argv = argv, .log = maker->log},
                    err);
    }
    if (r == 0 && (chown(copy, import->uid, import->gid) < 0 ||
                   chown(import->folder, import->uid, import->gid) < 0))
        r = bg_err_errno(err, -errno, "%s", import->folder);
    free(import->disk);
    import->disk = copy;
    return r;
}

/* Judges what qemu-img says about the disk. */
static int judge_info(struct import *import, const char *text, size_t size, struct bg_err *err)
{
    json_t *info = json_loadb(text, size, 0, NULL);
    json_t *specific = json_object_get(json_object_get(info, "format-specific"), "data");
    const char *format = json_string_value(json_object_get(info, "format"));
    json_int_t bytes = json_integer_value(json_object_get(info, "virtual-size"));
    int r = 0;
    if (!format || strcmp(format, "qcow2") != 0)
        r = bg_err_set(err, -EINVAL, "%s: not a qcow2", import->path);
    else if (json_object_get(info, "backing-filename"))
        r = bg_err_set(err, -EINVAL,
                       "%s: it stands on another file; make it whole: qemu-img convert -O qcow2 "
                       "FILE WHOLE.qcow2",
                       import->path);
    else if (json_object_get(specific, "data-file"))
        r = bg_err_set(err, -EINVAL, "%s: its data are in another file", import->path);
    else if (json_is_true(json_object_get(info, "encrypted")))
        r = bg_err_set(err, -EINVAL, "%s: it is encrypted", import->path);
    else if (bytes <= 0 || (uint64_t)bytes > RECIPE_DISK_MAX)
        r = bg_err_set(err, -EINVAL, "%s: a disk of %jd bytes is not possible", import->path,
                       (intmax_t)bytes);
    else
        import->virtual_bytes = (uint64_t)bytes;
    json_decref(info);
    return r;
}

static int step_check(struct maker *maker, struct import *import, struct bg_err *err)
{
    BG_AUTOFREE char *out = NULL;
    if (asprintf(&out, "%s/info", maker->work.dir) < 0)
        return bg_err_errno(err, -ENOMEM, "import");
    BG_AUTOCLOSE int fd = open(out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", out);
    char *const argv[] = {(char[]){"qemu-img"},
                          (char[]){"info"},
                          (char[]){"-f"},
                          (char[]){"qcow2"},
                          (char[]){"--output=json"},
                          import->disk,
                          NULL};
    struct job job = {.name = "qemu-img",
                      .argv = argv,
                      .log = maker->log,
                      .out_fd = fd,
                      .uid = import->uid,
                      .gid = import->gid,
                      .memory_max = INFO_MEMORY_MAX,
                      .cpu_s_max = INFO_CPU_S_MAX};
    int r = job_run(&maker->jobs, &job, err);
    if (r == -EREMOTEIO)
        return bg_err_set(err, -EINVAL, "%s: not a qcow2 that can be read", import->path);
    BG_AUTOFREE char *text = NULL;
    size_t size;
    if (r == 0)
        r = bg_read_file(AT_FDCWD, out, BG_MANIFEST_MAX, &text, &size, err);
    return r < 0 ? r : judge_info(import, text, size, err);
}

/* The kernel that the last build left in the cache, or the one of the default recipe. */
static int step_kernel(struct maker *maker, struct import *import, struct bg_err *err)
{
    (void)import;
    if (kernel_cached(maker->store.cache, &maker->kernel, NULL) == 0)
        return maker_install_kernel(maker, err);
    struct recipe *recipe;
    int r = recipe_load("debian", &recipe, err);
    if (r < 0)
        return r;
    struct bootstrap bootstrap = {
        .folder = maker->work.dir, .tmp = maker->work.tmp, .log = maker->log, .kernel_only = true};
    r = bootstrap_run(&maker->jobs, &bootstrap, recipe, err);
    recipe_free(recipe);
    if (r == 0)
        r = maker_unpack_kernel(maker, err);
    return r < 0 ? r : maker_install_kernel(maker, err);
}

struct disk_job {
    struct disk_opts opts;
    const struct import *import;
    struct disk_facts *ret; /* shared with the child */
};

static int run_disk_job(void *arg, struct bg_err *err)
{
    const struct disk_job *job = arg;
    return disk_from_qcow2(&job->opts, job->import->disk, job->import->user, job->ret, err);
}

static int copy_disk(struct maker *maker, struct import *import, struct disk_facts *shared,
                     struct bg_err *err)
{
    BG_AUTOFREE char *appliance = NULL;
    BG_AUTOFREE char *out = NULL;
    /* The appliance in the cache is of our uid; another user makes its own. */
    const char *cache = import->uid != 0 ? import->folder : maker->store.cache;
    if (asprintf(&appliance, "%s/appliance", cache) < 0 ||
        asprintf(&out, "%s/out.qcow2", import->folder) < 0)
        return bg_err_errno(err, -ENOMEM, "disk");
    struct disk_job job = {.opts = {.kernel = &maker->kernel,
                                    .appliance = appliance,
                                    .tmp = import->folder,
                                    .out = out,
                                    .virtual_bytes = import->virtual_bytes},
                           .import = import,
                           .ret = shared};
    int r = job_run(&maker->jobs,
                    &(struct job){.name = "libguestfs",
                                  .call = run_disk_job,
                                  .arg = &job,
                                  .log = maker->log,
                                  .uid = import->uid,
                                  .gid = import->gid},
                    err);
    if (r == 0 && (rename(out, maker->partial) < 0 || chown(maker->partial, geteuid(), getegid())))
        r = bg_err_errno(err, -errno, "%s", out);
    return r;
}

static int step_disk(struct maker *maker, struct import *import, struct bg_err *err)
{
    if (import->virtual_bytes < DISK_BYTES_MIN)
        import->virtual_bytes = DISK_BYTES_MIN;
    struct disk_facts *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return bg_err_errno(err, -errno, "disk");
    int r = copy_disk(maker, import, shared, err);
    if (r == 0)
        import->facts = *shared;
    (void)munmap(shared, sizeof *shared);
    return r < 0 ? bg_err_prefix(err, "%s", import->path) : 0;
}

static int step_publish(struct maker *maker, struct import *import, struct bg_err *err)
{
    int r = maker_compact(maker, err);
    if (r < 0)
        return r;
    json_t *recipe = json_pack("{s:s, s:s}", "import", import->tag, "os", import->facts.os);
    json_t *packages = json_array();
    if (!recipe || !packages) {
        r = bg_err_errno(err, -ENOMEM, "manifest");
    } else {
        struct maker_facts facts = {.recipe = recipe,
                                    .packages = packages,
                                    .user = import->facts.user,
                                    .virtual_bytes = import->virtual_bytes};
        r = maker_publish(maker, &facts, import->tag, import->digest, err);
    }
    json_decref(recipe);
    json_decref(packages);
    return r;
}

static const struct step {
    const char *name, *text;
    int (*run)(struct maker *maker, struct import *import, struct bg_err *err);
} steps[] = {
    {"open", "opening the disk", step_open},
    {"check", "checking its header", step_check},
    {"kernel", "getting the kernel and packing its modules", step_kernel},
    {"disk", "copying the file system", step_disk},
    {"publish", "compacting and checking in", step_publish},
};

static int import_image(struct maker *maker, struct import *import, struct bg_err *err)
{
    int r = maker_init(maker, err);
    if (r == 0)
        r = maker_lock(maker, err);
    if (r == 0)
        r = maker_begin(maker, err);
    for (size_t i = 0; r == 0 && i < sizeof steps / sizeof steps[0]; i++) {
        progress_begin(&maker->progress, steps[i].name, "%s", steps[i].text);
        r = steps[i].run(maker, import, err);
        progress_end(&maker->progress, r == 0);
        if (r < 0)
            (void)bg_err_prefix(err, "step '%s'", steps[i].name);
    }
    return r;
}

/* Returns the exit status, or -1 to go on. */
static int parse(int argc, char **argv, struct import *import)
{
    static const struct option options[] = {{"name", required_argument, NULL, 'n'},
                                            {"user", required_argument, NULL, 'u'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct bg_err err = {0};
    const char *tag = NULL;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'n')
            tag = optarg;
        else if (option == 'u')
            import->user = optarg;
        else if (option == 'j')
            import->json = true;
        else
            return usage(usage_text, /* asked= */ option == 'h');
    }
    if (argc - optind != 1)
        return usage(usage_text, /* asked= */ false);
    import->path = argv[optind];
    if (!tag)
        return name_from_path(import->path, import->tag, &err) < 0 ? fail(&err) : -1;
    if (!bg_image_name_ok(tag)) {
        (void)bg_err_set(&err, -EINVAL, "--name: up to 63 of a-z, 0-9, '.', '_', '-' are possible");
        return fail(&err);
    }
    (void)snprintf(import->tag, sizeof import->tag, "%s", tag);
    return -1;
}

int cmd_import(int argc, char **argv)
{
    struct import import = {0};
    int status = parse(argc, argv, &import);
    if (status >= 0)
        return status;
    struct bg_err err = {0};
    struct maker maker;
    int r = import_image(&maker, &import, &err);
    status = maker_done(&maker, &err);
    if (r == 0 && import.json)
        status = print_json(json_pack("{s:s, s:s, s:s}", "name", import.tag, "digest",
                                      import.digest, "user", import.facts.user));
    else if (r == 0)
        (void)printf("%s %s\n", import.tag, import.digest);
    free(import.folder);
    free(import.disk);
    return status;
}
