/* The server against a hostile client: the input is what the client sends after its hello. The
 * operations are done for real, in a folder of their own. */
#include <ftw.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

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

static void require(bool good)
{
    if (!good)
        abort();
}

/* Before the walk into it: what the input made unreadable for a plain user. */
static int open_up(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)walk;
    if (type != FTW_SL && S_ISDIR(st->st_mode))
        (void)chmod(path, 0700);
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
    struct fs_nodes_opts nodes_opts = {
        .root = root, .fds_max = 8, .handles = size % 2 && geteuid() == 0, .identity = &as_is};
    require(fs_nodes_open(&nodes_opts, &ops.nodes, NULL) == 0);
    require(fs_handles_open(ops.nodes, 16, &ops.handles) == 0);
    struct fs_locks_opts locks_opts = {
        .handles = ops.handles, .identity = &as_is, .owners_max = 8, .answer = answer};
    require(fs_locks_open(&locks_opts, &ops.locks) == 0);
    run(&ops, bytes, size);
    fs_locks_close(ops.locks);
    fs_handles_close(ops.handles);
    fs_nodes_close(ops.nodes);
    (void)nftw(root, open_up, 16, FTW_PHYS);
    require(nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0);
    return 0;
}
