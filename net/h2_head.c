#include "net/h2_head.h"

#include <errno.h>
#include <string.h>

#include "common/limits.h"

void h2_fields_init(struct h2_fields *fields)
{
    const struct buffer empty = buffer_init(BG_EGRESS_HEAD_MAX);
    *fields = (struct h2_fields){.method = empty,
                                 .scheme = empty,
                                 .authority = empty,
                                 .path = empty,
                                 .status = empty,
                                 .host = empty,
                                 .cookie = empty,
                                 .lines = empty};
}

void h2_fields_done(struct h2_fields *fields)
{
    buffer_reset(&fields->method);
    buffer_reset(&fields->scheme);
    buffer_reset(&fields->authority);
    buffer_reset(&fields->path);
    buffer_reset(&fields->status);
    buffer_reset(&fields->host);
    buffer_reset(&fields->cookie);
    buffer_reset(&fields->lines);
    fields->size = 0;
    fields->count = 0;
    fields->has_length = false;
}

static int add_pseudo(struct h2_fields *fields, struct slice name, struct slice value)
{
    static const char bad[] = " \t"; /* would end a part of the first line */
    struct buffer *to = slice_is(name, ":method")      ? &fields->method
                        : slice_is(name, ":scheme")    ? &fields->scheme
                        : slice_is(name, ":authority") ? &fields->authority
                        : slice_is(name, ":path")      ? &fields->path
                        : slice_is(name, ":status")    ? &fields->status
                                                       : NULL;
    if (!to || value.size == 0 || buffer_size(to) > 0)
        return -EPROTO;
    for (size_t i = 0; bad[i]; i++)
        if (memchr(value.at, bad[i], value.size))
            return -EPROTO;
    buffer_put(to, value.at, value.size);
    return 0;
}

static bool has_byte_of(struct slice s, const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (s.size > 0 && memchr(s.at, bytes[i], s.size))
            return true;
    return false;
}

int h2_fields_add(struct h2_fields *fields, struct slice name, struct slice value)
{
    fields->size += name.size + value.size + 32;
    if (fields->size > BG_EGRESS_HEAD_MAX || ++fields->count > BG_EGRESS_FIELDS_MAX)
        return -E2BIG;
    /* A field is one line, whatever it holds. */
    if (name.size == 0 || has_byte_of(value, "\r\n", 3) || has_byte_of(name, "\r\n", 3))
        return -EPROTO;
    if (name.at[0] == ':')
        return add_pseudo(fields, name, value);
    if (has_byte_of(name, ": \t", 3))
        return -EPROTO;
    if (slice_is(name, "host")) {
        if (buffer_size(&fields->host) > 0 || value.size == 0)
            return -EPROTO;
        buffer_put(&fields->host, value.at, value.size);
        return 0;
    }
    if (slice_is(name, "cookie")) { /* RFC 9113, 8.2.3 */
        if (buffer_size(&fields->cookie) > 0)
            buffer_put_text(&fields->cookie, "; ");
        buffer_put(&fields->cookie, value.at, value.size);
        return 0;
    }
    static const char *const of_connection[] = {"connection", "keep-alive", "proxy-connection",
                                                "transfer-encoding", "upgrade"};
    for (size_t i = 0; i < sizeof of_connection / sizeof *of_connection; i++)
        if (slice_is(name, of_connection[i]))
            return -EPROTO;
    if (slice_is(name, "content-length")) {
        if (fields->has_length)
            return -EPROTO;
        fields->has_length = true;
    }
    buffer_put(&fields->lines, name.at, name.size);
    buffer_put_text(&fields->lines, ": ");
    buffer_put(&fields->lines, value.at, value.size);
    buffer_put_text(&fields->lines, "\r\n");
    return 0;
}

static void put_buffer(struct buffer *out, const struct buffer *from)
{
    buffer_put(out, buffer_bytes(from), buffer_size(from));
}

static void put_line(struct buffer *out, const char *name, const struct buffer *value)
{
    if (buffer_size(value) == 0)
        return;
    buffer_put_text(out, name);
    put_buffer(out, value);
    buffer_put_text(out, "\r\n");
}

static struct slice slice_of(const struct buffer *b)
{
    return (struct slice){(const char *)buffer_bytes(b), buffer_size(b)};
}

static bool same_text(const struct buffer *a, const struct buffer *b)
{
    return buffer_size(a) == buffer_size(b) &&
           (buffer_size(a) == 0 || strncasecmp((const char *)buffer_bytes(a),
                                               (const char *)buffer_bytes(b), buffer_size(a)) == 0);
}

int h2_fields_put_request(const struct h2_fields *fields, bool no_body, struct buffer *out,
                          enum http_wrap *ret_wrap)
{
    struct slice method = slice_of(&fields->method);
    bool has_authority = buffer_size(&fields->authority) > 0;
    if (method.size == 0 || buffer_size(&fields->path) == 0 || buffer_size(&fields->status) > 0 ||
        !slice_is(slice_of(&fields->scheme), "https") ||
        (!has_authority && buffer_size(&fields->host) == 0))
        return -EPROTO;
    put_buffer(out, &fields->method);
    buffer_put_text(out, " ");
    put_buffer(out, &fields->path);
    buffer_put_text(out, " HTTP/1.1\r\n");
    put_line(out, "Host: ", &fields->authority);
    /* Two that differ are two Host lines, which http_head refuses. */
    if (!has_authority || !same_text(&fields->authority, &fields->host))
        put_line(out, "Host: ", &fields->host);
    put_buffer(out, &fields->lines);
    put_line(out, "cookie: ", &fields->cookie);
    *ret_wrap = HTTP_WRAP_PLAIN;
    if (!no_body && !fields->has_length) {
        buffer_put_text(out, "Transfer-Encoding: chunked\r\n");
        *ret_wrap = HTTP_WRAP_CHUNKED;
    } else if (no_body && !fields->has_length &&
               (slice_is(method, "post") || slice_is(method, "put") || slice_is(method, "patch"))) {
        buffer_put_text(out, "Content-Length: 0\r\n");
    }
    buffer_put_text(out, "\r\n");
    return 0;
}

int h2_fields_put_response(const struct h2_fields *fields, enum h2_body body, struct buffer *out,
                           enum http_wrap *ret_wrap, unsigned *ret_status)
{
    struct slice text = slice_of(&fields->status);
    unsigned status = 0;
    for (size_t i = 0; i < text.size && i < 4; i++)
        status = text.at[i] >= '0' && text.at[i] <= '9' ? status * 10 + (unsigned)(text.at[i] - '0')
                                                        : 1000;
    if (text.size != 3 || status < 100 || status > 599 || status == 101)
        return -EPROTO;
    buffer_printf(out, "HTTP/1.1 %u \r\n", status);
    put_buffer(out, &fields->lines);
    put_line(out, "cookie: ", &fields->cookie);
    *ret_wrap = HTTP_WRAP_PLAIN;
    *ret_status = status;
    if (status >= 200) {
        bool framed = !fields->has_length && status != 204 && status != 304;
        if (framed && body == H2_BODY) {
            buffer_put_text(out, "Transfer-Encoding: chunked\r\n");
            *ret_wrap = HTTP_WRAP_CHUNKED;
        } else if (framed && body == H2_NO_BODY) {
            buffer_put_text(out, "Content-Length: 0\r\n");
        }
        buffer_put_text(out, "Connection: close\r\n");
    }
    buffer_put_text(out, "\r\n");
    return 0;
}

void h2_fields_put_trailers(const struct h2_fields *fields, struct buffer *out)
{
    buffer_put_text(out, "0\r\n");
    put_buffer(out, &fields->lines);
    buffer_put_text(out, "\r\n");
}

bool h2_field_passes(const struct http_field *field)
{
    static const char *const stays[] = {"connection",        "keep-alive", "proxy-connection",
                                        "transfer-encoding", "upgrade",    "host",
                                        "http2-settings"};
    for (size_t i = 0; i < sizeof stays / sizeof *stays; i++)
        if (slice_is(field->name, stays[i]))
            return false;
    return !slice_is(field->name, "te") || slice_is(field->value, "trailers");
}
