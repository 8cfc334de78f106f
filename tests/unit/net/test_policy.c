#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/limits.h"
#include "net/policy.h"

static struct destination to(const char *authority)
{
    struct destination d;
    assert_int_equal(destination_parse(authority, strlen(authority), 443, &d, NULL), 0);
    return d;
}

static const struct {
    const char *rule, *authority;
    bool allowed;
} rows[] = {
    {"example.org", "example.org:443", true},
    {"example.org", "example.org:80", true},
    {"example.org", "example.org:8080", false},
    {"example.org", "a.example.org:443", false},
    {"example.org", "evilexample.org:443", false},
    {"example.org", "example.org.evil:443", false},
    {"EXAMPLE.org.", "example.org:443", true},
    {"example.org:8443", "example.org:8443", true},
    {"example.org:8443", "example.org:443", false},
    {"*.example.org", "a.example.org:443", true},
    {"*.example.org", "a.b.example.org:443", true},
    {"*.example.org", "example.org:443", false},
    {"*.example.org", "evilexample.org:443", false},
    {"*.example.org", "a.example.org.evil:443", false},
    {"*.example.org:22", "a.example.org:22", true},
    {"*.0.0.x1", "127.0.0.1:443", false},
    {"10.0.0.5:5432", "10.0.0.5:5432", true},
    {"10.0.0.5:5432", "10.5:5432", true},
    {"10.0.0.5:5432", "[::ffff:10.0.0.5]:5432", true},
    {"10.0.0.5:5432", "10.0.0.6:5432", false},
    {"[2001:db8::1]:443", "[2001:db8:0::1]:443", true},
    {"10.0.3.0/24", "10.0.3.5:443", true},
    {"10.0.3.0/24", "10.0.3.5:8443", false},
    {"10.0.3.0/24", "10.0.4.5:443", false},
    {"10.0.3.0/24", "[::ffff:10.0.3.5]:443", true},
    {"10.0.3.0/24", "0xa000305:443", true},
    {"10.0.3.0/24:22", "10.0.3.5:22", true},
    {"10.0.3.0/24:22", "10.0.3.5:443", false},
    {"10.0.3.5/32", "10.0.3.5:443", true},
    {"fd00::/8:22", "[fd12::1]:22", true},
    {"[fd00::]/8:22", "[fe80::1]:22", false},
    {"10.0.3.0/24", "a.org:443", false},
    /* A wide network is no way to addresses that are not public. */
    {"0.0.0.0/0", "8.8.8.8:443", true},
    {"0.0.0.0/0", "127.0.0.1:443", false},
    {"0.0.0.0/0", "10.0.0.1:443", false},
    {"0.0.0.0/0", "169.254.169.254:80", false},
    {"0.0.0.0/0", "168.63.129.16:80", false},
    {"0.0.0.0/0", "[2606:4700::1111]:443", false},
    {"8.0.0.0/6", "10.0.0.1:443", false},
    {"8.0.0.0/6", "9.0.0.1:443", true},
    {"::/0", "[2606:4700::1111]:443", true},
    {"::/0", "[::1]:443", false},
    {"::/0", "[fd00::1]:443", false},
    {"::/3", "[::1]:443", false},
    {"::/0", "127.0.0.1:443", false},
    {"127.0.0.0/8", "127.0.0.1:443", true},
    {"169.254.0.0/16", "169.254.1.1:80", true},
    {"169.254.0.0/16", "169.254.169.254:80", false},
    {"169.254.169.254/32", "169.254.169.254:80", true},
    {"fd00::/8", "[fd00:ec2::254]:80", false},
    {"100.64.0.0/10", "100.100.100.200:80", false},
    {"127.0.0.1", "localhost:443", false},
    {"localhost", "127.0.0.1:443", false},
};

static void allows_what_a_rule_names_and_nothing_else(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct policy_rule rule;
        struct destination d;
        assert_int_equal(policy_rule_parse(rows[i].rule, &rule, NULL), 0);
        d = to(rows[i].authority);
        const struct policy policy = {.rules = &rule, .count = 1};
        if ((policy_find(&policy, &d) != NULL) != rows[i].allowed)
            fail_msg("rule %s, %s", rows[i].rule, rows[i].authority);
        policy_rule_done(&rule);
    }
}

static void denies_without_a_rule(void **state)
{
    (void)state;
    struct policy policy;
    struct destination d = to("example.org");
    assert_int_equal(policy_init(&policy, NULL, 0, NULL), 0);
    assert_null(policy_find(&policy, &d));
    policy_done(&policy);
}

static void takes_the_first_rule_that_matches(void **state)
{
    (void)state;
    static const char *const texts[] = {"*.b.org", "a.b.org:443", "a.b.org"};
    struct policy policy;
    struct destination d = to("a.b.org:443");
    assert_int_equal(policy_init(&policy, texts, 3, NULL), 0);
    assert_string_equal(policy_find(&policy, &d)->text, "*.b.org");
    assert_false(policy.rules[0].tcp);
    assert_true(policy.rules[1].tcp);
    policy_done(&policy);
}

static void refuses_malformed_rules(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "*",
        "*.",
        "**.a",
        "a.*.b",
        "*a.b",
        "a b",
        "a:0",
        "a:x",
        "a:70000",
        "a:80:80",
        "a=",
        "a=b",
        "a=1.2.3.4,",
        "a:80=1.2.3.4;5",
        "http://a",
        "a/b",
        "*.1.2.3.4",
        "::1",
        "1.2.3.4=1.2.3.4",
        "-a",
        "a..b",
        "a@b",
        "[::1",
        "a=fe80::1%lo",
        "10.0.3.1/24",
        "10.0.3.0/",
        "10.0.3.0/-1",
        "10.0.3.0/024",
        "10.0.3.0/33",
        "10.0.3.0/24/1",
        "10.0.3.0/24:0",
        "10.0.3.0/24:x",
        "fd00::/129",
        "::ffff:10.0.0.0/104",
        "/24",
        "10.0.3.0/24=1.2.3.4",
        "a=10.0.3.1/24",
        "a=b/24",
        "a=1.1.1.1,1.1.1.1,1.1.1.1,1.1.1.1,1.1.1.1,1.1.1.1,1.1.1.1,1.1.1.1,1.1.1.1",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct policy_rule rule;
        struct bg_err err = {0};
        int r = policy_rule_parse(bad[i], &rule, &err);
        if (r != -EINVAL)
            fail_msg("'%s': %d", bad[i], r);
        assert_non_null(strstr(err.text, "rule '"));
    }
}

static void names_the_rule_that_is_wrong(void **state)
{
    (void)state;
    static const char *const texts[] = {"good.org", "bad org"};
    struct policy policy;
    struct bg_err err;
    assert_int_equal(policy_init(&policy, texts, 2, &err), -EINVAL);
    assert_non_null(strstr(err.text, "'bad org'"));
}

static void has_a_limit_on_rules(void **state)
{
    (void)state;
    static const char *texts[BG_EGRESS_RULES_MAX + 1];
    struct policy policy;
    for (size_t i = 0; i <= BG_EGRESS_RULES_MAX; i++)
        texts[i] = "example.org";
    assert_int_equal(policy_init(&policy, texts, BG_EGRESS_RULES_MAX + 1, NULL), -E2BIG);
    assert_int_equal(policy_init(&policy, texts, BG_EGRESS_RULES_MAX, NULL), 0);
    policy_done(&policy);
}

static bool address_ok(const char *rule_text, const char *authority, const char *address_text)
{
    struct policy_rule rule;
    struct address address;
    struct destination d = to(authority);
    assert_int_equal(policy_rule_parse(rule_text, &rule, NULL), 0);
    assert_int_equal(address_parse(address_text, strlen(address_text), &address), 0);
    const struct policy policy = {.rules = &rule, .count = 1};
    bool ok = policy_address_ok(&policy, &rule, &d, &address);
    policy_rule_done(&rule);
    return ok;
}

static void dials_public_addresses_or_named_ones(void **state)
{
    (void)state;
    assert_true(address_ok("a.org", "a.org", "8.8.8.8"));
    assert_false(address_ok("a.org", "a.org", "127.0.0.1"));
    assert_false(address_ok("a.org", "a.org", "169.254.169.254"));
    assert_false(address_ok("a.org", "a.org", "::ffff:10.0.0.1"));
    assert_false(address_ok("a.org", "a.org", "::1"));
    assert_true(address_ok("a.org:443=127.0.0.1", "a.org", "127.0.0.1"));
    assert_false(address_ok("a.org:443=127.0.0.1", "a.org", "127.0.0.2"));
    assert_false(address_ok("a.org:443=127.0.0.1", "a.org", "8.8.8.8"));
    assert_true(address_ok("a.org=127.0.0.1,::1", "a.org", "::1"));
    assert_true(address_ok("a.org=10.0.3.0/24", "a.org", "10.0.3.9"));
    assert_false(address_ok("a.org=10.0.3.0/24", "a.org", "10.0.4.9"));
    assert_false(address_ok("a.org=10.0.3.0/24", "a.org", "8.8.8.8"));
    assert_true(address_ok("a.org=10.0.3.0/24,8.8.8.8", "a.org", "8.8.8.8"));
    assert_false(address_ok("a.org=0.0.0.0/0", "a.org", "169.254.169.254"));
    assert_true(address_ok("10.0.3.0/24", "10.0.3.7", "10.0.3.7"));
    assert_false(address_ok("10.0.3.0/24", "10.0.3.7", "10.0.3.8"));
    assert_true(address_ok("10.0.0.1", "10.0.0.1", "10.0.0.1"));
    assert_false(address_ok("10.0.0.1", "10.0.0.1", "10.0.0.2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allows_what_a_rule_names_and_nothing_else),
        cmocka_unit_test(denies_without_a_rule),
        cmocka_unit_test(takes_the_first_rule_that_matches),
        cmocka_unit_test(refuses_malformed_rules),
        cmocka_unit_test(names_the_rule_that_is_wrong),
        cmocka_unit_test(has_a_limit_on_rules),
        cmocka_unit_test(dials_public_addresses_or_named_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
