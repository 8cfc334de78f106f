#include "fs/relay/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/cleanup.h"

#define NOBODY     65534
#define FDS_MAX    32
#define MEMORY_MAX (1024ull * 1024 * 1024) /* a million nodes are about 300 MiB */

/* Whether root is somebody else outside of our user namespace. */
static bool root_is_a_user(void)
{
    char text[64]; /* FIRST-INSIDE FIRST-OUTSIDE COUNT; all there are in the first namespace */
    BG_AUTOCLOSE int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n <= 0)
        return false;
    text[n] = '\0';
    text[strcspn(text, "\n")] = '\0';
    const char *count = strrchr(text, ' ');
    return count && strtoull(count, NULL, 10) < UINT32_MAX;
}

/* Who is root only in a namespace of its own may have nobody else in it to become, but can give up
 * what it may do there. */
static int drop_capabilities(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct none[2] = {{0}};
    return syscall(SYS_capset, &head, none) < 0 ? -errno : 0;
}

int fs_sandbox_leave(struct bg_err *err)
{
    /* A user's process may have these only inside a user namespace; some machines forbid that. */
    if (unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
        (void)unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS);
    if (geteuid() != 0 || getuid() != 0)
        return 0;
    if (setgroups(0, NULL) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0 &&
        setresuid(NOBODY, NOBODY, NOBODY) == 0)
        return 0;
    int r = -errno;
    if (root_is_a_user())
        r = drop_capabilities();
    return r < 0 ? bg_err_errno(err, r, "mount: becoming nobody") : 0;
}

static int limit(int resource, rlim_t max)
{
    struct rlimit limit = {.rlim_cur = max, .rlim_max = max};
    return setrlimit((__rlimit_resource_t)resource, &limit) < 0 ? -errno : 0;
}

static int set_limits(void)
{
    int r = limit(RLIMIT_CORE, 0);
    if (r == 0)
        r = limit(RLIMIT_NOFILE, FDS_MAX);
#if !BG_SANITIZED /* a sanitizer maps terabytes of shadow and has helper threads */
    if (r == 0)
        r = limit(RLIMIT_AS, MEMORY_MAX);
#endif
    return r;
}

/* Every right of the first version, with no path that has any: files cannot be opened at all. */
static int forbid_files(void)
{
    struct landlock_ruleset_attr attr = {
        .handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE |
                             LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR |
                             LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                             LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR |
                             LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |
                             LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |
                             LANDLOCK_ACCESS_FS_MAKE_SYM};
    int fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
    if (fd < 0)
        return 0; /* an older kernel; the system call filter stands alone */
    int r = syscall(SYS_landlock_restrict_self, fd, 0) < 0 ? -errno : 0;
    (void)close(fd);
    return r;
}

#if !BG_SANITIZED
static int filter_calls(void)
{
    static const int allowed[] = {
        SCMP_SYS(read),
        SCMP_SYS(readv),
        SCMP_SYS(write),
        SCMP_SYS(writev), /* the fds it has */
        SCMP_SYS(poll),
        SCMP_SYS(ppoll),
        SCMP_SYS(close),
        SCMP_SYS(recvmsg), /* another stream from the keeper */
        SCMP_SYS(restart_syscall),
        SCMP_SYS(clock_gettime),
        SCMP_SYS(gettimeofday), /* where there is no vdso */
        SCMP_SYS(brk),
        SCMP_SYS(munmap),
        SCMP_SYS(mremap),
        SCMP_SYS(madvise), /* malloc */
        SCMP_SYS(futex),
        SCMP_SYS(rt_sigreturn),
        SCMP_SYS(rt_sigprocmask),
        SCMP_SYS(exit),
        SCMP_SYS(exit_group),
        SCMP_SYS(gettid),
        SCMP_SYS(getpid),
        SCMP_SYS(tgkill), /* abort: an assertion says why */
    };
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!filter)
        return -ENOMEM;
    int r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1); /* the notifier's thread too */
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed && r == 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
    if (r == 0) /* memory, but none that can be run */
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r;
}
#endif

int fs_sandbox_enter(struct bg_err *err)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return bg_err_errno(err, -errno, "mount: prctl");
    int r = set_limits();
    if (r == 0)
        r = forbid_files();
    return r < 0 ? bg_err_errno(err, r, "mount: confining itself") : 0;
}

int fs_sandbox_filter(struct bg_err *err)
{
    int r = 0;
#if !BG_SANITIZED /* whose run time starts threads and makes other calls */
    r = limit(RLIMIT_NPROC, 0);
    if (r == 0)
        r = filter_calls();
#endif
    return r < 0 ? bg_err_errno(err, r, "mount: confining itself") : 0;
}
