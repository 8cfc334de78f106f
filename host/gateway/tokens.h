/* tokens: who may use the gateway. Kept as names and SHA-256 hashes (docs/protocol.md, "Gateway"):
 * a token is 256 random bits, so its hash tells nothing. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "common/err.h"
#include "common/sha256.h"
#include "host/gateway/quota.h"

#define TOKEN_PREFIX "ddo_" /* the SDK then wants no organisation's name beside it */
#define TOKEN_SIZE   (sizeof TOKEN_PREFIX + 64) /* with 64 hex digits and a NUL */

struct token {
    char *name; /* [A-Za-z0-9_-]{1,63} */
    uint8_t hash[BG_SHA256_SIZE];
    uint64_t created_ms; /* Unix time */
    bool all; /* it is the machine owner's: all sandboxes are its own, for the extra routes */
    struct quota quota;
};

struct tokens {
    struct token *list;
    size_t count;
};

/* The file's text. Errors: -EINVAL damaged; -ENOMEM. */
int tokens_parse(const char *text, size_t size, struct tokens *ret,
                 struct bg_err *err) BG_MUST_CHECK;
char *tokens_emit(const struct tokens *tokens); /* heap, the caller's; NULL: out of memory */
void tokens_done(struct tokens *tokens);

bool tokens_name_ok(const char *name);

/* Makes a new one, with quota_default; text: what its user gets, and nobody else. Errors: -EEXIST;
 * -EINVAL the name; -EMFILE too many; -ENOMEM. */
int tokens_add(struct tokens *tokens, const char *name, uint64_t now_ms, char text[TOKEN_SIZE],
               struct bg_err *err) BG_MUST_CHECK;
/* Of that name, borrowed until another is added or removed; NULL: there is none. */
struct token *tokens_named(const struct tokens *tokens, const char *name);
/* The same, to be changed. Errors: -ENOENT with what to do. */
int tokens_get(struct tokens *tokens, const char *name, struct token **ret,
               struct bg_err *err) BG_MUST_CHECK;
/* Errors: -ENOENT. */
int tokens_remove(struct tokens *tokens, const char *name, struct bg_err *err) BG_MUST_CHECK;

/* Whose token that is, or NULL. Takes as long for a wrong one as for any other. */
const struct token *tokens_find(const struct tokens *tokens, const char *text);

/* Looks through what is to be put into a sandbox for a token of the gateway's. Errors:
 * -EKEYREJECTED there is one, and it is not nested. */
int tokens_check_stray(const struct tokens *tokens, const char *text,
                       struct bg_err *err) BG_MUST_CHECK;

/* What the token of that name may have: of one that is gone, nothing. */
struct quota tokens_quota(const struct tokens *tokens, const char *name);

/* From and to a file (mode 0600); a missing one is empty. Errors: -EINVAL; -EPERM others can read
 * or write it; errno. */
int tokens_load(const char *path, struct tokens *ret, struct bg_err *err) BG_MUST_CHECK;
int tokens_save(const char *path, const struct tokens *tokens, struct bg_err *err) BG_MUST_CHECK;

/* The tokens of a file that may change meanwhile. */
struct token_file {
    const char *path; /* borrowed */
    struct tokens tokens;
    struct stat seen; /* the file that they are of; zero: there is none */
};

/* Reads it again if it is another one by now. Errors: as tokens_load; nothing is changed then. */
int token_file_refresh(struct token_file *file, struct bg_err *err) BG_MUST_CHECK;
void token_file_done(struct token_file *file);
