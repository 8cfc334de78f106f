/* One connected socket on the loop, bare or inside of TLS: reads what is there, queues what is to
 * be sent, and calls its owner when one of the two may go on. Or one end of a pair within this
 * process, which its owner cannot tell from a socket. It has no states of its own; the owner asks
 * for what it needs. Loop thread only.
 *
 * Reading is by pull: nothing is read unless the owner does, so an idle channel holds no buffer.
 * Writing: put into channel_out(), then channel_flush(); the owner stops reading the other side
 * while more than BG_EGRESS_QUEUE_PAUSE is queued, which bounds the queue. */
#pragma once

#include <uv.h>

#include "common/err.h"
#include "net/buffer.h"
#include "net/tls.h"

struct channel;

struct channel_opts {
    void (*on_ready)(void *owner);  /* something may have changed; may close us */
    void (*on_closed)(void *owner); /* the last call */
    void *owner;
    bool wipe; /* what is sent may hold a secret */
};

/* Takes fd (a non-blocking socket) on success. Errors: -ENOMEM, errno of epoll. */
int channel_open(uv_loop_t *loop, int fd, const struct channel_opts *opts, struct channel **ret,
                 struct bg_err *err) BG_MUST_CHECK;

/* Two ends of which each reads what the other has queued. What an end had queued when it
 * closed is still read; then comes the end, if it was finished (channel_finish), or a reset.
 * Errors: -ENOMEM. */
int channel_open_pair(uv_loop_t *loop, const struct channel_opts opts[2], struct channel *ret[2],
                      struct bg_err *err) BG_MUST_CHECK;

/* Frees it in a later loop turn, then calls on_closed. A socket's unsent bytes are dropped. NULL:
 * no-op. */
void channel_close(struct channel *channel);

/* Another owner from here on, who is called on_closed too; on_ready is not called before its next
 * channel_watch. */
void channel_set_owner(struct channel *channel, const struct channel_opts *opts);

/* Not for one of a pair. */
int channel_fd(const struct channel *channel);

/* From here on the bytes go through the session; takes it. */
void channel_set_tls(struct channel *channel, struct tls_session *session);

/* As tls_handshake. */
int channel_handshake(struct channel *channel, struct bg_err *err) BG_MUST_CHECK;

/* The protocol that the handshake has chosen by ALPN is HTTP/2. */
bool channel_is_h2(const struct channel *channel);

/* See tls.h; false without TLS. */
bool channel_wants_certificate(const struct channel *channel);

/* Bytes read, 0 at the end, -EAGAIN, -ECONNABORTED (TLS cut short) or another errno. */
ssize_t channel_read(struct channel *channel, void *buffer, size_t size) BG_MUST_CHECK;

struct buffer *channel_out(struct channel *channel);

/* Sends what the socket takes. Errors: errno; the queue is then dropped and stays broken. */
int channel_flush(struct channel *channel) BG_MUST_CHECK;

/* Nothing more will be put: once the queue is sent, says so to the peer (close_notify, FIN). */
void channel_finish(struct channel *channel);

/* True once that has been done. */
bool channel_finished(const struct channel *channel);

/* True when the peer has closed both directions, or the socket failed. */
bool channel_gone(const struct channel *channel);

/* Chooses what on_ready is called for: bytes to read if asked for, room to write while something is
 * queued, the peer's closing always. To be called after each turn of the owner's work. */
void channel_watch(struct channel *channel, bool want_read);
