/* Exec streams: one command each, with pipes or a pty.
 *
 * Life: STARTING (the process exists, its exec has not succeeded yet) -> RUNNING (reply sent,
 * output flows) -> DRAINING (reaped; what its pipes held at that moment is still sent) -> DONE
 * (EXIT sent, or the stream is gone). When the stream goes first, the whole cgroup is killed. The
 * struct lives until the stream has let go, the process is reaped and every fd is closed.
 *
 * Flow: output is read only while the stream has room. Input beyond the window that we gave
 * (BG_EXEC_STDIN_WINDOW) ends the stream; it is given back as the command takes it, in steps. */
#pragma once

#include "guest/stream.h"

extern const struct stream_kind exec_kind;
