#include "net/http_reader.h"

#include <assert.h>
#include <string.h>

#include "common/limits.h"

static int body_parsed(llhttp_t *parser, const char *at, size_t size)
{
    struct http_reader *reader = parser->data;
    reader->overhead = 0;
    reader->on_body(reader->owner, (const uint8_t *)at, size);
    return 0;
}

static bool is_trailer(const struct http_reader *reader)
{
    return reader->is_response && reader->in_body;
}

static int field_parsed(llhttp_t *parser, const char *at, size_t size)
{
    struct http_reader *reader = parser->data;
    if (!is_trailer(reader))
        return 0;
    if (reader->trailer_part == TRAILER_VALUE)
        buffer_put_text(&reader->trailer_text, "\r\n");
    reader->trailer_part = TRAILER_NAME;
    buffer_put(&reader->trailer_text, at, size);
    return 0;
}

static int value_parsed(llhttp_t *parser, const char *at, size_t size)
{
    struct http_reader *reader = parser->data;
    if (!is_trailer(reader))
        return 0;
    if (reader->trailer_part == TRAILER_NAME)
        buffer_put_text(&reader->trailer_text, ":");
    reader->trailer_part = TRAILER_VALUE;
    buffer_put(&reader->trailer_text, at, size);
    return 0;
}

/* Our own parser has the last word on trailers too. */
static int parse_trailers(struct http_reader *reader)
{
    if (reader->trailer_part == TRAILER_NONE)
        return 0;
    buffer_put_text(&reader->trailer_text,
                    reader->trailer_part == TRAILER_NAME ? ":\r\n\r\n" : "\r\n\r\n");
    return buffer_ok(&reader->trailer_text)
               ? http_head_parse_trailers((const char *)buffer_bytes(&reader->trailer_text),
                                          buffer_size(&reader->trailer_text), &reader->trailers,
                                          NULL)
               : -ENOMEM;
}

static int message_parsed(llhttp_t *parser)
{
    struct http_reader *reader = parser->data;
    if (parse_trailers(reader) < 0) {
        llhttp_set_error_reason(parser, "malformed trailers");
        return HPE_USER;
    }
    reader->state = HTTP_READER_DONE;
    return HPE_PAUSED; /* so that nothing of the next message is looked at */
}

/* http_head has said whether there is a body; llhttp must not decide otherwise. */
static int headers_parsed(llhttp_t *parser)
{
    struct http_reader *reader = parser->data;
    reader->in_body = true;
    return reader->head.framing == HTTP_NO_BODY ? 1 : 0;
}

static const llhttp_settings_t settings = {
    .on_headers_complete = headers_parsed,
    .on_header_field = field_parsed,
    .on_header_value = value_parsed,
    .on_body = body_parsed,
    .on_message_complete = message_parsed,
};

void http_reader_init(struct http_reader *reader, bool is_response,
                      void (*on_body)(void *owner, const uint8_t *bytes, size_t size), void *owner)
{
    *reader = (struct http_reader){.is_response = is_response,
                                   .raw = buffer_init(BG_EGRESS_HEAD_MAX),
                                   .trailer_text = buffer_init(BG_EGRESS_HEAD_MAX + 8),
                                   .on_body = on_body,
                                   .owner = owner};
}

void http_reader_done(struct http_reader *reader)
{
    http_head_done(&reader->head);
    http_head_done(&reader->trailers);
    buffer_reset(&reader->raw);
    buffer_reset(&reader->trailer_text);
    reader->state = HTTP_READER_FAILED;
}

static int fail(struct http_reader *reader, int code, int status)
{
    reader->state = HTTP_READER_FAILED;
    reader->status = status;
    return code;
}

/* The size of the head's part in bytes, 0 while its end is not there: lines are looked at as they
 * come, so that what cannot become a head is refused at once and not waited for. */
static int find_end(struct http_reader *reader, const uint8_t *bytes, size_t size, size_t *ret_end,
                    struct bg_err *err)
{
    const struct buffer *raw = &reader->raw;
    *ret_end = 0;
    for (size_t at = 0; at < size;) {
        const uint8_t *lf = memchr(bytes + at, '\n', size - at);
        if (!lf)
            return 0;
        size_t i = (size_t)(lf - bytes), total = buffer_size(raw) + i;
        if (total == reader->line_start)
            return bg_err_set(err, -EPROTO, "a line that does not end in CR LF");
        uint8_t before = i > 0 ? bytes[i - 1] : buffer_bytes(raw)[buffer_size(raw) - 1];
        if (before != '\r')
            return bg_err_set(err, -EPROTO, "a line that does not end in CR LF");
        bool empty = total - reader->line_start == 1;
        reader->line_start = total + 1;
        at = i + 1;
        if (empty && total > 1) {
            *ret_end = at;
            return 0;
        }
    }
    return 0;
}

static int parse_head(struct http_reader *reader, struct bg_err *err)
{
    const char *bytes = (const char *)buffer_bytes(&reader->raw);
    size_t size = buffer_size(&reader->raw);
    int status = 502;
    int r = reader->is_response
                ? http_head_parse_response(bytes, size, reader->request_method, &reader->head, err)
                : http_head_parse_request(bytes, size, &reader->head, &status, err);
    if (r < 0)
        return fail(reader, r, status);
    reader->state = HTTP_READER_HAVE_HEAD;
    return 0;
}

/* One empty line before a request is skipped (RFC 9112 §2.2): old clients send it after a POST.
 * Returns how many bytes of it are here. */
static size_t skip_empty_line(struct http_reader *reader, const uint8_t *bytes, size_t size)
{
    size_t used = 0;
    if (reader->is_response || buffer_size(&reader->raw) > 0)
        return 0;
    if (reader->skipped == 0 && bytes[0] == '\r')
        reader->skipped = ++used;
    if (reader->skipped == 1 && used < size && bytes[used] == '\n') {
        used++;
        reader->skipped = 2;
    }
    return used;
}

/* The first line alone, as soon as it is there. */
static int check_first_line(struct http_reader *reader, struct bg_err *err)
{
    int status;
    if (reader->is_response || reader->line_checked || reader->line_start == 0)
        return 0;
    reader->line_checked = true;
    int r = http_head_check_request_line((const char *)buffer_bytes(&reader->raw),
                                         buffer_size(&reader->raw), &status, err);
    return r < 0 ? fail(reader, r, status) : 0;
}

static ssize_t feed_head(struct http_reader *reader, const uint8_t *bytes, size_t size,
                         struct bg_err *err)
{
    size_t skipped = skip_empty_line(reader, bytes, size);
    bytes += skipped;
    size -= skipped;
    size_t end;
    if (reader->skipped == 1 && size > 0)
        return fail(reader, bg_err_set(err, -EPROTO, "a CR before the request line"), 400);
    if (find_end(reader, bytes, size, &end, err) < 0)
        return fail(reader, -EPROTO, 400);
    size_t take = end > 0 ? end : size;
    buffer_put(&reader->raw, bytes, take);
    if (!buffer_ok(&reader->raw))
        return fail(reader,
                    bg_err_set(err, -EPROTO, "a head of more than %d bytes", BG_EGRESS_HEAD_MAX),
                    431);
    int r = end > 0 ? parse_head(reader, err) : check_first_line(reader, err);
    return r < 0 ? r : (ssize_t)(skipped + take);
}

static ssize_t feed_body(struct http_reader *reader, const uint8_t *bytes, size_t size,
                         struct bg_err *err)
{
    reader->overhead += size;
    llhttp_errno_t e = llhttp_execute(&reader->parser, (const char *)bytes, size);
    if (e == HPE_OK) {
        if (reader->overhead > BG_EGRESS_HEAD_MAX)
            return fail(reader,
                        bg_err_set(err, -EPROTO,
                                   "a chunk line or trailers of more than %d "
                                   "bytes",
                                   BG_EGRESS_HEAD_MAX),
                        400);
        return (ssize_t)size;
    }
    if (reader->state == HTTP_READER_DONE)
        return (const uint8_t *)llhttp_get_error_pos(&reader->parser) - bytes;
    return fail(reader,
                bg_err_set(err, -EPROTO, "body: %s", llhttp_get_error_reason(&reader->parser)),
                400);
}

ssize_t http_reader_feed(struct http_reader *reader, const uint8_t *bytes, size_t size,
                         struct bg_err *err)
{
    assert(reader->state == HTTP_READER_HEAD || reader->state == HTTP_READER_BODY);
    if (size == 0)
        return 0;
    return reader->state == HTTP_READER_HEAD ? feed_head(reader, bytes, size, err)
                                             : feed_body(reader, bytes, size, err);
}

int http_reader_go_on(struct http_reader *reader, struct bg_err *err)
{
    assert(reader->state == HTTP_READER_HAVE_HEAD);
    llhttp_init(&reader->parser, reader->is_response ? HTTP_RESPONSE : HTTP_REQUEST, &settings);
    reader->parser.data = reader;
    reader->state = HTTP_READER_BODY;
    reader->overhead = 0;
    /* llhttp reads the head again: it is the second opinion on it, and sets itself up by it. */
    llhttp_errno_t e = llhttp_execute(&reader->parser, (const char *)buffer_bytes(&reader->raw),
                                      buffer_size(&reader->raw));
    bool done = reader->state == HTTP_READER_DONE;
    bool no_body = reader->head.framing == HTTP_NO_BODY ||
                   (reader->head.framing == HTTP_LENGTH && reader->head.length == 0);
    if (e == HPE_INVALID_METHOD)
        return fail(reader, bg_err_set(err, -EPROTO, "a method that is not known"), 501);
    if ((e != HPE_OK && !done) || done != no_body)
        return fail(reader,
                    bg_err_set(err, -EPROTO, "head: %s",
                               e ? llhttp_get_error_reason(&reader->parser)
                                 : "unclear where its body ends"),
                    400);
    return 0;
}

int http_reader_eof(struct http_reader *reader, struct bg_err *err)
{
    if (http_reader_fresh(reader) || reader->state == HTTP_READER_DONE)
        return 0;
    if (reader->state == HTTP_READER_BODY && reader->head.framing == HTTP_UNTIL_CLOSE) {
        reader->state = HTTP_READER_DONE;
        return 0;
    }
    return fail(reader, bg_err_set(err, -EPROTO, "the connection ended in the middle of a message"),
                400);
}

void http_reader_next(struct http_reader *reader)
{
    assert(reader->state == HTTP_READER_DONE);
    http_head_done(&reader->head);
    http_head_done(&reader->trailers);
    buffer_reset(&reader->raw);
    buffer_reset(&reader->trailer_text);
    reader->line_start = 0;
    reader->skipped = 0;
    reader->line_checked = reader->in_body = false;
    reader->trailer_part = TRAILER_NONE;
    reader->request_method = (struct slice){0};
    reader->state = HTTP_READER_HEAD;
}
