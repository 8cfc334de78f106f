/* Opening again, for reading, what has not changed since the server opened it: the kernel has its
 * pages or its names, and is answered here. The server hears of it when the first request comes
 * that the kernel does not answer itself; that one waits for the server's OPEN. So a walk over
 * folders that were listed before, and files that are read again, cost no turn through the guest.
 *
 * What may be opened so is what fs_changes_is_known says: changes of the guest show as late as they
 * do with names and attributes, and a file whose rights have changed is asked for again. Pure, like
 * the relay that it is a part of. */
#pragma once

#include "fs/relay/state.h"

/* Answers an OPEN or OPENDIR of the kernel, which is checked. False: the server must be asked. */
bool fs_lazy_opens(struct fs_relay *relay, const struct fs_request *request, struct fs_rnode *node);

/* A request that is checked, with the kernel's numbers; bytes: as it came. Returns 0: no handle of
 * its is lazy; 1: it is taken, and made again when the server has opened what it is about.
 * Errors: -ENOMEM. */
int fs_lazy_waits(struct fs_relay *relay, const struct fs_request *request, const uint8_t *bytes,
                  size_t size, uint64_t now_ms) BG_MUST_CHECK;

/* The server's answer to such an OPEN. */
void fs_lazy_opened(struct fs_relay *relay, struct fs_pending *pending, struct fs_reply *reply,
                    uint64_t now_ms);
