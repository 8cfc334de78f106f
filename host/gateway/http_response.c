#include "host/gateway/http_response.h"

#include <string.h>
#include <strings.h>

#include "common/limits.h"
#include "host/gateway/text.h"

struct http_response http_response(bool follows)
{
    return (struct http_response){.follows = follows};
}

void http_response_done(struct http_response *response)
{
    json_decref(response->status_text);
    json_decref(response->fields);
    free(response->head);
    *response = (struct http_response){0};
}

/* Cuts a line off; without its line break. *line: NULL at the end. */
static size_t next_line(const char **at, const char *end, const char **line)
{
    const char *stop = *at < end ? memchr(*at, '\n', (size_t)(end - *at)) : NULL;
    *line = stop ? *at : NULL;
    if (!stop)
        return 0;
    size_t size = (size_t)(stop - *at);
    *at = stop + 1;
    return size > 0 && stop[-1] == '\r' ? size - 1 : size;
}

static bool parse_status(const char *line, size_t size, int *ret_status, json_t **ret_text)
{
    const char *space = memchr(line, ' ', size);
    if (size < 5 || memcmp(line, "HTTP/", 5) != 0 || !space || size - (size_t)(space - line) < 4)
        return false;
    const char *digits = space + 1;
    for (size_t i = 0; i < 3; i++)
        if (digits[i] < '0' || digits[i] > '9')
            return false;
    const char *text = digits + 3;
    size_t left = size - (size_t)(text - line);
    if (left > 0 && *text != ' ')
        return false;
    *ret_status = (digits[0] - '0') * 100 + (digits[1] - '0') * 10 + (digits[2] - '0');
    *ret_text = text_lossy(left > 0 ? text + 1 : text, left > 0 ? left - 1 : 0);
    return *ret_status >= 100;
}

/* One without a colon is passed over: curl has read it in its own way by then. */
static int add_field(json_t *fields, const char *line, size_t size)
{
    const char *colon = memchr(line, ':', size);
    if (!colon || colon == line)
        return 0;
    const char *value = colon + 1, *end = line + size;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    return json_array_append_new(fields,
                                 json_pack("[o, o]", text_lossy(line, (size_t)(colon - line)),
                                           text_lossy(value, (size_t)(end - value))));
}

static bool has_field(const json_t *fields, const char *name)
{
    size_t i;
    json_t *field;
    json_array_foreach(fields, i, field) if (strcasecmp(json_string_value(json_array_get(field, 0)),
                                                        name) == 0) return true;
    return false;
}

static bool is_redirect(int status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

static int parse_head(struct http_response *h, struct bg_err *err)
{
    const char *at = h->head, *end = h->head + h->used, *line;
    size_t size = next_line(&at, end, &line);
    json_auto_t *text = NULL;
    json_auto_t *fields = json_array();
    int status;
    if (!line || !parse_status(line, size, &status, &text))
        return bg_err_set(err, -EPROTO, "the answer is not HTTP");
    while (fields && (size = next_line(&at, end, &line), line && size > 0))
        if (add_field(fields, line, size) < 0)
            return bg_err_errno(err, -ENOMEM, "fetch");
    if (!text || !fields)
        return bg_err_errno(err, -ENOMEM, "fetch");
    h->used = 0;
    if (status < 200 || (h->follows && is_redirect(status) && has_field(fields, "location")))
        return 0;
    h->status = status;
    h->status_text = json_incref(text);
    h->fields = json_incref(fields);
    h->done = true;
    return 0;
}

/* The head ends with an empty line. */
static bool head_ends(const struct http_response *h)
{
    return (h->used >= 2 && memcmp(h->head + h->used - 2, "\n\n", 2) == 0) ||
           (h->used >= 4 && memcmp(h->head + h->used - 4, "\r\n\r\n", 4) == 0);
}

int http_response_feed(struct http_response *response, const uint8_t *bytes, size_t size,
                       size_t *ret_used, struct bg_err *err)
{
    struct http_response *h = response;
    if (!h->head && !(h->head = malloc(BG_GATEWAY_HEAD_MAX)))
        return bg_err_errno(err, -ENOMEM, "fetch");
    size_t at = 0;
    while (at < size && !h->done) {
        if (h->used == BG_GATEWAY_HEAD_MAX)
            return bg_err_set(err, -EMSGSIZE, "the answer's head has more than %d bytes",
                              BG_GATEWAY_HEAD_MAX);
        h->head[h->used++] = (char)bytes[at++];
        int r = head_ends(h) ? parse_head(h, err) : 0;
        if (r < 0)
            return r;
    }
    *ret_used = at;
    return 0;
}
