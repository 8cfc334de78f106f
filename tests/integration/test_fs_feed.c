/* What others change in the served folder, as the mount shows it: caches are long, so a change that
 * is seen within the test's deadline was told. As root: a plain user's server has no feed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "fs/proto/change.h"
#include "fs/proto/proto.h"
#include "tests/integration/fs/mounted.h"

#define SEEN_MS     20000 /* a change; the caches alone would take 60 s */
#define ABSENT_MS   5000  /* for which the kernel knows that a name is not there */
#define FILES_MANY  300u
#define DEADLINE_MS "30000"
#define PLAIN_USER  1u /* daemon: there on every Debian, and nobody's login */
#define PLAIN_MODE  "--plain"
#define PAGES       64u
#define PAGE        4096u
#define OVERTAKEN   10u /* files, of this size before and after the change */
#define OLD_SIZE    1
#define NEW_SIZE    2

static off_t size_of(const char *folder, const char *name)
{
    struct stat st;
    char path[256];
    mounted_path(folder, name, path);
    return lstat(path, &st) < 0 ? -errno : st.st_size;
}

/* Reads all of the folder: the kernel keeps only what it has to the end. */
static bool has_name(const char *folder, const char *name)
{
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    bool found = false;
    for (const struct dirent *e; (e = readdir(dir));)
        found = found || strcmp(e->d_name, name) == 0;
    (void)closedir(dir);
    return found;
}

static uint64_t now_ms(void)
{
    return bg_now_ms();
}

/* Looks again until it is so; much earlier than a cache would end. */
#define AWAIT(condition)                                                                           \
    do {                                                                                           \
        uint64_t until_ms = now_ms() + SEEN_MS;                                                    \
        while (!(condition)) {                                                                     \
            if (now_ms() > until_ms)                                                               \
                fail_msg("not seen: %s", #condition);                                              \
            (void)poll(NULL, 0, 5);                                                                \
        }                                                                                          \
    } while (0)

static int setup(void **state)
{
    struct mounted_opts opts = mounted_usual();
    *state = mounted_new(&opts);
    return 0;
}

/* Without echoes, which ask the server for more. */
static int setup_unwatched(void **state)
{
    struct mounted_opts opts = mounted_usual();
    opts.mount[0] = "--watch";
    opts.mount[1] = "none";
    *state = mounted_new(&opts);
    return 0;
}

static int teardown(void **state)
{
    mounted_free(*state);
    return 0;
}

/* Waits until everything that was changed before has been told: this change is told after it. */
static void await_feed(const struct mounted *m)
{
    char path[256], text[4];
    mounted_put(m->source, "told", "old");
    mounted_path(m->mount, "told", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, text, sizeof text, 0), 3);
    mounted_path(m->source, "told", path);
    int source = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(source, "new", 3, 0), 3);
    AWAIT(pread(fd, text, sizeof text, 0) == 3 && memcmp(text, "new", 3) == 0);
    (void)close(source);
    (void)close(fd);
}

/* How many requests have reached the server is not to be seen from here; that the kernel asks
 * nobody can be: a stopped server does not answer. */
static void caches_answer_without_the_server(void **state)
{
    const struct mounted *m = *state;
    mounted_put(m->source, "f", "text");
    await_feed(m);
    assert_string_equal(mounted_get(m->mount, "f"), "text");
    assert_int_equal(size_of(m->mount, "f"), 4);
    assert_true(has_name(m->mount, "f"));
    assert_true(has_name(m->mount, "f"));
    char none[32];
    uint64_t asked_ms;
    unsigned tries = 0;
    do { /* that a name is not there may be forgotten before the server stands still */
        int status;
        if (tries > 0)
            assert_int_equal(kill(m->server, SIGCONT), 0);
        (void)snprintf(none, sizeof none, "none%u", tries++);
        asked_ms = now_ms();
        assert_int_equal(size_of(m->mount, none), -ENOENT);
        assert_int_equal(kill(m->server, SIGSTOP), 0);
        assert_int_equal(waitpid(m->server, &status, WUNTRACED), m->server);
    } while (now_ms() - asked_ms > ABSENT_MS / 2);
    assert_int_equal(size_of(m->mount, none), -ENOENT);
    assert_int_equal(size_of(m->mount, "f"), 4);
    assert_string_equal(mounted_get(m->mount, "f"), "text"); /* opened and closed, too */
    assert_true(has_name(m->mount, "f"));
    assert_int_equal(kill(m->server, SIGCONT), 0);
}

/* What WRITEBACK_CACHE and the like get wrong: a file that the host knows grows in the guest. */
static void size_and_contents_follow(void **state)
{
    const struct mounted *m = *state;
    char path[256];
    mounted_put(m->source, "f", "12345");
    assert_string_equal(mounted_get(m->mount, "f"), "12345");
    assert_int_equal(size_of(m->mount, "f"), 5);
    mounted_path(m->source, "f", path);
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_int_equal(write(fd, "67890", 5), 5);
    AWAIT(size_of(m->mount, "f") == 10);
    AWAIT(strcmp(mounted_get(m->mount, "f"), "1234567890") == 0);
    assert_int_equal(pwrite(fd, "x", 1, 0), 1); /* O_APPEND: at the end all the same */
    AWAIT(strcmp(mounted_get(m->mount, "f"), "1234567890x") == 0);
    (void)close(fd);
    mounted_put(m->source, "f", "same size!!");
    AWAIT(strcmp(mounted_get(m->mount, "f"), "same size!!") == 0);
    assert_int_equal(truncate(path, 4), 0);
    AWAIT(strcmp(mounted_get(m->mount, "f"), "same") == 0);
}

static void an_open_file_follows(void **state)
{
    const struct mounted *m = *state;
    char path[256], text[16];
    mounted_put(m->source, "f", "old");
    mounted_path(m->mount, "f", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, text, sizeof text, 0), 3);
    mounted_put(m->source, "f", "new");
    AWAIT(pread(fd, text, sizeof text, 0) == 3 && memcmp(text, "new", 3) == 0);
    mounted_put(m->source, "f", "longer");
    AWAIT(pread(fd, text, sizeof text, 0) == 6 && memcmp(text, "longer", 6) == 0);
    mounted_path(m->source, "f", path);
    assert_int_equal(unlink(path), 0);
    AWAIT(size_of(m->mount, "f") == -ENOENT);
    assert_int_equal(pread(fd, text, sizeof text, 0), 6); /* as on any file system */
    assert_memory_equal(text, "longer", 6);
    mounted_put(m->source, "f", "another");
    AWAIT(strcmp(mounted_get(m->mount, "f"), "another") == 0);
    assert_int_equal(pread(fd, text, sizeof text, 0), 6);
    assert_memory_equal(text, "longer", 6);
    (void)close(fd);
}

static void names_come_and_go(void **state)
{
    const struct mounted *m = *state;
    char old[256], new[256];
    assert_false(has_name(m->mount, "f"));
    assert_int_equal(size_of(m->mount, "f"), -ENOENT);
    mounted_put(m->source, "f", "text");
    AWAIT(size_of(m->mount, "f") == 4);
    AWAIT(has_name(m->mount, "f"));
    mounted_path(m->source, "f", old);
    mounted_path(m->source, "g", new);
    assert_int_equal(rename(old, new), 0);
    AWAIT(size_of(m->mount, "f") == -ENOENT && size_of(m->mount, "g") == 4);
    AWAIT(!has_name(m->mount, "f") && has_name(m->mount, "g"));
    mounted_put(m->source, "f", "f");
    AWAIT(size_of(m->mount, "f") == 1);
    assert_int_equal(rename(old, new), 0); /* over the other */
    AWAIT(size_of(m->mount, "g") == 1);
    assert_int_equal(link(new, old), 0);
    AWAIT(size_of(m->mount, "f") == 1);
    assert_int_equal(unlink(new), 0);
    AWAIT(size_of(m->mount, "g") == -ENOENT);
}

static void a_folder_moves_with_what_is_in_it(void **state)
{
    const struct mounted *m = *state;
    char a[256], b[256], sub[256];
    mounted_path(m->source, "a", a);
    mounted_path(m->source, "b", b);
    assert_int_equal(mkdir(a, 0755), 0);
    mounted_path(m->source, "a/sub", sub);
    assert_int_equal(mkdir(sub, 0755), 0);
    mounted_put(sub, "f", "deep");
    assert_string_equal(mounted_get(m->mount, "a/sub/f"), "deep");
    assert_int_equal(rename(a, b), 0);
    AWAIT(strcmp(mounted_get(m->mount, "a/sub/f"), strerror(ENOENT)) == 0);
    AWAIT(strcmp(mounted_get(m->mount, "b/sub/f"), "deep") == 0);
    assert_int_equal(mkdir(a, 0755), 0); /* another one where it was */
    mounted_put(a, "f", "new");
    AWAIT(strcmp(mounted_get(m->mount, "a/f"), "new") == 0);
    mounted_put(m->source, "b/sub/f", "deeper");
    AWAIT(strcmp(mounted_get(m->mount, "b/sub/f"), "deeper") == 0);
}

static void modes_times_and_links_follow(void **state)
{
    const struct mounted *m = *state;
    struct stat st;
    char source[256], mount[256];
    mounted_put(m->source, "f", "text");
    mounted_path(m->source, "f", source);
    mounted_path(m->mount, "f", mount);
    assert_int_equal(stat(mount, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0644);
    assert_int_equal(chmod(source, 0600), 0);
    AWAIT(stat(mount, &st) == 0 && (st.st_mode & 0777) == 0600);
    const struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 2000}};
    assert_int_equal(utimensat(AT_FDCWD, source, times, 0), 0);
    AWAIT(stat(mount, &st) == 0 && st.st_mtime == 2000);
    char other[256], link_source[256], link_mount[256];
    mounted_path(m->source, "g", other);
    assert_int_equal(link(source, other), 0);
    AWAIT(stat(mount, &st) == 0 && st.st_nlink == 2);
    assert_int_equal(unlink(other), 0);
    AWAIT(stat(mount, &st) == 0 && st.st_nlink == 1);
    mounted_path(m->source, "l", link_source);
    mounted_path(m->mount, "l", link_mount);
    assert_int_equal(symlink("f", link_source), 0);
    AWAIT(lstat(link_mount, &st) == 0);
    assert_int_equal(utimensat(AT_FDCWD, link_source, times, AT_SYMLINK_NOFOLLOW), 0);
    AWAIT(lstat(link_mount, &st) == 0 && st.st_mtime == 2000);
    assert_int_equal(unlink(link_source), 0);
    assert_int_equal(symlink("none", link_source), 0);
    char text[16];
    AWAIT(readlink(link_mount, text, sizeof text) == 4 && memcmp(text, "none", 4) == 0);
}

/* The host's own changes are not told to it: the kernel has to know by itself. */
static void what_the_host_does_is_seen_there_at_once(void **state)
{
    const struct mounted *m = *state;
    char f[256], g[256], folder[256];
    struct stat before, st;
    mounted_path(m->mount, "f", f);
    mounted_path(m->mount, "g", g);
    mounted_path(m->mount, "folder", folder);
    assert_int_equal(stat(m->mount, &before), 0);
    assert_int_equal(size_of(m->mount, "f"), -ENOENT);
    mounted_put(m->mount, "f", "one");
    assert_string_equal(mounted_get(m->mount, "f"), "one");
    assert_int_equal(size_of(m->mount, "f"), 3);
    assert_true(has_name(m->mount, "f"));
    int fd = open(f, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_int_equal(write(fd, "two", 3), 3);
    assert_int_equal(size_of(m->mount, "f"), 6);
    assert_string_equal(mounted_get(m->mount, "f"), "onetwo");
    assert_int_equal(ftruncate(fd, 2), 0);
    assert_int_equal(size_of(m->mount, "f"), 2);
    assert_int_equal(fallocate(fd, 0, 0, 5000), 0);
    assert_int_equal(size_of(m->mount, "f"), 5000);
    (void)close(fd);
    assert_int_equal(link(f, g), 0);
    assert_true(stat(f, &st) == 0 && st.st_nlink == 2);
    assert_true(has_name(m->mount, "g"));
    assert_int_equal(unlink(f), 0);
    assert_true(stat(g, &st) == 0 && st.st_nlink == 1);
    assert_int_equal(size_of(m->mount, "f"), -ENOENT);
    assert_false(has_name(m->mount, "f"));
    assert_int_equal(rename(g, f), 0);
    assert_int_equal(size_of(m->mount, "g"), -ENOENT);
    assert_int_equal(size_of(m->mount, "f"), 5000);
    assert_int_equal(mkdir(folder, 0755), 0);
    assert_true(stat(m->mount, &st) == 0 && st.st_nlink == before.st_nlink + 1);
    assert_int_equal(rmdir(folder), 0);
    assert_true(stat(m->mount, &st) == 0 && st.st_nlink == before.st_nlink);
    assert_int_equal(chmod(f, 0600), 0);
    assert_true(stat(f, &st) == 0 && (st.st_mode & 0777) == 0600);
}

/* Both append to one file; the kernel of the mount does not know where the end is. */
static void both_sides_write_one_file(void **state)
{
    const struct mounted *m = *state;
    char guest[256], host[256], want[1024] = "";
    size_t used = 0;
    mounted_put(m->source, "log", "");
    mounted_path(m->source, "log", guest);
    mounted_path(m->mount, "log", host);
    int g = open(guest, O_WRONLY | O_APPEND | O_CLOEXEC);
    int h = open(host, O_RDWR | O_APPEND | O_CLOEXEC);
    assert_true(g >= 0 && h >= 0);
    for (unsigned i = 0; i < 50; i++) {
        char line[16];
        int size = snprintf(line, sizeof line, "%c%u\n", i % 3 ? 'h' : 'g', i);
        assert_int_equal(write(i % 3 ? h : g, line, (size_t)size), size);
        memcpy(want + used, line, (size_t)size + 1);
        used += (size_t)size;
    }
    assert_string_equal(mounted_get(m->source, "log"), want);
    AWAIT(strcmp(mounted_get(m->mount, "log"), want) == 0);
    char text[1024];
    AWAIT(pread(h, text, sizeof text, 0) == (ssize_t)strlen(want) &&
          memcmp(text, want, strlen(want)) == 0);
    (void)close(g);
    (void)close(h);
}

/* A mapping writes without an event; closing the file makes one. */
static void a_mapping_of_the_guest_is_seen_at_its_close(void **state)
{
    const struct mounted *m = *state;
    char path[256];
    mounted_put(m->source, "f", "mapped text");
    assert_string_equal(mounted_get(m->mount, "f"), "mapped text");
    mounted_path(m->source, "f", path);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char *map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(map != MAP_FAILED);
    memcpy(map, "MAPPED", 6);
    assert_int_equal(munmap(map, PAGE), 0);
    (void)close(fd);
    AWAIT(strcmp(mounted_get(m->mount, "f"), "MAPPED text") == 0);
}

/* More than the relay's queue, in one go. */
static void many_changes_at_once(void **state)
{
    const struct mounted *m = *state;
    char name[32];
    for (unsigned i = 0; i < FILES_MANY; i++) {
        (void)snprintf(name, sizeof name, "f%u", i);
        mounted_put(m->source, name, "old");
        assert_string_equal(mounted_get(m->mount, name), "old");
    }
    for (unsigned round = 0; round < 20; round++)
        for (unsigned i = 0; i < FILES_MANY; i++) {
            (void)snprintf(name, sizeof name, "f%u", i);
            mounted_put(m->source, name, round == 19 ? "last" : "some");
        }
    for (unsigned i = 0; i < FILES_MANY; i++) {
        (void)snprintf(name, sizeof name, "f%u", i);
        AWAIT(strcmp(mounted_get(m->mount, name), "last") == 0);
    }
}

/* The guest writes a file page by page, each whole page one number, while the host reads: what the
 * host sees in the end is the last, though reads and changes crossed all the time. */
static void reads_that_cross_a_change_are_not_kept(void **state)
{
    const struct mounted *m = *state;
    char guest[256], host[256];
    static uint8_t pages[PAGES * PAGE];
    mounted_path(m->source, "f", guest);
    mounted_path(m->mount, "f", host);
    pid_t writer = fork();
    assert_true(writer >= 0);
    if (writer == 0) {
        static uint8_t page[PAGE];
        int fd = open(guest, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        for (unsigned round = 0; round <= 50; round++)
            for (unsigned i = 0; i < PAGES; i++) {
                memset(page, (int)round, sizeof page);
                if (pwrite(fd, page, PAGE, (off_t)i * PAGE) != (ssize_t)PAGE)
                    _exit(1);
            }
        _exit(0);
    }
    int status;
    int fd = -1;
    while (waitpid(writer, &status, WNOHANG) == 0) {
        if (fd < 0)
            fd = open(host, O_RDONLY | O_CLOEXEC);
        else if (pread(fd, pages, sizeof pages, 0) < 0)
            fail_msg("read: %s", strerror(errno));
    }
    assert_int_equal(WEXITSTATUS(status), 0);
    AWAIT(fd >= 0 || (fd = open(host, O_RDONLY | O_CLOEXEC)) >= 0);
    uint64_t until_ms = now_ms() + SEEN_MS;
    for (size_t good = 0; good < sizeof pages;) {
        if (now_ms() > until_ms)
            fail_msg("page %zu still has %u", good / PAGE, pages[good]);
        assert_true(pread(fd, pages, sizeof pages, 0) >= 0);
        for (good = 0; good < sizeof pages && pages[good] == 50;)
            good++;
    }
    (void)close(fd);
}

/* As that user, since nobody else may look into the mount. */
static int plain_user_sees_changes(const char *base)
{
    char source[256], mount[256];
    (void)alarm(SEEN_MS / 1000);
    mounted_path(base, "source", source);
    mounted_path(base, "mount", mount);
    mounted_put(source, "f", "one");
    if (strcmp(mounted_get(mount, "f"), "one") != 0)
        return 1;
    mounted_put(source, "f", "two");
    while (strcmp(mounted_get(mount, "f"), "two") != 0) /* a second, by the caches' time */
        (void)poll(NULL, 0, 5);
    return 0;
}

static void without_the_right_there_is_no_feed(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    opts.user = PLAIN_USER;
    struct mounted *m = mounted_new(&opts);
    mounted_run_self_as(PLAIN_USER, PLAIN_MODE, m->base);
    mounted_free(m);
}

/* ---- a server that goes wrong ---- */

static int read_request(int stream, uint8_t *bytes, struct fs_request *ret)
{
    size_t size;
    if (bg_read_full(stream, bytes, 4) < 0 ||
        fs_message_size(bytes, FS_REQUEST_HEADER_SIZE, &size, NULL) < 0 ||
        bg_read_full(stream, bytes + 4, size - 4) < 0)
        return -1;
    return fs_request_parse(bytes, size, ret, NULL);
}

/* As a server whose client is told of changes. */
static void greet(int stream)
{
    uint8_t bytes[FS_HELLO_SIZE];
    const struct fs_hello hello = {.server = true, .flags = FS_HELLO_FEED};
    fs_hello_emit(&hello, bytes);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (bg_write_full(stream, bytes, sizeof bytes) < 0 ||
        bg_read_full(stream, bytes, sizeof bytes) < 0)
        _exit(1);
}

/* An answer and a change, in one piece; either may be NULL. */
static void say(int stream, uint32_t opcode, const struct fs_reply *reply,
                const struct fs_change *change)
{
    uint8_t reply_bytes[512], change_bytes[512];
    struct bg_writer w = bg_writer_init(reply_bytes, sizeof reply_bytes);
    struct bg_writer changes = bg_writer_init(change_bytes, sizeof change_bytes);
    if (reply)
        fs_reply_emit(opcode, reply, &w);
    if (change) {
        fs_changes_begin(&changes);
        if (!fs_changes_add(&changes, change))
            _exit(1);
        fs_changes_end(&changes);
        bg_writer_bytes(&w, changes.start, changes.used);
    }
    if (!bg_writer_ok(&w) || bg_write_full(stream, reply_bytes, w.used) < 0)
        _exit(1);
}

/* Answers for its root only, and when it is asked for a name, says that names have changed: the
 * notice waits in the kernel for the folder's lock, which the process that asks has. */
static void be_a_trap(int stream, int asked_fd)
{
    static uint8_t bytes[BG_FS_MESSAGE_MAX];
    const struct fs_change change = {
        .kinds = FS_CHANGE_CREATED, .folder = 1, .name = "x", .name_size = 1};
    struct fs_request request;
    greet(stream);
    while (read_request(stream, bytes, &request) == 0) {
        const struct fs_reply root = {.unique = request.unique,
                                      .attr_valid = 1,
                                      .attr = {.ino = 1, .mode = S_IFDIR | 0755, .nlink = 2}};
        if (request.opcode == FUSE_LOOKUP) {
            say(stream, 0, NULL, &change);
            if (write(asked_fd, "", 1) != 1)
                _exit(1);
        }
        if (request.opcode == FUSE_GETATTR)
            say(stream, FUSE_GETATTR, &root, NULL);
    }
    _exit(0);
}

/* Has a file of every name, which grows as soon as somebody has been told of it: the change comes
 * right behind the answer. Files are nodes 2, 3, ... */
static void be_overtaken(int stream)
{
    static uint8_t bytes[BG_FS_MESSAGE_MAX];
    uint64_t last = 1;
    struct fs_request request;
    greet(stream);
    while (read_request(stream, bytes, &request) == 0) {
        struct fs_reply reply = {.unique = request.unique,
                                 .attr_valid = 1,
                                 .attr = {.mode = S_IFREG | 0644, .nlink = 1, .size = OLD_SIZE}};
        if (request.opcode == FUSE_GETATTR) {
            reply.attr.ino = request.node;
            reply.attr.size = NEW_SIZE;
            if (request.node == 1)
                reply.attr.mode = S_IFDIR | 0755;
            say(stream, FUSE_GETATTR, &reply, NULL);
        } else if (request.opcode == FUSE_LOOKUP) {
            reply.node = reply.attr.ino = ++last;
            const struct fs_change change = {.kinds = FS_CHANGE_MODIFIED, .node = last};
            say(stream, FUSE_LOOKUP, &reply, &change);
        }
    }
    _exit(0);
}

/* Keeps one processor busy. */
static pid_t start_busy(size_t cpu)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (sched_setaffinity(0, sizeof one, &one) < 0)
        _exit(1);
    for (;;)
        ;
}

/* Looks a name up in a process that runs last on a busy processor: what it was answered reaches its
 * kernel's caches only when the notice of the change has come. */
static void look_up_late(const char *path, size_t cpu)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const struct sched_param none = {0};
        struct stat st;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (sched_setaffinity(0, sizeof one, &one) < 0 ||
            sched_setscheduler(0, SCHED_IDLE, &none) < 0)
            _exit(2);
        _exit(lstat(path, &st) < 0 ? 1 : 0);
    }
    assert_int_equal(mounted_wait(pid), 0);
}

static void an_answer_that_a_change_overtakes_is_not_kept(void **state)
{
    (void)state;
    int sockets[2];
    size_t cpu = 0;
    cpu_set_t ours;
    assert_int_equal(sched_getaffinity(0, sizeof ours, &ours), 0);
    while (!CPU_ISSET(cpu, &ours))
        cpu++;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    pid_t server = fork();
    assert_true(server >= 0);
    if (server == 0) {
        (void)close(sockets[0]);
        be_overtaken(sockets[1]);
    }
    (void)close(sockets[1]);
    struct mounted_opts opts = mounted_usual();
    opts.stream = sockets[0];
    opts.mount[0] = "--watch"; /* nobody else looks the names up */
    opts.mount[1] = "none";
    struct mounted *m = mounted_new(&opts);
    pid_t busy = start_busy(cpu);
    for (unsigned i = 0; i < OVERTAKEN; i++) {
        char name[32], path[256];
        (void)snprintf(name, sizeof name, "f%u", i);
        mounted_path(m->mount, name, path);
        look_up_late(path, cpu);
        AWAIT(size_of(m->mount, name) == NEW_SIZE);
    }
    assert_int_equal(kill(busy, SIGKILL), 0);
    assert_int_equal(waitpid(busy, NULL, 0), busy);
    mounted_free(m);
    assert_int_equal(mounted_wait(server), 0);
}

/* True when a thread of the process waits in the kernel for a lock. */
static bool a_thread_waits(pid_t pid)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *dir = opendir(path);
    bool waits = false;
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        char line[512], file[384];
        (void)snprintf(file, sizeof file, "%s/%s/stat", path, e->d_name);
        FILE *stat_file = fopen(file, "re");
        if (stat_file && fgets(line, sizeof line, stat_file) && strstr(line, ") D "))
            waits = true; /* the first thread only ever sleeps */
        if (stat_file)
            (void)fclose(stat_file);
    }
    if (dir)
        (void)closedir(dir);
    return waits;
}

static struct mounted *mount_trap(pid_t *ret_server, int *ret_asked)
{
    int sockets[2], asked[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    assert_int_equal(pipe2(asked, O_CLOEXEC), 0);
    *ret_server = fork();
    assert_true(*ret_server >= 0);
    if (*ret_server == 0) {
        (void)close(sockets[0]);
        be_a_trap(sockets[1], asked[1]);
    }
    (void)close(sockets[1]);
    (void)close(asked[1]);
    *ret_asked = asked[0];
    struct mounted_opts opts = mounted_usual();
    opts.stream = sockets[0];
    opts.mount[0] = "--deadline-ms";
    opts.mount[1] = DEADLINE_MS;
    return mounted_new(&opts);
}

/* A process that waits for a look-up in the mount, while a notice waits for it. */
static pid_t start_waiting(const struct mounted *m, int asked)
{
    char path[256], byte;
    mounted_path(m->mount, "x", path);
    pid_t waiting = fork();
    assert_true(waiting >= 0);
    if (waiting == 0) {
        struct stat st;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644); /* holds the folder's lock */
        _exit(fd < 0 && lstat(path, &st) < 0 ? 0 : 1);
    }
    assert_int_equal(read(asked, &byte, 1), 1);
    AWAIT(a_thread_waits(mounted_relay(m)));
    return waiting;
}

/* Killed while one of its threads waits in the kernel for somebody who waits for it. */
static void a_killed_relay_frees_all_though_a_notice_waits(void **state)
{
    (void)state;
    pid_t server;
    int asked, status;
    struct mounted *m = mount_trap(&server, &asked);
    pid_t waiting = start_waiting(m, asked);
    assert_int_equal(kill(mounted_relay(m), SIGKILL), 0);
    assert_int_equal(waitpid(waiting, &status, 0), waiting);
    assert_int_equal(mounted_wait(m->keeper), 0); /* unmounts by itself */
    assert_false(mounted_is(m->mount));
    assert_int_equal(mounted_wait(server), 0);
    (void)close(asked);
    mounted_remove_all(m->base);
    free(m);
}

static void a_mount_ends_though_a_notice_waits(void **state)
{
    (void)state;
    pid_t server;
    int asked;
    struct mounted *m = mount_trap(&server, &asked);
    pid_t waiting = start_waiting(m, asked);
    mounted_free(m);
    assert_int_equal(mounted_wait(waiting), 0);
    assert_int_equal(mounted_wait(server), 0);
    (void)close(asked);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], PLAIN_MODE) == 0)
        return plain_user_sees_changes(argv[2]);
    mounted_need_fuse();
    if (geteuid() != 0) {
        const char *required = getenv("BG_TEST_REQUIRE");
        (void)fprintf(stderr, "only root may watch a file system\n");
        return required && strstr(required, "root") ? 1 : 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(caches_answer_without_the_server, setup_unwatched,
                                        teardown),
        cmocka_unit_test_setup_teardown(size_and_contents_follow, setup, teardown),
        cmocka_unit_test_setup_teardown(an_open_file_follows, setup, teardown),
        cmocka_unit_test_setup_teardown(names_come_and_go, setup, teardown),
        cmocka_unit_test_setup_teardown(a_folder_moves_with_what_is_in_it, setup, teardown),
        cmocka_unit_test_setup_teardown(modes_times_and_links_follow, setup, teardown),
        cmocka_unit_test_setup_teardown(what_the_host_does_is_seen_there_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(both_sides_write_one_file, setup, teardown),
        cmocka_unit_test_setup_teardown(a_mapping_of_the_guest_is_seen_at_its_close, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(many_changes_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_that_cross_a_change_are_not_kept, setup, teardown),
        cmocka_unit_test(without_the_right_there_is_no_feed),
        cmocka_unit_test(an_answer_that_a_change_overtakes_is_not_kept),
        cmocka_unit_test(a_killed_relay_frees_all_though_a_notice_waits),
        cmocka_unit_test(a_mount_ends_though_a_notice_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
