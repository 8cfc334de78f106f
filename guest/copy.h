/* Copy streams: a tar into or out of the guest, in a process that is the user, so that the user's
 * own rights apply. */
#pragma once

#include "guest/stream.h"

extern const struct stream_kind copy_kind;
