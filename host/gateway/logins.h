/* logins: browsers that have shown a token (docs/dashboard.md, "Logins"). Each has two secrets: one
 * in a cookie, which no script can read, and a key, which only scripts of the dashboard's own
 * origin have. A browser sends the cookie to every port of this host, a sandbox's too (`bellglass
 * forward`); so it opens nothing without the key. Only hashes are kept, in memory. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/sha256.h"
#include "host/gateway/tokens.h"

#define LOGINS_SECRET_SIZE 65 /* 64 hex digits and a NUL */

struct login {
    char token[64];                     /* the name of the one that was shown */
    uint8_t token_hash[BG_SHA256_SIZE]; /* another one of that name is not it */
    uint8_t cookie[BG_SHA256_SIZE], key[BG_SHA256_SIZE];
    uint64_t ends_ms; /* as now_ms below; 0: none */
};

struct login_secrets {
    char cookie[LOGINS_SECRET_SIZE], key[LOGINS_SECRET_SIZE];
};

struct logins;

struct logins *logins_new(void); /* NULL: out of memory */
void logins_free(struct logins *logins);

/* now_ms: CLOCK_MONOTONIC. One too many takes the place of the oldest. */
void logins_open(struct logins *logins, const struct token *token, uint64_t now_ms,
                 struct login_secrets *ret);

/* The login that both belong to; NULL: there is none (any more). cookies: a Cookie field, in which
 * any cookie of that name may be the one, since another page may have set one too. */
const struct login *logins_find(const struct logins *logins, const char *cookies,
                                const char *cookie_name, const char *key, uint64_t now_ms);
void logins_close(struct logins *logins, const struct login *login);

/* Wrong tokens are counted: false when there were too many lately. */
bool logins_may_try(const struct logins *logins, uint64_t now_ms);
void logins_failed(struct logins *logins, uint64_t now_ms);

/* Goes to the next cookie of that name. *at: the field, and where to go on. False: no more. */
bool logins_next_cookie(const char **at, const char *name, const char **ret, size_t *ret_size);
