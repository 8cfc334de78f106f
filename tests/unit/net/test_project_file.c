#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net/policy_file.h"
#include "net/project_file.h"

static const char whole[] = "image: node\n"
                            "cpus: 2\n"
                            "memory: 2G\n"
                            "ttl: 8h\n"
                            "idle_suspend: 10m\n"
                            "env:\n"
                            "  NODE_ENV: test\n"
                            "  EMPTY: ''\n"
                            "  TEXT: a=b c\n"
                            "mounts:\n"
                            "  - .:/home/app/project\n"
                            "  - data:ro\n"
                            "network:\n"
                            "  rules:\n"
                            "    - allow: registry.npmjs.org\n";

static void takes_every_key(void **state)
{
    (void)state;
    struct project_file file;
    struct bg_err err;
    assert_int_equal(project_file_parse("p", whole, strlen(whole), &file, &err), 0);
    assert_string_equal(file.texts[PROJECT_IMAGE], "node");
    assert_string_equal(file.texts[PROJECT_CPUS], "2");
    assert_string_equal(file.texts[PROJECT_MEMORY], "2G");
    assert_string_equal(file.texts[PROJECT_TTL], "8h");
    assert_string_equal(file.texts[PROJECT_IDLE_SUSPEND], "10m");
    assert_int_equal(file.env_count, 3);
    assert_string_equal(file.env[0], "NODE_ENV=test");
    assert_string_equal(file.env[1], "EMPTY=");
    assert_string_equal(file.env[2], "TEXT=a=b c");
    assert_int_equal(file.mount_count, 2);
    assert_string_equal(file.mounts[0], ".:/home/app/project");
    assert_string_equal(file.mounts[1], "data:ro");
    assert_true(file.has_policy);
    project_file_done(&file);
}

/* One text is both: each reads its own keys, and neither refuses the other's. */
static void is_a_policy_too(void **state)
{
    (void)state;
    struct policy_file policy;
    struct bg_err err;
    assert_int_equal(policy_file_parse("p", whole, strlen(whole), NULL, &policy, &err), 0);
    assert_int_equal(policy.policy.count, 1);
    policy_file_done(&policy);
}

static void may_be_empty(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "# nothing\n", "mounts: []\n", "env: {}\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct project_file file;
        struct bg_err err;
        assert_int_equal(project_file_parse("p", texts[i], strlen(texts[i]), &file, &err), 0);
        assert_int_equal(file.env_count + file.mount_count, 0);
        assert_false(file.has_policy);
        project_file_done(&file);
    }
}

static void names_the_line_of_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *text, *place, *word;
    } rows[] = {
        {"image: a\nmount: [.]\n", "p:2: ", "did you mean 'mounts'"},
        {"image: [a]\n", "p:1: ", "single value"},
        {"image:\n", "p:1: ", "nothing"},
        {"cpus: 1\ncpus: 2\n", "p:2: ", "twice"},
        {"env: [A=B]\n", "p:1: ", "NAME: TEXT"},
        {"env:\n  A: [b]\n", "p:2: ", "single value"},
        {"env:\n  A=B: c\n", "p:2: ", "NAME: TEXT"},
        {"env:\n  '': c\n", "p:2: ", "NAME: TEXT"},
        {"mounts:\n  - {dir: .}\n", "p:2: ", "single value"},
        {"ports: [80]\n", "p:1: ", "no key"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct project_file file;
        struct bg_err err;
        assert_int_equal(project_file_parse("p", rows[i].text, strlen(rows[i].text), &file, &err),
                         -EINVAL);
        if (strncmp(err.text, rows[i].place, strlen(rows[i].place)) != 0 ||
            !strstr(err.text, rows[i].word))
            fail_msg("row %zu: %s", i, err.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_every_key),
        cmocka_unit_test(is_a_policy_too),
        cmocka_unit_test(may_be_empty),
        cmocka_unit_test(names_the_line_of_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
