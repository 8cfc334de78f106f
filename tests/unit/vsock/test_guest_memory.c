#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>
#include <sys/mman.h>

#include "host/vsock/guest_memory.h"

static const struct guest_region two[] = {
    {.guest_addr = 0, .size = 0x1000, .user_addr = 0x10000},
    {.guest_addr = 0x1000, .size = 0x2000, .user_addr = 0x90000},
};

static void refuses_bad_tables(void **state)
{
    (void)state;
    const struct {
        const char *what;
        size_t count;
        struct guest_region regions[2];
    } bad[] = {
        {"empty region", 1, {{0, 0, 0}}},
        {"guest wraps", 1, {{UINT64_MAX - 10, 12, 0}}},
        {"user wraps", 1, {{0, 12, UINT64_MAX - 10}}},
        {"overlap", 2, {{0, 0x1000, 0}, {0xfff, 0x1000, 0x5000}}},
        {"same", 2, {{0, 0x1000, 0}, {0, 0x1000, 0x5000}}},
        {"inside", 2, {{0x100, 0x10, 0}, {0, 0x1000, 0x5000}}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct guest_memory memory = {0};
        struct bg_err err;
        assert_int_equal(guest_memory_set(&memory, two, 2, &err), 0);
        if (guest_memory_set(&memory, bad[i].regions, bad[i].count, &err) != -EPROTO)
            fail_msg("%s", bad[i].what);
        assert_int_equal(memory.region_count, 2); /* as before */
    }
    struct guest_memory memory = {0};
    struct guest_region many[BG_VSOCK_REGIONS_MAX + 1];
    for (size_t i = 0; i <= BG_VSOCK_REGIONS_MAX; i++)
        many[i] = (struct guest_region){.guest_addr = i * 0x1000, .size = 0x1000};
    struct bg_err err;
    assert_int_equal(guest_memory_set(&memory, many, BG_VSOCK_REGIONS_MAX, &err), 0);
    assert_int_equal(guest_memory_set(&memory, many, BG_VSOCK_REGIONS_MAX + 1, &err), -EPROTO);
}

static void knows_what_is_ram(void **state)
{
    (void)state;
    struct guest_memory memory = {0};
    assert_int_equal(guest_memory_set(&memory, two, 2, NULL), 0);
    assert_true(guest_memory_contains(&memory, 0, 0x3000)); /* spans both */
    assert_true(guest_memory_contains(&memory, 0x2fff, 1));
    assert_true(guest_memory_contains(&memory, 0x12345678, 0));
    assert_false(guest_memory_contains(&memory, 0, 0x3001));
    assert_false(guest_memory_contains(&memory, 0x3000, 1));
    assert_false(guest_memory_contains(&memory, 1, UINT64_MAX));
    assert_false(guest_memory_contains(&memory, UINT64_MAX, 2));
    uint64_t addr = 7;
    assert_int_equal(guest_memory_from_user(&memory, 0x90010, 0x1ff0, &addr), 0);
    assert_int_equal(addr, 0x1010);
    assert_int_equal(guest_memory_from_user(&memory, 0x90010, 0x1ff1, &addr), -EFAULT);
    assert_int_equal(guest_memory_from_user(&memory, 0x92000, 1, &addr), -EFAULT);
    assert_int_equal(guest_memory_from_user(&memory, 0x8ffff, 1, &addr), -EFAULT);
    assert_int_equal(guest_memory_from_user(&memory, 0x90000, UINT64_MAX, &addr), -EFAULT);
    assert_int_equal(addr, 0x1010);
}

/* This process plays the guest: its memory is ours to read and write with the same calls. */
static void copies_in_and_out_of_a_process(void **state)
{
    (void)state;
    uint8_t low[64], high[64];
    for (size_t i = 0; i < sizeof low; i++) {
        low[i] = (uint8_t)i;
        high[i] = (uint8_t)(100 + i);
    }
    const struct guest_region regions[] = {
        {.guest_addr = 0x1000, .size = sizeof low, .user_addr = (uintptr_t)low},
        {.guest_addr = 0x1000 + sizeof low, .size = sizeof high, .user_addr = (uintptr_t)high},
    };
    pid_t pid = getpid();
    struct guest_memory memory = {.access = guest_memory_process(&pid)};
    assert_int_equal(guest_memory_set(&memory, regions, 2, NULL), 0);
    struct guest_copy in, out;
    guest_copy_init(&in, &memory, /* to_guest= */ false);
    guest_copy_init(&out, &memory, /* to_guest= */ true);

    uint8_t bytes[128];
    assert_int_equal(guest_copy_add(&in, 0x1000 + 60, bytes, 8), 0); /* spans both */
    assert_int_equal(guest_copy_run(&in), 0);
    const uint8_t wanted[] = {60, 61, 62, 63, 100, 101, 102, 103};
    assert_memory_equal(bytes, wanted, sizeof wanted);

    memset(bytes, 0xee, sizeof bytes);
    assert_int_equal(guest_copy_add(&out, 0x1000 + 63, bytes, 2), 0);
    assert_int_equal(low[63], 63); /* not yet */
    assert_int_equal(guest_copy_run(&out), 0);
    assert_int_equal(low[62], 62);
    assert_int_equal(low[63], 0xee);
    assert_int_equal(high[0], 0xee);
    assert_int_equal(high[1], 101);

    /* Far more parts than one call takes. */
    for (size_t i = 0; i < 3 * GUEST_COPY_PARTS + 1; i++)
        assert_int_equal(guest_copy_add(&in, 0x1000 + i % 60, bytes + i % 128, 1), 0);
    assert_int_equal(guest_copy_run(&in), 0);

    assert_int_equal(guest_copy_add(&in, 0x1000, bytes, 4), 0);
    assert_int_equal(guest_copy_add(&in, 0x1000 + 127, bytes, 2), -EFAULT);
    assert_int_equal(in.count, 0); /* an error drops what waits */
}

static void reports_memory_that_is_gone(void **state)
{
    (void)state;
    size_t page = 4096;
    uint8_t *pages =
        mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(pages, MAP_FAILED);
    assert_int_equal(munmap(pages + page, page), 0);
    const struct guest_region region = {
        .guest_addr = 0, .size = 2 * page, .user_addr = (uintptr_t)pages};
    pid_t pid = getpid();
    struct guest_memory memory = {.access = guest_memory_process(&pid)};
    assert_int_equal(guest_memory_set(&memory, &region, 1, NULL), 0);
    struct guest_copy copy;
    uint8_t bytes[16];
    guest_copy_init(&copy, &memory, /* to_guest= */ false);
    assert_int_equal(guest_copy_add(&copy, page - 8, bytes, 16), 0);
    assert_int_equal(guest_copy_run(&copy), -EFAULT);
    guest_copy_init(&copy, &memory, /* to_guest= */ true);
    assert_int_equal(guest_copy_add(&copy, page - 8, bytes, 16), 0);
    assert_int_equal(guest_copy_run(&copy), -EFAULT);
    assert_int_equal(munmap(pages, page), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_bad_tables),
        cmocka_unit_test(knows_what_is_ram),
        cmocka_unit_test(copies_in_and_out_of_a_process),
        cmocka_unit_test(reports_memory_that_is_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
