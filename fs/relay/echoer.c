#include "fs/relay/echoer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/openat2.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "fs/proto/proto.h"
#include "fs/relay/mountpoint.h"

#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ull << 14) /* Linux 6.2 */
#endif
#define LANDLOCK_ABI_REFER    2 /* before it, files cannot be moved between folders at all */
#define LANDLOCK_ABI_TRUNCATE 3
#define FDS_MAX               16
#define FDS_KEPT              64 /* above what the relay has open */

struct echoer {
    int parent_fd, socket_fd;
    char name[BG_FS_NAME_MAX + 1]; /* of the mount in parent_fd */
    dev_t device;                  /* of the mount */
};

void fs_echo_command_emit(const struct fs_echo_command *command, struct bg_writer *w)
{
    bg_writer_u8(w, command->op);
    bg_writer_u64le(w, command->size);
    bg_writer_text32le(w, command->folder);
    bg_writer_text32le(w, command->name);
    bg_writer_text32le(w, command->folder2);
    bg_writer_text32le(w, command->name2);
}

int fs_echo_command_parse(const uint8_t *bytes, size_t size, struct fs_echo_command *ret)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    ret->op = bg_reader_u8(&in);
    ret->size = bg_reader_u64le(&in);
    bg_reader_text32le(&in, ret->folder, sizeof ret->folder);
    bg_reader_text32le(&in, ret->name, sizeof ret->name);
    bg_reader_text32le(&in, ret->folder2, sizeof ret->folder2);
    bg_reader_text32le(&in, ret->name2, sizeof ret->name2);
    bool moves = ret->op == FS_ECHO_RENAME;
    if (!bg_reader_end(&in) || ret->op < FS_ECHO_CREATE || ret->op > FS_ECHO_RENAME ||
        ret->size > INT64_MAX || ret->folder[0] == '/' || ret->folder2[0] == '/' ||
        !(fs_name_ok(ret->name, strlen(ret->name)) ||
          (ret->op == FS_ECHO_TOUCH && ret->name[0] == '\0')) ||
        (moves ? !fs_name_ok(ret->name2, strlen(ret->name2)) : ret->name2[0] != '\0'))
        return -EPROTO;
    return 0;
}

/* ---- the process ---- */

/* Folder of the mount, which must still be the one that it was. */
static int open_folder(const struct echoer *e, const char *path)
{
    BG_AUTOCLOSE int top =
        openat(e->parent_fd, e->name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (top < 0 || fstat(top, &st) < 0)
        return -errno;
    if (st.st_dev != e->device)
        return -ENODEV; /* unmounted */
    if (path[0] == '\0')
        return bg_take_fd(&top);
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV};
    long fd = syscall(SYS_openat2, top, path, &how, sizeof how);
    return fd < 0 ? -errno : (int)fd;
}

/* Opens the file for writing, and sets its size if that is asked for. */
static int open_file(int folder, const struct fs_echo_command *c)
{
    int flags = O_WRONLY | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK | O_CLOEXEC;
    if (c->op == FS_ECHO_CREATE)
        flags |= O_CREAT | O_EXCL;
    BG_AUTOCLOSE int fd = openat(folder, c->name, flags, 0644);
    if (fd < 0)
        return -errno;
    return c->op == FS_ECHO_WRITE && ftruncate(fd, (off_t)c->size) < 0 ? -errno : 0;
}

static int do_command(const struct echoer *e, const struct fs_echo_command *c)
{
    int r = 0;
    BG_AUTOCLOSE int folder = open_folder(e, c->folder);
    BG_AUTOCLOSE int folder2 = c->op == FS_ECHO_RENAME ? open_folder(e, c->folder2) : -1;
    if (folder < 0 || (c->op == FS_ECHO_RENAME && folder2 < 0))
        return folder < 0 ? folder : folder2;
    switch ((enum fs_echo_op)c->op) {
    case FS_ECHO_CREATE:
    case FS_ECHO_WRITE:
    case FS_ECHO_CLOSE:
        return open_file(folder, c);
    case FS_ECHO_MKDIR:
        r = mkdirat(folder, c->name, 0755);
        break;
    case FS_ECHO_TOUCH:
        r = utimensat(folder, c->name[0] != '\0' ? c->name : ".", NULL, AT_SYMLINK_NOFOLLOW);
        break;
    case FS_ECHO_UNLINK:
        r = unlinkat(folder, c->name, 0);
        break;
    case FS_ECHO_RMDIR:
        r = unlinkat(folder, c->name, AT_REMOVEDIR);
        break;
    case FS_ECHO_RENAME:
        r = renameat2(folder, c->name, folder2, c->name2, 0);
        break;
    }
    return r < 0 ? -errno : 0;
}

/* Does not return. */
static void serve(const struct echoer *e)
{
    static uint8_t bytes[FS_ECHO_COMMAND_MAX];
    static struct fs_echo_command command;
    for (;;) {
        ssize_t n = read(e->socket_fd, bytes, sizeof bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 || fs_echo_command_parse(bytes, (size_t)n, &command) < 0)
            _exit(0); /* the relay has ended */
        uint8_t result[FS_ECHO_RESULT_SIZE];
        struct bg_writer w = bg_writer_init(result, sizeof result);
        bg_writer_u32le(&w, (uint32_t)do_command(e, &command));
        if (write(e->socket_fd, result, w.used) < 0)
            _exit(0);
    }
}

/* ---- confinement ---- */

static int limit(int resource, rlim_t max)
{
    struct rlimit limit = {.rlim_cur = max, .rlim_max = max};
    return setrlimit((__rlimit_resource_t)resource, &limit) < 0 ? -errno : 0;
}

/* Root keeps what lets it act on files that are not its own, on this mount. */
static int drop_capabilities(void)
{
    if (geteuid() != 0)
        return 0;
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{0}};
    data[0].effective = data[0].permitted =
        1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH | 1u << CAP_FOWNER;
    return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}

/* Files can be changed below the top of the mount only, where the kernel can say so. */
static int allow_only(int top)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < LANDLOCK_ABI_REFER)
        return 0; /* openat2 and the filter stand alone */
    uint64_t here = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |
                    LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR |
                    LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REFER;
    if (abi >= LANDLOCK_ABI_TRUNCATE)
        here |= LANDLOCK_ACCESS_FS_TRUNCATE;
    struct landlock_ruleset_attr attr = {
        .handled_access_fs = here | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE |
                             LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_MAKE_CHAR |
                             LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |
                             LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM};
    struct landlock_path_beneath_attr rule = {.allowed_access = here, .parent_fd = top};
    BG_AUTOCLOSE int fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
    if (fd < 0 || syscall(SYS_landlock_add_rule, fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0 ||
        syscall(SYS_landlock_restrict_self, fd, 0) < 0)
        return -errno;
    return 0;
}

#if !BG_SANITIZED /* whose run time makes other calls */
static int filter_calls(void)
{
    static const int allowed[] = {
        SCMP_SYS(read),      SCMP_SYS(write),      SCMP_SYS(close),        SCMP_SYS(openat),
        SCMP_SYS(openat2),   SCMP_SYS(newfstatat), SCMP_SYS(fstat),        SCMP_SYS(mkdirat),
        SCMP_SYS(unlinkat),  SCMP_SYS(renameat),   SCMP_SYS(renameat2),    SCMP_SYS(ftruncate),
        SCMP_SYS(utimensat), SCMP_SYS(exit_group), SCMP_SYS(rt_sigreturn),
    };
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!filter)
        return -ENOMEM;
    int r = 0;
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed && r == 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r;
}
#endif

static int confine(int top)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return -errno;
    int r = limit(RLIMIT_CORE, 0);
    if (r == 0)
        r = drop_capabilities();
#if !BG_SANITIZED
    if (r == 0)
        r = limit(RLIMIT_NPROC, 0);
    if (r == 0)
        r = limit(RLIMIT_NOFILE, FDS_MAX);
#endif
    if (r == 0)
        r = allow_only(top);
    (void)close(top);
#if !BG_SANITIZED
    if (r == 0)
        r = filter_calls();
#endif
    return r;
}

/* In the new process; does not return. */
static void run(struct echoer *e, int top)
{
    /* The stream, the report pipe and above all /dev/fuse stay with the relay. */
    int keep[3] = {e->parent_fd, e->socket_fd, top};
    for (size_t i = 0; i < 3; i++)
        if ((keep[i] = fcntl(keep[i], F_DUPFD_CLOEXEC, FDS_KEPT)) < 0)
            _exit(1);
    for (int i = 0; i < 3; i++)
        if (dup2(keep[i], i) < 0)
            _exit(1);
    (void)close_range(3, ~0u, 0);
    e->parent_fd = 0;
    e->socket_fd = 1;
    (void)umask(0);
    if (confine(2) < 0)
        _exit(1);
    serve(e);
}

int fs_echoer_start(const char *path, int *ret_fd, pid_t *ret_pid, struct bg_err *err)
{
    struct echoer e = {.parent_fd = -1};
    struct fs_mount mount;
    unsigned major_number, minor_number;
    int r = fs_mount_find(path, &mount, err);
    if (r < 0)
        return r;
    /* Looking at the mount itself would wait for answers of ours. */
    if (sscanf(mount.device, "%u:%u", &major_number, &minor_number) != 2)
        return bg_err_set(err, -EPROTO, "%s: device %s", path, mount.device);
    e.device = makedev(major_number, minor_number);
    const char *name = strrchr(path, '/');
    BG_AUTOFREE char *parent = name ? strndup(path, (size_t)(name - path) + 1) : NULL;
    if (!parent || strlen(name + 1) > BG_FS_NAME_MAX)
        return bg_err_errno(err, parent ? -ENAMETOOLONG : -ENOMEM, "%s", path);
    memcpy(e.name, name + 1, strlen(name + 1) + 1);
    BG_AUTOCLOSE int parent_fd = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    BG_AUTOCLOSE int top = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int sockets[2] = {-1, -1};
    if (parent_fd < 0 || top < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        return bg_err_errno(err, -errno, "%s: echoes", path);
    BG_AUTOCLOSE int ours = sockets[0];
    BG_AUTOCLOSE int theirs = sockets[1];
    if (fcntl(ours, F_SETFL, O_NONBLOCK) < 0)
        return bg_err_errno(err, -errno, "%s: echoes", path);
    pid_t pid = fork();
    if (pid < 0)
        return bg_err_errno(err, -errno, "%s: echoes", path);
    if (pid == 0) {
        e.parent_fd = parent_fd;
        e.socket_fd = theirs;
        run(&e, top);
    }
    *ret_fd = bg_take_fd(&ours);
    *ret_pid = pid;
    return 0;
}
