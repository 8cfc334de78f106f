#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/state/paths.h"

static int setup(void **state)
{
    char *folder = strdup("/tmp/bg-test-XXXXXX");
    static const char *const names[] = {"BELLGLASS_HOME", "BELLGLASS_HELPER_DIR", "XDG_DATA_HOME",
                                        "XDG_STATE_HOME", "XDG_RUNTIME_DIR"};
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_equal(unsetenv(names[i]), 0);
    *state = folder;
    return 0;
}

static int teardown(void **state)
{
    char command[256];
    static const char *const below[] = {
        "h/data", "h/state",     "h/run", "h",      "d/bellglass", "d", "s/bellglass",
        "s",      "r/bellglass", "r",     "helper", "loose",       ""};
    for (size_t i = 0; i < sizeof below / sizeof *below; i++) {
        (void)snprintf(command, sizeof command, "%s/%s", (const char *)*state, below[i]);
        if (unlink(command) < 0)
            (void)rmdir(command);
    }
    assert_int_equal(access(*state, F_OK), -1);
    free(*state);
    return 0;
}

static void one_variable_moves_everything(void **state)
{
    const char *folder = *state;
    char home[128], want[160];
    struct bg_paths paths;
    struct bg_err err;
    struct stat st;
    (void)snprintf(home, sizeof home, "%s/h", folder);
    assert_int_equal(setenv("BELLGLASS_HOME", home, 1), 0);
    assert_int_equal(bg_paths_init(&paths, &err), 0);
    (void)snprintf(want, sizeof want, "%s/data", home);
    assert_string_equal(paths.data, want);
    (void)snprintf(want, sizeof want, "%s/state", home);
    assert_string_equal(paths.state, want);
    (void)snprintf(want, sizeof want, "%s/run", home);
    assert_string_equal(paths.runtime, want);
    assert_int_equal(stat(paths.runtime, &st), 0);
    assert_int_equal(st.st_mode & 077, geteuid() == 0 ? 011 : 0);
    bg_paths_done(&paths);
}

static void follows_the_xdg_folders(void **state)
{
    const char *folder = *state;
    static const char *const names[][2] = {
        {"XDG_DATA_HOME", "d"}, {"XDG_STATE_HOME", "s"}, {"XDG_RUNTIME_DIR", "r"}};
    struct bg_paths paths;
    struct bg_err err;
    for (size_t i = 0; i < 3; i++) {
        char value[128];
        (void)snprintf(value, sizeof value, "%s/%s", folder, names[i][1]);
        assert_int_equal(setenv(names[i][0], value, 1), 0);
    }
    assert_int_equal(bg_paths_init(&paths, &err), 0);
    assert_non_null(strstr(paths.data, "/d/bellglass"));
    assert_non_null(strstr(paths.state, "/s/bellglass"));
    assert_non_null(strstr(paths.runtime, "/r/bellglass"));
    bg_paths_done(&paths);
}

static void refuses_a_relative_home(void **state)
{
    (void)state;
    struct bg_paths paths;
    struct bg_err err;
    assert_int_equal(setenv("BELLGLASS_HOME", "here", 1), 0);
    assert_int_equal(bg_paths_init(&paths, &err), -EINVAL);
    assert_non_null(strstr(err.text, "BELLGLASS_HOME='here': give an absolute path"));
}

static void refuses_a_folder_that_others_may_write(void **state)
{
    const char *folder = *state;
    char home[128], run[160];
    struct bg_paths paths;
    struct bg_err err;
    (void)snprintf(home, sizeof home, "%s/h", folder);
    (void)snprintf(run, sizeof run, "%s/run", home);
    assert_int_equal(mkdir(home, 0700), 0);
    assert_int_equal(mkdir(run, 0700), 0);
    assert_int_equal(chmod(run, 0722), 0);
    assert_int_equal(setenv("BELLGLASS_HOME", home, 1), 0);
    assert_int_equal(bg_paths_init(&paths, &err), -EPERM);
    assert_int_equal(rmdir(run), 0);
    assert_int_equal(symlink("/tmp", run), 0); /* nor a link to one */
    assert_int_equal(bg_paths_init(&paths, &err), -EPERM);
}

static void names_the_file_that_is_in_the_way(void **state)
{
    const char *folder = *state;
    char loose[128], home[160];
    struct bg_paths paths;
    struct bg_err err;
    (void)snprintf(loose, sizeof loose, "%s/loose", folder);
    int fd = open(loose, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    (void)close(fd);
    (void)snprintf(home, sizeof home, "%s/below", loose);
    assert_int_equal(setenv("BELLGLASS_HOME", home, 1), 0);
    assert_true(bg_paths_init(&paths, &err) < 0);
    assert_non_null(strstr(err.text, loose));
}

static void finds_helpers_where_it_is_told(void **state)
{
    const char *folder = *state;
    char helper[128], *path;
    struct bg_err err;
    (void)snprintf(helper, sizeof helper, "%s/helper", folder);
    int fd = open(helper, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
    assert_true(fd >= 0);
    (void)close(fd);
    assert_int_equal(bg_helper_path("helper", &path, &err), -ENOENT);
    assert_int_equal(setenv("BELLGLASS_HELPER_DIR", folder, 1), 0);
    assert_int_equal(bg_helper_path("helper", &path, &err), 0);
    assert_string_equal(path, helper);
    free(path);
    assert_int_equal(bg_helper_path("no-such-helper", &path, &err), -ENOENT);
    assert_non_null(strstr(err.text, "no-such-helper"));
}

/* A test lies where a helper does: beside no `bellglass`. */
static void finds_the_command_beside_itself(void **state)
{
    (void)state;
    char self[4096] = "";
    char *path;
    struct bg_err err;
    ssize_t size = readlink("/proc/self/exe", self, sizeof self);
    assert_true(size > 0 && (size_t)size < sizeof self);
    char *folder = strndup(self, (size_t)(strrchr(self, '/') - self));
    assert_int_equal(bg_program_path(&path, &err), -ENOENT);
    assert_non_null(strstr(err.text, "reinstall"));
    BG_AUTOFREE char *program = NULL;
    assert_true(asprintf(&program, "%s/bellglass", folder) > 0);
    int fd = open(program, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
    assert_true(fd >= 0);
    (void)close(fd);
    int r = bg_program_path(&path, &err);
    (void)unlink(program);
    assert_int_equal(r, 0);
    assert_string_equal(path, program);
    free(path);
    free(folder);
}

static void runs_helpers_as_nobody_for_root(void **state)
{
    (void)state;
    unsigned uid, gid;
    bg_runner_ids(&uid, &gid);
    if (geteuid() == 0)
        assert_true(uid != 0 && gid != 0);
    else
        assert_int_equal(uid, geteuid());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_variable_moves_everything, setup, teardown),
        cmocka_unit_test_setup_teardown(follows_the_xdg_folders, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_a_relative_home, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_a_folder_that_others_may_write, setup, teardown),
        cmocka_unit_test_setup_teardown(names_the_file_that_is_in_the_way, setup, teardown),
        cmocka_unit_test_setup_teardown(finds_helpers_where_it_is_told, setup, teardown),
        cmocka_unit_test(finds_the_command_beside_itself),
        cmocka_unit_test(runs_helpers_as_nobody_for_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
