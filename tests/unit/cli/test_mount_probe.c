#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>

#include "host/cli/mount_probe.h"

static void only_what_is_surely_dead_is_called_so(void **state)
{
    (void)state;
    static const struct {
        int answer;
        enum mount_condition unknown, runs, ended;
    } rows[] = {
        {0, MOUNT_LIVES, MOUNT_LIVES, MOUNT_LIVES},
        {-EACCES, MOUNT_LIVES, MOUNT_LIVES, MOUNT_LIVES},
        {-EPERM, MOUNT_LIVES, MOUNT_LIVES, MOUNT_LIVES},
        {-ENOTCONN, MOUNT_ORPHAN, MOUNT_ORPHAN, MOUNT_ORPHAN},
        {-ECONNABORTED, MOUNT_ORPHAN, MOUNT_ORPHAN, MOUNT_ORPHAN},
        {-ETIME, MOUNT_SILENT, MOUNT_SILENT, MOUNT_STALE},
        {-EIO, MOUNT_SILENT, MOUNT_SILENT, MOUNT_STALE},
        {-ENOMEM, MOUNT_SILENT, MOUNT_SILENT, MOUNT_STALE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(mount_judge(rows[i].answer, MOUNT_SANDBOX_UNKNOWN), rows[i].unknown);
        assert_int_equal(mount_judge(rows[i].answer, MOUNT_SANDBOX_RUNS), rows[i].runs);
        assert_int_equal(mount_judge(rows[i].answer, MOUNT_SANDBOX_ENDED), rows[i].ended);
    }
}

static void asks_what_is_there(void **state)
{
    (void)state;
    char root[] = "/", nothing[] = "/no/such/folder";
    const struct mount_entry there = {.path = root}, missing = {.path = nothing};
    assert_int_equal(mount_probe(&there), 0);
    assert_int_equal(mount_probe(&missing), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_what_is_surely_dead_is_called_so),
        cmocka_unit_test(asks_what_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
