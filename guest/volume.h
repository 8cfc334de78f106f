/* Volume streams (docs/protocol.md, "Volume"): a disk that the host has plugged is mounted where
 * its user wants it, before anything of the user's runs. It stays mounted: what is on it is written
 * back when the machine is switched off. */
#pragma once

#include "guest/stream.h"

extern const struct stream_kind volume_kind;
