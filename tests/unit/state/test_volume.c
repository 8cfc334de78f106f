#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/state/folder.h"
#include "common/state/volume.h"
#include "tests/unit/state/home.h"

#define DIGEST "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static int make(struct fixture *f, const char *slug, const char *owner,
                const struct bg_volume *from, struct bg_volume *ret)
{
    struct bg_err err;
    const struct bg_volume_opts opts = {
        .slug = slug, .owner = owner, .region = "ord", .capacity = 64u << 20, .from = from};
    return bg_volume_create(&f->paths, &opts, ret, &err);
}

static struct bg_volume made(struct fixture *f, const char *slug, const char *owner)
{
    struct bg_volume v;
    assert_int_equal(make(f, slug, owner, NULL, &v), 0);
    return v;
}

static void slugs_and_sizes(void **state)
{
    (void)state;
    static const char *const good[] = {"ab", "a-b", "0a", "a--b",
                                       "abcdefghijklmnopqrstuvwxyz012345"};
    static const char *const wrong[] = {
        "",    "a",   "-a",    "a-", "A1",
        "a_b", "a b", "xn--a", "ä1", "abcdefghijklmnopqrstuvwxyz0123456"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(bg_volume_slug_ok(good[i]));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_false(bg_volume_slug_ok(wrong[i]));
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {{"16MiB", 16u << 20},
                 {"16777215", 16u << 20},
                 {"20000kB", 20000768},
                 {"10GB", 10000003072},
                 {"1024GiB", 1ull << 40},
                 {"1GB1", 0},
                 {"GB", 0},
                 {"", 0},
                 {"15MiB", 0},
                 {"1025GiB", 0},
                 {"-1GB", 0},
                 {"1 GB", 0},
                 {"99999999999999999999", 0},
                 {"1TB", 0}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint64_t bytes = 0;
        assert_int_equal(bg_volume_parse_capacity(sizes[i].text, &bytes, NULL),
                         sizes[i].bytes ? 0 : -EINVAL);
        assert_true(bytes == sizes[i].bytes);
    }
}

static void each_sees_its_own_and_everybody_s(void **state)
{
    struct fixture *f = *state;
    struct bg_volume mine = made(f, "one", "me"), common = made(f, "two", ""), found, *all;
    struct bg_err err;
    size_t count;
    assert_int_equal(make(f, "one", "me", NULL, &found), -EEXIST);
    assert_int_equal(make(f, "two", "me", NULL, &found), -EEXIST);
    assert_int_equal(make(f, "Bad", "me", NULL, &found), -EINVAL);
    struct bg_volume other = made(f, "one", "you");
    assert_int_equal(bg_volume_find(&f->paths, "you", "one", &found, &err), 0);
    assert_string_equal(found.id, other.id);
    bg_volume_done(&found);
    assert_int_equal(bg_volume_find(&f->paths, "you", mine.id, &found, &err), -ENOMEDIUM);
    assert_int_equal(bg_volume_find(&f->paths, "you", "../one", &found, &err), -ENOMEDIUM);
    assert_int_equal(bg_volume_find(&f->paths, NULL, "one", &found, &err), -EINVAL);
    assert_int_equal(bg_volume_list(&f->paths, "you", &all, &count, &err), 0);
    assert_int_equal(count, 2);
    bg_volume_list_free(all, count);
    assert_int_equal(bg_volume_remove(&f->paths, &mine, &err), 0);
    assert_int_equal(bg_volume_remove(&f->paths, &mine, &err), 0); /* it is gone: no error */
    assert_int_equal(bg_volume_find(&f->paths, NULL, "one", &found, &err), 0);
    bg_volume_done(&found);
    bg_volume_done(&mine);
    bg_volume_done(&common);
    bg_volume_done(&other);
}

static void one_at_a_time_has_it(void **state)
{
    struct fixture *f = *state;
    struct bg_volume v = made(f, "one", ""), snapshot;
    struct bg_err err;
    int lock, second;
    assert_false(bg_volume_in_use(&v));
    assert_int_equal(bg_volume_lock(&v, /* shared= */ false, &lock, &err), 0);
    assert_true(bg_volume_in_use(&v));
    assert_int_equal(bg_volume_lock(&v, /* shared= */ false, &second, &err), -EBUSY);
    assert_int_equal(bg_volume_remove(&f->paths, &v, &err), -EBUSY);
    assert_int_equal(bg_volume_snapshot(&f->paths, &v, "two", &snapshot, &err), -EBUSY);
    (void)close(lock);
    assert_int_equal(bg_volume_remove(&f->paths, &v, &err), 0);
    assert_int_equal(bg_volume_lock(&v, /* shared= */ false, &lock, &err), -ENOMEDIUM);
    bg_volume_done(&v);
}

/* As a start reads it: how many layers there are, and the top's inode number. */
static size_t open_disk(const struct bg_volume *v, ino_t *ret_top)
{
    struct bg_disk disk;
    struct bg_err err;
    struct stat st;
    int lock;
    assert_int_equal(bg_volume_lock(v, /* shared= */ false, &lock, &err), 0);
    assert_int_equal(bg_volume_open_disk(v, lock, &disk, &err), 0);
    assert_true(disk.top);
    assert_int_equal(fstatat(lock, disk.layers[disk.count - 1].file, &st, 0), 0);
    assert_int_equal(st.st_nlink, 1); /* nobody else stands on what is written */
    *ret_top = st.st_ino;
    size_t count = disk.count;
    bg_disk_done(&disk);
    (void)close(lock);
    return count;
}

static void a_snapshot_shares_frozen_layers(void **state)
{
    struct fixture *f = *state;
    struct bg_volume v = made(f, "one", "me"), snapshot, branch;
    struct bg_err err;
    ino_t first, second, other;
    assert_int_equal(open_disk(&v, &first), 1);
    assert_int_equal(bg_volume_snapshot(&f->paths, &v, "snap", &snapshot, &err), 0);
    assert_string_equal(snapshot.source.id, v.id);
    assert_int_equal(open_disk(&v, &second), 2);
    assert_true(first != second);
    assert_int_equal(make(f, "branch", "me", &snapshot, &branch), 0);
    assert_string_equal(branch.source.slug, "snap");
    assert_int_equal(open_disk(&branch, &other), 2);
    assert_true(other != second && other != first);
    const struct bg_volume_opts smaller = {
        .slug = "small", .owner = "me", .region = "ord", .capacity = 32u << 20, .from = &snapshot};
    struct bg_volume none;
    assert_int_equal(bg_volume_create(&f->paths, &smaller, &none, &err), -EINVAL);
    assert_int_equal(bg_volume_remove(&f->paths, &snapshot, &err), 0);
    assert_int_equal(bg_volume_remove(&f->paths, &v, &err), 0);
    assert_int_equal(open_disk(&branch, &first), 2); /* all that it stands on is there */
    assert_true(first == other);
    bg_volume_done(&v);
    bg_volume_done(&snapshot);
    bg_volume_done(&branch);
}

static void a_chain_has_an_end(void **state)
{
    struct fixture *f = *state;
    struct bg_volume v = made(f, "one", ""), snapshot;
    struct bg_err err;
    ino_t top;
    for (size_t i = 1; i < BG_VOLUME_LAYERS_MAX; i++) {
        char slug[BG_VOLUME_SLUG_MAX];
        (void)snprintf(slug, sizeof slug, "s-%zu", i);
        assert_int_equal(open_disk(&v, &top), i);
        assert_int_equal(bg_volume_snapshot(&f->paths, &v, slug, &snapshot, &err), 0);
        bg_volume_done(&snapshot);
    }
    assert_int_equal(open_disk(&v, &top), BG_VOLUME_LAYERS_MAX);
    assert_int_equal(bg_volume_snapshot(&f->paths, &v, "last", &snapshot, &err), -EMLINK);
    assert_int_equal(open_disk(&v, &top), BG_VOLUME_LAYERS_MAX);
    bg_volume_done(&v);
}

static void what_a_killed_maker_left_goes(void **state)
{
    struct fixture *f = *state;
    struct bg_volume v = made(f, "one", "");
    char path[128];
    struct stat st;
    (void)snprintf(path, sizeof path, "%s/volumes/.tmp-vol_left", f->paths.state);
    assert_int_equal(mkdir(path, 0700), 0);
    bg_volume_done(&v);
    v = made(f, "two", "");
    assert_int_equal(stat(path, &st), -1);
    bg_volume_done(&v);
}

static void the_file_is_read_with_care(void **state)
{
    (void)state;
    static char owner[] = "me", region[] = "ord", name[] = "debian", digest[] = DIGEST;
    struct bg_volume v = {.id = "snp_0123456789abcdefghij",
                          .slug = "snap",
                          .snapshot = true,
                          .ready = true,
                          .owner = owner,
                          .region = region,
                          .created_ms = 5,
                          .capacity = 16u << 20,
                          .image_name = name,
                          .image_digest = digest,
                          .source = {"vol_0123456789abcdefghij", "vol"}};
    struct bg_volume out;
    char *text = bg_volume_emit(&v);
    assert_non_null(text);
    size_t size = strlen(text);
    assert_int_equal(bg_volume_parse(text, size, &out, NULL), 0);
    assert_string_equal(out.image_digest, DIGEST);
    assert_string_equal(out.source.slug, "vol");
    bg_volume_done(&out);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(bg_volume_parse(text, i, &out, NULL), -EUCLEAN);
    static const struct {
        const char *from, *to;
    } wrong[] = {{"\"version\":1", "\"version\":2"},
                 {"snp_0", "vol_0"},
                 {"\"slug\":\"snap\"", "\"slug\":\"../x\""},
                 {"\"capacity\":16777216", "\"capacity\":16777217"},
                 {"\"capacity\":16777216", "\"capacity\":512000"},
                 {"\"created_ms\":5", "\"created_ms\":-5"},
                 {"\"digest\":\"00", "\"digest\":\"//"},
                 {"{\"id\":\"vol_", "{\"id\":\"snp_"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char changed[1024];
        const char *at = strstr(text, wrong[i].from);
        assert_non_null(at);
        (void)snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, wrong[i].to,
                       at + strlen(wrong[i].from));
        assert_int_equal(bg_volume_parse(changed, strlen(changed), &out, NULL), -EUCLEAN);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slugs_and_sizes),
        cmocka_unit_test(the_file_is_read_with_care),
        cmocka_unit_test_setup_teardown(each_sees_its_own_and_everybody_s, home_setup,
                                        home_teardown),
        cmocka_unit_test_setup_teardown(one_at_a_time_has_it, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(a_snapshot_shares_frozen_layers, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(a_chain_has_an_end, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(what_a_killed_maker_left_goes, home_setup, home_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
