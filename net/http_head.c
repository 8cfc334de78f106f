#include "net/http_head.h"

#include <string.h>

#include "common/limits.h"
#include "common/quote.h"

static bool is_token_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

bool slice_is_token(struct slice s)
{
    for (size_t i = 0; i < s.size; i++)
        if (!is_token_char(s.at[i]))
            return false;
    return s.size > 0;
}

bool slice_is(struct slice s, const char *text_lower)
{
    return s.size == strlen(text_lower) && strncasecmp(s.at, text_lower, s.size) == 0;
}

struct slice slice_trim(struct slice s)
{
    while (s.size > 0 && (s.at[0] == ' ' || s.at[0] == '\t')) {
        s.at++;
        s.size--;
    }
    while (s.size > 0 && (s.at[s.size - 1] == ' ' || s.at[s.size - 1] == '\t'))
        s.size--;
    return s;
}

struct slice slice_cut(struct slice *s, char c)
{
    const char *at = memchr(s->at, c, s->size);
    struct slice before = {s->at, at ? (size_t)(at - s->at) : s->size};
    size_t skip = before.size + (at ? 1 : 0);
    s->at += skip;
    s->size -= skip;
    return before;
}

bool slice_has_token(struct slice s, const char *token_lower)
{
    while (s.size > 0) {
        const char *comma = memchr(s.at, ',', s.size);
        size_t size = comma ? (size_t)(comma - s.at) : s.size;
        if (slice_is(slice_trim((struct slice){s.at, size}), token_lower))
            return true;
        s.at += size;
        s.size -= size;
        if (comma) {
            s.at++;
            s.size--;
        }
    }
    return false;
}

const struct http_field *http_head_field(const struct http_head *head, const char *name,
                                         size_t *ret_count)
{
    const struct http_field *found = NULL;
    size_t count = 0;
    for (size_t i = 0; i < head->field_count; i++) {
        if (slice_is(head->fields[i].name, name)) {
            found = &head->fields[i];
            count++;
        }
    }
    if (ret_count)
        *ret_count = count;
    return count == 1 ? found : NULL;
}

void http_head_done(struct http_head *head)
{
    free(head->fields);
    *head = (struct http_head){0};
}

/* The next line of rest, without its CRLF. Errors: -EPROTO a bare CR or LF, or a NUL. */
static int next_line(struct slice *rest, struct slice *ret, struct bg_err *err)
{
    const char *lf = memchr(rest->at, '\n', rest->size);
    size_t size = lf ? (size_t)(lf - rest->at) : 0;
    if (!lf || size == 0 || lf[-1] != '\r')
        return bg_err_set(err, -EPROTO, "a line that does not end in CR LF");
    struct slice line = {rest->at, size - 1};
    if (memchr(line.at, '\r', line.size))
        return bg_err_set(err, -EPROTO, "a CR inside a line");
    if (memchr(line.at, '\0', line.size))
        return bg_err_set(err, -EPROTO, "a NUL byte");
    rest->at += size + 1;
    rest->size -= size + 1;
    *ret = line;
    return 0;
}

/* No error has any of the bytes in it: in an answer they may be a secret. */
static int parse_field(struct slice line, struct http_field *ret, struct bg_err *err)
{
    if (line.at[0] == ' ' || line.at[0] == '\t')
        return bg_err_set(err, -EPROTO, "a folded header line");
    const char *colon = memchr(line.at, ':', line.size);
    size_t name_size = colon ? (size_t)(colon - line.at) : 0;
    if (!slice_is_token((struct slice){line.at, name_size}))
        return bg_err_set(err, -EPROTO, "no header name of letters, digits and a few others");
    struct slice value = slice_trim((struct slice){colon + 1, line.size - name_size - 1});
    for (size_t i = 0; i < value.size; i++) {
        uint8_t c = (uint8_t)value.at[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return bg_err_set(err, -EPROTO, "a control byte in a header");
    }
    *ret = (struct http_field){.name = {line.at, name_size}, .value = value};
    return 0;
}

/* All lines after the first, to the empty one that ends the head. */
static int parse_fields(struct slice rest, struct http_head *head, int *ret_status,
                        struct bg_err *err)
{
    size_t room = 0;
    for (;;) {
        struct slice line;
        int r = next_line(&rest, &line, err);
        if (r < 0)
            return r;
        if (line.size == 0)
            break;
        if (head->field_count == BG_EGRESS_FIELDS_MAX) {
            *ret_status = 431;
            return bg_err_set(err, -EPROTO, "more than %d header fields", BG_EGRESS_FIELDS_MAX);
        }
        if (head->field_count == room) {
            room = room ? 2 * room : 16;
            struct http_field *grown = reallocarray(head->fields, room, sizeof *grown);
            if (!grown)
                return bg_err_errno(err, -ENOMEM, "header fields");
            head->fields = grown;
        }
        r = parse_field(line, &head->fields[head->field_count], err);
        head->field_count++;
        if (r < 0) {
            (void)bg_err_prefix(err, "header line %zu", head->field_count);
            return r;
        }
    }
    return rest.size == 0 ? 0 : bg_err_set(err, -EPROTO, "bytes after the head");
}

static int parse_length(struct slice value, uint64_t *ret)
{
    uint64_t length = 0;
    if (value.size == 0)
        return -EPROTO;
    for (size_t i = 0; i < value.size; i++) {
        if (value.at[i] < '0' || value.at[i] > '9' || __builtin_mul_overflow(length, 10, &length) ||
            __builtin_add_overflow(length, (uint64_t)(value.at[i] - '0'), &length))
            return -EPROTO;
    }
    if (length > INT64_MAX)
        return -EPROTO;
    *ret = length;
    return 0;
}

/* How long the body is, by the fields alone (RFC 9112 §6). Two answers are none. */
static int parse_framing(struct http_head *head, bool *ret_given, struct bg_err *err)
{
    size_t length_count, coding_count;
    const struct http_field *length = http_head_field(head, "content-length", &length_count);
    const struct http_field *coding = http_head_field(head, "transfer-encoding", &coding_count);
    *ret_given = length_count + coding_count > 0;
    if (length_count > 0 && coding_count > 0)
        return bg_err_set(err, -EPROTO, "both Content-Length and Transfer-Encoding");
    if (length_count > 1)
        return bg_err_set(err, -EPROTO, "more than one Content-Length");
    if (coding_count > 0) {
        if (!coding || !slice_is(coding->value, "chunked") || head->minor == 0)
            return bg_err_set(err, -EPROTO, "a Transfer-Encoding other than chunked in HTTP/1.1");
        head->framing = HTTP_CHUNKED;
    } else if (length) {
        if (parse_length(length->value, &head->length) < 0)
            return bg_err_set(err, -EPROTO, "Content-Length is no plain number");
        head->framing = HTTP_LENGTH;
    }
    return 0;
}

static void parse_connection(struct http_head *head)
{
    bool close = false, keep_alive = false, upgrade = false, websocket = false;
    for (size_t i = 0; i < head->field_count; i++) {
        const struct http_field *f = &head->fields[i];
        if (slice_is(f->name, "connection")) {
            close |= slice_has_token(f->value, "close");
            keep_alive |= slice_has_token(f->value, "keep-alive");
            upgrade |= slice_has_token(f->value, "upgrade");
        } else if (slice_is(f->name, "upgrade")) {
            websocket |= slice_is(f->value, "websocket");
        }
    }
    head->keep_alive = !close && (head->minor == 1 || keep_alive);
    head->upgrade_websocket = upgrade && websocket && head->minor == 1;
}

/* "HTTP/1.0" or "HTTP/1.1". */
static bool parse_version(struct slice text, unsigned *ret_minor)
{
    if (text.size != 8 || memcmp(text.at, "HTTP/1.", 7) != 0 ||
        (text.at[7] != '0' && text.at[7] != '1'))
        return false;
    *ret_minor = text.at[7] == '1';
    return true;
}

static int parse_request_line(struct slice line, struct http_head *head, int *ret_status,
                              struct bg_err *err)
{
    const char *space = memchr(line.at, ' ', line.size);
    const char *last = memrchr(line.at, ' ', line.size);
    if (!space || space == last)
        return bg_err_set(err, -EPROTO, "no request line of HTTP/1.x");
    head->method = (struct slice){line.at, (size_t)(space - line.at)};
    head->target = (struct slice){space + 1, (size_t)(last - space - 1)};
    struct slice version = {last + 1, line.size - (size_t)(last - line.at) - 1};
    if (!slice_is_token(head->method))
        return bg_err_set(err, -EPROTO, "a method that is no token");
    if (!parse_version(version, &head->minor)) {
        if (version.size >= 6 && memcmp(version.at, "HTTP/", 5) == 0 && version.at[5] != '1')
            *ret_status = 505;
        return bg_err_set(err, -EPROTO, "a version other than HTTP/1.0 and HTTP/1.1");
    }
    bool ok = head->target.size > 0;
    for (size_t i = 0; i < head->target.size; i++)
        ok &= head->target.at[i] > 0x20 && head->target.at[i] < 0x7f && head->target.at[i] != '#';
    if (!ok)
        return bg_err_set(err, -EPROTO, "a request target with a byte that no URL has");
    return 0;
}

int http_head_check_request_line(const char *bytes, size_t size, int *ret_status,
                                 struct bg_err *err)
{
    struct http_head head = {0};
    struct slice rest = {bytes, size}, line;
    *ret_status = 400;
    int r = next_line(&rest, &line, err);
    return r < 0 ? r : parse_request_line(line, &head, ret_status, err);
}

static int check_request(struct http_head *head, int *ret_status, struct bg_err *err)
{
    if (slice_is(head->method, "trace")) {
        *ret_status = 405;
        return bg_err_set(err, -EPROTO, "TRACE is not passed on");
    }
    size_t hosts, expects;
    (void)http_head_field(head, "host", &hosts);
    if (hosts > 1 || (hosts == 0 && head->minor == 1))
        return bg_err_set(err, -EPROTO, "%s Host header", hosts ? "more than one" : "no");
    const struct http_field *expect = http_head_field(head, "expect", &expects);
    if (expects > 0 && !(expect && slice_is(expect->value, "100-continue"))) {
        *ret_status = 417;
        return bg_err_set(err, -EPROTO, "an expectation other than 100-continue");
    }
    bool given;
    int r = parse_framing(head, &given, err);
    if (r == 0)
        parse_connection(head);
    return r;
}

int http_head_parse_request(const char *bytes, size_t size, struct http_head *ret, int *ret_status,
                            struct bg_err *err)
{
    struct http_head head = {0};
    struct slice rest = {bytes, size}, line;
    int status = 400;
    int r = next_line(&rest, &line, err);
    if (r == 0)
        r = parse_request_line(line, &head, &status, err);
    if (r == 0)
        r = parse_fields(rest, &head, &status, err);
    if (r == 0)
        r = check_request(&head, &status, err);
    if (r < 0) {
        http_head_done(&head);
        *ret_status = r == -ENOMEM ? 503 : status;
        return r;
    }
    *ret = head;
    return 0;
}

static int parse_status_line(struct slice line, struct http_head *head, struct bg_err *err)
{
    if (line.size < 12 || !parse_version((struct slice){line.at, 8}, &head->minor) ||
        line.at[8] != ' ' || (line.size > 12 && line.at[12] != ' '))
        return bg_err_set(err, -EPROTO, "no status line of HTTP/1.x");
    for (size_t i = 9; i < 12; i++) {
        if (line.at[i] < '0' || line.at[i] > '9')
            return bg_err_set(err, -EPROTO, "a status that is no number");
        head->status = head->status * 10 + (unsigned)(line.at[i] - '0');
    }
    if (head->status < 100 || head->status > 599)
        return bg_err_set(err, -EPROTO, "status %u", head->status);
    if (line.size > 13)
        head->reason = (struct slice){line.at + 13, line.size - 13};
    for (size_t i = 0; i < head->reason.size; i++) {
        uint8_t c = (uint8_t)head->reason.at[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return bg_err_set(err, -EPROTO, "a control byte in the status line");
    }
    return 0;
}

int http_head_parse_response(const char *bytes, size_t size, struct slice request_method,
                             struct http_head *ret, struct bg_err *err)
{
    struct http_head head = {0};
    struct slice rest = {bytes, size}, line;
    int status = 502;
    bool given = false;
    int r = next_line(&rest, &line, err);
    if (r == 0)
        r = parse_status_line(line, &head, err);
    if (r == 0)
        r = parse_fields(rest, &head, &status, err);
    if (r == 0)
        r = parse_framing(&head, &given, err);
    if (r < 0) {
        http_head_done(&head);
        return r;
    }
    if (head.status < 200 || head.status == 204 || head.status == 304 ||
        slice_is(request_method, "head"))
        head.framing = HTTP_NO_BODY;
    else if (!given)
        head.framing = HTTP_UNTIL_CLOSE;
    parse_connection(&head);
    if (head.framing == HTTP_UNTIL_CLOSE)
        head.keep_alive = false;
    *ret = head;
    return 0;
}

int http_head_parse_trailers(const char *bytes, size_t size, struct http_head *ret,
                             struct bg_err *err)
{
    struct http_head head = {0};
    int status;
    int r = parse_fields((struct slice){bytes, size}, &head, &status, err);
    if (r < 0) {
        http_head_done(&head);
        return r;
    }
    *ret = head;
    return 0;
}
