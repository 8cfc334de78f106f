#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/io.h"
#include "guest/keystore.h"

#define NOW_MS 0x10203040506u

/* In hex; their digests are from another program. A certificate "a" and a key "k" make two. */
static const char empty[] = "feedfeed0000000200000000e2686e45fb43dfa4d992dd41ceb6b21c6330d792";
static const char two[] =
    "feedfeed00000002000000020000000200016100000000000000010005582e35303900000001410000000100"
    "016b0000000000000007000000036b6579000000010005582e35303900000002636313109642033ac37f2b29"
    "e969193b5178d8f03c4b";
static const char two_and_ours[] =
    "feedfeed00000002000000030000000200016100000000000000010005582e35303900000001410000000100"
    "016b0000000000000007000000036b6579000000010005582e35303900000002636300000002000962656c6c"
    "676c61737300000102030405060005582e3530390000000464657221a6a66f0972cfd13426f58517ad17ff16"
    "9d3ec47f";
static const char ours[] =
    "feedfeed000000020000000100000002000962656c6c676c61737300000102030405060005582e3530390000"
    "00046465722130568e9be9089c675d7abbdce0847fc4923f12c5";
static const char old_first[] =
    "feedfeed000000020000000300000002000962656c6c676c61737300000000000000050005582e3530390000"
    "00036f6c640000000200016100000000000000010005582e35303900000001410000000100016b0000000000"
    "000007000000036b6579000000010005582e353039000000026363f024081fbe962c5065f336c9538972b122"
    "b23bf7";

struct bytes {
    uint8_t at[512];
    size_t size;
};

static struct bytes from_hex(const char *hex)
{
    struct bytes b = {.size = strlen(hex) / 2};
    assert_true(b.size <= sizeof b.at);
    for (size_t i = 0; i < b.size; i++)
        b.at[i] = (uint8_t)(bg_hex_digit(hex[2 * i]) << 4 | bg_hex_digit(hex[2 * i + 1]));
    return b;
}

static int trust(const struct bytes *store, uint8_t **ret, size_t *ret_size)
{
    static const uint8_t der[] = {'d', 'e', 'r', '!'};
    struct bg_err err;
    return keystore_trust(store->at, store->size, der, sizeof der, NOW_MS, ret, ret_size, &err);
}

static void adds_ours_or_puts_it_in_its_place(void **state)
{
    static const struct {
        const char *before, *after;
    } rows[] = {{empty, ours},
                {two, two_and_ours},
                {old_first, two_and_ours},
                {two_and_ours, two_and_ours}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct bytes before = from_hex(rows[i].before), after = from_hex(rows[i].after);
        uint8_t *made;
        size_t size;
        assert_int_equal(trust(&before, &made, &size), 0);
        assert_int_equal(size, after.size);
        assert_memory_equal(made, after.at, size);
        free(made);
    }
}

static void leaves_what_it_does_not_know(void **state)
{
    const struct bytes whole = from_hex(two);
    uint8_t *made;
    size_t size;
    (void)state;
    for (size_t i = 0; i < whole.size; i++) { /* each byte counts */
        struct bytes b = whole;
        b.at[i] ^= 1;
        assert_int_equal(trust(&b, &made, &size), -EUCLEAN);
        b = whole;
        b.size = i;
        assert_int_equal(trust(&b, &made, &size), -EUCLEAN);
    }
}

static void reads_a_certificate(void **state)
{
    static const struct {
        const char *pem, *der;
    } rows[] = {
        {"-----BEGIN CERTIFICATE-----\nZGVy\nIQ==\n-----END CERTIFICATE-----\n", "der!"},
        {"x\r\n-----BEGIN CERTIFICATE-----\r\nZGVyIQ==\r\n-----END CERTIFICATE-----", "der!"},
        {"-----BEGIN CERTIFICATE-----\nZGVyIQ==\n", NULL},
        {"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", NULL},
        {"-----BEGIN CERTIFICATE-----\nZ*==\n-----END CERTIFICATE-----\n", NULL},
        {"-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\n", NULL},
        {"", NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t der[128];
        size_t size = 0;
        int r = keystore_read_pem((const uint8_t *)rows[i].pem, strlen(rows[i].pem), der, &size);
        assert_int_equal(r, rows[i].der ? 0 : -EINVAL);
        if (rows[i].der) {
            assert_int_equal(size, strlen(rows[i].der));
            assert_memory_equal(der, rows[i].der, size);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adds_ours_or_puts_it_in_its_place),
        cmocka_unit_test(leaves_what_it_does_not_know),
        cmocka_unit_test(reads_a_certificate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
