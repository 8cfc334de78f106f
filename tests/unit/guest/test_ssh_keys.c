#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "guest/ssh_keys.h"

static const struct ssh_keys_paths paths = {.ours = "ours", .etc = "etc", .due = "etc/due"};

static const char *const all[] = {
    "ours/sbx_old/host_key",
    "ours/sbx_old/host_key.pub",
    "ours/sbx_own/host_key",
    "ours/.sbx_old.77/x",
    "ours/stray",
    "etc/ssh_host_ed25519_key",
    "etc/ssh_host_rsa_key.pub",
    "etc/sshd_config",
    "etc/ssh_config",
};

static int enter(void **state)
{
    char path[] = "/tmp/bg-keys-XXXXXX";
    *state = NULL;
    if (!mkdtemp(path) || chdir(path) < 0)
        return -1;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char folder[64];
        (void)snprintf(folder, sizeof folder, "%s", all[i]);
        for (char *at = folder; (at = strchr(at, '/')); at++) {
            *at = '\0';
            (void)mkdir(folder, 0700); /* it may be there */
            *at = '/';
        }
        int fd = open(all[i], O_WRONLY | O_CREAT, 0600);
        if (fd < 0)
            return -1;
        (void)close(fd);
    }
    return 0;
}

static int leave(void **state)
{
    (void)state;
    char path[256], *cwd = getcwd(path, sizeof path);
    static const char *const folders[] = {"ours/sbx_old", "ours/sbx_own", "ours/.sbx_old.77",
                                          "ours", "etc"};
    if (!cwd)
        return -1;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        (void)unlink(all[i]);
    (void)unlink(paths.due);
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        (void)rmdir(folders[i]);
    return chdir("/") < 0 || rmdir(path) < 0;
}

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

static void a_fork_has_no_key_of_its_source(void **state)
{
    (void)state;
    struct bg_err err = {0};
    assert_int_equal(ssh_keys_forget(&paths, "sbx_own", /* other_machine= */ true, &err), 0);
    static const bool stays[] = {false, false, true, false, false, false, false, true, true};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (is_there(all[i]) != stays[i])
            fail_msg("%s", all[i]);
    assert_false(is_there("ours/sbx_old"));
    assert_true(is_there(paths.due)); /* others are to be made */
}

static void the_same_machine_keeps_its_keys(void **state)
{
    (void)state;
    struct bg_err err = {0};
    assert_int_equal(ssh_keys_forget(&paths, "sbx_own", /* other_machine= */ false, &err), 0);
    assert_true(is_there("ours/sbx_own/host_key"));
    assert_false(is_there("ours/sbx_old"));
    assert_true(is_there("etc/ssh_host_ed25519_key"));
    assert_false(is_there(paths.due));
}

static void where_there_are_none_none_are_due(void **state)
{
    (void)state;
    struct bg_err err = {0};
    static const struct ssh_keys_paths none = {.ours = "none", .etc = "none", .due = "none/due"};
    assert_int_equal(ssh_keys_forget(&none, "sbx_own", /* other_machine= */ true, &err), 0);
    assert_false(is_there("none"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_fork_has_no_key_of_its_source, enter, leave),
        cmocka_unit_test_setup_teardown(the_same_machine_keeps_its_keys, enter, leave),
        cmocka_unit_test_setup_teardown(where_there_are_none_none_are_due, enter, leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
