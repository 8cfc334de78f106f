#include "guest/pump.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/limits.h"
#include "guest/channel.h"

/* Reads in one turn of the loop, so that one fast connection leaves the others their turn. */
#define READS_PER_TURN 4

struct side {
    struct pump *pump;
    struct side *other;
    struct channel channel;
    bool input_ended; /* its end was read and passed on to the other side */
};

struct pump {
    struct pump_opts opts;
    struct side sides[2];
    unsigned open_handles;
};

void pump_reset_fd(int fd)
{
    struct linger none = {.l_onoff = 1};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none); /* not TCP: no reset needed */
    (void)close(fd);
}

static void side_closed(void *owner)
{
    struct side *side = owner;
    struct pump *pump = side->pump;
    if (--pump->open_handles > 0)
        return;
    void (*on_done)(void *owner) = pump->opts.on_done;
    void *pump_owner = pump->opts.owner;
    free(pump);
    on_done(pump_owner);
}

void pump_abort(struct pump *pump)
{
    for (int i = 0; i < 2; i++)
        if (pump->sides[i].channel.state == CHANNEL_OPEN)
            pump_reset_fd(channel_detach(&pump->sides[i].channel, side_closed));
}

static struct channel *stream_channel(struct pump *pump)
{
    return &pump->sides[pump->opts.stream].channel;
}

bool pump_park(struct pump *pump)
{
    if (stream_channel(pump)->state != CHANNEL_OPEN)
        return false;
    channel_park(stream_channel(pump));
    return true;
}

int pump_counts(const struct pump *pump, uint64_t *ret_read, uint64_t *ret_written)
{
    const struct channel *ch = &pump->sides[pump->opts.stream].channel;
    if (ch->state != CHANNEL_OPEN)
        return -ENOENT;
    *ret_read = ch->bytes_read;
    *ret_written = ch->bytes_written;
    return 0;
}

void pump_swap(struct pump *pump, int fd)
{
    struct channel *ch = stream_channel(pump);
    if (ch->state == CHANNEL_OPEN && channel_swap(ch, fd) == 0)
        return;
    (void)close(fd); /* not taken */
    pump_abort(pump);
}

void pump_go_on(struct pump *pump)
{
    if (stream_channel(pump)->state == CHANNEL_OPEN)
        channel_go_on(stream_channel(pump));
}

static void close_if_done(struct pump *pump)
{
    /* A direction is done when its end was read and all of it is written. */
    for (int i = 0; i < 2; i++)
        if (!pump->sides[i].input_ended || channel_queued(&pump->sides[i].other->channel) > 0)
            return;
    for (int i = 0; i < 2; i++)
        channel_close(&pump->sides[i].channel, side_closed);
}

static void readable(void *owner)
{
    struct side *side = owner;
    struct pump *pump = side->pump;
    size_t size = pump->opts.scratch_size;
    if (size > BG_AGENT_PUMP_MAX)
        size = BG_AGENT_PUMP_MAX;
    for (int i = 0; i < READS_PER_TURN; i++) {
        if (channel_queued(&side->other->channel) > 0) {
            channel_want_input(&side->channel, false);
            return;
        }
        ssize_t n = channel_read(&side->channel, pump->opts.scratch, size);
        if (n == -EAGAIN)
            return;
        if (n < 0) {
            pump_abort(pump);
            return;
        }
        if (n == 0) {
            side->input_ended = true;
            channel_want_input(&side->channel, false);
            channel_finish(&side->other->channel);
            close_if_done(pump);
            return;
        }
        struct iovec part = {.iov_base = pump->opts.scratch, .iov_len = (size_t)n};
        if (channel_write(&side->other->channel, &part, 1) < 0) {
            pump_abort(pump);
            return;
        }
        if ((size_t)n < size)
            return; /* there was no more; the loop tells when there is */
    }
}

static void has_room(void *owner)
{
    struct side *side = owner;
    if (!side->other->input_ended) {
        if (channel_queued(&side->channel) == 0)
            channel_want_input(&side->other->channel, true);
    } else {
        close_if_done(side->pump);
    }
}

static void broken(void *owner, int status)
{
    (void)status; /* the other side gets a reset, whatever it was */
    pump_abort(((struct side *)owner)->pump);
}

static const struct channel_ops ops = {
    .on_readable = readable, .on_room = has_room, .on_broken = broken};

int pump_open(const struct pump_opts *opts, struct pump **ret_pump, struct bg_err *err)
{
    struct pump *pump = calloc(1, sizeof *pump);
    int r = pump ? 0 : -ENOMEM;
    if (r == 0) {
        pump->opts = *opts;
        for (int i = 0; i < 2; i++) {
            pump->sides[i].pump = pump;
            pump->sides[i].other = &pump->sides[1 - i];
        }
        r = channel_open(&pump->sides[0].channel, opts->loop, opts->fds[0], &ops, &pump->sides[0]);
    }
    if (r < 0) {
        free(pump);
        (void)close(opts->fds[0]); /* taken */
        (void)close(opts->fds[1]);
        return bg_err_errno(err, r, "connection");
    }
    pump->open_handles++;
    r = channel_open(&pump->sides[1].channel, opts->loop, opts->fds[1], &ops, &pump->sides[1]);
    if (r < 0) {
        /* The loop has the memory already: it ends the ordinary way, as if it had broken. */
        (void)close(opts->fds[1]);
        pump_abort(pump);
        *ret_pump = pump;
        return 0;
    }
    pump->open_handles++;
    stream_channel(pump)->bytes_read = opts->bytes_read;
    stream_channel(pump)->bytes_written = opts->bytes_written;
    channel_want_input(&pump->sides[0].channel, true);
    channel_want_input(&pump->sides[1].channel, true);
    *ret_pump = pump;
    return 0;
}
