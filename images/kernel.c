#include "images/kernel.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cpio.h"
#include "common/io.h"
#include "common/limits.h"
#include "common/state/image.h"
#include "common/state/paths.h"
#include "images/argv.h"
#include "images/modules.h"
#include "images/recipe.h"
#include "images/store.h"

#define PREFIX      "kernel-" /* of the folders in the cache: kernel-PACKAGE=VERSION */
#define VMLINUZ_MAX (256u * 1024u * 1024u)
#define MODULE_MAX  (64u * 1024u * 1024u)
#define TEXT_MAX    (16u * 1024u * 1024u) /* modules.dep and the like */

/* Finds the only vmlinuz-RELEASE in folder/boot. */
static int find_release(const char *folder, char **ret_release, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/boot", folder) < 0)
        return bg_err_errno(err, -ENOMEM, "kernel");
    DIR *boot = opendir(path);
    char *release = NULL;
    const struct dirent *entry;
    while (boot && !release && (entry = readdir(boot)))
        if (strncmp(entry->d_name, "vmlinuz-", strlen("vmlinuz-")) == 0)
            release = strdup(entry->d_name + strlen("vmlinuz-"));
    if (boot)
        (void)closedir(boot);
    if (!release)
        return bg_err_set(err, -EUCLEAN, "%s: no vmlinuz; not a kernel package?", path);
    *ret_release = release;
    return 0;
}

static int describe(const char *folder, const char *version, struct kernel *ret, struct bg_err *err)
{
    struct kernel kernel = {0};
    int r = find_release(folder, &kernel.release, err);
    if (r < 0)
        return r;
    kernel.version = strdup(version);
    if (asprintf(&kernel.vmlinuz, "%s/boot/vmlinuz-%s", folder, kernel.release) < 0)
        kernel.vmlinuz = NULL;
    if (asprintf(&kernel.modules, "%s/lib/modules/%s", folder, kernel.release) < 0)
        kernel.modules = NULL;
    if (!kernel.version || !kernel.vmlinuz || !kernel.modules) {
        kernel_done(&kernel);
        return bg_err_errno(err, -ENOMEM, "kernel");
    }
    *ret = kernel;
    return 0;
}

void kernel_done(struct kernel *kernel)
{
    free(kernel->version);
    free(kernel->release);
    free(kernel->vmlinuz);
    free(kernel->modules);
    *kernel = (struct kernel){0};
}

/* Removes kernel folders from the cache; keep (a name, or NULL): not this one. */
static void drop_others(int cache_fd, const char *keep)
{
    struct dirent **entries = NULL;
    int count = scandirat(cache_fd, ".", &entries, NULL, NULL);
    for (int i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;
        if (strncmp(name, PREFIX, strlen(PREFIX)) == 0 && (!keep || strcmp(name, keep) != 0))
            (void)!store_remove_tree(cache_fd, name); /* a cache: tried again next time */
        free(entries[i]);
    }
    free(entries);
}

static int run(struct jobs *jobs, const struct argv *argv, const char *log, struct bg_err *err)
{
    if (!argv_ok(argv))
        return bg_err_errno(err, -ENOMEM, "kernel");
    return job_run(jobs, &(struct job){.name = "kernel", .argv = argv->at, .log = log}, err);
}

static int unpack_into(struct jobs *jobs, const char *deb, const char *folder, const char *log,
                       struct bg_err *err)
{
    struct argv unpack = {0}, depmod = {0};
    BG_AUTOFREE char *release = NULL;
    argv_add(&unpack, "dpkg-deb");
    argv_add(&unpack, "--extract");
    argv_add(&unpack, "%s", deb);
    argv_add(&unpack, "%s", folder);
    int r = run(jobs, &unpack, log, err);
    if (r == 0)
        r = find_release(folder, &release, err);
    if (r == 0) {
        argv_add(&depmod, "depmod");
        argv_add(&depmod, "--basedir=%s", folder);
        argv_add(&depmod, "%s", release);
        r = run(jobs, &depmod, log, err);
    }
    argv_done(&unpack);
    argv_done(&depmod);
    return r;
}

int kernel_unpack(struct jobs *jobs, const char *cache, const char *deb, const char *version,
                  const char *log, struct kernel *ret, struct bg_err *err)
{
    BG_AUTOCLOSE int cache_fd = open(cache, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cache_fd < 0)
        return bg_err_errno(err, -errno, "%s", cache);
    BG_AUTOFREE char *name = NULL;
    BG_AUTOFREE char *folder = NULL;
    BG_AUTOFREE char *partial = NULL;
    if (strchr(version, '/') || asprintf(&name, PREFIX "%s", version) < 0 ||
        asprintf(&folder, "%s/%s", cache, name) < 0 ||
        asprintf(&partial, "%s/" PREFIX "partial", cache) < 0)
        return bg_err_errno(err, -ENOMEM, "kernel");
    drop_others(cache_fd, name);
    if (faccessat(cache_fd, name, F_OK, 0) < 0) {
        if (mkdirat(cache_fd, PREFIX "partial", 0755) < 0)
            return bg_err_errno(err, -errno, "%s", partial);
        int r = unpack_into(jobs, deb, partial, log, err);
        if (r < 0) {
            drop_others(cache_fd, name);
            return r;
        }
        if (rename(partial, folder) < 0)
            return bg_err_errno(err, -errno, "%s", folder);
    }
    return describe(folder, version, ret, err);
}

int kernel_cached(const char *cache, struct kernel *ret, struct bg_err *err)
{
    BG_AUTOFREE char *folder = NULL;
    BG_AUTOFREE char *version = NULL;
    DIR *dir = opendir(cache);
    const struct dirent *entry;
    while (dir && !version && (entry = readdir(dir))) {
        const char *name = entry->d_name;
        if (strncmp(name, PREFIX "linux-image-", strlen(PREFIX "linux-image-")) != 0)
            continue;
        version = strdup(name + strlen(PREFIX));
        if (asprintf(&folder, "%s/%s", cache, name) < 0)
            folder = NULL;
    }
    if (dir)
        (void)closedir(dir);
    if (!version || !folder)
        return bg_err_set(err, -ENOENT, "%s: no kernel", cache);
    return describe(folder, version, ret, err);
}

/* Adds the folders that lead to path, except those that the path before it (in the same order) had
 * already. */
static int add_folders(struct bg_cpio *cpio, const char *path, const char *before)
{
    for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        size_t size = (size_t)(slash - path);
        if (before && strncmp(before, path, size + 1) == 0)
            continue;
        char folder[BG_PATH_MAX];
        (void)snprintf(folder, sizeof folder, "%.*s", (int)size, path);
        int r = bg_cpio_folder(cpio, folder, 0755);
        if (r < 0)
            return r;
    }
    return 0;
}

static int by_path(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

/* Writes what protocol.md says of modules.cpio. */
static int pack(const struct kernel *kernel, const struct modules *modules, int modules_fd,
                int out_fd, struct bg_err *err)
{
    struct bg_cpio cpio = bg_cpio_init(out_fd);
    BG_AUTOFREE char *load = NULL;
    BG_AUTOFREE char *before = NULL;
    size_t load_size;
    FILE *lines = open_memstream(&load, &load_size);
    if (!lines)
        return bg_err_errno(err, -ENOMEM, "modules");
    for (size_t i = 0; i < modules->count; i++)
        (void)fprintf(lines, "/lib/modules/%s/%s\n", kernel->release, modules->paths[i]);
    bool failed = ferror(lines);
    if (fclose(lines) != 0 || failed)
        return bg_err_errno(err, -ENOMEM, "modules");
    /* The order of loading is in bellglass.load; that of the files is by path, so that each folder
     * comes once. */
    qsort(modules->paths, modules->count, sizeof *modules->paths, by_path);
    int r = bg_cpio_folder(&cpio, "dev", 0755);
    if (r == 0)
        r = bg_cpio_char_device(&cpio, "dev/console", 0600, 5, 1);
    for (size_t i = 0; r == 0 && i <= modules->count; i++) {
        const char *file = i < modules->count ? modules->paths[i] : "bellglass.load";
        BG_AUTOFREE char *bytes = NULL;
        BG_AUTOFREE char *path = NULL;
        size_t size;
        if (i < modules->count) {
            r = bg_read_file(modules_fd, file, MODULE_MAX, &bytes, &size, err);
            if (r < 0)
                return r;
        }
        if (asprintf(&path, "lib/modules/%s/%s", kernel->release, file) < 0)
            return bg_err_errno(err, -ENOMEM, "modules");
        r = add_folders(&cpio, path, before);
        if (r == 0)
            r = bg_cpio_file(&cpio, path, 0644, bytes ? bytes : load, bytes ? size : load_size);
        free(before);
        before = BG_TAKE(path);
    }
    if (r == 0)
        r = bg_cpio_end(&cpio);
    return r < 0 ? bg_err_errno(err, r, BG_IMAGE_MODULES) : 0;
}

static int write_modules(const struct kernel *kernel, int image_fd, struct bg_err *err)
{
    BG_AUTOFREE char *list_path = NULL;
    BG_AUTOFREE char *list = NULL;
    BG_AUTOFREE char *dep = NULL;
    BG_AUTOFREE char *builtin = NULL;
    size_t size;
    BG_AUTOCLOSE int modules_fd = open(kernel->modules, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (modules_fd < 0)
        return bg_err_errno(err, -errno, "%s", kernel->modules);
    int r = bg_data_path("modules.list", &list_path, err);
    if (r == 0)
        r = bg_read_file(AT_FDCWD, list_path, TEXT_MAX, &list, &size, err);
    if (r == 0)
        r = bg_read_file(modules_fd, "modules.dep", TEXT_MAX, &dep, &size, err);
    if (r == 0)
        r = bg_read_file(modules_fd, "modules.builtin", TEXT_MAX, &builtin, &size, err);
    if (r < 0)
        return r;
    struct modules modules;
    r = modules_resolve(list, dep, builtin, &modules, err);
    if (r < 0)
        return bg_err_prefix(err, "kernel %s", kernel->release);
    BG_AUTOCLOSE int out_fd =
        openat(image_fd, BG_IMAGE_MODULES, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (out_fd < 0)
        r = bg_err_errno(err, -errno, BG_IMAGE_MODULES);
    else
        r = pack(kernel, &modules, modules_fd, out_fd, err);
    modules_done(&modules);
    return r;
}

int kernel_install(const struct kernel *kernel, int image_fd, struct bg_err *err)
{
    BG_AUTOFREE char *bytes = NULL;
    size_t size;
    int r = bg_read_file(AT_FDCWD, kernel->vmlinuz, VMLINUZ_MAX, &bytes, &size, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int fd =
        openat(image_fd, BG_IMAGE_KERNEL, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    r = fd < 0 ? -errno : bg_write_full(fd, bytes, size);
    if (r < 0)
        return bg_err_errno(err, r, BG_IMAGE_KERNEL);
    return write_modules(kernel, image_fd, err);
}
