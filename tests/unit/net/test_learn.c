#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "net/learn.h"
#include "net/policy_file.h"

static void take(struct learn *learn, const char *format, ...) BG_PRINTF(2, 3);

static void take(struct learn *learn, const char *format, ...)
{
    char line[4096];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    assert_true(n > 0 && (size_t)n < sizeof line);
    assert_int_equal(learn_line(learn, line, (size_t)n), 0);
}

#define ALLOW "{\"decision\":\"allow\",\"reason\":\"allowed\","
#define DENY  "{\"decision\":\"deny\",\"reason\":\"host-not-allowed\","

/* In static memory. It must be a policy. */
static const char *learnt(struct learn *learn)
{
    static char text[1 << 20];
    struct buffer out = buffer_init(sizeof text - 1);
    struct policy_file file;
    struct bg_err err;
    learn_put(learn, "web", &out);
    assert_true(buffer_ok(&out));
    memcpy(text, buffer_bytes(&out), buffer_size(&out));
    text[buffer_size(&out)] = '\0';
    if (policy_file_parse("learnt", text, buffer_size(&out), NULL, &file, &err) < 0)
        fail_msg("%s in\n%s", err.text, text);
    policy_file_done(&file);
    buffer_reset(&out);
    learn_done(learn);
    return text;
}

static void proposes_what_was_asked_for(void **state)
{
    (void)state;
    struct learn learn = {0};
    for (int i = 0; i < 3; i++)
        take(&learn, ALLOW "\"host\":\"a.org\",\"port\":443,\"method\":\"GET\",\"path\":\"/x/%d\"}",
             i);
    take(&learn, ALLOW "\"host\":\"a.org\",\"port\":443,\"method\":\"POST\",\"path\":\"/x/0\"}");
    take(&learn, ALLOW "\"host\":\"a.org\",\"port\":443,\"method\":\"GET\",\"path\":\"/a/../b\","
                       "\"placeholders_not_approved\":[\"TOKEN\"]}");
    take(&learn, DENY "\"host\":\"once.org\",\"port\":80,\"method\":\"GET\",\"path\":\"/\"}");
    for (int i = 0; i < 2; i++)
        take(&learn, DENY "\"host\":\"db.org\",\"port\":5432,\"scheme\":\"tcp\"}");
    assert_string_equal(
        learnt(&learn),
        "# What web asked for: 8 requests and connections. Cut it down.\n"
        "network:\n"
        "  rules:\n"
        "    # 5 requests, 0 refused\n"
        "    # the placeholder of TOKEN was in one, and has no rule for that place\n"
        "    # 1 with a path that has several readings\n"
        "    - allow: 'a.org'\n"
        "      methods: [GET, POST]\n"
        "      paths: ['/x/0', '/x/1', '/x/2']\n"
        "    # 2 requests, 2 refused\n"
        "    - allow: 'db.org:5432'\n"
        "      protocol: tcp\n"
        "    # 1 request, 1 refused; asked for only once, so look before you allow it\n"
        "    # - allow: 'once.org'\n"
        "    #   methods: [GET]\n"
        "    #   paths: ['/']\n");
}

static void puts_many_paths_together(void **state)
{
    (void)state;
    struct learn learn = {0};
    for (int i = 0; i < 12; i++)
        take(&learn,
             ALLOW "\"host\":\"a.org\",\"port\":443,\"method\":\"GET\",\"path\":\"/r/%d/x/%d\"}",
             i % 2, i);
    take(&learn, ALLOW "\"host\":\"a.org\",\"port\":443,\"method\":\"GET\",\"path\":\"/top\"}");
    assert_non_null(strstr(learnt(&learn), "paths: ['/r/0/x/**', '/r/1/x/**', '/top']\n"));
    for (int i = 0; i < 200; i++)
        take(&learn,
             ALLOW "\"host\":\"a.org\",\"port\":443,\"method\":\"GET\",\"path\":\"/r/%d/x\"}", i);
    assert_non_null(strstr(learnt(&learn), "paths: ['/r/**']\n"));
    for (int i = 0; i < 200; i++)
        take(&learn, ALLOW "\"host\":\"a.org\",\"port\":443,\"method\":\"GET\",\"path\":\"/%d/x\"}",
             i);
    assert_null(strstr(learnt(&learn), "paths"));
}

/* What a guest asks for to have it proposed. */
static void is_not_led_astray(void **state)
{
    (void)state;
    struct learn learn = {0};
    take(&learn, ALLOW "\"host\":\"q.org\",\"port\":443,\"method\":\"GET\",\"path\":\"/it's/'\","
                       "\"placeholders_not_approved\":[\"X\\n    - allow: evil.org\"]}");
    take(&learn,
         DENY "\"host\":\"169.254.169.254\",\"port\":80,\"method\":\"GET\",\"path\":\"/\"}");
    take(&learn, DENY "\"host\":\"10.0.0.1\",\"port\":5432,\"scheme\":\"tcp\"}");
    for (int i = 0; i < 5000; i++)
        take(&learn, DENY "\"host\":\"h%d.org\",\"port\":443,\"method\":\"GET\",\"path\":\"/\"}",
             i);
    for (int k = 0; k < 2; k++)
        take(&learn, DENY "\"host\":\"h1.org\",\"port\":443,\"method\":\"G'\\n- allow: evil.org\","
                          "\"path\":\"/'\\n    - allow: 'evil.org\"}");
    take(&learn, DENY "\"host\":\"x'\\n- allow: evil.org\",\"port\":443}");
    take(&learn, "{\"decision\":\"deny\",\"reason\":\"request-denied\",\"host\":\"no.org\","
                 "\"port\":443,\"method\":\"GET\",\"path\":\"/\"}");
    take(&learn, "not JSON");
    take(&learn, "[1]");
    const char *text = learnt(&learn);
    assert_non_null(strstr(text, "# 2 to addresses that are not public"));
    assert_non_null(strstr(text, "# 4745 to more hosts than the 256 that are here"));
    assert_non_null(strstr(text, "paths: ['/it''s/''']\n"));
    assert_null(strstr(text, "169.254"));
    assert_null(strstr(text, "evil"));
    assert_null(strstr(text, "no.org"));
    assert_non_null(strstr(text, "    - allow: 'h1.org'\n"));
    assert_non_null(strstr(text, "    # - allow: 'h2.org'\n"));
}

static void proposes_nothing_for_nothing(void **state)
{
    (void)state;
    struct learn learn = {0};
    assert_non_null(strstr(learnt(&learn), "network:\n  rules: []\n"));
    take(&learn, DENY "\"host\":\"once.org\",\"port\":80,\"method\":\"GET\",\"path\":\"/\"}");
    assert_non_null(strstr(learnt(&learn), "# - allow: 'once.org'"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(proposes_what_was_asked_for),
        cmocka_unit_test(puts_many_paths_together),
        cmocka_unit_test(is_not_led_astray),
        cmocka_unit_test(proposes_nothing_for_nothing),
    };
    return cmocka_run_group_tests_name("net-learn", tests, NULL, NULL);
}
