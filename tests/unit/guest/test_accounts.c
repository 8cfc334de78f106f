/* guest/accounts and guest/env: users from hostile files, environments from lists. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guest/accounts.h"
#include "guest/env.h"

static const char passwd[] = "root:x:0:0:root:/root:/bin/bash\n"
                             "# a comment\n"
                             "\n"
                             "short:x:5\n"
                             "bad:x:nan:1::/:/bin/sh\n"
                             "huge:x:4294967295:1::/:/bin/sh\n"
                             "bad:x:7:7::/home/bad:/bin/bad\n"
                             "relative:x:8:8::home:sh\n"
                             "user:x:1000:1000:A User,,,:/home/user:/bin/zsh\n"
                             "other:x:1000:1001::/home/other:\n"
                             "last:x:1002:1002::/home/last:/bin/sh";
static const char group[] = "root:x:0:user\n"
                            "sudo:x:27:other,user\n"
                            "user:x:1000:user\n"
                            "bad:x:nan:user\n"
                            "xuser:x:44:xuser,userx\n"
                            "empty:x:45:\n"
                            "last:x:46:,user,";

static struct account *find(const char *text, const char *user, int want)
{
    static struct account account;
    struct bg_err err = {0};
    assert_int_equal(account_find(text, group, user, &account, &err), want);
    return &account;
}

static void finds_users_by_name_and_number(void **state)
{
    (void)state;
    struct account *a = find(passwd, "user", 0);
    assert_string_equal(a->name, "user");
    assert_int_equal(a->uid, 1000);
    assert_int_equal(a->gid, 1000);
    assert_string_equal(a->home, "/home/user");
    assert_string_equal(a->shell, "/bin/zsh");
    assert_int_equal(a->group_count, 3); /* root, sudo, last; its own is not repeated */
    assert_int_equal(a->groups[0], 0);
    assert_int_equal(a->groups[1], 27);
    assert_int_equal(a->groups[2], 46);
    assert_string_equal(find(passwd, "0", 0)->name, "root");
    assert_string_equal(find(passwd, "1002", 0)->home, "/home/last");
    assert_string_equal(find(passwd, "other", 0)->shell, "/bin/sh");
    assert_string_equal(find(passwd, "relative", 0)->home, "/");
}

static void passes_over_malformed_lines(void **state)
{
    (void)state;
    assert_int_equal(find(passwd, "bad", 0)->uid, 7);
    (void)find(passwd, "short", -ESRCH);
    (void)find(passwd, "huge", -ESRCH);
    (void)find(passwd, "4294967295", -ESRCH);
    (void)find(passwd, "nobody", -ESRCH);
    (void)find(passwd, "# a comment", -ESRCH);
    (void)find(passwd, "user:x", -ESRCH);
    (void)find("", "user", -ESRCH);
    char text[BG_PATH_MAX + 64];
    memset(text, 'p', sizeof text);
    memcpy(text, "long:x:1:1::/", 13); /* a home that is too long */
    text[sizeof text - 1] = '\0';
    (void)find(text, "long", -ESRCH);
}

static void chooses_a_default(void **state)
{
    (void)state;
    assert_string_equal(find(passwd, "", 0)->name, "user");
    assert_string_equal(find("app:x:7:7::/srv:/bin/sh\nu:x:1000:1::/:/x\n", "", 0)->name, "app");
    assert_string_equal(find("root:x:0:0::/r:/bin/sh\n", "", 0)->home, "/r");
    struct account *a = find("", "", 0);
    assert_string_equal(a->name, "root");
    assert_int_equal(a->uid, 0);
    assert_string_equal(a->home, "/");
}

static void groups_are_bounded(void **state)
{
    (void)state;
    static char many[64 * 1024];
    size_t used = 0;
    for (int i = 0; i < 2 * BG_AGENT_GROUPS_MAX; i++)
        used += (size_t)snprintf(many + used, sizeof many - used, "g%d:x:%d:user\n", i, 5000 + i);
    static struct account account;
    assert_int_equal(account_find(passwd, many, "user", &account, NULL), 0);
    assert_int_equal(account.group_count, BG_AGENT_GROUPS_MAX);
}

static void later_settings_win(void **state)
{
    (void)state;
    struct env env = {0}, more = {0};
    assert_int_equal(env_set(&env, "A", "1"), 0);
    assert_int_equal(env_set(&env, "AB", "2"), 0);
    assert_int_equal(env_set(&more, "A", "3"), 0);
    assert_int_equal(env_put(&more, "C=x=y tail", 5), 0);
    assert_int_equal(env_put_all(&env, &more), 0);
    assert_int_equal(env.count, 3);
    assert_string_equal(env_get(&env, "A"), "3");
    assert_string_equal(env_get(&env, "AB"), "2");
    assert_string_equal(env_get(&env, "C"), "x=y");
    assert_null(env_get(&env, "X"));
    assert_null(env.entries[3]);
    /* What means nothing is left out. */
    assert_int_equal(env_put(&env, "=x", 2), 0);
    assert_int_equal(env_put(&env, "novalue", 7), 0);
    assert_int_equal(env_put(&env, "", 0), 0);
    assert_int_equal(env.count, 3);
    for (int i = 0; i < 1000; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "N%d", i);
        assert_int_equal(env_set(&env, name, "v"), 0);
    }
    assert_int_equal(env.count, 1003);
    env_done(&env);
    env_done(&more);
}

static void blobs_are_checked(void **state)
{
    (void)state;
    struct env env = {0};
    static const uint8_t good[] = {3, 0, 0, 0, 'A', '=', '1', 3, 0, 0, 0, 'B', '=', '2'};
    assert_int_equal(env_put_blobs(&env, good, sizeof good, 2), 0);
    assert_string_equal(env_get(&env, "B"), "2");
    for (size_t size = 0; size < sizeof good; size++)
        assert_int_equal(env_put_blobs(&env, good, size, 2), -EPROTO);
    env_done(&env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_users_by_name_and_number),
        cmocka_unit_test(passes_over_malformed_lines),
        cmocka_unit_test(chooses_a_default),
        cmocka_unit_test(groups_are_bounded),
        cmocka_unit_test(later_settings_win),
        cmocka_unit_test(blobs_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
