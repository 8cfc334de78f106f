/* bellglass-stream: gets a mount another stream to the file server of its sandbox, for the mount's
 * keeper (fs/relay/reopen.h), whose socket is our stdin.
 *
 *   bellglass-stream NAME ID PATH FLAGS     FLAGS: BG_FUSE_*, a number
 *
 * Ends with 0 when the stream was sent, with 69 when the sandbox is no more or another one has its
 * name, with 1 when it may be tried again. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/cleanup.h"
#include "common/wire.h"
#include "host/cli/client.h"

#define REPLY_TIMEOUT_MS 60000 /* the guest may be busy; the keeper tries again */
#define NEVER            69    /* FS_REOPEN_NEVER */

/* Sends fd with one byte over the keeper's socket. */
static int send_stream(int fd)
{
    char byte = 'S';
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    return sendmsg(STDIN_FILENO, &message, MSG_NOSIGNAL) == 1 ? 0 : -errno;
}

static int open_stream(const struct bg_paths *paths, const struct bg_sandbox *sandbox,
                       const char *path, uint32_t flags, int *ret_fd, struct bg_err *err)
{
    struct bg_fuse_request request = {.flags = flags};
    uint8_t body[BG_PATH_MAX + 64];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    memcpy(request.path, path, strlen(path) + 1);
    bg_fuse_request_emit(&request, &w);
    int r = client_open(paths, sandbox, "fuse", body, w.used, ret_fd, err);
    return r < 0 ? r : client_stream_reply(*ret_fd, REPLY_TIMEOUT_MS, err);
}

/* Finds the sandbox, asks its guest, and hands the stream over. Errors: -ENOENT the sandbox is no
 * more, or another one has its name. */
static int get_stream(const struct bg_paths *paths, char **argv, uint32_t flags, struct bg_err *err)
{
    struct bg_sandbox sandbox;
    int stream = -1;
    int r = bg_sandbox_load(paths, argv[1], &sandbox, err);
    if (r < 0)
        return r;
    if (strcmp(sandbox.id, argv[2]) != 0)
        r = bg_err_set(err, -ENOENT, "sandbox '%s' is another one now", sandbox.name);
    if (r == 0 && open_stream(paths, &sandbox, argv[3], flags, &stream, err) < 0)
        r = -EAGAIN; /* whatever it says: it may be different in a second */
    BG_AUTOCLOSE int fd = stream;
    if (r == 0 && send_stream(fd) < 0)
        r = bg_err_set(err, -EPIPE, "the mount is gone");
    bg_sandbox_done(&sandbox);
    return r;
}

int main(int argc, char **argv)
{
    uint64_t flags;
    struct bg_paths paths;
    struct bg_err err;
    if (argc != 5 || bg_parse_u64(argv[4], 0, UINT32_MAX, &flags) < 0 ||
        strlen(argv[3]) >= BG_PATH_MAX) {
        (void)fprintf(stderr, "usage: bellglass-stream NAME ID PATH FLAGS\n");
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN); /* cannot fail */
    int r = bg_paths_init(&paths, &err);
    if (r == 0) {
        r = get_stream(&paths, argv, (uint32_t)flags, &err);
        bg_paths_done(&paths);
    }
    if (r < 0)
        (void)fprintf(stderr, "bellglass-stream: %s\n", err.text);
    return r == 0 ? 0 : r == -ENOENT ? NEVER : 1;
}
