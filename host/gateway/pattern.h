/* pattern: the regular expressions and globs of clients, matched by PCRE2 without its compiler to
 * machine code and with a bound on the work. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "common/limits.h"

struct pattern;

/* A regular expression of JavaScript: its source and its flags, translated into PCRE2's language.
 * What JavaScript does not have is refused, and so are lookbehinds of no fixed length, which PCRE2
 * does not have. Errors: -EINVAL; -EMSGSIZE; -ENOMEM. */
int pattern_from_regexp(const char *source, const char *flags, struct pattern **ret,
                        struct bg_err *err) BG_MUST_CHECK;

struct glob_opts {
    bool extended; /* `?(…)`, `*(…)`, `+(…)`, `@(…)`, `!(…)` */
    bool globstar; /* a segment `**` is any number of them */
    bool case_insensitive;
};

/* A glob, of a whole path or of one segment: `*`, `?`, `[…]`, `{a,b}` and the above. One whose
 * brackets do not close is taken literally. Errors: as above. */
int pattern_from_glob(const char *glob, const struct glob_opts *opts, struct pattern **ret,
                      struct bg_err *err) BG_MUST_CHECK;

/* Whether one segment of a path is more than a name. */
bool glob_is_pattern(const char *segment, size_t size);

/* The segment as the name that it is, without its escapes; out: size + 1 bytes. */
void glob_unescape(const char *segment, size_t size, char *out);

/* 1: it matches somewhere in text; 0: nowhere, or text is not UTF-8. Errors: -EOVERFLOW it took
 * more work than BG_GATEWAY_MATCH_MAX; -ENOMEM. */
int pattern_matches(const struct pattern *pattern, const char *text) BG_MUST_CHECK;

void pattern_free(struct pattern *pattern); /* NULL: no-op */

/* Several, of which one is enough. Zeroed, it is empty. */
struct patterns {
    struct pattern *list[BG_GATEWAY_PATTERNS_MAX];
    size_t count;
};

/* pattern: taken in any case. Errors: -E2BIG. */
int patterns_add(struct patterns *patterns, struct pattern *pattern) BG_MUST_CHECK;
/* As pattern_matches. */
int patterns_match(const struct patterns *patterns, const char *text) BG_MUST_CHECK;
void patterns_done(struct patterns *patterns);
