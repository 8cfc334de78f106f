/* What the server's machine decides: whose files new ones are, what its user may do, and that there
 * is room. The server runs as the guest's does: started by root, acting as a user. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/server/server.h"
#include "tests/integration/fs/mounted.h"

#define GUEST_USER  4201u
#define GUEST_GROUP 4202u
#define TEAM        4203u /* a further group of that user */
#define OTHERS      4204u /* somebody else of the guest */
#define PLAIN_USER  1u    /* of the host */
#define THREADS     4u
#define SMALL       (1u << 20)

struct world {
    struct mounted *m;
    char source[128]; /* what is served; m->source is another, unused */
    pid_t server;
    bool on_tmpfs;
};

static const char *in(const char *folder, const char *name)
{
    static char paths[6][512];
    static unsigned next;
    char *path = paths[next++ % 6];
    (void)snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

/* A server with the rights of the guest's user. Its end is that of its stream. */
static pid_t start_server(const char *source, int *ret_stream)
{
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        static const gid_t groups[] = {GUEST_GROUP, TEAM};
        struct bg_err err;
        const struct fs_server_opts opts = {.root = source,
                                            .uid = GUEST_USER,
                                            .gid = GUEST_GROUP,
                                            .groups = groups,
                                            .group_count = 2,
                                            .threads = THREADS};
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)close(sockets[0]);
        _exit(fs_server_run(sockets[1], sockets[1], &opts, &err) < 0 ? 1 : 0);
    }
    (void)close(sockets[1]);
    *ret_stream = sockets[0];
    return pid;
}

/* tmpfs_options: NULL, or what the served folder is a file system of its own with. */
static struct world *world_new(uid_t user, const char *tmpfs_options)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    (void)snprintf(w->source, sizeof w->source, "/var/tmp/bg-fs-XXXXXX");
    assert_non_null(mkdtemp(w->source));
    if (tmpfs_options) {
        assert_int_equal(mount("bg-test", w->source, "tmpfs", 0, tmpfs_options), 0);
        w->on_tmpfs = true;
    }
    assert_int_equal(chmod(w->source, 0755), 0);
    assert_int_equal(chown(w->source, GUEST_USER, GUEST_GROUP), 0);
    struct mounted_opts opts = mounted_usual();
    opts.user = user;
    w->server = start_server(w->source, &opts.stream);
    w->m = mounted_new(&opts);
    return w;
}

static void world_free(struct world *w)
{
    mounted_free(w->m);
    assert_int_equal(mounted_wait(w->server), 0);
    if (w->on_tmpfs) {
        assert_int_equal(umount(w->source), 0);
        assert_int_equal(rmdir(w->source), 0);
    } else {
        mounted_remove_all(w->source);
    }
    free(w);
}

static void make(const char *path, mode_t mode, uid_t uid, gid_t gid)
{
    if (S_ISDIR(mode)) {
        assert_int_equal(mkdir(path, 0700), 0);
    } else {
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        assert_int_equal(write(fd, "text", 4), 4);
        assert_int_equal(close(fd), 0);
    }
    assert_int_equal(chown(path, uid, gid), 0);
    assert_int_equal(chmod(path, mode & 07777), 0);
}

/* Each runs as the user of the mount, in it. Returns 0, or the line where it went wrong. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            (void)fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition,               \
                          strerror(errno));                                                        \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)
#define CHECK_ERRNO(call, want)                                                                    \
    do {                                                                                           \
        errno = 0;                                                                                 \
        CHECK((call) < 0 && errno == (want));                                                      \
    } while (0)

static void run_as(uid_t user, const char *mode, const struct world *w)
{
    mounted_run_self_as(user, mode, w->m->mount);
}

static const uid_t hosts[] = {0, PLAIN_USER};
#define HOSTS 2

/* ---- owners ---- */

static int do_make_everything(void)
{
    CHECK(close(open("file", O_RDWR | O_CREAT | O_CLOEXEC, 0640)) == 0);
    CHECK(mkdir("folder", 0750) == 0);
    CHECK(symlink("file", "link") == 0);
    CHECK(mknod("node", S_IFREG | 0600, 0) == 0);
    CHECK(link("file", "name") == 0);
    int fd = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(linkat(AT_FDCWD, path, AT_FDCWD, "nameless", AT_SYMLINK_FOLLOW) == 0);
    struct stat st;
    static const char *const names[] = {"file", "folder", "link", "node", "name", "nameless"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        CHECK(lstat(names[i], &st) == 0);
        CHECK(st.st_uid == geteuid() && st.st_gid == getegid());
    }
    CHECK(chown("file", geteuid(), getegid()) == 0);
    CHECK_ERRNO(chown("file", 4711, (gid_t)-1), EPERM);
    return 0;
}

static void new_files_belong_to_the_user_of_the_guest(void **state)
{
    (void)state;
    for (size_t h = 0; h < HOSTS; h++) {
        struct world *w = world_new(hosts[h], NULL);
        run_as(hosts[h], "--make-everything", w);
        static const char *const names[] = {"file", "folder", "link", "node", "name", "nameless"};
        struct stat st;
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            assert_int_equal(lstat(in(w->source, names[i]), &st), 0);
            assert_int_equal(st.st_uid, GUEST_USER);
            assert_int_equal(st.st_gid, GUEST_GROUP);
        }
        world_free(w);
    }
}

static int do_look_at_owners(void)
{
    struct stat st;
    CHECK(stat("mine", &st) == 0);
    CHECK(st.st_uid == geteuid() && st.st_gid == getegid());
    CHECK(stat("theirs", &st) == 0);
    CHECK(st.st_uid == 65534 && st.st_gid == 65534);
    CHECK(stat("roots", &st) == 0);
    CHECK(st.st_uid == 65534);
    return 0;
}

static void files_of_others_belong_to_nobody(void **state)
{
    (void)state;
    for (size_t h = 0; h < HOSTS; h++) {
        struct world *w = world_new(hosts[h], NULL);
        make(in(w->source, "mine"), S_IFREG | 0600, GUEST_USER, GUEST_GROUP);
        make(in(w->source, "theirs"), S_IFREG | 0644, OTHERS, OTHERS);
        make(in(w->source, "roots"), S_IFREG | 0644, 0, 0);
        run_as(hosts[h], "--look-at-owners", w);
        world_free(w);
    }
}

/* ---- rights ---- */

static int do_try_what_is_not_allowed(void)
{
    char text[8];
    CHECK_ERRNO(open("secret", O_RDONLY | O_CLOEXEC), EACCES);
    CHECK_ERRNO(open("readable", O_RDWR | O_CLOEXEC), EACCES);
    int fd = open("readable", O_RDONLY | O_CLOEXEC);
    CHECK(read(fd, text, 4) == 4);
    CHECK(close(fd) == 0);
    CHECK_ERRNO(truncate("readable", 0), EACCES);
    CHECK_ERRNO(open("closed/in", O_RDONLY | O_CLOEXEC), EACCES);
    CHECK_ERRNO(unlink("open/in"), EACCES);
    CHECK_ERRNO(mkdir("open/new", 0755), EACCES);
    CHECK_ERRNO(rename("open/in", "moved"), EACCES);
    CHECK_ERRNO(chmod("readable", 0666), EPERM);
    CHECK_ERRNO(chown("readable", geteuid(), getegid()), EPERM);
    CHECK_ERRNO(utimensat(AT_FDCWD, "readable", (struct timespec[2]){{1, 0}, {1, 0}}, 0), EPERM);
    return 0;
}

/* Also for root of the host: who is root here is a user there. */
static void the_guests_rights_count(void **state)
{
    (void)state;
    for (size_t h = 0; h < HOSTS; h++) {
        struct world *w = world_new(hosts[h], NULL);
        make(in(w->source, "secret"), S_IFREG | 0600, OTHERS, OTHERS);
        make(in(w->source, "readable"), S_IFREG | 0644, OTHERS, OTHERS);
        make(in(w->source, "closed"), S_IFDIR | 0700, OTHERS, OTHERS);
        make(in(w->source, "closed/in"), S_IFREG | 0666, OTHERS, OTHERS);
        make(in(w->source, "open"), S_IFDIR | 0755, OTHERS, OTHERS);
        make(in(w->source, "open/in"), S_IFREG | 0666, GUEST_USER, GUEST_GROUP);
        run_as(hosts[h], "--try-what-is-not-allowed", w);
        world_free(w);
    }
}

static int do_enter(void)
{
    return 0; /* it is in there */
}

/* Makes and removes a file there until it is killed. */
static pid_t start_changes(const char *folder)
{
    const char *path = in(folder, "restless");
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;)
        if (close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644)) < 0 || unlink(path) < 0)
            _exit(1);
}

/* The kernel drops what it is told of a folder that changes just then; of the mount's root it would
 * know nothing yet, and refuse its user. */
static void a_root_that_changes_can_be_entered_at_once(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        struct world *w = world_new(PLAIN_USER, NULL);
        pid_t changes = start_changes(w->source);
        run_as(PLAIN_USER, "--enter", w);
        assert_int_equal(kill(changes, SIGKILL), 0);
        assert_int_equal(waitpid(changes, NULL, 0), changes);
        world_free(w);
    }
}

static int do_work_in_a_team(void)
{
    char text[8];
    int fd = open("team/file", O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK(pwrite(fd, "team", 4, 0) == 4 && pread(fd, text, 4, 0) == 4);
    CHECK(close(fd) == 0);
    CHECK(close(open("team/new", O_RDWR | O_CREAT | O_CLOEXEC, 0660)) == 0);
    CHECK(rename("team/new", "team/newer") == 0);
    CHECK(link("team/newer", "team/name") == 0);
    CHECK(unlink("team/newer") == 0);
    CHECK(truncate("team/file", 2) == 0);
    CHECK(mkdir("team/folder", 0770) == 0);
    CHECK(rmdir("team/folder") == 0);
    return 0;
}

/* The host's kernel does not know of the group, so a plain user is stopped there; root is not. */
static void further_groups_of_the_guests_user_count(void **state)
{
    (void)state;
    struct world *w = world_new(0, NULL);
    make(in(w->source, "team"), S_IFDIR | 02770, OTHERS, TEAM);
    make(in(w->source, "team/file"), S_IFREG | 0660, OTHERS, TEAM);
    run_as(0, "--work-in-a-team", w);
    struct stat st;
    assert_int_equal(stat(in(w->source, "team/name"), &st), 0);
    assert_int_equal(st.st_uid, GUEST_USER);
    assert_int_equal(st.st_gid, TEAM); /* the folder's set-group-id bit */
    world_free(w);
}

static int do_clear_a_sticky_folder(void)
{
    /* What is somebody else's stays, whichever call tries. */
    CHECK_ERRNO(unlink("tmp/theirs"), EPERM);
    CHECK_ERRNO(rmdir("tmp/their-folder"), EPERM);
    CHECK_ERRNO(rename("tmp/theirs", "tmp/renamed"), EPERM);
    CHECK_ERRNO(rename("tmp/theirs", "taken"), EPERM);
    CHECK_ERRNO(rename("tmp/mine", "tmp/theirs"), EPERM);
    CHECK_ERRNO(renameat2(AT_FDCWD, "tmp/mine", AT_FDCWD, "tmp/theirs", RENAME_EXCHANGE), EPERM);
    CHECK_ERRNO(rename("tmp/my-folder", "tmp/their-folder"), EPERM);
    /* What is ours is ours. */
    CHECK(rename("tmp/mine", "tmp/renamed") == 0);
    CHECK(unlink("tmp/renamed") == 0);
    CHECK(rmdir("tmp/my-folder") == 0);
    CHECK(close(open("tmp/new", O_RDWR | O_CREAT | O_CLOEXEC, 0600)) == 0);
    CHECK(rename("tmp/new", "taken") == 0);
    struct stat st;
    CHECK(stat("tmp", &st) == 0);
    CHECK((st.st_mode & 07777) == 0777); /* the bit itself is not shown */
    CHECK_ERRNO(chmod("tmp", 0777), EPERM);
    return 0;
}

static void sticky_folders_keep_the_files_of_others(void **state)
{
    (void)state;
    for (size_t h = 0; h < HOSTS; h++) {
        struct world *w = world_new(hosts[h], NULL);
        make(in(w->source, "tmp"), S_IFDIR | 01777, 0, 0);
        make(in(w->source, "tmp/theirs"), S_IFREG | 0666, OTHERS, OTHERS);
        make(in(w->source, "tmp/their-folder"), S_IFDIR | 0777, OTHERS, OTHERS);
        make(in(w->source, "tmp/mine"), S_IFREG | 0600, GUEST_USER, GUEST_GROUP);
        make(in(w->source, "tmp/my-folder"), S_IFDIR | 0700, GUEST_USER, GUEST_GROUP);
        run_as(hosts[h], "--clear-a-sticky-folder", w);
        world_free(w);
    }
}

/* ---- room ---- */

static int do_fill_it_up(void)
{
    static char bytes[64 * 1024];
    memset(bytes, 'x', sizeof bytes);
    /* Not acknowledged early: see test_fs_write_behind.c for what is. */
    int fd = open("big", O_RDWR | O_CREAT | O_SYNC | O_CLOEXEC, 0644);
    CHECK(fd >= 0);
    ssize_t n;
    off_t size = 0;
    while ((n = write(fd, bytes, sizeof bytes)) > 0 && size < 4 * (off_t)SMALL)
        size += n;
    CHECK(n < 0 && errno == ENOSPC);
    CHECK(size > (off_t)SMALL / 2 && size <= (off_t)SMALL);
    CHECK_ERRNO(fallocate(fd, 0, 0, 4 * SMALL), ENOSPC);
    CHECK(pread(fd, bytes, sizeof bytes, 0) == sizeof bytes); /* what was written is there */
    CHECK(bytes[100] == 'x');
    struct statvfs fs;
    CHECK(statvfs(".", &fs) == 0);
    CHECK(fs.f_bavail * fs.f_frsize < sizeof bytes);
    CHECK(ftruncate(fd, 0) == 0);
    CHECK(write(fd, bytes, sizeof bytes) == sizeof bytes); /* and there is room again */
    CHECK(close(fd) == 0);
    int made = 0;
    char name[32];
    while (snprintf(name, sizeof name, "d%d", made), mkdir(name, 0755) == 0 && made < 1000)
        made++;
    CHECK(errno == ENOSPC);
    CHECK_ERRNO(symlink("x", "link"), ENOSPC);
    CHECK_ERRNO(open("file", O_RDWR | O_CREAT | O_CLOEXEC, 0644), ENOSPC);
    CHECK(rmdir("d0") == 0);
    /* The server's file system has its inode back when the kernel has forgotten it, which FUSE says
     * after the answer. */
    int again;
    for (int i = 0; (again = mkdir("d0", 0755)) < 0 && errno == ENOSPC && i < 1000; i++)
        (void)poll(NULL, 0, 10);
    CHECK(again == 0);
    return 0;
}

static void a_full_file_system_says_so(void **state)
{
    (void)state;
    struct world *w = world_new(0, "size=1m,nr_inodes=64");
    run_as(0, "--fill-it-up", w);
    world_free(w);
}

static int do_change_nothing(void)
{
    char text[8];
    int fd = open("file", O_RDONLY | O_CLOEXEC);
    CHECK(read(fd, text, 4) == 4);
    CHECK(close(fd) == 0);
    CHECK_ERRNO(open("file", O_RDWR | O_CLOEXEC), EROFS);
    CHECK_ERRNO(open("new", O_RDWR | O_CREAT | O_CLOEXEC, 0644), EROFS);
    CHECK_ERRNO(mkdir("new", 0755), EROFS);
    CHECK_ERRNO(unlink("file"), EROFS);
    CHECK_ERRNO(rename("file", "new"), EROFS);
    CHECK_ERRNO(symlink("x", "new"), EROFS);
    CHECK_ERRNO(link("file", "new"), EROFS);
    CHECK_ERRNO(chmod("file", 0600), EROFS);
    CHECK_ERRNO(truncate("file", 0), EROFS);
    CHECK_ERRNO(utimensat(AT_FDCWD, "file", NULL, 0), EROFS);
    return 0;
}

static void a_read_only_file_system_says_so(void **state)
{
    (void)state;
    struct world *w = world_new(0, "size=1m");
    make(in(w->source, "file"), S_IFREG | 0644, GUEST_USER, GUEST_GROUP);
    assert_int_equal(mount(NULL, w->source, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
    run_as(0, "--change-nothing", w);
    world_free(w);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *mode;
        int (*run)(void);
    } modes[] = {{"--make-everything", do_make_everything},
                 {"--look-at-owners", do_look_at_owners},
                 {"--try-what-is-not-allowed", do_try_what_is_not_allowed},
                 {"--enter", do_enter},
                 {"--work-in-a-team", do_work_in_a_team},
                 {"--clear-a-sticky-folder", do_clear_a_sticky_folder},
                 {"--fill-it-up", do_fill_it_up},
                 {"--change-nothing", do_change_nothing}};
    if (argc == 3) {
        (void)umask(022);
        CHECK(chdir(argv[2]) == 0);
        for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
            if (strcmp(argv[1], modes[i].mode) == 0)
                return modes[i].run();
        return 2;
    }
    mounted_need_fuse();
    if (geteuid() != 0) {
        const char *required = getenv("BG_TEST_REQUIRE");
        (void)fprintf(stderr, "only root can act as others\n");
        return required && strstr(required, "root") ? 1 : 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_files_belong_to_the_user_of_the_guest),
        cmocka_unit_test(files_of_others_belong_to_nobody),
        cmocka_unit_test(the_guests_rights_count),
        cmocka_unit_test(a_root_that_changes_can_be_entered_at_once),
        cmocka_unit_test(further_groups_of_the_guests_user_count),
        cmocka_unit_test(sticky_folders_keep_the_files_of_others),
        cmocka_unit_test(a_full_file_system_says_so),
        cmocka_unit_test(a_read_only_file_system_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
