/* Patches: what git would take, and what a terminal may get. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "host/changes/patch.h"

static char *patch_of(const char *path, const char *before, const char *after, bool escape)
{
    struct patch_opts opts = {.path = path, .escape = escape};
    if (before)
        opts.before = (struct patch_side){
            .there = true, .mode = 0100644, .bytes = before, .size = strlen(before)};
    if (after)
        opts.after = (struct patch_side){
            .there = true, .mode = 0100644, .bytes = after, .size = strlen(after)};
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    struct bg_err err = {0};
    assert_non_null(out);
    if (patch_write(out, &opts, &err) < 0)
        fail_msg("%s", err.text);
    (void)fclose(out); /* memory */
    return text;
}

static void expect(const char *path, const char *before, const char *after, bool escape,
                   const char *expected)
{
    char *text = patch_of(path, before, after, escape);
    assert_string_equal(text, expected);
    free(text);
}

static void patches_are_git_s(void **state)
{
    (void)state;
    expect("a", "1\n2\n3\n", "1\nII\n3\n", false,
           "diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1,3 +1,3 @@\n 1\n-2\n+II\n 3\n");
    expect("a", NULL, "1\n", false,
           "diff --git a/a b/a\nnew file mode 100644\n--- /dev/null\n+++ b/a\n@@ -0,0 +1 @@\n+1\n");
    expect("a", "1\n", NULL, false,
           "diff --git a/a b/a\ndeleted file mode 100644\n--- a/a\n+++ /dev/null\n@@ -1 +0,0 "
           "@@\n-1\n");
    expect("a", "1", "1\n", false,
           "diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-1\n\\ No newline at end of "
           "file\n+1\n");
    expect("a", NULL, "", false, "diff --git a/a b/a\nnew file mode 100644\n");
    expect("a", "same\n", "same\n", false, "diff --git a/a b/a\n");
    expect("odd \"\n\xc3\xa4", NULL, "", false,
           "diff --git \"a/odd \\\"\\012\\303\\244\" \"b/odd \\\"\\012\\303\\244\"\nnew file mode "
           "100644\n");
}

static void binaries_are_told_by_hash(void **state)
{
    (void)state;
    struct patch_opts opts = {
        .path = "b",
        .before = {.there = true, .mode = 0100644, .bytes = "a\0b", .size = 3},
        .after = {.there = true, .mode = 0100755, .bytes = NULL, .size = 5000000}};
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    assert_int_equal(patch_write(out, &opts, NULL), 0);
    (void)fclose(out); /* memory */
    assert_non_null(strstr(text, "old mode 100644\nnew mode 100755\n"));
    assert_non_null(strstr(text, "Binary files a/b and b/b differ\n"));
    assert_non_null(strstr(text, "# after: 5000000 bytes, sha256 0000"));
    free(text);
}

static void a_terminal_gets_nothing_that_moves_it(void **state)
{
    (void)state;
    static const char evil[] = "\x1b[2Jx\r\x9b\xc2\x9b\xe2\x80\xaey\t\xc3\xa4\n";
    char *text = patch_of("a", NULL, evil, true);
    assert_non_null(strstr(text, "+\\x1b[2Jx\\x0d\\x9b\\xc2\\x9b\\xe2\\x80\\xaey\t\xc3\xa4\n"));
    free(text);
    text = patch_of("a", NULL, evil, false);
    assert_non_null(strstr(text, evil));
    free(text);
}

static void names_are_one_line(void **state)
{
    (void)state;
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    patch_name(out, "a\nb\tc\\d\x1b\xe2\x80\xae");
    (void)fclose(out); /* memory */
    assert_string_equal(text, "a\\x0ab\\x09c\\\\d\\x1b\\xe2\\x80\\xae");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patches_are_git_s),
        cmocka_unit_test(binaries_are_told_by_hash),
        cmocka_unit_test(a_terminal_gets_nothing_that_moves_it),
        cmocka_unit_test(names_are_one_line),
    };
    return cmocka_run_group_tests_name("patch", tests, NULL, NULL);
}
