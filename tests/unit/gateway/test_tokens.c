#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/gateway/tokens.h"

static void a_token_is_found_by_its_text_alone(void **state)
{
    (void)state;
    struct tokens tokens = {0};
    struct bg_err err;
    char a[TOKEN_SIZE], b[TOKEN_SIZE];
    assert_int_equal(tokens_add(&tokens, "a", 5, a, &err), 0);
    assert_int_equal(tokens_add(&tokens, "b", 6, b, &err), 0);
    assert_string_not_equal(a, b);
    assert_memory_equal(a, "ddo_", 4);
    assert_string_equal(tokens_find(&tokens, a)->name, "a");
    assert_string_equal(tokens_find(&tokens, b)->name, "b");
    assert_null(tokens_find(&tokens, ""));
    assert_null(tokens_find(&tokens, "a"));
    b[TOKEN_SIZE - 2] ^= 1;
    assert_null(tokens_find(&tokens, b));
    assert_int_equal(tokens_add(&tokens, "a", 5, b, &err), -EEXIST);
    assert_int_equal(tokens_add(&tokens, "a b", 5, b, &err), -EINVAL);
    assert_int_equal(tokens_add(&tokens, "", 5, b, &err), -EINVAL);
    assert_int_equal(tokens_remove(&tokens, "a", &err), 0);
    assert_null(tokens_find(&tokens, a));
    assert_int_equal(tokens_remove(&tokens, "a", &err), -ENOENT);
    tokens_done(&tokens);
}

static void the_owner_s_token_is_kept_as_such(void **state)
{
    (void)state;
    struct tokens tokens = {0}, read;
    struct bg_err err;
    char a[TOKEN_SIZE], b[TOKEN_SIZE];
    assert_int_equal(tokens_add(&tokens, "a", 5, a, &err), 0);
    assert_int_equal(tokens_add(&tokens, "b", INT64_MAX, b, &err), 0);
    tokens_named(&tokens, "b")->all = true;
    assert_null(tokens_named(&tokens, "c"));
    char *text = tokens_emit(&tokens);
    assert_non_null(text);
    assert_int_equal(tokens_parse(text, strlen(text), &read, &err), 0);
    assert_false(tokens_named(&read, "a")->all);
    assert_true(tokens_named(&read, "b")->all);
    tokens_done(&read);
    text[strlen(text) - 2] = 'k'; /* "alk" */
    assert_int_equal(tokens_parse(text, strlen(text), &read, &err), -EINVAL);
    free(text);
    tokens_done(&tokens);
}

static void what_is_kept_has_no_token_in_it(void **state)
{
    (void)state;
    struct tokens tokens = {0}, read;
    struct bg_err err;
    char a[TOKEN_SIZE];
    assert_int_equal(tokens_add(&tokens, "laptop", 5, a, &err), 0);
    char *text = tokens_emit(&tokens);
    assert_non_null(text);
    assert_null(strstr(text, a + 4));
    assert_int_equal(tokens_parse(text, strlen(text), &read, &err), 0);
    assert_int_equal(read.count, 1);
    assert_int_equal(read.list[0].created_ms, 5);
    assert_false(read.list[0].all);
    assert_string_equal(tokens_find(&read, a)->name, "laptop");
    free(text);
    tokens_done(&tokens);
    tokens_done(&read);
}

static void damaged_lines_are_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "x\n",
        "x 00\n",
        "x 00 5\n",
        "x 0000000000000000000000000000000000000000000000000000000000000000\n",
        "x 000000000000000000000000000000000000000000000000000000000000000g 5\n",
        "x 0000000000000000000000000000000000000000000000000000000000000000 five\n",
        "x 0000000000000000000000000000000000000000000000000000000000000000 5 \n",
        "x 0000000000000000000000000000000000000000000000000000000000000000 5 sandboxes\n",
        "x 0000000000000000000000000000000000000000000000000000000000000000 5 sandboxes=-1\n",
        "x 0000000000000000000000000000000000000000000000000000000000000000 5 admin\n",
        "/ 0000000000000000000000000000000000000000000000000000000000000000 5\n",
        ("x 0000000000000000000000000000000000000000000000000000000000000000 5\n"
         "x 0000000000000000000000000000000000000000000000000000000000000001 5\n"),
    };
    struct tokens tokens;
    struct bg_err err;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_true(tokens_parse(wrong[i], strlen(wrong[i]), &tokens, &err) < 0);
    assert_int_equal(tokens_parse("", 0, &tokens, &err), 0);
    assert_int_equal(tokens.count, 0);
    tokens_done(&tokens);
}

static void what_a_token_may_have_is_kept(void **state)
{
    (void)state;
    struct tokens tokens = {0}, read;
    struct token *token;
    struct bg_err err;
    char a[TOKEN_SIZE], b[TOKEN_SIZE];
    assert_int_equal(tokens_add(&tokens, "a", 5, a, &err), 0);
    assert_int_equal(tokens_add(&tokens, "b", 6, b, &err), 0);
    assert_int_equal(tokens_get(&tokens, "a", &token, &err), 0);
    token->quota = (struct quota){.sandboxes = 3,
                                  .memory_bytes = 1ull << 40,
                                  .lifetime_ms = 0,
                                  .nested = true,
                                  .metrics = true};
    assert_int_equal(tokens_get(&tokens, "c", &token, &err), -ENOENT);
    char *text = tokens_emit(&tokens);
    assert_int_equal(tokens_parse(text, strlen(text), &read, &err), 0);
    struct quota got = tokens_quota(&read, "a");
    assert_int_equal(got.sandboxes, 3);
    assert_int_equal(got.memory_bytes, 1ull << 40);
    assert_int_equal(got.lifetime_ms, 0);
    assert_true(got.nested && got.metrics);
    got = tokens_quota(&read, "b");
    assert_int_equal(got.sandboxes, QUOTA_UNLIMITED);
    assert_int_equal(got.memory_bytes, QUOTA_UNLIMITED);
    assert_int_equal(got.lifetime_ms, QUOTA_UNLIMITED);
    assert_false(got.nested || got.metrics);
    assert_int_equal(tokens_quota(&read, "gone").sandboxes, 0);
    free(text);
    tokens_done(&tokens);
    tokens_done(&read);
}

static void words_behind_a_token_stand_in_any_order(void **state)
{
    (void)state;
    static const char hash[] = "0000000000000000000000000000000000000000000000000000000000000000";
    static const char *const words[] = {"all sandboxes=3 metrics", "sandboxes=3 all metrics",
                                        "metrics sandboxes=3 all"};
    struct tokens tokens;
    struct bg_err err;
    char line[160], want[160];
    (void)snprintf(want, sizeof want, "x %s 5 all sandboxes=3 metrics\n", hash);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        (void)snprintf(line, sizeof line, "x %s 5 %s\n", hash, words[i]);
        assert_int_equal(tokens_parse(line, strlen(line), &tokens, &err), 0);
        assert_true(tokens.list[0].all && tokens.list[0].quota.metrics);
        assert_int_equal(tokens.list[0].quota.sandboxes, 3);
        char *text = tokens_emit(&tokens);
        assert_string_equal(text, want);
        free(text);
        tokens_done(&tokens);
    }
}

static void a_token_is_noticed_where_it_must_not_be(void **state)
{
    (void)state;
    struct tokens tokens = {0};
    struct token *token;
    struct bg_err err;
    char a[TOKEN_SIZE], text[256];
    assert_int_equal(tokens_add(&tokens, "a", 5, a, &err), 0);
    static const char *const around[] = {"%s", "Bearer %s", "x=%s;y", "ddo_%sddo_", "ddo_ddo_%s"};
    for (size_t i = 0; i < sizeof around / sizeof around[0]; i++) {
        const char *hole = strchr(around[i], '%');
        (void)snprintf(text, sizeof text, "%.*s%s%s", (int)(hole - around[i]), around[i], a,
                       hole + 2);
        assert_int_equal(tokens_check_stray(&tokens, text, &err), -EKEYREJECTED);
        assert_non_null(strstr(err.text, "'a'"));
    }
    assert_int_equal(tokens_check_stray(&tokens, "", &err), 0);
    assert_int_equal(tokens_check_stray(&tokens, "ddo_", &err), 0);
    a[TOKEN_SIZE - 2] ^= 1;
    assert_int_equal(tokens_check_stray(&tokens, a, &err), 0);
    a[TOKEN_SIZE - 2] ^= 1;
    assert_int_equal(tokens_get(&tokens, "a", &token, &err), 0);
    token->quota.nested = true;
    assert_int_equal(tokens_check_stray(&tokens, a, &err), 0);
    tokens_done(&tokens);
}

static void a_file_is_read_again_when_it_changes(void **state)
{
    (void)state;
    char folder[] = "/tmp/bg-tokens-XXXXXX", path[64], a[TOKEN_SIZE], b[TOKEN_SIZE];
    struct tokens tokens = {0};
    struct bg_err err;
    assert_non_null(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/tokens", folder);
    struct token_file file = {.path = path};
    assert_int_equal(token_file_refresh(&file, &err), 0);
    assert_int_equal(file.tokens.count, 0);
    assert_int_equal(tokens_add(&tokens, "a", 5, a, &err), 0);
    assert_int_equal(tokens_save(path, &tokens, &err), 0);
    assert_int_equal(token_file_refresh(&file, &err), 0);
    assert_non_null(tokens_find(&file.tokens, a));
    assert_int_equal(tokens_add(&tokens, "b", 5, b, &err), 0);
    assert_int_equal(tokens_save(path, &tokens, &err), 0);
    assert_int_equal(token_file_refresh(&file, &err), 0);
    assert_non_null(tokens_find(&file.tokens, b));
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(tokens_remove(&tokens, "b", &err), 0);
    assert_int_equal(tokens_save(path, &tokens, &err), 0);
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(token_file_refresh(&file, &err), -EPERM);
    assert_int_equal(file.tokens.count, 2);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(token_file_refresh(&file, &err), 0);
    assert_int_equal(file.tokens.count, 0);
    assert_int_equal(rmdir(folder), 0);
    token_file_done(&file);
    tokens_done(&tokens);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_is_found_by_its_text_alone),
        cmocka_unit_test(the_owner_s_token_is_kept_as_such),
        cmocka_unit_test(what_is_kept_has_no_token_in_it),
        cmocka_unit_test(damaged_lines_are_refused),
        cmocka_unit_test(what_a_token_may_have_is_kept),
        cmocka_unit_test(words_behind_a_token_stand_in_any_order),
        cmocka_unit_test(a_token_is_noticed_where_it_must_not_be),
        cmocka_unit_test(a_file_is_read_again_when_it_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
