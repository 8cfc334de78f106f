/* audit_filter: which lines of the audit are asked for. Pure. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "common/err.h"

#define AUDIT_FILTER_WORDS_MAX 16 /* of one key; one more is refused */

enum audit_filter_key {
    AUDIT_FILTER_SINCE,
    AUDIT_FILTER_UNTIL,
    AUDIT_FILTER_HOST,
    AUDIT_FILTER_DECISION,
    AUDIT_FILTER_REASON,
    AUDIT_FILTER_METHOD,
    AUDIT_FILTER_STATUS,
};

struct audit_filter_words {
    const char *items[AUDIT_FILTER_WORDS_MAX]; /* borrowed; any of them is enough */
    size_t count;
};

/* A line has to fit every key that was given. Zero: all lines do. */
struct audit_filter {
    bool has_since, has_until;
    uint64_t since_ms, until_ms; /* Unix time; until is not part of it */
    struct audit_filter_words hosts, decisions, reasons, methods, statuses;
};

/* Adds one condition: a time (RFC 3339, or "10m" for that long before now_ms: s, m, h, d), a host
 * or *.suffix (every name below it), allow, deny or error, a word of docs/protocol.md ("Audit"), a
 * method, a status or a class of them ("4xx"). text: borrowed as long as the filter is used. A
 * second time replaces the first. Errors: -EINVAL; -E2BIG. */
int audit_filter_add(struct audit_filter *filter, enum audit_filter_key key, const char *text,
                     uint64_t now_ms, struct bg_err *err) BG_MUST_CHECK;

/* A line without the field that a condition is about does not fit it. */
bool audit_filter_matches(const struct audit_filter *filter, const json_t *line);

/* RFC 3339 with any offset, in milliseconds since 1970. Errors: -EINVAL. */
int audit_filter_parse_time(const char *text, uint64_t *ret_ms) BG_MUST_CHECK;
