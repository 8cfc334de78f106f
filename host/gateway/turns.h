/* turns: how far a client's event loop has come, told by pings and by what it sends.
 *
 * The SDK's handlers run when a message is read, but what waits for them runs when the loop has
 * handled what it has read: at the end of its turn. A ping is answered at once, too, so one that
 * was answered says that all before it was read, and no more. Node reads once in a turn: there the
 * next ping is answered in a later one. Deno reads up to BG_GATEWAY_TURN_READS times, as long as
 * there is something, and a ping that follows on a pong can be there in time. So after that many
 * pings, each sent after the pong of the one before, a turn has ended. A message that comes after a
 * pong says so earlier: what sent it was no handler.
 *
 * Beyond this machine a pong takes so long to come that fewer must do (BG_GATEWAY_TURN_READS_FAR):
 * else a client at 50 ms would wait for its streams more than a second.
 *
 * Pure: numbers in, numbers out. A mark is the number of the first ping that is sent after it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct turns {
    unsigned reads;          /* of the client in one turn, at most; > 0 */
    uint64_t sent, answered; /* pings, numbered from 1; at most one is on its way */
    uint64_t heard;          /* `answered` when the last message came */
    uint64_t heard_before;   /* `heard` when the last ping was sent */
    uint64_t settled;        /* `heard_before` of the last one that was answered */
};

/* Now: all that the client was sent until the next ping. */
uint64_t turns_mark(const struct turns *turns);

/* A ping that is to be sent if anything waits for one; 0: one is on its way. */
uint64_t turns_ping(struct turns *turns);

/* The client has answered the ping with this number. False: it is not the one on its way. */
bool turns_pong(struct turns *turns, uint64_t number);

/* A message of the client has come. */
void turns_message(struct turns *turns);

/* What is sent from now on is read in a later turn than what was sent before the mark. */
bool turns_later(const struct turns *turns, uint64_t mark);

/* That turn has ended, and what the client sent in it is here. */
bool turns_over(const struct turns *turns, uint64_t mark);
