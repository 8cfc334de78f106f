/* The supervisor's session: HELLO, IDENTITY, then heartbeats, PREPARE and SHUTDOWN. One at a time;
 * a new one replaces the old. */
#pragma once

#include "guest/stream.h"

extern const struct stream_kind session_kind;
