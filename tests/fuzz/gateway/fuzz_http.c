/* Requests, one behind the other, and answers; the first byte says in what pieces they come. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/limits.h"
#include "host/gateway/http_request.h"
#include "host/gateway/http_response.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* The same bytes as what curl in a guest says. */
static void answers(const uint8_t *bytes, size_t size, bool follows)
{
    struct http_response h = http_response(follows);
    struct bg_err err;
    size_t used = 0;
    int r = http_response_feed(&h, bytes, size, &used, &err);
    assert(r < 0 || used == size || h.done);
    assert(!h.done || (h.status >= 200 && h.status <= 999 && json_is_array(h.fields)));
    http_response_done(&h);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct http_request q;
    struct bg_err err;
    if (size == 0)
        return 0;
    size_t step = (size_t)bytes[0] + 1;
    answers(bytes + 1, size - 1, bytes[0] & 1);
    http_request_init(&q);
    for (size_t at = 1; at < size;) {
        size_t used = 0, take = size - at < step ? size - at : step;
        if (http_request_feed(&q, bytes + at, take, &used, &err) < 0) {
            assert(q.status >= 400);
            break;
        }
        assert(used <= take && (used == take || q.complete));
        assert(q.text_used <= BG_GATEWAY_HEAD_MAX && q.body_size <= BG_GATEWAY_BODY_MAX);
        at += used;
        if (!q.complete)
            continue;
        const char *key, *host = http_request_field(&q, "host");
        assert(strlen(http_request_target(&q)) + (host ? strlen(host) : 0) < q.text_used);
        if (http_request_is_websocket(&q, &key))
            assert(strlen(key) == 24);
        if (q.upgrade)
            break;
        http_request_done(&q);
        http_request_init(&q);
    }
    http_request_done(&q);
    return 0;
}
