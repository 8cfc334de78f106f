/* bellglass-stream: gets a mount another stream to the file server of its sandbox, for the mount's
 * keeper (fs/relay/reopen.h), whose socket is our stdin.
 *
 *   bellglass-stream NAME ID PATH FLAGS     FLAGS: BG_FUSE_*, a number
 *
 * Of one that is suspended it says so by one byte ("Z", without a stream), and waits until somebody
 * else lets it go on, or "W" comes on the socket: then it wakes it itself.
 *
 * Ends with 0 when the stream was sent, with 69 when the sandbox is no more or another one has its
 * name, with 1 when it may be tried again. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "common/wire.h"
#include "host/cli/client.h"
#include "host/cli/wake.h"

#define REPLY_TIMEOUT_MS 60000 /* the guest may be busy; the keeper tries again */
#define NEVER            69    /* FS_REOPEN_NEVER */
#define ASLEEP           'Z'   /* FS_REOPEN_ASLEEP */
#define WAKE             'W'   /* FS_REOPEN_WAKE */
#define ENDING_MS        10000 /* for one that has just ended, or just begun, to get there */
#define LOOK_MS          200

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

/* Waits for something to happen to one that is suspended, or for the keeper's word. Returns false
 * when the keeper is gone. */
static bool await_word(int watch_fd, bool *told, bool *asked)
{
    char byte = ASLEEP;
    struct pollfd keeper = {.fd = STDIN_FILENO, .events = POLLIN};
    if (!*told && send(STDIN_FILENO, &byte, 1, MSG_NOSIGNAL) != 1)
        return false;
    *told = true;
    wake_await(watch_fd, STDIN_FILENO, -1);
    if (poll(&keeper, 1, 0) <= 0)
        return true;
    if (recv(STDIN_FILENO, &byte, 1, MSG_DONTWAIT) != 1)
        return false;
    *asked = *asked || byte == WAKE;
    return true;
}

/* Gets the stream once the sandbox runs. Errors: -EAGAIN it does not, and will not by itself. */
static int await_stream(struct app *app, struct life *life, char **argv, uint32_t flags,
                        int *ret_fd, struct bg_err *err)
{
    bool told = false, asked = false;
    uint64_t until_ms = bg_now_ms() + ENDING_MS;
    int fd = -1;
    int r = wake_watch(&life->sandbox, &fd, err);
    BG_AUTOCLOSE int watch = fd;
    while (r == 0) {
        r = bg_sandbox_state(&life->sandbox, &life->state, &life->launcher_pid, err);
        if (r == 0 && life->state == BG_SANDBOX_SUSPENDED) {
            if (asked)
                r = wake(app, life, err);
            else if (!await_word(watch, &told, &asked))
                r = bg_err_set(err, -EPIPE, "the mount is gone");
            until_ms = bg_now_ms() + ENDING_MS;
            continue;
        }
        if (r < 0 || bg_sandbox_rests(life->state))
            return r < 0 ? r : bg_err_set(err, -EAGAIN, "the sandbox does not run");
        if (life->state == BG_SANDBOX_RUNNING &&
            open_stream(&app->paths, &life->sandbox, argv[3], flags, ret_fd, err) == 0)
            return 0;
        /* It may be about to fall asleep; or it comes up. Else: it may be different in a second. */
        uint64_t now_ms = bg_now_ms();
        if (now_ms >= until_ms)
            return -EAGAIN;
        wake_await(watch, -1, LOOK_MS);
    }
    return r;
}

/* Finds the sandbox, asks its guest, and hands the stream over. Errors: -ENOENT the sandbox is no
 * more, or another one has its name. */
static int get_stream(struct app *app, char **argv, uint32_t flags, struct bg_err *err)
{
    struct life life = {0};
    int stream = -1;
    int r = bg_sandbox_load(&app->paths, argv[1], &life.sandbox, err);
    if (r < 0)
        return r;
    if (strcmp(life.sandbox.id, argv[2]) != 0)
        r = bg_err_set(err, -ENOENT, "sandbox '%s' is another one now", life.sandbox.name);
    if (r == 0)
        r = await_stream(app, &life, argv, flags, &stream, err);
    BG_AUTOCLOSE int fd = stream;
    if (r == 0 && send_stream(fd) < 0)
        r = bg_err_set(err, -EPIPE, "the mount is gone");
    life_done(&life);
    return r;
}

int main(int argc, char **argv)
{
    uint64_t flags;
    struct app app = {.version = BELLGLASS_VERSION};
    struct bg_err err = {0};
    if (argc != 5 || bg_parse_u64(argv[4], 0, UINT32_MAX, &flags) < 0 ||
        strlen(argv[3]) >= BG_PATH_MAX) {
        (void)fprintf(stderr, "usage: bellglass-stream NAME ID PATH FLAGS\n");
        return 2;
    }
    /* The keeper has no stderr; what is started here must not take that number for a file. */
    if (!app_start())
        return 1;
    int r = app_paths(&app, &err);
    if (r == 0)
        r = get_stream(&app, argv, (uint32_t)flags, &err);
    app_done(&app);
    if (r < 0)
        (void)fprintf(stderr, "bellglass-stream: %s\n", err.text);
    return r == 0 ? 0 : r == -ENOENT ? NEVER : 1;
}
