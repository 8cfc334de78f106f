/* Small files come with the answer to OPEN: most programs read a file whole right after they have
 * opened it, and that saves them a round trip.
 *
 * What came is believed for a fifth of a second, and until anything is changed in the file, through
 * this mount or by others that the feed tells of; it goes when it was read to its end. Pure, like
 * the relay that it is a part of. */
#pragma once

#include "fs/relay/state.h"

/* Asks for data with an OPEN, where it would be of use. The request is checked and translated. */
void fs_ahead_ask(struct fs_relay *relay, struct fs_request *request, struct fs_pending *pending);

/* The answer to an OPEN: drops data that was not asked for. */
void fs_ahead_check(struct fs_relay *relay, const struct fs_pending *pending,
                    struct fs_reply *reply);

/* Takes what came with the answer, if it may still be used. Without memory there is none. */
void fs_ahead_keep(struct fs_relay *relay, struct fs_rhandle *handle,
                   const struct fs_pending *pending, const struct fs_reply *reply, uint64_t now_ms);

/* Answers a READ of the kernel from it. False: the server must be asked. */
bool fs_ahead_answer(struct fs_relay *relay, const struct fs_request *request, uint64_t now_ms);

/* A request that may change the file goes to the server. */
void fs_ahead_changed(const struct fs_request *request, struct fs_pending *pending);

void fs_ahead_drop(struct fs_relay *relay, struct fs_rhandle *handle);
