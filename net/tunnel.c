#include "net/tunnel.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "common/limits.h"
#include "common/base64.h"
#include "net/locked.h"

#define BASIC      "Basic "
#define BASIC_SIZE (sizeof BASIC - 1)

int parent_set_login(struct parent *parent, const void *login, size_t size, struct bg_err *err)
{
    if (size == 0 || !memchr(login, ':', size))
        return bg_err_set(err, -EINVAL, "want USER:PASSWORD");
    size_t text_size = BASIC_SIZE + BG_BASE64_SIZE(size);
    char *text = locked_new(text_size, NULL);
    if (!text)
        return bg_err_errno(err, -ENOMEM, "login");
    memcpy(text, BASIC, BASIC_SIZE);
    bg_base64_encode(login, size, text + BASIC_SIZE);
    parent_done(parent);
    parent->authorization = text;
    parent->authorization_size = text_size;
    return 0;
}

void parent_done(struct parent *parent)
{
    locked_free(parent->authorization, parent->authorization_size);
    parent->authorization = NULL;
}

static void no_body(void *owner, const uint8_t *bytes, size_t size)
{
    (void)owner;
    (void)bytes;
    (void)size;
}

void tunnel_init(struct tunnel *tunnel, const struct parent *parent, const struct destination *to)
{
    *tunnel = (struct tunnel){.request = buffer_init(BG_EGRESS_HEAD_MAX + 2 * BG_SECRET_SIZE_MAX),
                              .logs_in = parent->authorization != NULL};
    tunnel->request.wipe = true;
    destination_format(to, 0, tunnel->to);
    destination_format(&parent->at, 0, tunnel->at);
    buffer_printf(&tunnel->request, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", tunnel->to, tunnel->to);
    if (parent->authorization) {
        buffer_put_text(&tunnel->request, "Proxy-Authorization: ");
        buffer_put(&tunnel->request, parent->authorization, parent->authorization_size);
        buffer_put_text(&tunnel->request, "\r\n");
    }
    buffer_put_text(&tunnel->request, "\r\n");
    http_reader_init(&tunnel->reply, /* is_response= */ true, no_body, NULL);
    tunnel->reply.request_method = (struct slice){"CONNECT", 7};
}

void tunnel_done(struct tunnel *tunnel)
{
    buffer_reset(&tunnel->request);
    http_reader_done(&tunnel->reply);
}

bool tunnel_wants_write(const struct tunnel *tunnel)
{
    return buffer_size(&tunnel->request) > 0;
}

static int broken(const struct tunnel *tunnel, const char *why, struct bg_err *err)
{
    return bg_err_set(err, -ECONNREFUSED, "the parent proxy %s broke off: %s", tunnel->at, why);
}

static int send_request(struct tunnel *tunnel, int fd, struct bg_err *err)
{
    while (buffer_size(&tunnel->request) > 0) {
        ssize_t n = send(fd, buffer_bytes(&tunnel->request), buffer_size(&tunnel->request),
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            return -EAGAIN;
        if (n < 0 && errno != EINTR)
            return broken(tunnel, strerror(errno), err);
        if (n > 0)
            buffer_drop(&tunnel->request, (size_t)n);
    }
    return 0;
}

static int judge(const struct tunnel *tunnel, struct bg_err *err)
{
    unsigned status = tunnel->reply.head.status;
    if (status >= 200 && status < 300)
        return 0;
    if (status == 407)
        return bg_err_set(err, -ECONNREFUSED, "the parent proxy %s %s (407)", tunnel->at,
                          tunnel->logs_in ? "does not take the login that parent_login names"
                                          : "wants a login; name one with parent_login");
    return bg_err_set(err, -ECONNREFUSED, "the parent proxy %s refuses to connect to %s (%u)",
                      tunnel->at, tunnel->to, status);
}

int tunnel_step(struct tunnel *tunnel, int fd, struct bg_err *err)
{
    if (!buffer_ok(&tunnel->request))
        return bg_err_errno(err, -ENOMEM, "parent proxy");
    int r = send_request(tunnel, fd, err);
    while (r == 0 && tunnel->reply.state == HTTP_READER_HEAD) {
        uint8_t bytes[2048];
        struct bg_err why;
        ssize_t n = recv(fd, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? -EAGAIN : broken(tunnel, strerror(errno), err);
        if (n == 0)
            return broken(tunnel, "it closed the connection", err);
        ssize_t used = http_reader_feed(&tunnel->reply, bytes, (size_t)n, &why);
        if (used < 0)
            return broken(tunnel, why.text, err);
        /* These bytes are there. */
        if (used > 0 && recv(fd, bytes, (size_t)used, MSG_DONTWAIT) != used)
            return broken(tunnel, strerror(EIO), err);
    }
    return r < 0 ? r : judge(tunnel, err);
}
