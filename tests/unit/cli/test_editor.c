#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "host/cli/editor.h"

static const struct editor_opts plain = {.code = "/usr/bin/code",
                                         .editor = "vi",
                                         .host = "web.bellglass",
                                         .folder = "/run/mounts/web",
                                         .home = "/home/app"};

static void expect(const struct editor_opts *opts, bool on_mount, const char *const *words)
{
    struct editor_plan plan;
    assert_int_equal(editor_plan(opts, &plan, NULL), 0);
    assert_int_equal(plan.on_mount, on_mount);
    size_t i = 0;
    for (; words[i]; i++)
        assert_string_equal(plan.argv[i], words[i]);
    assert_null(plan.argv[i]);
    editor_plan_done(&plan);
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void vs_code_goes_by_ssh_unless_told_otherwise(void **state)
{
    (void)state;
    struct editor_opts o = plain;
    expect(&o, false, WORDS("/usr/bin/code", "--remote", "ssh-remote+web.bellglass"));
    o.path = "/srv/a b";
    expect(&o, false, WORDS("/usr/bin/code", "--remote", "ssh-remote+web.bellglass", "/srv/a b"));
    o.mount = true;
    expect(&o, true, WORDS("/usr/bin/code", "/run/mounts/web/srv/a b"));
    o.path = NULL;
    expect(&o, true, WORDS("/usr/bin/code", "/run/mounts/web/home/app"));
}

static void another_editor_opens_the_mount(void **state)
{
    (void)state;
    struct editor_opts o = plain;
    o.code = NULL;
    o.editor = "emacs -nw";
    o.path = "/etc/it's";
    expect(&o, true,
           WORDS("/bin/sh", "-c", "emacs -nw \"$@\"", "emacs -nw", "/run/mounts/web/etc/it's"));
}

static void what_cannot_be_opened_is_refused(void **state)
{
    (void)state;
    struct editor_opts o = plain;
    struct editor_plan plan;
    struct bg_err err;
    o.path = "relative";
    assert_int_equal(editor_plan(&o, &plan, &err), -EINVAL);
    o.path = "";
    assert_int_equal(editor_plan(&o, &plan, &err), -EINVAL);
    o.path = NULL;
    o.code = o.editor = NULL;
    assert_int_equal(editor_plan(&o, &plan, &err), -ENOENT);
    assert_non_null(strstr(err.text, "$EDITOR"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vs_code_goes_by_ssh_unless_told_otherwise),
        cmocka_unit_test(another_editor_opens_the_mount),
        cmocka_unit_test(what_cannot_be_opened_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
