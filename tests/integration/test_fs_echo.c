/* Watchers on the mount: inotify events of the host for what others do in the served folder. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "tests/integration/fs/mounted.h"

#define SEEN_MS    20000
#define MASK       (IN_CREATE | IN_DELETE | IN_MODIFY | IN_ATTRIB | IN_MOVE | IN_CLOSE_WRITE)
#define MANY       2000u
#define PLAIN_USER 1u /* daemon: there on every Debian, and nobody's login */
#define PLAIN_MODE "--plain"

struct watch {
    int fd;
    char log[65536]; /* "CREATE a\n": what has come so far */
    size_t used, matched;
};

static const char *word_of(uint32_t mask)
{
    return mask & IN_CREATE        ? "CREATE"
           : mask & IN_DELETE      ? "DELETE"
           : mask & IN_MODIFY      ? "MODIFY"
           : mask & IN_ATTRIB      ? "ATTRIB"
           : mask & IN_MOVED_FROM  ? "MOVED_FROM"
           : mask & IN_MOVED_TO    ? "MOVED_TO"
           : mask & IN_CLOSE_WRITE ? "CLOSE_WRITE"
                                   : "other";
}

static void take_events(struct watch *w)
{
    union {
        struct inotify_event event;
        char bytes[16384];
    } u;
    ssize_t n = read(w->fd, &u, sizeof u);
    assert_true(n > 0);
    for (ssize_t at = 0; at < n;) {
        struct inotify_event event;
        memcpy(&event, u.bytes + at, sizeof event);
        const char *name = event.len > 0 ? u.bytes + at + sizeof event : "";
        if (sizeof w->log - w->used < 512)
            w->used = w->matched = 0; /* a flood: only what comes last is looked for */
        int size = snprintf(w->log + w->used, sizeof w->log - w->used, "%s %s%s\n",
                            word_of(event.mask), name, event.mask & IN_ISDIR ? "/" : "");
        w->used += (size_t)size;
        at += (ssize_t)(sizeof event + event.len);
    }
}

/* Waits for the line, after those that were waited for before. */
static void expect(struct watch *w, const char *line)
{
    char want[300];
    uint64_t until_ms = bg_now_ms() + SEEN_MS;
    (void)snprintf(want, sizeof want, "%s\n", line);
    for (;;) {
        const char *at = strstr(w->log + w->matched, want);
        if (at) {
            w->matched = (size_t)(at - w->log) + strlen(want);
            return;
        }
        uint64_t now_ms = bg_now_ms();
        struct pollfd fd = {.fd = w->fd, .events = POLLIN};
        if (now_ms >= until_ms || poll(&fd, 1, (int)(until_ms - now_ms)) <= 0)
            fail_msg("no %s after:\n%s", line, w->log);
        take_events(w);
    }
}

static void watch_it(struct watch *w, const char *path)
{
    if (w->fd <= 0)
        w->fd = inotify_init1(IN_CLOEXEC);
    assert_true(w->fd >= 0);
    assert_true(inotify_add_watch(w->fd, path, MASK) >= 0);
}

static int setup(void **state)
{
    struct mounted_opts opts = mounted_usual();
    *state = mounted_new(&opts);
    return 0;
}

static int teardown(void **state)
{
    mounted_free(*state);
    return 0;
}

static void files_come_change_and_go(void **state)
{
    const struct mounted *m = *state;
    static struct watch w;
    char path[256];
    watch_it(&w, m->mount);
    mounted_put(m->source, "f", "text");
    expect(&w, "CREATE f");
    expect(&w, "MODIFY f");
    expect(&w, "CLOSE_WRITE f");
    mounted_path(m->source, "f", path);
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_int_equal(write(fd, "more", 4), 4);
    expect(&w, "MODIFY f");
    (void)close(fd);
    expect(&w, "CLOSE_WRITE f");
    assert_int_equal(chmod(path, 0600), 0);
    expect(&w, "ATTRIB f");
    assert_int_equal(unlink(path), 0);
    expect(&w, "DELETE f");
    mounted_path(m->source, "l", path);
    assert_int_equal(symlink("f", path), 0);
    expect(&w, "CREATE l");
    (void)close(w.fd);
    struct stat st;
    mounted_path(m->mount, "l", path);
    assert_int_equal(lstat(path, &st), 0); /* the real one, not what stood for it */
    assert_true(S_ISLNK(st.st_mode));
    mounted_path(m->mount, "f", path);
    assert_int_equal(lstat(path, &st), -1);
}

static void folders_and_moves(void **state)
{
    const struct mounted *m = *state;
    static struct watch w;
    char a[256], b[256], file[256], moved[256];
    watch_it(&w, m->mount);
    mounted_path(m->source, "a", a);
    mounted_path(m->source, "b", b);
    assert_int_equal(mkdir(a, 0755), 0);
    expect(&w, "CREATE a/");
    mounted_path(m->mount, "a", file);
    watch_it(&w, file);
    mounted_put(m->source, "f", "x");
    expect(&w, "CREATE f");
    mounted_path(m->source, "f", file);
    mounted_path(m->source, "a/g", moved);
    assert_int_equal(rename(file, moved), 0);
    expect(&w, "MOVED_FROM f");
    expect(&w, "MOVED_TO g");
    assert_int_equal(rename(a, b), 0);
    expect(&w, "MOVED_FROM a/");
    expect(&w, "MOVED_TO b/");
    mounted_path(m->source, "b/g", moved);
    assert_int_equal(unlink(moved), 0); /* the watch has moved with the folder */
    expect(&w, "DELETE g");
    assert_int_equal(rmdir(b), 0);
    expect(&w, "DELETE b/");
    (void)close(w.fd);
}

/* As editors do: a new file takes the place of the old one. */
static void a_file_is_replaced(void **state)
{
    const struct mounted *m = *state;
    static struct watch w;
    char from[256], to[256], mount[256], text[8];
    mounted_put(m->source, "f", "old");
    mounted_path(m->mount, "f", mount);
    int fd = open(mount, O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(fd, text, sizeof text), 3);
    watch_it(&w, m->mount);
    mounted_put(m->source, "f.tmp", "new!");
    mounted_path(m->source, "f.tmp", from);
    mounted_path(m->source, "f", to);
    assert_int_equal(rename(from, to), 0);
    expect(&w, "CREATE f.tmp");
    expect(&w, "MOVED_FROM f.tmp");
    expect(&w, "MOVED_TO f");
    int again = open(mount, O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(again, text, sizeof text), 4);
    assert_memory_equal(text, "new!", 4);
    assert_int_equal(pread(fd, text, sizeof text, 0), 3); /* who has the old one open keeps it */
    (void)close(fd);
    (void)close(again);
    (void)close(w.fd);
}

/* Who has it mapped keeps it, though its name goes. */
static void a_file_that_goes_keeps_its_size(void **state)
{
    const struct mounted *m = *state;
    static struct watch w;
    char path[256];
    mounted_put(m->source, "f", "text");
    mounted_path(m->mount, "f", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    const char *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(map != MAP_FAILED);
    watch_it(&w, m->mount);
    mounted_path(m->source, "f", path);
    assert_int_equal(unlink(path), 0);
    expect(&w, "DELETE f");
    pid_t reader = fork();
    assert_true(reader >= 0);
    if (reader == 0)
        _exit(memcmp(map, "text", 4) == 0 ? 0 : 1); /* beyond its end it would be killed */
    assert_int_equal(mounted_wait(reader), 0);
    assert_int_equal(munmap((void *)(uintptr_t)map, 4096), 0);
    (void)close(fd);
    (void)close(w.fd);
}

/* The guest must not see any of it: a file's times and contents stay its own. */
static void the_guest_sees_no_echo(void **state)
{
    const struct mounted *m = *state;
    static struct watch w, guest;
    struct stat before, after;
    char path[256];
    mounted_put(m->source, "f", "text");
    watch_it(&w, m->mount);
    mounted_path(m->source, "f", path);
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_int_equal(write(fd, "more", 4), 4);
    (void)close(fd);
    expect(&w, "MODIFY f");
    expect(&w, "CLOSE_WRITE f");
    assert_int_equal(stat(path, &before), 0);
    assert_int_equal(before.st_size, 8);
    watch_it(&guest, m->source);
    const struct timespec times[2] = {{.tv_sec = 5}, {.tv_sec = 7}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    expect(&guest, "ATTRIB f");
    expect(&w, "ATTRIB f");
    mounted_put(m->source, "last", ""); /* by its echo all before is done */
    expect(&w, "CREATE last");
    expect(&guest, "CREATE last");
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(after.st_size, 8);
    assert_int_equal(after.st_mtime, 7);
    assert_null(strstr(guest.log, "MODIFY f"));
    (void)close(w.fd);
    (void)close(guest.fd);
}

/* What the host does itself makes the kernel's own events, once. */
static void the_host_is_not_echoed(void **state)
{
    const struct mounted *m = *state;
    static struct watch w;
    watch_it(&w, m->mount);
    mounted_put(m->mount, "mine", "text");
    mounted_put(m->source, "theirs", "text");
    expect(&w, "CREATE mine");
    expect(&w, "CREATE theirs");
    mounted_put(m->source, "last", "");
    expect(&w, "CREATE last");
    const char *first = strstr(w.log, "CREATE mine\n");
    assert_null(strstr(first + 1, "CREATE mine\n"));
    (void)close(w.fd);
}

static void names_that_are_hidden_make_no_event(void **state)
{
    const struct mounted *m = *state;
    static struct watch w;
    watch_it(&w, m->mount);
    mounted_put(m->source, "a\nb", "text");
    mounted_put(m->source, "last", "");
    expect(&w, "CREATE last");
    assert_null(strstr(w.log, "CREATE a"));
    (void)close(w.fd);
}

static pid_t echoer_of(const struct mounted *m)
{
    return mounted_child(mounted_relay(m));
}

static void more_than_can_be_told(void **state)
{
    const struct mounted *m = *state;
    static struct watch w;
    char folder[256], name[64];
    watch_it(&w, m->mount);
    mounted_path(m->source, "d", folder);
    assert_int_equal(mkdir(folder, 0755), 0);
    expect(&w, "CREATE d/"); /* else it is touched because it is known already */
    mounted_path(m->mount, "d", folder);
    watch_it(&w, folder);
    pid_t echoer = echoer_of(m);
    assert_int_equal(kill(echoer, SIGSTOP), 0); /* else it may keep up with a slow disk */
    for (unsigned i = 0; i < MANY; i++) {
        (void)snprintf(name, sizeof name, "d/file%u", i);
        mounted_put(m->source, name, "x");
    }
    assert_int_equal(kill(echoer, SIGCONT), 0);
    expect(&w, "ATTRIB /"); /* too many: only the folder was touched */
    uint64_t until_ms = bg_now_ms() + SEEN_MS;
    for (unsigned i = 0; !strstr(w.log, "CREATE last"); i++) { /* and then each file again */
        struct pollfd fd = {.fd = w.fd, .events = POLLIN};
        (void)snprintf(name, sizeof name, "last%u", i);
        mounted_put(m->source, name, "");
        if (poll(&fd, 1, 50) > 0)
            take_events(&w);
        assert_true(bg_now_ms() < until_ms);
    }
    (void)close(w.fd);
    DIR *dir = opendir(folder);
    unsigned count = 0;
    while (readdir(dir))
        count++;
    (void)closedir(dir);
    assert_int_equal(count, MANY + 2);
}

static void tail_follows_a_file(void **state)
{
    const struct mounted *m = *state;
    char path[256], text[64] = "";
    int out[2];
    mounted_put(m->source, "log", "");
    mounted_path(m->mount, "log", path);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    pid_t tail = fork();
    assert_true(tail >= 0);
    if (tail == 0) {
        if (dup2(out[1], 1) < 0)
            _exit(126);
        (void)execlp("tail", "tail", "-n1", "-f", path, NULL);
        _exit(127);
    }
    (void)close(out[1]);
    mounted_path(m->source, "log", path);
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_int_equal(write(fd, "a line\n", 7), 7);
    assert_int_equal(read(out[0], text, sizeof text), 7);
    assert_string_equal(text, "a line\n");
    (void)close(fd);
    assert_int_equal(kill(tail, SIGTERM), 0);
    int status;
    assert_int_equal(waitpid(tail, &status, 0), tail);
    (void)close(out[0]);
}

static void none_means_none(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    opts.mount[0] = "--watch";
    opts.mount[1] = "none";
    struct mounted *m = mounted_new(&opts);
    static struct watch w;
    char path[256];
    watch_it(&w, m->mount);
    mounted_put(m->source, "theirs", "text");
    mounted_path(m->mount, "theirs", path);
    while (access(path, F_OK) < 0)
        (void)poll(NULL, 0, 5);
    mounted_put(m->mount, "mine", "");
    expect(&w, "CREATE mine");
    assert_null(strstr(w.log, "theirs"));
    (void)close(w.fd);
    mounted_free(m);
}

/* ---- the process that does it ---- */

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

/* Whether the process has an fd on path. */
static bool has_open(pid_t pid, const char *wanted, unsigned *ret_count)
{
    char path[64], target[256];
    bool found = false;
    *ret_count = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (const struct dirent *entry; (entry = readdir(dir));) {
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof target - 1);
        if (n < 0)
            continue;
        target[n] = '\0';
        found = found || strcmp(target, wanted) == 0;
        ++*ret_count;
    }
    (void)closedir(dir);
    return found;
}

static void it_is_confined_and_has_no_device(void **state)
{
    const struct mounted *m = *state;
    pid_t pid = echoer_of(m);
    char value[128];
    unsigned fds;
    static struct watch w;
    watch_it(&w, m->mount);
    mounted_put(m->source, "f", ""); /* by its echo it has confined itself */
    expect(&w, "CREATE f");
    expect(&w, "CLOSE_WRITE f"); /* of its making, */
    expect(&w, "CLOSE_WRITE f"); /* and the echo of the guest's: there is no more to do */
    (void)close(w.fd);
    uint64_t until_ms = bg_now_ms() + SEEN_MS;
    while (has_open(pid, m->mount, &fds) && bg_now_ms() < until_ms)
        (void)poll(NULL, 0, 5); /* it closes the folder last */
    assert_false(has_open(pid, m->mount, &fds));
    assert_false(has_open(pid, "/dev/fuse", &fds));
    assert_int_equal(fds, BG_SANITIZED ? fds : 2);
    field_of(pid, "NoNewPrivs:", value);
    assert_int_equal(strtol(value, NULL, 10), 1);
    field_of(pid, "Seccomp:", value);
    assert_int_equal(strtol(value, NULL, 10), BG_SANITIZED ? 0 : 2);
    field_of(pid, "CapEff:", value);
    assert_int_equal(strtoul(value, NULL, 16), 0xe); /* DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER */
}

static void the_mount_works_on_without_it(void **state)
{
    const struct mounted *m = *state;
    char path[256];
    assert_int_equal(kill(echoer_of(m), SIGKILL), 0);
    mounted_put(m->source, "f", "text");
    mounted_path(m->mount, "f", path);
    uint64_t until_ms = bg_now_ms() + SEEN_MS;
    while (access(path, R_OK) < 0 && bg_now_ms() < until_ms)
        (void)poll(NULL, 0, 5);
    assert_int_equal(access(path, R_OK), 0);
    mounted_put(m->mount, "g", "text");
}

static void it_ends_with_the_relay(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    pid_t pid = echoer_of(m);
    mounted_free(m);
    uint64_t until_ms = bg_now_ms() + SEEN_MS;
    while (kill(pid, 0) == 0 && bg_now_ms() < until_ms)
        (void)poll(NULL, 0, 5);
    assert_int_equal(kill(pid, 0), -1);
}

static void a_watched_mount_can_be_unmounted(void **state)
{
    (void)state;
    struct mounted_opts opts = mounted_usual();
    struct mounted *m = mounted_new(&opts);
    static struct watch w;
    watch_it(&w, m->mount);
    mounted_put(m->source, "f", "");
    expect(&w, "CREATE f");
    mounted_put(m->source, "last", "");
    expect(&w, "CLOSE_WRITE last");
    (void)close(w.fd);
    /* It may be at work for a moment. */
    uint64_t until_ms = bg_now_ms() + SEEN_MS;
    pid_t umount;
    int status;
    do {
        umount = fork();
        assert_true(umount >= 0);
        if (umount == 0)
            _exit(execlp("umount", "umount", "-q", m->mount, NULL));
        assert_int_equal(waitpid(umount, &status, 0), umount);
    } while (status != 0 && bg_now_ms() < until_ms);
    assert_int_equal(status, 0);
    mounted_free(m);
}

/* ---- a plain user's mount, over root's server, since that is who may watch ---- */

static int plain_user_sees_events(const char *base)
{
    static struct watch w;
    char path[256];
    (void)alarm(SEEN_MS / 1000);
    mounted_path(base, "mount", path);
    watch_it(&w, path);
    mounted_path(base, "source", path);
    mounted_put(path, "watching", "");
    expect(&w, "CREATE f");
    expect(&w, "MODIFY f");
    mounted_put(path, "seen", "");
    expect(&w, "DELETE f");
    return 0;
}

static pid_t start_server(const char *source, int *ret_stream)
{
    int sockets[2];
    const char *program = getenv("BG_TEST_FS");
    assert_non_null(program);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (dup2(sockets[1], 0) < 0 || dup2(sockets[1], 1) < 0)
            _exit(126);
        _exit(execl(program, program, "serve", source, NULL));
    }
    (void)close(sockets[1]);
    *ret_stream = sockets[0];
    return pid;
}

static void wait_for(const char *folder, const char *name)
{
    char path[256];
    mounted_path(folder, name, path);
    while (access(path, F_OK) < 0)
        (void)poll(NULL, 0, 5);
}

/* Makes, once the user watches, what it waits for. */
static pid_t start_changes(const char *source)
{
    char path[256];
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    (void)alarm(SEEN_MS / 1000);
    wait_for(source, "watching");
    mounted_path(source, "f", path);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, "text", 4) != 4 || close(fd) < 0)
        _exit(1);
    wait_for(source, "seen");
    _exit(unlink(path) < 0);
}

static void a_plain_user_gets_events_too(void **state)
{
    (void)state;
    char source[] = "/var/tmp/bg-echo-XXXXXX";
    assert_non_null(mkdtemp(source));
    /* Before the mount, which would have to be told. */
    assert_int_equal(chown(source, PLAIN_USER, PLAIN_USER), 0);
    struct mounted_opts opts = mounted_usual();
    opts.user = PLAIN_USER;
    pid_t server = start_server(source, &opts.stream);
    struct mounted *m = mounted_new(&opts);
    /* The user makes its mark through m->source, which is a link to the served folder. */
    assert_int_equal(rmdir(m->source), 0);
    assert_int_equal(symlink(source, m->source), 0);
    pid_t changes = start_changes(source);
    mounted_run_self_as(PLAIN_USER, PLAIN_MODE, m->base);
    assert_int_equal(mounted_wait(changes), 0);
    mounted_free(m);
    assert_int_equal(mounted_wait(server), 0);
    mounted_remove_all(source);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], PLAIN_MODE) == 0)
        return plain_user_sees_events(argv[2]);
    mounted_need_fuse();
    if (geteuid() != 0) {
        const char *required = getenv("BG_TEST_REQUIRE");
        (void)fprintf(stderr, "only root may watch a file system\n");
        return required && strstr(required, "root") ? 1 : 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files_come_change_and_go, setup, teardown),
        cmocka_unit_test_setup_teardown(folders_and_moves, setup, teardown),
        cmocka_unit_test_setup_teardown(a_file_is_replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(a_file_that_goes_keeps_its_size, setup, teardown),
        cmocka_unit_test_setup_teardown(the_guest_sees_no_echo, setup, teardown),
        cmocka_unit_test_setup_teardown(the_host_is_not_echoed, setup, teardown),
        cmocka_unit_test_setup_teardown(names_that_are_hidden_make_no_event, setup, teardown),
        cmocka_unit_test_setup_teardown(more_than_can_be_told, setup, teardown),
        cmocka_unit_test_setup_teardown(tail_follows_a_file, setup, teardown),
        cmocka_unit_test(none_means_none),
        cmocka_unit_test_setup_teardown(it_is_confined_and_has_no_device, setup, teardown),
        cmocka_unit_test_setup_teardown(the_mount_works_on_without_it, setup, teardown),
        cmocka_unit_test(it_ends_with_the_relay),
        cmocka_unit_test(a_watched_mount_can_be_unmounted),
        cmocka_unit_test(a_plain_user_gets_events_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
