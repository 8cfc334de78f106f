#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"
#include "guest/trust.h"

struct fixture {
    char dir[64], file[96], bundle[96], keystore[96];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/bg-test-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->file, sizeof f->file, "%s/ours.crt", f->dir);
    (void)snprintf(f->bundle, sizeof f->bundle, "%s/bundle.crt", f->dir);
    (void)snprintf(f->keystore, sizeof f->keystore, "%s/cacerts", f->dir);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    (void)unlink(f->file);
    (void)unlink(f->bundle);
    (void)unlink(f->keystore);
    assert_int_equal(rmdir(f->dir), 0);
    free(f);
    return 0;
}

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(bg_write_full(fd, text, strlen(text)), 0);
    (void)close(fd);
}

static void check(const char *path, const char *want)
{
    char *text;
    size_t size;
    assert_int_equal(bg_read_file(AT_FDCWD, path, 1 << 20, &text, &size, NULL), 0);
    assert_string_equal(text, want);
    free(text);
}

static void trust(const struct fixture *f, const char *pem)
{
    struct bg_err err;
    const struct trust_paths paths = {
        .file = f->file, .bundle = f->bundle, .keystore = f->keystore};
    assert_int_equal(trust_certificate(&paths, (const uint8_t *)pem, strlen(pem), &err), 0);
    check(f->file, pem);
}

static void adds_it_once(void **state)
{
    const struct fixture *f = *state;
    put(f->bundle, "others");
    trust(f, "ours\n");
    check(f->bundle, "others\nours\n");
    trust(f, "ours\n");
    check(f->bundle, "others\nours\n");
    assert_int_equal(unlink(f->file), 0); /* it ended before it could say so */
    trust(f, "ours\n");
    check(f->bundle, "others\nours\n");
}

static void makes_a_bundle(void **state)
{
    const struct fixture *f = *state;
    trust(f, "ours\n");
    check(f->bundle, "ours\n");
}

static void takes_the_one_before_out(void **state)
{
    const struct fixture *f = *state;
    put(f->bundle, "first\n");
    trust(f, "old\n");
    put(f->bundle, "first\nold\nlast\n"); /* somebody else added one */
    trust(f, "newer\n");
    check(f->bundle, "first\n\n\n\n\nlast\nnewer\n");
    trust(f, "old\n"); /* back, as after a restore */
    check(f->bundle, "first\n\n\n\n\nlast\n\n\n\n\n\n\nold\n");
}

static void goes_on_without_the_one_before(void **state)
{
    const struct fixture *f = *state;
    put(f->bundle, "first\n");
    put(f->file, ""); /* cut short */
    trust(f, "ours\n");
    check(f->bundle, "first\nours\n");
    put(f->bundle, "made anew\n");
    trust(f, "newer\n");
    check(f->bundle, "made anew\nnewer\n");
}

static void replaces_javas_store_whole(void **state)
{
    /* An empty one: its digest is from another program. */
    static const uint8_t empty[] = {0xfe, 0xed, 0xfe, 0xed, 0x00, 0x00, 0x00, 0x02,
                                    0x00, 0x00, 0x00, 0x00, 0xe2, 0x68, 0x6e, 0x45,
                                    0xfb, 0x43, 0xdf, 0xa4, 0xd9, 0x92, 0xdd, 0x41,
                                    0xce, 0xb6, 0xb2, 0x1c, 0x63, 0x30, 0xd7, 0x92};
    static const char pem[] = "-----BEGIN CERTIFICATE-----\nZGVyIQ==\n-----END CERTIFICATE-----\n";
    const struct fixture *f = *state;
    char *store;
    size_t size;
    int fd = open(f->keystore, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_int_equal(bg_write_full(fd, empty, sizeof empty), 0);
    (void)close(fd);
    trust(f, pem);
    assert_int_equal(bg_read_file(AT_FDCWD, f->keystore, 1 << 20, &store, &size, NULL), 0);
    assert_int_equal(store[11], 1); /* entries */
    assert_non_null(memmem(store, size, "der!", 4));
    free(store);
    /* One that is something else stays. */
    put(f->keystore, "PKCS#12");
    trust(f, "other\n");
    check(f->keystore, "PKCS#12");
}

static void tells_what_it_cannot_write(void **state)
{
    const struct fixture *f = *state;
    struct bg_err err;
    char nowhere[128];
    (void)snprintf(nowhere, sizeof nowhere, "%s/no/bundle", f->dir);
    const struct trust_paths paths = {.file = f->file, .bundle = nowhere, .keystore = f->keystore};
    assert_int_equal(trust_certificate(&paths, (const uint8_t *)"x", 1, &err), -ENOENT);
    assert_non_null(strstr(err.text, nowhere));
    assert_int_equal(access(f->file, F_OK), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(adds_it_once, setup, teardown),
        cmocka_unit_test_setup_teardown(makes_a_bundle, setup, teardown),
        cmocka_unit_test_setup_teardown(takes_the_one_before_out, setup, teardown),
        cmocka_unit_test_setup_teardown(goes_on_without_the_one_before, setup, teardown),
        cmocka_unit_test_setup_teardown(replaces_javas_store_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(tells_what_it_cannot_write, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
