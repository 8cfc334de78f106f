/* share_spec: what --mount and share take, and which folders are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/limits.h"
#include "host/cli/share_spec.h"

static void takes_its_parts_apart(void **state)
{
    (void)state;
    static const struct {
        const char *text, *dir, *guest;
        enum bg_share_mode mode;
    } rows[] = {
        {"src", "src", NULL, BG_SHARE_RW},
        {"src:ro", "src", NULL, BG_SHARE_RO},
        {"src:rw", "src", NULL, BG_SHARE_RW},
        {"src:cow", "src", NULL, BG_SHARE_COW},
        {"/a:/x:cow", "/a", "/x", BG_SHARE_COW},
        {"/a b/c:/x", "/a b/c", "/x", BG_SHARE_RW},
        {"/a:/x//y/./z/:ro", "/a", "/x/y/z", BG_SHARE_RO},
        {"/a:b:/x", "/a:b", "/x", BG_SHARE_RW},
        {"./a:/x:rw", "./a", "/x", BG_SHARE_RW},
        {"/:/host:ro", "/", "/host", BG_SHARE_RO},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct share_spec spec;
        struct bg_err err;
        if (share_spec_parse(rows[i].text, &spec, &err) < 0)
            fail_msg("%s: %s", rows[i].text, err.text);
        assert_string_equal(spec.dir, rows[i].dir);
        assert_int_equal(spec.guest != NULL, rows[i].guest != NULL);
        if (spec.guest)
            assert_string_equal(spec.guest, rows[i].guest);
        assert_int_equal(spec.mode, rows[i].mode);
        share_spec_done(&spec);
    }
}

static void refuses_what_it_cannot_mean(void **state)
{
    (void)state;
    static const struct {
        const char *text, *word;
    } rows[] = {
        {"", "no folder"},
        {":ro", "no folder"},
        {":/x", "no folder"},
        {"/a:x", "GUESTDIR"},
        {"/a:/x:RO", "GUESTDIR"},
        {"/a:/x/../y", "'..'"},
        {"/a:/", "root"},
        {"/a://./", "root"},
        {"/a:/proc", "needs that place"},
        {"/a:/sys/x", "needs"},
        {"/a:/dev/shm", "needs"},
        {"/a:/run/bellglass/x", "needs"},
        {"/a:/var/lib/bellglass/cow/1", "needs"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct share_spec spec;
        struct bg_err err;
        assert_int_equal(share_spec_parse(rows[i].text, &spec, &err), -EINVAL);
        if (!strstr(err.text, rows[i].word))
            fail_msg("%s: %s", rows[i].text, err.text);
    }
    char *guest;
    char longest[BG_PATH_MAX + 1];
    memset(longest, 'a', sizeof longest);
    longest[0] = '/';
    longest[BG_PATH_MAX] = '\0';
    assert_int_equal(share_spec_guest(longest, &guest, NULL), -EINVAL);
    longest[BG_PATH_MAX - 1] = '\0';
    assert_int_equal(share_spec_guest(longest, &guest, NULL), 0);
    free(guest);
    assert_int_equal(share_spec_guest("/run/bellglasses", &guest, NULL), 0);
    free(guest);
}

static void some_folders_hold_too_much(void **state)
{
    (void)state;
    const struct share_places places = {.home = "/home/u",
                                        .data = "/home/u/.local/share/bellglass",
                                        .state = "/var/lib/bellglass",
                                        .runtime = "/tmp/bellglass-1000"};
    static const char *const bad[] = {"/",
                                      "/home",
                                      "/home/u",
                                      "/home/u/.local",
                                      "/home/u/.local/share/bellglass",
                                      "/home/u/.local/share/bellglass/secrets",
                                      "/var",
                                      "/var/lib/bellglass/sandboxes/x",
                                      "/tmp",
                                      "/proc",
                                      "/proc/1",
                                      "/sys",
                                      "/dev/shm",
                                      "/run/user/1000"};
    static const char *const good[] = {
        "/home/u/src", "/home/u/.local/share/bellglass2", "/srv", "/home/uu", "/devel", "/tmp/x"};
    struct bg_err err;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (share_spec_allowed(bad[i], &places, &err) != -EPERM)
            fail_msg("%s is taken", bad[i]);
        assert_non_null(strstr(err.text, "--share-anyway"));
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (share_spec_allowed(good[i], &places, &err) != 0)
            fail_msg("%s", err.text);
    assert_int_equal(share_spec_allowed("/home/u", &(struct share_places){0}, &err), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_its_parts_apart),
        cmocka_unit_test(refuses_what_it_cannot_mean),
        cmocka_unit_test(some_folders_hold_too_much),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
