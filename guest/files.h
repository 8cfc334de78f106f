/* files: the streams by which the host's gateway works on the guest's files (docs/protocol.md,
 * "Files"). Each is a process of its own, with the user's rights: it may block, and what it has
 * open and locked goes with it. */
#pragma once

#include "guest/stream.h"

extern const struct stream_kind files_kind;
