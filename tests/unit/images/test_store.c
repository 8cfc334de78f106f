#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "common/io.h"
#include "images/store.h"

#define DIGEST_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define DIGEST_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

struct fixture {
    char home[32];
    struct bg_paths paths;
    struct store store;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    (void)snprintf(f->home, sizeof f->home, "/tmp/bg-store-XXXXXX");
    assert_non_null(mkdtemp(f->home));
    assert_int_equal(setenv("BELLGLASS_HOME", f->home, 1), 0);
    assert_int_equal(setenv("TMPDIR", f->home, 1), 0);
    assert_int_equal(unsetenv("BELLGLASS_CACHE_DIR"), 0);
    assert_int_equal(bg_paths_init(&f->paths, NULL), 0);
    assert_int_equal(store_open(&f->paths, &f->store, NULL), 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    store_close(&f->store);
    bg_paths_done(&f->paths);
    assert_int_equal(store_remove_tree(AT_FDCWD, f->home), 0);
    free(f);
    return 0;
}

static bool exists(const struct fixture *f, const char *path)
{
    struct stat st;
    return fstatat(f->store.fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* How many entries of the store begin so. */
static int count(const struct fixture *f, const char *prefix)
{
    struct dirent **entries;
    int n = scandirat(f->store.fd, ".", &entries, NULL, NULL), found = 0;
    assert_true(n >= 0);
    for (int i = 0; i < n; i++) {
        found += strncmp(entries[i]->d_name, prefix, strlen(prefix)) == 0;
        free(entries[i]);
    }
    free(entries);
    return found;
}

/* A work folder whose image folder has all its files, each with the given text. */
static struct work fill(const struct fixture *f, const char *text)
{
    static const char *const files[] = {"image/root.qcow2", "image/vmlinuz", "image/modules.cpio",
                                        "image/manifest.json"};
    struct work work;
    assert_int_equal(store_work_begin(&f->store, &work, NULL), 0);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(bg_write_file(work.fd, files[i], text, strlen(text), 0600, NULL), 0);
    return work;
}

static void assert_content(const struct fixture *f, const char *path, const char *want)
{
    BG_AUTOFREE char *text = NULL;
    size_t size;
    assert_int_equal(bg_read_file(f->store.fd, path, 100, &text, &size, NULL), 0);
    assert_string_equal(text, want);
}

static void publishes_and_tags(void **state)
{
    struct fixture *f = *state;
    struct work work = fill(f, "one");
    assert_int_equal(store_publish(&f->store, &work, DIGEST_A, false, NULL), 0);
    store_work_end(&f->store, &work);
    assert_int_equal(store_tag(&f->store, "a", DIGEST_A, NULL), 0);
    assert_content(f, "tags/a/root.qcow2", "one");
    struct stat st;
    assert_int_equal(fstatat(f->store.fd, DIGEST_A "/root.qcow2", &st, 0), 0);
    assert_int_equal(st.st_mode & 0777, 0644);
    assert_int_equal(fstatat(f->store.fd, DIGEST_A, &st, 0), 0);
    assert_int_equal(st.st_mode & 0777, 0755);
    assert_int_equal(count(f, ".tmp-"), 0);
}

static void keeps_the_image_that_is_there_unless_it_is_damaged(void **state)
{
    struct fixture *f = *state;
    static const char *const texts[] = {"one", "two", "three"}, *const want[] = {"one", "one",
                                                                                 "three"};
    for (size_t i = 0; i < 3; i++) {
        struct work work = fill(f, texts[i]);
        assert_int_equal(store_publish(&f->store, &work, DIGEST_A, /* replace= */ i == 2, NULL), 0);
        store_work_end(&f->store, &work);
        assert_content(f, DIGEST_A "/vmlinuz", want[i]);
    }
}

static void does_not_publish_an_image_that_lacks_a_file(void **state)
{
    struct fixture *f = *state;
    struct bg_err err = {0};
    struct work work = fill(f, "one");
    assert_int_equal(unlinkat(work.fd, "image/modules.cpio", 0), 0);
    assert_int_equal(store_publish(&f->store, &work, DIGEST_A, false, &err), -ENOENT);
    assert_non_null(strstr(err.text, "modules.cpio"));
    store_work_end(&f->store, &work);
    assert_false(exists(f, DIGEST_A));
}

static void moves_tags_and_removes_an_image_with_all_of_its(void **state)
{
    struct fixture *f = *state;
    static const char *const digests[] = {DIGEST_A, DIGEST_B};
    for (size_t i = 0; i < 2; i++) {
        struct work work = fill(f, "x");
        assert_int_equal(store_publish(&f->store, &work, digests[i], false, NULL), 0);
        store_work_end(&f->store, &work);
    }
    size_t tags;
    assert_int_equal(store_tag(&f->store, "one", DIGEST_A, NULL), 0);
    assert_int_equal(store_tag(&f->store, "two", DIGEST_A, NULL), 0);
    assert_int_equal(store_tag(&f->store, "three", DIGEST_A, NULL), 0);
    assert_int_equal(store_tag(&f->store, "three", DIGEST_B, NULL), 0);
    assert_int_equal(store_count_tags(&f->store, DIGEST_A, &tags, NULL), 0);
    assert_int_equal(tags, 2);
    assert_int_equal(store_untag(&f->store, "two", NULL), 0);
    assert_int_equal(store_untag(&f->store, "two", NULL), -ENOENT);
    assert_int_equal(store_remove(&f->store, DIGEST_A, NULL), 0);
    assert_false(exists(f, DIGEST_A));
    assert_false(exists(f, "tags/one"));
    assert_true(exists(f, "tags/three"));
    assert_true(exists(f, DIGEST_B));
    assert_int_equal(count(f, ".tmp-"), 0);
}

static void sweeps_up_after_dead_makers_only(void **state)
{
    struct fixture *f = *state;
    struct work alive = fill(f, "x");
    assert_int_equal(mkdirat(f->store.fd, ".tmp-dead", 0700), 0);
    assert_int_equal(mkdirat(f->store.fd, ".tmp-dead/deep", 0700), 0);
    assert_int_equal(symlinkat("/etc/passwd", f->store.fd, ".tmp-dead/deep/link"), 0);
    /* What such a folder points to is removed only if it is one of ours. */
    char outside[64], foreign[64];
    (void)snprintf(outside, sizeof outside, "%s/bellglass-build-x", f->home);
    (void)snprintf(foreign, sizeof foreign, "%s/foreign", f->home);
    assert_int_equal(mkdir(outside, 0700), 0);
    assert_int_equal(mkdir(foreign, 0700), 0);
    assert_int_equal(symlinkat(outside, f->store.fd, ".tmp-dead/outside"), 0);
    assert_int_equal(mkdirat(f->store.fd, ".tmp-dead2", 0700), 0);
    assert_int_equal(symlinkat(foreign, f->store.fd, ".tmp-dead2/outside"), 0);

    struct store second;
    assert_int_equal(store_open(&f->paths, &second, NULL), 0);
    store_close(&second);
    assert_false(exists(f, ".tmp-dead"));
    assert_false(exists(f, ".tmp-dead2"));
    assert_int_equal(access(outside, F_OK), -1);
    assert_int_equal(access(foreign, F_OK), 0);
    assert_int_equal(access("/etc/passwd", F_OK), 0);
    assert_int_equal(count(f, ".tmp-"), 1);
    assert_true(exists(f, alive.name));
    store_work_end(&f->store, &alive);
    assert_int_equal(count(f, ".tmp-"), 0);
}

static void wants_room(void **state)
{
    struct fixture *f = *state;
    struct bg_err err = {0};
    assert_int_equal(store_check_space(f->home, 1, NULL), 0);
    assert_int_equal(store_check_space(f->home, UINT64_C(1) << 60, &err), -ENOSPC);
    assert_non_null(strstr(err.text, f->home));
    assert_non_null(strstr(err.text, "BELLGLASS_HOME"));
    assert_int_equal(store_check_space("/no/such", 1, &err), -ENOENT);
}

#define STORE_TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(publishes_and_tags),
        STORE_TEST(keeps_the_image_that_is_there_unless_it_is_damaged),
        STORE_TEST(does_not_publish_an_image_that_lacks_a_file),
        STORE_TEST(moves_tags_and_removes_an_image_with_all_of_its),
        STORE_TEST(sweeps_up_after_dead_makers_only),
        STORE_TEST(wants_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
