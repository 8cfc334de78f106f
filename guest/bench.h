/* Bench streams: the agent as a partner for measuring the device. Echo sends back what comes, sink
 * reads a number of bytes and says so by one byte, source sends a number of zero bytes. */
#pragma once

#include "guest/stream.h"

extern const struct stream_kind bench_kind;
