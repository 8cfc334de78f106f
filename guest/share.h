/* Serves share streams: a folder of the host, mounted in the guest by a worker that stays between
 * /dev/fuse and the stream. The agent itself never touches the mount: it would wait for the host.
 */
#pragma once

#include "guest/stream.h"

extern const struct stream_kind share_kind;
