/* The "changes" stream (docs/protocol.md): the layers of copy-on-write shares. */
#pragma once

#include "guest/stream.h"

extern const struct stream_kind changes_kind;
