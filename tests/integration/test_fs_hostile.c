/* A lying file server behind a real mount: whatever it does to whichever operation, who uses the
 * mount gets an answer in time, the mount can be taken away, and the kernel has nothing to say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "fs/proto/proto.h"
#include "tests/integration/fs/liar.h"
#include "tests/integration/fs/mounted.h"

#define DEADLINE_MS      300u
#define DEADLINE_TEXT    "300"
#define LONG_DEADLINE    "20000" /* for answers that come, on a machine that is busy */
#define GRACE_MS         20000u  /* for the machine to run what is ready to run */
#define SYNC_DEADLINES   8u
#define WALK_MOVES_AT_MS 1500
#define HOST_SECRET      "a file of the host"
#define FLIP_SECONDS_MAX 6u
#define FLIP_MOUNTS      8u

/* ---- one user for each operation ---- */

static int errno_if(int r)
{
    return r < 0 ? errno : 0;
}

static int open_f(void)
{
    return open("f", O_RDWR | O_CLOEXEC);
}

static int use_lookup(void)
{
    struct stat st;
    return errno_if(lstat("none", &st)) == ENOENT ? 0 : errno;
}

static int use_getattr(void)
{
    struct statx st;
    return errno_if(statx(AT_FDCWD, "f", AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &st));
}

static int use_setattr(void)
{
    return errno_if(chmod("f", 0600));
}

static int use_readlink(void)
{
    char text[16];
    return errno_if((int)readlink("l", text, sizeof text));
}

static int use_symlink(void)
{
    return errno_if(symlink("f", "new"));
}

static int use_mknod(void)
{
    return errno_if(mknod("new", S_IFREG | 0644, 0));
}

static int use_mkdir(void)
{
    return errno_if(mkdir("new", 0755));
}

static int use_unlink(void)
{
    return errno_if(unlink("f"));
}

static int use_rmdir(void)
{
    return errno_if(rmdir("e"));
}

static int use_rename(void)
{
    return errno_if(rename("f", "d/new"));
}

static int use_rename2(void)
{
    return errno_if(renameat2(AT_FDCWD, "f", AT_FDCWD, "new", RENAME_NOREPLACE));
}

static int use_link(void)
{
    return errno_if(link("f", "new"));
}

static int use_open(void)
{
    return errno_if(open_f());
}

static int use_create(void)
{
    return errno_if(open("new", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
}

static int use_tmpfile(void)
{
    return errno_if(open(".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0644));
}

static int use_read(void)
{
    char bytes[100];
    int fd = open_f();
    return errno_if(fd < 0 ? -1 : (int)pread(fd, bytes, sizeof bytes, 0));
}

/* Acknowledged at once: what becomes of it is told by fsync. */
static int use_write(void)
{
    int fd = open_f();
    return errno_if(fd < 0 || pwrite(fd, "bytes", 5, 0) < 0 ? -1 : fsync(fd));
}

static int use_statfs(void)
{
    struct statvfs fs;
    return errno_if(statvfs(".", &fs));
}

static int use_fsync(void)
{
    int fd = open_f();
    return errno_if(fd < 0 ? -1 : fsync(fd));
}

static int use_flush(void)
{
    int fd = open_f();
    return errno_if(fd < 0 ? -1 : close(fd));
}

static int use_setxattr(void)
{
    return errno_if(setxattr("f", "user.a", "x", 1, 0));
}

static int use_getxattr(void)
{
    char value[100];
    return errno_if((int)getxattr("f", "user.a", value, sizeof value));
}

static int use_listxattr(void)
{
    char names[100];
    return errno_if((int)listxattr("f", names, sizeof names));
}

static int use_removexattr(void)
{
    return errno_if(removexattr("f", "user.a"));
}

static int use_readdir(void)
{
    DIR *dir = opendir(".");
    if (!dir)
        return errno;
    errno = 0;
    while (readdir(dir))
        ;
    int r = errno;
    (void)closedir(dir);
    return r;
}

static int use_fsyncdir(void)
{
    int fd = open("d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return errno_if(fd < 0 ? -1 : fsync(fd));
}

static int use_lock(int command)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
    int fd = open_f();
    return errno_if(fd < 0 ? -1 : fcntl(fd, command, &lock));
}

static int use_getlk(void)
{
    return use_lock(F_GETLK);
}

static int use_setlk(void)
{
    return use_lock(F_SETLK);
}

static int use_setlkw(void)
{
    return use_lock(F_SETLKW);
}

static int use_fallocate(void)
{
    int fd = open_f();
    return errno_if(fd < 0 ? -1 : fallocate(fd, 0, 0, 100));
}

static int use_lseek(void)
{
    int fd = open_f();
    return errno_if(fd < 0 ? -1 : (int)lseek(fd, 10, SEEK_DATA));
}

static int use_copy(void)
{
    int a = open_f(), b = open_f();
    off_t from = 0, to = 4096;
    return errno_if(a < 0 || b < 0 ? -1 : (int)copy_file_range(a, &from, b, &to, 100, 0));
}

static const struct use {
    uint32_t opcode;
    int (*run)(void); /* 0 or errno */
} uses[] = {
    {FUSE_LOOKUP, use_lookup},       {FUSE_GETATTR, use_getattr},
    {FUSE_SETATTR, use_setattr},     {FUSE_READLINK, use_readlink},
    {FUSE_SYMLINK, use_symlink},     {FUSE_MKNOD, use_mknod},
    {FUSE_MKDIR, use_mkdir},         {FUSE_UNLINK, use_unlink},
    {FUSE_RMDIR, use_rmdir},         {FUSE_RENAME, use_rename},
    {FUSE_RENAME2, use_rename2},     {FUSE_LINK, use_link},
    {FUSE_OPEN, use_open},           {FUSE_CREATE, use_create},
    {FUSE_TMPFILE, use_tmpfile},     {FUSE_READ, use_read},
    {FUSE_WRITE, use_write},         {FUSE_STATFS, use_statfs},
    {FUSE_FSYNC, use_fsync},         {FUSE_FLUSH, use_flush},
    {FUSE_SETXATTR, use_setxattr},   {FUSE_GETXATTR, use_getxattr},
    {FUSE_LISTXATTR, use_listxattr}, {FUSE_REMOVEXATTR, use_removexattr},
    {FUSE_OPENDIR, use_readdir},     {FUSE_READDIR, use_readdir},
    {FUSE_READDIRPLUS, use_readdir}, {FUSE_FSYNCDIR, use_fsyncdir},
    {FUSE_GETLK, use_getlk},         {FUSE_SETLK, use_setlk},
    {FUSE_SETLKW, use_setlkw},       {FUSE_FALLOCATE, use_fallocate},
    {FUSE_LSEEK, use_lseek},         {FUSE_COPY_FILE_RANGE, use_copy},
};
#define USES (sizeof uses / sizeof *uses)

static void signal_seen(int number)
{
    (void)number;
}

/* A child that does it in the mount, and waits for nothing longer than it must: a wait for a lock
 * is ended by a signal. Exit status: 0 or errno. */
static pid_t start_use(const char *mount, const struct use *use)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const struct sigaction action = {.sa_handler = signal_seen};
        (void)sigaction(SIGALRM, &action, NULL);
        /* Again and again: the first may come before the wait begins. */
        const struct itimerval every = {.it_value = {.tv_sec = 2}, .it_interval = {.tv_sec = 2}};
        if (use->opcode == FUSE_SETLKW)
            (void)setitimer(ITIMER_REAL, &every, NULL);
        _exit(chdir(mount) < 0 ? errno : use->run());
    }
    return pid;
}

/* Waits for the end of a child, but not for ever: one that hangs in the kernel cannot be killed. */
static int end_of(pid_t pid, uint64_t until_ms, const char *what)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    assert_true(pidfd >= 0);
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    uint64_t now_ms = bg_now_ms();
    int ready = poll(&p, 1, now_ms >= until_ms ? 0 : (int)(until_ms - now_ms));
    (void)close(pidfd);
    if (ready <= 0)
        fail_msg("%s: pid %d still waits", what, pid);
    return mounted_wait(pid);
}

struct batch {
    struct mounted *mounts[USES];
    pid_t liars[USES], users[USES];
};

/* Every operation at once, each on a mount of its own whose server lies about it. */
static void run_batch(enum lie lie, const char *deadline, int status[USES])
{
    struct batch *b = calloc(1, sizeof *b);
    assert_non_null(b);
    char what[64];
    for (size_t i = 0; i < USES; i++) {
        struct liar_opts liar = {.opcode = uses[i].opcode, .lie = lie, .seed = i};
        struct mounted_opts opts = mounted_usual();
        b->liars[i] = liar_start(&liar, &opts.stream);
        opts.mount[0] = "--deadline-ms";
        /* What ends a wait for a lock is a signal; until it waits, nothing else shall end. */
        opts.mount[1] = uses[i].opcode == FUSE_SETLKW ? LONG_DEADLINE : deadline;
        b->mounts[i] = mounted_new(&opts);
    }
    for (size_t i = 0; i < USES; i++)
        b->users[i] = start_use(b->mounts[i]->mount, &uses[i]);
    uint64_t until_ms = bg_now_ms() + SYNC_DEADLINES * DEADLINE_MS + GRACE_MS;
    for (size_t i = 0; i < USES; i++) {
        (void)snprintf(what, sizeof what, "%s, lie %d", fs_op_find(uses[i].opcode)->name, lie);
        status[i] = end_of(b->users[i], until_ms, what);
    }
    for (size_t i = 0; i < USES; i++) {
        mounted_free(b->mounts[i]);
        assert_int_equal(mounted_wait(b->liars[i]), 0);
    }
    free(b);
}

static void an_honest_server_is_believed(void **state)
{
    (void)state;
    int status[USES];
    run_batch(LIE_NONE, LONG_DEADLINE, status);
    for (size_t i = 0; i < USES; i++)
        if (status[i] != 0)
            fail_msg("%s: %s", fs_op_find(uses[i].opcode)->name, strerror(status[i]));
}

static void silence_is_an_error_for_every_operation(void **state)
{
    (void)state;
    int status[USES];
    run_batch(LIE_SILENCE, DEADLINE_TEXT, status);
    for (size_t i = 0; i < USES; i++) {
        uint32_t opcode = uses[i].opcode;
        /* From memory; perhaps asked as READDIRPLUS instead; ended by a signal. */
        int want = opcode == FUSE_STATFS || opcode == FUSE_READDIR ? 0
                   : opcode == FUSE_SETLKW                         ? EINTR
                                                                   : EIO;
        bool either = opcode == FUSE_READDIR && status[i] == EIO;
        if (status[i] != want && !either)
            fail_msg("%s: %s", fs_op_find(opcode)->name, strerror(status[i]));
    }
}

static void every_lie_about_every_operation_has_an_end(void **state)
{
    (void)state;
    static const enum lie lies[] = {LIE_UNIQUE, LIE_TWICE,  LIE_LATE, LIE_SHORT,   LIE_LONG,
                                    LIE_SIZE,   LIE_ERRORS, LIE_KIND, LIE_NUMBERS, LIE_CLOSE};
    int status[USES];
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++)
        run_batch(lies[i], DEADLINE_TEXT, status);
}

/* One byte of each answer is wrong, another one each time, while everything is used. */
static void flipped_bytes_are_borne(void **state)
{
    (void)state;
    uint64_t until_ms = bg_now_ms() + FLIP_SECONDS_MAX * 1000;
    for (unsigned round = 0; round < FLIP_MOUNTS && bg_now_ms() < until_ms; round++) {
        struct liar_opts liar = {.lie = LIE_FLIPS, .seed = round * 31};
        struct mounted_opts opts = mounted_usual();
        pid_t liar_pid = liar_start(&liar, &opts.stream), users[USES];
        opts.mount[0] = "--deadline-ms";
        opts.mount[1] = DEADLINE_TEXT;
        struct mounted *m = mounted_new(&opts);
        for (size_t i = 0; i < USES; i++)
            users[i] = start_use(m->mount, &uses[i]);
        uint64_t end_ms = bg_now_ms() + SYNC_DEADLINES * DEADLINE_MS + GRACE_MS;
        for (size_t i = 0; i < USES; i++)
            (void)end_of(users[i], end_ms, fs_op_find(uses[i].opcode)->name);
        mounted_free(m);
        assert_int_equal(mounted_wait(liar_pid), 0);
    }
}

/* ---- a walk that the server draws out ---- */

/* The link is read slowly, so that the kernel no longer believes the attributes of the folders on
 * the way up; then these are answered slowly, while somebody moves the link's folder up. */
static void a_slow_walk_does_not_lead_out(void **state)
{
    (void)state;
    struct liar_opts liar = {.lie = LIE_SLOW_WALK};
    struct mounted_opts opts = mounted_usual();
    pid_t liar_pid = liar_start(&liar, &opts.stream);
    opts.mount[0] = "--deadline-ms";
    opts.mount[1] = LONG_DEADLINE;
    struct mounted *m = mounted_new(&opts);
    char canary[256], path[256], from[256], to[256], text[64] = "";
    (void)snprintf(canary, sizeof canary, "%s/canary", m->base);
    int fd = open(canary, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_int_equal(write(fd, HOST_SECRET, strlen(HOST_SECRET)), strlen(HOST_SECRET));
    (void)close(fd);
    (void)snprintf(path, sizeof path, "%s/a/b/c/out", m->mount);
    (void)snprintf(from, sizeof from, "%s/a/b/c", m->mount);
    (void)snprintf(to, sizeof to, "%s/c", m->mount);
    pid_t mover = fork();
    assert_true(mover >= 0);
    if (mover == 0) {
        (void)poll(NULL, 0, WALK_MOVES_AT_MS); /* into the middle of the walk */
        _exit(rename(from, to) < 0 ? errno : 0);
    }
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        (void)!read(fd, text, sizeof text - 1);
    assert_string_not_equal(text, HOST_SECRET);
    assert_int_equal(fd, -1);
    assert_int_equal(end_of(mover, bg_now_ms() + GRACE_MS, "the move"), 0);
    mounted_free(m);
    assert_int_equal(mounted_wait(liar_pid), 0);
}

/* ---- what the kernel says ---- */

static int kernel_log = -1;

/* The tests that ran since the log was opened have given it no reason to complain. */
static void the_kernel_has_nothing_to_say(void **state)
{
    (void)state;
    static const char *const words[] = {"BUG", "WARNING", "Oops", "fuse", "KASAN", "hung"};
    char line[8192];
    if (kernel_log < 0)
        skip(); /* only root may read it */
    for (;;) {
        ssize_t n = read(kernel_log, line, sizeof line - 1);
        if (n < 0 && errno == EPIPE)
            continue; /* lines were overwritten */
        if (n < 0)
            break;
        line[n] = '\0';
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            if (strstr(line, words[i]))
                fail_msg("%s", line);
    }
    assert_int_equal(errno, EAGAIN);
}

int main(void)
{
    mounted_need_fuse();
    kernel_log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (kernel_log >= 0)
        (void)lseek(kernel_log, 0, SEEK_END); /* cannot fail on this device */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_honest_server_is_believed),
        cmocka_unit_test(silence_is_an_error_for_every_operation),
        cmocka_unit_test(every_lie_about_every_operation_has_an_end),
        cmocka_unit_test(flipped_bytes_are_borne),
        cmocka_unit_test(a_slow_walk_does_not_lead_out),
        cmocka_unit_test(the_kernel_has_nothing_to_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
