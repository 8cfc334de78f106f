/* bellglass-share against a hostile guest: the test is the guest's kernel, on a socketpair. What is
 * in the folder "outside" beside the shared one must stay as it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "fs/proto/proto.h"

#define DEADLINE_S 60
#define OWNER      1u /* of the folder where the test is root */
#define GUEST_UID  1000u
#define ARGS_MAX   16
#define WALKS      3000

struct share {
    char base[64], root[80], outside[80];
    pid_t pid;               /* 0: ended */
    bool no_namespaces;      /* as on machines that do not let us have any */
    bool useless_namespaces; /* with it: as on those where they are good for nothing */
    rlim_t files_max;        /* RLIMIT_NOFILE of the server; 0: as it is */
    int fd;
    uint64_t unique;
    uint8_t in[BG_FS_MESSAGE_MAX], out[BG_FS_MESSAGE_MAX];
};

/* ---- the host ---- */

static void put(const char *folder, const char *name, const char *text)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(bg_write_full(fd, text, strlen(text)), 0);
    (void)close(fd);
}

static void make_folder(const char *folder, const char *name)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(mkdir(path, 0755), 0);
}

static int give_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st;
    (void)type;
    (void)walk;
    return lchown(path, OWNER, OWNER);
}

/* All below the share becomes an ordinary user's. */
static void give_away(const struct share *s)
{
    if (geteuid() == 0)
        assert_int_equal(nftw(s->root, give_one, 16, FTW_PHYS | FTW_MOUNT), 0);
}

static size_t count_below;
static uint64_t sum_below;

static int sum_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)type;
    (void)walk;
    count_below++;
    for (const char *p = path; *p; p++)
        sum_below = sum_below * 31 + (unsigned char)*p;
    sum_below = sum_below * 31 + (uint64_t)st->st_size + st->st_mode;
    sum_below = sum_below * 31 + (uint64_t)st->st_mtim.tv_nsec + (uint64_t)st->st_ctim.tv_nsec;
    return 0;
}

/* Tells any change of what is below a folder. */
static uint64_t fingerprint(const char *folder)
{
    count_below = 0;
    sum_below = 0;
    assert_int_equal(nftw(folder, sum_one, 16, FTW_PHYS), 0);
    return sum_below + count_below;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st;
    (void)type;
    (void)walk;
    return remove(path);
}

static int prepare(void **state)
{
    struct share *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->fd = -1;
    (void)snprintf(s->base, sizeof s->base, "/tmp/bg-hostile-XXXXXX");
    assert_non_null(mkdtemp(s->base));
    assert_int_equal(chmod(s->base, 0755), 0);
    (void)snprintf(s->root, sizeof s->root, "%s/root", s->base);
    (void)snprintf(s->outside, sizeof s->outside, "%s/outside", s->base);
    make_folder(s->base, "root");
    make_folder(s->base, "outside");
    put(s->outside, "a", "outside");
    make_folder(s->outside, "sub");
    /* Whoever gets there could do everything: the server alone has to stay out. */
    assert_int_equal(chmod(s->outside, 0777), 0);
    *state = s;
    return 0;
}

/* Closes the stream and waits; returns the exit status, 128+N for a signal. */
static int end_server(struct share *s)
{
    int status = 0;
    (void)close(s->fd);
    s->fd = -1;
    assert_int_equal(waitpid(s->pid, &status, 0), s->pid); /* an alarm bounds it */
    s->pid = 0;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int finish(void **state)
{
    struct share *s = *state;
    if (s->pid != 0)
        (void)end_server(s);
    assert_int_equal(nftw(s->base, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    free(s);
    return 0;
}

/* ---- the guest ---- */

/* unshare fails for everything but what a thread does about its umask; or it works, and then
 * nothing may be mounted. */
static int forbid_namespaces(bool useless)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int r = -ENOMEM;
    if (filter && useless)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(mount), 0);
    else if (filter)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(unshare), 1,
                             SCMP_A0(SCMP_CMP_NE, CLONE_FS));
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r;
}

static void start_server(struct share *s, const char *option)
{
    int pair[2];
    char number[16];
    const struct timeval limit = {.tv_sec = DEADLINE_S};
    const char *program = getenv("BG_TEST_SHARE");
    assert_non_null(program);
    give_away(s);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    s->pid = fork();
    assert_true(s->pid >= 0);
    if (s->pid == 0) {
        int theirs = fcntl(pair[1], F_DUPFD, 10); /* stays open */
        if (s->no_namespaces && forbid_namespaces(s->useless_namespaces) < 0)
            _exit(127);
        const struct rlimit limit_files = {s->files_max, s->files_max};
        if (s->files_max > 0 && setrlimit(RLIMIT_NOFILE, &limit_files) < 0)
            _exit(127);
        (void)snprintf(number, sizeof number, "%d", theirs);
        (void)execl(program, program, "--stream-fd", number, "--root", s->root, option,
                    (char *)NULL);
        _exit(127);
    }
    (void)close(pair[1]);
    s->fd = pair[0];
    assert_int_equal(setsockopt(s->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
    uint8_t bytes[FS_HELLO_SIZE];
    struct fs_hello theirs, ours = {.uid = GUEST_UID, .gid = GUEST_UID};
    fs_hello_emit(&ours, bytes);
    assert_int_equal(bg_write_full(s->fd, bytes, sizeof bytes), 0);
    assert_int_equal(bg_read_full(s->fd, bytes, sizeof bytes), 0);
    assert_int_equal(fs_hello_parse(bytes, sizeof bytes, true, &theirs, NULL), 0);
}

static int send_request(struct share *s, struct fs_request request)
{
    request.unique = ++s->unique;
    request.name_size = request.name ? strlen(request.name) : 0;
    request.name2_size = request.name2 ? strlen(request.name2) : 0;
    struct bg_writer w = bg_writer_init(s->out, sizeof s->out);
    fs_request_emit(&request, &w);
    bg_writer_bytes(&w, request.data, request.data_size);
    assert_true(bg_writer_ok(&w));
    return bg_write_full(s->fd, s->out, w.used);
}

/* Negative errno of the reply; -ECONNRESET: the server has ended the stream. */
static int read_reply(struct share *s, uint32_t opcode, struct fs_reply *ret)
{
    size_t size;
    if (bg_read_full(s->fd, s->in, 4) < 0)
        return -ECONNRESET;
    assert_int_equal(fs_message_size(s->in, FS_REPLY_HEADER_SIZE, &size, NULL), 0);
    if (bg_read_full(s->fd, s->in + 4, size - 4) < 0)
        return -ECONNRESET;
    assert_int_equal(fs_reply_parse(opcode, s->in, size, ret, NULL), 0);
    assert_int_equal(ret->unique, s->unique);
    return ret->error;
}

static int ask(struct share *s, struct fs_request request, struct fs_reply *ret)
{
    *ret = (struct fs_reply){0};
    if (send_request(s, request) < 0)
        return -ECONNRESET;
    return read_reply(s, request.opcode, ret);
}

static int find(struct share *s, uint64_t folder, const char *name, uint64_t *ret_node)
{
    struct fs_reply reply;
    int r =
        ask(s, (struct fs_request){.opcode = FUSE_LOOKUP, .node = folder, .name = name}, &reply);
    *ret_node = reply.node;
    return r;
}

static uint64_t must_find(struct share *s, uint64_t folder, const char *name)
{
    uint64_t node;
    assert_int_equal(find(s, folder, name, &node), 0);
    return node;
}

static int open_node(struct share *s, uint64_t node, uint64_t flags, uint64_t *ret_fh)
{
    struct fs_reply reply;
    int r = ask(s, (struct fs_request){.opcode = FUSE_OPEN, .node = node, .flags = flags}, &reply);
    if (ret_fh && r == 0)
        *ret_fh = reply.fh;
    return r;
}

/* ---- names ---- */

static void names_that_are_no_names_end_the_stream(void **state)
{
    struct share *s = *state;
    static const char *const names[] = {"..", ".", "/", "../outside/a", "/etc/passwd", "d/a", ""};
    static const uint32_t opcodes[] = {FUSE_LOOKUP, FUSE_MKDIR,   FUSE_MKNOD,
                                       FUSE_CREATE, FUSE_UNLINK,  FUSE_RMDIR,
                                       FUSE_RENAME, FUSE_SYMLINK, FUSE_LINK};
    make_folder(s->root, "d");
    put(s->root, "d/a", "x");
    uint64_t before = fingerprint(s->outside);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (size_t k = 0; k < sizeof opcodes / sizeof *opcodes; k++) {
            struct fs_reply reply;
            start_server(s, NULL);
            struct fs_request request = {
                .opcode = opcodes[k], .node = 1, .node2 = 1, .name = names[i], .mode = 0755};
            if (opcodes[k] == FUSE_RENAME || opcodes[k] == FUSE_SYMLINK)
                request.name2 = "x";
            assert_int_equal(ask(s, request, &reply), -ECONNRESET);
            assert_int_equal(end_server(s), 1); /* and not by a signal */
        }
    assert_true(fingerprint(s->outside) == before);
}

static void noise_ends_the_stream(void **state)
{
    struct share *s = *state;
    uint8_t noise[4096];
    for (unsigned seed = 0; seed < 50; seed++) {
        start_server(s, NULL);
        for (size_t i = 0; i < sizeof noise; i++)
            noise[i] = (uint8_t)((i * 2654435761u + seed * 40503u) >> 13);
        noise[1] = noise[2] = noise[3] = 0; /* a length that could be */
        noise[0] |= 0x40;
        if (bg_write_full(s->fd, noise, sizeof noise) == 0)
            (void)shutdown(s->fd, SHUT_WR);
        while (read(s->fd, s->in, sizeof s->in) > 0)
            ;
        assert_true(end_server(s) <= 1);
    }
}

/* ---- races ---- */

struct swapper {
    struct share *share;
    atomic_bool stop;
};

/* Puts a link to the outside in the place of a folder, and the folder back, again and again. */
static void *swap(void *arg)
{
    struct swapper *w = arg;
    char d[128], kept[128];
    (void)snprintf(d, sizeof d, "%s/d", w->share->root);
    (void)snprintf(kept, sizeof kept, "%s/kept", w->share->root);
    while (!atomic_load(&w->stop)) {
        if (rename(d, kept) == 0 && symlink(w->share->outside, d) == 0) {
            (void)sched_yield();
            (void)unlink(d);
        }
        (void)rename(kept, d);
    }
    return NULL;
}

static void swapped_folders_lead_nowhere(void **state)
{
    struct share *s = *state;
    make_folder(s->root, "d");
    make_folder(s->root, "d/sub");
    put(s->root, "d/a", "inside");
    uint64_t before = fingerprint(s->outside);
    start_server(s, NULL);
    struct swapper w = {.share = s};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, swap, &w), 0);
    unsigned reached = 0;
    for (int i = 0; i < WALKS || reached == 0; i++) { /* the alarm ends it */
        struct fs_reply reply;
        uint64_t d, a, fh;
        if (find(s, 1, "d", &d) < 0)
            continue;
        if (find(s, d, "a", &a) == 0 && open_node(s, a, O_RDWR, &fh) == 0) {
            reached++;
            assert_int_equal(
                ask(s, (struct fs_request){.opcode = FUSE_READ, .node = a, .fh = fh, .size = 7},
                    &reply),
                0);
            assert_int_equal(reply.data_size, 6);
            assert_memory_equal(reply.data, "inside", 6);
            (void)ask(s,
                      (struct fs_request){.opcode = FUSE_WRITE,
                                          .node = a,
                                          .fh = fh,
                                          .size = 6,
                                          .data = (const uint8_t *)"inside",
                                          .data_size = 6},
                      &reply);
            (void)ask(s, (struct fs_request){.opcode = FUSE_RELEASE, .node = a, .fh = fh}, &reply);
        }
        static const struct fs_request changes[] = {
            {.opcode = FUSE_CREATE, .name = "n", .flags = O_RDWR, .mode = 0644},
            {.opcode = FUSE_UNLINK, .name = "n"},
            {.opcode = FUSE_MKDIR, .name = "m", .mode = 0755},
            {.opcode = FUSE_RMDIR, .name = "m"},
            {.opcode = FUSE_SYMLINK, .name = "l", .name2 = "a"},
            {.opcode = FUSE_UNLINK, .name = "l"},
            {.opcode = FUSE_SETATTR, .valid = FATTR_MODE, .mode = 0755},
        };
        for (size_t k = 0; k < sizeof changes / sizeof *changes; k++) {
            struct fs_request request = changes[k];
            request.node = d;
            if (ask(s, request, &reply) == 0 && request.opcode == FUSE_CREATE)
                (void)ask(
                    s,
                    (struct fs_request){.opcode = FUSE_RELEASE, .node = reply.node, .fh = reply.fh},
                    &reply);
        }
    }
    atomic_store(&w.stop, true);
    (void)pthread_join(thread, NULL);
    assert_true(fingerprint(s->outside) == before);
    assert_int_equal(end_server(s), 0);
}

/* ---- special files and mounts ---- */

static void special_files_are_not_opened(void **state)
{
    struct share *s = *state;
    char path[128];
    struct sockaddr_un here = {.sun_family = AF_UNIX};
    (void)snprintf(path, sizeof path, "%s/fifo", s->root);
    assert_int_equal(mkfifo(path, 0666), 0);
    (void)snprintf(here.sun_path, sizeof here.sun_path, "%s/socket", s->root);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&here, sizeof here), 0);
    (void)snprintf(path, sizeof path, "%s/link", s->root);
    assert_int_equal(symlink("../outside/a", path), 0);
    (void)snprintf(path, sizeof path, "%s/device", s->root);
    bool device = geteuid() == 0 && mknod(path, S_IFCHR | 0666, makedev(1, 3)) == 0;
    start_server(s, NULL);
    assert_int_equal(open_node(s, must_find(s, 1, "fifo"), O_RDONLY, NULL), -EACCES);
    assert_int_equal(open_node(s, must_find(s, 1, "fifo"), O_WRONLY, NULL), -EACCES);
    assert_int_equal(open_node(s, must_find(s, 1, "socket"), O_RDWR, NULL), -EACCES);
    assert_int_equal(open_node(s, must_find(s, 1, "link"), O_RDONLY, NULL), -ELOOP);
    if (device)
        assert_int_equal(open_node(s, must_find(s, 1, "device"), O_RDWR, NULL), -EACCES);
    uint64_t node;
    assert_int_equal(find(s, must_find(s, 1, "link"), "a", &node), -ENOTDIR);
    struct fs_reply reply;
    assert_int_equal(
        ask(s,
            (struct fs_request){
                .opcode = FUSE_MKNOD, .node = 1, .name = "n", .mode = S_IFCHR | 0666, .rdev = 259},
            &reply),
        -EPERM);
    assert_int_equal(ask(s,
                         (struct fs_request){.opcode = FUSE_CREATE,
                                             .node = 1,
                                             .name = "set",
                                             .flags = O_RDWR,
                                             .mode = S_IFREG | 06777},
                         &reply),
                     0);
    struct stat st;
    (void)snprintf(path, sizeof path, "%s/set", s->root);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0777);
    assert_int_equal(st.st_uid, geteuid() == 0 ? OWNER : geteuid());
    (void)close(fd);
}

static void mounts_in_the_folder_are_empty(void **state)
{
    struct share *s = *state;
    char path[128];
    if (geteuid() != 0) {
        print_message("mounts_in_the_folder_are_empty: needs root\n");
        return;
    }
    /* In a mount namespace of this process, so that no other sees it. */
    assert_int_equal(unshare(CLONE_NEWNS), 0);
    assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    make_folder(s->root, "other");
    (void)snprintf(path, sizeof path, "%s/other", s->root);
    assert_int_equal(mount("none", path, "tmpfs", 0, NULL), 0);
    put(s->root, "other/a", "x");
    start_server(s, NULL);
    uint64_t other = must_find(s, 1, "other"), node;
    struct fs_reply reply;
    assert_int_equal(find(s, other, "a", &node), -ENOENT);
    assert_int_equal(
        ask(s, (struct fs_request){.opcode = FUSE_MKDIR, .node = other, .name = "n"}, &reply),
        -EACCES);
    assert_int_equal(ask(s, (struct fs_request){.opcode = FUSE_OPENDIR, .node = other}, &reply), 0);
    assert_int_equal(ask(s,
                         (struct fs_request){
                             .opcode = FUSE_READDIR, .node = other, .fh = reply.fh, .size = 4096},
                         &reply),
                     0);
    assert_int_equal(reply.data_size, 0);
    (void)end_server(s);
    assert_int_equal(umount(path), 0);
}

/* ---- read-only ---- */

static void nothing_changes_what_is_read_only(void **state)
{
    struct share *s = *state;
    make_folder(s->root, "d");
    put(s->root, "a", "x");
    start_server(s, "--read-only");
    uint64_t before = fingerprint(s->root);
    uint64_t a = must_find(s, 1, "a"), fh;
    assert_int_equal(open_node(s, a, O_RDONLY, &fh), 0);
    unsigned refused = 0;
    for (uint32_t opcode = 1; opcode < FS_OPCODE_MAX; opcode++) {
        struct fs_reply reply;
        if (!fs_op_find(opcode) || !fs_op_mutates(opcode))
            continue;
        bool file =
            fs_op_has_handle(opcode) || opcode == FUSE_SETXATTR || opcode == FUSE_REMOVEXATTR;
        struct fs_request request = {.opcode = opcode,
                                     .node = file ? a : 1,
                                     .fh = fh,
                                     .fh2 = fh,
                                     .node2 = opcode == FUSE_LINK || file ? a : 1,
                                     .name = "user.a",
                                     .name2 = "b",
                                     .mode = 0600,
                                     .valid = FATTR_MODE};
        enum fs_tail tail = fs_op_find(opcode)->tail;
        if (tail != FS_TAIL_NAME_NAME && tail != FS_TAIL_NAME_TEXT)
            request.name2 = NULL;
        if (tail == FS_TAIL_NONE || tail == FS_TAIL_DATA)
            request.name = NULL;
        assert_int_equal(ask(s, request, &reply), -EROFS);
        refused++;
    }
    assert_true(refused >= 14);
    assert_int_equal(open_node(s, a, O_RDWR, NULL), -EROFS);
    assert_int_equal(open_node(s, a, O_RDONLY | O_TRUNC, NULL), -EROFS);
    assert_int_equal(end_server(s), 0);
    assert_true(fingerprint(s->root) == before);
}

/* ---- what it may use up ---- */

static void too_many_open_files_are_an_error(void **state)
{
    struct share *s = *state;
    put(s->root, "a", "x");
    s->files_max = 256;
    start_server(s, NULL);
    uint64_t a = must_find(s, 1, "a"), fh = 0;
    int r = 0;
    for (int i = 0; i < 1000 && r == 0; i++)
        r = open_node(s, a, O_RDONLY, &fh);
    assert_int_equal(r, -ENFILE);
    uint64_t node;
    assert_int_equal(find(s, 1, "a", &node), 0); /* it goes on */
    struct fs_reply reply;
    assert_int_equal(
        ask(s, (struct fs_request){.opcode = FUSE_RELEASE, .node = a, .fh = fh}, &reply), 0);
    assert_int_equal(open_node(s, a, O_RDONLY, NULL), 0);
}

/* ---- what it is ---- */

static const char *status_of(pid_t pid, char out[8192])
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/status", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, 8191);
    assert_true(n > 0);
    out[n] = '\0';
    (void)close(fd);
    return out;
}

static void it_has_given_everything_else_away(void **state)
{
    struct share *s = *state;
    char text[8192], path[64];
    put(s->root, "a", "x");
    start_server(s, NULL);
    (void)must_find(s, 1, "a");
    (void)status_of(s->pid, text);
    assert_non_null(strstr(text, "NoNewPrivs:\t1"));
    assert_non_null(strstr(text, "CapEff:\t0000000000000000"));
    assert_non_null(strstr(text, "CapPrm:\t0000000000000000"));
#if !BG_SANITIZED
    assert_non_null(strstr(text, "Seccomp:\t2"));
#endif
    if (geteuid() == 0) {
        assert_non_null(strstr(text, "Uid:\t1\t1\t1\t1"));
        struct stat st;
        (void)snprintf(path, sizeof path, "/proc/%d/root/etc", s->pid);
        assert_true(stat(path, &st) < 0 && errno == ENOENT);
        (void)snprintf(path, sizeof path, "/proc/%d/root/share/a", s->pid);
        assert_int_equal(stat(path, &st), 0);
    }
    assert_int_equal(end_server(s), 0);
}

static void serve_by_landlock_alone(struct share *s)
{
    char path[128];
    struct stat st;
    struct fs_reply reply;
    make_folder(s->root, "d");
    put(s->root, "d/a", "x");
    s->no_namespaces = true;
    start_server(s, NULL);
    (void)snprintf(path, sizeof path, "/proc/%d/root%s", s->pid, s->root);
    if (geteuid() == 0) /* a plain user may not look there */
        assert_int_equal(stat(path, &st), 0);
    uint64_t d = must_find(s, 1, "d"), a = must_find(s, d, "a");
    assert_int_equal(open_node(s, a, O_RDWR | O_TRUNC, NULL), 0);
    const struct fs_request move = {
        .opcode = FUSE_RENAME, .node = d, .name = "a", .node2 = 1, .name2 = "b"};
    assert_int_equal(ask(s, move, &reply), 0);
    assert_int_equal(
        ask(s, (struct fs_request){.opcode = FUSE_LINK, .node = d, .node2 = a, .name = "c"},
            &reply),
        0);
    assert_int_equal(
        ask(s, (struct fs_request){.opcode = FUSE_UNLINK, .node = d, .name = "c"}, &reply), 0);
    /* Out of the share behind its back: the fd of it is good for nothing any more. */
    char from[128], to[128];
    (void)snprintf(from, sizeof from, "%s/d", s->root);
    (void)snprintf(to, sizeof to, "%s/d", s->base);
    assert_int_equal(rename(from, to), 0);
    assert_int_equal(
        ask(s, (struct fs_request){.opcode = FUSE_MKDIR, .node = d, .name = "n", .mode = 0755},
            &reply),
        -ESTALE);
    assert_int_equal(end_server(s), 0);
}

static void landlock_alone_is_a_wall_too(void **state)
{
    serve_by_landlock_alone(*state);
}

static void namespaces_of_no_use_are_left_alone(void **state)
{
    struct share *s = *state;
    s->useless_namespaces = true;
    serve_by_landlock_alone(s);
}

static void roots_folder_is_served_without_roots_powers(void **state)
{
    struct share *s = *state;
    char text[8192];
    if (geteuid() != 0) {
        print_message("roots_folder_is_served_without_roots_powers: needs root\n");
        return;
    }
    put(s->root, "mine", "x");
    put(s->root, "other", "x");
    start_server(s, NULL);
    (void)end_server(s);
    char path[128];
    (void)snprintf(path, sizeof path, "%s/other", s->root);
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(chown(s->root, 0, 0), 0);
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    s->pid = fork();
    if (s->pid == 0) {
        char number[16];
        (void)snprintf(number, sizeof number, "%d", fcntl(pair[1], F_DUPFD, 10));
        (void)execl(getenv("BG_TEST_SHARE"), "bellglass-share", "--stream-fd", number, "--root",
                    s->root, (char *)NULL);
        _exit(127);
    }
    (void)close(pair[1]);
    s->fd = pair[0];
    uint8_t bytes[FS_HELLO_SIZE];
    fs_hello_emit(&(struct fs_hello){.uid = GUEST_UID}, bytes);
    assert_int_equal(bg_write_full(s->fd, bytes, sizeof bytes), 0);
    assert_int_equal(bg_read_full(s->fd, bytes, sizeof bytes), 0);
    /* A file of somebody else's that only root's powers would open. */
    assert_int_equal(open_node(s, must_find(s, 1, "other"), O_RDONLY, NULL), -EACCES);
    (void)status_of(s->pid, text);
    assert_non_null(strstr(text, "CapEff:\t0000000000000000"));
    assert_non_null(strstr(text, "Uid:\t0\t0\t0\t0"));
    assert_int_equal(end_server(s), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, prepare, finish)
    const struct CMUnitTest tests[] = {
        TEST(names_that_are_no_names_end_the_stream),
        TEST(noise_ends_the_stream),
        TEST(swapped_folders_lead_nowhere),
        TEST(special_files_are_not_opened),
        TEST(nothing_changes_what_is_read_only),
        TEST(too_many_open_files_are_an_error),
        TEST(it_has_given_everything_else_away),
        TEST(landlock_alone_is_a_wall_too),
        TEST(namespaces_of_no_use_are_left_alone),
        TEST(roots_folder_is_served_without_roots_powers),
        TEST(mounts_in_the_folder_are_empty), /* last: it changes this process */
    };
    (void)signal(SIGPIPE, SIG_IGN);
    (void)alarm(600); /* a server that hangs */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
