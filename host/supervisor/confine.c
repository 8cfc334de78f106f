#include "host/supervisor/confine.h"

#include <grp.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

int confine_drop_root(unsigned uid, unsigned gid, struct bg_err *err)
{
    if (geteuid() != 0)
        return 0;
    if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
        return bg_err_errno(err, -errno, "cannot become uid %u", uid);
    return 0;
}

static int allow_calls(int qemu_pid, struct bg_err *err)
{
    static const int calls[] = {
        /* the loop */
        SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_ctl), SCMP_SYS(poll),
        SCMP_SYS(clock_gettime), SCMP_SYS(eventfd2), SCMP_SYS(futex), SCMP_SYS(restart_syscall),
        /* sockets that are open, those that clients bring, and those for the proxy */
        SCMP_SYS(read), SCMP_SYS(readv), SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(recvfrom),
        SCMP_SYS(recvmsg), SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(accept4),
        SCMP_SYS(getsockopt), SCMP_SYS(shutdown), SCMP_SYS(close), SCMP_SYS(fcntl), SCMP_SYS(ioctl),
        SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(lseek),
        /* a snapshot's files, and where the guest's dirty pages are */
        SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(fallocate), SCMP_SYS(ftruncate),
        /* QEMU's end */
        SCMP_SYS(wait4), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
        /* memory, identity, the end */
        SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk),
        SCMP_SYS(mprotect), SCMP_SYS(getrandom), SCMP_SYS(getpid), SCMP_SYS(getppid),
        SCMP_SYS(gettid), SCMP_SYS(exit), SCMP_SYS(exit_group)};
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!filter)
        return bg_err_set(err, -ENOMEM, "seccomp");
    int r = 0;
    for (size_t i = 0; i < sizeof calls / sizeof calls[0] && r == 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
    /* Only pairs of Unix sockets; no other socket can be made. */
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 1,
                             SCMP_A0(SCMP_CMP_EQ, 1 /* AF_UNIX */));
    /* The guest's memory, and its end. */
    static const int on_qemu[] = {SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev),
                                  SCMP_SYS(kill)};
    for (size_t i = 0; i < sizeof on_qemu / sizeof on_qemu[0] && r == 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, on_qemu[i], 1,
                             SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)qemu_pid));
    /* A library that asks for more is told no rather than killed where no is an answer. */
    static const int refused[] = {SCMP_SYS(openat), SCMP_SYS(open),  SCMP_SYS(readlink),
                                  SCMP_SYS(uname),  SCMP_SYS(prctl), SCMP_SYS(sysinfo)};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0] && r == 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), refused[i], 0);
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r < 0 ? bg_err_errno(err, r, "seccomp") : 0;
}

int confine_supervisor(int qemu_pid, struct bg_err *err)
{
    struct rlimit no_core = {0, 0};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || setrlimit(RLIMIT_CORE, &no_core) < 0)
        return bg_err_errno(err, -errno, "cannot give up rights");
    return BG_SANITIZED ? 0 : allow_calls(qemu_pid, err);
}
