/* watch_frames: what a guest sends on a watch stream, as lines for people or for programs. Pure:
 * bytes in, text out; the bytes are the guest's. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define WATCH_FRAME_MAX (12u + 2u * 4096u) /* payload of the longest frame */

/* Takes the frame at the start of bytes if it is there in whole. Returns how many bytes it had, 0
 * when there is more to come. *ret_text: heap, the caller's: a line for each thing that happened.
 * Errors: -EPROTO; -ENOMEM; what the guest's END frame says, its text escaped. */
int watch_frames_take(const uint8_t *bytes, size_t size, bool json, char **ret_text,
                      struct bg_err *err) BG_MUST_CHECK;
