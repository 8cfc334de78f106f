/* exec_frames: what comes back on an exec stream (docs/protocol.md, "Exec"), read piece by piece.
 * Pure; every byte is the guest's. Output is passed on as it comes, however long its frame: nothing
 * but headers and the small frames is kept here. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/limits.h"
#include "common/wire.h"

enum exec_event_kind {
    EXEC_NEED_MORE, /* all bytes are used up */
    EXEC_STARTED,   /* the command runs, as process pid */
    EXEC_ATTACHED,  /* likewise, and where it stands */
    EXEC_REFUSED,   /* it could not be started: status and text; last */
    EXEC_OUTPUT,    /* bytes for stdout or stderr */
    EXEC_WINDOW,    /* window more bytes of stdin may be sent */
    EXEC_TAKEN,     /* somebody else is attached in our place; last */
    EXEC_ENDED,     /* exit_status; last */
};

struct exec_event {
    enum exec_event_kind kind;
    int status;       /* EXEC_REFUSED: negative errno */
    const char *text; /* EXEC_REFUSED: escaped; borrowed until the next call */
    bool is_stderr;
    const uint8_t *bytes; /* EXEC_OUTPUT: borrowed from the input */
    size_t size;
    uint32_t window;
    uint32_t pid; /* EXEC_STARTED, EXEC_ATTACHED: in the guest, which may say anything */
    struct bg_exec_attached attached; /* EXEC_ATTACHED */
    int exit_status;                  /* as a shell gives it: 0..255, 128 + signal */
    int signal;                       /* EXEC_ENDED: the one that ended it, 0: none did */
};

struct exec_frames {
    enum {
        EXEC_READ_REPLY,
        EXEC_READ_REPLY_BODY,
        EXEC_READ_HEADER,
        EXEC_READ_OUTPUT,
        EXEC_READ_SMALL,
        EXEC_READ_NOTHING, /* the stream is over, or was damaged */
    } state;
    bool tty;            /* then no STDERR may come */
    bool attach;         /* the reply is that to an attach, which tells whether there is a tty */
    uint32_t stdin_owed; /* stdin bytes sent and not yet given back by WINDOW */
    uint8_t type;        /* of the current frame */
    int32_t reply_status;
    uint32_t left;    /* of the current frame's payload, or of the reply's body */
    size_t kept_size; /* of what is collected for the current state */
    uint8_t kept[BG_REPLY_TEXT_MAX];
    char text[BG_ERR_TEXT_SIZE];
};

void exec_frames_init(struct exec_frames *frames, bool tty);

/* Of a stream that is attached to a command that runs already. */
void exec_frames_init_attach(struct exec_frames *frames);

/* Notes that size bytes of stdin were sent. */
void exec_frames_sent(struct exec_frames *frames, uint32_t size);

/* Reads up to the next event. *ret_used bytes are done with; an event that borrows from bytes does
 * so until those are changed. After the last event nothing more is read. Errors: -EPROTO the guest
 * broke the protocol; the stream is over then. */
int exec_frames_next(struct exec_frames *frames, const uint8_t *bytes, size_t size,
                     size_t *ret_used, struct exec_event *ret, struct bg_err *err) BG_MUST_CHECK;
