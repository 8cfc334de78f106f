#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/limits.h"
#include "net/locked.h"
#include "net/secrets_file.h"

struct file {
    char path[64];
    struct secrets_file file;
    struct bg_err err;
};

static int set_up(void **state)
{
    struct file *f = calloc(1, sizeof *f);
    (void)snprintf(f->path, sizeof f->path, "/tmp/bellglass-secrets-XXXXXX");
    int fd = mkstemp(f->path);
    *state = f;
    return close(fd);
}

static int tear_down(void **state)
{
    struct file *f = *state;
    secrets_file_close(&f->file);
    int r = unlink(f->path);
    free(f);
    return r;
}

static int open_text(struct file *f, const void *text, size_t size)
{
    FILE *out = fopen(f->path, "we");
    assert_non_null(out);
    assert_int_equal(fwrite(text, 1, size, out), size);
    assert_int_equal(fclose(out), 0);
    secrets_file_close(&f->file);
    memset(&f->err, 0, sizeof f->err);
    return secrets_file_open(f->path, &f->file, NULL, &f->err);
}

static void check_value(const struct file *f, const char *name, const char *want)
{
    void *value;
    size_t size;
    int r = secrets_file_get(&f->file, name, &value, &size);
    assert_int_equal(r, want ? 0 : -ENOENT);
    if (!want)
        return;
    assert_int_equal(size, strlen(want));
    assert_memory_equal(value, want, size);
    locked_free(value, size);
}

static void gives_values_by_name(void **state)
{
    struct file *f = *state;
    static const char text[] = "# B=comment\n\nA=1\nB= two = 2 \nAB=\"q\"\n#C=4\nLAST=x";
    assert_int_equal(open_text(f, text, sizeof text - 1), 0);
    check_value(f, "A", "1");
    check_value(f, "B", " two = 2 ");
    check_value(f, "AB", "\"q\"");
    check_value(f, "LAST", "x");
    check_value(f, "C", NULL);
    check_value(f, "#C", NULL);
    check_value(f, "", NULL);
    check_value(f, "LAS", NULL);
    assert_int_equal(open_text(f, "", 0), 0);
    check_value(f, "A", NULL);
}

static void names_the_line_and_no_value(void **state)
{
    struct file *f = *state;
    static const struct {
        const char *text;
        size_t size;
        const char *error;
    } rows[] = {
#define ROW(text, error) {(text), sizeof(text) - 1, (error)}
        ROW("A=1\nhidden\n", "line 2: want NAME=VALUE"),
        ROW("=hidden", "line 1: want NAME=VALUE, a name"),
        ROW("\nA B=hidden", "line 2: want NAME=VALUE, a name"),
        ROW("export A=hidden", "line 1: want NAME=VALUE, a name"),
        ROW("1A=hidden", "line 1: want NAME=VALUE, a name"),
        ROW(" A=hidden", "line 1: want NAME=VALUE, a name"),
        ROW("A\0B=hidden", "line 1: want NAME=VALUE, a name"),
        ROW("A=\n", "line 1: A: the value is empty"),
        ROW("A=hidden\r\n", "line 1: A: the value has a line break"),
        ROW("A=hid\0den\n", "line 1: A: the value has a line break or a NUL"),
        ROW("A=hidden\n# x\nB=hidden\nA=hidden\n", "line 4: A is in line 1 already"),
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(open_text(f, rows[i].text, rows[i].size), -EINVAL);
        if (!strstr(f->err.text, rows[i].error) || !strstr(f->err.text, f->path) ||
            strstr(f->err.text, "hid"))
            fail_msg("row %zu: %s", i, f->err.text);
    }
}

static void bounds_names_values_and_the_whole(void **state)
{
    struct file *f = *state;
    static char text[BG_SECRETS_FILE_MAX + 1];
    memset(text, 'a', sizeof text);
    assert_int_equal(open_text(f, text, sizeof text), -EFBIG);
    assert_int_equal(open_text(f, text, 200), -EINVAL);
    for (size_t size = 128; size <= 131; size++) {
        text[size] = '=';
        assert_int_equal(open_text(f, text, size + 2), size == 128 ? 0 : -EINVAL);
        text[size] = 'a';
    }
    text[1] = '=';
    assert_int_equal(open_text(f, text, 2 + BG_SECRET_SIZE_MAX), 0);
    assert_int_equal(open_text(f, text, 3 + BG_SECRET_SIZE_MAX), -EINVAL);
}

static void is_for_its_owner_only(void **state)
{
    struct file *f = *state;
    static const mode_t modes[] = {0601, 0620, 0640, 0604, 0777};
    assert_int_equal(open_text(f, "A=1\n", 4), 0);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        assert_int_equal(chmod(f->path, modes[i]), 0);
        struct secrets_file file;
        assert_int_equal(secrets_file_open(f->path, &file, NULL, &f->err), -EPERM);
        assert_non_null(strstr(f->err.text, "chmod 600"));
    }
    struct secrets_file file;
    assert_int_equal(secrets_file_open("/dev/null", &file, NULL, &f->err), -EPERM);
    assert_int_equal(secrets_file_open("/nowhere/at/all", &file, NULL, &f->err), -ENOENT);
    assert_int_equal(chmod(f->path, 0600), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(gives_values_by_name, set_up, tear_down),
        cmocka_unit_test_setup_teardown(names_the_line_and_no_value, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bounds_names_values_and_the_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(is_for_its_owner_only, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("net-secrets-file", tests, NULL, NULL);
}
