/* FUSE streams: a folder of the guest, served to the host by fs/server in a process of its own. */
#pragma once

#include "guest/stream.h"

extern const struct stream_kind fuse_kind;
