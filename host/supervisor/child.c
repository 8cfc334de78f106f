#include "host/supervisor/child.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/io.h"

int supervisor_child_start(struct supervisor_child *child, const struct supervisor_opts *opts,
                           const int *not_its, size_t not_its_count, struct bg_err *err)
{
    int link[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) < 0)
        return bg_err_errno(err, -errno, "socketpair");
    pid_t pid = fork();
    if (pid == 0) {
        sigset_t none;
        struct supervisor_opts its = *opts;
        its.link_fd = link[1];
        (void)sigemptyset(&none); /* cannot fail */
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)close(link[0]); /* a copy, as are the others */
        for (size_t i = 0; i < not_its_count; i++)
            if (not_its[i] >= 0)
                (void)close(not_its[i]);
        _exit(supervisor_run(&its));
    }
    int fork_errno = errno;
    (void)close(link[1]);
    if (pid < 0) {
        (void)close(link[0]);
        return bg_err_errno(err, -fork_errno, "fork");
    }
    child->pid = pid;
    child->link_fd = link[0];
    return 0;
}

void supervisor_child_stop(const struct supervisor_child *child, uint64_t grace_ms)
{
    uint8_t message[9];
    struct bg_writer w = bg_writer_init(message, sizeof message);
    bg_writer_u8(&w, LINK_STOP);
    bg_writer_u64le(&w, grace_ms);
    if (bg_send_fd(child->link_fd, message, w.used, -1) < 0 && child->pid != 0)
        (void)kill(child->pid, SIGKILL); /* our child, not reaped */
}

ssize_t supervisor_child_spoke(struct supervisor_child *child, char message[SUPERVISOR_LINK_MAX])
{
    ssize_t n = recv(child->link_fd, message, SUPERVISOR_LINK_MAX, MSG_DONTWAIT);
    if (n == (ssize_t)(1 + sizeof child->why) && message[0] == LINK_ENDED && !child->ended) {
        memcpy(&child->why, message + 1, sizeof child->why);
        child->why.text[sizeof child->why.text - 1] = '\0';
        child->ended = true;
    } else if (n == 0) {
        (void)close(child->link_fd); /* its death is on its way */
        child->link_fd = -1;
    }
    return n;
}

void supervisor_child_died(struct supervisor_child *child, int status, const char *who)
{
    child->pid = 0;
    if (!child->ended && WIFSIGNALED(status))
        (void)bg_err_set(&child->why, -EIO, "%s was killed by signal %d (%s)", who,
                         WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (!child->ended)
        (void)bg_err_set(&child->why, -EIO, "%s ended with status %d", who, WEXITSTATUS(status));
}
