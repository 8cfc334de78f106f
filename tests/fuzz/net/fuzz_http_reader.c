/* A byte stream of requests or responses, by its first byte: read whole and read byte by byte it
 * must be the same; and each request that is taken, written anew, must be read back as the same. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "net/http_forward.h"
#include "net/http_reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

struct trace {
    struct buffer events; /* heads and bodies as they were understood */
    size_t messages;
};

static void body_came(void *owner, const uint8_t *bytes, size_t size)
{
    struct trace *trace = owner;
    buffer_put(&trace->events, bytes, size);
}

/* What was written must be taken, and say the same about where its body ends. */
static void check_again(const struct buffer *out, const struct http_head *head)
{
    struct http_head again;
    int status;
    int r = http_head_parse_request((const char *)buffer_bytes(out), buffer_size(out), &again,
                                    &status, NULL);
    assert(r == 0);
    assert(again.framing == head->framing && again.length == head->length);
    assert(again.upgrade_websocket == head->upgrade_websocket);
    http_head_done(&again);
}

static void forward(const struct http_head *head)
{
    const struct http_route_opts opts = {0};
    struct http_route route;
    struct secrets secrets = {0};
    struct secrets_use use = {0};
    int status;
    if (http_route(head, &opts, &route, &status, NULL) < 0 || route.is_connect)
        return;
    struct buffer out = buffer_init(1 << 20);
    const struct secrets_scope scope = {.secrets = &secrets, .to = &route.destination};
    const struct http_forward_request_opts to = {.port_default = 80};
    http_forward_request(head, &route, &to, &scope, &out, &use);
    assert(buffer_ok(&out));
    if (head->minor == 1)
        check_again(&out, head);
    buffer_reset(&out);
}

static void note_head(struct trace *trace, const struct http_reader *reader)
{
    const struct http_head *head = &reader->head;
    buffer_put(&trace->events, head->method.at, head->method.size);
    buffer_put(&trace->events, head->target.at, head->target.size);
    buffer_printf(&trace->events, " %u %u %d %d|", head->minor, head->status, (int)head->framing,
                  head->keep_alive);
    if (!reader->is_response)
        forward(head);
}

static void run(bool is_response, const uint8_t *bytes, size_t size, size_t step,
                struct trace *trace)
{
    struct http_reader reader;
    trace->events = buffer_init(8 << 20);
    http_reader_init(&reader, is_response, body_came, trace);
    for (size_t at = 0; at < size;) {
        size_t take = size - at < step ? size - at : step;
        ssize_t used = http_reader_feed(&reader, bytes + at, take, NULL);
        if (used < 0)
            break;
        assert((size_t)used <= take);
        at += (size_t)used;
        if (reader.state == HTTP_READER_HAVE_HEAD) {
            note_head(trace, &reader);
            if (http_reader_go_on(&reader, NULL) < 0)
                break;
        }
        if (reader.state == HTTP_READER_DONE) {
            trace->messages++;
            http_reader_next(&reader);
        }
    }
    if (reader.state != HTTP_READER_FAILED) {
        int r = http_reader_eof(&reader, NULL);
        assert(r == 0 || reader.state == HTTP_READER_FAILED);
    }
    http_reader_done(&reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct trace whole = {0}, split = {0};
    if (size == 0)
        return 0;
    bool is_response = bytes[0] & 1;
    run(is_response, bytes + 1, size - 1, size, &whole);
    run(is_response, bytes + 1, size - 1, 1, &split);
    assert(whole.messages == split.messages);
    /* A refused body may have been taken up to different points; what was understood before may
     * not differ. */
    size_t common = buffer_size(&whole.events) < buffer_size(&split.events)
                        ? buffer_size(&whole.events)
                        : buffer_size(&split.events);
    assert(common == 0 ||
           memcmp(buffer_bytes(&whole.events), buffer_bytes(&split.events), common) == 0);
    buffer_reset(&whole.events);
    buffer_reset(&split.events);
    return 0;
}
