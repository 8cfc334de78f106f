#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "net/address.h"

struct literal {
    const char *text;
    const char *want; /* canonical; NULL: see error */
    int error;
};

static const struct literal literals[] = {
    {"127.0.0.1", "127.0.0.1", 0},
    {"2130706433", "127.0.0.1", 0},
    {"0x7f000001", "127.0.0.1", 0},
    {"0X7F.1", "127.0.0.1", 0},
    {"017700000001", "127.0.0.1", 0},
    {"0177.0.0.01", "127.0.0.1", 0},
    {"127.1", "127.0.0.1", 0},
    {"127.0.1", "127.0.0.1", 0},
    {"127.0.65535", "127.0.255.255", 0},
    {"1.2.3.4.", "1.2.3.4", 0},
    {"0", "0.0.0.0", 0},
    {"0x", "0.0.0.0", 0},
    {"255.255.255.255", "255.255.255.255", 0},
    {"::1", "::1", 0},
    {"[::1]", "::1", 0},
    {"[2001:DB8:0:0::1]", "2001:db8::1", 0},
    {"::ffff:10.0.0.1", "10.0.0.1", 0},
    {"::ffff:0a00:0001", "10.0.0.1", 0},
    {"64:ff9b::10.0.0.1", "64:ff9b::a00:1", 0},
    {"256.0.0.1", NULL, -EINVAL},
    {"1.2.3.256", NULL, -EINVAL},
    {"127.0.65536", NULL, -EINVAL},
    {"4294967296", NULL, -EINVAL},
    {"99999999999999999999999", NULL, -EINVAL},
    {"08.0.0.1", NULL, -EINVAL},
    {"0x1g.1", NULL, -EINVAL},
    {"1.2.3.4.5", NULL, -EINVAL},
    {"1..2", NULL, -EINVAL},
    {".1", NULL, -EINVAL},
    {"host.1", NULL, -EINVAL},
    {"host.0x1", NULL, -EINVAL},
    {"fe80::1%eth0", NULL, -EINVAL},
    {"[::1", NULL, -EINVAL},
    {"[::1]x", NULL, -EINVAL},
    {"[]", NULL, -EINVAL},
    {"1:2", NULL, -EINVAL},
    {":::", NULL, -EINVAL},
    {"", NULL, -ENOENT},
    {".", NULL, -ENOENT},
    {"example.org", NULL, -ENOENT},
    {"1.example.org", NULL, -ENOENT},
    {"1.2.3.4a", NULL, -ENOENT},
    {"0xzz", NULL, -ENOENT},
};

static void reads_every_spelling_of_an_address(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof literals / sizeof *literals; i++) {
        const struct literal *row = &literals[i];
        struct address a;
        char text[ADDRESS_TEXT_SIZE];
        int r = address_parse(row->text, strlen(row->text), &a);
        if (r != row->error)
            fail_msg("'%s': %d", row->text, r);
        if (r < 0)
            continue;
        address_format(&a, text);
        assert_string_equal(text, row->want);
    }
}

struct kind {
    const char *text;
    enum address_class want;
};

static const struct kind kinds[] = {
    {"8.8.8.8", ADDRESS_PUBLIC},
    {"0.0.0.0", ADDRESS_UNSPECIFIED},
    {"0.1.2.3", ADDRESS_UNSPECIFIED},
    {"9.255.255.255", ADDRESS_PUBLIC},
    {"10.0.0.0", ADDRESS_PRIVATE},
    {"10.255.255.255", ADDRESS_PRIVATE},
    {"11.0.0.0", ADDRESS_PUBLIC},
    {"100.63.255.255", ADDRESS_PUBLIC},
    {"100.64.0.0", ADDRESS_SHARED},
    {"100.127.255.255", ADDRESS_SHARED},
    {"100.128.0.0", ADDRESS_PUBLIC},
    {"127.0.0.1", ADDRESS_LOOPBACK},
    {"127.255.255.255", ADDRESS_LOOPBACK},
    {"169.254.169.254", ADDRESS_LINK_LOCAL},
    {"172.15.255.255", ADDRESS_PUBLIC},
    {"172.16.0.0", ADDRESS_PRIVATE},
    {"172.31.255.255", ADDRESS_PRIVATE},
    {"172.32.0.0", ADDRESS_PUBLIC},
    {"192.0.0.1", ADDRESS_RESERVED},
    {"192.0.2.1", ADDRESS_RESERVED},
    {"192.168.1.1", ADDRESS_PRIVATE},
    {"168.63.129.15", ADDRESS_PUBLIC},
    {"168.63.129.16", ADDRESS_RESERVED},
    {"168.63.129.17", ADDRESS_PUBLIC},
    {"198.18.0.1", ADDRESS_RESERVED},
    {"198.19.255.255", ADDRESS_RESERVED},
    {"198.20.0.0", ADDRESS_PUBLIC},
    {"224.0.0.1", ADDRESS_MULTICAST},
    {"239.255.255.255", ADDRESS_MULTICAST},
    {"240.0.0.1", ADDRESS_RESERVED},
    {"255.255.255.255", ADDRESS_RESERVED},
    {"::", ADDRESS_UNSPECIFIED},
    {"::1", ADDRESS_LOOPBACK},
    {"::2", ADDRESS_RESERVED},
    {"::127.0.0.1", ADDRESS_RESERVED},
    {"::ffff:127.0.0.1", ADDRESS_LOOPBACK},
    {"::ffff:169.254.169.254", ADDRESS_LINK_LOCAL},
    {"64:ff9b::7f00:1", ADDRESS_RESERVED},
    {"64:ff9b:1::1", ADDRESS_RESERVED},
    {"2001::1", ADDRESS_RESERVED},
    {"2001:1ff:ffff::1", ADDRESS_RESERVED},
    {"2001:200::1", ADDRESS_PUBLIC},
    {"2001:db8::1", ADDRESS_RESERVED},
    {"2001:db9::1", ADDRESS_PUBLIC},
    {"2002:7f00:1::", ADDRESS_RESERVED},
    {"2606:4700::1111", ADDRESS_PUBLIC},
    {"3fff:fff::1", ADDRESS_RESERVED},
    {"3fff:1000::1", ADDRESS_PUBLIC},
    {"4000::1", ADDRESS_RESERVED},
    {"fc00::1", ADDRESS_PRIVATE},
    {"fd00:ec2::254", ADDRESS_PRIVATE},
    {"fe80::1", ADDRESS_LINK_LOCAL},
    {"fec0::1", ADDRESS_PRIVATE},
    {"ff02::1", ADDRESS_MULTICAST},
};

static void knows_what_is_public(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct address a;
        assert_int_equal(address_parse(kinds[i].text, strlen(kinds[i].text), &a), 0);
        if (address_classify(&a) != kinds[i].want)
            fail_msg("%s is %s", kinds[i].text, address_class_text(address_classify(&a)));
        assert_true(strstr(address_class_text(kinds[i].want), "address") != NULL);
    }
}

static void reads_networks(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want; /* want NULL: refused */
    } rows[] = {
        {"10.0.3.0/24", "10.0.3.0/24"},
        {"10.0.3.7/32", "10.0.3.7/32"},
        {"0.0.0.0/0", "0.0.0.0/0"},
        {"10.0.3.128/25", "10.0.3.128/25"},
        {"0x0a000300/24", "10.0.3.0/24"},
        {"FD00:0::/8", "fd00::/8"},
        {"[fd00::]/8", "fd00::/8"},
        {"::/0", "::/0"},
        {"::1/128", "::1/128"},
        {"2001:db8::8000/113", "2001:db8::8000/113"},
        {"", NULL},
        {"/", NULL},
        {"10.0.3.0", NULL},
        {"10.0.3.0/", NULL},
        {"10.0.3.0/x", NULL},
        {"10.0.3.0/ 24", NULL},
        {"10.0.3.0/+24", NULL},
        {"10.0.3.0/024", NULL},
        {"10.0.3.0/00", NULL},
        {"10.0.3.0/33", NULL},
        {"10.0.3.0/1000", NULL},
        {"10.0.3.0/24/24", NULL},
        {"10.0.3.0/23", NULL},
        {"10.0.3.1/24", NULL},
        {"10.0.3.0/255.255.255.0", NULL},
        {"a.org/24", NULL},
        {"fe80::%eth0/64", NULL},
        {"fd00::1/64", NULL},
        {"::/129", NULL},
        {"::ffff:10.0.3.0/120", NULL},
        {"::ffff:10.0.3.0/24", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct address_network n;
        struct bg_err err = {0};
        char text[ADDRESS_NETWORK_TEXT_SIZE];
        int r = address_network_parse(rows[i].text, strlen(rows[i].text), &n, &err);
        if ((r == 0) != (rows[i].want != NULL))
            fail_msg("'%s': %d", rows[i].text, r);
        if (r < 0) {
            assert_int_equal(r, -EINVAL);
            assert_non_null(strstr(err.text, rows[i].text));
            continue;
        }
        address_network_format(&n, text);
        assert_string_equal(text, rows[i].want);
        assert_true(address_network_has(&n, &n.first));
    }
}

static void goes_to_the_kernel_and_back(void **state)
{
    (void)state;
    static const char *const texts[] = {"192.0.2.7", "2001:db8::7"};
    for (size_t i = 0; i < 2; i++) {
        struct address a, b;
        struct sockaddr_storage sa;
        assert_int_equal(address_parse(texts[i], strlen(texts[i]), &a), 0);
        assert_true(address_to_sockaddr(&a, 443, &sa) > 0);
        assert_int_equal(address_from_sockaddr((const struct sockaddr *)&sa, &b), 0);
        assert_true(address_equal(&a, &b));
        b.bytes[3] ^= 1;
        assert_false(address_equal(&a, &b));
    }
    const struct sockaddr other = {.sa_family = AF_UNIX};
    struct address a;
    assert_int_equal(address_from_sockaddr(&other, &a), -EAFNOSUPPORT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_spelling_of_an_address),
        cmocka_unit_test(knows_what_is_public),
        cmocka_unit_test(reads_networks),
        cmocka_unit_test(goes_to_the_kernel_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
