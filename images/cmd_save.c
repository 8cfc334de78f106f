/* image save: a sandbox's disk becomes an image. `bellglass image save` has taken a snapshot of the
 * disk, whose name we get: nobody changes its layers while we read them, and they are a hostile
 * guest's. So qemu-img gets the chain from us, each file by fd, and never follows a name in one;
 * headers that say that data are elsewhere are refused; and it runs as an unprivileged user if we
 * are root. What is in the file system is no more looked at than that of any sandbox: only a guest
 * reads it. Kernel and modules are the base's own files. */
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/state/image.h"
#include "common/state/qcow2.h"
#include "common/state/snapshot.h"
#include "images/commands.h"

#define CHAIN_MAX (BG_DISK_LAYERS_MAX + 2) /* and the golden snapshot's disk, and the image's */

static const char usage_text[] = "usage: bellglass image save [--json] NAME IMAGE\n"
                                 "\n"
                                 "Makes the image IMAGE of the disk of sandbox or snapshot NAME. "
                                 "See bellglass image save --help.\n";

struct save {
    const char *tag, *name;
    bool json;
    struct bg_snapshot snapshot;
    struct bg_image base;
    int fds[CHAIN_MAX]; /* bottom to top */
    size_t count;
    unsigned uid, gid; /* who runs qemu-img; 0: we */
    char *folder;      /* in the work folder, that user's */
    char digest[65];
};

/* guest: its header is checked. */
static int add_file(struct save *save, const char *dir, const char *file, bool guest,
                    struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    uint8_t header[QCOW2_HEADER_SIZE];
    if (asprintf(&path, "%s/%s", dir, file) < 0)
        return bg_err_errno(err, -ENOMEM, "save");
    /* Inherited by qemu-img. */
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NOCTTY); /* NOLINT: no O_CLOEXEC on purpose */
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", path);
    save->fds[save->count++] = fd;
    if (!guest)
        return 0;
    ssize_t n = pread(fd, header, sizeof header, 0);
    int r = n < 0 ? bg_err_errno(err, -errno, "read") : qcow2_check(header, (size_t)n, err);
    return r < 0 ? bg_err_prefix(err, "%s", path) : 0;
}

static int step_open(struct maker *maker, struct save *save, struct bg_err *err)
{
    BG_AUTOFREE char *golden = NULL;
    char file[BG_LAYER_FILE_SIZE];
    int r = bg_snapshot_load(&maker->paths, save->name, &save->snapshot, err);
    if (r == 0)
        r = bg_image_find(&maker->paths, save->snapshot.image_digest, &save->base, err);
    if (r < 0)
        return r;
    if (asprintf(&golden, "%s/snapshots/%s", maker->paths.data, save->snapshot.golden) < 0)
        return bg_err_errno(err, -ENOMEM, "save");
    r = add_file(save, save->base.dir, BG_IMAGE_DISK, /* guest= */ false, err);
    if (r == 0)
        r = add_file(save, golden, "disk.qcow2", /* guest= */ true, err);
    for (size_t i = 0; r == 0 && i < save->snapshot.disk_count; i++) {
        bg_layer_disk_file(save->snapshot.disk[i].id, file);
        r = add_file(save, save->snapshot.dir, file, /* guest= */ true, err);
    }
    return r;
}

/* The chain as qemu-img is to open it, top first. NULL: out of memory. */
static char *chain_json(const struct save *save)
{
    json_t *node = NULL;
    for (size_t i = 0; i < save->count; i++) {
        char file[32];
        (void)snprintf(file, sizeof file, "/dev/fd/%d", save->fds[i]);
        json_t *above =
            json_pack("{s:s, s:{s:s, s:s, s:s}, s:o}", "driver", "qcow2", "file", "driver", "file",
                      "filename", file, "locking", "off", "backing", node ? node : json_null());
        if (!above)
            return NULL;
        node = above;
    }
    BG_AUTOFREE char *text = node ? json_dumps(node, JSON_COMPACT) : NULL;
    char *out = NULL;
    json_decref(node);
    return text && asprintf(&out, "json:%s", text) >= 0 ? out : NULL;
}

static uint64_t bytes_of(const struct save *save)
{
    uint64_t sum = 0;
    struct stat st;
    for (size_t i = 0; i < save->count; i++)
        if (fstat(save->fds[i], &st) == 0)
            sum += (uint64_t)st.st_blocks * 512;
    return sum;
}

static int make_folder(struct maker *maker, struct save *save, struct bg_err *err)
{
    if (asprintf(&save->folder, "%s/save", maker->work.dir) < 0) {
        save->folder = NULL;
        return bg_err_errno(err, -ENOMEM, "save");
    }
    if (geteuid() == 0)
        bg_runner_ids(&save->uid, &save->gid);
    if (mkdir(save->folder, 0700) < 0 ||
        (save->uid != 0 && chown(save->folder, save->uid, save->gid) < 0))
        return bg_err_errno(err, -errno, "%s", save->folder);
    return 0;
}

/* What only root may read, as a copy that the unprivileged user can. */
static int copy_layer(struct maker *maker, struct save *save, size_t index, struct bg_err *err)
{
    BG_AUTOFREE char *copy = NULL;
    char from[32];
    (void)snprintf(from, sizeof from, "/dev/fd/%d", save->fds[index]);
    if (asprintf(&copy, "%s/%zu.qcow2", save->folder, index) < 0)
        return bg_err_errno(err, -ENOMEM, "save");
    char *const argv[] = {(char[]){"cp"},
                          (char[]){"--reflink=auto"},
                          (char[]){"--sparse=auto"},
                          (char[]){"--no-preserve=mode"},
                          (char[]){"--"},
                          from,
                          copy,
                          NULL};
    int r =
        job_run(&maker->jobs, &(struct job){.name = "cp", .argv = argv, .log = maker->log}, err);
    if (r < 0)
        return r;
    int fd = open(copy, O_RDONLY | O_NOFOLLOW); /* NOLINT: as add_file's */
    if (fd < 0 || fchown(fd, save->uid, save->gid) < 0) {
        r = bg_err_errno(err, -errno, "%s", copy);
        if (fd >= 0)
            (void)close(fd); /* read only */
        return r;
    }
    (void)close(save->fds[index]); /* read only */
    save->fds[index] = fd;
    return 0;
}

/* All layers in one file, without holes and zeros. Others have the processor first. */
static int step_flatten(struct maker *maker, struct save *save, struct bg_err *err)
{
    BG_AUTOFREE char *out = NULL;
    BG_AUTOFREE char *disk = NULL;
    int r = store_check_space(maker->work.dir, bytes_of(save), err);
    if (r == 0)
        r = make_folder(maker, save, err);
    /* The first two are everybody's to read. */
    for (size_t i = 2; r == 0 && save->uid != 0 && i < save->count; i++)
        r = copy_layer(maker, save, i, err);
    if (r < 0)
        return r;
    BG_AUTOFREE char *chain = chain_json(save);
    if (!chain || asprintf(&out, "%s/out.qcow2", save->folder) < 0 ||
        asprintf(&disk, "%s/image/" BG_IMAGE_DISK, maker->work.dir) < 0)
        return bg_err_errno(err, -ENOMEM, "save");
    char *const argv[] = {(char[]){"nice"},
                          (char[]){"qemu-img"},
                          (char[]){"convert"},
                          (char[]){"-O"},
                          (char[]){"qcow2"},
                          chain,
                          out,
                          NULL};
    r = job_run(&maker->jobs,
                &(struct job){.name = "qemu-img",
                              .argv = argv,
                              .log = maker->log,
                              .uid = save->uid,
                              .gid = save->gid},
                err);
    if (r == 0 &&
        (rename(out, disk) < 0 || chown(disk, geteuid(), getegid()) < 0 || chmod(disk, 0644) < 0))
        r = bg_err_errno(err, -errno, "%s", disk);
    return r;
}

/* The same files under another name: images do not change. */
static int step_kernel(struct maker *maker, struct save *save, struct bg_err *err)
{
    static const char *const files[] = {BG_IMAGE_KERNEL, BG_IMAGE_MODULES};
    const char *package = json_string_value(json_object_get(save->base.manifest, "kernel_package"));
    BG_AUTOCLOSE int from = open(save->base.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    BG_AUTOCLOSE int to = openat(maker->work.fd, "image", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (from < 0 || to < 0)
        return bg_err_errno(err, -errno, "image %s", save->base.dir);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (linkat(from, files[i], to, files[i], 0) < 0)
            return bg_err_errno(err, -errno, "%s", files[i]);
    maker->kernel.release = strdup(save->base.kernel_release);
    maker->kernel.version = strdup(package ? package : "");
    return maker->kernel.release && maker->kernel.version ? 0
                                                          : bg_err_errno(err, -ENOMEM, "kernel");
}

static int step_publish(struct maker *maker, struct save *save, struct bg_err *err)
{
    json_t *packages = json_object_get(save->base.manifest, "packages");
    json_auto_t *recipe =
        json_pack("{s:s, s:s}", "save", save->snapshot.source_name, "base", save->base.digest);
    json_auto_t *none = json_array();
    if (!recipe || !none)
        return bg_err_errno(err, -ENOMEM, "manifest");
    struct maker_facts facts = {.recipe = recipe,
                                .packages = packages ? packages : none,
                                .user = save->base.user,
                                .virtual_bytes = save->base.virtual_bytes};
    return maker_publish(maker, &facts, save->tag, save->digest, err);
}

static const struct step {
    const char *name, *text;
    int (*run)(struct maker *maker, struct save *save, struct bg_err *err);
} steps[] = {
    {"open", "opening the disk's layers", step_open},
    {"flatten", "copying them into one", step_flatten},
    {"kernel", "taking the base's kernel", step_kernel},
    {"publish", "checking it in", step_publish},
};

static int save_image(struct maker *maker, struct save *save, struct bg_err *err)
{
    int r = maker_init(maker, err);
    if (r == 0)
        r = maker_open_work(maker, err);
    for (size_t i = 0; r == 0 && i < sizeof steps / sizeof steps[0]; i++) {
        progress_begin(&maker->progress, steps[i].name, "%s", steps[i].text);
        r = steps[i].run(maker, save, err);
        progress_end(&maker->progress, r == 0);
        if (r < 0)
            (void)bg_err_prefix(err, "step '%s'", steps[i].name);
    }
    return r;
}

static void save_done(struct save *save)
{
    for (size_t i = 0; i < save->count; i++)
        (void)close(save->fds[i]); /* read only */
    bg_snapshot_done(&save->snapshot);
    bg_image_done(&save->base);
    free(save->folder);
}

int cmd_save(int argc, char **argv)
{
    static const struct option options[] = {{"snapshot", required_argument, NULL, 's'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct save save = {0};
    struct bg_err err = {0};
    struct maker maker;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 's')
            save.name = optarg;
        else if (option == 'j')
            save.json = true;
        else
            return usage(usage_text, /* asked= */ option == 'h');
    }
    if (argc - optind != 1 || !save.name)
        return usage(usage_text, /* asked= */ false);
    save.tag = argv[optind];
    if (!bg_image_name_ok(save.tag)) {
        (void)bg_err_set(&err, -EINVAL,
                         "an image's name: up to 63 of a-z, 0-9, '.', '_', '-' are possible");
        return fail(&err);
    }
    int r = save_image(&maker, &save, &err);
    int status = maker_done(&maker, &err);
    if (r == 0 && save.json)
        status = print_json(json_pack("{s:s, s:s, s:s}", "name", save.tag, "digest", save.digest,
                                      "base", save.base.digest));
    else if (r == 0)
        (void)printf("%s %s\n", save.tag, save.digest);
    save_done(&save);
    return status;
}
