/* Makes text from outside safe to print: one line, no control bytes, no escape sequences. */
#pragma once

#include <stddef.h>

/* Writes bytes to out as one printable line: C0, DEL, C1 and invalid UTF-8 become \xNN, backslash
 * becomes \\. Cut text ends in "...". out: out_size >= 8 bytes, always NUL-terminated. */
void bg_escape(const char *bytes, size_t size, char *out, size_t out_size);

/* bg_escape of a C string, with single quotes around it, in a caller's buffer: for use inside a
 * printf argument. Returns out. */
const char *bg_quote(const char *text, char *out, size_t out_size);
