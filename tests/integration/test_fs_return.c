/* The file server dies and comes back, without a VM: the mount goes on with its open files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/checked.h"
#include "common/io.h"
#include "tests/integration/fs/mounted.h"

#define WAIT_MS 30000u
#define LARGE   (1 << 20)

struct returning {
    char base[64], source[96];
    struct mounted *m;
    unsigned looks; /* for names that nobody has asked for */
};

/* More than what comes with OPEN. */
static void put_large(const char *folder, const char *name)
{
    mounted_put(folder, name, "1");
    char path[256];
    mounted_path(folder, name, path);
    assert_int_equal(truncate(path, LARGE), 0);
}

static int open_in(const char *folder, const char *name, int flags)
{
    char path[256];
    mounted_path(folder, name, path);
    int fd = open(path, flags | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    return fd;
}

static const char *read_from(int fd)
{
    static char text[256];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n < 0 ? 0 : n] = '\0';
    return n < 0 ? strerror(errno) : text;
}

/* A folder whose server, once dead, comes back as soon as the file `go` is there, and then says its
 * pid in the file `pid`. deadline_ms: of the mount. */
static struct returning *returning_new(const char *deadline_ms)
{
    struct returning *r = calloc(1, sizeof *r);
    assert_non_null(r);
    (void)snprintf(r->base, sizeof r->base, "/var/tmp/bg-return-XXXXXX");
    assert_non_null(mkdtemp(r->base));
    (void)snprintf(r->source, sizeof r->source, "%s/source", r->base);
    assert_int_equal(mkdir(r->source, 0755), 0);
    char script[1024];
    (void)snprintf(script, sizeof script,
                   "test -e %s/go || exit 1; echo $$ >%s/pid.new; mv %s/pid.new %s/pid; "
                   "exec %s serve %s",
                   r->base, r->base, r->base, r->base, getenv("BG_TEST_FS"), r->source);
    struct mounted_opts opts = mounted_usual();
    opts.source = r->source;
    const char *const mount[] = {
        "--deadline-ms", deadline_ms, "--reopen", "serves", "--", "sh", "-c", script};
    memcpy(opts.mount, mount, sizeof mount);
    r->m = mounted_new(&opts);
    return r;
}

static void returning_free(struct returning *r)
{
    mounted_free(r->m);
    mounted_remove_all(r->base);
    free(r);
}

static void kill_first_server(struct returning *r)
{
    int status;
    assert_int_equal(kill(r->m->server, SIGKILL), 0);
    assert_int_equal(waitpid(r->m->server, &status, 0), r->m->server);
    r->m->server = -1;
}

static void let_it_return(struct returning *r)
{
    mounted_put(r->base, "go", "");
}

/* Tries until it works or the time is over; each try may wait for the mount. */
static void wait_until_back(struct returning *r)
{
    char path[256];
    struct stat st;
    uint64_t until_ms = bg_now_ms() + WAIT_MS;
    int last = 0;
    while (bg_now_ms() < until_ms) {
        /* Another name each time: that one is not there may be known here for a while. */
        (void)snprintf(path, sizeof path, "%s/missing-%u", r->m->mount, r->looks++);
        if (stat(path, &st) < 0 && errno == ENOENT)
            return;
        last = errno;
    }
    fail_msg("%s: %s", path, strerror(last));
}

static void open_files_and_folders_go_on(void **state)
{
    (void)state;
    struct returning *r = returning_new("20000");
    mounted_put(r->source, "here", "x");
    mounted_put(r->source, "text", "before");
    char folder[256];
    mounted_path(r->source, "folder", folder);
    assert_int_equal(mkdir(folder, 0755), 0);
    mounted_put(folder, "inside", "in");
    int text = open_in(r->m->mount, "text", O_RDWR);
    int stays = open_in(r->m->mount, "folder", O_RDONLY | O_DIRECTORY);
    assert_string_equal(read_from(text), "before");
    assert_int_equal(fchdir(stays), 0);
    kill_first_server(r);
    let_it_return(r);
    /* These wait until the server is back; a write that meets its end would fail. */
    wait_until_back(r);
    assert_string_equal(read_from(text), "before");
    assert_int_equal(pwrite(text, "after ", 6, 0), 6);
    assert_int_equal(fsync(text), 0);
    int inside = open("inside", O_RDONLY | O_CLOEXEC); /* by the working folder */
    assert_true(inside >= 0);
    assert_string_equal(read_from(inside), "in");
    assert_int_equal(close(inside), 0);
    int direct = open_in(r->source, "text", O_RDONLY);
    assert_string_equal(read_from(direct), "after ");
    assert_int_equal(close(direct), 0);
    assert_int_equal(chdir("/"), 0);
    assert_int_equal(close(text), 0);
    assert_int_equal(close(stays), 0);
    returning_free(r);
}

static void what_was_deleted_or_replaced_is_gone(void **state)
{
    (void)state;
    struct returning *r = returning_new("20000");
    mounted_put(r->source, "here", "x");
    put_large(r->source, "deleted");
    put_large(r->source, "replaced");
    int deleted = open_in(r->m->mount, "deleted", O_RDONLY);
    int replaced = open_in(r->m->mount, "replaced", O_RDONLY);
    char path[256], other[256];
    mounted_path(r->source, "deleted", path);
    assert_int_equal(unlink(path), 0);
    mounted_put(r->source, "new", "3");
    mounted_path(r->source, "new", other);
    mounted_path(r->source, "replaced", path);
    assert_int_equal(rename(other, path), 0);
    kill_first_server(r);
    let_it_return(r);
    char byte;
    /* EIO or ESTALE: never another file's bytes. */
    assert_int_equal(pread(deleted, &byte, 1, LARGE / 2), -1);
    assert_int_equal(pread(replaced, &byte, 1, LARGE / 2), -1);
    int anew = open_in(r->m->mount, "replaced", O_RDONLY);
    assert_string_equal(read_from(anew), "3");
    assert_int_equal(close(anew), 0);
    assert_int_equal(close(deleted), 0);
    assert_int_equal(close(replaced), 0);
    returning_free(r);
}

static void without_a_server_everything_fails_in_time_and_comes_back(void **state)
{
    (void)state;
    struct returning *r = returning_new("5000"); /* enough for a busy machine */
    put_large(r->source, "here");                /* a small one would have come with its OPEN */
    int here = open_in(r->m->mount, "here", O_RDONLY);
    kill_first_server(r);
    char byte;
    assert_int_equal(pread(here, &byte, 1, LARGE / 2), -1);
    assert_int_equal(errno, EIO);
    struct stat st;
    assert_int_equal(stat(r->m->mount, &st), 0); /* the root still answers */
    let_it_return(r);
    wait_until_back(r);
    assert_int_equal(pread(here, &byte, 1, 0), 1);
    assert_int_equal(byte, '1');
    assert_int_equal(close(here), 0);
    returning_free(r);
}

static void a_server_may_die_again_and_again(void **state)
{
    (void)state;
    struct returning *r = returning_new("20000");
    mounted_put(r->source, "here", "x");
    int here = open_in(r->m->mount, "here", O_RDWR);
    let_it_return(r);
    kill_first_server(r);
    for (char round = 'a'; round < 'd'; round++) {
        wait_until_back(r);
        assert_int_equal(pwrite(here, &round, 1, 0), 1);
        assert_int_equal(fsync(here), 0);
        int pid_file = open_in(r->base, "pid", O_RDONLY);
        char *text = strdup(read_from(pid_file));
        uint64_t pid;
        text[strcspn(text, "\n")] = '\0';
        assert_int_equal(bg_parse_u64(text, 2, INT32_MAX, &pid), 0);
        free(text);
        assert_int_equal(close(pid_file), 0);
        assert_int_equal(kill((pid_t)pid, SIGKILL), 0);
    }
    wait_until_back(r);
    char text[2] = {0};
    assert_int_equal(pread(here, text, 1, 0), 1);
    assert_string_equal(text, "c");
    assert_int_equal(close(here), 0);
    returning_free(r);
}

static void unmounting_works_while_there_is_no_server(void **state)
{
    (void)state;
    struct returning *r = returning_new("20000");
    put_large(r->source, "here");
    int here = open_in(r->m->mount, "here", O_RDONLY);
    kill_first_server(r);
    pid_t reader = fork();
    assert_true(reader >= 0);
    if (reader == 0) {
        char byte;
        _exit(pread(here, &byte, 1, LARGE / 2) < 0 ? 0 : 1); /* waits, then fails */
    }
    assert_int_equal(close(here), 0);
    assert_int_equal(kill(r->m->keeper, SIGTERM), 0);
    assert_int_equal(mounted_wait(r->m->keeper), 0);
    assert_int_equal(mounted_wait(reader), 0);
    assert_false(mounted_is(r->m->mount));
    mounted_remove_all(r->m->base);
    mounted_remove_all(r->base);
    free(r->m);
    free(r);
}

int main(void)
{
    mounted_need_fuse();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open_files_and_folders_go_on),
        cmocka_unit_test(what_was_deleted_or_replaced_is_gone),
        cmocka_unit_test(without_a_server_everything_fails_in_time_and_comes_back),
        cmocka_unit_test(a_server_may_die_again_and_again),
        cmocka_unit_test(unmounting_works_while_there_is_no_server),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
