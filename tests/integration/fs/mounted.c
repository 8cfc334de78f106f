#include "tests/integration/fs/mounted.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/relay/mountpoint.h"

#define TEST_SECONDS_MAX 300

static const char *program(const char *variable)
{
    const char *path = getenv(variable);
    if (!path)
        fail_msg("%s is not set: run this by meson test", variable);
    return path;
}

void mounted_need_fuse(void)
{
    static char only[256]; /* cmocka keeps the pointer */
    if (getenv("BG_TEST_ONLY")) {
        (void)snprintf(only, sizeof only, "*%.250s*", getenv("BG_TEST_ONLY"));
        cmocka_set_test_filter(only);
    }
    const char *required = getenv("BG_TEST_REQUIRE");
    const char *why = access("/dev/fuse", R_OK | W_OK) < 0 ? "/dev/fuse cannot be opened"
                      : geteuid() != 0 && access("/usr/bin/fusermount3", X_OK) < 0
                          ? "fusermount3 is not installed"
                          : NULL;
    if (!why)
        return;
    (void)fprintf(stderr, "no FUSE here: %s\n", why);
    exit(required && strstr(required, "fuse") ? 1 : 77);
}

static void become(uid_t user)
{
    if (user != 0 && (setgroups(0, NULL) < 0 || setgid(user) < 0 || setuid(user) < 0))
        _exit(126);
}

int mounted_wait(pid_t pid)
{
    int status;
    pid_t r;
    do {
        r = waitpid(pid, &status, 0);
    } while (r < 0 && errno == EINTR);
    assert_int_equal(r, pid);
    if (!WIFEXITED(status))
        fail_msg("pid %d was ended by signal %d", pid, WTERMSIG(status));
    return WEXITSTATUS(status);
}

void mounted_run_self_as(uid_t user, const char *mode, const char *folder)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char self[] = "/proc/self/exe";
        char *argv[] = {self, strdup(mode), strdup(folder), NULL};
        become(user);
        (void)execv(self, argv);
        _exit(127);
    }
    assert_int_equal(mounted_wait(pid), 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st;
    (void)type;
    (void)walk;
    return remove(path);
}

void mounted_remove_all(const char *path)
{
    assert_int_equal(nftw(path, remove_one, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT), 0);
}

bool mounted_is(const char *path)
{
    struct fs_mount found;
    return fs_mount_find(path, &found, NULL) == 0;
}

struct mounted_opts mounted_usual(void)
{
    return (struct mounted_opts){.stream = -1};
}

/* A child must never come back into cmocka: it would run the rest of the tests as well. Whatever
 * may fail there is done before fork(), or ends in _exit(). */

int mounted_serve(const struct mounted_opts *opts, const char *source, pid_t *ret_pid)
{
    int sockets[2];
    char *path = strdup(program("BG_TEST_FS"));
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char serve[] = "serve";
        char *argv[MOUNTED_ARGS_MAX + 4] = {path, serve};
        size_t count = 2;
        for (size_t i = 0; i < MOUNTED_ARGS_MAX && opts->serve[i]; i++)
            argv[count++] = strdup(opts->serve[i]);
        argv[count] = strdup(source);
        struct rlimit limit = {opts->files_max, opts->files_max};
        if (dup2(sockets[1], 0) < 0 || dup2(sockets[1], 1) < 0 ||
            (opts->files_max != 0 && setrlimit(RLIMIT_NOFILE, &limit) < 0))
            _exit(126);
        become(opts->user); /* ends with its stream */
        (void)execv(argv[0], argv);
        _exit(127);
    }
    (void)close(sockets[1]);
    free(path);
    *ret_pid = pid;
    return sockets[0];
}

pid_t mounted_start(const struct mounted_opts *opts, int stream, const char *mountpoint,
                    char *ret_line, size_t line_size)
{
    int ready[2];
    char *path = strdup(program("BG_TEST_MOUNT"));
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char stream_text[16], ready_text[16], name[] = "test", foreground[] = "--foreground";
        char name_option[] = "--name", stream_option[] = "--stream-fd",
             mount_option[] = "--mountpoint", ready_option[] = "--ready-fd";
        /* Copies without O_CLOEXEC, for the program only. */
        (void)snprintf(stream_text, sizeof stream_text, "%d", dup(stream));
        (void)snprintf(ready_text, sizeof ready_text, "%d", dup(ready[1]));
        char *argv[MOUNTED_ARGS_MAX + 12] = {
            path,         name_option,        name,         stream_option, stream_text,
            mount_option, strdup(mountpoint), ready_option, ready_text,    foreground};
        size_t count = 10;
        for (size_t i = 0; i < MOUNTED_ARGS_MAX && opts->mount[i]; i++)
            argv[count++] = strdup(opts->mount[i]);
        become(opts->user);
        (void)prctl(PR_SET_PDEATHSIG, SIGTERM); /* a test that is cut short leaves no mount */
        (void)execv(argv[0], argv);
        _exit(127);
    }
    (void)close(ready[1]);
    (void)close(stream);
    free(path);
    size_t used = 0;
    ssize_t n;
    while (used < line_size - 1 && (n = read(ready[0], ret_line + used, line_size - 1 - used)) > 0)
        used += (size_t)n;
    ret_line[used] = '\0';
    (void)close(ready[0]);
    return pid;
}

struct mounted *mounted_new(const struct mounted_opts *opts)
{
    struct mounted *m = calloc(1, sizeof *m);
    assert_non_null(m);
    (void)alarm(TEST_SECONDS_MAX);
    m->user = opts->user;
    m->server = -1;
    (void)snprintf(m->base, sizeof m->base, "/var/tmp/bg-fs-XXXXXX");
    assert_non_null(mkdtemp(m->base));
    assert_int_equal(chmod(m->base, 0755), 0);
    (void)snprintf(m->source, sizeof m->source, "%s/source", m->base);
    (void)snprintf(m->mount, sizeof m->mount, "%s/mount", m->base);
    assert_int_equal(mkdir(m->mount, 0755), 0);
    assert_int_equal(mkdir(m->source, 0755), 0);
    assert_int_equal(chown(m->mount, opts->user, opts->user), 0);
    assert_int_equal(chown(m->source, opts->user, opts->user), 0);
    int stream = opts->stream;
    if (stream < 0)
        stream = mounted_serve(opts, opts->source ? opts->source : m->source, &m->server);
    char line[1024];
    m->keeper = mounted_start(opts, stream, m->mount, line, sizeof line);
    if (!strstr(line, "\"ready\":true"))
        fail_msg("mount: %s", line);
    return m;
}

void mounted_free(struct mounted *m)
{
    (void)kill(m->keeper, SIGTERM); /* it may have ended already */
    assert_int_equal(mounted_wait(m->keeper), 0);
    assert_false(mounted_is(m->mount));
    if (m->server > 0) {
        int status;
        assert_int_equal(waitpid(m->server, &status, 0), m->server); /* ends with its stream */
    }
    mounted_remove_all(m->base);
    free(m);
    (void)alarm(0);
}

pid_t mounted_child(pid_t parent)
{
    char path[64];
    int pid = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/task/%d/children", parent, parent);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%d", &pid), 1);
    (void)fclose(file);
    return pid;
}

pid_t mounted_relay(const struct mounted *m)
{
    return mounted_child(m->keeper);
}

void mounted_path(const char *folder, const char *name, char out[256])
{
    (void)snprintf(out, 256, "%s/%s", folder, name);
}

void mounted_put(const char *folder, const char *name, const char *text)
{
    char path[256];
    mounted_path(folder, name, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(close(fd), 0);
}

const char *mounted_get(const char *folder, const char *name)
{
    static char text[4096];
    char path[256];
    mounted_path(folder, name, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return strerror(errno);
    ssize_t n = read(fd, text, sizeof text - 1);
    assert_true(n >= 0);
    text[n] = '\0';
    (void)close(fd);
    return text;
}
