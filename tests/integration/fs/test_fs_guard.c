/* Guarded files on a real mount, with the real git: the "guest" is the folder that is served. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/integration/fs/mounted.h"

#define TEXT_MAX 65536

static void path_in(const char *folder, const char *name, char out[512])
{
    (void)snprintf(out, 512, "%s/%s", folder, name);
}

static int try_put(const char *folder, const char *name, const char *text, int flags)
{
    char path[512];
    path_in(folder, name, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0644);
    if (fd < 0)
        return -errno;
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    return close(fd) < 0 ? -errno : 0;
}

static void put(const char *folder, const char *name, const char *text)
{
    assert_int_equal(try_put(folder, name, text, O_TRUNC), 0);
}

/* The content, or the error's name. */
static const char *get(const char *folder, const char *name)
{
    static char text[TEXT_MAX];
    char path[512];
    path_in(folder, name, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return strerrorname_np(errno);
    ssize_t n = read(fd, text, sizeof text - 1);
    text[n < 0 ? 0 : n] = '\0';
    (void)close(fd);
    return n < 0 ? strerrorname_np(errno) : text;
}

static bool is_there(const char *folder, const char *name)
{
    char path[512];
    struct stat st;
    path_in(folder, name, path);
    return lstat(path, &st) == 0;
}

static void make_folder(const char *folder, const char *name)
{
    char path[512];
    path_in(folder, name, path);
    assert_int_equal(mkdir(path, 0755), 0);
}

static void remove_it(const char *folder, const char *name)
{
    char path[512];
    path_in(folder, name, path);
    assert_int_equal(unlink(path), 0);
}

static int try_rename(const char *folder, const char *from, const char *to)
{
    char a[512], b[512];
    path_in(folder, from, a);
    path_in(folder, to, b);
    return rename(a, b) < 0 ? -errno : 0;
}

/* Whether a listing of folder has the name. */
static bool is_listed(const char *folder, const char *name)
{
    char command[1024];
    (void)snprintf(command, sizeof command, "%s/.", folder);
    bool found = false;
    FILE *list = NULL;
    int pipes[2];
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)dup2(pipes[1], 1);
        (void)execlp("ls", "ls", "-1a", command, NULL);
        _exit(127);
    }
    (void)close(pipes[1]);
    list = fdopen(pipes[0], "r");
    char line[512];
    while (fgets(line, sizeof line, list)) {
        line[strcspn(line, "\n")] = '\0';
        found = found || strcmp(line, name) == 0;
    }
    (void)fclose(list);
    assert_int_equal(mounted_wait(pid), 0);
    return found;
}

/* Runs a shell command in a folder, with a home of its own; returns its status. */
static int run_in(const char *folder, const char *home, const char *command)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (chdir(folder) < 0 || setenv("HOME", home, 1) < 0 ||
            setenv("GIT_CONFIG_NOSYSTEM", "1", 1) < 0 || setenv("GIT_PAGER_IN_USE", "0", 1) < 0 ||
            setenv("GIT_SSH_VARIANT", "ssh", 1) < 0)
            _exit(126);
        (void)execlp("sh", "sh", "-ec", command, NULL);
        _exit(127);
    }
    return mounted_wait(pid);
}

static struct mounted *mount_with(const char *first, const char *second, const char *third)
{
    struct mounted_opts opts = mounted_usual();
    opts.mount[0] = first;
    opts.mount[1] = second;
    opts.mount[2] = third;
    return mounted_new(&opts);
}

/* ---- git ---- */

/* A repository whose every program leaves a mark. $MARK is a file name to begin with. */
static const char make_repository[] =
    "git init -q repo; cd repo; git config user.name me; git config user.email me@example.com\n"
    "echo one >file; echo 'file filter=evil diff=evil' >.gitattributes\n"
    "git add .; git commit -qm one\n"
    "mark() { echo \"sh -c 'touch $MARK.$1; cat' -\"; }\n"
    "mkdir evil-hooks\n"
    "for hook in pre-commit post-commit post-checkout prepare-commit-msg commit-msg "
    "reference-transaction post-index-change fsmonitor-watchman pre-push; do\n"
    "  for folder in .git/hooks evil-hooks; do\n"
    "    printf '#!/bin/sh\\ntouch %s.hook\\n' \"$MARK\" >$folder/$hook; chmod +x $folder/$hook\n"
    "  done\n"
    "done\n"
    "git config core.hooksPath evil-hooks\n"
    "git config core.pager \"$(mark pager)\"; git config core.editor \"touch $MARK.editor;:\"\n"
    "git config core.sshCommand \"touch $MARK.ssh;:\"\n"
    "git config alias.st \"!touch $MARK.alias\"\n"
    "git config filter.evil.clean \"$(mark clean)\"; git config filter.evil.smudge \"$(mark "
    "smudge)\"\n"
    "git config diff.evil.textconv \"touch $MARK.textconv; cat\"\n"
    "git config include.path ../included\n"
    "printf '[diff]\\n external = touch %s.external;:\\n' \"$MARK\" >included\n"
    "git config remote.origin.url ssh://example.invalid/x\n"
    "git config core.fsmonitor \"touch $MARK.fsmonitor; false\"\n";

/* Everyday work. Each command must do what it should. */
static const char use_repository[] =
    "cd repo; echo two >>file; git status >/dev/null\n"
    "git -c color.ui=never diff | grep -q '^+two'\n"
    "git add file; git -c user.name=me -c user.email=me@example.com commit -qm two\n"
    "test \"$(git log --oneline | wc -l)\" = 2; git checkout -q -b side; git stash list\n"
    "git fetch origin 2>/dev/null || true\n"
    "git st 2>/dev/null || true\n"
    "test -z \"$(git status --porcelain file)\"\n";

static bool has_marks(const struct mounted *m, const char *home)
{
    return run_in(m->base, home, "ls mark.* >/dev/null 2>&1") == 0;
}

static void use_hostile_repository(const char *policy, bool want_marks)
{
    /* --exec: the kernel would not run hooks from a mount without it, whatever the guard does. */
    struct mounted *m = mount_with("--guard", policy, "--exec");
    char mark[128];
    (void)snprintf(mark, sizeof mark, "%s/mark", m->base);
    assert_int_equal(setenv("MARK", mark, 1), 0);
    assert_int_equal(run_in(m->source, m->base, make_repository), 0);
    (void)run_in(m->base, m->base, "rm -f mark.*");
    int status = run_in(m->mount, m->base, use_repository);
    bool marks = has_marks(m, m->base);
    mounted_free(m);
    assert_true(marks == want_marks);
    if (!want_marks)
        assert_int_equal(status, 0);
}

static void git_works_and_runs_nothing_of_the_guests(void **state)
{
    (void)state;
    use_hostile_repository("pin", false);
}

static void without_the_guard_git_runs_it(void **state)
{
    (void)state;
    use_hostile_repository("off", true);
}

static void a_bare_repository_runs_nothing_either(void **state)
{
    (void)state;
    static const char *const policies[] = {"pin", "off"};
    for (size_t i = 0; i < 2; i++) {
        struct mounted *m = mount_with("--guard", policies[i], "--exec");
        char mark[128];
        (void)snprintf(mark, sizeof mark, "%s/mark", m->base);
        assert_int_equal(setenv("MARK", mark, 1), 0);
        assert_int_equal(run_in(m->source, m->base,
                                "git init -q --bare x; cd x\n"
                                "git config alias.st \"!touch $MARK.alias\"\n"
                                "git config core.worktree ..; git config core.bare false\n"
                                "git config core.fsmonitor \"touch $MARK.fsmonitor; false\"\n"),
                         0);
        (void)run_in(m->mount, m->base,
                     "cd x; ls -la >/dev/null; cat config >/dev/null; "
                     "git status >/dev/null; git st");
        assert_true(has_marks(m, m->base) == (i == 1));
        mounted_free(m);
    }
}

static void with_owner_git_refuses(void **state)
{
    (void)state;
    struct mounted *m = mount_with("--guard", "owner", "--exec");
    assert_int_equal(setenv("MARK", m->base, 1), 0);
    assert_int_equal(run_in(m->source, m->base, "git init -q repo"), 0);
    assert_int_equal(
        run_in(m->mount, m->base, "cd repo; git status 2>&1 | grep -q 'dubious ownership'"), 0);
    mounted_free(m);
}

static void the_host_clones_configures_and_removes(void **state)
{
    (void)state;
    struct mounted *m = mount_with(NULL, NULL, NULL);
    assert_int_equal(
        run_in(m->mount, m->base,
               "git init -q one; cd one; git config user.name me\n"
               "git config user.email me@example.com; echo x >x; git add x; git commit -qm x\n"
               "git remote add up https://example.com/x.git; git remote | grep -q up\n"
               "test \"$(git config user.name)\" = me\n"
               "cd ..; git clone -q one two; test -f two/x\n"
               "git -C one worktree add -q ../three; test -f three/x; git -C three status\n"
               "git -C one gc -q; git -C one fsck; rm -rf two three one"),
        0);
    mounted_free(m);
}

/* The host writes git's configuration: the guest keeps what the host does not see. */
static void the_guest_keeps_its_own_settings(void **state)
{
    (void)state;
    struct mounted *m = mount_with(NULL, NULL, NULL);
    assert_int_equal(run_in(m->source, m->base,
                            "git init -q repo; cd repo; git config alias.st '!echo \"guest\"'\n"
                            "git config core.pager \"$(printf 'a\\tb\\\\c')\"; git config "
                            "user.name guest\n"
                            "git config --add core.pager second"),
                     0);
    assert_int_equal(run_in(m->mount, m->base,
                            "cd repo; git config user.name host; git config alias.mine status\n"
                            "git remote add up https://example.com/x; git config --unset "
                            "core.bare\n"
                            "test \"$(git config user.name)\" = host; git mine >/dev/null\n"
                            "! git config alias.st"),
                     0);
    assert_int_equal(run_in(m->source, m->base,
                            "cd repo; test \"$(git st)\" = guest\n"
                            "test \"$(git config --get-all core.pager)\" = \"$(printf "
                            "'a\\tb\\\\c\\nsecond')\"\n"
                            "test \"$(git config user.name)\" = host; git remote | grep -q up\n"
                            "git config alias.mine; ! git config core.bare\n"
                            "git config user.email guest@example.com"),
                     0);
    /* What the guest changes then is seen, within a second, and what the host alone set is not
     * shown any more. */
    assert_int_equal(run_in(m->mount, m->base,
                            "cd repo; until git config user.email; do :; done\n"
                            "test \"$(git config user.name)\" = host; ! git config alias.mine"),
                     0);
    mounted_free(m);
}

static void hooks_cannot_be_made_from_the_host(void **state)
{
    (void)state;
    struct mounted *m = mount_with(NULL, NULL, NULL);
    assert_int_equal(run_in(m->source, m->base, "git init -q repo"), 0);
    assert_int_equal(try_put(m->mount, "repo/.git/hooks/pre-commit", "x", 0), -EROFS);
    put(m->mount, "repo/x", "x");
    assert_int_equal(try_rename(m->mount, "repo/x", "repo/.git/hooks/post-commit"), -EROFS);
    put(m->source, "repo/.git/hooks/pre-commit", "guest");
    assert_false(is_there(m->mount, "repo/.git/hooks/pre-commit"));
    char hooks[512];
    path_in(m->mount, "repo/.git/hooks", hooks);
    assert_false(is_listed(hooks, "pre-commit"));
    mounted_free(m);
}

static void what_stands_in_gits_place_is_refused(void **state)
{
    (void)state;
    struct mounted *m = mount_with(NULL, NULL, NULL);
    assert_int_equal(
        run_in(m->source, m->base,
               "mkdir a b c d e f; git init -q real; ln -s ../real/.git a/.git\n"
               "printf 'gitdir: ../real/.git\\n' >b/.git\n"
               "printf 'gitdir: ../../outside\\n' >c/.git\n"
               "printf 'gitdir: /etc\\n' >d/.git\n"
               "mkdir vs; echo guest >vs/tasks.json; ln -s ../vs e/.vscode; mkdir e/.claude\n"
               "echo x >f/.claude\n"
               "git init -q g; rm -r g/.git/hooks; mkdir g/h; ln -s ../h g/.git/hooks\n"
               "git init -q h; mkdir h/.git/objects/info/alternates; mkdir -p h/.envrc"),
        0);
    assert_string_equal(get(m->mount, "a/.git/config"), "ENOENT");
    assert_string_equal(get(m->mount, "b/.git"), "gitdir: ../real/.git\n");
    assert_string_equal(get(m->mount, "c/.git"), "EACCES");
    assert_string_equal(get(m->mount, "d/.git"), "EACCES");
    assert_string_equal(get(m->mount, "e/.vscode/tasks.json"), "ENOENT");
    assert_true(is_there(m->mount, "e/.claude"));
    assert_false(is_there(m->mount, "f/.claude"));
    assert_false(is_there(m->mount, "g/.git/hooks"));
    assert_false(is_there(m->mount, "h/.git/objects/info/alternates"));
    assert_false(is_there(m->mount, "h/.envrc"));
    assert_int_equal(run_in(m->mount, m->base, "git -C b status"), 0);
    mounted_free(m);
}

/* ---- pinned files ---- */

static void a_file_that_the_guest_made_is_not_there(void **state)
{
    (void)state;
    struct mounted *m = mount_with(NULL, NULL, NULL);
    put(m->source, ".envrc", "guest");
    make_folder(m->source, ".vscode");
    put(m->source, ".vscode/tasks.json", "guest");
    put(m->source, ".vscode/other", "guest");
    assert_string_equal(get(m->mount, ".envrc"), "ENOENT");
    assert_string_equal(get(m->mount, ".vscode/tasks.json"), "ENOENT");
    assert_string_equal(get(m->mount, ".vscode/other"), "guest");
    assert_false(is_listed(m->mount, ".envrc"));
    assert_true(is_listed(m->mount, ".vscode"));
    mounted_free(m);
}

static void what_the_host_wrote_stays_as_it_is(void **state)
{
    (void)state;
    struct mounted *m = mount_with(NULL, NULL, NULL);
    char path[512];
    struct stat st;
    put(m->source, ".envrc", "guest");
    put(m->mount, ".envrc", "host");
    assert_string_equal(get(m->source, ".envrc"), "host"); /* the guest has it too */
    put(m->source, ".envrc", "changed by the guest");
    assert_string_equal(get(m->mount, ".envrc"), "host");
    remove_it(m->source, ".envrc");
    assert_string_equal(get(m->mount, ".envrc"), "host");
    make_folder(m->source, ".envrc");
    assert_string_equal(get(m->mount, ".envrc"), "host");
    assert_true(is_listed(m->mount, ".envrc"));
    path_in(m->mount, ".envrc", path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 4);
    assert_true(S_ISREG(st.st_mode) && st.st_uid == m->user && st.st_nlink == 1);
    mounted_free(m);
}

static void it_can_be_mapped_and_changed_in_place(void **state)
{
    (void)state;
    struct mounted *m = mount_with(NULL, NULL, NULL);
    char path[512];
    put(m->mount, ".envrc", "0123456789");
    path_in(m->mount, ".envrc", path);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    char *map = mmap(NULL, 10, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(map != MAP_FAILED);
    memcpy(map + 2, "xy", 2);
    assert_int_equal(msync(map, 10, MS_SYNC), 0);
    assert_int_equal(munmap(map, 10), 0);
    assert_int_equal(ftruncate(fd, 6), 0);
    assert_int_equal(close(fd), 0);
    assert_string_equal(get(m->mount, ".envrc"), "01xy45");
    assert_string_equal(get(m->source, ".envrc"), "01xy45");
    assert_int_equal(truncate(path, 3), 0); /* without a close to come */
    assert_string_equal(get(m->source, ".envrc"), "01x");
    mounted_free(m);
}

/* As editors save: a temporary file, fsync, rename; some keep the old one beside it. */
static void an_editors_save_is_the_hosts(void **state)
{
    (void)state;
    struct mounted *m = mount_with(NULL, NULL, NULL);
    char path[512];
    put(m->mount, ".envrc", "first");
    assert_int_equal(try_put(m->mount, "4913.tmp", "second", O_EXCL), 0);
    path_in(m->mount, "4913.tmp", path);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(close(fd), 0);
    assert_int_equal(try_rename(m->mount, "4913.tmp", ".envrc"), 0);
    assert_string_equal(get(m->mount, ".envrc"), "second");
    assert_string_equal(get(m->source, ".envrc"), "second");
    put(m->source, ".envrc", "guest");
    assert_string_equal(get(m->mount, ".envrc"), "second");

    /* Vim's backup: away, write anew, remove the old one. */
    assert_int_equal(try_rename(m->mount, ".envrc", ".envrc~"), 0);
    assert_string_equal(get(m->mount, ".envrc"), "ENOENT");
    assert_string_equal(get(m->mount, ".envrc~"), "second"); /* the host's, not the guest's */
    put(m->mount, ".envrc", "third");
    remove_it(m->mount, ".envrc~");
    assert_string_equal(get(m->mount, ".envrc"), "third");
    assert_false(is_there(m->source, ".envrc~"));
    remove_it(m->mount, ".envrc");
    assert_string_equal(get(m->mount, ".envrc"), "ENOENT");
    assert_false(is_there(m->source, ".envrc"));
    mounted_free(m);
}

static void a_file_whose_bytes_are_the_guests_cannot_become_one(void **state)
{
    (void)state;
    struct mounted *m = mount_with(NULL, NULL, NULL);
    put(m->source, "ready", "guest");
    assert_int_equal(try_rename(m->mount, "ready", ".envrc"), -EPERM);
    char from[512], to[512];
    path_in(m->mount, "ready", from);
    path_in(m->mount, ".envrc", to);
    assert_int_equal(link(from, to), -1);
    assert_int_equal(symlink("ready", to), -1);
    assert_string_equal(get(m->mount, ".envrc"), "ENOENT");
    /* One that the host made, and the guest changed: it is as the host wrote it. */
    assert_int_equal(try_put(m->mount, "temporary", "host", O_EXCL), 0);
    put(m->source, "temporary", "guest");
    assert_int_equal(try_rename(m->mount, "temporary", ".envrc"), 0);
    assert_string_equal(get(m->mount, ".envrc"), "host");
    mounted_free(m);
}

static void it_moves_with_its_folder(void **state)
{
    (void)state;
    struct mounted *m = mount_with(NULL, NULL, NULL);
    make_folder(m->mount, "a");
    put(m->mount, "a/.envrc", "host");
    put(m->source, "a/.envrc", "guest");
    assert_int_equal(try_rename(m->mount, "a", "b"), 0);
    assert_string_equal(get(m->mount, "b/.envrc"), "host");
    make_folder(m->mount, "a");
    assert_string_equal(get(m->mount, "a/.envrc"), "ENOENT");
    assert_int_equal(try_rename(m->mount, "b/.envrc", "a/.npmrc"), 0); /* and by itself */
    assert_string_equal(get(m->mount, "a/.npmrc"), "host");
    assert_string_equal(get(m->source, "a/.npmrc"), "host");
    assert_string_equal(get(m->mount, "b/.envrc"), "ENOENT");
    mounted_free(m);
}

/* A folder for what several mounts share. */
struct shared {
    char base[64], store[96], source[96];
};

static struct shared shared_new(void)
{
    struct shared s;
    (void)snprintf(s.base, sizeof s.base, "/var/tmp/bg-guard-XXXXXX");
    assert_non_null(mkdtemp(s.base));
    (void)snprintf(s.store, sizeof s.store, "%s/store", s.base);
    (void)snprintf(s.source, sizeof s.source, "%s/source", s.base);
    assert_int_equal(mkdir(s.source, 0755), 0);
    return s;
}

static struct mounted *mount_shared(const struct shared *s)
{
    struct mounted_opts opts = mounted_usual();
    opts.source = s->source;
    opts.mount[0] = "--guard-store";
    opts.mount[1] = s->store;
    return mounted_new(&opts);
}

static void approvals_outlive_the_mount(void **state)
{
    (void)state;
    struct shared s = shared_new();
    struct mounted *m = mount_shared(&s);
    char big[200001];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    put(m->mount, ".envrc", "host");
    put(m->mount, ".npmrc", "host");
    for (int i = 0; i < 8; i++) { /* more than a socket holds */
        char name[32];
        (void)snprintf(name, sizeof name, "%d.code-workspace", i);
        put(m->mount, name, big);
    }
    remove_it(m->mount, ".npmrc");
    mounted_free(m);
    put(s.source, ".envrc", "guest");
    put(s.source, ".npmrc", "guest");
    m = mount_shared(&s);
    assert_string_equal(get(m->mount, ".envrc"), "host");
    assert_string_equal(get(m->mount, ".npmrc"), "ENOENT");
    for (int i = 0; i < 8; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "%d.code-workspace", i);
        assert_int_equal(strncmp(get(m->mount, name), big, TEXT_MAX - 1), 0);
    }
    mounted_free(m);
    mounted_remove_all(s.base);
}

/* Until another process has done it; the alarm ends a test for which it never does. */
static void wait_until(const char *folder, const char *name, const char *want)
{
    while (strcmp(get(folder, name), want) != 0)
        (void)sched_yield();
}

static void what_is_approved_at_one_mount_is_at_the_other(void **state)
{
    (void)state;
    struct shared s = shared_new();
    struct mounted *one = mount_shared(&s), *two = mount_shared(&s);
    put(one->mount, ".envrc", "first");
    wait_until(two->mount, ".envrc", "first");
    put(two->mount, ".envrc", "second");
    wait_until(one->mount, ".envrc", "second");
    remove_it(one->mount, ".envrc");
    wait_until(two->mount, ".envrc", "ENOENT");
    mounted_free(two);
    mounted_free(one);
    mounted_remove_all(s.base);
}

static void a_damaged_store_approves_nothing(void **state)
{
    (void)state;
    struct shared s = shared_new();
    struct mounted *m = mount_shared(&s);
    put(m->mount, ".envrc", "host");
    mounted_free(m);
    assert_int_equal(
        run_in(s.store, s.base,
               "for f in *; do echo >>$f; done; name=$(printf %064d 1); echo x >$name; "
               "mkdir $(printf %064d 2); mkfifo $(printf %064d 3)"),
        0);
    m = mount_shared(&s);
    assert_string_equal(get(m->mount, ".envrc"), "ENOENT");
    mounted_free(m);
    mounted_remove_all(s.base);
}

/* ---- bellglass-guard ---- */

/* Runs it over a file server of its own; what it prints is in base/out. Returns its status. */
static int run_guard(const struct shared *s, const char *arguments)
{
    char command[2048];
    const char *server = getenv("BG_TEST_FS"), *guard = getenv("BG_TEST_GUARD");
    assert_non_null(server);
    assert_non_null(guard);
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (dup2(sockets[1], 0) < 0 || dup2(sockets[1], 1) < 0)
            _exit(126);
        (void)execl(server, server, "serve", s->source, NULL);
        _exit(127);
    }
    int ours = dup(sockets[0]); /* without O_CLOEXEC */
    (void)snprintf(command, sizeof command, "'%s' --stream-fd %d --store store %s >out 2>&1", guard,
                   ours, arguments);
    (void)close(sockets[0]);
    (void)close(sockets[1]);
    int status = run_in(s->base, s->base, command);
    (void)close(ours);       /* the server ends with its stream */
    (void)mounted_wait(pid); /* it may not even have been greeted */
    return status;
}

static void trust_approves_what_it_shows(void **state)
{
    (void)state;
    struct shared s = shared_new();
    struct mounted *m = mount_shared(&s);
    put(s.source, ".envrc", "one\ntwo\n\x1b[2Jthree\n");
    assert_string_equal(get(m->mount, ".envrc"), "ENOENT");
    assert_int_equal(run_guard(&s, "trust /.envrc </dev/null"), 125); /* nobody to ask */
    assert_non_null(strstr(get(s.base, "out"), "+\\x1b[2Jthree\n"));
    assert_null(strchr(get(s.base, "out"), '\x1b'));
    assert_string_equal(get(m->mount, ".envrc"), "ENOENT");
    assert_int_equal(run_guard(&s, "--yes trust /.envrc"), 0);
    wait_until(m->mount, ".envrc", "one\ntwo\n\x1b[2Jthree\n");

    put(s.source, ".envrc", "one\n2\n\x1b[2Jthree\n");
    assert_int_equal(run_guard(&s, "trust /.envrc </dev/null"), 125);
    assert_non_null(strstr(get(s.base, "out"), "after line 1 @@\n-two\n+2\n"));
    assert_int_equal(run_guard(&s, "--yes --json trust /.envrc"), 0);
    assert_non_null(strstr(get(s.base, "out"), "\"path\": \"/.envrc\""));
    wait_until(m->mount, ".envrc", "one\n2\n\x1b[2Jthree\n");
    assert_int_equal(run_guard(&s, "--forget trust /.envrc"), 0);
    wait_until(m->mount, ".envrc", "ENOENT");
    mounted_free(m);
    mounted_remove_all(s.base);
}

static void trust_refuses_what_is_none_of_its(void **state)
{
    (void)state;
    struct shared s = shared_new();
    assert_int_equal(run_in(s.source, s.base,
                            "echo x >plain; git init -q .; echo x >.git/hooks/pre-commit; ln -s "
                            "plain .envrc; mkdir .npmrc; mkdir real; echo x >real/.envrc; ln -s "
                            "real alias; head -c 1048576 /dev/zero >.gdbinit"),
                     0);
    static const char *const paths[] = {"/plain",
                                        "/.git/hooks/pre-commit",
                                        "/.envrc",
                                        "/.npmrc",
                                        "/alias/.envrc",
                                        "/.gdbinit",
                                        "/none",
                                        "relative",
                                        "/real/../real/.envrc"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        char arguments[128];
        (void)snprintf(arguments, sizeof arguments, "--yes trust %s", paths[i]);
        if (run_guard(&s, arguments) != 125)
            fail_msg("%s: %s", paths[i], get(s.base, "out"));
    }
    assert_int_equal(run_guard(&s, "--yes trust /real/.envrc"), 0);
    mounted_remove_all(s.base);
}

static void guard_lists_what_there_is(void **state)
{
    (void)state;
    struct shared s = shared_new();
    struct mounted *m = mount_shared(&s);
    put(m->mount, ".envrc", "host");
    put(m->mount, ".npmrc", "host");
    put(m->mount, ".gdbinit", "host");
    put(s.source, ".npmrc", "guest");
    remove_it(s.source, ".gdbinit");
    put(s.source, "CLAUDE.md", "guest");
    put(s.source, "plain", "guest");
    assert_int_equal(run_in(s.source, s.base,
                            "git init -q repo; echo x >repo/.git/hooks/pre-commit; git init -q "
                            "--bare bare; mkdir .claude; echo x >.claude/x"),
                     0);
    mounted_free(m); /* the keeper has stored all of it */
    assert_int_equal(run_guard(&s, "list /"), 0);
    static const char *const lines[] = {
        "approved      /.envrc\n",           "changed       /.npmrc\n",
        "missing       /.gdbinit\n",         "not approved  /CLAUDE.md\n",
        "filtered      /repo/.git/config\n", "hidden        /repo/.git/hooks/pre-commit\n",
        "filtered      /bare/config\n",      "not approved  /.claude/x\n"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(get(s.base, "out"), lines[i]))
            fail_msg("%s is not in %s", lines[i], get(s.base, "out"));
    assert_null(strstr(get(s.base, "out"), "plain"));
    assert_null(strstr(get(s.base, "out"), ".sample"));
    assert_int_equal(run_guard(&s, "rules"), 0);
    assert_non_null(strstr(get(s.base, "out"), "direnv runs it\n"));
    assert_int_equal(run_guard(&s, "--json list /repo"), 0);
    assert_non_null(strstr(get(s.base, "out"), "\"state\": \"hidden\""));
    assert_null(strstr(get(s.base, "out"), "CLAUDE"));
    mounted_remove_all(s.base);
}

static void large_ones_are_refused(void **state)
{
    (void)state;
    struct mounted *m = mount_with(NULL, NULL, NULL);
    char path[512];
    path_in(m->mount, ".envrc", path);
    put(m->mount, ".envrc", "");
    assert_int_equal(truncate(path, 1 << 20), 0);
    assert_int_equal(truncate(path, (1 << 20) + 1), -1);
    assert_int_equal(errno, EFBIG);
    mounted_free(m);
}

static void read_only_mounts_stay_so(void **state)
{
    (void)state;
    struct mounted *m = mount_with("--read-only", NULL, NULL);
    put(m->source, ".envrc", "guest");
    assert_int_equal(try_put(m->mount, ".envrc", "host", 0), -EROFS);
    assert_string_equal(get(m->mount, ".envrc"), "ENOENT");
    mounted_free(m);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(git_works_and_runs_nothing_of_the_guests),
        cmocka_unit_test(without_the_guard_git_runs_it),
        cmocka_unit_test(a_bare_repository_runs_nothing_either),
        cmocka_unit_test(with_owner_git_refuses),
        cmocka_unit_test(the_host_clones_configures_and_removes),
        cmocka_unit_test(the_guest_keeps_its_own_settings),
        cmocka_unit_test(hooks_cannot_be_made_from_the_host),
        cmocka_unit_test(what_stands_in_gits_place_is_refused),
        cmocka_unit_test(a_file_that_the_guest_made_is_not_there),
        cmocka_unit_test(what_the_host_wrote_stays_as_it_is),
        cmocka_unit_test(it_can_be_mapped_and_changed_in_place),
        cmocka_unit_test(an_editors_save_is_the_hosts),
        cmocka_unit_test(a_file_whose_bytes_are_the_guests_cannot_become_one),
        cmocka_unit_test(it_moves_with_its_folder),
        cmocka_unit_test(approvals_outlive_the_mount),
        cmocka_unit_test(what_is_approved_at_one_mount_is_at_the_other),
        cmocka_unit_test(a_damaged_store_approves_nothing),
        cmocka_unit_test(trust_approves_what_it_shows),
        cmocka_unit_test(trust_refuses_what_is_none_of_its),
        cmocka_unit_test(guard_lists_what_there_is),
        cmocka_unit_test(large_ones_are_refused),
        cmocka_unit_test(read_only_mounts_stay_so),
    };
    mounted_need_fuse();
    return cmocka_run_group_tests_name("fs_guard", tests, NULL, NULL);
}
