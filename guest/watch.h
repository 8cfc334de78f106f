/* Streams of kind "watch": tells the host what happens to the guest's files below a path. */
#pragma once

#include "guest/stream.h"

extern const struct stream_kind watch_kind;
