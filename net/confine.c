#include "net/confine.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int close_range_of(unsigned first, unsigned last)
{
    if (first > last)
        return 0;
    return syscall(SYS_close_range, first, last, 0) < 0 ? -errno : 0;
}

/* Closes all above 2 but the fds to keep. */
static int close_others(const int *keep, size_t count)
{
    unsigned from = 3;
    for (;;) {
        unsigned next = ~0U;
        for (size_t i = 0; i < count; i++)
            if (keep[i] >= 0 && (unsigned)keep[i] >= from && (unsigned)keep[i] < next)
                next = (unsigned)keep[i];
        int r = close_range_of(from, next == ~0U ? next : next - 1);
        if (r < 0 || next == ~0U)
            return r;
        from = next + 1;
    }
}

static int not_to_be_traced(void)
{
    return prctl(PR_SET_DUMPABLE, BG_SANITIZED, 0, 0, 0) < 0 ? -errno : 0;
}

int confine_start(const int *keep, size_t count, struct bg_err *err)
{
    struct rlimit no_core = {0, 0};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || setrlimit(RLIMIT_CORE, &no_core) < 0 ||
        not_to_be_traced() < 0)
        return bg_err_errno(err, -errno, "cannot give up rights");
    int r = close_others(keep, count);
    return r < 0 ? bg_err_errno(err, r, "cannot close inherited files") : 0;
}

static int drop_root(unsigned uid, unsigned gid, struct bg_err *err)
{
    if (geteuid() != 0)
        return 0;
    if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
        return bg_err_errno(err, -errno, "cannot become uid %u", uid);
    /* A change of ids makes the process traceable again, by all of that uid. */
    return not_to_be_traced() < 0 ? bg_err_errno(err, -errno, "cannot give up rights") : 0;
}

#define READ_RIGHTS (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)

static int add_folder(int rules, const char *path)
{
    BG_AUTOCLOSE int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0)
        return 0; /* this system has none */
    struct landlock_path_beneath_attr beneath = {.allowed_access = READ_RIGHTS, .parent_fd = fd};
    return syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) < 0
               ? -errno
               : 0;
}

/* Reading alone is left, below these: the resolver's configuration and modules (glibc loads some
 * only when a name is asked for), and the system's certificates. */
static int confine_files(bool *ret_landlock, struct bg_err *err)
{
    static const char *const folders[] = {
        "/etc",
        "/usr",
        "/lib",
        "/lib64",
        "/nix/store",
        "/run/systemd/resolve",
        "/run/resolvconf",
        "/run/NetworkManager",
        "/run/nscd",
    };
    *ret_landlock = false;
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1 || BG_SANITIZED)
        return 0;
    /* All rights of the first version; those of later versions are about files that could not be
     * opened anyway. */
    struct landlock_ruleset_attr attr = {.handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_SYM * 2 - 1};
    BG_AUTOCLOSE int rules =
        (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr.handled_access_fs, 0);
    if (rules < 0)
        return bg_err_errno(err, -errno, "Landlock");
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        int r = add_folder(rules, folders[i]);
        if (r < 0)
            return bg_err_errno(err, r, "Landlock: %s", folders[i]);
    }
    if (syscall(SYS_landlock_restrict_self, rules, 0) < 0)
        return bg_err_errno(err, -errno, "Landlock");
    *ret_landlock = true;
    return 0;
}

static int allow_plain(scmp_filter_ctx filter)
{
    static const int calls[] = {
        /* the loop */
        SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_create1),
        SCMP_SYS(eventfd2), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(clock_gettime),
        SCMP_SYS(clock_getres), SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(restart_syscall),
        /* sockets */
        SCMP_SYS(read), SCMP_SYS(readv), SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(recvfrom),
        SCMP_SYS(recvmsg), SCMP_SYS(recvmmsg), SCMP_SYS(sendto), SCMP_SYS(sendmsg),
        SCMP_SYS(sendmmsg), SCMP_SYS(accept4), SCMP_SYS(connect), SCMP_SYS(bind),
        SCMP_SYS(getsockopt), SCMP_SYS(setsockopt), SCMP_SYS(getsockname), SCMP_SYS(getpeername),
        SCMP_SYS(shutdown), SCMP_SYS(close), SCMP_SYS(fcntl),
        /* files that Landlock lets be read: resolver, its modules, certificates */
        SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(pread64), SCMP_SYS(fstat), SCMP_SYS(stat),
        SCMP_SYS(lstat), SCMP_SYS(newfstatat), SCMP_SYS(statx), SCMP_SYS(lseek), SCMP_SYS(access),
        SCMP_SYS(faccessat), SCMP_SYS(faccessat2), SCMP_SYS(readlink), SCMP_SYS(readlinkat),
        SCMP_SYS(getdents64), SCMP_SYS(getcwd), SCMP_SYS(uname), SCMP_SYS(sysinfo),
        /* memory */
        SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(mprotect), SCMP_SYS(madvise),
        SCMP_SYS(brk), SCMP_SYS(mlock), SCMP_SYS(munlock), SCMP_SYS(getrandom),
        /* the threads that resolve names */
        SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(set_tid_address),
        SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity), SCMP_SYS(prlimit64),
        SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
        SCMP_SYS(sigaltstack), SCMP_SYS(gettid), SCMP_SYS(getpid), SCMP_SYS(tgkill),
        SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid),
        /* the end */
        SCMP_SYS(exit), SCMP_SYS(exit_group)};
    int r = 0;
    for (size_t i = 0; i < sizeof calls / sizeof *calls && r == 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
    return r;
}

static int allow_by_argument(scmp_filter_ctx filter)
{
    int r = 0;
    /* Of sockets those of the Internet, and what the resolver uses. */
    static const unsigned families[] = {AF_INET, AF_INET6, AF_UNIX, AF_NETLINK};
    for (size_t i = 0; i < sizeof families / sizeof *families && r == 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                             SCMP_A0(SCMP_CMP_EQ, families[i]));
    static const unsigned long controls[] = {FIONBIO, FIONREAD, FIOCLEX, FIONCLEX};
    for (size_t i = 0; i < sizeof controls / sizeof *controls && r == 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                             SCMP_A1(SCMP_CMP_EQ, controls[i]));
    /* Threads, no processes. clone3 hides its flags from a filter; libc then takes clone. */
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
                             SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
    return r;
}

/* What is not on the list is answered with EPERM and not by death: resolver modules differ from
 * system to system, and a name that does not resolve is the better failure. */
static int confine_calls(struct bg_err *err)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (!filter)
        return bg_err_set(err, -ENOMEM, "seccomp");
    int r = allow_plain(filter);
    if (r == 0)
        r = allow_by_argument(filter);
    /* Programs, tracing, other processes' memory: whoever asks is not us any more. */
    static const int deadly[] = {SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(ptrace),
                                 SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev)};
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly && r == 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_KILL_PROCESS, deadly[i], 0);
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r < 0 ? bg_err_errno(err, r, "seccomp") : 0;
}

int confine_finish(unsigned uid, unsigned gid, bool *ret_landlock, struct bg_err *err)
{
    int r = drop_root(uid, gid, err);
    if (r == 0)
        r = confine_files(ret_landlock, err);
    if (r == 0 && !BG_SANITIZED)
        r = confine_calls(err);
    return r;
}
