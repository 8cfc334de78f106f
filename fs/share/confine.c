#include "fs/share/confine.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/openat2.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"
#include "common/limits.h"

#define FILES_MAX 65536u

/* Rights of later versions than the header that is built with. */
#define ACCESS_REFER    (1ull << 13) /* ABI 2 */
#define ACCESS_TRUNCATE (1ull << 14) /* ABI 3 */
#define ACCESS_IOCTL    (1ull << 15) /* ABI 5 */

/* ---- namespaces ---- */

static int write_text(const char *path, const char *text)
{
    BG_AUTOCLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? -errno : bg_write_full(fd, text, strlen(text));
}

/* Our own ids and no others. */
static int map_ids(uid_t uid, gid_t gid)
{
    char text[64];
    int r = write_text("/proc/self/setgroups", "deny");
    (void)snprintf(text, sizeof text, "%u %u 1\n", uid, uid);
    if (r == 0)
        r = write_text("/proc/self/uid_map", text);
    (void)snprintf(text, sizeof text, "%u %u 1\n", gid, gid);
    if (r == 0)
        r = write_text("/proc/self/gid_map", text);
    return r;
}

static int new_namespaces(void)
{
    const int kinds = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    uid_t uid = geteuid();
    gid_t gid = getegid();
    if (uid == 0)
        return unshare(kinds) < 0 ? -errno : 0;
    if (unshare(kinds | CLONE_NEWUSER) < 0)
        return -errno;
    return map_ids(uid, gid);
}

/* A copy of a mount, attached nowhere, with these attributes. */
static int copy_mount(const char *path, unsigned recursive, uint64_t attributes)
{
    struct mount_attr attr = {.attr_set = attributes};
    BG_AUTOCLOSE int fd =
        open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive);
    if (fd < 0)
        return -errno;
    if (mount_setattr(fd, "", AT_EMPTY_PATH | recursive, &attr, sizeof attr) < 0)
        return -errno;
    return bg_take_fd(&fd);
}

/* Puts the copies into an empty file system and makes that our root: from here on nothing can fail
 * without ending us. */
static int change_root(const char *folder, int files, int fds, struct bg_err *err)
{
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (mount("bellglass-share", folder, "tmpfs", flags, "size=64k,mode=0755") < 0)
        return bg_err_errno(err, -errno, "%s: mounting over it", folder);
    BG_AUTOCLOSE int top = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (top < 0 || mkdirat(top, CONFINE_NAME, 0755) < 0 || mkdirat(top, "proc", 0755) < 0 ||
        mkdirat(top, "proc/self", 0755) < 0 || mkdirat(top, "proc/self/fd", 0755) < 0 ||
        move_mount(files, "", top, CONFINE_NAME, MOVE_MOUNT_F_EMPTY_PATH) < 0 ||
        move_mount(fds, "", top, "proc/self/fd", MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return bg_err_errno(err, -errno, "a root of its own");
    /* The old root is put on top of the new one and taken away from there. */
    if (fchdir(top) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 ||
        chdir("/") < 0)
        return bg_err_errno(err, -errno, "a root of its own");
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, NULL) < 0)
        return bg_err_errno(err, -errno, "a root of its own");
    return 0;
}

static int enter_namespaces(void)
{
    int r = new_namespaces();
    return r == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ? -errno : r;
}

/* Tried by a child: some machines give out a user namespace in which nothing may be done, and there
 * is no way back from that, not even to our own uid. */
static bool namespaces_work(void)
{
    int status = 1;
    pid_t pid = fork();
    if (pid == 0)
        _exit(enter_namespaces() < 0);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status == 0;
}

static int hide_everything(const char *folder, bool read_only, bool *ret_inside, struct bg_err *err)
{
    const uint64_t plain = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    if (!namespaces_work())
        return 0;
    int r = enter_namespaces();
    if (r < 0)
        return bg_err_errno(err, r, "namespaces");
    BG_AUTOCLOSE int files =
        copy_mount(folder, AT_RECURSIVE, plain | (read_only ? MOUNT_ATTR_RDONLY : 0));
    BG_AUTOCLOSE int fds = files < 0 ? -1 : copy_mount("/proc/self/fd", 0, plain);
    if (files < 0 || fds < 0)
        return 0; /* nothing was changed yet */
    *ret_inside = true;
    return change_root(folder, files, fds, err);
}

/* ---- root ---- */

/* Root's folder is served as root's uid without any of its powers. */
static int drop_capabilities(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return -errno;
    return syscall(SYS_capset, &head, none) < 0 ? -errno : 0;
}

static int drop_root(const struct stat *folder)
{
    if (geteuid() == 0) {
        uid_t uid = folder->st_uid;
        gid_t gid = folder->st_gid;
        if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
            return -errno;
    }
    return drop_capabilities();
}

int confine_enter(const char *folder, bool read_only, bool *ret_inside, struct bg_err *err)
{
    struct stat st;
    bool inside = false;
    if (stat(folder, &st) < 0)
        return bg_err_errno(err, -errno, "%s", folder);
    int r = hide_everything(folder, read_only, &inside, err);
    if (r < 0)
        return r;
    r = drop_root(&st);
    if (r < 0)
        return bg_err_errno(err, r, "share: giving up root's rights");
    *ret_inside = inside;
    return 0;
}

/* ---- limits ---- */

static int limit(int resource, rlim_t max)
{
    struct rlimit have, want = {.rlim_cur = max, .rlim_max = max};
    if (getrlimit((__rlimit_resource_t)resource, &have) == 0 && have.rlim_max < max)
        return 0; /* less already */
    return setrlimit((__rlimit_resource_t)resource, &want) < 0 ? -errno : 0;
}

static int set_limits(void)
{
    int r = limit(RLIMIT_CORE, 0);
    if (r == 0)
        r = limit(RLIMIT_NOFILE, FILES_MAX);
    if (r == 0)
        r = limit(RLIMIT_FSIZE, BG_SHARE_FILE_MAX);
#if !BG_SANITIZED /* a sanitizer maps terabytes of shadow */
    if (r == 0)
        r = limit(RLIMIT_AS, BG_SHARE_MEMORY_MAX);
#endif
    (void)signal(SIGXFSZ, SIG_IGN); /* the write fails with EFBIG */
    return r;
}

/* ---- Landlock ---- */

static int allow_folder(int ruleset, const char *root, uint64_t rights)
{
    BG_AUTOCLOSE int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct landlock_path_beneath_attr beneath = {.allowed_access = rights, .parent_fd = fd};
    if (fd < 0 ||
        syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) < 0)
        return -errno;
    return 0;
}

/* *ret_done: false where the kernel has no Landlock. */
static int restrict_files(const char *root, bool read_only, bool *ret_done)
{
    const uint64_t read = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
    uint64_t write = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |
                     LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR |
                     LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SYM;
    uint64_t never = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR |
                     LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |
                     LANDLOCK_ACCESS_FS_MAKE_BLOCK;
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1)
        return 0;
    write |= (abi >= 2 ? ACCESS_REFER : 0) | (abi >= 3 ? ACCESS_TRUNCATE : 0);
    never |= abi >= 5 ? ACCESS_IOCTL : 0;
    struct landlock_ruleset_attr attr = {.handled_access_fs = read | write | never};
    BG_AUTOCLOSE int fd =
        (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr.handled_access_fs, 0);
    if (fd < 0)
        return -errno;
    int r = allow_folder(fd, root, read | (read_only ? 0 : write));
    if (r == 0 && syscall(SYS_landlock_restrict_self, fd, 0) < 0)
        r = -errno;
    *ret_done = r == 0;
    return r;
}

/* ---- system calls ---- */

#if !BG_SANITIZED
static int add_conditions(scmp_filter_ctx filter)
{
    /* Memory, but none that can be run; threads, but no processes; a umask of each thread's own. */
    int r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
    if (r == 0) /* libc asks it first; its flags cannot be looked at */
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    if (r == 0) /* the buffer of its stream */
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(setsockopt), 2,
                             SCMP_A1(SCMP_CMP_EQ, SOL_SOCKET), SCMP_A2(SCMP_CMP_EQ, SO_SNDBUF));
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(setsockopt), 1,
                             SCMP_A2(SCMP_CMP_EQ, SO_SNDBUFFORCE));
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(unshare), 1,
                             SCMP_A0(SCMP_CMP_EQ, CLONE_FS));
    return r;
}

static int filter_calls(void)
{
    static const int allowed[] = {
        /* the stream */
        SCMP_SYS(read), SCMP_SYS(readv), SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(shutdown),
        /* finding files */
        SCMP_SYS(openat2), SCMP_SYS(openat), SCMP_SYS(open), SCMP_SYS(close), SCMP_SYS(statx),
        SCMP_SYS(newfstatat), SCMP_SYS(fstat), SCMP_SYS(fstatfs), SCMP_SYS(statfs),
        SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(getdents64), SCMP_SYS(faccessat2),
        /* making and removing them */
        SCMP_SYS(mkdirat), SCMP_SYS(mknodat), SCMP_SYS(symlinkat), SCMP_SYS(linkat),
        SCMP_SYS(unlinkat), SCMP_SYS(renameat2), SCMP_SYS(renameat),
        /* what is in them; owners are never changed */
        SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(lseek), SCMP_SYS(fsync),
        SCMP_SYS(fdatasync), SCMP_SYS(ftruncate), SCMP_SYS(truncate), SCMP_SYS(fallocate),
        SCMP_SYS(copy_file_range), SCMP_SYS(fchmodat), SCMP_SYS(utimensat), SCMP_SYS(getxattr),
        SCMP_SYS(setxattr), SCMP_SYS(listxattr), SCMP_SYS(removexattr), SCMP_SYS(fcntl),
        SCMP_SYS(flock),
        /* threads and memory */
        SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(munmap),
        SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(umask), SCMP_SYS(sched_yield),
        SCMP_SYS(sched_getaffinity), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
        SCMP_SYS(rt_sigreturn), SCMP_SYS(tgkill), SCMP_SYS(gettid), SCMP_SYS(getpid),
        SCMP_SYS(geteuid), SCMP_SYS(getegid), SCMP_SYS(prlimit64), SCMP_SYS(getrandom),
        SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep), SCMP_SYS(restart_syscall),
        SCMP_SYS(exit), SCMP_SYS(exit_group)};
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!filter)
        return -ENOMEM;
    int r = 0;
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed && r == 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
    if (r == 0)
        r = add_conditions(filter);
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r;
}
#endif

static int check_openat2(void)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_BENEATH};
    BG_AUTOCLOSE int fd = (int)syscall(SYS_openat2, AT_FDCWD, ".", &how, sizeof how);
    return fd < 0 ? -errno : 0;
}

int confine_lock(const char *root, bool read_only, bool inside, struct bg_err *err)
{
    bool landlock = false;
    if (check_openat2() == -ENOSYS)
        return bg_err_set(err, -EOPNOTSUPP,
                          "this kernel has no openat2 (Linux 5.6), without which folders are not "
                          "shared");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return bg_err_errno(err, -errno, "share: prctl");
    int r = set_limits();
    if (r == 0)
        r = restrict_files(root, read_only, &landlock);
    if (r == 0 && !landlock && !inside)
        return bg_err_set(err, -EOPNOTSUPP,
                          "this kernel has neither Landlock (Linux 5.13) nor user namespaces for "
                          "us; folders are shared only with one of them");
#if !BG_SANITIZED /* whose run time makes other calls */
    if (r == 0)
        r = filter_calls();
#endif
    return r < 0 ? bg_err_errno(err, r, "share: confining itself") : 0;
}
