/* The server's operations, without a stream: each test in a folder of its own, once with files
 * opened by handle (root only) and once by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/server/ops.h"

#define FDS_MAX 4u /* so that nearly every use has to open the file again */

struct fixture {
    char root[64];
    struct fs_ops ops;
    struct fs_identity identity;
    uint8_t *out;
    int answers[2]; /* pipe: what waiting locks were answered */
};

struct answer {
    uint64_t unique;
    int error;
};

static void answer(void *owner, uint64_t unique, int error)
{
    const struct fixture *f = owner;
    struct answer a = {.unique = unique, .error = error};
    assert_int_equal(write(f->answers[1], &a, sizeof a), sizeof a);
}

static void signal_seen(int number)
{
    (void)number;
}

static int start(void **state, bool handles)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    (void)snprintf(f->root, sizeof f->root, "/tmp/bg-server-XXXXXX");
    assert_non_null(mkdtemp(f->root));
    assert_int_equal(pipe2(f->answers, O_CLOEXEC), 0);
    f->out = malloc(FS_OPS_OUT_SIZE);
    assert_non_null(f->out);
    struct sigaction seen = {.sa_handler = signal_seen};
    assert_int_equal(sigaction(SIGUSR2, &seen, NULL), 0);
    struct fs_nodes_opts nodes = {
        .root = f->root, .fds_max = FDS_MAX, .handles = handles, .identity = &f->identity};
    assert_int_equal(fs_nodes_open(&nodes, &f->ops.nodes, NULL), 0);
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

static int start_by_name(void **state)
{
    return start(state, false);
}

static int start_by_handle(void **state)
{
    return start(state, geteuid() == 0);
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
    fs_nodes_close(f->ops.nodes);
    (void)close(f->answers[0]);
    (void)close(f->answers[1]);
    free(f->out);
    assert_int_equal(nftw(f->root, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    free(f);
    return 0;
}

static int run(struct fixture *f, struct fs_request request, struct fs_reply *ret)
{
    return fs_ops_run(&f->ops, &request, f->out, ret);
}

static uint64_t look_up(struct fixture *f, uint64_t folder, const char *name)
{
    struct fs_reply reply;
    int r =
        run(f, (struct fs_request){.opcode = FUSE_LOOKUP, .node = folder, .name = name}, &reply);
    if (r < 0)
        fail_msg("%s: %d", name, r);
    return reply.node;
}

static int get_attr(struct fixture *f, uint64_t node, struct fs_attr *ret)
{
    struct fs_reply reply = {0};
    int r = run(f, (struct fs_request){.opcode = FUSE_GETATTR, .node = node}, &reply);
    *ret = reply.attr;
    return r;
}

static uint64_t open_node(struct fixture *f, uint64_t node, uint64_t flags)
{
    struct fs_reply reply;
    assert_int_equal(
        run(f, (struct fs_request){.opcode = FUSE_OPEN, .node = node, .flags = flags}, &reply), 0);
    return reply.fh;
}

static void path_of(const struct fixture *f, const char *name, char out[512])
{
    (void)snprintf(out, 512, "%s/%s", f->root, name);
}

static void put(const struct fixture *f, const char *name, const char *text)
{
    char path[512];
    path_of(f, name, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(close(fd), 0);
}

static void make_folder(const struct fixture *f, const char *name)
{
    char path[512];
    path_of(f, name, path);
    assert_int_equal(mkdir(path, 0755), 0);
}

/* Uses so many other files that no fd of an earlier one is kept. */
static void forget_fds(struct fixture *f)
{
    char name[32];
    for (unsigned i = 0; i < 3 * FDS_MAX; i++) {
        (void)snprintf(name, sizeof name, "other-%u", i);
        put(f, name, "");
        (void)look_up(f, 1, name);
    }
}

static void a_file_keeps_its_node(void **state)
{
    struct fixture *f = *state;
    put(f, "f", "x");
    uint64_t node = look_up(f, 1, "f");
    forget_fds(f);
    assert_int_equal(look_up(f, 1, "f"), node);
    char old[512], new[512];
    path_of(f, "f", old);
    path_of(f, "g", new);
    assert_int_equal(link(old, new), 0);
    assert_int_equal(look_up(f, 1, "g"), node);
    fs_nodes_forget(f->ops.nodes, node, 3);
    struct fs_attr attr;
    assert_int_equal(get_attr(f, node, &attr), -ESTALE);
    assert_true(look_up(f, 1, "f") != node);
}

static void deep_files_are_opened_again(void **state)
{
    struct fixture *f = *state;
    char path[256];
    uint64_t node = 1;
    size_t used = 0;
    for (int depth = 0; depth < 20; depth++) {
        used += (size_t)snprintf(path + used, sizeof path - used, "%sd", depth ? "/" : "");
        make_folder(f, path);
        node = look_up(f, node, "d");
    }
    (void)snprintf(path + used, sizeof path - used, "/d");
    put(f, path, "deep");
    node = look_up(f, node, "d");
    forget_fds(f);
    struct fs_attr attr;
    assert_int_equal(get_attr(f, node, &attr), 0);
    assert_int_equal(attr.size, 4);
}

static void another_file_at_the_place_is_stale(void **state)
{
    struct fixture *f = *state;
    char old[512], new[512];
    struct fs_attr attr;
    put(f, "f", "first");
    uint64_t node = look_up(f, 1, "f");
    forget_fds(f);
    path_of(f, "f", old);
    path_of(f, "gone", new);
    assert_int_equal(rename(old, new), 0);
    assert_int_equal(unlink(new), 0);
    put(f, "f", "second");
    assert_int_equal(get_attr(f, node, &attr), -ESTALE);
    assert_true(look_up(f, 1, "f") != node);
}

static void the_clients_own_moves_are_followed(void **state)
{
    struct fixture *f = *state;
    struct fs_attr attr;
    struct fs_reply reply;
    make_folder(f, "a");
    make_folder(f, "b");
    put(f, "a/f", "text");
    uint64_t a = look_up(f, 1, "a"), b = look_up(f, 1, "b"), file = look_up(f, a, "f");
    struct fs_request move = {
        .opcode = FUSE_RENAME2, .node = a, .node2 = b, .name = "f", .name2 = "g"};
    assert_int_equal(run(f, move, &reply), 0);
    struct fs_request move_folder = {
        .opcode = FUSE_RENAME, .node = 1, .node2 = a, .name = "b", .name2 = "c"};
    assert_int_equal(run(f, move_folder, &reply), 0);
    forget_fds(f);
    assert_int_equal(get_attr(f, file, &attr), 0);
    assert_int_equal(attr.size, 4);
    move.flags = RENAME_WHITEOUT;
    assert_int_equal(run(f, move, &reply), -EINVAL);
}

static void open_files_outlive_their_name_and_node(void **state)
{
    struct fixture *f = *state;
    struct fs_attr attr;
    struct fs_reply reply;
    char path[512];
    put(f, "f", "text");
    uint64_t node = look_up(f, 1, "f"), fh = open_node(f, node, O_RDWR);
    path_of(f, "f", path);
    assert_int_equal(unlink(path), 0);
    forget_fds(f);
    assert_int_equal(get_attr(f, node, &attr), 0);
    assert_int_equal(attr.nlink, 0);
    fs_nodes_forget(f->ops.nodes, node, 1);
    struct fs_request read = {.opcode = FUSE_READ, .node = node, .fh = fh, .size = 100};
    assert_int_equal(run(f, read, &reply), 0);
    assert_int_equal(reply.data_size, 4);
    assert_memory_equal(reply.data, "text", 4);
    struct fs_request release = {.opcode = FUSE_RELEASE, .node = node, .fh = fh};
    assert_int_equal(run(f, release, &reply), 0);
    assert_int_equal(run(f, read, &reply), -EBADF);
    assert_int_equal(run(f, release, &reply), -EBADF);
}

static void pieces_are_written_in_order_or_not_at_all(void **state)
{
    struct fixture *f = *state;
    put(f, "f", "");
    uint64_t node = look_up(f, 1, "f"), fh = open_node(f, node, O_RDWR);
    uint8_t data[3 * FS_PIECE_SIZE + 12];
    struct bg_writer w = bg_writer_init(data, sizeof data);
    static const struct {
        uint64_t offset;
        const char *text;
    } pieces[] = {{4, "aaaa"}, {0, "bbbb"}, {2, "cccc"}};
    for (size_t i = 0; i < 3; i++) {
        bg_writer_u64le(&w, pieces[i].offset);
        bg_writer_u32le(&w, 4);
        bg_writer_u32le(&w, 0);
        bg_writer_bytes(&w, pieces[i].text, 4);
    }
    assert_true(bg_writer_ok(&w) && w.used == sizeof data);
    struct fs_request request = {.opcode = FUSE_WRITE,
                                 .node = node,
                                 .fh = fh,
                                 .flags2 = FS_WRITE_WHOLE | FS_WRITE_PIECES,
                                 .data = data};
    struct fs_reply reply;
    struct fs_attr attr;
    for (size_t cut = 1; cut < sizeof data; cut++) {
        if (cut % (FS_PIECE_SIZE + 4) == 0)
            continue;
        request.size = request.data_size = cut;
        assert_int_equal(run(f, request, &reply), -EINVAL);
    }
    request.size = request.data_size = sizeof data;
    for (size_t i = 8; i < 16; i++) { /* no size, too large a size; what must be 0 */
        uint8_t before = data[i];
        data[i] = before == 4 ? 0 : 1;
        assert_int_equal(run(f, request, &reply), -EINVAL);
        data[i] = before;
    }
    assert_int_equal(get_attr(f, node, &attr), 0);
    assert_int_equal(attr.size, 0);
    assert_int_equal(run(f, request, &reply), 0);
    assert_int_equal(reply.size, sizeof data);
    struct fs_request read = {.opcode = FUSE_READ, .node = node, .fh = fh, .size = 100};
    assert_int_equal(run(f, read, &reply), 0);
    assert_int_equal(reply.data_size, 8);
    assert_memory_equal(reply.data, "bbccccaa", 8);
}

static void handles_belong_to_their_node_and_kind(void **state)
{
    struct fixture *f = *state;
    struct fs_reply reply;
    put(f, "f", "f");
    put(f, "g", "g");
    uint64_t a = look_up(f, 1, "f"), b = look_up(f, 1, "g"), fh = open_node(f, a, O_RDONLY);
    struct fs_request read = {.opcode = FUSE_READ, .node = b, .fh = fh, .size = 10};
    assert_int_equal(run(f, read, &reply), -EBADF);
    read.node = a;
    read.fh = fh + 1;
    assert_int_equal(run(f, read, &reply), -EBADF);
    struct fs_request list = {.opcode = FUSE_READDIR, .node = a, .fh = fh, .size = 4096};
    assert_int_equal(run(f, list, &reply), -EBADF);
    for (int i = 0; i < 99; i++)
        (void)open_node(f, a, O_RDONLY);
    assert_int_equal(run(f, (struct fs_request){.opcode = FUSE_OPEN, .node = a}, &reply), -ENFILE);
}

static void links_are_not_followed(void **state)
{
    struct fixture *f = *state;
    struct fs_reply reply;
    char path[512];
    path_of(f, "link", path);
    assert_int_equal(symlink("/etc", path), 0);
    uint64_t node = look_up(f, 1, "link");
    struct fs_request below = {.opcode = FUSE_LOOKUP, .node = node, .name = "passwd"};
    assert_int_equal(run(f, below, &reply), -ENOTDIR);
    assert_int_equal(run(f, (struct fs_request){.opcode = FUSE_OPEN, .node = node}, &reply),
                     -ELOOP);
    assert_int_equal(run(f, (struct fs_request){.opcode = FUSE_OPENDIR, .node = node}, &reply),
                     -ENOTDIR);
    struct fs_request create = {
        .opcode = FUSE_CREATE, .node = 1, .name = "link", .flags = O_RDWR, .mode = 0644};
    assert_int_equal(run(f, create, &reply), -ELOOP);
    assert_int_equal(run(f, (struct fs_request){.opcode = FUSE_READLINK, .node = node}, &reply), 0);
    assert_memory_equal(reply.data, "/etc", 4);
}

static void pipes_are_never_opened(void **state)
{
    struct fixture *f = *state;
    struct fs_reply reply;
    char path[512];
    path_of(f, "pipe", path);
    assert_int_equal(mkfifo(path, 0644), 0);
    uint64_t node = look_up(f, 1, "pipe");
    assert_int_equal(run(f, (struct fs_request){.opcode = FUSE_OPEN, .node = node}, &reply),
                     -EACCES);
    struct fs_request create = {.opcode = FUSE_CREATE, .node = 1, .name = "pipe", .mode = 0644};
    assert_int_equal(run(f, create, &reply), -EACCES); /* and does not wait for a writer */
    struct fs_request make = {
        .opcode = FUSE_MKNOD, .node = 1, .name = "dev", .mode = S_IFCHR | 0644, .rdev = 0x103};
    assert_int_equal(run(f, make, &reply), -EPERM);
}

static void a_read_only_server_changes_nothing(void **state)
{
    struct fixture *f = *state;
    struct fs_reply reply;
    put(f, "f", "x");
    uint64_t node = look_up(f, 1, "f");
    f->ops.read_only = true;
    for (uint32_t opcode = 1; opcode < FS_OPCODE_MAX; opcode++)
        if (fs_op_mutates(opcode))
            assert_int_equal(
                run(f,
                    (struct fs_request){
                        .opcode = opcode, .node = 1, .node2 = node, .name = "f", .name2 = "g"},
                    &reply),
                -EROFS);
    static const uint64_t flags[] = {O_WRONLY, O_RDWR, O_TRUNC};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(
            run(f, (struct fs_request){.opcode = FUSE_OPEN, .node = node, .flags = flags[i]},
                &reply),
            -EROFS);
    (void)open_node(f, node, O_RDONLY);
}

static void modes_stay_below_set_id(void **state)
{
    struct fixture *f = *state;
    struct fs_reply reply;
    struct stat st;
    char path[512];
    struct fs_request make = {.opcode = FUSE_MKDIR, .node = 1, .name = "d", .mode = 07777};
    assert_int_equal(run(f, make, &reply), 0);
    assert_int_equal(reply.attr.mode & 07000, 0);
    path_of(f, "d", path);
    assert_int_equal(chmod(path, 02775), 0); /* by the machine itself */
    struct fs_request set = {
        .opcode = FUSE_SETATTR, .node = reply.node, .valid = FATTR_MODE, .mode = 0700};
    assert_int_equal(run(f, set, &reply), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 02700); /* keeps what the client does not see */
}

static size_t list(struct fixture *f, uint64_t fh, bool plus, uint64_t size, uint64_t *ret_last)
{
    struct fs_reply reply;
    struct fs_request request = {.opcode = plus ? FUSE_READDIRPLUS : FUSE_READDIR,
                                 .node = 1,
                                 .fh = fh,
                                 .size = size,
                                 .offset = *ret_last};
    assert_int_equal(run(f, request, &reply), 0);
    assert_true(reply.data_size <= size);
    struct bg_reader in = bg_reader_init(reply.data, reply.data_size);
    struct fs_dirent entry;
    size_t count = 0;
    while (fs_dirent_parse(&in, plus, &entry)) {
        count++;
        *ret_last = entry.offset;
        bool dots = entry.name[0] == '.';
        assert_int_equal(entry.entry.node != 0, plus && !dots);
    }
    assert_true(bg_reader_end(&in));
    return count;
}

static void folders_are_listed_in_pieces(void **state)
{
    struct fixture *f = *state;
    struct fs_reply reply;
    char name[32];
    for (int i = 0; i < 200; i++) {
        (void)snprintf(name, sizeof name, "a-file-%d", i);
        put(f, name, "");
    }
    static const uint64_t sizes[] = {200, 500, 4096, 65536};
    for (size_t i = 0; i < 8; i++) {
        assert_int_equal(run(f, (struct fs_request){.opcode = FUSE_OPENDIR, .node = 1}, &reply), 0);
        uint64_t last = 0, fh = reply.fh;
        size_t count = 0, more;
        while ((more = list(f, fh, i % 2, sizes[i / 2], &last)) > 0)
            count += more;
        assert_int_equal(count, 202);
    }
    struct fs_request tiny = {.opcode = FUSE_READDIR, .node = 1, .fh = reply.fh, .size = 20};
    assert_int_equal(run(f, tiny, &reply), -EINVAL);
}

static struct fs_request lock_request(uint64_t node, uint64_t fh, uint64_t owner, uint32_t type)
{
    return (struct fs_request){.opcode = FUSE_SETLK,
                               .node = node,
                               .fh = fh,
                               .owner = owner,
                               .lock_end = 9,
                               .lock_type = type};
}

static void locks_are_the_owners(void **state)
{
    struct fixture *f = *state;
    struct fs_reply reply;
    put(f, "f", "0123456789");
    uint64_t node = look_up(f, 1, "f"), fh = open_node(f, node, O_RDWR);
    assert_int_equal(run(f, lock_request(node, fh, 1, F_WRLCK), &reply), 0);
    assert_int_equal(run(f, lock_request(node, fh, 1, F_RDLCK), &reply), 0);
    assert_int_equal(run(f, lock_request(node, fh, 2, F_WRLCK), &reply), -EAGAIN);
    struct fs_request ask = lock_request(node, fh, 2, F_WRLCK);
    ask.opcode = FUSE_GETLK;
    assert_int_equal(run(f, ask, &reply), 0);
    assert_int_equal(reply.lock_type, F_RDLCK);
    assert_int_equal(reply.lock_end, 9);
    assert_int_equal(reply.lock_pid, 0);
    struct fs_request flush = {.opcode = FUSE_FLUSH, .node = node, .fh = fh, .owner = 1};
    assert_int_equal(run(f, flush, &reply), 0);
    assert_int_equal(run(f, lock_request(node, fh, 2, F_WRLCK), &reply), 0);
    assert_int_equal(run(f, lock_request(node, fh, 3, F_UNLCK), &reply), 0);
    assert_int_equal(run(f, lock_request(node, fh, 4, F_UNLCK), &reply), 0);
    assert_int_equal(run(f, lock_request(node, fh, 5, F_UNLCK), &reply), -ENOLCK); /* too many */
    uint64_t reader = open_node(f, node, O_RDONLY);
    assert_int_equal(run(f, lock_request(node, reader, 2, F_WRLCK), &reply), -EBADF);
    struct fs_request bad = lock_request(node, fh, 2, F_WRLCK);
    bad.lock_start = 10;
    assert_int_equal(run(f, bad, &reply), -EINVAL);
    bad = lock_request(node, fh, 2, 77);
    assert_int_equal(run(f, bad, &reply), -EINVAL);
}

static void locks_end_with_the_handle_that_took_them(void **state)
{
    struct fixture *f = *state;
    struct fs_reply reply;
    put(f, "f", "0123456789");
    uint64_t node = look_up(f, 1, "f"), one = open_node(f, node, O_RDWR),
             two = open_node(f, node, O_RDWR);
    /* Open file descriptions that lock: each is an owner, and nothing but RELEASE tells its end. */
    assert_int_equal(run(f, lock_request(node, one, 71, F_WRLCK), &reply), 0);
    assert_int_equal(run(f, lock_request(node, two, 72, F_WRLCK), &reply), -EAGAIN);
    struct fs_request release = {.opcode = FUSE_RELEASE, .node = node, .fh = one};
    assert_int_equal(run(f, release, &reply), 0);
    assert_int_equal(run(f, lock_request(node, two, 72, F_WRLCK), &reply), 0);
}

static void nameless_files_can_be_given_a_name(void **state)
{
    struct fixture *f = *state;
    struct fs_reply made, reply;
    struct fs_request request = {
        .opcode = FUSE_TMPFILE, .node = 1, .name = "/", .flags = O_RDWR, .mode = 07640};
    assert_int_equal(run(f, request, &made), 0);
    assert_int_equal(made.attr.mode, S_IFREG | 0640);
    assert_int_equal(made.attr.nlink, 0);
    forget_fds(f);
    struct fs_request write = {.opcode = FUSE_WRITE,
                               .node = made.node,
                               .fh = made.fh,
                               .data = (const uint8_t *)"text",
                               .data_size = 4};
    assert_int_equal(run(f, write, &reply), 0);
    struct fs_request link = {.opcode = FUSE_LINK, .node = 1, .node2 = made.node, .name = "named"};
    assert_int_equal(run(f, link, &reply), 0);
    assert_int_equal(reply.node, made.node);
    assert_int_equal(reply.attr.nlink, 1);
    assert_int_equal(reply.attr.size, 4);
    put(f, "plain", "x");
    request.node = look_up(f, 1, "plain");
    assert_int_equal(run(f, request, &reply), -ENOTDIR);
    request = (struct fs_request){
        .opcode = FUSE_TMPFILE, .node = 1, .name = "/", .flags = O_RDWR | O_EXCL, .mode = 0600};
    assert_int_equal(run(f, request, &made), 0);
    link = (struct fs_request){.opcode = FUSE_LINK, .node = 1, .node2 = made.node, .name = "never"};
    assert_int_equal(run(f, link, &reply), -ENOENT);
}

static void texts_of_links_are_cleaned_when_asked_for(void **state)
{
    struct fixture *f = *state;
    char path[512];
    make_folder(f, "a");
    make_folder(f, "a/b");
    make_folder(f, "c");
    path_of(f, "a/link", path);
    assert_int_equal(symlink("b/../../c/x", path), 0);
    uint64_t a = look_up(f, 1, "a"), c = look_up(f, 1, "c"), link = look_up(f, a, "link");
    struct fs_request request = {.opcode = FUSE_READLINK, .node = link};
    struct fs_reply reply;
    static const struct {
        bool clean;
        const char *want;
    } table[] = {{false, "b/../../c/x"}, {true, "../c/x"}};
    for (size_t i = 0; i < 2; i++) {
        f->ops.clean_links = table[i].clean;
        forget_fds(f);
        assert_int_equal(run(f, request, &reply), 0);
        assert_int_equal(reply.data_size, strlen(table[i].want));
        assert_memory_equal(reply.data, table[i].want, reply.data_size);
    }
    /* Where it was moved to, it leads nowhere: the text is given as it is. */
    struct fs_request move = {
        .opcode = FUSE_RENAME, .node = a, .name = "link", .node2 = c, .name2 = "moved"};
    assert_int_equal(run(f, move, &reply), 0);
    assert_int_equal(run(f, request, &reply), 0);
    assert_int_equal(reply.data_size, 11);
    make_folder(f, "c/b");
    assert_int_equal(run(f, request, &reply), 0);
    assert_int_equal(reply.data_size, 6);
    assert_memory_equal(reply.data, "../c/x", 6);
}

static struct answer next_answer(const struct fixture *f)
{
    struct answer a;
    assert_int_equal(read(f->answers[0], &a, sizeof a), sizeof a);
    return a;
}

static void waiting_ends_with_the_lock_or_an_interrupt(void **state)
{
    struct fixture *f = *state;
    struct fs_reply reply;
    put(f, "f", "0123456789");
    uint64_t node = look_up(f, 1, "f"), fh = open_node(f, node, O_RDWR);
    assert_int_equal(run(f, lock_request(node, fh, 1, F_WRLCK), &reply), 0);
    struct fs_request wait = lock_request(node, fh, 2, F_WRLCK);
    wait.opcode = FUSE_SETLKW;
    wait.unique = 100;
    assert_int_equal(run(f, wait, &reply), -EINPROGRESS);
    fs_ops_run_silent(&f->ops, &(struct fs_request){.opcode = FUSE_INTERRUPT, .interrupted = 99});
    fs_ops_run_silent(&f->ops, &(struct fs_request){.opcode = FUSE_INTERRUPT, .interrupted = 100});
    struct answer a = next_answer(f);
    assert_int_equal(a.unique, 100);
    assert_int_equal(a.error, -EINTR);
    wait.unique = 101;
    assert_int_equal(run(f, wait, &reply), -EINPROGRESS);
    assert_int_equal(run(f, lock_request(node, fh, 1, F_UNLCK), &reply), 0);
    a = next_answer(f);
    assert_int_equal(a.unique, 101);
    assert_int_equal(a.error, 0);
    wait = lock_request(node, fh, 1, F_WRLCK);
    wait.opcode = FUSE_SETLKW;
    assert_int_equal(run(f, wait, &reply), -EINPROGRESS); /* closing the server ends it */
}

static void views_into_the_kernel_are_hollow(void **state)
{
    struct fixture *f = *state;
    struct fs_nodes *nodes;
    struct fs_nodes_opts opts = {.root = "/", .fds_max = FDS_MAX, .identity = &f->identity};
    assert_int_equal(fs_nodes_open(&opts, &nodes, NULL), 0);
    struct fs_pin root, proc;
    struct statx st;
    uint64_t id;
    assert_int_equal(fs_nodes_get(nodes, 1, &root), 0);
    assert_int_equal(fs_nodes_lookup(nodes, &root, "proc", false, &id, &st), 0);
    assert_int_equal(st.stx_mode, S_IFDIR | 0555);
    assert_int_equal(fs_nodes_get(nodes, id, &proc), 0);
    assert_true(proc.hollow);
    assert_int_equal(fs_nodes_lookup(nodes, &proc, "self", false, &id, &st), -ENOENT);
    fs_nodes_put(nodes, &proc);
    fs_nodes_put(nodes, &root);
    fs_nodes_close(nodes);
    opts.root = "/proc";
    struct bg_err err;
    assert_int_equal(fs_nodes_open(&opts, &nodes, &err), -EINVAL);
    opts.root = "/nonexistent";
    assert_int_equal(fs_nodes_open(&opts, &nodes, &err), -ENOENT);
}

int main(void)
{
#define BOTH_WAYS(name)                                                                            \
    cmocka_unit_test_setup_teardown(name, start_by_handle, stop),                                  \
        cmocka_unit_test_setup_teardown(name, start_by_name, stop)
    const struct CMUnitTest tests[] = {
        BOTH_WAYS(a_file_keeps_its_node),
        BOTH_WAYS(deep_files_are_opened_again),
        BOTH_WAYS(another_file_at_the_place_is_stale),
        BOTH_WAYS(the_clients_own_moves_are_followed),
        BOTH_WAYS(open_files_outlive_their_name_and_node),
        BOTH_WAYS(pieces_are_written_in_order_or_not_at_all),
        BOTH_WAYS(handles_belong_to_their_node_and_kind),
        BOTH_WAYS(links_are_not_followed),
        BOTH_WAYS(pipes_are_never_opened),
        BOTH_WAYS(a_read_only_server_changes_nothing),
        BOTH_WAYS(modes_stay_below_set_id),
        BOTH_WAYS(folders_are_listed_in_pieces),
        BOTH_WAYS(locks_are_the_owners),
        BOTH_WAYS(locks_end_with_the_handle_that_took_them),
        BOTH_WAYS(nameless_files_can_be_given_a_name),
        BOTH_WAYS(texts_of_links_are_cleaned_when_asked_for),
        BOTH_WAYS(waiting_ends_with_the_lock_or_an_interrupt),
        BOTH_WAYS(views_into_the_kernel_are_hollow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
