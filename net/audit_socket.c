#include "net/audit_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "common/limits.h"
#include "net/engine.h"

#define RETRY_BYTES (1u << 20) /* of further lines, after the launcher had no file for us */

struct audit_socket {
    uv_poll_t poll;
    int fd;
    struct engine *engine;
    bool asked;
    uint64_t ask_at; /* size of the file */
};

static void take_file(struct audit_socket *s, int fd)
{
    /* The old one may have lost its name already; its bytes are freed with this. */
    (void)close(s->engine->opts.audit_fd);
    s->engine->opts.audit_fd = fd;
    s->asked = false;
    s->ask_at = BG_AUDIT_FILE_SIZE;
}

static void answered(uv_poll_t *poll, int status, int events)
{
    struct audit_socket *s = poll->data;
    int fds[BG_RECV_FDS_MAX];
    size_t count = 0;
    char answer[16];
    (void)status; /* an error shows when it is read */
    (void)events;
    ssize_t n = bg_recv_fds(s->fd, answer, sizeof answer, fds, &count);
    if (n == -EAGAIN)
        return;
    if (n <= 0) { /* we were replaced, or the launcher has died: the rest goes into this file */
        (void)uv_poll_stop(poll); /* fails only when closing */
        return;
    }
    for (size_t i = 1; i < count; i++)
        (void)close(fds[i]); /* nobody sends more than one */
    if (count > 0) {
        take_file(s, fds[0]);
        return;
    }
    bg_log(s->engine->opts.log, BG_LOG_ERROR,
           "the audit log is full, and the launcher cannot make a new file: see supervisor.log");
    s->asked = false;
    s->ask_at += RETRY_BYTES;
}

void audit_socket_check(struct audit_socket *s)
{
    struct stat st;
    if (s->asked || fstat(s->engine->opts.audit_fd, &st) < 0 || !S_ISREG(st.st_mode) ||
        (uint64_t)st.st_size < s->ask_at)
        return;
    s->asked = send(s->fd, "a", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1; /* else at the next line */
}

int audit_socket_open(uv_loop_t *loop, int fd, struct engine *engine, struct audit_socket **ret,
                      struct bg_err *err)
{
    struct audit_socket *s = calloc(1, sizeof *s);
    if (!s)
        return bg_err_errno(err, -ENOMEM, "audit socket");
    int r = fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ? -errno : uv_poll_init(loop, &s->poll, fd);
    if (r < 0) {
        free(s);
        return bg_err_set(err, r, "audit socket: %s", uv_strerror(r));
    }
    s->poll.data = s;
    s->fd = fd;
    s->engine = engine;
    s->ask_at = BG_AUDIT_FILE_SIZE;
    (void)uv_poll_start(&s->poll, UV_READABLE, answered); /* fails only when closing */
    uv_unref((uv_handle_t *)&s->poll);                    /* it keeps nobody alive */
    *ret = s;
    return 0;
}

static void closed(uv_handle_t *handle)
{
    BG_AUTOFREE struct audit_socket *s = handle->data;
    (void)close(s->fd);
}

void audit_socket_close(struct audit_socket *s)
{
    if (s)
        uv_close((uv_handle_t *)&s->poll, closed);
}
