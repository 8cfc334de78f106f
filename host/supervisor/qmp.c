#include "host/supervisor/qmp.h"

#include <assert.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"

struct pending {
    struct pending *next;
    qmp_done done;
    void *arg;
};

struct qmp {
    uv_poll_t poll;
    struct qmp_opts opts;
    enum { QMP_GREETING, QMP_NEGOTIATING, QMP_OPEN, QMP_LOST, QMP_CLOSING } state;
    struct pending *first, **last;
    char *line;
    size_t used, room;
};

static void cancel_all(struct qmp *qmp)
{
    struct bg_err err;
    (void)bg_err_set(&err, -ECANCELED, "QEMU's monitor is gone");
    while (qmp->first) {
        struct pending *p = qmp->first;
        qmp->first = p->next;
        if (!qmp->first)
            qmp->last = &qmp->first;
        if (p->done)
            p->done(p->arg, &err, NULL);
        free(p);
    }
}

/* Ends the conversation and says so; the owner may close us here. */
static void lose(struct qmp *qmp, const struct bg_err *err)
{
    if (qmp->state >= QMP_LOST)
        return;
    qmp->state = QMP_LOST;
    (void)uv_poll_stop(&qmp->poll); /* cannot fail */
    cancel_all(qmp);
    qmp->opts.on_lost(qmp->opts.owner, err);
}

static void negotiated(void *arg, const struct bg_err *err, const json_t *value)
{
    struct qmp *qmp = arg;
    (void)value;
    if (qmp->state != QMP_NEGOTIATING)
        return;
    if (err) {
        lose(qmp, err);
        return;
    }
    qmp->state = QMP_OPEN;
    qmp->opts.on_ready(qmp->opts.owner);
}

/* Gives the answer to the oldest command. */
static int answer(struct qmp *qmp, const json_t *message, struct bg_err *err)
{
    const json_t *value = json_object_get(message, "return");
    const json_t *error = json_object_get(message, "error");
    struct pending *p = qmp->first;
    if (!p || (!value && !error))
        return bg_err_set(err, -EPROTO, "QEMU's monitor: a message that answers nothing");
    qmp->first = p->next;
    if (!qmp->first)
        qmp->last = &qmp->first;
    if (error) {
        const char *text = json_string_value(json_object_get(error, "desc"));
        char quoted[256];
        struct bg_err why;
        (void)bg_err_set(&why, -EREMOTEIO, "QEMU: %s",
                         text ? bg_quote(text, quoted, sizeof quoted) : "error without a text");
        if (p->done)
            p->done(p->arg, &why, NULL);
    } else if (p->done) {
        p->done(p->arg, NULL, value);
    }
    free(p);
    return 0;
}

static int take_line(struct qmp *qmp, const char *line, size_t size, struct bg_err *err)
{
    json_error_t where;
    json_t *message = json_loadb(line, size, JSON_DECODE_ANY, &where);
    int r = 0;
    if (!json_is_object(message)) {
        r = bg_err_set(err, -EPROTO, "QEMU's monitor: not a JSON object");
    } else if (qmp->state == QMP_GREETING) {
        if (!json_object_get(message, "QMP")) {
            r = bg_err_set(err, -EPROTO, "QEMU's monitor: no greeting");
        } else {
            qmp->state = QMP_NEGOTIATING;
            qmp_send(qmp, "qmp_capabilities", NULL, -1, negotiated, qmp);
        }
    } else if (json_object_get(message, "event")) {
        const char *name = json_string_value(json_object_get(message, "event"));
        if (!name)
            r = bg_err_set(err, -EPROTO, "QEMU's monitor: an event without a name");
        else if (qmp->opts.on_event)
            qmp->opts.on_event(qmp->opts.owner, name, json_object_get(message, "data"));
    } else {
        r = answer(qmp, message, err);
    }
    json_decref(message);
    return r;
}

static void readable(uv_poll_t *poll, int status, int events)
{
    struct qmp *qmp = poll->data;
    struct bg_err err = {0};
    (void)events;
    if (qmp->state >= QMP_LOST)
        return;
    /* libuv says UV_EBADF for EPOLLERR: QEMU has gone without reading all. */
    if (status < 0) {
        (void)bg_err_set(&err, -EPIPE, "QEMU closed its monitor");
        lose(qmp, &err);
        return;
    }
    if (qmp->used == qmp->room) {
        size_t room = qmp->room ? qmp->room * 2 : 4096;
        char *grown = room > BG_MANIFEST_MAX ? NULL : realloc(qmp->line, room);
        if (!grown) {
            (void)bg_err_set(&err, -EMSGSIZE, "QEMU's monitor: a line of over %zu bytes",
                             qmp->room);
            lose(qmp, &err);
            return;
        }
        qmp->line = grown;
        qmp->room = room;
    }
    ssize_t n = recv(qmp->opts.fd, qmp->line + qmp->used, qmp->room - qmp->used, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        (void)bg_err_set(&err, n == 0 ? -EPIPE : -errno, "QEMU closed its monitor");
        lose(qmp, &err);
        return;
    }
    qmp->used += (size_t)n;
    size_t at = 0;
    for (char *end;
         qmp->state < QMP_LOST && (end = memchr(qmp->line + at, '\n', qmp->used - at)) != NULL;) {
        size_t size = (size_t)(end - qmp->line) - at;
        int r = take_line(qmp, qmp->line + at, size, &err);
        at += size + 1;
        if (r < 0) {
            lose(qmp, &err);
            return;
        }
    }
    if (qmp->state >= QMP_LOST)
        return;
    memmove(qmp->line, qmp->line + at, qmp->used - at);
    qmp->used -= at;
}

int qmp_open(uv_loop_t *loop, const struct qmp_opts *opts, struct qmp **ret, struct bg_err *err)
{
    struct qmp *qmp = calloc(1, sizeof *qmp);
    if (!qmp)
        return bg_err_errno(err, -ENOMEM, "QEMU's monitor");
    qmp->opts = *opts;
    qmp->last = &qmp->first;
    int r = uv_poll_init(loop, &qmp->poll, opts->fd);
    if (r < 0) {
        free(qmp);
        return bg_err_set(err, r, "QEMU's monitor: %s", uv_strerror(r));
    }
    qmp->poll.data = qmp;
    (void)uv_poll_start(&qmp->poll, UV_READABLE, readable); /* fails only on a closing handle */
    *ret = qmp;
    return 0;
}

void qmp_send(struct qmp *qmp, const char *command, json_t *arguments, int fd, qmp_done done,
              void *arg)
{
    struct bg_err err;
    struct pending *p = calloc(1, sizeof *p);
    json_t *message = arguments
                          ? json_pack("{s:s, s:o}", "execute", command, "arguments", arguments)
                          : json_pack("{s:s}", "execute", command);
    BG_AUTOFREE char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
    json_decref(message);
    int r = !p || !text ? -ENOMEM : qmp->state >= QMP_LOST ? -ECANCELED : 0;
    if (r == 0) {
        /* QEMU reads lines; the newline replaces the text's NUL. The few commands in flight fit
         * the socket's buffer: a monitor that does not take them is as good as gone. */
        size_t size = strlen(text);
        text[size] = '\n';
        r = bg_send_fd(qmp->opts.fd, text, size + 1, fd);
    }
    if (r < 0) {
        free(p);
        (void)bg_err_errno(&err, r, "QEMU's monitor: %s", command);
        if (done)
            done(arg, &err, NULL);
        return;
    }
    p->done = done;
    p->arg = arg;
    *qmp->last = p;
    qmp->last = &p->next;
}

static void poll_closed(uv_handle_t *handle)
{
    struct qmp *qmp = handle->data;
    (void)close(qmp->opts.fd); /* nothing to lose in a socket that we leave */
    void (*on_closed)(void *) = qmp->opts.on_closed;
    void *owner = qmp->opts.owner;
    free(qmp->line);
    free(qmp);
    if (on_closed)
        on_closed(owner);
}

void qmp_close(struct qmp *qmp)
{
    if (!qmp)
        return;
    assert(qmp->state != QMP_CLOSING);
    qmp->state = QMP_CLOSING;
    cancel_all(qmp);
    uv_close((uv_handle_t *)&qmp->poll, poll_closed);
}
