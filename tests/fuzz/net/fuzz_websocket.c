/* A server's frames, cut in pieces by the first byte: what comes out are frames of the same
 * messages however it was cut, without the secret; and when nothing was found, payloads are
 * unchanged. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net/locked.h"
#include "net/websocket.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define VALUE   "S3cret/KEY=9"
#define OUT_MAX ((size_t)8 * 1024 * 1024)

static const char placeholder[] =
    SECRET_PREFIX "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/* Returns 0 or the error; *ret_found: whether the secret was. */
static int run(const struct secrets *secrets, const uint8_t *bytes, size_t size, size_t piece,
               struct buffer *out, bool *ret_found)
{
    struct websocket ws;
    int r = 0;
    websocket_init(&ws, secrets, 1);
    for (size_t at = 0; r == 0 && at < size; at += piece) {
        websocket_put(&ws, bytes + at, size - at < piece ? size - at : piece);
        while (r == 0 && websocket_ready(&ws)) {
            r = websocket_step(&ws, NULL);
            if (buffer_size(&ws.out) > 0)
                buffer_put(out, buffer_bytes(&ws.out), buffer_size(&ws.out));
            buffer_reset(&ws.out);
        }
    }
    *ret_found = ws.scrub.found;
    websocket_done(&ws);
    return r;
}

/* What a reader makes of frames: each message's opcode and payload, its end; and of control frames
 * the same in a list of their own. strict: they are ours, so they must be right. */
static void understand(const uint8_t *bytes, size_t size, bool strict, struct buffer *messages,
                       struct buffer *controls)
{
    uint8_t seen = 0;
    for (size_t at = 0; at < size;) {
        uint8_t first = bytes[at], opcode = first & 15;
        size_t header = 2, length = 0, left = size - at;
        if (left >= 2)
            header = (bytes[at + 1] & 127) == 127 ? 10 : (bytes[at + 1] & 127) == 126 ? 4 : 2;
        if (left >= header)
            length = bytes[at + 1] & 127;
        for (size_t i = 2; i < header && left >= header; i++)
            length = (i == 2 ? 0 : length << 8) | bytes[at + i];
        bool whole = left >= header && length <= left - header;
        assert(whole || !strict);
        if (!whole)
            return;
        assert(!strict || !(first & 0x70));
        const uint8_t *payload = bytes + at + header;
        if (opcode >= 8) {
            buffer_printf(controls, "%u:", opcode);
            buffer_put(controls, payload, length);
            buffer_put_text(controls, "\n");
        } else {
            assert(!strict || (opcode == 0) == (seen != 0));
            if (opcode != 0)
                seen = opcode;
            buffer_put(messages, payload, length);
            if (first & 0x80) {
                buffer_printf(messages, "\n%u\n", seen);
                seen = 0;
            }
        }
        at += header + length;
    }
}

static void check_same(const struct buffer *a, const struct buffer *b, size_t size)
{
    assert(size == 0 || memcmp(buffer_bytes(a), buffer_bytes(b), size) == 0);
}

static bool holds_secret(const struct buffer *b)
{
    return buffer_size(b) > 0 &&
           memmem(buffer_bytes(b), buffer_size(b), VALUE, sizeof VALUE - 1) != NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const char *const hosts[] = {"a.org"};
    struct secrets secrets = {0};
    if (size == 0 || size > (1 << 16))
        return 0;
    void *copy = locked_new(sizeof VALUE - 1, NULL);
    if (!copy)
        abort();
    memcpy(copy, VALUE, sizeof VALUE - 1);
    if (secrets_add(&secrets, "KEY", placeholder, hosts, 1, copy, sizeof VALUE - 1, NULL) < 0)
        abort();
    struct buffer whole = buffer_init(OUT_MAX), cut = buffer_init(OUT_MAX);
    bool found, found_cut;
    int r = run(&secrets, bytes + 1, size - 1, size, &whole, &found);
    int r_cut = run(&secrets, bytes + 1, size - 1, bytes[0] % 32u + 1, &cut, &found_cut);
    struct buffer in_messages = buffer_init(OUT_MAX), messages = buffer_init(OUT_MAX);
    struct buffer in_controls = buffer_init(OUT_MAX), controls = buffer_init(OUT_MAX);
    assert(r == r_cut && found == found_cut && buffer_ok(&whole));
    assert(buffer_size(&whole) == buffer_size(&cut));
    check_same(&whole, &cut, buffer_size(&whole));
    understand(buffer_bytes(&whole), buffer_size(&whole), true, &messages, &controls);
    /* Over the fragments' payloads, and in control frames, as far as they are whole. */
    assert(!holds_secret(&messages) && !holds_secret(&controls));
    if (!found && r == 0) {
        understand(bytes + 1, size - 1, false, &in_messages, &in_controls);
        assert(buffer_size(&messages) <= buffer_size(&in_messages));
        check_same(&messages, &in_messages, buffer_size(&messages));
        assert(buffer_size(&controls) == buffer_size(&in_controls));
        check_same(&controls, &in_controls, buffer_size(&controls));
    }
    buffer_reset(&whole);
    buffer_reset(&cut);
    buffer_reset(&in_messages);
    buffer_reset(&messages);
    buffer_reset(&in_controls);
    buffer_reset(&controls);
    secrets_done(&secrets);
    return 0;
}
