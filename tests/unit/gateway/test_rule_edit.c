#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/gateway/rule_edit.h"

/* The lists as texts with a comma behind each. policy NULL: none. */
static void check(bool deny, const char *host, unsigned port, const char *allow, const char *policy,
                  const char *want_allow, const char *want_policy)
{
    char copy[256], got[256] = "", *list[8];
    size_t count = 0;
    struct bg_err err;
    struct rule_edited edited;
    (void)snprintf(copy, sizeof copy, "%s", allow);
    for (char *rest = copy, *one; (one = strsep(&rest, ","));)
        if (*one)
            list[count++] = one;
    const struct rule_edit_opts opts = {.deny = deny,
                                        .host = host,
                                        .port = port,
                                        .allow = list,
                                        .allow_count = count,
                                        .policy = policy};
    assert_int_equal(rule_edit(&opts, &edited, &err), 0);
    for (size_t i = 0; i < edited.allow_count; i++) {
        size_t used = strlen(got);
        (void)snprintf(got + used, sizeof got - used, "%s,", edited.allow[i]);
    }
    assert_string_equal(got, want_allow);
    if (want_policy)
        assert_string_equal(edited.policy, want_policy);
    else
        assert_null(edited.policy);
    rule_edited_done(&edited);
}

static void an_allowed_host_is_added_once(void **state)
{
    (void)state;
    check(false, "a.test", 443, "", NULL, "a.test,", NULL);
    check(false, "a.test", 0, "a.test,b.test", NULL, "a.test,b.test,", NULL);
    check(false, "a.test", 8443, "a.test,", NULL, "a.test,a.test:8443,", NULL);
    check(false, "2001:db8::1", 22, "", NULL, "[2001:db8::1]:22,", NULL);
    check(false, "a.test", 80, "", "network:\n  default: learn\n", "a.test,",
          "network:\n  default: learn\n");
}

static void a_denied_host_is_taken_out(void **state)
{
    (void)state;
    check(true, "a.test", 443, "a.test,b.test,A.TEST=10.0.0.1", NULL, "b.test,", NULL);
    check(true, "a.test", 8443, "a.test,a.test:8443", NULL, "a.test,", NULL);
    check(true, "a.test", 0, "*.test,x.other,*.a.test", NULL, "x.other,*.a.test,",
          "network:\n  rules:\n    - deny: \"a.test\"\n    - allow: \"*.test\"\n");
}

static void a_denial_is_the_first_rule_of_the_policy(void **state)
{
    (void)state;
    check(true, "a.test", 80, "", "network:\n  default: learn\n", "",
          "network:\n  rules:\n    - deny: \"a.test\"\n  default: learn\n");
    check(true, "a.test", 22, "",
          "# mine\nnetwork: # all\n    default: deny\n    rules:\n\n    # first\n    - allow: b\n"
          "secrets:\n  rules: x\n",
          "",
          "# mine\nnetwork: # all\n    default: deny\n    rules:\n    - deny: \"a.test:22\"\n\n"
          "    # first\n    - allow: b\nsecrets:\n  rules: x\n");
    check(true, "a.test", 80, "", "audit: required", "",
          "audit: required\nnetwork:\n  rules:\n    - deny: \"a.test\"\n");
}

static void allowing_undoes_a_denial(void **state)
{
    (void)state;
    static const char *const policies[] = {
        "network:\n  default: learn\n", "network:\n  rules:\n    - allow: b.test\n",
        "network:\n  default: deny\n  rules:\n  - allow: b.test\nsecrets: {}\n"};
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        struct bg_err err;
        struct rule_edited denied;
        const struct rule_edit_opts opts = {.deny = true, .host = "a.test", .policy = policies[i]};
        assert_int_equal(rule_edit(&opts, &denied, &err), 0);
        assert_string_not_equal(denied.policy, policies[i]);
        check(false, "a.test", 0, "", denied.policy, "a.test,", policies[i]);
        check(true, "a.test", 0, "", denied.policy, "", denied.policy); /* denied already */
        rule_edited_done(&denied);
    }
}

static void what_cannot_be_changed_is_refused(void **state)
{
    (void)state;
    char above[] = "*.test=10.0.0.1", *list[] = {above};
    static const char *const hosts[] = {"",    "a b",  "a\"b", "a\nb", "-",
                                        "a/b", "\xff", "a=b",  "[",    "::g"};
    struct rule_edited edited;
    struct bg_err err;
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++)
        assert_int_equal(rule_edit(&(struct rule_edit_opts){.host = hosts[i]}, &edited, &err),
                         -EINVAL);
    assert_int_equal(rule_edit(&(struct rule_edit_opts){.deny = true,
                                                        .host = "a.test",
                                                        .policy = "network: {default: learn}\n"},
                               &edited, &err),
                     -EOPNOTSUPP);
    assert_int_equal(rule_edit(&(struct rule_edit_opts){.deny = true,
                                                        .host = "a.test",
                                                        .policy = "network:\n  rules: []\n"},
                               &edited, &err),
                     -EOPNOTSUPP);
    assert_int_equal(rule_edit(
                         &(struct rule_edit_opts){
                             .deny = true, .host = "a.test", .allow = list, .allow_count = 1},
                         &edited, &err),
                     -EOPNOTSUPP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_allowed_host_is_added_once),
        cmocka_unit_test(a_denied_host_is_taken_out),
        cmocka_unit_test(a_denial_is_the_first_rule_of_the_policy),
        cmocka_unit_test(allowing_undoes_a_denial),
        cmocka_unit_test(what_cannot_be_changed_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
