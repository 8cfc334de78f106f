/* One line of JSON for each decision (docs/protocol.md, "Audit"). Pure. */
#pragma once

#include <stdint.h>

#include "net/http_head.h"
#include "net/secrets.h"

enum audit_decision {
    AUDIT_ALLOW, /* it went through, whatever the far end answered */
    AUDIT_DENY,  /* the policy, or a check that every request must pass, refused it */
    AUDIT_ERROR, /* allowed, but it could not be done */
};

struct audit_event {
    uint64_t realtime_ms;
    const char *sandbox;
    uint32_t stream;
    const char *host; /* canonical, or what the guest wrote if that is none */
    uint16_t port;
    const char *scheme;  /* "http", "https", "tcp", "tls", "" while not known */
    struct slice method; /* empty outside of HTTP */
    struct slice path;   /* cut at '?' by audit_format */
    const char *rule;    /* NULL: none allowed it */
    enum audit_decision decision;
    const char *reason;            /* a fixed word: see docs/protocol.md */
    const char *detail;            /* a sentence, or NULL; never with request contents in it */
    int status;                    /* HTTP status that the guest got; 0: none */
    const char *address;           /* dialled, or NULL */
    uint64_t bytes_up, bytes_down; /* bodies; for tcp all bytes */
    uint64_t duration_ms;
    const struct secrets *secrets;
    struct secrets_use use;
};

/* Writes the line, with its newline, to out (out_size >= AUDIT_LINE_MAX) and returns its size.
 * Texts from outside are escaped and cut. */
#define AUDIT_LINE_MAX 65536
size_t audit_format(const struct audit_event *event, char *out, size_t out_size);
