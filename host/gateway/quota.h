/* quota: what one token may have of the gateway, and what it may do besides. Pure: use and time
 * come from the caller. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define QUOTA_UNLIMITED UINT64_MAX

struct quota {
    uint64_t sandboxes;    /* at once; QUOTA_UNLIMITED: as many as the gateway has room for */
    uint64_t memory_bytes; /* of all of them together */
    uint64_t lifetime_ms;  /* of one, from its creation on */
    bool nested;           /* it may be put into a sandbox */
    bool metrics;          /* it may read /metrics, which tells of all tokens */
};

/* Nothing is limited, and nothing special allowed. */
struct quota quota_default(void);

/* One word of a token's line in the file, such as "sandboxes=4" or "nested". Errors: -EINVAL. */
int quota_parse_word(const char *word, struct quota *quota, struct bg_err *err) BG_MUST_CHECK;

/* Those words, each with a space before it; nothing for what is as of quota_default. */
#define QUOTA_TEXT_SIZE 160
void quota_emit(const struct quota *quota, char out[QUOTA_TEXT_SIZE]);

struct quota_use {
    uint64_t sandboxes, memory_bytes; /* that the token has, those that are being made too */
};

struct quota_ask {
    uint64_t memory_bytes;
    uint64_t now_ms;     /* Unix time, as the next one */
    uint64_t stop_at_ms; /* 0: it ends with its connection */
};

/* Whether a sandbox may be made. name: the token's, for the text. Errors: -EDQUOT too many, or too
 * much memory; -ERANGE too long a life; the text says how much there may be. */
int quota_admit(const struct quota *quota, const char *name, const struct quota_use *use,
                const struct quota_ask *ask, struct bg_err *err) BG_MUST_CHECK;

/* Whether one that was made then may end at stop_at_ms. Errors: -ERANGE. */
int quota_check_stop(const struct quota *quota, const char *name, uint64_t created_ms,
                     uint64_t stop_at_ms, struct bg_err *err) BG_MUST_CHECK;

/* When one that was made then ends at the latest, Unix time in ms; 0: at no such time. */
uint64_t quota_ends_by(const struct quota *quota, uint64_t created_ms);
