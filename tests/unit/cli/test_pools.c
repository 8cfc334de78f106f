/* pools: what a keeper says of itself, and who is one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "common/state/folder.h"
#include "host/cli/pools.h"
#include "tests/unit/state/home.h"

static char image[] = "debian";

static struct pool_info some_pool(void)
{
    struct pool_info info = {.image = image,
                             .cpus = 2,
                             .memory_bytes = 768u << 20,
                             .wanted = 3,
                             .ready = 1,
                             .keeper_pid = (int)getpid()};
    pool_info_key(&info);
    return info;
}

static void what_is_said_is_read(void **state)
{
    (void)state;
    struct pool_info info = some_pool(), back;
    info.gateway = true;
    BG_AUTOFREE char *text = pool_info_emit(&info);
    assert_int_equal(pool_info_parse(text, strlen(text), &back), 0);
    assert_string_equal(back.image, "debian");
    assert_int_equal(back.cpus, 2);
    assert_int_equal(back.memory_bytes, 768u << 20);
    assert_int_equal(back.wanted, 3);
    assert_int_equal(back.ready, 1);
    assert_int_equal(back.keeper_pid, getpid());
    assert_true(back.gateway);
    pool_info_done(&back);
    for (size_t size = 0; size < strlen(text); size++)
        assert_int_equal(pool_info_parse(text, size, &back), -EINVAL);
}

static void what_is_not_so_is_refused(void **state)
{
    (void)state;
#define POOL(version, cpus, memory, wanted, pid, more)                                             \
    "{\"version\":" version ",\"image\":\"a\",\"cpus\":" cpus ",\"memory_bytes\":" memory          \
    ",\"wanted\":" wanted ",\"ready\":0,\"keeper_pid\":" pid ",\"gateway\":false" more "}"
    static const char *const bad[] = {
        POOL("2", "1", "1", "1", "7", ""),           POOL("1", "0", "1", "1", "7", ""),
        POOL("1", "65", "1", "1", "7", ""),          POOL("1", "1", "0", "1", "7", ""),
        POOL("1", "1", "-1", "1", "7", ""),          POOL("1", "1", "1", "-1", "7", ""),
        POOL("1", "1", "1", "17", "7", ""),          POOL("1", "1", "1", "1", "0", ""),
        POOL("1", "1", "1", "\"1\"", "7", ""),       POOL("1", "1", "1", "1", "7", ",\"x\":1"),
        POOL("1", "1", "1", "1", "7", "}{"),         "[]",
        POOL("1", "1", "1", "1", "7", ",\"cpus\":1")};
    struct pool_info back;
    const char *good = POOL("1", "64", "1", "16", "7", "");
    assert_int_equal(pool_info_parse(good, strlen(good), &back), 0);
    pool_info_done(&back);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(pool_info_parse(bad[i], strlen(bad[i]), &back), -EINVAL);
}

static void each_kind_has_a_key_and_each_gateway_its_own(void **state)
{
    (void)state;
    struct pool_info a = some_pool(), b = some_pool();
    b.wanted = 9;
    b.keeper_pid = 77;
    pool_info_key(&b);
    assert_string_equal(a.key, b.key);
    b.memory_bytes++;
    pool_info_key(&b);
    assert_string_not_equal(a.key, b.key);
    struct pool_info c = some_pool(), d = some_pool();
    c.gateway = d.gateway = true;
    c.keeper_pid = 77;
    pool_info_key(&c);
    pool_info_key(&d);
    assert_string_not_equal(c.key, d.key);
    assert_string_not_equal(c.key, a.key);
}

static void one_keeper_has_a_pool_until_it_ends(void **state)
{
    struct fixture *f = *state;
    struct pool_info info = some_pool(), *list;
    struct bg_err err;
    size_t count;
    bool ended = true;
    int lock, second;
    assert_int_equal(pools_list(&f->paths, &list, &count, &err), 0);
    assert_int_equal(count, 0);
    pools_free(list, count);
    assert_int_equal(pools_lock(&f->paths, &info, &lock, &err), 0);
    assert_int_equal(pools_lock(&f->paths, &info, &second, &err), -EBUSY);
    assert_int_equal(pools_list(&f->paths, &list, &count, &err), 0);
    assert_int_equal(count, 0); /* it has not said anything yet */
    pools_free(list, count);
    pools_note(&f->paths, &info);
    assert_int_equal(pools_list(&f->paths, &list, &count, &err), 0);
    assert_int_equal(count, 1);
    assert_string_equal(list[0].key, info.key);
    assert_int_equal(list[0].ready, 1);
    pools_free(list, count);
    /* One that was killed is swept by whoever looks. */
    (void)close(lock);
    assert_int_equal(pools_end(&f->paths, info.key, &ended, &err), 0);
    assert_false(ended);
    assert_int_equal(pools_list(&f->paths, &list, &count, &err), 0);
    assert_int_equal(count, 0);
    pools_free(list, count);
    assert_int_equal(pools_lock(&f->paths, &info, &lock, &err), 0);
    pools_forget(&f->paths, &info);
    (void)close(lock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_said_is_read),
        cmocka_unit_test(what_is_not_so_is_refused),
        cmocka_unit_test(each_kind_has_a_key_and_each_gateway_its_own),
        cmocka_unit_test_setup_teardown(one_keeper_has_a_pool_until_it_ends, home_setup,
                                        home_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
