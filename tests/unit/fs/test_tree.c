#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/limits.h"
#include "fs/relay/tree.h"

#define IDS_MAX 4096

struct fixture {
    struct fs_tree tree;
    uint64_t given[IDS_MAX]; /* references that the server gave out, by server id */
};

static void forgotten(void *owner, uint64_t server_id, uint64_t count)
{
    struct fixture *f = owner;
    assert_true(server_id < IDS_MAX && f->given[server_id] >= count);
    f->given[server_id] -= count;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    assert_int_equal(fs_tree_init(&f->tree, 1000), 0);
    f->tree.on_forget = forgotten;
    f->tree.owner = f;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    fs_tree_done(&f->tree);
    free(f);
    return 0;
}

static int try_enter(struct fixture *f, struct fs_rnode *parent, const char *name, mode_t type,
                     uint64_t server_id, struct fs_rnode **ret)
{
    struct fs_tree_entry entry = {.server_id = server_id, .ino = server_id + 100, .type = type};
    f->given[server_id]++;
    return fs_tree_enter(&f->tree, parent, name, &entry, ret);
}

static struct fs_rnode *enter(struct fixture *f, struct fs_rnode *parent, const char *name,
                              mode_t type, uint64_t server_id)
{
    struct fs_rnode *node;
    assert_int_equal(try_enter(f, parent, name, type, server_id, &node), 0);
    return node;
}

static void the_same_entry_is_the_same_node(void **state)
{
    struct fixture *f = *state;
    struct fs_rnode *root = f->tree.root;
    static const mode_t types[] = {S_IFREG, S_IFDIR, S_IFLNK};
    for (size_t i = 0; i < 3; i++) {
        struct fs_rnode *a = enter(f, root, "a", types[i], 5 + i);
        assert_ptr_equal(enter(f, root, "a", types[i], 5 + i), a);
        assert_ptr_equal(fs_tree_find(&f->tree, a->id), a);
        assert_int_equal(a->nlookup, 2);
        fs_tree_forget(&f->tree, a, 2);
        assert_int_equal(f->given[5 + i], 0);
    }
}

static void ids_are_never_used_again(void **state)
{
    struct fixture *f = *state;
    struct fs_rnode *a = enter(f, f->tree.root, "a", S_IFREG, 5);
    uint64_t first = a->id;
    fs_tree_forget(&f->tree, a, 1);
    assert_null(fs_tree_find(&f->tree, first));
    assert_true(enter(f, f->tree.root, "a", S_IFREG, 5)->id != first);
}

static void names_of_one_file_share_a_node(void **state)
{
    struct fixture *f = *state;
    struct fs_rnode *a = enter(f, f->tree.root, "a", S_IFREG, 5);
    assert_ptr_equal(enter(f, f->tree.root, "b", S_IFREG, 5), a);
    struct fs_rnode *link = enter(f, f->tree.root, "l", S_IFLNK, 6);
    assert_ptr_not_equal(enter(f, f->tree.root, "m", S_IFLNK, 6), link);
    assert_false(link->stale); /* a link may have two names */
}

static void a_folder_that_the_guest_moved_is_a_new_node(void **state)
{
    struct fixture *f = *state;
    struct fs_rnode *a = enter(f, f->tree.root, "a", S_IFDIR, 5);
    struct fs_rnode *b = enter(f, f->tree.root, "b", S_IFDIR, 6);
    struct fs_rnode *moved = enter(f, b, "a", S_IFDIR, 5);
    assert_ptr_not_equal(moved, a);
    assert_true(a->stale);
    assert_false(moved->stale);
    fs_tree_forget(&f->tree, a, 1);
    assert_int_equal(f->given[5], 2); /* the server's id lives on in the other */
    fs_tree_forget(&f->tree, moved, 1);
    assert_int_equal(f->given[5], 0);
}

static void a_folder_inside_itself_is_refused(void **state)
{
    struct fixture *f = *state;
    struct fs_rnode *a = enter(f, f->tree.root, "a", S_IFDIR, 5), *ret;
    struct fs_rnode *b = enter(f, a, "b", S_IFDIR, 6);
    assert_int_equal(try_enter(f, b, "c", S_IFDIR, 5, &ret), -ELOOP);
    assert_int_equal(try_enter(f, b, "c", S_IFDIR, 6, &ret), -ELOOP);
    assert_int_equal(try_enter(f, a, "root", S_IFDIR, FS_TREE_ROOT, &ret), -ELOOP);
    assert_int_equal(try_enter(f, a, "root", S_IFREG, FS_TREE_ROOT, &ret), -ELOOP);
    assert_int_equal(try_enter(f, a, "none", S_IFREG, 0, &ret), -EIO);
    assert_false(a->stale || b->stale);
    fs_tree_forget(&f->tree, b, 1);
    fs_tree_forget(&f->tree, a, 1);
    assert_int_equal(f->given[5], 0);
    assert_int_equal(f->given[6], 0);
}

static void folders_end_at_a_depth(void **state)
{
    struct fixture *f = *state;
    struct fs_rnode *at = f->tree.root, *ret;
    for (uint64_t i = 0; i < BG_FS_DEPTH_MAX; i++)
        at = enter(f, at, "d", S_IFDIR, 10 + i);
    assert_int_equal(fs_tree_depth(at), BG_FS_DEPTH_MAX);
    assert_int_equal(try_enter(f, at, "d", S_IFDIR, 2000, &ret), -ENAMETOOLONG);
    assert_int_equal(f->given[2000], 0);
    assert_int_equal(try_enter(f, at, "f", S_IFREG, 2001, &ret), 0);
}

static void what_changes_under_an_id_is_stale(void **state)
{
    struct fixture *f = *state;
    struct fs_rnode *a = enter(f, f->tree.root, "a", S_IFREG, 5);
    struct fs_tree_entry same = {.server_id = 5, .ino = 105, .type = S_IFREG};
    assert_true(fs_tree_same(&f->tree, a, &same));
    struct fs_tree_entry other = same;
    other.ino++;
    assert_false(fs_tree_same(&f->tree, a, &other));
    assert_true(a->stale);
    struct fs_rnode *again = enter(f, f->tree.root, "a", S_IFREG, 5);
    assert_ptr_not_equal(again, a);
    struct fs_rnode *dir = enter(f, f->tree.root, "a", S_IFDIR, 5);
    assert_true(again->stale);
    assert_ptr_equal(dir->peer, again->peer);
    assert_true(fs_tree_same(&f->tree, dir, &(struct fs_tree_entry){.ino = 105, .type = S_IFDIR}));
    assert_false(fs_tree_same(
        &f->tree, dir, &(struct fs_tree_entry){.ino = 105, .type = S_IFREG, .special = true}));
}

static void another_thing_at_a_place_makes_the_first_stale(void **state)
{
    struct fixture *f = *state;
    struct fs_rnode *a = enter(f, f->tree.root, "a", S_IFDIR, 5);
    struct fs_rnode *b = enter(f, f->tree.root, "a", S_IFDIR, 6);
    assert_true(a->stale && !b->stale);
    struct fs_rnode *file = enter(f, f->tree.root, "a", S_IFREG, 7);
    assert_true(b->stale && !file->stale);
    (void)enter(f, f->tree.root, "a", S_IFREG, 8);
    assert_false(file->stale); /* an open file lives on when its name goes to another */
}

static void the_hosts_own_moves_keep_the_node(void **state)
{
    struct fixture *f = *state;
    struct fs_rnode *root = f->tree.root;
    struct fs_rnode *a = enter(f, root, "a", S_IFDIR, 5);
    struct fs_rnode *b = enter(f, root, "b", S_IFDIR, 6);
    struct fs_rnode *link = enter(f, a, "l", S_IFLNK, 7);
    fs_tree_moved(&f->tree, root, "a", b, "c", false);
    assert_ptr_equal(enter(f, b, "c", S_IFDIR, 5), a);
    assert_int_equal(fs_tree_depth(link->parent), 2);
    assert_false(a->stale);
    fs_tree_moved(&f->tree, b, "c", root, "b", true); /* exchange with its own parent: cannot be */
    assert_true(a->stale || b->stale);
}

static void exchanged_names_change_places(void **state)
{
    struct fixture *f = *state;
    struct fs_rnode *root = f->tree.root;
    struct fs_rnode *a = enter(f, root, "a", S_IFDIR, 5);
    struct fs_rnode *b = enter(f, root, "b", S_IFLNK, 6);
    fs_tree_moved(&f->tree, root, "a", root, "b", true);
    assert_ptr_equal(enter(f, root, "b", S_IFDIR, 5), a);
    assert_ptr_equal(enter(f, root, "a", S_IFLNK, 6), b);
}

static void removed_names_can_be_used_again(void **state)
{
    struct fixture *f = *state;
    struct fs_rnode *root = f->tree.root;
    struct fs_rnode *a = enter(f, root, "a", S_IFDIR, 5);
    fs_tree_removed(&f->tree, root, "a");
    struct fs_rnode *b = enter(f, root, "a", S_IFDIR, 6);
    assert_ptr_not_equal(a, b);
    assert_false(a->stale); /* a process may still be in it */
}

static void parents_live_as_long_as_what_is_in_them(void **state)
{
    struct fixture *f = *state;
    struct fs_rnode *a = enter(f, f->tree.root, "a", S_IFDIR, 5);
    struct fs_rnode *b = enter(f, a, "b", S_IFDIR, 6);
    uint64_t a_id = a->id;
    fs_tree_forget(&f->tree, a, 1);
    assert_non_null(fs_tree_find(&f->tree, a_id));
    fs_tree_ref(b);
    fs_tree_forget(&f->tree, b, UINT64_MAX); /* more than there are */
    assert_int_equal(f->given[6], 1);
    fs_tree_unref(&f->tree, b);
    assert_int_equal(f->given[6], 0);
    assert_int_equal(f->given[5], 0);
    assert_null(fs_tree_find(&f->tree, a_id));
}

static void the_number_of_nodes_is_bounded(void **state)
{
    struct fixture *f = *state;
    struct fs_rnode *node;
    char name[16];
    int r = 0;
    uint64_t i = 2;
    for (; r == 0; i++) {
        (void)snprintf(name, sizeof name, "%u", (unsigned)i);
        r = try_enter(f, f->tree.root, name, i % 2 ? S_IFREG : S_IFDIR, i, &node);
    }
    assert_int_equal(r, -ENFILE);
    assert_int_equal(f->given[i - 1], 0);
    assert_int_equal(f->tree.by_id.count, 1000);
}

int main(void)
{
#define TREE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TREE_TEST(the_same_entry_is_the_same_node),
        TREE_TEST(ids_are_never_used_again),
        TREE_TEST(names_of_one_file_share_a_node),
        TREE_TEST(a_folder_that_the_guest_moved_is_a_new_node),
        TREE_TEST(a_folder_inside_itself_is_refused),
        TREE_TEST(folders_end_at_a_depth),
        TREE_TEST(what_changes_under_an_id_is_stale),
        TREE_TEST(another_thing_at_a_place_makes_the_first_stale),
        TREE_TEST(the_hosts_own_moves_keep_the_node),
        TREE_TEST(exchanged_names_change_places),
        TREE_TEST(removed_names_can_be_used_again),
        TREE_TEST(parents_live_as_long_as_what_is_in_them),
        TREE_TEST(the_number_of_nodes_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
