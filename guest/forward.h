/* Forward streams: a connection of the host's goes on to a TCP port on the guest's loopback. */
#pragma once

#include "guest/stream.h"

extern const struct stream_kind forward_kind;
