/* reopen: gets the relay another stream when its own was lost, by running a command. For the
 * keeper, which may start programs. No thread, no loop: the owner polls. */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "common/log.h"

/* What the command does with the socket that it has as stdin and stdout. */
enum fs_reopen_kind {
    FS_REOPEN_SERVES, /* the socket is the stream: the command is the server, or ssh to it */
    FS_REOPEN_PASSES, /* it sends one byte with the stream as SCM_RIGHTS, and ends */
};

/* A command that passes may say first, by this byte without a stream, that the server sleeps. It
 * goes on when it gets FS_REOPEN_WAKE, or when somebody else has woken the server. */
#define FS_REOPEN_ASLEEP 'Z'
#define FS_REOPEN_WAKE   'W'

/* Exit status of a command that knows that there will be no stream any more. */
#define FS_REOPEN_NEVER 69 /* EX_UNAVAILABLE, sysexits.h */

struct fs_reopen {
    enum fs_reopen_kind kind;
    char **argv;  /* borrowed */
    int relay_fd; /* to the relay (fs_loop_return); borrowed */
    const struct bg_log *log;
    /* Its own: */
    bool wanted;
    pid_t pid;   /* the command that passes, 0: none runs */
    int fd;      /* from it; -1 */
    bool needed; /* the relay has asked for it although the server sleeps */
    uint64_t next_ms, pause_ms;
};

/* The relay has lost its stream. */
void fs_reopen_want(struct fs_reopen *reopen, uint64_t now_ms);

/* The relay, which was told that the server sleeps, needs it. */
void fs_reopen_wake(struct fs_reopen *reopen);

/* What to poll for (fd -1: nothing), and how long at most (-1: for ever). */
struct pollfd fs_reopen_poll(const struct fs_reopen *reopen);
int fs_reopen_timeout(const struct fs_reopen *reopen, uint64_t now_ms);

/* After each poll. */
void fs_reopen_turn(struct fs_reopen *reopen, bool readable, uint64_t now_ms);

/* Ends what runs. */
void fs_reopen_end(struct fs_reopen *reopen);
