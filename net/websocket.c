#include "net/websocket.h"

#include <errno.h>
#include <string.h>

#include "common/limits.h"
#include "common/base64.h"

#define STEP_SIZE   ((size_t)4096)
#define IN_MAX      ((size_t)1024 * 1024)
#define OUT_MAX     ((size_t)8 * 1024 * 1024) /* a step's, with all that the scrubber may have held */
#define KEY_SIZE    24
#define ACCEPT_SIZE 28
#define CONTROL_MAX 125

/* RFC 6455 §5.2 */
#define FIN          0x80
#define RSV          0x70
#define OPCODE       0x0f
#define MASKED       0x80
#define LENGTH       0x7f
#define LENGTH_16    126
#define LENGTH_64    127
#define OP_CONTINUE  0
#define OP_TEXT      1
#define OP_BINARY    2
#define OP_CLOSE     8
#define OP_PING      9
#define OP_PONG      10
#define CODE_SIZE    2
#define CODE_MIN     1000 /* §7.4.2 */
#define CODE_MAX     4999
#define CODE_GATEWAY 1014 /* IANA: an invalid response from the upstream server */
#define REASON_MAX   (CONTROL_MAX - CODE_SIZE)

/* ---- handshake ---- */

int websocket_check_request(const struct http_head *head,
                            uint8_t challenge[WEBSOCKET_CHALLENGE_SIZE], struct bg_err *err)
{
    static const char constant[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint8_t nonce[KEY_SIZE];
    _Static_assert(KEY_SIZE + sizeof constant - 1 == WEBSOCKET_CHALLENGE_SIZE, "RFC 6455 §1.3");
    const struct http_field *key = http_head_field(head, "sec-websocket-key", NULL);
    const struct http_field *version = http_head_field(head, "sec-websocket-version", NULL);
    if (!slice_is(head->method, "get") || head->framing != HTTP_NO_BODY)
        return bg_err_set(err, -EPROTO, "a WebSocket is asked for with GET, without a body");
    if (!version || !slice_is(version->value, "13"))
        return bg_err_set(err, -EPROTO, "a WebSocket without 'Sec-WebSocket-Version: 13'");
    if (!key || key->value.size != KEY_SIZE ||
        bg_base64_decode(key->value.at, KEY_SIZE, nonce) != 16)
        return bg_err_set(err, -EPROTO,
                          "a WebSocket without one Sec-WebSocket-Key of 16 bytes in base64");
    memcpy(challenge, key->value.at, KEY_SIZE);
    memcpy(challenge + KEY_SIZE, constant, sizeof constant - 1);
    return 0;
}

bool websocket_accepts(const struct http_head *head, const uint8_t sha1[20])
{
    char want[ACCEPT_SIZE];
    const struct http_field *f = http_head_field(head, "sec-websocket-accept", NULL);
    bg_base64_encode(sha1, 20, want);
    return f && f->value.size == sizeof want && memcmp(f->value.at, want, sizeof want) == 0;
}

/* ---- frames: writing ---- */

static void put_frame(struct buffer *out, uint8_t first, const void *payload, size_t size)
{
    uint8_t header[10] = {first};
    size_t count = 2;
    if (size < LENGTH_16) {
        header[1] = (uint8_t)size;
    } else {
        size_t bytes = size <= UINT16_MAX ? 2 : 8;
        header[1] = bytes == 2 ? LENGTH_16 : LENGTH_64;
        for (size_t i = 0; i < bytes; i++)
            header[count++] = (uint8_t)((uint64_t)size >> 8 * (bytes - 1 - i));
    }
    buffer_put(out, header, count);
    if (size > 0)
        buffer_put(out, payload, size);
}

/* Sends on what there is of the message. */
static void put_part(struct websocket *ws, bool last)
{
    size_t size = buffer_size(&ws->part);
    if (size == 0 && !last)
        return;
    put_frame(&ws->out, (uint8_t)(ws->opcode | (last ? FIN : 0)), buffer_bytes(&ws->part), size);
    buffer_reset(&ws->part);
    ws->opcode = OP_CONTINUE;
}

/* No longer than may be, and not in the middle of a character. */
static size_t reason_size(const uint8_t *reason, size_t size)
{
    if (size <= REASON_MAX)
        return size;
    size = REASON_MAX;
    while (size > 0 && (reason[size] & 0xc0) == 0x80)
        size--;
    return size;
}

static void put_close(uint16_t code, const uint8_t *reason, size_t size, struct buffer *out)
{
    uint8_t payload[CONTROL_MAX] = {(uint8_t)(code >> 8), (uint8_t)code};
    size = reason_size(reason, size);
    if (size > 0)
        memcpy(payload + CODE_SIZE, reason, size);
    put_frame(out, FIN | OP_CLOSE, payload, CODE_SIZE + size);
}

void websocket_put_close(const char *text, struct buffer *out)
{
    put_close(CODE_GATEWAY, (const uint8_t *)text, strlen(text), out);
}

/* A Close frame with a code. payload: as it came; clean: scrubbed, which left at least two bytes.
 */
static int put_clean_close(struct websocket *ws, const uint8_t *payload, const struct buffer *clean,
                           struct bg_err *err)
{
    const uint8_t *at = buffer_bytes(clean);
    uint16_t code = (uint16_t)(payload[0] << 8 | payload[1]);
    if (code < CODE_MIN || code > CODE_MAX)
        return bg_err_set(err, -EPROTO, "a Close frame with the code %u", code);
    if (memcmp(at, payload, CODE_SIZE) != 0)
        return bg_err_set(err, -EPROTO, "a Close frame with a secret in its code");
    put_close(code, at + CODE_SIZE, buffer_size(clean) - CODE_SIZE, &ws->out);
    return 0;
}

/* A control frame: its payload is scrubbed as a text of its own. */
static int put_control(struct websocket *ws, uint8_t opcode, struct bg_err *err)
{
    const uint8_t *payload = buffer_bytes(&ws->control);
    size_t size = buffer_size(&ws->control);
    if (opcode == OP_CLOSE && size == 1)
        return bg_err_set(err, -EPROTO, "a Close frame with half a code");
    struct buffer clean = buffer_init(OUT_MAX);
    int r = 0;
    scrub_text(&ws->scrub, payload, size, &clean);
    if (!buffer_ok(&clean))
        r = bg_err_errno(err, -ENOMEM, "looking for secrets in a frame");
    else if (opcode == OP_CLOSE && size > 0)
        r = put_clean_close(ws, payload, &clean, err);
    else
        put_frame(&ws->out, FIN | opcode, buffer_bytes(&clean),
                  buffer_size(&clean) < CONTROL_MAX ? buffer_size(&clean) : CONTROL_MAX);
    buffer_reset(&clean);
    buffer_reset(&ws->control);
    ws->closed = opcode == OP_CLOSE;
    return r;
}

/* ---- frames: reading ---- */

static bool is_control(uint8_t opcode)
{
    return opcode >= OP_CLOSE;
}

static int check_first(const struct websocket *ws, struct bg_err *err)
{
    uint8_t opcode = ws->header[0] & OPCODE;
    bool fin = ws->header[0] & FIN;
    if (ws->closed)
        return bg_err_set(err, -EPROTO, "a frame after Close");
    if (ws->header[0] & RSV)
        return bg_err_set(err, -EPROTO, "a frame of an extension that was not agreed on");
    if (ws->header[1] & MASKED)
        return bg_err_set(err, -EPROTO, "a masked frame from a server");
    if (is_control(opcode)) {
        if (opcode > OP_PONG)
            return bg_err_set(err, -EPROTO, "a frame with the unknown opcode %u", opcode);
        if (!fin || (ws->header[1] & LENGTH) > CONTROL_MAX)
            return bg_err_set(err, -EPROTO, "a control frame in fragments or of more than %d bytes",
                              CONTROL_MAX);
        return 0;
    }
    if (opcode > OP_BINARY)
        return bg_err_set(err, -EPROTO, "a frame with the unknown opcode %u", opcode);
    if ((opcode == OP_CONTINUE) != ws->in_message)
        return bg_err_set(err, -EPROTO, "%s",
                          ws->in_message ? "a message inside of another"
                                         : "a fragment of a message that has not begun");
    return 0;
}

/* Bytes of the header, as far as that can be told. */
static size_t header_size(const struct websocket *ws)
{
    uint8_t length = ws->header[1] & LENGTH;
    if (ws->header_count < 2)
        return 2;
    return length == LENGTH_64 ? 10 : length == LENGTH_16 ? 4 : 2;
}

static int read_length(struct websocket *ws, struct bg_err *err)
{
    uint64_t length = ws->header[1] & LENGTH;
    if (ws->header_count > 2) {
        length = 0;
        for (size_t i = 2; i < ws->header_count; i++)
            length = length << 8 | ws->header[i];
        if (length < (ws->header_count == 4 ? LENGTH_16 : UINT16_MAX + 1u) || length > INT64_MAX)
            return bg_err_set(err, -EPROTO, "a frame whose length is not in its shortest form");
    }
    ws->left = length;
    return 0;
}

/* Errors: -EPROTO. */
static int read_header(struct websocket *ws, struct bg_err *err)
{
    while (ws->header_count < header_size(ws) && buffer_size(&ws->in) > 0) {
        ws->header[ws->header_count++] = *buffer_bytes(&ws->in);
        buffer_drop(&ws->in, 1);
        if (ws->header_count == 2) { /* before it is waited for the rest */
            int r = check_first(ws, err);
            if (r < 0)
                return r;
        }
    }
    if (ws->header_count < header_size(ws))
        return 0;
    int r = read_length(ws, err);
    if (r < 0)
        return r;
    uint8_t opcode = ws->header[0] & OPCODE;
    if (opcode == OP_TEXT || opcode == OP_BINARY) {
        ws->in_message = true;
        ws->opcode = opcode;
    }
    ws->in_payload = true;
    return 0;
}

static int end_frame(struct websocket *ws, struct bg_err *err)
{
    uint8_t first = ws->header[0];
    ws->in_payload = false;
    ws->header_count = 0;
    if (is_control(first & OPCODE))
        return put_control(ws, first & OPCODE, err);
    if (first & FIN) {
        scrub_end(&ws->scrub);
        ws->in_message = false;
    }
    put_part(ws, first & FIN);
    return 0;
}

static int read_payload(struct websocket *ws, struct bg_err *err)
{
    size_t size = buffer_size(&ws->in);
    if (size > STEP_SIZE)
        size = STEP_SIZE;
    if (size > ws->left)
        size = (size_t)ws->left;
    if (is_control(ws->header[0] & OPCODE))
        buffer_put(&ws->control, buffer_bytes(&ws->in), size);
    else if (scrub_feed(&ws->scrub, buffer_bytes(&ws->in), size) < 0)
        return bg_err_errno(err, -ENOMEM, "looking for secrets in a frame");
    buffer_drop(&ws->in, size);
    ws->left -= size;
    if (buffer_size(&ws->part) >= BG_EGRESS_MESSAGE_PART)
        put_part(ws, /* last= */ false);
    return 0;
}

int websocket_step(struct websocket *ws, struct bg_err *err)
{
    int r = 0;
    if (!ws->in_payload)
        r = read_header(ws, err);
    if (r == 0 && ws->in_payload && ws->left > 0 && buffer_size(&ws->in) > 0)
        r = read_payload(ws, err);
    if (r == 0 && ws->in_payload && ws->left == 0)
        r = end_frame(ws, err);
    bool ok = buffer_ok(&ws->in) && buffer_ok(&ws->out) && buffer_ok(&ws->part) &&
              buffer_ok(&ws->control);
    if (r == 0 && !ok)
        r = bg_err_errno(err, -ENOMEM, "looking for secrets in a frame");
    return r;
}

/* ---- api ---- */

static void put_scrubbed(void *owner, const uint8_t *bytes, size_t size)
{
    struct websocket *ws = owner;
    buffer_put(&ws->part, bytes, size);
}

void websocket_init(struct websocket *ws, const struct secrets *secrets, uint64_t set)
{
    *ws = (struct websocket){.in = buffer_init(IN_MAX),
                             .out = buffer_init(OUT_MAX),
                             .control = buffer_init(CONTROL_MAX),
                             .part = buffer_init(OUT_MAX)};
    ws->in.wipe = true;
    ws->control.wipe = true;
    scrub_init(&ws->scrub, secrets, set, (struct sink){put_scrubbed, ws});
}

void websocket_done(struct websocket *ws)
{
    scrub_done(&ws->scrub);
    buffer_reset(&ws->in);
    buffer_reset(&ws->out);
    buffer_reset(&ws->control);
    buffer_reset(&ws->part);
}

void websocket_put(struct websocket *ws, const uint8_t *bytes, size_t size)
{
    buffer_put(&ws->in, bytes, size);
}

bool websocket_ready(const struct websocket *ws)
{
    return buffer_size(&ws->in) > 0 || !buffer_ok(&ws->in);
}
