#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/bytes.h"
#include "guest/identity.h"

static struct env applied(uint32_t flags, const char *entry, struct env env)
{
    uint8_t blobs[64];
    struct bg_err err;
    struct bg_writer w = bg_writer_init(blobs, sizeof blobs);
    if (entry)
        bg_writer_text32le(&w, entry);
    struct bg_identity identity = {
        .flags = flags, .env = blobs, .env_size = w.used, .envc = entry != NULL};
    assert_int_equal(identity_apply(&identity, /* whole_machine= */ false, &env, &err), 0);
    return env;
}

static void an_identity_sets_the_environment_of_commands(void **state)
{
    (void)state;
    struct env env = applied(0, "A=b", (struct env){0});
    assert_string_equal(env_get(&env, "A"), "b");
    env = applied(BG_IDENTITY_AGAIN, "C=d", env);
    assert_null(env_get(&env, "A"));
    assert_string_equal(env_get(&env, "C"), "d");
    env_done(&env);
}

/* After a snapshot of a running guest nothing but the clock and entropy comes: its placeholders
 * were lost then. */
static void one_that_goes_on_keeps_its_environment(void **state)
{
    (void)state;
    struct env env = applied(0, "A=b", (struct env){0});
    env = applied(BG_IDENTITY_CONTINUE, NULL, env);
    assert_string_equal(env_get(&env, "A"), "b");
    env_done(&env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_identity_sets_the_environment_of_commands),
        cmocka_unit_test(one_that_goes_on_keeps_its_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
