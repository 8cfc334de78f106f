/* The server's operations in a share: each test in a folder of its own, with rules of the test's
 * own: "secret*" is hidden, "fixed*" fixed, "frozen" frozen, "anchor" anchored. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/server/share_links.h"
#include "fs/server/ops.h"

#define FDS_MAX    4u
#define CLIENT_UID 1000u
#define CLIENT_GID 1001u

struct fixture {
    char base[64], root[80];
    struct fs_ops ops;
    struct fs_identity identity;
    struct fs_share_rules rules;
    uint8_t *out;
};

static unsigned judge(const void *owner, const char *path)
{
    unsigned verdict = 0;
    (void)owner;
    for (const char *at = path; at; at = strchr(at, '/')) {
        at += *at == '/';
        size_t size = strcspn(at, "/");
        if (strncmp(at, "secret", 6) == 0)
            return FS_SHARE_HIDDEN;
        if (size == 6 && strncmp(at, "frozen", 6) == 0)
            verdict |= FS_SHARE_FIXED | FS_SHARE_FROZEN;
        if (strncmp(at, "fixed", 5) == 0 && !at[size])
            verdict |= FS_SHARE_FIXED;
        if (strcmp(at, "anchor") == 0)
            verdict |= FS_SHARE_ANCHORED;
    }
    return verdict;
}

static void answer(void *owner, uint64_t unique, int error)
{
    (void)owner;
    (void)unique;
    (void)error;
}

static int start(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    (void)snprintf(f->base, sizeof f->base, "/tmp/bg-share-XXXXXX");
    assert_non_null(mkdtemp(f->base));
    (void)snprintf(f->root, sizeof f->root, "%s/root", f->base);
    assert_int_equal(mkdir(f->root, 0755), 0);
    f->out = malloc(FS_OPS_OUT_SIZE);
    assert_non_null(f->out);
    f->rules = (struct fs_share_rules){
        .judge = judge, .space_min = 0, .write_max = 1 << 20, .inodes_max = 100};
    struct fs_nodes_opts nodes = {
        .root = f->root, .fds_max = FDS_MAX, .identity = &f->identity, .one_mount = true};
    assert_int_equal(fs_nodes_open(&nodes, &f->ops.nodes, NULL), 0);
    assert_int_equal(fs_share_open(&f->rules, f->ops.nodes, &f->ops.share), 0);
    fs_share_set_client(f->ops.share, CLIENT_UID, CLIENT_GID);
    assert_int_equal(fs_handles_open(f->ops.nodes, 100, &f->ops.handles), 0);
    struct fs_locks_opts locks = {.handles = f->ops.handles,
                                  .identity = &f->identity,
                                  .owners_max = 3,
                                  .answer = answer,
                                  .owner = f};
    assert_int_equal(fs_locks_open(&locks, &f->ops.locks), 0);
    *state = f;
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st;
    (void)type;
    (void)walk;
    return remove(path);
}

static int stop(void **state)
{
    struct fixture *f = *state;
    fs_locks_close(f->ops.locks);
    fs_handles_close(f->ops.handles);
    fs_share_close(f->ops.share);
    fs_nodes_close(f->ops.nodes);
    free(f->out);
    assert_int_equal(nftw(f->base, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    free(f);
    return 0;
}

/* ---- what the host does ---- */

static const char *at(struct fixture *f, const char *name, char out[512])
{
    (void)snprintf(out, 512, "%s/%s", f->root, name);
    return out;
}

static void host_file(struct fixture *f, const char *name, const char *text)
{
    char path[512];
    int fd = open(at(f, name, path), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    (void)close(fd);
}

static void host_folder(struct fixture *f, const char *name)
{
    char path[512];
    assert_int_equal(mkdir(at(f, name, path), 0755), 0);
}

static void host_move(struct fixture *f, const char *from, const char *to)
{
    char a[512], b[512];
    assert_int_equal(rename(at(f, from, a), at(f, to, b)), 0);
}

static void host_link(struct fixture *f, const char *from, const char *to)
{
    char a[512], b[512];
    assert_int_equal(link(at(f, from, a), at(f, to, b)), 0);
}

static bool host_has(struct fixture *f, const char *name)
{
    char path[512];
    return faccessat(AT_FDCWD, at(f, name, path), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* ---- what the guest asks ---- */

static int run(struct fixture *f, struct fs_request request, struct fs_reply *ret)
{
    request.name_size = request.name ? strlen(request.name) : 0;
    request.name2_size = request.name2 ? strlen(request.name2) : 0;
    return fs_ops_run(&f->ops, &request, f->out, ret);
}

static int named(struct fixture *f, uint32_t opcode, uint64_t folder, const char *name,
                 uint64_t *ret_node)
{
    struct fs_reply reply = {0};
    int r = run(f,
                (struct fs_request){.opcode = opcode,
                                    .node = folder,
                                    .name = name,
                                    .mode = 0644,
                                    .flags = opcode == FUSE_CREATE ? O_RDWR : 0},
                &reply);
    if (ret_node)
        *ret_node = reply.node;
    return r;
}

static uint64_t find(struct fixture *f, uint64_t folder, const char *name)
{
    uint64_t node;
    int r = named(f, FUSE_LOOKUP, folder, name, &node);
    if (r < 0)
        fail_msg("%s: %d", name, r);
    return node;
}

static int symlink_at(struct fixture *f, uint64_t folder, const char *name, const char *text)
{
    struct fs_reply reply;
    return run(
        f, (struct fs_request){.opcode = FUSE_SYMLINK, .node = folder, .name = name, .name2 = text},
        &reply);
}

static int move(struct fixture *f, uint64_t from, const char *name, uint64_t to, const char *name2,
                unsigned flags)
{
    struct fs_reply reply;
    return run(f,
               (struct fs_request){.opcode = FUSE_RENAME2,
                                   .node = from,
                                   .name = name,
                                   .node2 = to,
                                   .name2 = name2,
                                   .flags = flags},
               &reply);
}

static int link_at(struct fixture *f, uint64_t node, uint64_t folder, const char *name)
{
    struct fs_reply reply;
    return run(
        f, (struct fs_request){.opcode = FUSE_LINK, .node = folder, .node2 = node, .name = name},
        &reply);
}

static int open_at(struct fixture *f, uint64_t node, uint64_t flags, uint64_t *ret_fh)
{
    struct fs_reply reply = {0};
    int r = run(f, (struct fs_request){.opcode = FUSE_OPEN, .node = node, .flags = flags}, &reply);
    if (ret_fh)
        *ret_fh = reply.fh;
    return r;
}

static int set_attr(struct fixture *f, uint64_t node, struct fs_request request)
{
    struct fs_reply reply;
    request.opcode = FUSE_SETATTR;
    request.node = node;
    return run(f, request, &reply);
}

/* ---- tests ---- */

static void hidden_names_are_not_there(void **state)
{
    struct fixture *f = *state;
    host_file(f, "secret", "x");
    host_file(f, "plain", "x");
    assert_int_equal(named(f, FUSE_LOOKUP, 1, "secret", NULL), -ENOENT);
    assert_int_equal(named(f, FUSE_CREATE, 1, "secret2", NULL), -EACCES);
    assert_int_equal(named(f, FUSE_MKDIR, 1, "secrets", NULL), -EACCES);
    assert_int_equal(named(f, FUSE_MKNOD, 1, "secrets", NULL), -EACCES);
    assert_int_equal(symlink_at(f, 1, "secret3", "plain"), -EACCES);
    assert_int_equal(named(f, FUSE_UNLINK, 1, "secret", NULL), -ENOENT);
    assert_int_equal(move(f, 1, "secret", 1, "x", 0), -ENOENT);
    assert_int_equal(move(f, 1, "plain", 1, "secret", 0), -EACCES);
    assert_int_equal(move(f, 1, "plain", 1, "secret", RENAME_EXCHANGE), -EACCES);
    assert_int_equal(move(f, 1, "secret", 1, "plain", RENAME_EXCHANGE), -ENOENT);
    assert_int_equal(link_at(f, find(f, 1, "plain"), 1, "secret4"), -EACCES);
    assert_true(host_has(f, "secret") && host_has(f, "plain"));
}

static void hidden_names_are_not_listed(void **state)
{
    struct fixture *f = *state;
    host_file(f, "secret", "x");
    host_file(f, "a", "x");
    host_link(f, "secret", "innocent");
    (void)named(f, FUSE_LOOKUP, 1, "innocent", NULL);
    for (int plus = 0; plus < 2; plus++) {
        struct fs_reply reply;
        assert_int_equal(run(f, (struct fs_request){.opcode = FUSE_OPENDIR, .node = 1}, &reply), 0);
        assert_int_equal(run(f,
                             (struct fs_request){.opcode = plus ? FUSE_READDIRPLUS : FUSE_READDIR,
                                                 .node = 1,
                                                 .fh = reply.fh,
                                                 .size = 65536},
                             &reply),
                         0);
        struct bg_reader in = bg_reader_init(reply.data, reply.data_size);
        struct fs_dirent entry;
        unsigned seen = 0;
        while (fs_dirent_parse(&in, plus, &entry)) {
            assert_false(entry.name_size == 6 && memcmp(entry.name, "secret", 6) == 0);
            seen += entry.name_size == 1 && entry.name[0] == 'a';
            if (plus && entry.name_size == 8 && memcmp(entry.name, "innocent", 8) == 0)
                fail_msg("a hidden file under another name is listed");
            if (plus && entry.name[0] == 'a')
                assert_int_equal(entry.entry.attr.uid, CLIENT_UID);
        }
        assert_int_equal(seen, 1);
    }
}

static void hidden_files_stay_hidden_by_other_names(void **state)
{
    struct fixture *f = *state;
    host_folder(f, "d");
    host_folder(f, "secrets");
    host_file(f, "secrets/key", "x");
    host_link(f, "secrets/key", "d/innocent");
    host_file(f, "two", "x");
    host_link(f, "two", "names");
    uint64_t d = find(f, 1, "d");
    assert_int_equal(named(f, FUSE_LOOKUP, d, "innocent", NULL), -ENOENT);
    assert_int_equal(named(f, FUSE_CREATE, d, "innocent", NULL), -ENOENT);
    (void)find(f, 1, "names");
    /* Moved by the guest, it is hidden all the same. */
    assert_int_equal(move(f, 1, "d", 1, "e", 0), 0);
    assert_int_equal(named(f, FUSE_LOOKUP, find(f, 1, "e"), "innocent", NULL), -ENOENT);
}

static void what_becomes_hidden_is_gone(void **state)
{
    struct fixture *f = *state;
    host_file(f, "a", "x");
    uint64_t a = find(f, 1, "a");
    host_move(f, "a", "secret");
    assert_int_equal(open_at(f, a, O_RDONLY, NULL), -ESTALE);
}

static void fixed_files_can_be_read_only(void **state)
{
    struct fixture *f = *state;
    host_file(f, "fixed", "x");
    host_file(f, "plain", "x");
    host_link(f, "fixed", "alias");
    uint64_t node = find(f, 1, "fixed"), alias = find(f, 1, "alias");
    assert_int_equal(open_at(f, node, O_RDONLY, NULL), 0);
    assert_int_equal(open_at(f, node, O_WRONLY, NULL), -EROFS);
    assert_int_equal(open_at(f, node, O_RDONLY | O_TRUNC, NULL), -EROFS);
    assert_int_equal(open_at(f, alias, O_RDWR, NULL), -EROFS);
    assert_int_equal(named(f, FUSE_CREATE, 1, "alias", NULL), -EROFS);
    assert_int_equal(set_attr(f, node, (struct fs_request){.valid = FATTR_SIZE}), -EROFS);
    assert_int_equal(set_attr(f, node, (struct fs_request){.valid = FATTR_MODE}), -EROFS);
    struct fs_reply reply;
    assert_int_equal(run(f,
                         (struct fs_request){.opcode = FUSE_SETXATTR,
                                             .node = node,
                                             .name = "user.x",
                                             .data = (const uint8_t *)"x",
                                             .data_size = 1},
                         &reply),
                     -EROFS);
    assert_int_equal(link_at(f, node, 1, "other"), -EROFS);
    assert_int_equal(named(f, FUSE_UNLINK, 1, "fixed", NULL), -EROFS);
    assert_int_equal(move(f, 1, "fixed", 1, "x", 0), -EROFS);
    assert_int_equal(move(f, 1, "plain", 1, "fixed", 0), -EROFS);
    assert_int_equal(move(f, 1, "plain", 1, "fixed", RENAME_EXCHANGE), -EROFS);
    assert_int_equal(named(f, FUSE_MKDIR, 1, "fixed2", NULL), -EROFS);
}

static void frozen_folders_take_no_changes(void **state)
{
    struct fixture *f = *state;
    host_folder(f, "frozen");
    host_file(f, "frozen/a", "x");
    host_file(f, "b", "x");
    uint64_t folder = find(f, 1, "frozen"), a = find(f, folder, "a");
    assert_int_equal(open_at(f, a, O_RDONLY, NULL), 0);
    assert_int_equal(open_at(f, a, O_WRONLY, NULL), -EROFS);
    assert_int_equal(named(f, FUSE_CREATE, folder, "n", NULL), -EROFS);
    assert_int_equal(move(f, 1, "b", folder, "b", 0), -EROFS);
    assert_int_equal(move(f, folder, "a", 1, "c", 0), -EROFS);
    assert_int_equal(named(f, FUSE_RMDIR, 1, "frozen", NULL), -EROFS);
    assert_int_equal(move(f, 1, "frozen", 1, "x", 0), -EROFS);
    assert_int_equal(set_attr(f, folder, (struct fs_request){.valid = FATTR_MODE}), -EROFS);
}

static void anchored_folders_are_not_moved(void **state)
{
    struct fixture *f = *state;
    host_folder(f, "d");
    assert_int_equal(move(f, 1, "d", 1, "anchor", 0), -EACCES);
    assert_int_equal(symlink_at(f, 1, "anchor", "d"), -EACCES);
    assert_int_equal(named(f, FUSE_MKDIR, 1, "anchor", NULL), 0);
    assert_int_equal(move(f, 1, "anchor", 1, "e", 0), -EACCES);
    assert_int_equal(move(f, 1, "d", 1, "anchor", RENAME_EXCHANGE), -EACCES);
    /* A file in its place means nothing. */
    assert_int_equal(named(f, FUSE_RMDIR, 1, "anchor", NULL), 0);
    host_file(f, "x", "x");
    assert_int_equal(move(f, 1, "x", 1, "anchor", 0), 0);
}

static void links_stay_inside(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(symlink_at(f, 1, "l1", "/etc/passwd"), -EPERM);
    assert_int_equal(symlink_at(f, 1, "l2", "../x"), -EPERM);
    assert_int_equal(symlink_at(f, 1, "l3", "d/../../x"), -EPERM);
    assert_int_equal(symlink_at(f, 1, "l4", "d/x"), 0);
    host_folder(f, "d");
    host_folder(f, "d/e");
    uint64_t d = find(f, 1, "d"), e = find(f, d, "e");
    assert_int_equal(symlink_at(f, e, "up", "../../x"), 0);
    assert_int_equal(symlink_at(f, e, "out", "../../../x"), -EPERM);
    /* Moved up by itself, by a further name, and with its folder. */
    assert_int_equal(move(f, e, "up", d, "up", 0), -EPERM);
    assert_int_equal(link_at(f, find(f, e, "up"), d, "up"), -EPERM);
    assert_int_equal(move(f, d, "e", 1, "e", 0), -EXDEV);
    assert_int_equal(named(f, FUSE_UNLINK, e, "up", NULL), 0);
    assert_int_equal(symlink_at(f, e, "up", "../x"), 0);
    assert_int_equal(move(f, d, "e", 1, "e", 0), 0);
    /* Deeper is always fine. */
    assert_int_equal(move(f, 1, "e", d, "e", 0), 0);
    f->rules.any_links = true;
    assert_int_equal(symlink_at(f, 1, "l1", "/etc/passwd"), 0);
}

static void what_the_host_moves_out_is_out_of_reach(void **state)
{
    struct fixture *f = *state;
    host_folder(f, "d");
    host_folder(f, "d/e");
    host_file(f, "d/e/a", "x");
    uint64_t d = find(f, 1, "d"), e = find(f, d, "e"), a = find(f, e, "a");
    host_move(f, "d/e", "../e");
    assert_int_equal(named(f, FUSE_LOOKUP, e, "a", NULL), -ESTALE);
    assert_int_equal(named(f, FUSE_CREATE, e, "n", NULL), -ESTALE);
    assert_int_equal(named(f, FUSE_UNLINK, e, "a", NULL), -ESTALE);
    assert_int_equal(named(f, FUSE_MKDIR, e, "n", NULL), -ESTALE);
    assert_int_equal(move(f, e, "a", 1, "a", 0), -ESTALE);
    assert_int_equal(open_at(f, a, O_WRONLY, NULL), -ESTALE);
    assert_int_equal(set_attr(f, a, (struct fs_request){.valid = FATTR_SIZE}), -ESTALE);
    assert_int_equal(link_at(f, a, 1, "a"), -ESTALE);
    assert_true(host_has(f, "../e/a") && !host_has(f, "../e/n"));
}

static void a_root_that_moves_stays_the_root(void **state)
{
    struct fixture *f = *state;
    host_folder(f, "d");
    uint64_t d = find(f, 1, "d");
    char path[96];
    (void)snprintf(path, sizeof path, "%s/moved", f->base);
    assert_int_equal(rename(f->root, path), 0);
    assert_int_equal(named(f, FUSE_MKDIR, d, "e", NULL), 0);
    assert_int_equal(rename(path, f->root), 0);
    assert_true(host_has(f, "d/e"));
}

static void owners_are_translated(void **state)
{
    struct fixture *f = *state;
    host_file(f, "a", "x");
    struct fs_reply reply;
    uint64_t a = find(f, 1, "a");
    char path[512];
    assert_int_equal(chmod(at(f, "a", path), 06755), 0);
    assert_int_equal(run(f, (struct fs_request){.opcode = FUSE_GETATTR, .node = a}, &reply), 0);
    assert_int_equal(reply.attr.uid, CLIENT_UID);
    assert_int_equal(reply.attr.gid, CLIENT_GID);
    assert_int_equal(reply.attr.mode, S_IFREG | 0755);
    assert_int_equal(reply.attr_valid, 1);
    assert_int_equal(set_attr(f, a, (struct fs_request){.valid = FATTR_UID, .uid = CLIENT_UID}), 0);
    assert_int_equal(set_attr(f, a, (struct fs_request){.valid = FATTR_UID, .uid = 0}), -EPERM);
    assert_int_equal(set_attr(f, a, (struct fs_request){.valid = FATTR_GID, .gid = 0}), -EPERM);
    if (geteuid() == 0) {
        assert_int_equal(chown(path, 4321, 4321), 0);
        assert_int_equal(run(f, (struct fs_request){.opcode = FUSE_GETATTR, .node = a}, &reply), 0);
        assert_int_equal(reply.attr.uid, 65534);
        assert_int_equal(reply.attr.gid, 65534);
        assert_int_equal(link_at(f, a, 1, "b"), -EPERM);
    }
}

static void what_it_may_use_up_is_bounded(void **state)
{
    struct fixture *f = *state;
    static const uint8_t bytes[65536] = {0};
    host_file(f, "a", "");
    uint64_t a = find(f, 1, "a"), fh;
    struct fs_reply reply;
    assert_int_equal(open_at(f, a, O_RDWR, &fh), 0);
    struct fs_request write = {.opcode = FUSE_WRITE,
                               .node = a,
                               .fh = fh,
                               .size = sizeof bytes,
                               .data = bytes,
                               .data_size = sizeof bytes};
    for (int i = 0; i < 16; i++)
        assert_int_equal(run(f, write, &reply), 0);
    assert_int_equal(run(f, write, &reply), -EDQUOT);
    f->rules.write_max = UINT64_MAX;
    struct fs_request allocate = {
        .opcode = FUSE_FALLOCATE, .node = a, .fh = fh, .size = BG_SHARE_ALLOCATE_MAX + 1};
    assert_int_equal(run(f, allocate, &reply), -EFBIG);
    f->rules.space_min = UINT64_MAX;
    allocate.size = 32u << 20; /* enough for another look */
    assert_int_equal(run(f, allocate, &reply), -ENOSPC);
    assert_int_equal(run(f, write, &reply), -ENOSPC);
    assert_int_equal(named(f, FUSE_CREATE, 1, "n", NULL), -ENOSPC);
    f->rules.space_min = 0;
    assert_int_equal(run(f, write, &reply), 0);
    f->rules.inodes_max = 2;
    assert_int_equal(named(f, FUSE_CREATE, 1, "m", NULL), 0);
    assert_int_equal(named(f, FUSE_MKDIR, 1, "o", NULL), -EDQUOT);
    assert_int_equal(
        set_attr(f, a, (struct fs_request){.valid = FATTR_SIZE, .size = BG_SHARE_FILE_MAX + 1}),
        -EFBIG);
}

static void link_texts_are_judged_by_their_words(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t depth;
        bool inside;
    } rows[] = {
        {"a", 0, true},      {"a/b", 0, true},     {".", 0, true},       {"./a", 0, true},
        {"..", 0, false},    {"..", 1, true},      {"../..", 1, false},  {"../../a", 2, true},
        {"./../a", 1, true}, {"./../a", 0, false}, {"a/..", 5, false},   {"../a/..", 5, false},
        {"/", 5, false},     {"", 5, false},       {"a//b", 0, true},    {"..//..", 1, false},
        {"..a", 0, true},    {"...", 0, true},     {"a/.../b", 0, true}, {".././/../a", 2, true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (fs_link_inside(rows[i].text, strlen(rows[i].text), rows[i].depth) != rows[i].inside)
            fail_msg("%s at %zu", rows[i].text, rows[i].depth);
    assert_false(fs_link_inside("a\0b", 3, 0));
    assert_int_equal(fs_path_depth(""), 0);
    assert_int_equal(fs_path_depth("a/b"), 2);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, start, stop)
    const struct CMUnitTest tests[] = {
        TEST(hidden_names_are_not_there),
        TEST(hidden_names_are_not_listed),
        TEST(hidden_files_stay_hidden_by_other_names),
        TEST(what_becomes_hidden_is_gone),
        TEST(fixed_files_can_be_read_only),
        TEST(frozen_folders_take_no_changes),
        TEST(anchored_folders_are_not_moved),
        TEST(links_stay_inside),
        TEST(what_the_host_moves_out_is_out_of_reach),
        TEST(a_root_that_moves_stays_the_root),
        TEST(owners_are_translated),
        TEST(what_it_may_use_up_is_bounded),
        cmocka_unit_test(link_texts_are_judged_by_their_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
