#include "host/gateway/http_request.h"

#include <string.h>
#include <strings.h>

#include "common/limits.h"

/* What the callbacks give back when the request is refused; feed() says why. */
static int refuse(struct http_request *q, int status)
{
    q->status = status;
    return HPE_USER;
}

/* Adds to the text that is begun. */
static int append(struct http_request *q, const char *bytes, size_t size)
{
    if (size > BG_GATEWAY_HEAD_MAX - q->text_used)
        return refuse(q, 431);
    if (q->text_size - q->text_used < size) {
        size_t want = q->text_size ? 2 * q->text_size : 1024;
        while (want - q->text_used < size)
            want *= 2;
        char *grown = realloc(q->text, want);
        if (!grown)
            return refuse(q, 503);
        q->text = grown;
        q->text_size = want;
    }
    memcpy(q->text + q->text_used, bytes, size);
    q->text_used += size;
    return 0;
}

/* Makes index the text that grows, ending the one before. */
static int begin(struct http_request *q, size_t index)
{
    if (index >= sizeof q->at / sizeof q->at[0])
        return refuse(q, 431);
    while (q->count <= index) {
        int r = q->count > 0 ? append(q, "", 1) : 0;
        if (r != 0)
            return r;
        q->at[q->count++] = q->text_used;
    }
    return 0;
}

static int on_url(llhttp_t *parser, const char *at, size_t size)
{
    struct http_request *q = parser->data;
    int r = begin(q, 0);
    return r != 0 ? r : append(q, at, size);
}

/* Odd indices are names, even ones their values. */
static int on_field(llhttp_t *parser, const char *at, size_t size)
{
    struct http_request *q = parser->data;
    int r = q->count % 2 == 1 ? begin(q, q->count) : 0;
    return r != 0 ? r : append(q, at, size);
}

static int on_value(llhttp_t *parser, const char *at, size_t size)
{
    struct http_request *q = parser->data;
    int r = q->count % 2 == 0 ? begin(q, q->count) : 0;
    return r != 0 ? r : append(q, at, size);
}

/* An empty value has no on_value. */
static int on_value_end(llhttp_t *parser)
{
    struct http_request *q = parser->data;
    return q->count % 2 == 0 ? begin(q, q->count) : 0;
}

static int on_head(llhttp_t *parser)
{
    struct http_request *q = parser->data;
    int r = q->count > 0 ? append(q, "", 1) : refuse(q, 400);
    if (r != 0)
        return r;
    for (size_t i = 0; i < q->count; i++)
        if (strlen(q->text + q->at[i]) + 1 !=
            (i + 1 < q->count ? q->at[i + 1] : q->text_used) - q->at[i])
            return refuse(q, 400); /* a NUL in it */
    if (parser->method == HTTP_CONNECT)
        return refuse(q, 405);
    q->head_complete = true;
    q->upgrade = parser->upgrade;
    q->keep_alive = llhttp_should_keep_alive(parser);
    q->body_large = parser->content_length > BG_GATEWAY_BODY_MAX;
    return 0;
}

static int on_body(llhttp_t *parser, const char *at, size_t size)
{
    struct http_request *q = parser->data;
    if (q->pass_body)
        return 0;
    if (size > BG_GATEWAY_BODY_MAX - q->body_size)
        return refuse(q, 413);
    uint8_t *grown = realloc(q->body, q->body_size + size + 1);
    if (!grown)
        return refuse(q, 503);
    q->body = grown;
    memcpy(q->body + q->body_size, at, size);
    q->body_size += size;
    return 0;
}

static int on_complete(llhttp_t *parser)
{
    struct http_request *q = parser->data;
    q->complete = true;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_header_value_complete = on_value_end,
    .on_headers_complete = on_head,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

void http_request_init(struct http_request *request)
{
    *request = (struct http_request){0};
    llhttp_init(&request->parser, HTTP_REQUEST, &settings);
    request->parser.data = request;
}

void http_request_done(struct http_request *request)
{
    free(request->text);
    free(request->body);
    *request = (struct http_request){0};
}

int http_request_feed(struct http_request *request, const uint8_t *bytes, size_t size,
                      size_t *ret_used, struct bg_err *err)
{
    struct http_request *q = request;
    llhttp_errno_t code = llhttp_execute(&q->parser, (const char *)bytes, size);
    if (code == HPE_OK) {
        *ret_used = size;
        return 0;
    }
    if (code == HPE_PAUSED || code == HPE_PAUSED_UPGRADE) {
        *ret_used = (size_t)(llhttp_get_error_pos(&q->parser) - (const char *)bytes);
        return 0;
    }
    if (q->status == 0)
        q->status = 400;
    return q->status == 503 ? bg_err_errno(err, -ENOMEM, "request")
                            : bg_err_set(err, -EPROTO, "not a request that is understood: %s",
                                         llhttp_errno_name(code));
}

const char *http_request_method(const struct http_request *request)
{
    return llhttp_method_name((llhttp_method_t)request->parser.method);
}

const char *http_request_target(const struct http_request *request)
{
    return request->text + request->at[0];
}

const char *http_request_field(const struct http_request *request, const char *name)
{
    const char *found = NULL;
    for (size_t i = 1; i + 1 < request->count; i += 2) {
        if (strcasecmp(request->text + request->at[i], name) != 0)
            continue;
        found = found ? "" : request->text + request->at[i + 1];
    }
    return found;
}

/* A word of a list, such as `keep-alive, Upgrade`. */
static bool has_word(const char *list, const char *word)
{
    size_t size = strlen(word);
    while (list && *list) {
        list += strspn(list, ", \t");
        size_t n = strcspn(list, ", \t");
        if (n == size && strncasecmp(list, word, n) == 0)
            return true;
        list += n;
    }
    return false;
}

bool http_request_is_websocket(const struct http_request *request, const char **ret_key)
{
    const char *version = http_request_field(request, "sec-websocket-version");
    const char *key = http_request_field(request, "sec-websocket-key");
    if (!request->upgrade || !has_word(http_request_field(request, "upgrade"), "websocket") ||
        !has_word(http_request_field(request, "connection"), "upgrade") || !version ||
        strcmp(version, "13") != 0 || !key || strlen(key) != 24)
        return false;
    *ret_key = key;
    return true;
}
