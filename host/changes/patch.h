/* One change as a patch that git and patch(1) take. The lines are found by libgit2, in a process of
 * its own without any rights, since half of what it reads is a hostile guest's. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/err.h"
#include "common/sha256.h"

/* One side: a file or symlink, or nothing. */
struct patch_side {
    bool there;
    unsigned mode;     /* as git has it: 0100644, 0100755, 0120000 */
    const char *bytes; /* borrowed; NULL: too large, or shown as a binary in any case */
    uint64_t size;
    uint8_t hash[BG_SHA256_SIZE]; /* for binaries */
};

struct patch_opts {
    const char *path;
    struct patch_side before, after;
    bool escape; /* for a terminal: control bytes, and what turns or hides text, as \xNN */
};

/* Writes it. Errors: -EREMOTEIO the process failed; errno. */
int patch_write(FILE *out, const struct patch_opts *opts, struct bg_err *err) BG_MUST_CHECK;

/* Text from outside, but newlines and tabs, as it is or escaped. */
void patch_text(FILE *out, const char *text, size_t size, bool escape);

/* A path on one line, always escaped. */
void patch_name(FILE *out, const char *path);
