#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net/destination.h"

/* 63 of one label, and 253 of a whole name. */
#define L63  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define L61  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define N253 L63 "." L63 "." L63 "." L61

static const struct {
    const char *text, *want; /* want NULL: refused */
} hosts[] = {
    {"example.org", "example.org"},
    {"EXAMPLE.Org", "example.org"},
    {"example.org.", "example.org"},
    {"localhost", "localhost"},
    {"_dmarc.example.org", "_dmarc.example.org"},
    {"xn--bcher-kva.example", "xn--bcher-kva.example"},
    {"a-b.c", "a-b.c"},
    {L63 ".org", L63 ".org"},
    {N253, N253},
    {N253 ".", N253},
    {"127.1", "127.0.0.1"},
    {"[::1]", "::1"},
    {"::ffff:127.0.0.1", "127.0.0.1"},
    {"", NULL},
    {".", NULL},
    {"example..org", NULL},
    {".example.org", NULL},
    {"example.org..", NULL},
    {"-a.org", NULL},
    {"a-.org", NULL},
    {"xn--.org", NULL},
    {"b\xc3\xbc"
     "cher.example",
     NULL},
    {"exa mple.org", NULL},
    {"example.org/", NULL},
    {"user@example.org", NULL},
    {"example.org:80", NULL},
    {"*.example.org", NULL},
    {"a%00.org", NULL},
    {L63 "a.org", NULL},
    {N253 "a", NULL},
    {"1.2.3", "1.2.0.3"},
    {"1.2.3.4.5", NULL},
    {"host.09", NULL},
};

static void has_one_form_for_each_host(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        struct destination d;
        struct bg_err err = {0};
        int r = destination_parse_host(hosts[i].text, strlen(hosts[i].text), &d, &err);
        if ((r == 0) != (hosts[i].want != NULL))
            fail_msg("'%s': %d", hosts[i].text, r);
        if (r == 0)
            assert_string_equal(d.host, hosts[i].want);
        else
            assert_int_equal(r, -EINVAL);
    }
}

static void refuses_a_nul(void **state)
{
    (void)state;
    struct destination d;
    assert_int_equal(destination_parse_host("example.org\0.evil", 17, &d, NULL), -EINVAL);
    assert_int_equal(destination_parse_host("\0", 1, &d, NULL), -EINVAL);
}

static void tells_how_to_write_an_international_name(void **state)
{
    (void)state;
    struct destination d;
    struct bg_err err;
    assert_int_equal(destination_parse_host("b\xc3\xbc", 3, &d, &err), -EINVAL);
    assert_non_null(strstr(err.text, "xn--"));
}

static const struct {
    const char *text;
    const char *host; /* NULL: refused */
    uint16_t port;
} authorities[] = {
    {"example.org", "example.org", 7},
    {"example.org:8443", "example.org", 8443},
    {"example.org.:1", "example.org", 1},
    {"example.org:65535", "example.org", 65535},
    {"[::1]:443", "::1", 443},
    {"[::1]", "::1", 7},
    {"1.2.3.4:80", "1.2.3.4", 80},
    {"example.org:", NULL, 0},
    {"example.org:0", NULL, 0},
    {"example.org:080", NULL, 0},
    {"example.org:65536", NULL, 0},
    {"example.org:+80", NULL, 0},
    {"example.org: 80", NULL, 0},
    {"example.org:80 ", NULL, 0},
    {"example.org:80:80", NULL, 0},
    {"example.org,evil.org", NULL, 0},
    {"u@example.org", NULL, 0},
    {"::1", NULL, 0},
    {"::1:443", NULL, 0},
    {"[::1]443", NULL, 0},
    {"[::1]x:443", NULL, 0},
    {"[fe80::1%25eth0]:443", NULL, 0},
    {":80", NULL, 0},
    {"", NULL, 0},
};

static void reads_an_authority(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof authorities / sizeof *authorities; i++) {
        struct destination d;
        const char *text = authorities[i].text;
        int r = destination_parse(text, strlen(text), 7, &d, NULL);
        if ((r == 0) != (authorities[i].host != NULL))
            fail_msg("'%s': %d", text, r);
        if (r < 0)
            continue;
        assert_string_equal(d.host, authorities[i].host);
        assert_int_equal(d.port, authorities[i].port);
    }
}

static void writes_an_authority(void **state)
{
    (void)state;
    static const struct {
        const char *text, *with, *without;
    } rows[] = {
        {"Example.org.:443", "example.org:443", "example.org"},
        {"[::1]:443", "[::1]:443", "[::1]"},
        {"127.1:443", "127.0.0.1:443", "127.0.0.1"},
    };
    for (size_t i = 0; i < 3; i++) {
        struct destination d;
        char out[DESTINATION_TEXT_SIZE];
        assert_int_equal(destination_parse(rows[i].text, strlen(rows[i].text), 0, &d, NULL), 0);
        destination_format(&d, 0, out);
        assert_string_equal(out, rows[i].with);
        destination_format(&d, 443, out);
        assert_string_equal(out, rows[i].without);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_one_form_for_each_host),
        cmocka_unit_test(refuses_a_nul),
        cmocka_unit_test(tells_how_to_write_an_international_name),
        cmocka_unit_test(reads_an_authority),
        cmocka_unit_test(writes_an_authority),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
