/* Base64 (RFC 4648 §4), as Basic credentials use it. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The six bits that a character stands for, or -1. */
int bg_base64_digit(char c);

/* Decodes with or without padding into out (at least size / 4 * 3 + 3 bytes). Returns the count of
 * bytes, or -EINVAL: a byte outside of the alphabet, or a length that no encoder makes. */
ssize_t bg_base64_decode(const char *text, size_t size, uint8_t *out);

/* Size of the encoding of size bytes, with padding and without a NUL. */
#define BG_BASE64_SIZE(size) (((size) + 2) / 3 * 4)

/* Encodes with padding; out: BG_BASE64_SIZE(size) bytes, no NUL. */
void bg_base64_encode(const uint8_t *bytes, size_t size, char *out);
