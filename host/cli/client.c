#include "host/cli/client.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"
#include "common/wire.h"
#include "host/cli/app.h"

#define SEND_TIMEOUT_S  30
#define NOTE_AFTER_MS   1000  /* what is quick needs no words */
#define OPEN_TIMEOUT_MS 30000 /* the supervisor answers at once, the guest has no part in it */

/* Waits until fd can be read. Errors: -ETIME. */
static int wait_readable(int fd, uint64_t deadline_ms)
{
    for (;;) {
        uint64_t now = bg_now_ms();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (now >= deadline_ms)
            return -ETIME;
        int n = poll(&p, 1, deadline_ms - now > 60000 ? 60000 : (int)(deadline_ms - now));
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
    }
}

int client_read_line(int fd, uint64_t deadline_ms, char *out, size_t size)
{
    size_t used = 0;
    for (;;) {
        int r = wait_readable(fd, deadline_ms);
        if (r < 0)
            return r;
        /* Looked at first and taken then, so that what follows the line stays in the socket. */
        ssize_t n = recv(fd, out + used, size - 1 - used, MSG_PEEK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0 ? -ENODATA : -errno;
        const char *end = memchr(out + used, '\n', (size_t)n);
        size_t take = end ? (size_t)(end - (out + used)) + 1 : (size_t)n;
        r = bg_read_full(fd, out + used, take);
        if (r < 0)
            return r;
        used += take;
        if (end) {
            out[used - 1] = '\0';
            return 0;
        }
        if (used == size - 1)
            return -EMSGSIZE;
    }
}

int client_parse_answer(const char *line, size_t size, json_t **ret, struct bg_err *err)
{
    json_t *answer = json_loadb(line, size, JSON_REJECT_DUPLICATES, NULL);
    json_t *ok = json_object_get(answer, "ok");
    if (json_is_true(ok)) {
        *ret = answer;
        return 0;
    }
    json_int_t number = json_integer_value(json_object_get(answer, "errno"));
    const char *text = json_string_value(json_object_get(answer, "error"));
    int r = number > 0 && number < 4096 ? -(int)number : -EREMOTEIO;
    if (!json_is_false(ok) || !text) {
        r = bg_err_set(err, -EPROTO, "the supervisor's answer makes no sense");
    } else {
        char escaped[BG_ERR_TEXT_SIZE];
        bg_escape(text, strlen(text), escaped, sizeof escaped);
        (void)bg_err_set(err, r, "%s", escaped);
    }
    json_decref(answer);
    return r;
}

/* The first failure to read the answer, told as what it means. */
static int no_answer(int r, const struct bg_sandbox *sandbox, struct bg_err *err)
{
    if (r == -ETIME || r == -EAGAIN)
        return bg_err_set(err, -ETIME,
                          "sandbox '%s': its supervisor does not answer; end it with: "
                          "bellglass rm -f %s",
                          sandbox->name, sandbox->name);
    if (r == -ENODATA || r == -ECONNRESET || r == -EPIPE)
        return bg_err_set(err, -ECONNRESET, "sandbox '%s': its supervisor ended just now",
                          sandbox->name);
    return bg_err_errno(err, r, "sandbox '%s': control socket", sandbox->name);
}

static int send_all(int fd, const void *bytes, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = send(fd, (const char *)bytes + at, size - at, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0)
            at += (size_t)n;
    }
    return 0;
}

/* Connects, sends the request and the body, and reads the answer. note: what is told if that takes
 * long, or NULL. */
static int converse(const struct bg_paths *paths, const struct bg_sandbox *sandbox,
                    const json_t *request, const struct iovec *body, uint64_t timeout_ms,
                    const char *note, int *ret_fd, json_t **ret_answer, struct bg_err *err)
{
    BG_AUTOFREE char *text = json_dumps(request, JSON_COMPACT);
    BG_AUTOFREE char *line = malloc(BG_CONTROL_LINE_MAX);
    if (!text || !line)
        return bg_err_errno(err, -ENOMEM, "control request");
    BG_AUTOCLOSE int fd = -1;
    int r = bg_sandbox_connect(paths, sandbox, &fd, err);
    if (r < 0)
        return r;
    /* A supervisor that hangs must not make us hang. */
    const struct timeval limit = {.tv_sec = SEND_TIMEOUT_S}, never = {0};
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    r = send_all(fd, text, strlen(text));
    if (r == 0)
        r = send_all(fd, "\n", 1);
    if (r == 0 && body)
        r = send_all(fd, body->iov_base, body->iov_len);
    if (r == 0 && note && wait_readable(fd, bg_now_ms() + NOTE_AFTER_MS) == -ETIME)
        app_note("%s", note);
    /* One that refuses closes early, with its reason in the answer. */
    if (r == 0 || r == -EPIPE || r == -ECONNRESET)
        r = client_read_line(fd, bg_now_ms() + timeout_ms, line, BG_CONTROL_LINE_MAX);
    if (r < 0)
        return no_answer(r, sandbox, err);
    r = client_parse_answer(line, strlen(line), ret_answer, err);
    if (r < 0) {
        (void)bg_err_prefix(err, "sandbox '%s'", sandbox->name);
        return r;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &never, sizeof never);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

int client_request(const struct bg_paths *paths, const struct bg_sandbox *sandbox,
                   const json_t *request, uint64_t timeout_ms, json_t **ret_answer,
                   struct bg_err *err)
{
    return client_request_noted(paths, sandbox, request, timeout_ms, /* note= */ NULL, ret_answer,
                                err);
}

int client_request_noted(const struct bg_paths *paths, const struct bg_sandbox *sandbox,
                         const json_t *request, uint64_t timeout_ms, const char *note,
                         json_t **ret_answer, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = -1;
    json_auto_t *answer = NULL;
    int r =
        converse(paths, sandbox, request, /* body= */ NULL, timeout_ms, note, &fd, &answer, err);
    if (r == 0 && ret_answer)
        *ret_answer = json_incref(answer);
    return r;
}

int client_open(const struct bg_paths *paths, const struct bg_sandbox *sandbox, const char *kind,
                const void *body, size_t size, int *ret_fd, struct bg_err *err)
{
    json_auto_t *request =
        json_pack("{s:s, s:s, s:I}", "op", "open", "kind", kind, "body_size", (json_int_t)size);
    json_auto_t *answer = NULL;
    struct iovec bytes = {.iov_len = size};
    memcpy(&bytes.iov_base, &body, sizeof body); /* it is only read; iovec has no const */
    if (!request)
        return bg_err_errno(err, -ENOMEM, "control request");
    return converse(paths, sandbox, request, &bytes, OPEN_TIMEOUT_MS, /* note= */ NULL, ret_fd,
                    &answer, err);
}

static int read_before(int fd, uint64_t deadline_ms, void *out, size_t size)
{
    for (size_t at = 0; at < size;) {
        int r = wait_readable(fd, deadline_ms);
        if (r < 0)
            return r;
        ssize_t n = recv(fd, (char *)out + at, size - at, 0);
        if (n == 0)
            return -ECONNRESET;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0)
            at += (size_t)n;
    }
    return 0;
}

int client_stream_reply(int fd, int timeout_ms, struct bg_err *err)
{
    uint64_t deadline_ms = bg_now_ms() + (uint64_t)timeout_ms;
    uint8_t header[BG_REPLY_HEADER_SIZE];
    char body[BG_REPLY_TEXT_MAX];
    struct bg_reply_header reply = {0};
    int r = read_before(fd, deadline_ms, header, sizeof header);
    if (r == 0) {
        r = bg_reply_header_parse(header, sizeof header, &reply, err);
        if (r < 0)
            return r;
        r = read_before(fd, deadline_ms, body, reply.body_size);
    }
    if (r == -ETIME)
        return bg_err_set(err, r, "no answer from the sandbox within %d s", timeout_ms / 1000);
    if (r == -ECONNRESET)
        return bg_err_set(err, r, "the sandbox stopped or crashed");
    if (r < 0)
        return bg_err_errno(err, r, "stream to the sandbox");
    if (reply.status < 0) {
        char text[BG_ERR_TEXT_SIZE];
        bg_escape(body, reply.body_size, text, sizeof text);
        return bg_err_set(err, reply.status, "%s", text[0] ? text : strerror(-reply.status));
    }
    return reply.body_size == 0
               ? 0
               : bg_err_set(err, -EPROTO, "a reply of %u bytes: want none", reply.body_size);
}
