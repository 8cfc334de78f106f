#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "common/state/folder.h"
#include "common/state/pool.h"
#include "tests/unit/state/home.h"

#define DIGEST "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define OTHER  "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static struct bg_sandbox settings(const char *name)
{
    struct bg_sandbox s = {.name = name ? strdup(name) : NULL,
                           .image_name = strdup("debian"),
                           .image_digest = strdup(DIGEST),
                           .cpus = 1,
                           .memory_bytes = 512u << 20,
                           .ephemeral = true};
    return s;
}

static void knows_its_folders(void **state)
{
    (void)state;
    assert_true(bg_pool_folder_ok(".pool-sbx_0123456789abcdefghij"));
    static const char *const not [] = {"",
                                       ".pool-",
                                       "pool-sbx_0123456789abcdefghij",
                                       ".pool-sbx_0123456789abcdefghi",
                                       ".new-sbx_0123456789abcdefghij",
                                       ".pool-sbx_0123456789abcdefghijk",
                                       ".pool-sbx_0123456789ABCDEFGHIJ",
                                       ".pool-vol_0123456789abcdefghij"};
    for (size_t i = 0; i < sizeof not / sizeof *not ; i++)
        assert_false(bg_pool_folder_ok(not [i]));
}

static void only_the_same_fits(void **state)
{
    (void)state;
    struct bg_sandbox member = settings(NULL), wanted = settings("web");
    assert_true(bg_pool_fits(&member, &wanted));
    wanted.cpus = 2;
    assert_false(bg_pool_fits(&member, &wanted));
    wanted.cpus = 1;
    wanted.memory_bytes += 1u << 20;
    assert_false(bg_pool_fits(&member, &wanted));
    wanted.memory_bytes = member.memory_bytes;
    wanted.volume_count = 1;
    assert_false(bg_pool_fits(&member, &wanted));
    wanted.volume_count = 0;
    (void)snprintf(wanted.root_volume, sizeof wanted.root_volume, "vol_0123456789abcdefghij");
    assert_false(bg_pool_fits(&member, &wanted));
    wanted.root_volume[0] = '\0';
    free(wanted.image_digest);
    wanted.image_digest = strdup(OTHER);
    assert_false(bg_pool_fits(&member, &wanted));
    bg_sandbox_done(&member);
    bg_sandbox_done(&wanted);
}

static struct bg_sandbox make_member(struct fixture *f, int *ret_lock)
{
    struct bg_sandbox member = settings(NULL);
    struct bg_err err;
    assert_int_equal(bg_sandbox_create_member(&f->paths, &member, &err), 0);
    assert_int_equal(bg_sandbox_lock(&member, ret_lock, &err), 0);
    return member;
}

static size_t members(struct fixture *f, size_t *ret_waiting)
{
    struct bg_sandbox *list;
    size_t count;
    struct bg_err err;
    assert_int_equal(bg_pool_members(&f->paths, &list, &count, &err), 0);
    for (size_t i = 0; i < count; i++)
        *ret_waiting += bg_pool_waits(&list[i]);
    bg_pool_members_free(list, count);
    return count;
}

static size_t sandboxes(struct fixture *f)
{
    char **names;
    size_t count = 0;
    assert_int_equal(bg_sandbox_names(&f->paths, &names, NULL), 0);
    while (names[count])
        count++;
    bg_sandbox_names_free(names);
    return count;
}

static void a_member_is_no_sandbox_until_it_has_a_name(void **state)
{
    struct fixture *f = *state;
    int lock, listening, client;
    size_t waiting = 0;
    struct bg_err err;
    assert_int_equal(members(f, &waiting), 0);
    struct bg_sandbox member = make_member(f, &lock);
    assert_int_equal(members(f, &waiting), 1);
    assert_int_equal(waiting, 0);
    assert_int_equal(bg_pool_connect(&member, &client, &err), -ENOTCONN);
    assert_int_equal(bg_pool_listen(&member, &listening, &err), 0);
    assert_int_equal(bg_pool_connect(&member, &client, &err), 0);
    (void)close(client);
    assert_int_equal(members(f, &waiting), 1);
    assert_int_equal(waiting, 1);
    assert_int_equal(sandboxes(f), 0);

    /* A name that is in use leaves it as it was, but for its settings. */
    struct bg_sandbox taken = settings("taken"), wanted = settings("taken"), found;
    assert_int_equal(bg_sandbox_create(&f->paths, &taken, &err), 0);
    bg_sandbox_begin(&wanted, member.id);
    wanted.dir = strdup(member.dir);
    assert_int_equal(bg_pool_name(&f->paths, &wanted, &err), -EEXIST);
    assert_string_equal(wanted.dir, member.dir);
    assert_int_equal(bg_sandbox_save(&member, &err), 0);
    waiting = 0;
    assert_int_equal(members(f, &waiting), 1);
    assert_int_equal(waiting, 1);

    free(wanted.name);
    wanted.name = strdup("web");
    wanted.ephemeral = false;
    assert_int_equal(bg_pool_name(&f->paths, &wanted, &err), 0);
    assert_int_equal(members(f, &waiting), 0);
    assert_int_equal(bg_sandbox_load(&f->paths, "web", &found, &err), 0);
    assert_string_equal(found.id, member.id);
    assert_string_equal(found.dir, wanted.dir);
    assert_false(found.ephemeral);
    bg_pool_unlisten(&found);
    assert_int_equal(bg_pool_connect(&found, &client, &err), -ENOTCONN);
    (void)close(listening);
    (void)close(lock);
    bg_sandbox_done(&found);
    bg_sandbox_done(&taken);
    bg_sandbox_done(&wanted);
    bg_sandbox_done(&member);
}

static void age(const struct bg_sandbox *sandbox)
{
    const struct timespec then[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    assert_int_equal(utimensat(AT_FDCWD, sandbox->dir, then, 0), 0);
}

static void only_what_nobody_has_is_swept(void **state)
{
    struct fixture *f = *state;
    int lock[2];
    size_t swept = 0, waiting = 0;
    struct bg_sandbox dead = make_member(f, &lock[0]), alive = make_member(f, &lock[1]);
    (void)close(lock[0]);
    assert_int_equal(bg_sandbox_sweep(&f->paths, &swept, NULL), 0);
    assert_int_equal(swept, 0); /* it may just be beginning */
    age(&dead);
    age(&alive);
    assert_int_equal(bg_sandbox_sweep(&f->paths, &swept, NULL), 0);
    assert_int_equal(swept, 1);
    assert_int_equal(members(f, &waiting), 1);
    assert_int_equal(access(alive.dir, F_OK), 0);
    (void)close(lock[1]);
    bg_sandbox_done(&dead);
    bg_sandbox_done(&alive);
}

static void a_damaged_member_is_passed_over(void **state)
{
    struct fixture *f = *state;
    int lock;
    size_t waiting = 0;
    struct bg_sandbox member = make_member(f, &lock);
    char path[512];
    (void)snprintf(path, sizeof path, "%s/sandbox.json", member.dir);
    assert_int_equal(truncate(path, 10), 0);
    assert_int_equal(members(f, &waiting), 0);
    (void)close(lock);
    bg_sandbox_done(&member);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(knows_its_folders),
        cmocka_unit_test(only_the_same_fits),
        cmocka_unit_test_setup_teardown(a_member_is_no_sandbox_until_it_has_a_name, home_setup,
                                        home_teardown),
        cmocka_unit_test_setup_teardown(only_what_nobody_has_is_swept, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(a_damaged_member_is_passed_over, home_setup, home_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
