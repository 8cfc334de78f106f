/* Files of git's with a path in them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/limits.h"
#include "fs/relay/view.h"

static const char *shown(enum guard_class class, bool whole, const char *text)
{
    static uint8_t *last;
    static char out[8192];
    size_t size, dropped;
    struct fs_view_opts opts = {.class = class, .depth = 2, .whole = whole};
    int r = fs_view_make(&opts, (const uint8_t *)text, strlen(text), &last, &size, &dropped, NULL);
    if (r < 0)
        return r == -EPERM ? "EPERM" : r == -EPROTO ? "EPROTO" : r == -E2BIG ? "E2BIG" : "?";
    assert_true(size < sizeof out);
    if (size > 0)
        memcpy(out, last, size);
    out[size] = '\0';
    free(last);
    return out;
}

static void paths_stay_inside(void **state)
{
    (void)state;
    static const struct {
        enum guard_class class;
        bool whole;
        const char *text, *want;
    } rows[] = {
        {GUARD_GIT, false, "gitdir: ../x/.git\n", "gitdir: ../x/.git\n"},
        {GUARD_GIT, false, "gitdir: ../../x", "gitdir: ../../x\n"},
        {GUARD_GIT, false, "gitdir: ../../../x\n", "EPERM"},
        {GUARD_GIT, false, "gitdir: a/../../../..\n", "EPERM"},
        {GUARD_GIT, false, "gitdir: /x\n", "EPERM"},
        {GUARD_GIT, true, "gitdir: /home/x/.git\n", "gitdir: ../../home/x/.git\n"},
        {GUARD_GIT, false, "gitdir: \n", "EPROTO"},
        {GUARD_GIT, false, "gitdir: ", "EPROTO"},
        {GUARD_GIT, false, "", "EPROTO"},
        {GUARD_GIT, false, "../x\n", "EPROTO"},
        {GUARD_GIT, false, "gitdir: a\ngitdir: b\n", "EPERM"},
        {GUARD_POINTER, false, "../..\n", "../..\n"},
        {GUARD_POINTER, false, "../../..\n", "EPERM"},
        {GUARD_POINTER, false, "\n", "EPROTO"},
        {GUARD_POINTER, false, "a\x1b[2J\n", "EPERM"},
        {GUARD_POINTERS, false, "", ""},
        {GUARD_POINTERS, false, "../a\n# x\n\n../../b\n/c\n\"d\"\ne", "../a\ne\n"},
        {GUARD_POINTERS, true, "/c\n", "../c\n"},
        {GUARD_POINTERS, false, "./#x\n", "./#x\n"},
        {GUARD_CONFIG, false, "[core]\nbare = true\npager = x\n", "[core]\n\tbare = \"true\"\n"},
        {GUARD_CONFIG, false, "[core\n", "EPROTO"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(shown(rows[i].class, rows[i].whole, rows[i].text), rows[i].want) != 0)
            fail_msg("%s: %s", rows[i].text, shown(rows[i].class, rows[i].whole, rows[i].text));
}

static void a_path_does_not_become_a_comment(void **state)
{
    (void)state;
    struct fs_view_opts opts = {.class = GUARD_POINTERS, .depth = 1, .whole = true};
    uint8_t *out;
    size_t size, dropped;
    assert_int_equal(
        fs_view_make(&opts, (const uint8_t *)"/#x\n/y\n", 7, &out, &size, &dropped, NULL), 0);
    assert_int_equal(dropped, 1);
    assert_int_equal(size, 2);
    assert_memory_equal(out, "y\n", 2);
    free(out);
}

static void many_paths_are_refused(void **state)
{
    (void)state;
    size_t size = BG_PATH_MAX * 16;
    char *text = calloc(1, size + 2);
    assert_non_null(text);
    for (size_t i = 0; i + 1 < size; i += 2)
        memcpy(text + i, "a\n", 2);
    uint8_t *out;
    size_t out_size, dropped;
    struct fs_view_opts opts = {.class = GUARD_POINTERS, .depth = 2};
    assert_int_equal(
        fs_view_make(&opts, (const uint8_t *)text, size, &out, &out_size, &dropped, NULL), 0);
    assert_int_equal(out_size, size);
    free(out);
    text[size] = 'a';
    assert_string_equal(shown(GUARD_POINTERS, false, text), "E2BIG");
    free(text);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_stay_inside),
        cmocka_unit_test(a_path_does_not_become_a_comment),
        cmocka_unit_test(many_paths_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
