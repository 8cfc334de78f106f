/* Names as file systems that do not keep them apart compare them. */
#pragma once

#include <stddef.h>

/* Folds size bytes of a name: ASCII letters, and the two characters beyond ASCII that fold to one
 * (U+017F, U+212A), become small, and characters that HFS+ leaves out of comparisons (U+200C..200F,
 * 202A..202E, 206A..206F, FEFF) go. Then dots and blanks at the end go, of which the first `least`
 * bytes are kept. out: at least size + 1 bytes; NUL-terminated. Returns its length. */
size_t bg_fold_name(const char *name, size_t size, size_t least, char *out);
