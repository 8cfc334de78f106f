#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/limits.h"
#include "net/ledger.h"

static int set_up(void **state)
{
    static char path[64];
    (void)snprintf(path, sizeof path, "/tmp/bellglass-ledger-XXXXXX");
    *state = path;
    int fd = mkstemp(path);
    if (fd < 0)
        return -1;
    (void)close(fd);
    return unlink(path);
}

static int tear_down(void **state)
{
    (void)unlink(*state);
    return 0;
}

static struct ledger *opened(const char *path)
{
    struct ledger *ledger;
    struct bg_err err;
    if (ledger_open(path, &ledger, &err) < 0)
        fail_msg("%s", err.text);
    return ledger;
}

static struct policy_meter attached(struct ledger *ledger, uint64_t key, uint64_t requests_max)
{
    struct policy_meter meter = {.key = key, .requests_max = requests_max};
    assert_int_equal(ledger_attach(ledger, &meter, NULL), 0);
    assert_non_null(meter.count);
    return meter;
}

static void remembers_what_was_counted(void **state)
{
    struct stat st;
    struct ledger *first = opened(*state);
    struct policy_meter a = attached(first, 7, 2), b = attached(first, 8, 2);
    assert_int_equal(policy_meter_spend(&a, 1), POLICY_SPENT);
    assert_int_equal(policy_meter_spend(&a, 1), POLICY_SPENT);
    assert_int_equal(policy_meter_spend(&b, 1), POLICY_SPENT);
    /* Another process, while the first one is still there. */
    struct ledger *second = opened(*state);
    struct policy_meter again_b = attached(second, 8, 2), again_a = attached(second, 7, 2);
    assert_int_equal(policy_meter_spend(&again_a, 1), POLICY_USED_UP);
    assert_int_equal(policy_meter_spend(&again_b, 1), POLICY_SPENT);
    assert_int_equal(policy_meter_spend(&b, 1), POLICY_USED_UP);
    ledger_close(first);
    ledger_close(second);
    struct ledger *third = opened(*state);
    a = attached(third, 7, 3); /* one more is allowed now */
    b = attached(third, 9, 2); /* another rule */
    assert_int_equal(policy_meter_spend(&a, 1), POLICY_SPENT);
    assert_int_equal(policy_meter_spend(&a, 1), POLICY_USED_UP);
    assert_int_equal(policy_meter_spend(&b, 1), POLICY_SPENT);
    ledger_close(third);
    assert_int_equal(stat(*state, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
}

static void looks_without_counting(void **state)
{
    struct ledger *ledger;
    assert_int_equal(ledger_open_copy(*state, &ledger, NULL), -ENOENT);
    ledger = opened(*state);
    struct policy_meter a = attached(ledger, 7, 9);
    assert_int_equal(policy_meter_spend(&a, 1), POLICY_SPENT);
    ledger_close(ledger);
    assert_int_equal(ledger_open_copy(*state, &ledger, NULL), 0);
    a = attached(ledger, 7, 9);
    assert_int_equal(a.count->spent, 1);
    assert_int_equal(policy_meter_spend(&a, 1), POLICY_SPENT);
    ledger_close(ledger);
    ledger = opened(*state);
    assert_int_equal(attached(ledger, 7, 9).count->spent, 1);
    ledger_close(ledger);
}

static void tells_meters_with_one_key_apart(void **state)
{
    struct ledger *ledger = opened(*state);
    struct policy_meter a = attached(ledger, 7, 1), b = attached(ledger, 7, 1);
    assert_ptr_not_equal(a.count, b.count);
    assert_int_equal(policy_meter_spend(&a, 1), POLICY_SPENT);
    ledger_close(ledger);
    ledger = opened(*state);
    a = attached(ledger, 7, 1);
    b = attached(ledger, 7, 1);
    assert_int_equal(policy_meter_spend(&a, 1), POLICY_USED_UP);
    assert_int_equal(policy_meter_spend(&b, 1), POLICY_SPENT);
    /* Once for all of its rules; and without a key it is nobody's. */
    const struct policy_count *count = a.count;
    struct policy_meter none = {.requests_max = 1};
    assert_int_equal(ledger_attach(ledger, &a, NULL), 0);
    assert_ptr_equal(a.count, count);
    assert_int_equal(ledger_attach(ledger, &none, NULL), 0);
    assert_null(none.count);
    ledger_close(ledger);
}

static void keeps_rates_over_a_start_of_the_host(void **state)
{
    struct ledger *ledger = opened(*state);
    struct policy_meter m = {.key = 7, .rate = 2, .per_ms = 1000};
    assert_int_equal(ledger_attach(ledger, &m, NULL), 0);
    assert_int_equal(policy_meter_spend(&m, 900000), POLICY_SPENT);
    assert_int_equal(policy_meter_spend(&m, 900000), POLICY_SPENT);
    assert_int_equal(policy_meter_spend(&m, 900000), POLICY_TOO_FAST);
    ledger_close(ledger);
    ledger = opened(*state);
    m = (struct policy_meter){.key = 7, .rate = 2, .per_ms = 1000};
    assert_int_equal(ledger_attach(ledger, &m, NULL), 0);
    assert_int_equal(policy_meter_spend(&m, 100), POLICY_TOO_FAST); /* the clock began again */
    assert_int_equal(policy_meter_spend(&m, 600), POLICY_SPENT);
    assert_int_equal(policy_meter_spend(&m, 601), POLICY_TOO_FAST);
    ledger_close(ledger);
    ledger = opened(*state);
    m = (struct policy_meter){.key = 7, .rate = 3, .per_ms = 1000};
    assert_int_equal(ledger_attach(ledger, &m, NULL), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(policy_meter_spend(&m, 601), POLICY_SPENT);
    assert_int_equal(policy_meter_spend(&m, 601), POLICY_TOO_FAST);
    ledger_close(ledger);
}

static void finds_room_for_a_whole_policy(void **state)
{
    for (uint64_t round = 0; round < 3; round++) {
        struct ledger *ledger = opened(*state);
        for (uint64_t i = 0; i < BG_EGRESS_RULES_MAX + BG_EGRESS_BUDGETS_MAX; i++) {
            struct policy_meter m = attached(ledger, 1 + round * 100000 + i, 1);
            assert_int_equal(policy_meter_spend(&m, 1), POLICY_SPENT);
        }
        ledger_close(ledger);
    }
}

static void refuses_a_damaged_file(void **state)
{
    static const char *const contents[] = {"x", "BGLEDGR1", "BGLEDGR2"};
    struct ledger *ledger = opened(*state);
    ledger_close(ledger);
    struct stat st;
    assert_int_equal(stat(*state, &st), 0);
    for (size_t i = 0; i < sizeof contents / sizeof *contents; i++) {
        int fd = open(*state, O_WRONLY | O_TRUNC | O_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, contents[i], strlen(contents[i])), strlen(contents[i]));
        if (i == 2)
            assert_int_equal(ftruncate(fd, st.st_size), 0);
        (void)close(fd);
        struct bg_err err = {0};
        assert_int_equal(ledger_open(*state, &ledger, &err), -EINVAL);
        assert_non_null(strstr(err.text, "is damaged"));
    }
    /* Its maker ended before it was whole. */
    assert_int_equal(truncate(*state, 0), 0);
    assert_int_equal(truncate(*state, st.st_size), 0);
    ledger_close(opened(*state));
    assert_int_equal(unlink(*state), 0);
    assert_int_equal(symlink("/dev/null", *state), 0);
    assert_int_equal(ledger_open(*state, &ledger, NULL), -ELOOP);
    ledger_close(NULL);
}

#define EACH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

#define CHILDREN 4
#define TAKEN    5000

/* Each of several processes takes all that it can get. */
static void counts_exactly_with_many_processes(void **state)
{
    (void)state;
    struct ledger *ledger;
    int fd = memfd_create("ledger", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ledger_open_fd(fd, "counts", &ledger, NULL), 0);
    (void)attached(ledger, 7, TAKEN); /* as the first worker does, before there are others */
    unsigned *got = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(got != MAP_FAILED);
    pid_t pids[CHILDREN];
    for (size_t i = 0; i < CHILDREN; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] > 0)
            continue;
        struct ledger *own;
        struct policy_meter m = {.key = 7, .requests_max = TAKEN};
        if (ledger_open_fd(fd, "counts", &own, NULL) < 0 || ledger_attach(own, &m, NULL) < 0)
            _exit(1);
        for (int n = 0; n < TAKEN; n++)
            got[i] += policy_meter_spend(&m, 1) == POLICY_SPENT;
        _exit(0);
    }
    unsigned sum = 0;
    for (size_t i = 0; i < CHILDREN; i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
        sum += got[i];
    }
    assert_int_equal(sum, TAKEN);
    (void)munmap(got, 4096);
    ledger_close(ledger);
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        EACH(remembers_what_was_counted),
        EACH(looks_without_counting),
        EACH(tells_meters_with_one_key_apart),
        EACH(keeps_rates_over_a_start_of_the_host),
        EACH(finds_room_for_a_whole_policy),
        EACH(refuses_a_damaged_file),
        cmocka_unit_test(counts_exactly_with_many_processes),
    };
    return cmocka_run_group_tests_name("net-ledger", tests, NULL, NULL);
}
