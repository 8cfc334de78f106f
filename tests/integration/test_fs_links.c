/* Symbolic links on a real mount: what the host's kernel follows, and that it never leaves the
 * mount, whatever moves while it walks. */
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
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/integration/fs/mounted.h"

#define PLAIN_USER  1u
#define DEPTH       6
#define READERS     3
#define RACE_MS     4000
#define GRACE_MS    60000 /* for a busy machine to have got anywhere */
#define MOVES_MIN   10
#define CANARY      "canary"
#define HOST_SECRET "a file of the host"
#define INSIDE      "a file of the mount"

static const char *in(const char *folder, const char *name)
{
    static char paths[4][512];
    static unsigned next;
    char *path = paths[next++ % 4];
    (void)snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(close(fd), 0);
}

/* A file's text, or what open(2) says. */
static const char *get(const char *path)
{
    static char text[256];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n < 0)
        (void)snprintf(text, sizeof text, "%s", strerror(errno));
    else
        text[n] = '\0';
    if (fd >= 0)
        (void)close(fd);
    return text;
}

static const char *link_text(const char *path)
{
    static char text[4096];
    ssize_t n = readlink(path, text, sizeof text - 1);
    if (n < 0)
        return strerror(errno);
    text[n] = '\0';
    return text;
}

static struct mounted *mount_with(const char *mode, uid_t user)
{
    struct mounted_opts opts = mounted_usual();
    opts.user = user;
    opts.mount[0] = "--symlinks";
    opts.mount[1] = mode;
    return mounted_new(&opts);
}

static void make_folders(const char *top, const char *const *names)
{
    for (; *names; names++)
        assert_int_equal(mkdir(in(top, *names), 0755), 0);
}

/* ---- inside ---- */

static const struct {
    const char *text, *shown, *content;
} inner_parents[] = {
    {"../b/c/../f", "f", "a/b/f"},
    {"c/../../../d/e/f", "../../d/e/f", "d/e/f"},
    {"to-e/../f", "../../d/f", "d/f"}, /* not a/b/f: ".." is that of where it led */
    {"to-e/../e/f", "../../d/e/f", "d/e/f"},
    {"c/..", ".", NULL},
    {"c/../new", "new", NULL},
    {"c/../../../../../../etc/passwd", "Operation not permitted", "Operation not permitted"},
    {"to-etc/../etc/passwd", "Operation not permitted", "Operation not permitted"},
    {"none/../f", "Operation not permitted", "Operation not permitted"},
};
#define INNER_PARENTS (sizeof inner_parents / sizeof *inner_parents)

static const char *numbered(size_t number)
{
    static char name[32];
    (void)snprintf(name, sizeof name, "a/b/link-%zu", number);
    return name;
}

/* Run as the user of the mount. */
static int check_inner_parents(const char *mount)
{
    for (size_t i = 0; i < INNER_PARENTS; i++) {
        const char *path = in(mount, numbered(i)), *content = inner_parents[i].content;
        const char *shown = link_text(path);
        if (strcmp(shown, inner_parents[i].shown) != 0 ||
            (content && strcmp(get(path), content) != 0)) {
            (void)fprintf(stderr, "%s: %s, %s\n", inner_parents[i].text, shown, get(path));
            return 1;
        }
    }
    return 0;
}

static void links_with_parents_in_the_middle_lead_where_they_do_in_the_guest(void **state)
{
    (void)state;
    static const char *const folders[] = {"a", "a/b", "a/b/c", "d", "d/e", NULL};
    static const uid_t users[] = {0, PLAIN_USER};
    for (size_t u = 0; u < 2; u++) { /* root's server finds files by handle, others' by name */
        if (geteuid() != 0 && users[u] != 0)
            continue;
        struct mounted *m = mount_with("inside", users[u]);
        make_folders(m->source, folders);
        put(in(m->source, "a/b/f"), "a/b/f");
        put(in(m->source, "d/f"), "d/f");
        put(in(m->source, "d/e/f"), "d/e/f");
        assert_int_equal(symlink("../../d/e", in(m->source, "a/b/to-e")), 0);
        assert_int_equal(symlink("/etc", in(m->source, "a/b/to-etc")), 0);
        for (size_t i = 0; i < INNER_PARENTS; i++)
            assert_int_equal(symlink(inner_parents[i].text, in(m->source, numbered(i))), 0);
        mounted_run_self_as(users[u], "--inner-parents", m->mount);
        mounted_free(m);
    }
}

static void a_link_is_right_wherever_it_is_moved(void **state)
{
    (void)state;
    static const char *const folders[] = {"a", "a/b", "a/b/c", NULL};
    struct mounted *m = mount_with("inside", 0);
    make_folders(m->mount, folders);
    put(in(m->mount, "f"), "f");
    put(in(m->mount, "a/f"), "a/f");
    assert_int_equal(symlink("c/../../f", in(m->mount, "a/b/link")), 0);
    assert_string_equal(get(in(m->mount, "a/b/link")), "a/f");
    assert_int_equal(rename(in(m->mount, "a/b/link"), in(m->mount, "a/b/c/link")), 0);
    assert_string_equal(link_text(in(m->mount, "a/b/c/link")), "Operation not permitted");
    assert_int_equal(mkdir(in(m->mount, "a/b/c/c"), 0755), 0);
    assert_string_equal(get(in(m->mount, "a/b/c/link")), "No such file or directory");
    assert_int_equal(rename(in(m->mount, "a/b/c/link"), in(m->mount, "link")), 0);
    assert_string_equal(link_text(in(m->mount, "link")), "Operation not permitted");
    /* Deeper, and simple: it is looked up again without anybody noticing. */
    assert_int_equal(symlink("f", in(m->mount, "a/simple")), 0);
    assert_int_equal(rename(in(m->mount, "a/simple"), in(m->mount, "a/b/c/simple")), 0);
    assert_string_equal(link_text(in(m->mount, "a/b/c/simple")), "f");
    assert_string_equal(link_text(in(m->mount, "a/b/c/simple")), "f");
    struct stat st;
    assert_int_equal(lstat(in(m->mount, "a/b/c/simple"), &st), 0);
    /* Both names of one link, each from where it stands. */
    assert_int_equal(symlink("../f", in(m->mount, "a/one")), 0);
    assert_int_equal(link(in(m->mount, "a/one"), in(m->mount, "a/b/two")), 0);
    assert_string_equal(get(in(m->mount, "a/one")), "f");
    assert_string_equal(get(in(m->mount, "a/b/two")), "a/f");
    mounted_free(m);
}

/* ---- the race ---- */

static uint64_t now_ms(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Opens every link below "moving" at whichever place it is; never may one lead to the canary that
 * is beside the mount. Exit status: 0 some led inside, 1 none did, 2 one led out. */
static int read_links(const char *mount, uint64_t until_ms)
{
    unsigned inside = 0;
    while (now_ms() < until_ms || (inside == 0 && now_ms() < until_ms + GRACE_MS))
        for (int up = 1; up <= DEPTH; up++)
            for (int place = 0; place < 2; place++) {
                char path[512];
                (void)snprintf(path, sizeof path, "%s/%smoving/in/link-%d", mount,
                               place ? "1/2/3/" : "", up);
                const char *text = get(path);
                if (strcmp(text, HOST_SECRET) == 0)
                    return 2;
                inside += strcmp(text, INSIDE) == 0;
            }
    return inside > 0 ? 0 : 1;
}

static int move_folders(const char *mount, uint64_t until_ms)
{
    char high[512], low[512];
    unsigned moves = 0;
    (void)snprintf(high, sizeof high, "%s/moving", mount);
    (void)snprintf(low, sizeof low, "%s/1/2/3/moving", mount);
    while (now_ms() < until_ms || (moves <= MOVES_MIN && now_ms() < until_ms + GRACE_MS)) {
        if (rename(low, high) < 0 && errno != EBUSY)
            return 1;
        if (rename(high, low) < 0 && errno != EBUSY && errno != ENOENT && errno != ENOTEMPTY)
            return 1;
        moves++;
    }
    return moves > MOVES_MIN ? 0 : 3;
}

static void no_link_leads_out_while_folders_move(void **state)
{
    (void)state;
    static const char *const folders[] = {"1", "1/2", "1/2/3", "1/2/3/moving", "1/2/3/moving/in",
                                          NULL};
    struct mounted *m = mount_with("inside", 0);
    put(in(m->base, CANARY), HOST_SECRET);
    make_folders(m->source, folders);
    for (int up = 1; up <= DEPTH; up++) {
        char name[64], text[128];
        size_t used = 0;
        for (int i = 0; i < up; i++)
            used += (size_t)snprintf(text + used, sizeof text - used, "../");
        (void)snprintf(text + used, sizeof text - used, CANARY);
        (void)snprintf(name, sizeof name, "1/2/3/moving/in/link-%d", up);
        assert_int_equal(symlink(text, in(m->source, name)), 0);
    }
    put(in(m->source, CANARY), INSIDE);
    put(in(m->source, "1/" CANARY), INSIDE);
    put(in(m->source, "1/2/" CANARY), INSIDE);
    uint64_t until_ms = now_ms() + RACE_MS;
    pid_t readers[READERS], mover = fork();
    assert_true(mover >= 0);
    if (mover == 0)
        _exit(move_folders(m->mount, until_ms));
    for (int i = 0; i < READERS; i++) {
        readers[i] = fork();
        assert_true(readers[i] >= 0);
        if (readers[i] == 0)
            _exit(read_links(m->mount, until_ms));
    }
    int worst = mounted_wait(mover);
    for (int i = 0; i < READERS; i++) {
        int status = mounted_wait(readers[i]);
        worst = status > worst ? status : worst;
    }
    assert_int_equal(worst, 0);
    mounted_free(m);
}

/* ---- none and raw ---- */

static void nothing_is_followed_when_nothing_shall_be(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip(); /* tested below: it is refused */
    struct mounted *m = mount_with("none", 0);
    put(in(m->mount, "f"), "f");
    static const char *const texts[] = {"f", "/etc/passwd", "../../../etc/passwd", "a/../f"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_int_equal(symlink(texts[i], in(m->mount, "link")), 0);
        assert_string_equal(link_text(in(m->mount, "link")), texts[i]);
        assert_string_equal(get(in(m->mount, "link")), strerror(ELOOP));
        assert_int_equal(unlink(in(m->mount, "link")), 0);
    }
    assert_string_equal(get(in(m->mount, "f")), "f");
    mounted_free(m);
}

static void users_are_told_why_nothing_cannot_be_had(void **state)
{
    (void)state;
    char folder[] = "/var/tmp/bg-fs-XXXXXX", line[1024];
    struct mounted_opts opts = mounted_usual();
    uid_t user = geteuid() == 0 ? PLAIN_USER : 0;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chown(folder, user ? user : geteuid(), (gid_t)-1), 0);
    opts.user = user;
    opts.mount[0] = "--symlinks";
    opts.mount[1] = "none";
    struct mounted *other = mount_with("inside", user); /* a server that speaks */
    pid_t server;
    int stream = mounted_serve(&opts, other->source, &server);
    pid_t pid = mounted_start(&opts, stream, folder, line, sizeof line);
    assert_int_equal(mounted_wait(pid), 1);
    assert_int_equal(mounted_wait(server), 0);
    if (!strstr(line, "needs root") || !strstr(line, "--symlinks=inside"))
        fail_msg("%s", line);
    assert_false(mounted_is(folder));
    assert_int_equal(rmdir(folder), 0);
    mounted_free(other);
}

/* Runs a script by the plain user, as root of namespaces of its own; returns its status. */
static int run_in_namespaces(const char *script, const char *folder)
{
    char shell[] = "sh", c[] = "-c", unshare_name[] = "unshare", rm[] = "-rm", zero[] = "sh";
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char *argv[] = {unshare_name, rm, shell, c, strdup(script), zero, strdup(folder), NULL};
        if (geteuid() == 0 && (setgid(PLAIN_USER) < 0 || setuid(PLAIN_USER) < 0))
            _exit(126);
        (void)execvp(argv[0], argv);
        _exit(127);
    }
    return mounted_wait(pid);
}

static void a_namespace_of_ones_own_can_have_it(void **state)
{
    (void)state;
    if (run_in_namespaces("true", "/") != 0)
        skip(); /* this machine lets users make none */
    char folder[] = "/var/tmp/bg-fs-XXXXXX";
    assert_non_null(mkdtemp(folder));
    if (geteuid() == 0)
        assert_int_equal(chown(folder, PLAIN_USER, PLAIN_USER), 0);
    assert_int_equal(
        run_in_namespaces("set -e; cd \"$1\"; mkdir source mount; echo f >source/f; ln -s f "
                          "source/link\n\"$BG_TEST_FS\" mount --symlinks none \"$1\"/mount -- "
                          "\"$BG_TEST_FS\" serve \"$1\"/source\n"
                          "test \"$(readlink mount/link)\" = f; test \"$(cat mount/f)\" = f\n"
                          "if cat mount/link; then exit 9; fi; umount mount",
                          folder),
        0);
    mounted_remove_all(folder);
}

static void raw_links_lead_anywhere(void **state)
{
    (void)state;
    struct mounted *m = mount_with("raw", 0);
    put(in(m->base, CANARY), HOST_SECRET);
    assert_int_equal(symlink("../" CANARY, in(m->source, "link")), 0);
    assert_string_equal(get(in(m->mount, "link")), HOST_SECRET);
    assert_int_equal(symlink("/etc/../etc/passwd", in(m->source, "absolute")), 0);
    assert_string_equal(link_text(in(m->mount, "absolute")), "/etc/../etc/passwd");
    mounted_free(m);
}

int main(int argc, char **argv)
{
    if (argc == 3)
        return strcmp(argv[1], "--inner-parents") == 0 ? check_inner_parents(argv[2]) : 2;
    mounted_need_fuse();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(links_with_parents_in_the_middle_lead_where_they_do_in_the_guest),
        cmocka_unit_test(a_link_is_right_wherever_it_is_moved),
        cmocka_unit_test(no_link_leads_out_while_folders_move),
        cmocka_unit_test(nothing_is_followed_when_nothing_shall_be),
        cmocka_unit_test(users_are_told_why_nothing_cannot_be_had),
        cmocka_unit_test(a_namespace_of_ones_own_can_have_it),
        cmocka_unit_test(raw_links_lead_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
