/* The server against a hostile client: the input is what the client sends after its hello. The
 * operations are done for real, in a folder of their own; inputs whose size is 2 more than a
 * multiple of 4 or 3 more are a guest's in a share, where nothing beside that folder may change. */
#include <ftw.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/server/share_links.h"
#include "fs/server/ops.h"

#define MESSAGES_MAX 200
#define FILE_MAX     (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void answer(void *owner, uint64_t unique, int error)
{
    (void)owner;
    (void)unique;
    (void)error;
}

static void signal_seen(int number)
{
    (void)number;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st;
    (void)type;
    (void)walk;
    (void)chmod(path, 0700); /* the input may have taken the right to look into a folder */
    return remove(path);
}

/* Before the walk into it: what the input made unreadable for a plain user. */
static int open_up(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)walk;
    if (type != FTW_SL && S_ISDIR(st->st_mode))
        (void)chmod(path, 0700);
    return 0;
}

static void require(bool good)
{
    if (!good)
        abort();
}

/* Hidden names begin with "s", fixed ones with "f", frozen ones with "z", anchored ones with "a".
 */
static unsigned judge(const void *owner, const char *path)
{
    unsigned verdict = 0;
    (void)owner;
    for (const char *at = path; at; at = strchr(at, '/')) {
        at += *at == '/';
        if (*at == 's')
            return FS_SHARE_HIDDEN;
        if (*at == 'z')
            verdict |= FS_SHARE_FIXED | FS_SHARE_FROZEN;
        if (*at == 'f' && !strchr(at, '/'))
            verdict |= FS_SHARE_FIXED;
        if (*at == 'a')
            verdict |= FS_SHARE_ANCHORED;
    }
    return verdict;
}

static const struct fs_share_rules rules = {
    .judge = judge, .space_min = 1, .write_max = 64u << 20, .inodes_max = MESSAGES_MAX};

/* No link may lead out, whatever was moved where, and nothing fixed or hidden may have been made.
 */
static size_t root_size;

static int check_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    char text[BG_PATH_MAX];
    (void)type;
    if (walk->level == 0)
        return 0;
    require((judge(NULL, path + root_size + 1) &
             (FS_SHARE_HIDDEN | FS_SHARE_FIXED | FS_SHARE_FROZEN)) == 0);
    require((st->st_mode & 07000) == 0);
    if (S_ISLNK(st->st_mode)) {
        ssize_t n = readlink(path, text, sizeof text);
        require(n > 0 && fs_link_inside(text, (size_t)n, (size_t)walk->level - 1));
    }
    return 0;
}

static void run(struct fs_ops *ops, const uint8_t *bytes, size_t size)
{
    uint8_t *out = malloc(FS_OPS_OUT_SIZE);
    require(out != NULL);
    for (unsigned i = 0; i < MESSAGES_MAX && size >= 4; i++) {
        struct fs_request request;
        struct fs_reply reply;
        size_t message;
        if (fs_message_size(bytes, FS_REQUEST_HEADER_SIZE, &message, NULL) < 0 || message > size)
            break;
        int r = fs_request_parse(bytes, message, &request, NULL);
        if (r == -EPROTO)
            break;
        bytes += message;
        size -= message;
        if (r < 0)
            continue;
        if (fs_op_find(request.opcode)->reply == FS_REPLY_NONE) {
            fs_ops_run_silent(ops, &request);
            continue;
        }
        r = fs_ops_run(ops, &request, out, &reply);
        require(r <= 0 && reply.data_size <= FS_OPS_OUT_SIZE);
        require(r < 0 || fs_op_find(request.opcode)->reply != FS_REPLY_DATA ||
                reply.data_size <= request.size);
    }
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    /* A file may claim any size, but not take the disk. */
    struct rlimit limit = {FILE_MAX, FILE_MAX};
    require(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    (void)signal(SIGXFSZ, SIG_IGN);
    struct sigaction seen = {.sa_handler = signal_seen}; /* ignored, it would end no wait */
    (void)sigaction(SIGUSR2, &seen, NULL);
    char root[] = "/dev/shm/bg-fuzz-XXXXXX"; /* in memory if there is such a place: many runs */
    require(mkdtemp(root) != NULL || mkdtemp(memcpy(root, "/var/tmp", 8)) != NULL);

    static const struct fs_identity as_is = {0};
    struct fs_ops ops = {0};
    bool share = size & 2;
    struct fs_nodes_opts nodes_opts = {.root = root,
                                       .fds_max = 8,
                                       .handles = size % 2 && geteuid() == 0 && !share,
                                       .one_mount = share,
                                       .nodes_max = share ? 64 : 0,
                                       .identity = &as_is};
    require(fs_nodes_open(&nodes_opts, &ops.nodes, NULL) == 0);
    require(!share || fs_share_open(&rules, ops.nodes, &ops.share) == 0);
    require(fs_handles_open(ops.nodes, 16, &ops.handles) == 0);
    struct fs_locks_opts locks_opts = {
        .handles = ops.handles, .identity = &as_is, .owners_max = 8, .answer = answer};
    require(fs_locks_open(&locks_opts, &ops.locks) == 0);
    run(&ops, bytes, size);
    fs_locks_close(ops.locks);
    fs_handles_close(ops.handles);
    fs_share_close(ops.share);
    fs_nodes_close(ops.nodes);
    (void)nftw(root, open_up, 16, FTW_PHYS);
    root_size = strlen(root);
    if (share)
        require(nftw(root, check_one, 16, FTW_PHYS) == 0);
    require(nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0);
    return 0;
}
