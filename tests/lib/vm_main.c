#include "tests/lib/vm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"
#include "common/state/sandbox.h"

#define LEFTOVER_MS 60000 /* what a helper may take to end after its last command */

/* ---- the program: group, needs, leftovers ---- */

/* Keeps the logs of a sandbox that goes, for a failed run to print. */
static void save_logs(struct vm *vm, const char *sandbox)
{
    static const char *const names[] = {"state.json", "supervisor.log", "proxy.log", "console.log"};
    BG_AUTOFREE char *all = NULL;
    if (asprintf(&all, "%s/logs", vm->folder) < 0)
        return;
    BG_AUTOCLOSE int fd = open(all, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        BG_AUTOFREE char *path = NULL, *bytes = NULL;
        size_t size;
        if (asprintf(&path, "%s/state/sandboxes/%s/%s", vm->home, sandbox, names[i]) < 0 ||
            bg_read_file(AT_FDCWD, path, VM_CAPTURE_MAX, &bytes, &size, NULL) < 0 || size == 0)
            continue;
        size_t from = size > 4000 ? size - 4000 : 0;
        (void)dprintf(fd, "---- %s/%s\n%s\n", sandbox, names[i], bytes + from);
    }
}

/* Removes every sandbox but the shared one (unless all). */
static int remove_sandboxes(struct vm *vm, bool all)
{
    struct bg_paths paths;
    struct bg_err err;
    char **names = NULL;
    int failed = 0;
    if (bg_paths_init(&paths, &err) < 0)
        return -1;
    if (bg_sandbox_names(&paths, &names, &err) < 0) {
        print_error("%s\n", err.text);
        failed = -1;
    }
    bg_paths_done(&paths);
    for (size_t i = 0; names && names[i]; i++) {
        if (all || strcmp(names[i], VM_SHARED) != 0) {
            save_logs(vm, names[i]);
            const struct vm_result *r = vm_call(vm, "rm", "--force", names[i], NULL);
            if (r->status != 0) {
                print_error("bellglass rm --force %s: %s", names[i], r->err);
                failed = -1;
            }
        }
        free(names[i]);
    }
    free(names);
    return failed;
}

static int end_test(void **state)
{
    struct vm *vm = *state;
    int failed = remove_sandboxes(vm, /* all= */ false);
    while (vm->kept) {
        struct vm_kept *k = vm->kept;
        vm->kept = k->next;
        free(k->memory);
        free(k);
    }
    return failed;
}

static int end_group(void **state)
{
    struct vm *vm = *state;
    int failed = remove_sandboxes(vm, /* all= */ true);
    (void)end_test(state);
    return failed;
}

/* The group's state comes from vm_main, which cmocka gives no way to but this. */
static struct vm *group_vm;

static int begin_group(void **state)
{
    *state = group_vm;
    return 0;
}

/* Heap: BG_TEST_IMAGES, or where tests/run keeps them. */
static char *images_folder(void)
{
    const char *images = getenv("BG_TEST_IMAGES");
    char *path = NULL;
    int n = images && *images
                ? asprintf(&path, "%s", images)
                : asprintf(&path, "/var/tmp/bellglass-tests-%u/home/data/images", geteuid());
    return n < 0 ? NULL : path;
}

/* Says why the need is not there, or NULL. */
static const char *missing(unsigned need, const struct vm *vm, char *text, size_t text_size)
{
    if (need == VM_NEEDS_FUSE)
        return access("/dev/fuse", R_OK | W_OK) < 0 ? "/dev/fuse cannot be opened" : NULL;
    if (need == VM_NEEDS_ROOT)
        return geteuid() != 0 ? "needs root" : NULL;
    (void)snprintf(text, text_size, "%s", vm->bellglass);
    if (access(vm->bellglass, X_OK) < 0) {
        (void)snprintf(text, text_size, "%s is not there: `meson install` first", vm->bellglass);
        return text;
    }
    BG_AUTOFREE char *tag = NULL, *images = images_folder();
    if (!images || asprintf(&tag, "%s/tags/debian", images) < 0)
        return "out of memory";
    if (access(tag, F_OK) < 0) {
        (void)snprintf(text, text_size, "%s is not there: build the image debian", tag);
        return text;
    }
    return NULL;
}

/* 0: all there; 77: skip; 1: something that must be there is not. */
static int check_needs(const struct vm *vm, unsigned needs)
{
    static const struct {
        unsigned need;
        const char *name;
    } all[] = {{VM_NEEDS_VM, "vm"}, {VM_NEEDS_FUSE, "fuse"}, {VM_NEEDS_ROOT, "root"}};
    const char *required = getenv("BG_TEST_REQUIRE");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char text[512];
        const char *why = needs & all[i].need ? missing(all[i].need, vm, text, sizeof text) : NULL;
        if (!why)
            continue;
        bool must = required && strstr(required, all[i].name);
        print_error("%s: %s\n", must ? "required" : "skipped", why);
        return must ? 1 : 77;
    }
    return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path); /* a failure stops the walk and shows as a folder that is left */
}

static void make_home(struct vm *vm)
{
    const char *base = getenv("TMPDIR");
    assert_true(asprintf(&vm->folder, "%s/bg-test-XXXXXX", base && *base ? base : "/tmp") > 0);
    assert_non_null(mkdtemp(vm->folder));
    assert_int_equal(chmod(vm->folder, 0711), 0); /* root's helpers run as somebody else */
    assert_true(asprintf(&vm->home, "%s/home", vm->folder) > 0);
    BG_AUTOFREE char *data = NULL, *link = NULL, *user = NULL, *reports = NULL, *asan = NULL;
    assert_true(asprintf(&data, "%s/data", vm->home) > 0);
    assert_true(asprintf(&link, "%s/images", data) > 0);
    assert_true(asprintf(&user, "%s/user", vm->folder) > 0);
    assert_true(asprintf(&reports, "%s/reports", vm->folder) > 0);
    assert_int_equal(mkdir(vm->home, 0711), 0);
    assert_int_equal(mkdir(data, 0711), 0);
    assert_int_equal(mkdir(user, 0700), 0);
    assert_int_equal(mkdir(reports, 0700), 0);
    assert_int_equal(chmod(reports, 01777), 0);
    BG_AUTOFREE char *images = images_folder();
    assert_non_null(images);
    assert_int_equal(symlink(images, link), 0);
    /* Sanitizers' reports of processes without a terminal; see check_reports. */
    assert_true(asprintf(&asan, "log_path=%s/san:print_stacktrace=1", reports) > 0);
    (void)setenv("ASAN_OPTIONS", asan, 1);
    (void)setenv("UBSAN_OPTIONS", asan, 1);
    (void)setenv("BELLGLASS_HOME", vm->home, 1);
    (void)setenv("HOME", user, 1);
    (void)unsetenv("XDG_DATA_HOME");
    (void)unsetenv("XDG_STATE_HOME");
    (void)unsetenv("XDG_RUNTIME_DIR");
}

static int run_group(struct vm *vm, const char *program, const struct CMUnitTest *tests,
                     size_t count)
{
    struct CMUnitTest *own = calloc(count, sizeof *own);
    if (!own)
        return 1;
    memcpy(own, tests, count * sizeof *own);
    for (size_t i = 0; i < count; i++)
        if (!own[i].teardown_func)
            own[i].teardown_func = end_test;
    BG_AUTOFREE char *filter = NULL;
    const char *only = getenv("BG_TEST_ONLY");
    if (only && *only && asprintf(&filter, "*%s*", only) > 0)
        cmocka_set_test_filter(filter);
    const char *slash = strrchr(program, '/');
    group_vm = vm;
    int failed =
        _cmocka_run_group_tests(slash ? slash + 1 : program, own, count, begin_group, end_group);
    free(own);
    return failed == 0 ? 0 : 1;
}

/* Set when we are to end (a test runner's time limit). */
static volatile sig_atomic_t end_now;

/* The pid of one child that is left; 0 if it cannot be told. */
static pid_t first_child(void)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    BG_AUTOFREE char *text = NULL;
    if (bg_read_file(AT_FDCWD, path, 1 << 20, &text, NULL, NULL) < 0)
        return 0;
    return (pid_t)strtol(text, NULL, 10);
}

/* Called in the subreaper once the tests are done: all their descendants are its children. */
static int check_processes(void)
{
    uint64_t start_ms = bg_now_ms();
    int failed = 0;
    for (;;) {
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid > 0)
            continue;
        if (pid < 0)
            return failed; /* ECHILD: nothing is left */
        if (bg_now_ms() - start_ms < LEFTOVER_MS && !end_now) {
            (void)poll(NULL, 0, 50);
            continue;
        }
        char path[64];
        pid = first_child();
        (void)snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
        BG_AUTOFREE char *text = NULL;
        size_t size = 0;
        if (bg_read_file(AT_FDCWD, path, 1 << 20, &text, &size, NULL) == 0)
            for (size_t i = 0; i + 1 < size; i++)
                if (text[i] == '\0')
                    text[i] = ' ';
        print_error("left running: %d %.300s\n", pid, text ? text : "?");
        failed = 1;
        if (pid <= 0)
            return failed;
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
    }
}

static int check_mounts(const struct vm *vm)
{
    BG_AUTOFREE char *text = NULL;
    if (bg_read_file(AT_FDCWD, "/proc/self/mountinfo", VM_CAPTURE_MAX, &text, NULL, NULL) < 0)
        return 1;
    int failed = 0;
    char *rest = text;
    for (const char *line; (line = strsep(&rest, "\n"));)
        if (strstr(line, vm->folder)) {
            print_error("left mounted: %s\n", line);
            failed = 1;
            /* Field 5 of mountinfo, so that the folder can go. */
            BG_AUTOFREE char *where = NULL;
            if (sscanf(line, "%*s %*s %*s %*s %ms", &where) == 1)
                (void)umount2(where, MNT_DETACH);
        }
    return failed;
}

static int check_reports(const struct vm *vm)
{
    BG_AUTOFREE char *folder = NULL;
    if (asprintf(&folder, "%s/reports", vm->folder) < 0)
        return 1;
    DIR *dir = opendir(folder);
    int failed = 0;
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        if (e->d_name[0] == '.')
            continue;
        BG_AUTOFREE char *text = NULL;
        if (bg_read_file(dirfd(dir), e->d_name, VM_CAPTURE_MAX, &text, NULL, NULL) == 0)
            print_error("a sanitizer's report, %s:\n%.8000s\n", e->d_name, text);
        failed = 1;
    }
    if (dir)
        (void)closedir(dir);
    return failed;
}

static void print_logs(const struct vm *vm)
{
    BG_AUTOFREE char *path = NULL, *text = NULL;
    size_t size;
    if (asprintf(&path, "%s/logs", vm->folder) > 0 &&
        bg_read_file(AT_FDCWD, path, VM_CAPTURE_MAX, &text, &size, NULL) == 0)
        print_error("%s", text + (size > 20000 ? size - 20000 : 0));
}

static void asked_to_end(int signal_number)
{
    (void)signal_number;
    end_now = 1;
}

/* Waits for the tester and reaps whatever else becomes our child meanwhile, at once, as init would
 * do, so that nobody sees zombies. Returns the tester's status. */
static int wait_tester(pid_t tester)
{
    const struct sigaction action = {.sa_handler = asked_to_end};
    (void)sigaction(SIGTERM, &action, NULL); /* no SA_RESTART: waitpid shall come back */
    (void)sigaction(SIGINT, &action, NULL);
    for (;;) {
        int wait_status;
        pid_t pid = waitpid(-1, &wait_status, 0);
        if (pid == tester)
            return vm_status_of(wait_status);
        if (end_now) {
            (void)kill(tester, SIGKILL);
            (void)waitpid(tester, NULL, 0);
            return 1;
        }
        if (pid < 0 && errno != EINTR)
            return 1;
    }
}

int vm_main(const char *program, unsigned needs, const struct CMUnitTest *tests, size_t count)
{
    struct vm vm = {0};
    const char *forced = getenv("BG_TEST_BELLGLASS");
    vm.bellglass = strdup(forced ? forced : "/usr/bin/bellglass");
    if (!vm.bellglass)
        return 1;
    int status = check_needs(&vm, needs);
    if (status != 0) {
        free(vm.bellglass);
        return status;
    }
    make_home(&vm);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t tester = fork();
    if (tester == 0) {
        status = run_group(&vm, program, tests, count);
        (void)fflush(NULL);
        _exit(status);
    }
    /* The tester is no subreaper: what outlives its command becomes our child. */
    status = wait_tester(tester);
    status |= check_processes() | check_mounts(&vm) | check_reports(&vm);
    if (status != 0)
        print_logs(&vm);
    if (getenv("BG_TEST_KEEP"))
        print_message("kept: %s\n", vm.folder);
    else
        (void)nftw(vm.folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    free(vm.bellglass);
    free(vm.folder);
    free(vm.home);
    return status;
}
