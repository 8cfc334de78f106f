/* The nodes of a disk's layers, as they come and go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "host/supervisor/disk_chain.h"

static void expect(const struct disk_chain *chain, size_t index, const char *name, int64_t fd_set)
{
    assert_true(index < chain->count);
    assert_string_equal(chain->layers[index].name, name);
    assert_int_equal(chain->layers[index].fd_set, fd_set);
}

static void begins_as_the_command_line_has_it(void **state)
{
    struct disk_chain chain;
    (void)state;
    disk_chain_init(&chain, 3);
    assert_int_equal(chain.count, 3);
    expect(&chain, 0, "disk2", 3);
    expect(&chain, 1, "disk1", 2);
    expect(&chain, 2, "disk0", 1);
    assert_string_equal(chain.base, "disk3");
    assert_string_equal(disk_chain_below(&chain, 0), "disk3");
    assert_string_equal(disk_chain_below(&chain, 1), "disk2");
    assert_string_equal(disk_chain_below(&chain, 3), "disk0");
}

static void no_name_is_given_twice(void **state)
{
    struct disk_chain chain;
    char name[DISK_NODE_SIZE];
    (void)state;
    disk_chain_init(&chain, 1);
    disk_chain_name(&chain, "top", name);
    assert_string_equal(name, "top1");
    disk_chain_name(&chain, "flat", name);
    assert_string_equal(name, "flat2");
    disk_chain_name(&chain, "top", name);
    assert_string_equal(name, "top3");
}

static void several_become_one(void **state)
{
    struct disk_chain chain;
    (void)state;
    disk_chain_init(&chain, 2);
    disk_chain_push(&chain, "top1", 7);
    disk_chain_push(&chain, "top2", 9);
    disk_chain_replace(&chain, 1, 2, "flat3", 12);
    assert_int_equal(chain.count, 3);
    expect(&chain, 0, "disk1", 2);
    expect(&chain, 1, "flat3", 12);
    expect(&chain, 2, "top2", 9);
    disk_chain_replace(&chain, 0, 2, "flat4", 13);
    assert_int_equal(chain.count, 2);
    expect(&chain, 0, "flat4", 13);
    expect(&chain, 1, "top2", 9);
    assert_string_equal(disk_chain_below(&chain, 0), "disk2");
    assert_string_equal(disk_chain_below(&chain, 1), "flat4");
}

static void one_may_be_replaced_too(void **state)
{
    struct disk_chain chain;
    (void)state;
    disk_chain_init(&chain, 2);
    disk_chain_replace(&chain, 1, 1, "flat1", 4);
    assert_int_equal(chain.count, 2);
    expect(&chain, 0, "disk1", 2);
    expect(&chain, 1, "flat1", 4);
}

static void takes_as_many_as_a_disk_may_have(void **state)
{
    struct disk_chain chain;
    (void)state;
    disk_chain_init(&chain, QEMU_DISKS_MAX);
    expect(&chain, QEMU_DISKS_MAX - 1, "disk0", 1);
    disk_chain_replace(&chain, 0, QEMU_DISKS_MAX, "flat1", 99);
    assert_int_equal(chain.count, 1);
    expect(&chain, 0, "flat1", 99);
    disk_chain_init(&chain, 0); /* a VM whose disk is the golden snapshot's */
    assert_int_equal(chain.count, 0);
    assert_string_equal(disk_chain_below(&chain, 0), "disk0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(begins_as_the_command_line_has_it),
        cmocka_unit_test(no_name_is_given_twice),
        cmocka_unit_test(several_become_one),
        cmocka_unit_test(one_may_be_replaced_too),
        cmocka_unit_test(takes_as_many_as_a_disk_may_have),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
