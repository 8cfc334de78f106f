#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "host/gateway/logins.h"

static struct token a_token(char *name)
{
    return (struct token){.name = name, .hash = {1, 2, 3}};
}

static const struct login *find(const struct logins *l, const struct login_secrets *s,
                                const char *key, uint64_t now_ms)
{
    char cookies[256];
    (void)snprintf(cookies, sizeof cookies, "other=1; b=wrong; b=%s ; c=2", s->cookie);
    return logins_find(l, cookies, "b", key, now_ms);
}

static void both_secrets_are_needed_and_they_end(void **state)
{
    (void)state;
    char name[] = "me";
    const struct token token = a_token(name);
    struct logins *l = logins_new();
    struct login_secrets one, two;
    logins_open(l, &token, 1000, &one);
    logins_open(l, &token, 1000, &two);
    const struct login *login = find(l, &one, one.key, 1001);
    assert_non_null(login);
    assert_string_equal(login->token, "me");
    assert_memory_equal(login->token_hash, token.hash, sizeof token.hash);
    assert_null(find(l, &one, two.key, 1001));
    assert_null(find(l, &one, one.cookie, 1001));
    assert_null(find(l, &one, "", 1001));
    assert_null(logins_find(l, "", "b", one.key, 1001));
    assert_null(logins_find(l, one.cookie, "b", one.key, 1001));
    assert_non_null(find(l, &one, one.key, 1000 + BG_GATEWAY_LOGIN_MS - 1));
    assert_null(find(l, &one, one.key, 1000 + BG_GATEWAY_LOGIN_MS));
    logins_close(l, login);
    assert_null(find(l, &one, one.key, 1001));
    assert_non_null(find(l, &two, two.key, 1001));
    logins_free(l);
}

static void one_too_many_takes_the_oldest_place(void **state)
{
    (void)state;
    char name[] = "me";
    const struct token token = a_token(name);
    struct logins *l = logins_new();
    struct login_secrets first, second, more;
    logins_open(l, &token, 1, &first);
    logins_open(l, &token, 2, &second);
    for (uint64_t i = 2; i < BG_GATEWAY_LOGINS_MAX; i++)
        logins_open(l, &token, 1 + i, &more);
    assert_non_null(find(l, &first, first.key, 500));
    logins_open(l, &token, 500, &more);
    assert_null(find(l, &first, first.key, 500));
    assert_non_null(find(l, &second, second.key, 500));
    assert_non_null(find(l, &more, more.key, 500));
    logins_free(l);
}

/* An empty place has a hash of zeros, which is that of nothing that can be sent. */
static void nothing_fits_an_empty_place(void **state)
{
    (void)state;
    struct logins *l = logins_new();
    assert_null(logins_find(l, "b=; b=0", "b", "", 0));
    logins_free(l);
}

static void wrong_tokens_are_counted_and_forgotten(void **state)
{
    (void)state;
    struct logins *l = logins_new();
    for (int i = 0; i < BG_GATEWAY_LOGIN_TRIES_MAX; i++) {
        assert_true(logins_may_try(l, 5000));
        logins_failed(l, 5000);
    }
    assert_false(logins_may_try(l, 5000));
    assert_true(logins_may_try(l, 5000 + BG_GATEWAY_LOGIN_TRY_MS + 1));
    logins_free(l);
}

static void cookies_are_found_by_their_whole_name(void **state)
{
    (void)state;
    static const struct {
        const char *field, *values;
    } cases[] = {
        {"", ""},          {"a=1", "1,"}, {"aa=1; a=2;a=3", "2,3,"}, {"b=1; xa=2", ""},
        {"a", ""},         {"a=", ","},   {"; ;a=1 ;", "1,"},        {"a =1", ""},
        {"a=x=y", "x=y,"}, {"A=1", ""},   {"a=1,a=2", "1,a=2,"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char got[64] = "";
        const char *at = cases[i].field, *value;
        for (size_t size; logins_next_cookie(&at, "a", &value, &size);) {
            size_t used = strlen(got);
            (void)snprintf(got + used, sizeof got - used, "%.*s,", (int)size, value);
        }
        assert_string_equal(got, cases[i].values);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_secrets_are_needed_and_they_end),
        cmocka_unit_test(one_too_many_takes_the_oldest_place),
        cmocka_unit_test(nothing_fits_an_empty_place),
        cmocka_unit_test(wrong_tokens_are_counted_and_forgotten),
        cmocka_unit_test(cookies_are_found_by_their_whole_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
