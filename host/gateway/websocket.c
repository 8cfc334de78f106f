#include "host/gateway/websocket.h"

#include <string.h>

#include <sha1.h>
#include <wslay/wslay.h>

#include "common/base64.h"
#include "common/bytes.h"

#define KEY_SIZE 24

struct websocket {
    struct websocket_opts opts;
    wslay_event_context_ptr context;
    const uint8_t *in; /* borrowed during feed */
    size_t in_left;
    uint8_t *out; /* gathered until flush gives it away */
    size_t out_used, out_size;
    bool failed; /* out of memory while sending */
};

void websocket_accept(const char *key, char out[WEBSOCKET_ACCEPT_SIZE])
{
    static const char magic[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint8_t digest[SHA1_DIGEST_LENGTH];
    SHA1_CTX hash;
    SHA1Init(&hash);
    SHA1Update(&hash, (const uint8_t *)key, KEY_SIZE);
    SHA1Update(&hash, (const uint8_t *)magic, sizeof magic - 1);
    SHA1Final(digest, &hash);
    _Static_assert(BG_BASE64_SIZE(SHA1_DIGEST_LENGTH) + 1 == WEBSOCKET_ACCEPT_SIZE, "with a NUL");
    bg_base64_encode(digest, sizeof digest, out);
    out[WEBSOCKET_ACCEPT_SIZE - 1] = '\0';
}

static ssize_t give(wslay_event_context_ptr context, uint8_t *buffer, size_t size, int flags,
                    void *owner)
{
    struct websocket *ws = owner;
    (void)flags;
    if (ws->in_left == 0) {
        wslay_event_set_error(context, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    if (size > ws->in_left)
        size = ws->in_left;
    memcpy(buffer, ws->in, size);
    ws->in += size;
    ws->in_left -= size;
    return (ssize_t)size;
}

static ssize_t gather(wslay_event_context_ptr context, const uint8_t *bytes, size_t size, int flags,
                      void *owner)
{
    struct websocket *ws = owner;
    (void)flags;
    if (ws->out_size - ws->out_used < size) {
        uint8_t *grown = realloc(ws->out, ws->out_used + size);
        if (!grown) {
            ws->failed = true;
            wslay_event_set_error(context, WSLAY_ERR_CALLBACK_FAILURE);
            return -1;
        }
        ws->out = grown;
        ws->out_size = ws->out_used + size;
    }
    memcpy(ws->out + ws->out_used, bytes, size);
    ws->out_used += size;
    return (ssize_t)size;
}

/* One that answers nothing of ours (RFC 6455 §5.5.3 allows it) is passed over. */
static void take_pong(struct websocket *ws, const uint8_t *bytes, size_t size)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    uint64_t number = bg_reader_u64le(&in);
    if (bg_reader_end(&in))
        ws->opts.on_pong(ws->opts.owner, number);
}

static void received(wslay_event_context_ptr context,
                     const struct wslay_event_on_msg_recv_arg *message, void *owner)
{
    struct websocket *ws = owner;
    if (message->opcode == WSLAY_TEXT_FRAME)
        ws->opts.on_text(ws->opts.owner, (const char *)message->msg, message->msg_length);
    else if (message->opcode == WSLAY_PONG)
        take_pong(ws, message->msg, message->msg_length);
    else if (message->opcode == WSLAY_BINARY_FRAME)
        (void)wslay_event_queue_close(context, WSLAY_CODE_UNSUPPORTED_DATA, NULL, 0);
}

int websocket_new(const struct websocket_opts *opts, struct websocket **ret, struct bg_err *err)
{
    static const struct wslay_event_callbacks callbacks = {
        .recv_callback = give, .send_callback = gather, .on_msg_recv_callback = received};
    BG_AUTOFREE struct websocket *ws = calloc(1, sizeof *ws);
    if (!ws || wslay_event_context_server_init(&ws->context, &callbacks, ws) != 0)
        return bg_err_errno(err, -ENOMEM, "WebSocket");
    wslay_event_config_set_max_recv_msg_length(ws->context, opts->message_max);
    ws->opts = *opts;
    *ret = BG_TAKE(ws);
    return 0;
}

void websocket_free(struct websocket *ws)
{
    if (!ws)
        return;
    wslay_event_context_free(ws->context);
    free(ws->out);
    free(ws);
}

/* Gives away all that waits to go out. */
static int flush(struct websocket *ws)
{
    if (wslay_event_want_write(ws->context) && wslay_event_send(ws->context) != 0)
        return -ENOMEM;
    if (ws->out_used > 0) {
        size_t size = ws->out_used;
        ws->out_used = ws->out_size = 0;
        ws->opts.on_output(ws->opts.owner, BG_TAKE(ws->out), size);
    }
    return 0;
}

int websocket_feed(struct websocket *ws, const uint8_t *bytes, size_t size, struct bg_err *err)
{
    ws->in = bytes;
    ws->in_left = size;
    int code = wslay_event_want_read(ws->context) ? wslay_event_recv(ws->context) : 0;
    ws->in = NULL;
    ws->in_left = 0;
    int r = flush(ws);
    if (code == WSLAY_ERR_NOMEM || r < 0)
        return bg_err_errno(err, -ENOMEM, "WebSocket");
    return code == 0 ? 0 : bg_err_set(err, -EPROTO, "WebSocket: damaged (%d)", code);
}

int websocket_send(struct websocket *ws, const char *text, size_t size)
{
    const struct wslay_event_msg message = {
        .opcode = WSLAY_TEXT_FRAME, .msg = (const uint8_t *)text, .msg_length = size};
    int code = wslay_event_queue_msg(ws->context, &message);
    if (code == WSLAY_ERR_NO_MORE_MSG)
        return 0; /* it is closing */
    return code == 0 ? flush(ws) : -ENOMEM;
}

int websocket_ping(struct websocket *ws, uint64_t number)
{
    uint8_t bytes[sizeof number];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    bg_writer_u64le(&w, number);
    const struct wslay_event_msg message = {
        .opcode = WSLAY_PING, .msg = bytes, .msg_length = sizeof bytes};
    int code = wslay_event_queue_msg(ws->context, &message);
    if (code == WSLAY_ERR_NO_MORE_MSG)
        return 0; /* it is closing */
    return code == 0 ? flush(ws) : -ENOMEM;
}

void websocket_close(struct websocket *ws, uint16_t code, const char *reason)
{
    /* Refused only if it is closing already, or memory is out: then the connection's end must do.
     */
    (void)wslay_event_queue_close(ws->context, code, (const uint8_t *)reason, strlen(reason));
    (void)flush(ws);
}

bool websocket_closing(const struct websocket *ws)
{
    return wslay_event_get_close_sent(ws->context);
}

bool websocket_over(const struct websocket *ws)
{
    return ws->failed ||
           (wslay_event_get_close_sent(ws->context) &&
            (wslay_event_get_close_received(ws->context) || !wslay_event_want_read(ws->context)));
}
