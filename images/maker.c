#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/sha256.h"
#include "common/state/image.h"
#include "images/bootstrap.h"
#include "images/commands.h"

/* What a build of a small Debian takes at its peak: tar, disk twice, kernel, appliance. */
#define WORK_BYTES (UINT64_C(2) << 30)
#define TMP_BYTES  (UINT64_C(1) << 30)

int maker_init(struct maker *maker, struct bg_err *err)
{
    *maker = (struct maker){.store = {.fd = -1},
                            .work = {.fd = -1},
                            .lock_fd = -1,
                            .jobs = {.signal_fd = -1, .lock_fd = -1}};
    progress_init(&maker->progress);
    int r = bg_paths_init(&maker->paths, err);
    if (r == 0)
        r = jobs_init(&maker->jobs, err);
    if (r == 0)
        r = store_open(&maker->paths, &maker->store, err);
    return r;
}

static int wait_for_lock(void *arg, struct bg_err *err)
{
    const int *fd = arg;
    while (flock(*fd, LOCK_EX) < 0)
        if (errno != EINTR)
            return bg_err_errno(err, -errno, "lock");
    return 0;
}

int maker_lock(struct maker *maker, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/.lock", maker->store.cache) < 0)
        return bg_err_errno(err, -ENOMEM, "cache");
    maker->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (maker->lock_fd < 0)
        return bg_err_errno(err, -errno, "%s", path);
    if (flock(maker->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    if (errno != EWOULDBLOCK)
        return bg_err_errno(err, -errno, "%s", path);
    /* In a child, so that a signal can end the wait; the lock is the open file's and so ours. */
    progress_begin(&maker->progress, "wait", "another build is running");
    int r = job_run(
        &maker->jobs,
        &(struct job){
            .name = "wait", .call = wait_for_lock, .arg = &maker->lock_fd, .log = "/dev/null"},
        err);
    progress_end(&maker->progress, r == 0);
    return r;
}

static int check_room(const struct maker *maker, struct bg_err *err)
{
    struct stat data, tmp;
    if (stat(maker->work.dir, &data) < 0 || stat(maker->work.tmp, &tmp) < 0)
        return bg_err_errno(err, -errno, "%s", maker->work.dir);
    if (data.st_dev == tmp.st_dev)
        return store_check_space(maker->work.dir, WORK_BYTES + TMP_BYTES, err);
    int r = store_check_space(maker->work.dir, WORK_BYTES, err);
    return r < 0 ? r : store_check_space(maker->work.tmp, TMP_BYTES, err);
}

int maker_open_work(struct maker *maker, struct bg_err *err)
{
    int r = store_work_begin(&maker->store, &maker->work, err);
    if (r < 0)
        return r;
    maker->jobs.lock_fd = maker->work.fd;
    if (asprintf(&maker->log, "%s/log", maker->work.dir) < 0)
        maker->log = NULL;
    if (asprintf(&maker->partial, "%s/partial.qcow2", maker->work.dir) < 0)
        maker->partial = NULL;
    if (!maker->log || !maker->partial)
        return bg_err_errno(err, -ENOMEM, "images");
    return 0;
}

int maker_begin(struct maker *maker, struct bg_err *err)
{
    int r = bootstrap_check(err);
    if (r == 0)
        r = maker_open_work(maker, err);
    return r < 0 ? r : check_room(maker, err);
}

int maker_compact(struct maker *maker, struct bg_err *err)
{
    BG_AUTOFREE char *out = NULL;
    if (asprintf(&out, "%s/image/" BG_IMAGE_DISK, maker->work.dir) < 0)
        return bg_err_errno(err, -ENOMEM, "images");
    char *const argv[] = {(char[]){"qemu-img"},
                          (char[]){"convert"},
                          (char[]){"-f"},
                          (char[]){"qcow2"},
                          (char[]){"-O"},
                          (char[]){"qcow2"},
                          maker->partial,
                          out,
                          NULL};
    int r = job_run(&maker->jobs,
                    &(struct job){.name = "qemu-img", .argv = argv, .log = maker->log}, err);
    if (r < 0)
        return r;
    if (unlink(maker->partial) < 0)
        return bg_err_errno(err, -errno, "%s", maker->partial);
    return 0;
}

int maker_unpack_kernel(struct maker *maker, struct bg_err *err)
{
    BG_AUTOFREE char *version = NULL;
    BG_AUTOFREE char *deb = NULL;
    size_t size;
    int r = bg_read_file(maker->work.fd, BOOTSTRAP_VERSION, BG_NAME_MAX, &version, &size, err);
    if (r < 0)
        return r;
    version[strcspn(version, "\n")] = '\0';
    if (asprintf(&deb, "%s/" BOOTSTRAP_KERNEL, maker->work.dir) < 0)
        return bg_err_errno(err, -ENOMEM, "kernel");
    return kernel_unpack(&maker->jobs, maker->store.cache, deb, version, maker->log, &maker->kernel,
                         err);
}

int maker_install_kernel(struct maker *maker, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = openat(maker->work.fd, "image", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s/image", maker->work.dir);
    return kernel_install(&maker->kernel, fd, err);
}

/* {"root.qcow2": {"size", "sha256"}, ...} */
static int describe_files(int image_fd, json_t **ret, struct bg_err *err)
{
    static const char *const files[] = {BG_IMAGE_DISK, BG_IMAGE_KERNEL, BG_IMAGE_MODULES};
    json_t *object = json_object();
    int r = object ? 0 : bg_err_errno(err, -ENOMEM, "manifest");
    for (size_t i = 0; r == 0 && i < sizeof files / sizeof files[0]; i++) {
        char sha256[65];
        uint64_t size;
        r = bg_sha256_file(image_fd, files[i], sha256, &size, err);
        if (r == 0 && json_object_set_new(
                          object, files[i],
                          json_pack("{s:I, s:s}", "size", (json_int_t)size, "sha256", sha256)) < 0)
            r = bg_err_errno(err, -ENOMEM, "manifest");
    }
    if (r < 0) {
        json_decref(object);
        return r;
    }
    *ret = object;
    return 0;
}

static int write_manifest(const struct maker *maker, int image_fd, const struct maker_facts *facts,
                          char ret_digest[65], struct bg_err *err)
{
    json_t *files;
    int r = describe_files(image_fd, &files, err);
    if (r < 0)
        return r;
    if (facts->digest) {
        memcpy(ret_digest, facts->digest, 65);
    } else {
        BG_AUTOFREE char *text = json_dumps(files, JSON_SORT_KEYS | JSON_COMPACT);
        if (text)
            bg_sha256_hex(text, strlen(text), ret_digest);
        r = text ? 0 : bg_err_errno(err, -ENOMEM, "manifest");
    }
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail */
    json_t *manifest =
        json_pack("{s:i, s:s, s:I, s:s, s:s, s:s, s:I, s:o, s:O, s:O}", "version", 1, "digest",
                  ret_digest, "created_ms", (json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000,
                  "kernel_release", maker->kernel.release, "kernel_package", maker->kernel.version,
                  "user", facts->user, "virtual_bytes", (json_int_t)facts->virtual_bytes, "files",
                  files, "recipe", facts->recipe, "packages", facts->packages);
    BG_AUTOFREE char *text = manifest ? json_dumps(manifest, JSON_INDENT(1)) : NULL;
    json_decref(manifest);
    if (r == 0 && !text)
        r = bg_err_errno(err, -ENOMEM, "manifest");
    if (r == 0)
        r = bg_write_file(image_fd, BG_IMAGE_MANIFEST, text, strlen(text), 0644, err);
    return r;
}

int maker_publish(struct maker *maker, const struct maker_facts *facts, const char *tag,
                  char ret_digest[65], struct bg_err *err)
{
    BG_AUTOCLOSE int fd = openat(maker->work.fd, "image", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s/image", maker->work.dir);
    int r = write_manifest(maker, fd, facts, ret_digest, err);
    if (r < 0)
        return r;
    struct bg_image old = {0};
    bool damaged = bg_image_find(&maker->paths, ret_digest, &old, NULL) == -EUCLEAN;
    bg_image_done(&old);
    if (damaged)
        r = remove_golden(&maker->paths, ret_digest, err);
    if (r == 0)
        r = store_publish(&maker->store, &maker->work, ret_digest, damaged, err);
    return r < 0 ? r : store_tag(&maker->store, tag, ret_digest, err);
}

int maker_done(struct maker *maker, const struct bg_err *err)
{
    int status = 0;
    if (err->code == -ECANCELED && maker->jobs.signal) {
        (void)fprintf(stderr, "bellglass image: interrupted; nothing was kept\n");
        status = 128 + maker->jobs.signal;
    } else if (err->code < 0) {
        if (maker->log)
            progress_log_tail(maker->log);
        status = fail(err);
    }
    kernel_done(&maker->kernel);
    if (maker->work.fd >= 0)
        store_work_end(&maker->store, &maker->work);
    free(maker->log);
    free(maker->partial);
    if (maker->lock_fd >= 0)
        (void)close(maker->lock_fd);
    store_close(&maker->store);
    if (maker->jobs.signal_fd >= 0)
        jobs_done(&maker->jobs);
    bg_paths_done(&maker->paths);
    return status;
}
