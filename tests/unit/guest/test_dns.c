/* guest/dns and guest/names: queries that are good, odd and hostile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/limits.h"
#include "guest/dns.h"

static int setup(void **state)
{
    *state = names_new();
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    names_free(*state);
    return 0;
}

/* A query for a dotted name. */
static size_t make_query(const char *name, uint16_t type, uint8_t *out, size_t out_size)
{
    struct bg_writer w = bg_writer_init(out, out_size);
    bg_writer_u16be(&w, 0x1234);
    bg_writer_u16be(&w, 0x0100);
    bg_writer_u16be(&w, 1);
    bg_writer_bytes(&w, "\0\0\0\0\0\0", 6);
    while (*name) {
        size_t size = strcspn(name, ".");
        bg_writer_u8(&w, (uint8_t)size);
        bg_writer_bytes(&w, name, size);
        name += size + (name[size] == '.');
    }
    bg_writer_u8(&w, 0);
    bg_writer_u16be(&w, type);
    bg_writer_u16be(&w, 1);
    assert_true(bg_writer_ok(&w));
    return w.used;
}

struct answer {
    unsigned rcode, records;
    uint8_t address[16];
    size_t address_size;
};

static struct answer ask_bytes(struct names *names, const uint8_t *query, size_t size)
{
    assert_true(size >= 12);
    uint8_t out[DNS_ANSWER_MAX];
    size_t out_size = dns_answer(names, "MyHost", query, size, out);
    assert_true(out_size >= 12 && out_size <= sizeof out);
    struct bg_reader in = bg_reader_init(out, out_size);
    assert_int_equal(bg_reader_u16be(&in), 0x1234);
    uint16_t flags = bg_reader_u16be(&in);
    assert_true(flags & 0x8000);
    uint16_t questions = bg_reader_u16be(&in);
    struct answer a = {.rcode = flags & 15, .records = bg_reader_u16be(&in)};
    (void)bg_reader_bytes(&in, 4);
    if (questions == 1) {
        for (uint8_t label; (label = bg_reader_u8(&in)) > 0;)
            (void)bg_reader_bytes(&in, label);
        (void)bg_reader_bytes(&in, 4);
    }
    if (a.records > 0) {
        assert_int_equal(bg_reader_u16be(&in), 0xc00c);
        (void)bg_reader_bytes(&in, 2 + 2 + 4);
        a.address_size = bg_reader_u16be(&in);
        assert_true(a.address_size == 4 || a.address_size == 16);
        memcpy(a.address, bg_reader_bytes(&in, a.address_size), a.address_size);
    }
    assert_true(bg_reader_end(&in));
    return a;
}

static struct answer ask(struct names *names, const char *name, uint16_t type)
{
    uint8_t query[512];
    return ask_bytes(names, query, make_query(name, type, query, sizeof query));
}

static void gives_one_address_per_name(void **state)
{
    struct answer a = ask(*state, "Example.COM", 1), b = ask(*state, "example.com", 1);
    assert_int_equal(a.records, 1);
    assert_int_equal(a.address_size, 4);
    assert_memory_equal(a.address, b.address, 4);
    uint32_t address = (uint32_t)a.address[0] << 24 | (uint32_t)a.address[1] << 16 |
                       (uint32_t)a.address[2] << 8 | a.address[3];
    assert_true(names_is_synthetic(address));
    assert_string_equal(names_find(*state, address), "example.com");
    struct answer other = ask(*state, "example.org", 1);
    assert_memory_not_equal(a.address, other.address, 4);
    struct answer v6 = ask(*state, "example.com", 28);
    assert_int_equal(v6.address_size, 16);
    uint32_t back;
    assert_true(names_from_v6(v6.address, &back));
    assert_int_equal(back, address);
}

static void knows_itself(void **state)
{
    static const char *const names[] = {"localhost", "a.localhost", "myhost", "MYHOST"};
    static const uint8_t loopback[] = {127, 0, 0, 1};
    for (size_t i = 0; i < 4; i++) {
        struct answer a = ask(*state, names[i], 1);
        assert_int_equal(a.records, 1);
        assert_memory_equal(a.address, loopback, 4);
        a = ask(*state, names[i], 28);
        assert_int_equal(a.address[15], 1);
        assert_int_equal(a.address[0], 0);
    }
    assert_memory_not_equal(ask(*state, "notlocalhost", 1).address, loopback, 4);
}

static void other_types_are_empty(void **state)
{
    static const uint16_t types[] = {2, 5, 6, 12, 15, 16, 33, 64, 65, 252, 65535};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct answer a = ask(*state, "example.com", types[i]);
        assert_int_equal(a.rcode, 0);
        assert_int_equal(a.records, 0);
    }
    struct answer root = ask(*state, "", 2);
    assert_int_equal(root.rcode, 0);
    assert_int_equal(root.records, 0);
}

static void what_is_no_host_name_does_not_exist(void **state)
{
    static const char *const names[] = {"1.2.3.4", "12",          "a.1",   "a b.com",
                                        "a/b",     "\xc3\xa9.fr", "x\n.y", "*.com"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct answer a = ask(*state, names[i], 1);
        assert_int_equal(a.rcode, 3);
        assert_int_equal(a.records, 0);
    }
    static const char *const good[] = {"1.com", "a-b.c_d", "xn--caf-dma.fr", "x", "1a"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_int_equal(ask(*state, good[i], 1).records, 1);
}

static void label_with_a_dot_inside_is_refused(void **state)
{
    uint8_t query[64];
    size_t size = make_query("aXb.com", 1, query, sizeof query);
    query[14] = '.'; /* else "a.b.com" would be two different names */
    assert_int_equal(ask_bytes(*state, query, size).rcode, 3);
    query[14] = '\0';
    assert_int_equal(ask_bytes(*state, query, size).rcode, 3);
}

static void lengths_are_bounded(void **state)
{
    char name[300];
    /* Labels of 63 make 63 + 1 + 63 + 1 + 63 + 1 + 61 = 253. */
    memset(name, 'a', sizeof name);
    name[63] = name[127] = name[191] = '.';
    name[253] = '\0';
    assert_int_equal(ask(*state, name, 1).records, 1);
    name[253] = 'a';
    name[254] = '\0';
    assert_int_equal(ask(*state, name, 1).rcode, 1);
    memset(name, 'a', sizeof name);
    name[64] = '\0';
    assert_int_equal(ask(*state, name, 1).rcode, 1); /* a label of 64 */
}

static void malformed_queries_change_nothing(void **state)
{
    uint8_t query[64], out[DNS_ANSWER_MAX];
    size_t size = make_query("example.com", 1, query, sizeof query);
    for (size_t n = 0; n < size; n++) {
        size_t got = dns_answer(*state, "h", query, n, out);
        if (n < 12)
            assert_int_equal(got, 0);
        else
            assert_int_equal(out[3] & 15, 1);
    }
    uint8_t copy[64];
    memcpy(copy, query, size);
    copy[2] = 0x81; /* an answer */
    assert_int_equal(dns_answer(*state, "h", copy, size, out), 0);
    memcpy(copy, query, size);
    copy[2] = 0x29; /* another operation */
    assert_int_equal(ask_bytes(*state, copy, size).rcode, 4);
    memcpy(copy, query, size);
    copy[5] = 2; /* two questions */
    assert_int_equal(ask_bytes(*state, copy, size).rcode, 1);
    memcpy(copy, query, size);
    copy[12] = 0xc0; /* compression */
    assert_int_equal(ask_bytes(*state, copy, size).rcode, 1);
    memcpy(copy, query, size);
    copy[size - 1] = 3; /* class CHAOS */
    assert_int_equal(ask_bytes(*state, copy, size).records, 0);
    assert_null(names_find(*state, NAMES_FIRST)); /* none of these took an address */
}

static void the_oldest_name_gives_way(void **state)
{
    struct names *names = *state;
    uint32_t first = names_address(names, "first.test"), used = names_address(names, "used.test");
    char name[32];
    for (unsigned i = 0; i < BG_DNS_NAMES_MAX - 1; i++) {
        (void)snprintf(name, sizeof name, "n%u.test", i);
        assert_int_not_equal(names_address(names, name), 0);
        assert_string_equal(names_find(names, used), "used.test");
    }
    assert_null(names_find(names, first)); /* and nobody else has its address */
    uint32_t again = names_address(names, "first.test");
    assert_int_not_equal(again, first);
    assert_string_equal(names_find(names, again), "first.test");
}

static void addresses_come_round_again(void **state)
{
    struct names *names = *state;
    uint32_t kept = names_address(names, "kept.test");
    char name[32];
    for (unsigned i = 0; i < 300000; i++) { /* more than there are addresses */
        (void)snprintf(name, sizeof name, "n%u.test", i);
        uint32_t address = names_address(names, name);
        assert_int_not_equal(address, kept);
        assert_true(address >= NAMES_FIRST && address < NAMES_LAST);
        if (i % 1000 == 0)
            assert_string_equal(names_find(names, kept), "kept.test");
    }
}

static void other_addresses_are_nobodys(void **state)
{
    struct names *names = *state;
    assert_null(names_find(names, 0));
    assert_null(names_find(names, NAMES_OWN));
    assert_null(names_find(names, NAMES_FIRST));
    assert_null(names_find(names, NAMES_LAST));
    assert_null(names_find(names, UINT32_MAX));
    assert_true(names_is_synthetic(NAMES_OWN));
    assert_true(names_is_synthetic(0xc613ffff));
    assert_false(names_is_synthetic(0xc6140000));
    assert_false(names_is_synthetic(0xc611ffff));
    uint8_t v6[16] = {0xfd};
    uint32_t address;
    assert_false(names_from_v6(v6, &address));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(gives_one_address_per_name),
        TEST(knows_itself),
        TEST(other_types_are_empty),
        TEST(what_is_no_host_name_does_not_exist),
        TEST(label_with_a_dot_inside_is_refused),
        TEST(lengths_are_bounded),
        TEST(malformed_queries_change_nothing),
        TEST(the_oldest_name_gives_way),
        TEST(addresses_come_round_again),
        TEST(other_addresses_are_nobodys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
