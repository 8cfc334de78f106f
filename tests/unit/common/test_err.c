#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/err.h"

static void set_returns_the_code_and_keeps_the_text(void **state)
{
    (void)state;
    struct bg_err err = {0};
    assert_int_equal(bg_err_set(&err, -EPROTO, "beat of %d bytes", 7), -EPROTO);
    assert_int_equal(err.code, -EPROTO);
    assert_string_equal(err.text, "beat of 7 bytes");
}

static void errno_adds_what_the_system_says(void **state)
{
    (void)state;
    struct bg_err err = {0};
    assert_int_equal(bg_err_errno(&err, -ENOENT, "disk '%s'", "a.qcow2"), -ENOENT);
    assert_string_equal(err.text, "disk 'a.qcow2': No such file or directory");
}

static void prefixes_read_outside_in(void **state)
{
    (void)state;
    struct bg_err err = {0};
    (void)bg_err_set(&err, -EBUSY, "locked by pid %d", 812);
    assert_int_equal(bg_err_prefix(&err, "disk '%s'", "a.qcow2"), -EBUSY);
    assert_int_equal(bg_err_prefix(&err, "vm 'web'"), -EBUSY);
    assert_string_equal(err.text, "vm 'web': disk 'a.qcow2': locked by pid 812");
}

static void works_without_an_error_object(void **state)
{
    (void)state;
    assert_int_equal(bg_err_set(NULL, -EIO, "x"), -EIO);
    assert_int_equal(bg_err_errno(NULL, -EIO, "x"), -EIO);
    assert_int_equal(bg_err_prefix(NULL, "x"), 0);
}

static void long_texts_are_cut_within_the_object(void **state)
{
    (void)state;
    char name[2 * BG_ERR_TEXT_SIZE];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    struct {
        struct bg_err err;
        char after[8];
    } box = {.after = "guard!!"};
    (void)bg_err_set(&box.err, -EIO, "%s", name);
    assert_int_equal(strlen(box.err.text), BG_ERR_TEXT_SIZE - 1);
    (void)bg_err_errno(&box.err, -EIO, "%s", name);
    assert_int_equal(strlen(box.err.text), BG_ERR_TEXT_SIZE - 1);
    (void)bg_err_prefix(&box.err, "%s", "front");
    assert_int_equal(strlen(box.err.text), BG_ERR_TEXT_SIZE - 1);
    assert_memory_equal(box.err.text, "front: nnn", 10);
    (void)bg_err_prefix(&box.err, "%s", name);
    assert_int_equal(strlen(box.err.text), BG_ERR_TEXT_SIZE - 1);
    assert_string_equal(box.after, "guard!!");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_returns_the_code_and_keeps_the_text),
        cmocka_unit_test(errno_adds_what_the_system_says),
        cmocka_unit_test(prefixes_read_outside_in),
        cmocka_unit_test(works_without_an_error_object),
        cmocka_unit_test(long_texts_are_cut_within_the_object),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
