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
        enum mount_condition unknown, runs, crashed, stopped;
    } rows[] = {
        {0, MOUNT_LIVES, MOUNT_LIVES, MOUNT_LIVES, MOUNT_ORPHAN},
        {-EACCES, MOUNT_LIVES, MOUNT_LIVES, MOUNT_LIVES, MOUNT_LIVES},
        {-EPERM, MOUNT_LIVES, MOUNT_LIVES, MOUNT_LIVES, MOUNT_LIVES},
        {-ENOTCONN, MOUNT_ORPHAN, MOUNT_ORPHAN, MOUNT_ORPHAN, MOUNT_ORPHAN},
        {-ECONNABORTED, MOUNT_ORPHAN, MOUNT_ORPHAN, MOUNT_ORPHAN, MOUNT_ORPHAN},
        {-ETIME, MOUNT_SILENT, MOUNT_SILENT, MOUNT_STALE, MOUNT_STALE},
        {-EIO, MOUNT_SILENT, MOUNT_SILENT, MOUNT_SILENT, MOUNT_SILENT},
        {-ENOMEM, MOUNT_SILENT, MOUNT_SILENT, MOUNT_SILENT, MOUNT_SILENT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(mount_judge(rows[i].answer, MOUNT_SANDBOX_UNKNOWN), rows[i].unknown);
        assert_int_equal(mount_judge(rows[i].answer, MOUNT_SANDBOX_RUNS), rows[i].runs);
        assert_int_equal(mount_judge(rows[i].answer, MOUNT_SANDBOX_CRASHED), rows[i].crashed);
        assert_int_equal(mount_judge(rows[i].answer, MOUNT_SANDBOX_STOPPED), rows[i].stopped);
    }
}

static void asks_what_is_there(void **state)
{
    (void)state;
    char root[] = "/", nothing[] = "/no/such/folder";
    struct mount_entry entries[] = {{.path = root}, {.path = nothing}, {.path = root}};
    const struct mount_list list = {.entries = entries, .count = 3}, none = {0};
    int answers[3] = {1, 1, 1};
    mount_probe(&list, answers);
    assert_int_equal(answers[0], 0);
    assert_int_equal(answers[1], -ENOENT);
    assert_int_equal(answers[2], 0);
    mount_probe(&none, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_what_is_surely_dead_is_called_so),
        cmocka_unit_test(asks_what_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
