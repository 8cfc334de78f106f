/* disk_answers: what the agent says on a disk stream (docs/protocol.md, "Disk"): a reply when the
 * disk is mounted, and a frame when it is unmounted. Pure; all bytes are the guest's. */
#pragma once

#include <stdbool.h>

#include "common/err.h"
#include "common/wire.h"

#define DISK_END_SIZE_MAX 1024u /* payload of the last frame: a status and an error's text */

struct disk_answers { /* all zero at first */
    bool mounted, ended;
    uint8_t buffer[BG_REPLY_HEADER_SIZE + BG_REPLY_TEXT_MAX];
    size_t used;
};

/* Takes the guest's bytes, then see mounted and ended. Errors: -EPROTO malformed, or something
 * behind the last frame; the agent's own status, its text escaped: it could not mount, or found
 * something wrong at the end. All is over then. */
int disk_answers_feed(struct disk_answers *answers, const uint8_t *bytes, size_t size,
                      struct bg_err *err) BG_MUST_CHECK;
