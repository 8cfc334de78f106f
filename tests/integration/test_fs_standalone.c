/* The mount and the file server together, without a VM: a real /dev/fuse, real programs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "fs/proto/proto.h"
#include "tests/integration/fs/mounted.h"
#include "tests/integration/fs/posix_table.h"
#include "tests/integration/fs/random_ops.h"

#define PLAIN_USER  1u /* daemon: there on every Debian, and nobody's login */
#define FILES_MANY  25000u
#define FOLDERS     250u
#define USERS       20u
#define BIG_SIZE    (256u << 20)
#define DEADLINE_MS "1000"

/* ---- POSIX ---- */

struct posix_run {
    const char *folder;
    const struct posix_case *which;
};

static void run_posix_case(void **state)
{
    const struct posix_run *run = *state;
    char path[256];
    mounted_path(run->folder, run->which->name, path);
    assert_int_equal(mkdir(path, 0755), 0);
    assert_int_equal(chdir(path), 0);
    run->which->run();
    assert_int_equal(chdir("/"), 0);
}

/* A table as a test group of its own, in this folder. Returns how many failed. */
static int run_posix_table(const struct posix_table *table, const char *folder, bool is_mount)
{
    struct CMUnitTest *tests = calloc(table->count, sizeof *tests);
    struct posix_run *runs = calloc(table->count, sizeof *runs);
    size_t count = 0;
    for (size_t i = 0; tests && runs && i < table->count; i++) {
        if (table->cases[i].differs && !is_mount)
            continue;
        runs[count] = (struct posix_run){.folder = folder, .which = &table->cases[i]};
        tests[count] = (struct CMUnitTest){.name = table->cases[i].name,
                                           .test_func = run_posix_case,
                                           .initial_state = &runs[count]};
        count++;
    }
    int failed = _cmocka_run_group_tests(folder, tests, count, NULL, NULL);
    free(tests);
    free(runs);
    return failed;
}

static int run_posix_tables(const char *folder, bool is_mount)
{
    static const struct posix_table *const tables[] = {&posix_basics, &posix_names,   &posix_data,
                                                       &posix_times,  &posix_folders, &posix_locks};
    int failed = 0;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        failed += run_posix_table(tables[i], folder, is_mount);
    return failed;
}

static void posix_calls_do_what_they_should(void **state)
{
    (void)state;
    static const uid_t users[] = {0, PLAIN_USER};
    for (size_t i = 0; i < 2; i++) {
        if (users[i] != 0 && geteuid() != 0)
            continue;
        struct mounted_opts opts = mounted_usual();
        opts.user = users[i];
        struct mounted *m = mounted_new(&opts);
        mounted_run_self_as(users[i], "--posix-mount", m->mount);
        mounted_free(m);
        /* And so do they on a local file system: the tables are right. */
        char local[] = "/var/tmp/bg-fs-XXXXXX";
        assert_non_null(mkdtemp(local));
        assert_int_equal(chown(local, users[i] ? users[i] : geteuid(), (gid_t)-1), 0);
        mounted_run_self_as(users[i], "--posix-local", local);
        mounted_remove_all(local);
    }
}

/* ---- size and number ---- */

static void a_big_file_comes_back_as_it_was(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    char written[256], stored[256];
    const size_t chunk = 3u << 20; /* not a multiple of what one request holds */
    uint64_t *bytes = malloc(chunk), *back = malloc(chunk);
    assert_non_null(bytes);
    assert_non_null(back);
    mounted_path(m->mount, "big", written);
    mounted_path(m->source, "big", stored);
    int fd = open(written, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    for (size_t at = 0; at < BIG_SIZE; at += chunk) {
        for (size_t i = 0; i < chunk / 8; i++)
            bytes[i] = (at + i * 8) * 0x9e3779b97f4a7c15u;
        assert_int_equal(write(fd, bytes, chunk), chunk);
    }
    assert_int_equal(fsync(fd), 0);
    int source = open(stored, O_RDONLY | O_CLOEXEC);
    assert_true(source >= 0);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    for (size_t at = 0; at < BIG_SIZE; at += chunk) {
        for (size_t i = 0; i < chunk / 8; i++)
            bytes[i] = (at + i * 8) * 0x9e3779b97f4a7c15u;
        assert_int_equal(pread(source, back, chunk, (off_t)at), chunk);
        assert_memory_equal(back, bytes, chunk);
        assert_int_equal(pread(fd, back, chunk, (off_t)at), chunk);
        assert_memory_equal(back, bytes, chunk);
    }
    (void)close(source);
    (void)close(fd);
    free(bytes);
    free(back);
    mounted_free(m);
}

static void make_many_files(const char *folder)
{
    char name[64], path[256];
    for (unsigned d = 0; d < FOLDERS; d++) {
        (void)snprintf(name, sizeof name, "%u", d);
        mounted_path(folder, name, path);
        assert_int_equal(mkdir(path, 0755), 0);
        for (unsigned f = 0; f < FILES_MANY / FOLDERS; f++) {
            (void)snprintf(name, sizeof name, "%u/%u", d, f);
            mounted_put(folder, name, name);
        }
    }
}

static unsigned files_seen;

static int see_file(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)walk;
    (void)st;
    if (type == FTW_D || type == FTW_DP)
        return 0;
    if (type != FTW_F)
        return 1;
    if (files_seen++ % 5 != 0)
        return 0; /* a round trip to open each would take a minute */
    char byte;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, &byte, 1);
    if (fd >= 0)
        (void)close(fd);
    return n == 1 ? 0 : 1;
}

/* Walks over all, then asks for each in another order, so that what was closed is opened again. */
static int read_many_files(const char *folder)
{
    char path[256], name[64];
    if (nftw(folder, see_file, 32, FTW_PHYS) != 0 || files_seen != FILES_MANY)
        return 1;
    for (unsigned f = 0; f < FILES_MANY / FOLDERS; f++)
        for (unsigned d = 0; d < FOLDERS; d++) {
            (void)snprintf(name, sizeof name, "%u/%u", d, f);
            mounted_path(folder, name, path);
            if (see_file(path, NULL, FTW_F, NULL) != 0)
                return 1;
        }
    return 0;
}

static void many_files_do_not_run_out_of_fds(void **state)
{
    (void)state;
    static const struct {
        uid_t user;
        unsigned files_max;
    } table[] = {{0, 0}, {0, 600}, {PLAIN_USER, 600}};
    char tree[] = "/var/tmp/bg-fs-XXXXXX";
    assert_non_null(mkdtemp(tree));
    assert_int_equal(chmod(tree, 0755), 0);
    make_many_files(tree);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (table[i].user != 0 && geteuid() != 0)
            continue;
        struct mounted_opts opts = mounted_usual();
        opts.user = table[i].user;
        opts.files_max = table[i].files_max;
        opts.source = tree;
        struct mounted *m = mounted_new(&opts);
        mounted_run_self_as(opts.user, "--read-many", m->mount);
        mounted_free(m);
    }
    mounted_remove_all(tree);
}

/* ---- many at once ---- */

static int work_alone(const char *folder, unsigned number)
{
    char path[256], path2[256], name[32];
    (void)snprintf(name, sizeof name, "user-%u", number);
    mounted_path(folder, name, path);
    if (mkdir(path, 0755) < 0)
        return 1;
    (void)snprintf(name, sizeof name, "user-%u/file", number);
    mounted_path(folder, name, path);
    if (random_file_ops(path, NULL, number + 1, 300) != 0)
        return 2;
    mounted_path(folder, "shared", path2);
    for (unsigned i = 0; i < 50; i++) {
        int fd = open(path2, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0 || write(fd, "0123456789abcdef", 16) != 16 || close(fd) < 0)
            return 3;
        (void)snprintf(name, sizeof name, "moving-%u", i % 7);
        mounted_path(folder, name, path);
        int made = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        if (made >= 0)
            (void)close(made);
        (void)snprintf(name, sizeof name, "moving-%u", (i + number) % 7);
        mounted_path(folder, name, path2);
        if (rename(path, path2) < 0 && errno != ENOENT)
            return 4;
        mounted_path(folder, "shared", path2);
        struct stat st;
        if (stat(path2, &st) < 0)
            return 5;
    }
    return 0;
}

static void twenty_users_work_side_by_side(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    pid_t pids[USERS];
    for (unsigned i = 0; i < USERS; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0)
            _exit(work_alone(m->mount, i));
    }
    for (unsigned i = 0; i < USERS; i++)
        assert_int_equal(mounted_wait(pids[i]), 0);
    char path[256];
    struct stat st;
    mounted_path(m->source, "shared", path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 16 * 50 * USERS); /* no append was lost */
    mounted_free(m);
}

/* ---- random ---- */

/* One more than a fixed few: the environment's, to do a failure again, or a new one each time. */
static uint64_t extra_seed(void)
{
    const char *given = getenv("BG_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : 0;
    while (seed == 0)
        assert_int_equal(getrandom(&seed, sizeof seed, 0), sizeof seed);
    return seed;
}

static void random_operations_give_the_same_tree(void **state)
{
    (void)state;
    const uint64_t seeds[] = {77, 154, 231, 308, extra_seed()};
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
        char shadow[256], mirror[256], behind[256], name[32];
        (void)snprintf(name, sizeof name, "shadow-%zu", i);
        mounted_path(m->base, name, shadow);
        mounted_path(m->mount, name, mirror);
        mounted_path(m->source, name, behind);
        assert_int_equal(mkdir(shadow, 0755), 0);
        assert_int_equal(mkdir(mirror, 0755), 0);
        if (random_tree_ops(shadow, mirror, behind, seeds[i], 3000) != 0)
            fail_msg("BG_TEST_SEED=%llu does it again", (unsigned long long)seeds[i]);
    }
    mounted_free(m);
}

static void random_reads_and_writes_agree(void **state)
{
    (void)state;
    const uint64_t seeds[] = {1234, 2468, 3702, extra_seed()};
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    char path[256], behind[256];
    mounted_path(m->mount, "file", path);
    mounted_path(m->source, "file", behind);
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++)
        if (random_file_ops(path, behind, seeds[i], 2000) != 0)
            fail_msg("BG_TEST_SEED=%llu does it again", (unsigned long long)seeds[i]);
    mounted_free(m);
}

/* ---- git ---- */

static int git(const char *folder, const char *arguments)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char shell[] = "/bin/sh", dash_c[] = "-c", *script = NULL;
        if (asprintf(&script,
                     "cd '%s' && export HOME=/nonexistent GIT_CONFIG_NOSYSTEM=1 && "
                     "set -- git -c user.name=t -c user.email=t@t -c init.defaultBranch=m && %s",
                     folder, arguments) < 0)
            _exit(126);
        char *argv[] = {shell, dash_c, script, NULL};
        (void)execv(shell, argv);
        _exit(127);
    }
    return mounted_wait(pid);
}

static void git_works_on_the_mount(void **state)
{
    (void)state;
    if (access("/usr/bin/git", X_OK) < 0)
        skip();
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    assert_int_equal(git(m->mount, "\"$@\" init -q . && mkdir d && for i in $(seq 200); do echo $i "
                                   ">d/$i; done && \"$@\" add . && \"$@\" commit -qm one"),
                     0);
    assert_int_equal(git(m->mount, "\"$@\" checkout -qb two && echo x >d/1 && rm d/2 && "
                                   "\"$@\" commit -qam two && \"$@\" checkout -q m && "
                                   "\"$@\" gc -q && \"$@\" fsck --strict"),
                     0);
    assert_int_equal(git(m->mount, "test -z \"$(\"$@\" status --porcelain)\" && test -f d/2"), 0);
    /* The same repository, seen from the other side. */
    assert_int_equal(git(m->source,
                         "set -- \"$@\" -c safe.directory='*' && \"$@\" fsck --strict && "
                         "test -z \"$(\"$@\" status --porcelain)\""),
                     0);
    mounted_free(m);
}

/* ---- both sides ---- */

/* Waits until the mount shows the text; the kernel believes what it knows for a second. */
static void await_text(const char *folder, const char *name, const char *text)
{
    while (strcmp(mounted_get(folder, name), text) != 0)
        (void)poll(NULL, 0, 20); /* the alarm of the test is the deadline */
}

static void changes_of_the_guest_are_seen(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    char old[256], new[256];
    mounted_put(m->source, "f", "one");
    assert_string_equal(mounted_get(m->mount, "f"), "one");
    mounted_put(m->source, "f", "another text");
    await_text(m->mount, "f", "another text");
    mounted_path(m->source, "f", old);
    mounted_path(m->source, "g", new);
    assert_int_equal(rename(old, new), 0);
    await_text(m->mount, "f", strerror(ENOENT));
    assert_string_equal(mounted_get(m->mount, "g"), "another text");
    assert_int_equal(mkdir(old, 0755), 0); /* a folder where a file was */
    mounted_put(old, "in", "inside");
    await_text(m->mount, "f/in", "inside");
    mounted_path(m->source, "h", new);
    assert_int_equal(rename(old, new), 0);
    await_text(m->mount, "f/in", strerror(ENOENT));
    assert_string_equal(mounted_get(m->mount, "h/in"), "inside");
    mounted_put(m->mount, "h/in", "from the host");
    assert_string_equal(mounted_get(m->source, "h/in"), "from the host");
    mounted_free(m);
}

static void an_append_of_the_host_follows_one_of_the_guest(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    char guest[256], host[256];
    mounted_put(m->source, "log", "");
    mounted_path(m->source, "log", guest);
    mounted_path(m->mount, "log", host);
    int g = open(guest, O_WRONLY | O_APPEND | O_CLOEXEC);
    int h = open(host, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_int_equal(write(h, "h1 ", 3), 3);
    assert_int_equal(write(g, "g1 ", 3), 3);
    assert_int_equal(write(h, "h2 ", 3), 3);
    assert_int_equal(write(g, "g2 ", 3), 3);
    (void)close(g);
    (void)close(h);
    assert_string_equal(mounted_get(m->source, "log"), "h1 g1 h2 g2 ");
    await_text(m->mount, "log", "h1 g1 h2 g2 ");
    mounted_free(m);
}

static int set_lock(int fd, int command, short type)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = 5, .l_len = 5};
    return fcntl(fd, command, &lock) < 0 ? errno : 0;
}

static void signal_seen(int number)
{
    (void)number;
}

static void locks_count_on_both_sides(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    char path[256];
    mounted_put(m->source, "f", "0123456789");
    mounted_path(m->source, "f", path);
    int guest = open(path, O_RDWR | O_CLOEXEC);
    mounted_path(m->mount, "f", path);
    int host = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(set_lock(guest, F_SETLK, F_WRLCK), 0);
    assert_int_equal(set_lock(host, F_SETLK, F_WRLCK), EAGAIN);
    assert_int_equal(set_lock(host, F_SETLK, F_RDLCK), EAGAIN);

    /* One that waits gets it when it is free. */
    pid_t waiter = fork();
    assert_true(waiter >= 0);
    if (waiter == 0) {
        int fd = open(path, O_RDWR | O_CLOEXEC);
        _exit(set_lock(fd, F_SETLKW, F_WRLCK));
    }
    /* One that is interrupted does not. */
    pid_t interrupted = fork();
    assert_true(interrupted >= 0);
    if (interrupted == 0) {
        struct sigaction action = {.sa_handler = signal_seen};
        (void)sigaction(SIGALRM, &action, NULL);
        /* Again and again: the first may come before the wait begins. */
        const struct itimerval every = {.it_value = {.tv_sec = 1}, .it_interval = {.tv_sec = 1}};
        (void)setitimer(ITIMER_REAL, &every, NULL);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        _exit(set_lock(fd, F_SETLKW, F_WRLCK));
    }
    assert_int_equal(mounted_wait(interrupted), EINTR);
    assert_int_equal(set_lock(guest, F_SETLK, F_UNLCK), 0);
    assert_int_equal(mounted_wait(waiter), 0);
    /* What a slow server gave the other one after all is given back, which may take a moment. */
    assert_int_equal(set_lock(host, F_SETLKW, F_WRLCK), 0);
    assert_int_equal(set_lock(guest, F_SETLK, F_WRLCK), EAGAIN);
    (void)close(host);
    /* Closing reaches the server before close(2) returns. */
    assert_int_equal(set_lock(guest, F_SETLK, F_WRLCK), 0);
    host = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(flock(guest, LOCK_EX), 0);
    assert_int_equal(flock(host, LOCK_EX | LOCK_NB), -1);
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(flock(guest, LOCK_UN), 0);
    assert_int_equal(flock(host, LOCK_EX | LOCK_NB), 0);
    (void)close(guest);
    (void)close(host);
    mounted_free(m);
}

/* ---- what a hostile tree may hold ---- */

static void links_do_not_lead_out(void **state)
{
    (void)state;
    static const char *const texts[] = {"/etc/passwd", "../../../../../../etc/passwd", "..",
                                        "../x",        "a/../../../etc/passwd",        "/"};
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    char path[256], text[256];
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        mounted_path(m->source, "link", path);
        assert_int_equal(symlink(texts[i], path), 0);
        mounted_path(m->mount, "link", path);
        assert_int_equal(readlink(path, text, sizeof text), -1);
        assert_int_equal(errno, EPERM);
        assert_int_equal(open(path, O_RDONLY | O_CLOEXEC), -1);
        assert_int_equal(unlink(path), 0);
    }
    mounted_free(m);
}

static void special_files_are_empty_and_closed(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    char path[256];
    struct stat st;
    mounted_path(m->source, "pipe", path);
    assert_int_equal(mkfifo(path, 0666), 0);
    mounted_path(m->source, "suid", path);
    mounted_put(m->source, "suid", "x");
    assert_int_equal(chmod(path, 06755), 0);
    mounted_path(m->mount, "pipe", path);
    assert_int_equal(lstat(path, &st), 0);
    assert_int_equal(st.st_mode, S_IFREG);
    assert_int_equal(open(path, O_RDONLY | O_CLOEXEC), -1);
    assert_int_equal(errno, EACCES);
    mounted_path(m->mount, "suid", path);
    assert_int_equal(lstat(path, &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | 0755);
    mounted_free(m);
}

static void a_whole_machine_shows_no_kernel_views(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    opts.source = "/";
    opts.serve[0] = "--read-only";
    struct mounted *m = mounted_new(&opts);
    static const char *const hollow[] = {"proc", "sys"};
    char path[256];
    for (size_t i = 0; i < 2; i++) {
        mounted_path(m->mount, hollow[i], path);
        DIR *dir = opendir(path);
        assert_non_null(dir);
        for (const struct dirent *entry; (entry = readdir(dir));)
            assert_int_equal(entry->d_name[0], '.');
        (void)closedir(dir);
    }
    assert_string_equal(mounted_get(m->mount, "proc/version"), strerror(ENOENT));
    /* Absolute links of the machine lead to where they do there. */
    mounted_path(m->base, "absolute", path);
    assert_int_equal(symlink("/etc/debian_version", path), 0);
    char name[256];
    (void)snprintf(name, sizeof name, "%s", path + 1);
    char wanted[4096];
    (void)snprintf(wanted, sizeof wanted, "%s", mounted_get("/etc", "debian_version"));
    assert_string_equal(mounted_get(m->mount, name), wanted);
    mounted_path(m->mount, "new", path);
    assert_int_equal(mkdir(path, 0755), -1);
    assert_int_equal(errno, EROFS);
    mounted_free(m);
}

/* ---- dead and mute servers ---- */

static void a_dead_server_is_an_error_and_no_wait(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    char path[256], byte;
    mounted_put(m->source, "f", "text");
    mounted_path(m->mount, "f", path);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(kill(m->server, SIGKILL), 0);
    while (pread(fd, &byte, 1, 0) == 1) /* the page cache may know it for a moment */
        assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    assert_int_equal(errno, EIO);
    assert_int_equal(pwrite(fd, "x", 1, 0), -1);
    assert_int_equal(errno, EIO);
    (void)close(fd);
    mounted_path(m->mount, "new", path);
    assert_int_equal(mkdir(path, 0755), -1);
    assert_int_equal(errno, EIO);
    struct statfs fs;
    struct stat st;
    assert_int_equal(statfs(m->mount, &fs), 0);
    assert_int_equal(stat(m->mount, &st), 0);
    mounted_free(m); /* unmounts */
}

/* A server that says hello, shows its root, and then only listens. */
static void be_mute(int stream)
{
    static uint8_t bytes[BG_FS_MESSAGE_MAX];
    struct fs_hello hello = {.server = true};
    fs_hello_emit(&hello, bytes);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (bg_write_full(stream, bytes, FS_HELLO_SIZE) < 0 ||
        bg_read_full(stream, bytes, FS_HELLO_SIZE) < 0)
        _exit(1);
    bool answered = false;
    for (;;) {
        size_t size;
        struct fs_request request;
        if (bg_read_full(stream, bytes, 4) < 0 ||
            fs_message_size(bytes, FS_REQUEST_HEADER_SIZE, &size, NULL) < 0 ||
            bg_read_full(stream, bytes + 4, size - 4) < 0 ||
            fs_request_parse(bytes, size, &request, NULL) < 0)
            _exit(0);
        if (request.opcode != FUSE_GETATTR || answered)
            continue;
        struct fs_reply reply = {.unique = request.unique,
                                 .attr = {.ino = 1, .mode = S_IFDIR | 0755, .nlink = 2}};
        struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
        fs_reply_emit(FUSE_GETATTR, &reply, &w);
        answered = true;
        if (bg_write_full(stream, bytes, w.used) < 0)
            _exit(1);
    }
}

static struct mounted *mount_mute(pid_t *ret_server)
{
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    *ret_server = fork();
    assert_true(*ret_server >= 0);
    if (*ret_server == 0) {
        (void)close(sockets[0]);
        be_mute(sockets[1]);
    }
    (void)close(sockets[1]);
    struct mounted_opts opts = mounted_usual();
    opts.stream = sockets[0];
    opts.mount[0] = "--deadline-ms";
    opts.mount[1] = DEADLINE_MS;
    return mounted_new(&opts);
}

static void a_mute_server_is_an_error_at_the_deadline(void **state)
{
    (void)state;
    pid_t server;
    struct mounted *m = mount_mute(&server);
    char path[256], path2[256];
    mounted_path(m->mount, "x", path);
    mounted_path(m->mount, "y", path2);
    pid_t pids[8];
    for (size_t i = 0; i < 8; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] > 0)
            continue;
        struct stat st;
        int r = 0;
        switch (i) {
        case 0:
            r = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
            break;
        case 1:
            r = mkdir(path, 0755);
            break;
        case 2:
            r = unlink(path);
            break;
        case 3:
            r = rename(path, path2);
            break;
        case 4:
            r = symlink("z", path);
            break;
        case 5:
            r = opendir(m->mount) ? 0 : -1;
            break;
        case 6:
            r = (int)listxattr(m->mount, path, 1);
            break;
        default:
            r = lstat(path2, &st);
            break;
        }
        _exit(r < 0 && errno == EIO ? 0 : 1);
    }
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(mounted_wait(pids[i]), 0);
    struct stat st;
    assert_int_equal(stat(m->mount, &st), 0); /* from memory */
    mounted_free(m);
    assert_int_equal(mounted_wait(server), 0);
}

/* Trap: SIGKILL alone does not free a process that waits for an answer; the end of the relay does.
 */
static void the_end_of_the_relay_frees_who_waits(void **state)
{
    (void)state;
    pid_t server;
    struct mounted *m = mount_mute(&server);
    char path[256];
    mounted_path(m->mount, "x", path);
    pid_t waiting = fork();
    assert_true(waiting >= 0);
    if (waiting == 0) {
        struct stat st;
        _exit(lstat(path, &st) < 0 ? 0 : 1);
    }
    (void)kill(waiting, SIGKILL);
    assert_int_equal(kill(mounted_relay(m), SIGKILL), 0);
    int status;
    assert_int_equal(waitpid(waiting, &status, 0), waiting);
    assert_int_equal(mounted_wait(m->keeper), 0); /* unmounts by itself */
    assert_false(mounted_is(m->mount));
    assert_int_equal(mounted_wait(server), 0);
    mounted_remove_all(m->base);
    free(m);
}

static void a_mount_in_use_is_taken_down(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    char path[256];
    mounted_put(m->mount, "f", "text");
    mounted_path(m->mount, "f", path);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    mounted_free(m);
    char byte;
    assert_int_equal(pwrite(fd, "x", 1, 0), -1); /* the file system is no more */
    assert_int_equal(pread(fd, &byte, 1, 100), -1);
    (void)close(fd);
}

static void unmounting_from_outside_ends_the_programs(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    opts.user = geteuid() == 0 ? PLAIN_USER : 0;
    struct mounted *m = mounted_new(&opts);
    mounted_run_self_as(opts.user, "--unmount", m->mount);
    mounted_free(m); /* the keeper has ended, or is about to */
}

/* ---- confinement ---- */

static void field_of(pid_t pid, const char *field, char out[128])
{
    char path[64], line[256];
    (void)snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    out[0] = '\0';
    while (fgets(line, sizeof line, file))
        if (strncmp(line, field, strlen(field)) == 0)
            (void)snprintf(out, 128, "%.127s", line + strlen(field));
    (void)fclose(file);
}

/* How many fds of this process lead to /dev/fuse. */
static int fuse_fds(pid_t pid)
{
    char path[64], target[256];
    int count = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (const struct dirent *entry; (entry = readdir(dir));) {
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof target);
        count += n == 9 && memcmp(target, "/dev/fuse", 9) == 0;
    }
    (void)closedir(dir);
    return count;
}

static void the_relay_is_confined_and_alone(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip(); /* a user may not look into a process that cannot be dumped */
    static const uid_t users[] = {0, PLAIN_USER};
    for (size_t i = 0; i < 2; i++) {
        struct mounted_opts opts = mounted_usual();
        opts.user = users[i];
        struct mounted *m = mounted_new(&opts);
        pid_t relay = mounted_relay(m);
        char value[128];
        assert_int_equal(fuse_fds(relay), 1);
        assert_int_equal(fuse_fds(m->keeper), 0);
        field_of(relay, "NoNewPrivs:", value);
        assert_int_equal(strtol(value, NULL, 10), 1);
        field_of(relay, "Seccomp:", value);
        assert_int_equal(strtol(value, NULL, 10), BG_SANITIZED ? 0 : 2);
        field_of(relay, "Uid:", value);
        assert_int_equal(strtol(value, NULL, 10), users[i] == 0 ? 65534 : users[i]);
        mounted_free(m);
    }
}

/* ---- errors ---- */

static void expect_refusal(const char *mountpoint, const char *text)
{
    int sockets[2];
    char line[1024];
    struct mounted_opts opts = mounted_usual();
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    (void)close(sockets[1]); /* nobody speaks there */
    pid_t pid = mounted_start(&opts, sockets[0], mountpoint, line, sizeof line);
    assert_int_equal(mounted_wait(pid), 1);
    if (!strstr(line, "\"error\":") || !strstr(line, text) || !strstr(line, "\"errno\":"))
        fail_msg("%s: %s", mountpoint, line);
}

static void refusals_say_what_to_do(void **state)
{
    (void)state;
    (void)alarm(60);
    expect_refusal("/nonexistent/folder", "mkdir it first");
    expect_refusal("/etc/passwd", "Not a directory");
    expect_refusal("/var/tmp", "closed the connection");
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    expect_refusal(m->mount, "bellglass umount");
    mounted_free(m);
}

int main(int argc, char **argv)
{
    if (argc == 3) {
        const char *mode = argv[1], *folder = argv[2];
        if (strcmp(mode, "--posix-mount") == 0)
            return run_posix_tables(folder, true);
        if (strcmp(mode, "--posix-local") == 0)
            return run_posix_tables(folder, false);
        if (strcmp(mode, "--read-many") == 0)
            return read_many_files(folder);
        if (strcmp(mode, "--unmount") == 0)
            return execlp("fusermount3", "fusermount3", "-u", folder, NULL);
        return 2; /* running the tests in here would start this again, without end */
    }
    mounted_need_fuse();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(posix_calls_do_what_they_should),
        cmocka_unit_test(a_big_file_comes_back_as_it_was),
        cmocka_unit_test(many_files_do_not_run_out_of_fds),
        cmocka_unit_test(twenty_users_work_side_by_side),
        cmocka_unit_test(random_operations_give_the_same_tree),
        cmocka_unit_test(random_reads_and_writes_agree),
        cmocka_unit_test(git_works_on_the_mount),
        cmocka_unit_test(changes_of_the_guest_are_seen),
        cmocka_unit_test(an_append_of_the_host_follows_one_of_the_guest),
        cmocka_unit_test(locks_count_on_both_sides),
        cmocka_unit_test(links_do_not_lead_out),
        cmocka_unit_test(special_files_are_empty_and_closed),
        cmocka_unit_test(a_whole_machine_shows_no_kernel_views),
        cmocka_unit_test(a_dead_server_is_an_error_and_no_wait),
        cmocka_unit_test(a_mute_server_is_an_error_at_the_deadline),
        cmocka_unit_test(the_end_of_the_relay_frees_who_waits),
        cmocka_unit_test(a_mount_in_use_is_taken_down),
        cmocka_unit_test(unmounting_from_outside_ends_the_programs),
        cmocka_unit_test(the_relay_is_confined_and_alone),
        cmocka_unit_test(refusals_say_what_to_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
