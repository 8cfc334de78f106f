#include "guest/boot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "common/io.h"
#include "common/limits.h"
#include "guest/interface.h"
#include "guest/resolver.h"

#define DISK     "/dev/vda"
#define NEW_ROOT "/newroot"

/* The disk is there as soon as its driver is; this is for one that is slow. */
#define DISK_WAIT_MS 10000

#define MODULE_LIST_MAX (64 * 1024)

/* Each exec and copy takes up to eight fds of the agent's. */
#define AGENT_FILES 65536

struct mount_point {
    const char *source, *target, *type;
    unsigned long flags;
    const char *options;
};

static int do_mount(const struct mount_point *m, struct bg_err *err)
{
    if (mkdir(m->target, 0755) < 0 && errno != EEXIST)
        return bg_err_errno(err, -errno, "%s", m->target);
    /* EBUSY: the kernel has mounted devtmpfs by itself. */
    if (mount(m->source, m->target, m->type, m->flags, m->options) < 0 && errno != EBUSY)
        return bg_err_errno(err, -errno, "mounting %s", m->target);
    return 0;
}

void boot_console(void)
{
    const struct mount_point dev = {"dev", "/dev", "devtmpfs", MS_NOSUID, "mode=0755"};
    int r = do_mount(&dev, NULL);
    (void)r; /* without it the open below fails, and there is no place to say so */
    int fd = open("/dev/console", O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        fd = open("/dev/null", O_RDWR);
    for (int i = 0; fd >= 0 && i < 3; i++)
        if (fd != i)
            (void)dup2(fd, i); /* cannot fail with these */
    if (fd > 2)
        (void)close(fd); /* there are copies */
}

/* ---- modules ---- */

static int load_module(const char *folder, const char *line)
{
    char path[BG_PATH_MAX];
    int size = line[0] == '/' ? snprintf(path, sizeof path, "%s", line)
                              : snprintf(path, sizeof path, "%s/%s", folder, line);
    if ((size_t)size >= sizeof path)
        return -ENAMETOOLONG;
    BG_AUTOCLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
        return -errno;
    return 0;
}

/* Loads what bellglass.load names, in its order. A module that fails is logged: what needs it will
 * say so itself. */
static void load_modules(const struct bg_log *log)
{
    struct utsname kernel;
    (void)uname(&kernel); /* cannot fail */
    char folder[sizeof kernel.release + 32], path[sizeof folder + 32];
    (void)snprintf(folder, sizeof folder, "/lib/modules/%s", kernel.release);
    (void)snprintf(path, sizeof path, "%s/bellglass.load", folder);
    BG_AUTOFREE char *list = NULL;
    struct bg_err err = {0};
    if (bg_read_file(AT_FDCWD, path, MODULE_LIST_MAX, &list, NULL, &err) < 0) {
        bg_log(log, BG_LOG_ERROR, "kernel modules: %s", err.text);
        return;
    }
    char *rest = list;
    for (int count = 0; rest && count < BG_AGENT_MODULES_MAX; count++) {
        char *line = strsep(&rest, "\n");
        if (line[0] == '\0')
            continue;
        int r = load_module(folder, line);
        if (r < 0)
            bg_log(log, BG_LOG_ERROR, "kernel module %s: %s", line, strerror(-r));
    }
}

/* ---- root ---- */

/* Waits for the disk's node by watching /dev. */
static int wait_for_disk(struct bg_err *err)
{
    BG_AUTOCLOSE int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (watch < 0 || inotify_add_watch(watch, "/dev", IN_CREATE) < 0)
        return bg_err_errno(err, -errno, "watching /dev");
    uint64_t deadline_ms = bg_now_ms() + DISK_WAIT_MS;
    while (access(DISK, F_OK) < 0) {
        uint64_t now_ms = bg_now_ms();
        struct pollfd event = {.fd = watch, .events = POLLIN};
        if (now_ms >= deadline_ms || poll(&event, 1, (int)(deadline_ms - now_ms)) == 0)
            return bg_err_set(err, -ENODEV, "no disk %s (is virtio_blk among the modules?)", DISK);
        char events[4096];
        ssize_t n = read(watch, events, sizeof events);
        (void)n; /* what it was does not matter: we look again */
    }
    return 0;
}

/* Frees the initramfs' memory: everything on the file system of fd, which is taken. */
static void remove_tree(int fd, dev_t device)
{
    DIR *folder = fdopendir(fd);
    if (!folder) {
        (void)close(fd); /* a folder */
        return;
    }
    for (const struct dirent *d; (d = readdir(folder));) {
        struct stat st;
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0 ||
            fstatat(fd, d->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_dev != device)
            continue;
        if (S_ISDIR(st.st_mode)) {
            int below = openat(fd, d->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (below >= 0)
                remove_tree(below, device);
        }
        /* What cannot be removed stays: it is only memory. */
        (void)unlinkat(fd, d->d_name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
    }
    (void)closedir(folder); /* only read from */
}

static int switch_root(struct bg_err *err)
{
    static const char *const moved[] = {"/dev", "/proc", "/sys"};
    for (size_t i = 0; i < sizeof moved / sizeof *moved; i++) {
        char target[64];
        (void)snprintf(target, sizeof target, NEW_ROOT "%s", moved[i]);
        if ((mkdir(target, 0755) < 0 && errno != EEXIST) ||
            mount(moved[i], target, NULL, MS_MOVE, NULL) < 0)
            return bg_err_errno(err, -errno, "moving %s to the disk", moved[i]);
    }
    struct stat st;
    int old_root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (chdir(NEW_ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
        chdir("/") < 0) {
        int code = -errno;
        bg_cleanup_close(&old_root);
        return bg_err_errno(err, code, "switching to the disk");
    }
    /* Our own file goes too: the running program keeps its pages. */
    if (old_root >= 0 && fstat(old_root, &st) == 0)
        remove_tree(old_root, st.st_dev);
    return 0;
}

static int mount_root(const struct bg_log *log, struct bg_err *err)
{
    static const struct mount_point early[] = {
        {"proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
        {"sys", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
        {"dev", "/dev", "devtmpfs", MS_NOSUID, "mode=0755"},
    };
    for (size_t i = 0; i < sizeof early / sizeof *early; i++) {
        int r = do_mount(&early[i], err);
        if (r < 0)
            return r;
    }
    load_modules(log);
    int r = wait_for_disk(err);
    if (r < 0)
        return r;
    /* No background writing of empty inode tables: it would be in every fork's overlay. */
    const struct mount_point root = {DISK, NEW_ROOT, "ext4", 0, "noinit_itable"};
    r = do_mount(&root, err);
    return r < 0 ? r : switch_root(err);
}

/* ---- the rest ---- */

static void mount_late(const struct bg_log *log)
{
    const unsigned long plain = MS_NOSUID | MS_NODEV;
    const struct mount_point late[] = {
        {"devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
        {"shm", "/dev/shm", "tmpfs", plain, "mode=1777"},
        {"run", "/run", "tmpfs", plain, "mode=0755,size=10%"},
        {"cgroup2", "/sys/fs/cgroup", "cgroup2", plain | MS_NOEXEC, NULL},
    };
    struct bg_err err = {0};
    for (size_t i = 0; i < sizeof late / sizeof *late; i++)
        if (do_mount(&late[i], &err) < 0)
            bg_log(log, BG_LOG_ERROR, "%s", err.text);
}

static void make_links(const struct bg_log *log)
{
    static const char *const links[][2] = {
        {"/proc/self/fd", "/dev/fd"},
        {"/proc/self/fd/0", "/dev/stdin"},
        {"/proc/self/fd/1", "/dev/stdout"},
        {"/proc/self/fd/2", "/dev/stderr"},
    };
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
            bg_log(log, BG_LOG_WARN, "%s: %s", links[i][1], strerror(errno));
    static const char *const folders[] = {"/tmp", "/run/lock", "/var/tmp"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if ((mkdir(folders[i], 0755) < 0 && errno != EEXIST) || chmod(folders[i], 01777) < 0)
            bg_log(log, BG_LOG_WARN, "%s: %s", folders[i], strerror(errno));
    if (chmod("/dev/fuse", 0666) < 0 && errno != ENOENT)
        bg_log(log, BG_LOG_WARN, "/dev/fuse: %s", strerror(errno));
}

/* Replaces a file of the image by ours; a symlink there (to a daemon's file) goes. */
static void put_file(const struct bg_log *log, const char *path, const char *text)
{
    BG_AUTOFREE char *old = NULL;
    if (bg_read_file(AT_FDCWD, path, 4096, &old, NULL, NULL) == 0 && strcmp(old, text) == 0)
        return;
    struct bg_err err = {0};
    if (bg_write_file(AT_FDCWD, path, text, strlen(text), 0644, &err) < 0)
        bg_log(log, BG_LOG_WARN, "%s", err.text);
}

static void put_files(const struct bg_log *log)
{
    put_file(log, "/etc/resolv.conf", "nameserver " RESOLVER_ADDRESS "\noptions edns0\n");
    if (access("/etc/hosts", F_OK) < 0)
        put_file(log, "/etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost\n");
}

static void protect_ourselves(const struct bg_log *log)
{
    struct rlimit files = {.rlim_cur = AGENT_FILES, .rlim_max = AGENT_FILES * 8};
    if (setrlimit(RLIMIT_NOFILE, &files) < 0)
        bg_log(log, BG_LOG_WARN, "open files: %s", strerror(errno));
    BG_AUTOCLOSE int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "-1000", 5) != 5)
        bg_log(log, BG_LOG_WARN, "exemption from the OOM killer: %s", strerror(errno));
}

/* Pages that a processor keeps for itself count as used, and a snapshot has them. By default they
 * are as many as the kernel wants free: 54 MiB of 1 GiB. The allocator's lock, which they are there
 * to spare, is taken for dozens of pages at once all the same. */
static void keep_few_pages(const struct bg_log *log)
{
    static const char path[] = "/proc/sys/vm/percpu_pagelist_high_fraction";
    static const char text[] = "1000"; /* a thousandth of the RAM */
    BG_AUTOCLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, sizeof text - 1) < 0) /* before Linux 5.14 it has another name */
        bg_log(log, BG_LOG_INFO, "%s: %s", path, strerror(errno));
}

int boot(const struct bg_log *log, struct bg_err *err)
{
    (void)umask(022);
    int r = mount_root(log, err);
    if (r < 0)
        return r;
    mount_late(log);
    make_links(log);
    put_files(log);
    protect_ourselves(log);
    keep_few_pages(log);
    static const char name[] = "bellglass"; /* until the identity has one */
    if (sethostname(name, sizeof name - 1) < 0)
        bg_log(log, BG_LOG_WARN, "hostname: %s", strerror(errno));
    struct bg_err why = {0};
    if (interface_loopback_up(&why) < 0)
        bg_log(log, BG_LOG_ERROR, "%s", why.text);
    return 0;
}
