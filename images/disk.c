#include "images/disk.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <guestfs.h>

#include "common/io.h"

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
     * sandbox would write them anew into its own overlay. */
    if (guestfs_mke2fs(g, device, GUESTFS_MKE2FS_FSTYPE, "ext4", GUESTFS_MKE2FS_LABEL, DISK_LABEL,
                       GUESTFS_MKE2FS_JOURNALSIZE, (int64_t)JOURNAL_MIB,
                       GUESTFS_MKE2FS_BYTESPERINODE, BYTES_PER_INODE,
                       GUESTFS_MKE2FS_RESERVEDBLOCKSPERCENTAGE, 0, GUESTFS_MKE2FS_LAZYITABLEINIT, 0,
                       -1) < 0)
        return failed(g, "making the file system", err);
    return 0;
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
    if (r < 0)
        return r;
    if (guestfs_launch(g) < 0)
        return failed(g, "starting libguestfs", err);
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
