#include "images/disk.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <guestfs.h>

#include "common/io.h"
#include "common/quote.h"

#define APPLIANCE_MIB   1024
#define APPLIANCE_CPUS  2
#define CPUINFO_MAX     (1024u * 1024u)
#define JOURNAL_MIB     32 /* mke2fs would take more of a large disk than our guests can use */
#define BYTES_PER_INODE 16384

bool disk_has_kvm(void)
{
    const char *wish = getenv("BELLGLASS_ACCEL");
    if (wish && strcmp(wish, "tcg") == 0)
        return false;
    if (wish && strcmp(wish, "kvm") == 0)
        return true;
    BG_AUTOFREE char *text = NULL;
    size_t size;
    if (bg_read_file(AT_FDCWD, "/proc/cpuinfo", CPUINFO_MAX, &text, &size, NULL) < 0)
        return false;
    const char *flags = strstr(text, "\nflags");
    size_t line = flags ? strcspn(flags + 1, "\n") + 1 : 0;
    if (!flags || (!memmem(flags, line, " vmx", 4) && !memmem(flags, line, " svm", 4)))
        return false;
    BG_AUTOCLOSE int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    return fd >= 0;
}

static void guestfs_cleanup(guestfs_h **g)
{
    if (*g)
        guestfs_close(*g);
}

#define AUTO_GUESTFS __attribute__((cleanup(guestfs_cleanup)))

/* Takes over libguestfs's text, which the next call would overwrite. */
static int failed(guestfs_h *g, const char *what, struct bg_err *err)
{
    const char *text = guestfs_last_error(g);
    int code = guestfs_last_errno(g) == ENOSPC ? -ENOSPC : -EREMOTEIO;
    return bg_err_set(err, code, "%s: %.400s", what, text ? text : "no reason given");
}

/* SIGTERM, from job.c or by the death of our parent, ends QEMU and whatever else libguestfs runs in
 * our process group, so that the call in progress fails and guestfs_close() removes libguestfs's
 * folders, which are in /tmp whatever we say. The handler's one bit is the only state it can have.
 */
static volatile sig_atomic_t ending;

static void end_group(int signal_number)
{
    if (ending)
        return; /* our own signal, to the group that we are in */
    ending = 1;
    (void)kill(0, signal_number);
}

static int end_in_order(struct bg_err *err)
{
    const struct sigaction action = {.sa_handler = end_group, .sa_flags = SA_RESTART};
    return sigaction(SIGTERM, &action, NULL) < 0 ? bg_err_errno(err, -errno, "signals") : 0;
}

static int launch(guestfs_h *g, struct bg_err *err)
{
    if (ending)
        return bg_err_set(err, -ECANCELED, "interrupted");
    return guestfs_launch(g) < 0 ? failed(g, "starting libguestfs", err) : 0;
}

static int set_environment(const struct disk_opts *opts, struct bg_err *err)
{
    if (mkdir(opts->appliance, 0700) < 0 && errno != EEXIST)
        return bg_err_errno(err, -errno, "%s", opts->appliance);
    if (setenv("SUPERMIN_KERNEL", opts->kernel->vmlinuz, 1) < 0 ||
        setenv("SUPERMIN_MODULES", opts->kernel->modules, 1) < 0 ||
        setenv("TMPDIR", opts->tmp, 1) < 0)
        return bg_err_errno(err, -errno, "environment");
    /* They would change what the appliance is, or fill the log with traces. */
    (void)unsetenv("LIBGUESTFS_PATH");
    (void)unsetenv("LIBGUESTFS_TRACE");
    return 0;
}

static int open_appliance(const struct disk_opts *opts, guestfs_h **ret, struct bg_err *err)
{
    int r = set_environment(opts, err);
    if (r == 0)
        r = end_in_order(err);
    if (r < 0)
        return r;
    AUTO_GUESTFS guestfs_h *g = guestfs_create();
    if (!g)
        return bg_err_errno(err, -errno, "libguestfs");
    char force_tcg[] = "force_tcg";
    char *const tcg[] = {force_tcg, NULL}, *const none[] = {NULL};
    guestfs_set_error_handler(g, NULL, NULL); /* the text goes into err instead */
    if (guestfs_set_backend(g, "direct") < 0 ||
        guestfs_set_backend_settings(g, disk_has_kvm() ? none : tcg) < 0 ||
        guestfs_set_memsize(g, APPLIANCE_MIB) < 0 || guestfs_set_smp(g, APPLIANCE_CPUS) < 0 ||
        guestfs_set_cachedir(g, opts->appliance) < 0 || guestfs_set_tmpdir(g, opts->tmp) < 0)
        return failed(g, "libguestfs", err);
    *ret = BG_TAKE(g);
    return 0;
}

/* Makes the qcow2 and adds it as the next drive. It need not survive a crash of the host: an
 * unfinished one is thrown away, and a finished one is synced by the store. */
static int add_out(guestfs_h *g, const struct disk_opts *opts, struct bg_err *err)
{
    if (guestfs_disk_create(g, opts->out, "qcow2", (int64_t)opts->virtual_bytes, -1) < 0 ||
        guestfs_add_drive_opts(g, opts->out, GUESTFS_ADD_DRIVE_OPTS_FORMAT, "qcow2",
                               GUESTFS_ADD_DRIVE_OPTS_CACHEMODE, "unsafe", -1) < 0)
        return failed(g, "disk", err);
    return 0;
}

static int make_file_system(guestfs_h *g, const char *device, struct bg_err *err)
{
    /* The inode tables are cleared here and not by the guest's kernel in the background, where each
     * sandbox would write them anew into its own overlay. Options by name and not by the variadic
     * call, which cannot tell an int from an int64_t. */
    const struct guestfs_mke2fs_argv options = {
        .bitmask = GUESTFS_MKE2FS_FSTYPE_BITMASK | GUESTFS_MKE2FS_LABEL_BITMASK |
                   GUESTFS_MKE2FS_JOURNALSIZE_BITMASK | GUESTFS_MKE2FS_BYTESPERINODE_BITMASK |
                   GUESTFS_MKE2FS_RESERVEDBLOCKSPERCENTAGE_BITMASK |
                   GUESTFS_MKE2FS_LAZYITABLEINIT_BITMASK,
        .fstype = "ext4",
        .label = DISK_LABEL,
        .journalsize = JOURNAL_MIB,
        .bytesperinode = BYTES_PER_INODE,
        .reservedblockspercentage = 0,
        .lazyitableinit = 0,
    };
    return guestfs_mke2fs_argv(g, device, &options) < 0 ? failed(g, "making the file system", err)
                                                        : 0;
}

/* What every root needs for the agent to mount over. */
static int make_mount_points(guestfs_h *g, const char *root, struct bg_err *err)
{
    static const char *const folders[] = {"dev", "proc", "sys", "run", "tmp"};
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        char path[64];
        (void)snprintf(path, sizeof path, "%s/%s", root, folders[i]);
        if (guestfs_mkdir_p(g, path) < 0)
            return failed(g, path, err);
    }
    return 0;
}

static int finish(guestfs_h *g, struct bg_err *err)
{
    if (guestfs_umount_all(g) < 0 || guestfs_shutdown(g) < 0)
        return failed(g, "finishing the disk", err);
    return 0;
}

int disk_from_tar(const struct disk_opts *opts, const char *tar, struct bg_err *err)
{
    AUTO_GUESTFS guestfs_h *g = NULL;
    int r = open_appliance(opts, &g, err);
    if (r == 0)
        r = add_out(g, opts, err);
    if (r == 0)
        r = launch(g, err);
    if (r < 0)
        return r;
    r = make_file_system(g, "/dev/sda", err);
    if (r < 0)
        return r;
    if (guestfs_mount_options(g, "noatime", "/dev/sda", "/") < 0)
        return failed(g, "mounting the new file system", err);
    if (guestfs_tar_in_opts(g, tar, "/", GUESTFS_TAR_IN_OPTS_XATTRS, 1, -1) < 0)
        return failed(g, "unpacking the root", err);
    r = make_mount_points(g, "", err);
    return r < 0 ? r : finish(g, err);
}

static void free_list(char ***list)
{
    for (size_t i = 0; *list && (*list)[i]; i++)
        free((*list)[i]);
    free(*list);
}

#define AUTO_LIST __attribute__((cleanup(free_list)))

static size_t count_list(char *const *list)
{
    size_t count = 0;
    while (list[count])
        count++;
    return count;
}

/* The only file system on the disk that could hold a root: for roots that are too small for
 * libguestfs to know them. list: device and type by turns. */
static const char *only_file_system(char *const *list)
{
    const char *found = NULL;
    for (size_t i = 0; list[i] && list[i + 1]; i += 2) {
        if (strcmp(list[i], "/dev/sdb") == 0 || strcmp(list[i + 1], "swap") == 0 ||
            strcmp(list[i + 1], "unknown") == 0)
            continue;
        if (found)
            return NULL;
        found = list[i];
    }
    return found;
}

/* Mounts the old root read-only on /old, with the folders that are on other partitions. /boot stays
 * out: the guest starts with our kernel. */
static int mount_known(guestfs_h *g, const char *root, struct bg_err *err)
{
    AUTO_LIST char **points = guestfs_inspect_get_mountpoints(g, root);
    if (!points)
        return failed(g, "looking for mount points", err);
    /* Shorter paths first, so that "/" comes before "/usr". */
    for (size_t size = 1; size < 256; size++)
        for (size_t i = 0; points[i] && points[i + 1]; i += 2) {
            const char *point = points[i];
            if (strlen(point) != size || strncmp(point, "/boot", 5) == 0)
                continue;
            char path[512];
            (void)snprintf(path, sizeof path, "/old%s", strcmp(point, "/") == 0 ? "" : point);
            if (guestfs_mount_ro(g, points[i + 1], path) < 0)
                return failed(g, "mounting the old root", err);
        }
    return 0;
}

/* Finds the root on /dev/sda and mounts it on /old. */
static int mount_old(guestfs_h *g, struct disk_facts *facts, struct bg_err *err)
{
    AUTO_LIST char **roots = guestfs_inspect_os(g);
    if (!roots)
        return failed(g, "looking for a system", err);
    size_t count = count_list(roots);
    if (count > 1)
        return bg_err_set(err, -EUCLEAN, "%zu systems are on it; give a disk with one", count);
    if (count == 1) {
        BG_AUTOFREE char *type = guestfs_inspect_get_type(g, roots[0]);
        if (!type || strcmp(type, "linux") != 0)
            return bg_err_set(err, -EUCLEAN, "the system on it is not Linux");
        BG_AUTOFREE char *os = guestfs_inspect_get_product_name(g, roots[0]);
        if (os)
            bg_escape(os, strnlen(os, 256), facts->os, sizeof facts->os);
        return mount_known(g, roots[0], err);
    }
    AUTO_LIST char **list = guestfs_list_filesystems(g);
    if (!list)
        return failed(g, "looking for file systems", err);
    const char *device = only_file_system(list);
    if (!device)
        return bg_err_set(err, -EUCLEAN, "no Linux root is on it");
    if (guestfs_mount_ro(g, device, "/old") < 0)
        return failed(g, "mounting the old root", err);
    if (guestfs_is_dir(g, "/old/etc") != 1)
        return bg_err_set(err, -EUCLEAN, "no Linux root is on it: it has no /etc");
    return 0;
}

/* Finds a user by name, or by uid 1000 if name is NULL, in the text of a hostile /etc/passwd. */
static bool find_user(const char *passwd, const char *name, char *ret_name, size_t ret_size)
{
    static const char characters[] = "abcdefghijklmnopqrstuvwxyz0123456789_-";
    for (const char *line = passwd; line && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        size_t size = strcspn(line, ":\n");
        if (size == 0 || size >= ret_size || strspn(line, characters) != size || line[size] != ':')
            continue;
        const char *uid = strchr(line + size + 1, ':');
        if (!uid)
            return false;
        bool wanted = name ? strlen(name) == size && strncmp(line, name, size) == 0
                           : strncmp(uid, ":1000:", 6) == 0;
        if (!wanted)
            continue;
        memcpy(ret_name, line, size);
        ret_name[size] = '\0';
        return true;
    }
    return false;
}

static int choose_user(guestfs_h *g, const char *wish, struct disk_facts *facts, struct bg_err *err)
{
    size_t size;
    BG_AUTOFREE char *passwd = guestfs_read_file(g, "/old/etc/passwd", &size); /* ends in NUL */
    const char *text = passwd ? passwd : "";
    if (wish && strcmp(wish, "root") != 0) {
        if (!find_user(text, wish, facts->user, sizeof facts->user))
            return bg_err_set(err, -ENOENT, "no user '%s' in its /etc/passwd", wish);
        return 0;
    }
    if (!wish && (find_user(text, "app", facts->user, sizeof facts->user) ||
                  find_user(text, NULL, facts->user, sizeof facts->user)))
        return 0;
    (void)snprintf(facts->user, sizeof facts->user, "root");
    return 0;
}

static bool is_run_time_only(const char *name)
{
    static const char *const names[] = {"dev", "proc", "sys", "run", "tmp", "lost+found"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static int copy_root(guestfs_h *g, struct bg_err *err)
{
    AUTO_LIST char **names = guestfs_ls(g, "/old");
    if (!names)
        return failed(g, "listing the old root", err);
    for (size_t i = 0; names[i]; i++) {
        if (is_run_time_only(names[i]))
            continue;
        BG_AUTOFREE char *from = NULL;
        BG_AUTOFREE char *to = NULL;
        if (asprintf(&from, "/old/%s", names[i]) < 0 || asprintf(&to, "/new/%s", names[i]) < 0)
            return bg_err_errno(err, -ENOMEM, "disk");
        if (guestfs_cp_a(g, from, to) < 0)
            return failed(g, "copying the root", err);
    }
    int r = make_mount_points(g, "/new", err);
    if (r == 0 && guestfs_chmod(g, 01777, "/new/tmp") < 0)
        r = failed(g, "/tmp", err);
    return r;
}

int disk_from_qcow2(const struct disk_opts *opts, const char *in, const char *user,
                    struct disk_facts *ret, struct bg_err *err)
{
    AUTO_GUESTFS guestfs_h *g = NULL;
    struct disk_facts facts = {0};
    int r = open_appliance(opts, &g, err);
    if (r == 0 && guestfs_add_drive_opts(g, in, GUESTFS_ADD_DRIVE_OPTS_FORMAT, "qcow2",
                                         GUESTFS_ADD_DRIVE_OPTS_READONLY, 1, -1) < 0)
        r = failed(g, in, err);
    if (r == 0)
        r = add_out(g, opts, err);
    if (r == 0)
        r = launch(g, err);
    if (r < 0)
        return r;
    if (guestfs_mkmountpoint(g, "/old") < 0 || guestfs_mkmountpoint(g, "/new") < 0)
        return failed(g, "libguestfs", err);
    r = mount_old(g, &facts, err);
    if (r == 0)
        r = choose_user(g, user, &facts, err);
    if (r == 0)
        r = make_file_system(g, "/dev/sdb", err);
    if (r < 0)
        return r;
    if (guestfs_mount_options(g, "noatime", "/dev/sdb", "/new") < 0)
        return failed(g, "mounting the new file system", err);
    r = copy_root(g, err);
    if (r == 0)
        r = finish(g, err);
    if (r == 0)
        *ret = facts;
    return r;
}
