/* Frames of a client; the first byte says in what pieces they come. Each text is sent back. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#include "host/gateway/websocket.h"

#define MESSAGE_MAX 4096

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void on_text(void *owner, const char *text, size_t size)
{
    struct websocket **ws = owner;
    assert(size <= MESSAGE_MAX);
    assert(websocket_send(*ws, text, size) == 0);
}

static void on_pong(void *owner, uint64_t number)
{
    struct websocket **ws = owner;
    assert(websocket_ping(*ws, number) == 0);
}

static void on_output(void *owner, uint8_t *bytes, size_t size)
{
    (void)owner;
    assert(size > 0);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct websocket *ws = NULL;
    const struct websocket_opts opts = {.message_max = MESSAGE_MAX,
                                        .on_text = on_text,
                                        .on_pong = on_pong,
                                        .on_output = on_output,
                                        .owner = &ws};
    struct bg_err err;
    if (size == 0 || websocket_new(&opts, &ws, &err) < 0)
        return 0;
    size_t step = (size_t)bytes[0] + 1;
    for (size_t at = 1; at < size && !websocket_over(ws); at += step)
        if (websocket_feed(ws, bytes + at, size - at < step ? size - at : step, &err) < 0)
            break;
    websocket_close(ws, 1000, "");
    websocket_free(ws);
    return 0;
}
