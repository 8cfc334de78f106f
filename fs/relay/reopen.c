#include "fs/relay/reopen.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "fs/relay/loop.h"

#define PAUSE_MIN_MS 1000u /* between two tries, longer each time */
#define PAUSE_MAX_MS 5000u

void fs_reopen_want(struct fs_reopen *reopen, uint64_t now_ms)
{
    /* The last stream held: the first tries come fast again. */
    if (!reopen->wanted && now_ms > reopen->next_ms + PAUSE_MAX_MS)
        reopen->pause_ms = 0;
    reopen->wanted = true;
    if (reopen->next_ms < now_ms)
        reopen->next_ms = now_ms;
}

static void pass_need(struct fs_reopen *reopen)
{
    char byte = FS_REOPEN_WAKE;
    if (reopen->needed && reopen->pid > 0) /* one that is gone is started again */
        (void)send(reopen->fd, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void fs_reopen_wake(struct fs_reopen *reopen)
{
    reopen->needed = true;
    pass_need(reopen);
}

struct pollfd fs_reopen_poll(const struct fs_reopen *reopen)
{
    return (struct pollfd){.fd = reopen->pid > 0 ? reopen->fd : -1, .events = POLLIN};
}

int fs_reopen_timeout(const struct fs_reopen *reopen, uint64_t now_ms)
{
    if (!reopen->wanted || reopen->pid > 0)
        return -1;
    return reopen->next_ms > now_ms ? (int)(reopen->next_ms - now_ms) : 0;
}

/* fd: -1, or sent along. A relay that has gone needs no stream. */
static void tell_relay(const struct fs_reopen *reopen, enum fs_loop_return word, int fd)
{
    char byte = (char)word;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    (void)sendmsg(reopen->relay_fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Runs in the child. */
static void run_command(char **argv, int socket)
{
    sigset_t none;
    (void)sigemptyset(&none); /* these cannot fail with such arguments */
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    if (dup2(socket, STDIN_FILENO) >= 0 && dup2(socket, STDOUT_FILENO) >= 0)
        (void)execvp(argv[0], argv);
    _exit(127);
}

/* A command that serves is nobody's child: it ends when the stream does. */
static pid_t start_command(const struct fs_reopen *reopen, int socket)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    if (reopen->kind == FS_REOPEN_SERVES && fork() != 0)
        _exit(0);
    run_command(reopen->argv, socket);
    return 0;
}

static void next_try(struct fs_reopen *reopen, uint64_t now_ms)
{
    uint64_t longer = reopen->pause_ms + PAUSE_MIN_MS;
    reopen->pause_ms = longer < PAUSE_MAX_MS ? longer : PAUSE_MAX_MS;
    reopen->next_ms = now_ms + reopen->pause_ms;
}

static void start(struct fs_reopen *reopen, uint64_t now_ms)
{
    int sockets[2];
    next_try(reopen, now_ms);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0)
        return;
    BG_AUTOCLOSE int ours = sockets[0];
    BG_AUTOCLOSE int theirs = sockets[1];
    pid_t pid = start_command(reopen, theirs);
    if (pid < 0)
        return;
    if (reopen->kind == FS_REOPEN_PASSES) {
        reopen->pid = pid;
        reopen->fd = bg_take_fd(&ours);
        return;
    }
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    int flags = fcntl(ours, F_GETFL);
    if (flags >= 0 && fcntl(ours, F_SETFL, flags | O_NONBLOCK) == 0)
        tell_relay(reopen, FS_LOOP_STREAM, ours);
    reopen->wanted = false; /* until the relay says that this one is lost too */
}

/* Takes the stream that the command sends. -1: it sent none. */
static int receive(int fd, char *ret_byte)
{
    char byte = 0;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    int stream = -1;
    if (recvmsg(fd, &message, MSG_CMSG_CLOEXEC) <= 0)
        return -1;
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        memcpy(&stream, CMSG_DATA(header), sizeof stream);
    *ret_byte = byte;
    return stream;
}

static int wait_command(struct fs_reopen *reopen)
{
    int status = 0;
    (void)close(reopen->fd);
    reopen->fd = -1;
    while (waitpid(reopen->pid, &status, 0) < 0 && errno == EINTR)
        ;
    reopen->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void fs_reopen_turn(struct fs_reopen *reopen, bool readable, uint64_t now_ms)
{
    char byte = 0;
    BG_AUTOCLOSE int stream = reopen->pid > 0 && readable ? receive(reopen->fd, &byte) : -1;
    if (stream < 0 && byte == FS_REOPEN_ASLEEP) {
        tell_relay(reopen, FS_LOOP_ASLEEP, -1);
        pass_need(reopen);
    } else if (reopen->pid > 0 && readable) {
        int status = wait_command(reopen);
        reopen->needed = false;
        int flags = stream < 0 ? -1 : fcntl(stream, F_GETFL);
        if (flags >= 0 && fcntl(stream, F_SETFL, flags | O_NONBLOCK) == 0) {
            tell_relay(reopen, FS_LOOP_STREAM, stream);
            reopen->wanted = false;
        } else if (status == FS_REOPEN_NEVER) {
            tell_relay(reopen, FS_LOOP_NEVER, -1);
            reopen->wanted = false;
        } else {
            tell_relay(reopen, FS_LOOP_NOT_SOON, -1);
            next_try(reopen, now_ms);
        }
    }
    if (reopen->wanted && reopen->pid == 0 && now_ms >= reopen->next_ms)
        start(reopen, now_ms);
}

void fs_reopen_end(struct fs_reopen *reopen)
{
    if (reopen->pid <= 0)
        return;
    (void)kill(reopen->pid, SIGKILL); /* our child, not reaped */
    (void)wait_command(reopen);
}
