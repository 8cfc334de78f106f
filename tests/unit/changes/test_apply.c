/* apply: every change there is, done whole; and after a crash, a failure or an editor's save at any
 * step each file is the old or the new one, and nothing is left over. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "host/changes/apply.h"
#include "host/changes/scan.h"

#define TREE_MAX  16384
#define STEPS_MAX 1000

struct fixture {
    char folder[64];
    int root, state, store;
    struct entries base, host, guest;
    struct view view;
    struct plan plan;
    char old[TREE_MAX], new[TREE_MAX];
};

static void script(const struct fixture *f, const char *text)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (chdir(f->folder) == 0)
            (void)execl("/bin/bash", "bash", "-ec", text, NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* The folder is made and removed hundreds of times, so that is not left to scripts. */
static void put_file(int root, const char *path, const char *bytes, int flags)
{
    BG_AUTOCLOSE int fd = openat(root, path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0644);
    assert_true(fd >= 0);
    assert_int_equal(bg_write_full(fd, bytes, strlen(bytes)), 0);
}

static void remove_below(int fd)
{
    DIR *folder = fdopendir(fd);
    assert_non_null(folder);
    assert_int_equal(fchmod(fd, 0700), 0);
    for (const struct dirent *d; (d = readdir(folder));) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        int below = openat(fd, d->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (below >= 0)
            remove_below(below);
        assert_int_equal(unlinkat(fd, d->d_name, below >= 0 ? AT_REMOVEDIR : 0), 0);
    }
    (void)closedir(folder); /* only read from */
}

static void empty(int folder)
{
    remove_below(openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

/* ---- trees as text ---- */

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add_tree(int fd, const char *prefix, char **lines, size_t *count)
{
    DIR *folder = fdopendir(fd);
    assert_non_null(folder);
    for (const struct dirent *d; (d = readdir(folder));) {
        struct stat st;
        char bytes[256] = "", *line = NULL;
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        assert_int_equal(fstatat(dirfd(folder), d->d_name, &st, AT_SYMLINK_NOFOLLOW), 0);
        if (S_ISLNK(st.st_mode)) {
            assert_true(readlinkat(dirfd(folder), d->d_name, bytes, sizeof bytes - 1) > 0);
        } else if (S_ISREG(st.st_mode)) {
            BG_AUTOCLOSE int file = openat(dirfd(folder), d->d_name, O_RDONLY | O_CLOEXEC);
            assert_true(read(file, bytes, sizeof bytes - 1) >= 0);
        }
        assert_true(asprintf(&line, "%s%s %o %s\n", prefix, d->d_name,
                             S_ISLNK(st.st_mode) ? 0 : (unsigned)st.st_mode, bytes) > 0);
        assert_true(*count < 256);
        lines[(*count)++] = line;
        if (S_ISDIR(st.st_mode)) {
            char *below = NULL;
            assert_true(asprintf(&below, "%s%s/", prefix, d->d_name) > 0);
            add_tree(openat(dirfd(folder), d->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), below,
                     lines, count);
            free(below);
        }
    }
    (void)closedir(folder);
}

/* A line for each file, with its contents (none has a newline). */
static void read_tree(const struct fixture *f, char out[TREE_MAX])
{
    char *lines[256];
    size_t count = 0, used = 0;
    add_tree(openat(f->root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), "", lines, &count);
    qsort(lines, count, sizeof *lines, compare_texts);
    out[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        used += (size_t)snprintf(out + used, TREE_MAX - used, "%s", lines[i]);
        assert_true(used < TREE_MAX);
        free(lines[i]);
    }
}

static bool has_line(const char *tree, const char *line, size_t size)
{
    for (const char *p = tree; (p = strstr(p, "")) && *p; p += strcspn(p, "\n") + 1)
        if (strncmp(p, line, size) == 0)
            return true;
    return false;
}

/* Each file is the old or the new one; temporary ones are not looked at. */
static void check_each_old_or_new(const struct fixture *f)
{
    char now[TREE_MAX];
    read_tree(f, now);
    for (const char *p = now; *p; p += strcspn(p, "\n") + 1) {
        size_t size = strcspn(p, "\n") + 1;
        const char *temporary = strstr(p, SCAN_TEMPORARY);
        if (temporary && temporary < p + size)
            continue;
        /* A new folder may not have its last permissions yet. */
        bool folder = size > 4 && strncmp(p + strcspn(p, " "), " 40", 3) == 0;
        if (!folder && !has_line(f->old, p, size) && !has_line(f->new, p, size))
            fail_msg("neither old nor new: %.*s", (int)size, p);
    }
    /* What is replaced is there at every moment. */
    assert_true(has_line(now, "edit ", 5) && has_line(now, "keep ", 5) &&
                has_line(now, "link ", 5));
}

static void check_nothing_left(const struct fixture *f)
{
    char now[TREE_MAX];
    read_tree(f, now);
    assert_null(strstr(now, SCAN_TEMPORARY));
    assert_int_equal(faccessat(f->state, "journal", F_OK, 0), -1);
    assert_int_equal(faccessat(f->state, "journal.commit", F_OK, 0), -1);
}

/* ---- the sides ---- */

static void add_guest(struct fixture *f, uint8_t type, unsigned mode, const char *path,
                      const char *bytes)
{
    struct bg_change c = {.type = type, .mode = (uint16_t)mode};
    (void)snprintf(c.path, sizeof c.path, "%s", path);
    if (type == BG_CHANGE_SYMLINK)
        (void)snprintf(c.target, sizeof c.target, "%s", bytes);
    if (type == BG_CHANGE_FILE)
        c.size = strlen(bytes);
    struct entry *entry = entries_add(&f->guest, &c);
    assert_non_null(entry);
    if (type != BG_CHANGE_FILE)
        return;
    char name[2 * BG_SHA256_SIZE + 1];
    struct bg_sha256 hash;
    bg_sha256_init(&hash);
    bg_sha256_update(&hash, bytes, strlen(bytes));
    bg_sha256_final(&hash, entry->hash);
    entry->has_hash = true;
    bg_hex(entry->hash, sizeof entry->hash, name);
    assert_int_equal(bg_write_file(f->store, name, bytes, strlen(bytes), 0600, NULL), 0);
}

static int equal(void *owner, const struct entry *host, const struct entry *guest)
{
    (void)owner;
    (void)host;
    (void)guest;
    return 0;
}

static void make_plan(struct fixture *f)
{
    const struct plan_opts opts = {.force = false};
    static const char *reasons[256];
    assert_int_equal(scan_folder(f->root, &f->base, NULL), 0);
    assert_int_equal(scan_folder(f->root, &f->host, NULL), 0);
    entries_sort(&f->guest);
    assert_int_equal(view_make(&f->base, &f->host, &f->guest, equal, NULL, &f->view), 0);
    assert_true(f->view.count < 256);
    plan_choose(&f->view, &f->host, &opts, reasons);
    for (size_t i = 0; i < f->view.count; i++)
        if (reasons[i])
            fail_msg("%s: %s", f->view.list[i].path, reasons[i]);
    assert_int_equal(plan_make(&f->view, &f->host, reasons, "0123456789abcdef", &f->plan), 0);
}

static void fill(struct fixture *f)
{
    static const char *const folders[] = {"dir", "dir/below", "type2", "type2/x", "closed"};
    static const char *const files[][2] = {
        {"edit", "old"},          {"keep", "keep"}, {"gone", "gone"},   {"dir/gone2", "2"},
        {"dir/below/gone3", "3"}, {"type1", "t"},   {"type2/x/a", "a"}, {"mode", "m"},
        {"tolink", "f"},          {"closed/c", "c"}};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        assert_int_equal(mkdirat(f->root, folders[i], 0755), 0);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        put_file(f->root, files[i][0], files[i][1], O_EXCL);
    assert_int_equal(symlinkat("edit", f->root, "link"), 0);
    assert_int_equal(symlinkat("keep", f->root, "tofile"), 0);
}

static void open_folders(struct fixture *f)
{
    static const char *const names[] = {"root", "state", "store"};
    int *const fds[] = {&f->root, &f->state, &f->store};
    for (size_t i = 0; i < 3; i++) {
        char path[80];
        (void)snprintf(path, sizeof path, "%s/%s", f->folder, names[i]);
        assert_int_equal(mkdir(path, 0700), 0);
        *fds[i] = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(*fds[i] >= 0);
    }
}

static void change_everything(struct fixture *f)
{
    add_guest(f, BG_CHANGE_FILE, 0755, "edit", "new");
    add_guest(f, BG_CHANGE_REMOVED, 0, "gone", "");
    add_guest(f, BG_CHANGE_REMOVED, 0, "dir", "");
    add_guest(f, BG_CHANGE_FOLDER, 0755, "type1", "");
    add_guest(f, BG_CHANGE_FILE, 0644, "type1/x", "in the folder");
    add_guest(f, BG_CHANGE_FILE, 0644, "type2", "a file now");
    add_guest(f, BG_CHANGE_FILE, 0600, "mode", "m");
    add_guest(f, BG_CHANGE_SYMLINK, 0777, "link", "keep");
    add_guest(f, BG_CHANGE_FILE, 0644, "tofile", "no link");
    add_guest(f, BG_CHANGE_SYMLINK, 0777, "tolink", "keep");
    add_guest(f, BG_CHANGE_FOLDER, 0755, "fresh", "");
    add_guest(f, BG_CHANGE_FOLDER, 0500, "fresh/deep", "");
    add_guest(f, BG_CHANGE_FILE, 0444, "fresh/deep/file", "deep");
    add_guest(f, BG_CHANGE_FOLDER, 0555, "closed", "");
    make_plan(f);
}

static int start(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    /* In memory if there is such a place: thousands of syncs take their time on a disk. */
    (void)snprintf(f->folder, sizeof f->folder, "%s/bellglass-apply-XXXXXX",
                   access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/var/tmp");
    assert_non_null(mkdtemp(f->folder));
    (void)umask(022);
    open_folders(f);
    fill(f);
    read_tree(f, f->old);
    *state = f;
    return 0;
}

static void close_sides(struct fixture *f)
{
    plan_done(&f->plan);
    view_done(&f->view);
    entries_done(&f->base);
    entries_done(&f->host);
    entries_done(&f->guest);
}

static int stop(void **state)
{
    struct fixture *f = *state;
    close_sides(f);
    int folder = open(f->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(folder >= 0);
    remove_below(folder);
    assert_int_equal(close(f->root) | close(f->state) | close(f->store), 0);
    assert_int_equal(rmdir(f->folder), 0);
    free(f);
    return 0;
}

/* The folder as it was, with new inodes and times, and a plan for it. */
static void again(struct fixture *f)
{
    close_sides(f);
    empty(f->root);
    empty(f->state);
    empty(f->store);
    fill(f);
    change_everything(f);
}

static struct apply apply_of(const struct fixture *f)
{
    return (struct apply){.root = f->root, .state = f->state, .store = f->store};
}

static const char expected[] = "closed 40555 \n"
                               "closed/c 100644 c\n"
                               "edit 100755 new\n"
                               "fresh 40755 \n"
                               "fresh/deep 40500 \n"
                               "fresh/deep/file 100444 deep\n"
                               "keep 100644 keep\n"
                               "link 0 keep\n"
                               "mode 100600 m\n"
                               "tofile 100644 no link\n"
                               "tolink 0 keep\n"
                               "type1 40755 \n"
                               "type1/x 100644 in the folder\n"
                               "type2 100644 a file now\n";

static void every_change_is_done(void **state)
{
    struct fixture *f = *state;
    struct bg_err err = {0};
    const struct apply apply = apply_of(f);
    change_everything(f);
    assert_int_equal(apply_run(&apply, &f->plan, &err), 0);
    for (size_t i = 0; i < f->plan.count; i++)
        if (f->plan.list[i].state != STEP_DONE)
            fail_msg("%s: %d", f->plan.list[i].path, f->plan.list[i].code);
    read_tree(f, f->new);
    assert_string_equal(f->new, expected);
    check_nothing_left(f);
}

/* ---- at every step ---- */

struct trap {
    int count, at;
    int result; /* < 0: this is returned there; 0: the process ends */
    const struct fixture *f;
    void (*save)(const struct fixture *f); /* called there instead */
};

static int spring(void *owner)
{
    struct trap *trap = owner;
    if (++trap->count != trap->at)
        return 0;
    if (trap->save) {
        trap->save(trap->f);
        return 0;
    }
    if (trap->result < 0)
        return trap->result;
    _exit(42);
}

static void a_crash_at_any_step_is_ended(void **state)
{
    struct fixture *f = *state;
    bool ended = false;
    int undone_count = 0, done_count = 0;
    (void)snprintf(f->new, sizeof f->new, "%s", expected);
    for (int at = 1; !ended; at++) {
        again(f);
        struct trap trap = {.at = at};
        struct apply apply = apply_of(f);
        apply.on_step = spring;
        apply.owner = &trap;
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            _exit(apply_run(&apply, &f->plan, NULL) == 0 ? 0 : 1);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        ended = WEXITSTATUS(status) == 0;
        assert_true(ended || WEXITSTATUS(status) == 42);
        assert_true(at < STEPS_MAX);
        check_each_old_or_new(f);
        apply.on_step = NULL;
        if (apply_pending(&apply)) {
            struct plan plan;
            struct bg_err err = {0};
            bool undone;
            assert_int_equal(apply_run(&apply, &f->plan, &err), -EBUSY);
            assert_int_equal(apply_resume(&apply, &plan, &undone, &err), 0);
            for (size_t i = 0; !undone && i < plan.count; i++)
                if (plan.list[i].state != STEP_DONE)
                    fail_msg("crash %d: %s: %d", at, plan.list[i].path, plan.list[i].code);
            plan_done(&plan);
            undone_count += undone;
            done_count += !undone;
            char now[TREE_MAX];
            read_tree(f, now);
            assert_string_equal(now, undone ? f->old : f->new);
        }
        check_nothing_left(f);
    }
    assert_true(undone_count > 5 && done_count > 10);
}

static void a_failure_at_any_step_leaves_nothing_half_done(void **state)
{
    struct fixture *f = *state;
    int failed_count = 0;
    (void)snprintf(f->new, sizeof f->new, "%s", expected);
    for (int at = 1;; at++) {
        again(f);
        struct trap trap = {.at = at, .result = -ENOSPC};
        struct apply apply = apply_of(f);
        struct bg_err err = {0};
        apply.on_step = spring;
        apply.owner = &trap;
        int r = apply_run(&apply, &f->plan, &err);
        char now[TREE_MAX];
        read_tree(f, now);
        if (r < 0) {
            failed_count++;
            assert_int_equal(r, -ENOSPC);
            assert_string_equal(now, f->old);
        } else {
            check_each_old_or_new(f);
        }
        check_nothing_left(f);
        if (trap.count < at)
            break;
    }
    assert_true(failed_count > 5);
}

/* ---- editors ---- */

static void save_at_any_step(struct fixture *f, void (*save)(const struct fixture *f))
{
    for (int at = 1;; at++) {
        again(f);
        struct trap trap = {.at = at, .f = f, .save = save};
        struct apply apply = apply_of(f);
        struct bg_err err = {0};
        char now[TREE_MAX];
        apply.on_step = spring;
        apply.owner = &trap;
        assert_int_equal(apply_run(&apply, &f->plan, &err), 0);
        if (trap.count < at)
            break;
        check_nothing_left(f);
        read_tree(f, now);
        const char *edit = strstr(now, "\nedit ");
        assert_non_null(edit);
        const char *saved = strstr(edit, "editor");
        assert_true(saved && saved < edit + 1 + strcspn(edit + 1, "\n"));
    }
}

static void append(const struct fixture *f)
{
    put_file(f->root, "edit", "editor", O_APPEND);
}

static void put_there(const struct fixture *f)
{
    put_file(f->root, "edit~", "editor", O_EXCL);
    assert_int_equal(renameat(f->root, "edit~", f->root, "edit"), 0);
}

static void what_an_editor_writes_meanwhile_stays(void **state)
{
    save_at_any_step(*state, append);
}

static void what_an_editor_puts_there_meanwhile_stays(void **state)
{
    save_at_any_step(*state, put_there);
}

static void a_file_that_changed_before_is_a_conflict(void **state)
{
    struct fixture *f = *state;
    const struct apply apply = apply_of(f);
    change_everything(f);
    script(f, "printf other >root/edit; printf other >root/gone; printf x >root/dir/extra");
    assert_int_equal(apply_run(&apply, &f->plan, NULL), 0);
    script(f, "cd root; test \"$(cat edit gone dir/extra)\" = otherotherx; test ! -e dir/gone2;"
              "test \"$(cat type2)\" = 'a file now'");
    size_t conflicts = 0;
    for (size_t i = 0; i < f->plan.count; i++)
        conflicts += f->plan.list[i].state == STEP_CONFLICT;
    assert_int_equal(conflicts, 3); /* edit, gone, dir */
    check_nothing_left(f);
}

static void nothing_is_written_through_a_symlink(void **state)
{
    struct fixture *f = *state;
    struct bg_err err = {0};
    const struct apply apply = apply_of(f);
    change_everything(f);
    script(f, "mkdir outside; cp -a root/type2 root/dir outside; rm -r root/dir; ln -s "
              "../outside/dir root/dir");
    assert_int_equal(apply_run(&apply, &f->plan, &err), 0);
    script(f, "test -e outside/dir/gone2 -a -e outside/dir/below/gone3; rm -r outside");
    check_nothing_left(f);
}

static void damaged_contents_change_nothing(void **state)
{
    struct fixture *f = *state;
    struct bg_err err = {0};
    const struct apply apply = apply_of(f);
    change_everything(f);
    script(f, "for file in store/*; do printf x >>$file; break; done");
    assert_int_equal(apply_run(&apply, &f->plan, &err), -EBADMSG);
    char now[TREE_MAX];
    read_tree(f, now);
    assert_string_equal(now, f->old);
    check_nothing_left(f);
}

static void a_damaged_journal_is_refused(void **state)
{
    struct fixture *f = *state;
    struct bg_err err = {0};
    struct plan plan;
    bool undone;
    const struct apply apply = apply_of(f);
    change_everything(f);
    uint8_t *bytes;
    size_t size;
    assert_int_equal(plan_emit(&f->plan, &bytes, &size), 0);
    for (size_t i = 0; i < size; i += 7) {
        bytes[i] ^= 1;
        assert_int_equal(plan_parse(bytes, size, &plan), -EUCLEAN);
        bytes[i] ^= 1;
        assert_int_equal(plan_parse(bytes, i, &plan), -EUCLEAN);
    }
    assert_int_equal(plan_parse(bytes, size, &plan), 0);
    assert_int_equal(plan.count, f->plan.count);
    plan_done(&plan);
    free(bytes);
    assert_int_equal(apply_resume(&apply, &plan, &undone, &err), -ENOENT);
    script(f, "printf nonsense >state/journal");
    assert_int_equal(apply_resume(&apply, &plan, &undone, &err), -EUCLEAN);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_change_is_done),
        TEST(a_crash_at_any_step_is_ended),
        TEST(a_failure_at_any_step_leaves_nothing_half_done),
        TEST(what_an_editor_writes_meanwhile_stays),
        TEST(what_an_editor_puts_there_meanwhile_stays),
        TEST(a_file_that_changed_before_is_a_conflict),
        TEST(nothing_is_written_through_a_symlink),
        TEST(damaged_contents_change_nothing),
        TEST(a_damaged_journal_is_refused),
    };
    return cmocka_run_group_tests_name("apply", tests, NULL, NULL);
}
