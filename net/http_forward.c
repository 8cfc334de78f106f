#include "net/http_forward.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* RFC 9110 §7.6.1, and what is written anew. Fields that Connection lists besides are kept: a peer
 * could use it to have us drop Authorization. */
static bool ends_here(struct slice name, bool is_response)
{
    static const char *const hop[] = {
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "proxy-authenticate",
        "proxy-authentication-info",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "http2-settings",
    };
    for (size_t i = 0; i < sizeof hop / sizeof *hop; i++)
        if (slice_is(name, hop[i]))
            return true;
    /* Other protocols and other hosts are not ours to watch: the guest is not told of them. */
    return is_response && slice_is(name, "alt-svc");
}

static void put_slice(struct buffer *out, struct slice s)
{
    buffer_put(out, s.at, s.size);
}

static void put_host(const struct http_route *route, uint16_t port_default, struct buffer *out)
{
    char host[DESTINATION_TEXT_SIZE];
    destination_format(&route->destination, port_default, host);
    buffer_printf(out, "Host: %s\r\n", host);
}

/* A part of the body could be a part of a secret, and a coded one hides it; so do a WebSocket's
 * extensions and the coded messages of gRPC and Connect. */
static bool keeps_whole(struct slice name)
{
    return slice_is(name, "range") || slice_is(name, "if-range") ||
           slice_is(name, "accept-encoding") || slice_is(name, "grpc-accept-encoding") ||
           slice_is(name, "connect-accept-encoding") || slice_is(name, "sec-websocket-extensions");
}

/* What is true no more of a body that was read; what was expected, we have answered ourselves. */
static bool ends_with_reading(struct slice name, const struct http_forward_request_opts *opts)
{
    if (!opts->body_read)
        return false;
    bool digest = slice_is(name, "content-md5") || slice_is(name, "content-digest") ||
                  slice_is(name, "digest") || slice_is(name, "repr-digest");
    return slice_is(name, "expect") || (opts->body_decoded && slice_is(name, "content-encoding")) ||
           ((opts->body_decoded || opts->body_changed) && digest);
}

void http_forward_request(const struct http_head *head, const struct http_route *route,
                          const struct http_forward_request_opts *opts,
                          const struct secrets_scope *scope, struct buffer *out,
                          struct secrets_use *use)
{
    put_slice(out, head->method);
    buffer_put_text(out, " ");
    secrets_put_target(scope, route->path, out, use);
    buffer_put_text(out, " HTTP/1.1\r\n");
    bool host_put = false;
    for (size_t i = 0; i < head->field_count; i++) {
        const struct http_field *f = &head->fields[i];
        if (slice_is(f->name, "host")) {
            put_host(route, opts->port_default, out);
            host_put = true;
            continue;
        }
        if (ends_here(f->name, false) || (opts->to_scrub && keeps_whole(f->name)) ||
            ends_with_reading(f->name, opts))
            continue;
        put_slice(out, f->name);
        buffer_put_text(out, ": ");
        secrets_put_field(scope, f, out, use);
        buffer_put_text(out, "\r\n");
    }
    if (!host_put)
        put_host(route, opts->port_default, out);
    if (opts->to_scrub)
        buffer_put_text(out, "Accept-Encoding: identity\r\n");
    if (opts->body_read)
        buffer_printf(out, "Content-Length: %zu\r\n", opts->body_size);
    else if (head->framing == HTTP_LENGTH)
        buffer_printf(out, "Content-Length: %" PRIu64 "\r\n", head->length);
    else if (head->framing == HTTP_CHUNKED)
        buffer_put_text(out, "Transfer-Encoding: chunked\r\n");
    if (head->upgrade_websocket)
        buffer_put_text(out, "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    else if (http_takes_trailers(head))
        buffer_put_text(out, "TE: trailers\r\nConnection: TE\r\n");
    buffer_put_text(out, "\r\n");
}

bool http_takes_trailers(const struct http_head *head)
{
    for (size_t i = 0; i < head->field_count; i++)
        if (slice_is(head->fields[i].name, "te") &&
            slice_has_token(head->fields[i].value, "trailers"))
            return true;
    return false;
}

/* What is said of the body as it was coded. */
static bool is_of_coding(struct slice name)
{
    return slice_is(name, "content-encoding") || slice_is(name, "content-md5") ||
           slice_is(name, "content-digest");
}

static void put_scrubbed(struct scrub *scrub, struct slice s, struct buffer *out)
{
    if (scrub)
        scrub_text(scrub, s.at, s.size, out);
    else
        put_slice(out, s);
}

void http_forward_response(const struct http_head *head,
                           const struct http_forward_response_opts *opts, struct buffer *out,
                           enum http_wrap *ret_wrap, bool *ret_keep_alive)
{
    bool keep_alive = opts->keep_alive;
    *ret_wrap = HTTP_WRAP_PLAIN;
    bool counted = head->framing == HTTP_LENGTH && (!opts->scrub || head->length == 0);
    bool unknown_length = head->framing != HTTP_NO_BODY && !counted;
    if (unknown_length && opts->to_http10)
        keep_alive = false;
    else if (unknown_length)
        *ret_wrap = HTTP_WRAP_CHUNKED;

    buffer_printf(out, "HTTP/1.1 %u ", head->status);
    put_scrubbed(opts->scrub, head->reason, out);
    buffer_put_text(out, "\r\n");
    for (size_t i = 0; i < head->field_count; i++) {
        const struct http_field *f = &head->fields[i];
        /* An answer to HEAD, and a 304, may say how long the body would be. */
        bool length = head->framing == HTTP_NO_BODY && head->status >= 200 && head->status != 204 &&
                      !opts->scrub && slice_is(f->name, "content-length");
        if ((ends_here(f->name, true) && !length) || (opts->decoded && is_of_coding(f->name)))
            continue;
        if (opts->scrub && slice_is(f->name, "sec-websocket-extensions")) /* none was asked for */
            continue;
        put_scrubbed(opts->scrub, f->name, out);
        buffer_put_text(out, ": ");
        put_scrubbed(opts->scrub, f->value, out);
        buffer_put_text(out, "\r\n");
    }
    if (counted)
        buffer_printf(out, "Content-Length: %" PRIu64 "\r\n", head->length);
    if (*ret_wrap == HTTP_WRAP_CHUNKED)
        buffer_put_text(out, "Transfer-Encoding: chunked\r\n");
    if (opts->switching)
        buffer_put_text(out, "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    else if (!keep_alive && head->status >= 200)
        buffer_put_text(out, "Connection: close\r\n");
    else if (opts->to_http10 && head->status >= 200)
        buffer_put_text(out, "Connection: keep-alive\r\n");
    buffer_put_text(out, "\r\n");
    *ret_keep_alive = keep_alive;
}

void http_forward_chunk(const uint8_t *bytes, size_t size, struct buffer *out)
{
    if (size == 0) /* would be the last one */
        return;
    buffer_printf(out, "%zx\r\n", size);
    buffer_put(out, bytes, size);
    buffer_put_text(out, "\r\n");
}

void http_forward_last_chunk(struct buffer *out)
{
    buffer_put_text(out, "0\r\n\r\n");
}

void http_forward_trailers(const struct http_head *trailers, struct scrub *scrub,
                           struct buffer *out)
{
    buffer_put_text(out, "0\r\n");
    for (size_t i = 0; i < trailers->field_count; i++) {
        const struct http_field *f = &trailers->fields[i];
        if (ends_here(f->name, true))
            continue;
        put_scrubbed(scrub, f->name, out);
        buffer_put_text(out, ": ");
        put_scrubbed(scrub, f->value, out);
        buffer_put_text(out, "\r\n");
    }
    buffer_put_text(out, "\r\n");
}

const char *http_status_text(int status)
{
    switch (status) {
    case 200:
        return "200 OK";
    case 400:
        return "400 Bad Request";
    case 403:
        return "403 Forbidden";
    case 405:
        return "405 Method Not Allowed";
    case 408:
        return "408 Request Timeout";
    case 413:
        return "413 Content Too Large";
    case 417:
        return "417 Expectation Failed";
    case 421:
        return "421 Misdirected Request";
    case 429:
        return "429 Too Many Requests";
    case 431:
        return "431 Request Header Fields Too Large";
    case 501:
        return "501 Not Implemented";
    case 502:
        return "502 Bad Gateway";
    case 503:
        return "503 Service Unavailable";
    case 504:
        return "504 Gateway Timeout";
    case 505:
        return "505 HTTP Version Not Supported";
    }
    return "500 Internal Server Error";
}

void http_forward_answer(int status, const char *text, bool keep_alive, bool no_body,
                         struct buffer *out)
{
    char body[1024];
    int n = snprintf(body, sizeof body, "bellglass: %s\n", text);
    size_t size = n < 0 ? 0 : (size_t)n < sizeof body ? (size_t)n : sizeof body - 1;
    buffer_printf(out,
                  "HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\n"
                  "Content-Length: %zu\r\nX-Bellglass: refused\r\n%s\r\n",
                  http_status_text(status), size, keep_alive ? "" : "Connection: close\r\n");
    if (!no_body)
        buffer_put(out, body, size);
}
