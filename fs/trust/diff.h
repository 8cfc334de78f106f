/* What changed between two texts, for a person who decides by it: nothing in the texts can move the
 * cursor, hide or reorder what is shown. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/cleanup.h"

/* Lines that are only in before are written with "-", those only in after with "+": one part, with
 * the lines that both begin and end with left out. before NULL: there was none. *ret: heap,
 * NUL-terminated. Errors: -ENOMEM. */
int trust_diff(const uint8_t *before, size_t before_size, const uint8_t *after, size_t after_size,
               char **ret) BG_MUST_CHECK;
