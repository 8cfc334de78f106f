/* Exec streams: one command each, with pipes or a pty.
 *
 * Life: STARTING (the process exists, its exec has not succeeded yet) -> RUNNING (reply sent,
 * output flows) -> DRAINING (reaped; what its pipes held at that moment is still sent) -> ENDED
 * (all of it is read) -> DONE (EXIT sent, or nobody will ask). When the stream goes first, the
 * whole cgroup is killed, unless the exec is kept: after the machine was restored from a snapshot,
 * or since the host has said that it leaves. Then it goes on without a stream, and its output waits
 * (BG_AGENT_KEEP_MAX of each, then the command waits) until another stream is attached. The struct
 * lives until the stream has let go, the process is reaped and every fd is closed.
 *
 * Flow: output is read only while the stream's queue is empty, so that at most one frame of it is
 * not in the socket yet; that one is kept until it is, for a stream that is cut in the middle of
 * it. Input beyond the window that we gave (BG_EXEC_STDIN_WINDOW) ends the stream; it is given back
 * as the command takes it, in steps. */
#pragma once

#include "guest/stream.h"

extern const struct stream_kind exec_kind;

/* Lists the execs, and ends. */
extern const struct stream_kind execs_kind;

/* The machine was restored from a snapshot: takes the streams away from all execs, which are kept.
 * Those that have not begun are killed: nobody knows them. fork: it is another sandbox now; what
 * speaks to one client and nobody else (BG_EXEC_DETACH) loses its pipes. Sends nothing. */
void exec_orphan_all(struct agent *agent, bool fork);

/* Ends the execs that have no stream. */
void exec_forget_all(struct agent *agent);
