#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "host/cli/reclaim.h"

static void add(struct reclaim *reclaim, dev_t device, ino_t inode, nlink_t links)
{
    const struct reclaim_name name = {
        .device = device, .inode = inode, .links = links, .bytes = 100};
    assert_int_equal(reclaim_add_name(reclaim, &name), 0);
}

static void a_file_goes_with_its_last_name(void **state)
{
    (void)state;
    struct reclaim reclaim = {0};
    assert_int_equal(reclaim_bytes(&reclaim), 0);
    add(&reclaim, 1, 7, 2); /* one of two names: it stays */
    assert_int_equal(reclaim_bytes(&reclaim), 0);
    add(&reclaim, 2, 7, 1); /* of that number on another file system */
    assert_int_equal(reclaim_bytes(&reclaim), 100);
    add(&reclaim, 1, 7, 2);
    assert_int_equal(reclaim_bytes(&reclaim), 200);
    for (ino_t i = 0; i < 1000; i++)
        add(&reclaim, 3, i, 1);
    assert_int_equal(reclaim_bytes(&reclaim), 200 + 1000 * 100);
    reclaim_done(&reclaim);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_file_goes_with_its_last_name)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
