#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "common/state/image.h"

#define A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "aaaaaaaabbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define C "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"

/* One file of 4 bytes each. %s: digest; %d: created. */
#define MANIFEST                                                                                   \
    "{\"version\":1,\"digest\":\"%s\",\"created_ms\":%d,\"kernel_release\":\"6.1.0-56-cloud-"      \
    "amd64\",\"user\":\"app\",\"virtual_bytes\":1024,\"files\":{\"root.qcow2\":{\"size\":4},"      \
    "\"vmlinuz\":{\"size\":4},\"modules.cpio\":{\"size\":4}}}"

struct fixture {
    char home[32], images[64];
    struct bg_paths paths;
};

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    bg_paths_done(&f->paths);
    assert_int_equal(nftw(f->home, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    free(f);
    return 0;
}

/* Where is a path below the images folder; the result lasts until the next call. */
static const char *at(const struct fixture *f, const char *path)
{
    static char whole[256];
    (void)snprintf(whole, sizeof whole, "%s/%s", f->images, path);
    return whole;
}

static void put(const struct fixture *f, const char *digest, const char *file, const char *text)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", digest, file);
    int fd = open(at(f, path), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(bg_write_full(fd, text, strlen(text)), 0);
    assert_int_equal(close(fd), 0);
}

static void make_image(const struct fixture *f, const char *digest, int created_ms)
{
    char manifest[1024];
    assert_int_equal(mkdir(at(f, digest), 0755), 0);
    put(f, digest, "root.qcow2", "disk");
    put(f, digest, "vmlinuz", "kern");
    put(f, digest, "modules.cpio", "mods");
    (void)snprintf(manifest, sizeof manifest, MANIFEST, digest, created_ms);
    put(f, digest, "manifest.json", manifest);
}

static void tag(const struct fixture *f, const char *name, const char *target)
{
    char path[128];
    (void)snprintf(path, sizeof path, "tags/%s", name);
    assert_int_equal(symlink(target, at(f, path)), 0);
}

/* Three images; the tag "debian" is of the oldest. */
static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    (void)snprintf(f->home, sizeof f->home, "/tmp/bg-image-XXXXXX");
    assert_non_null(mkdtemp(f->home));
    assert_int_equal(setenv("BELLGLASS_HOME", f->home, 1), 0);
    assert_int_equal(bg_paths_init(&f->paths, NULL), 0);
    (void)snprintf(f->images, sizeof f->images, "%s/images", f->paths.data);
    assert_int_equal(mkdir(f->images, 0755), 0);
    assert_int_equal(mkdir(at(f, "tags"), 0755), 0);
    assert_int_equal(mkdir(at(f, ".tmp-x"), 0755), 0);
    make_image(f, A, 1);
    make_image(f, B, 3);
    make_image(f, C, 2);
    tag(f, "debian", "../" A);
    *state = f;
    return 0;
}

static void expect(const struct fixture *f, const char *name, int code, const char *words)
{
    struct bg_image image = {0};
    struct bg_err err = {0};
    int r = bg_image_find(&f->paths, name, &image, &err);
    if (r != code)
        print_error("'%s': %d, %s\n", name, r, err.text);
    assert_int_equal(r, code);
    assert_null(image.manifest);
    if (!strstr(err.text, words))
        print_error("'%s': %s\n", name, err.text);
    assert_non_null(strstr(err.text, words));
}

static void expect_found(const struct fixture *f, const char *name, const char *digest,
                         const char *tag_name)
{
    struct bg_image image;
    struct bg_err err = {0};
    int r = bg_image_find(&f->paths, name, &image, &err);
    if (r < 0)
        print_error("%s\n", err.text);
    assert_int_equal(r, 0);
    assert_string_equal(image.digest, digest);
    assert_string_equal(image.name, tag_name);
    assert_string_equal(image.dir, at(f, digest));
    assert_string_equal(image.kernel_release, "6.1.0-56-cloud-amd64");
    assert_string_equal(image.user, "app");
    assert_int_equal(image.virtual_bytes, 1024);
    assert_int_equal(image.stored_bytes, 12);
    bg_image_done(&image);
}

static void finds_by_tag_digest_and_prefix(void **state)
{
    struct fixture *f = *state;
    expect_found(f, "debian", A, "debian");
    expect_found(f, A, A, "debian");
    expect_found(f, C, C, "");
    expect_found(f, "cccccc", C, "");
    expect_found(f, "aaaaaaaab", B, "");
    tag(f, "cccccc", "../" A); /* a tag is meant before a prefix */
    expect_found(f, "cccccc", A, "cccccc");
}

static void says_what_is_wrong_with_a_name(void **state)
{
    struct fixture *f = *state;
    expect(f, "debain", -ENOENT, "bellglass image ls");
    expect(f, "aaaaaa", -EINVAL, "2 images");
    expect(f, "ccccc", -ENOENT, "'ccccc'"); /* too short for a prefix */
    expect(f, "", -EINVAL, "not a name");
    expect(f, "../images", -EINVAL, "not a name");
    expect(f, ".tmp-x", -EINVAL, "not a name");
    expect(f, "Debian", -EINVAL, "not a name");
    expect(f, "a\033[2J", -EINVAL, "\\x1b");
    expect(f, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", -EINVAL,
           "not a name");
}

static void knows_when_nothing_was_ever_built(void **state)
{
    struct fixture *f = *state;
    struct bg_paths empty = {.data = f->paths.state};
    struct bg_image image, *images;
    size_t count, damaged;
    assert_int_equal(bg_image_find(&empty, "debian", &image, NULL), -ENOENT);
    assert_int_equal(bg_image_list(&empty, &images, &count, &damaged, NULL), 0);
    assert_int_equal(count + damaged, 0);
    bg_image_list_free(images, count);
}

static void sees_damaged_tags(void **state)
{
    struct fixture *f = *state;
    tag(f, "gone", "../" B "/");
    expect(f, "gone", -EUCLEAN, "tag is damaged");
    tag(f, "short", "../" A "a");
    expect(f, "short", -EUCLEAN, "tag is damaged");
    tag(f, "away", "/etc");
    expect(f, "away", -EUCLEAN, "tag is damaged");
    tag(f, "dangling", "../dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd");
    expect(f, "dangling", -EUCLEAN, "bellglass image rm dangling");
    assert_int_equal(mkdir(at(f, "tags/folder"), 0755), 0);
    expect(f, "folder", -EUCLEAN, "tag is damaged");
}

static void sees_damaged_files(void **state)
{
    struct fixture *f = *state;
    put(f, A, "root.qcow2", "dis");
    expect(f, "debian", -EUCLEAN, "root.qcow2 has 3 bytes, not 4");
    put(f, A, "root.qcow2", "disks");
    expect(f, "debian", -EUCLEAN, "root.qcow2 has 5 bytes");
    put(f, A, "root.qcow2", "disk");
    assert_int_equal(unlink(at(f, A "/vmlinuz")), 0);
    expect(f, "debian", -EUCLEAN, "vmlinuz is missing");
    assert_int_equal(mkdir(at(f, A "/vmlinuz"), 0755), 0);
    expect(f, "debian", -EUCLEAN, "vmlinuz is not a file");
    assert_int_equal(rmdir(at(f, A "/vmlinuz")), 0);
    assert_int_equal(symlink("root.qcow2", at(f, A "/vmlinuz")), 0);
    expect(f, "debian", -EUCLEAN, "vmlinuz is not a file");
    assert_int_equal(unlink(at(f, A "/manifest.json")), 0);
    expect(f, A, -EUCLEAN, "manifest.json is missing");
}

/* Each as one replacement in a good manifest. */
static void sees_damaged_manifests(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *from, *to;
    } cases[] = {
        {"{\"version\"", "\"version\""},
        {"}}}", "}}"},
        {"}}}", "}}}x"},
        {"\"version\":1", "\"version\":2"},
        {"\"version\":1", "\"version\":\"1\""},
        {"\"version\":1,", ""},
        {"\"version\":1", "\"version\":1,\"version\":1"},
        {"aaaaaaaaa", "aaaaaaaab"},
        {"\"created_ms\":1", "\"created_ms\":-1"},
        {"\"created_ms\":1", "\"created_ms\":1.5"},
        {"6.1.0-56-cloud-amd64", "../../etc"},
        {"6.1.0-56-cloud-amd64", ""},
        {"\"user\":\"app\"", "\"user\":\"a b\""},
        {"\"user\":\"app\"", "\"user\":[]"},
        {"\"virtual_bytes\":1024", "\"virtual_bytes\":99999999999999999999"},
        {"\"vmlinuz\":{\"size\":4}", "\"vmlinuz\":4"},
        {"\"root.qcow2\":{\"size\":4}", "\"root.qcow2\":{}"},
        {"\"files\"", "\"flies\""},
    };
    char good[1024], bad[1200];
    (void)snprintf(good, sizeof good, MANIFEST, A, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *where = strstr(good, cases[i].from);
        assert_non_null(where);
        (void)snprintf(bad, sizeof bad, "%.*s%s%s", (int)(where - good), good, cases[i].to,
                       where + strlen(cases[i].from));
        put(f, A, "manifest.json", bad);
        expect(f, "debian", -EUCLEAN, "image 'debian' is damaged: manifest.json");
    }
    for (size_t size = 0; size < strlen(good); size++) {
        (void)snprintf(bad, sizeof bad, "%.*s", (int)size, good);
        put(f, A, "manifest.json", bad);
        expect(f, "debian", -EUCLEAN, "manifest.json");
    }
    put(f, A, "manifest.json", good);
    expect_found(f, "debian", A, "debian");
    assert_int_equal(truncate(at(f, A "/manifest.json"), 1024 * 1024 + 1), 0);
    expect(f, "debian", -EUCLEAN, "too large");
}

static void lists_the_newest_first_and_counts_the_damaged(void **state)
{
    struct fixture *f = *state;
    tag(f, "also", "../" A);
    struct bg_image *images;
    size_t count, damaged;
    assert_int_equal(bg_image_list(&f->paths, &images, &count, &damaged, NULL), 0);
    assert_int_equal(count, 3);
    assert_int_equal(damaged, 0);
    assert_string_equal(images[0].digest, B);
    assert_string_equal(images[1].digest, C);
    assert_string_equal(images[2].digest, A);
    assert_string_equal(images[1].name, "");
    assert_string_equal(images[2].name, "also"); /* the first by name */
    bg_image_list_free(images, count);
    assert_int_equal(unlink(at(f, C "/root.qcow2")), 0);
    assert_int_equal(bg_image_list(&f->paths, &images, &count, &damaged, NULL), 0);
    assert_int_equal(count, 2);
    assert_int_equal(damaged, 1);
    bg_image_list_free(images, count);
}

static void resolves_without_looking_at_the_files(void **state)
{
    struct fixture *f = *state;
    char digest[65];
    bool tagged;
    assert_int_equal(unlink(at(f, A "/manifest.json")), 0);
    assert_int_equal(bg_image_resolve(&f->paths, "debian", digest, &tagged, NULL), 0);
    assert_true(tagged);
    assert_string_equal(digest, A);
    assert_int_equal(bg_image_resolve(&f->paths, "cccccc", digest, &tagged, NULL), 0);
    assert_false(tagged);
    assert_string_equal(digest, C);
}

#define IMAGE_TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IMAGE_TEST(finds_by_tag_digest_and_prefix),
        IMAGE_TEST(says_what_is_wrong_with_a_name),
        IMAGE_TEST(knows_when_nothing_was_ever_built),
        IMAGE_TEST(sees_damaged_tags),
        IMAGE_TEST(sees_damaged_files),
        IMAGE_TEST(sees_damaged_manifests),
        IMAGE_TEST(lists_the_newest_first_and_counts_the_damaged),
        IMAGE_TEST(resolves_without_looking_at_the_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
