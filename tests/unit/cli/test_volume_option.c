/* volume_option: what --volume takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/limits.h"
#include "host/cli/volume_option.h"

static void takes_its_parts_apart(void **state)
{
    (void)state;
    static const char *const rows[][3] = {
        {"cache:/data", "cache", "/data"},
        {"vol_0:/a//b/./c/", "vol_0", "/a/b/c"},
        {"x:/with:colon", "x", "/with:colon"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *name = NULL, *path = NULL;
        struct bg_err err = {0};
        if (volume_option_parse(rows[i][0], &name, &path, &err) < 0)
            fail_msg("%s: %s", rows[i][0], err.text);
        assert_string_equal(name, rows[i][1]);
        assert_string_equal(path, rows[i][2]);
        free(name);
        free(path);
    }
}

static void refuses_what_it_cannot_mean(void **state)
{
    (void)state;
    static const char *const rows[] = {
        "",        ":",           "cache",       ":/data", "cache:", "cache:x", "cache:/a/../b",
        "cache:/", "cache:/proc", "cache:/dev/x"};
    char *name = NULL, *path = NULL, text[BG_VOLUME_PATH_MAX + 16];
    struct bg_err err;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(volume_option_parse(rows[i], &name, &path, &err), -EINVAL);
    memset(text, 'x', sizeof text);
    memcpy(text, "c:/", 3);
    text[2 + BG_VOLUME_PATH_MAX] = '\0';
    assert_int_equal(volume_option_parse(text, &name, &path, &err), 0);
    free(name);
    free(path);
    name = path = NULL;
    text[2 + BG_VOLUME_PATH_MAX] = 'x';
    text[3 + BG_VOLUME_PATH_MAX] = '\0';
    assert_int_equal(volume_option_parse(text, &name, &path, &err), -EINVAL);
    assert_null(name);
    assert_null(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_its_parts_apart),
        cmocka_unit_test(refuses_what_it_cannot_mean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
