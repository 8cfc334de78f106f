#include "common/base64.h"

#include <errno.h>
#include <stdbool.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int bg_base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

ssize_t bg_base64_decode(const char *text, size_t size, uint8_t *out)
{
    size_t padding = 0;
    while (padding < 2 && size > 0 && text[size - 1] == '=') {
        size--;
        padding++;
    }
    if (size % 4 == 1 || (padding > 0 && (size + padding) % 4 != 0))
        return -EINVAL;
    uint32_t bits = 0;
    unsigned bit_count = 0;
    size_t used = 0;
    for (size_t i = 0; i < size; i++) {
        int digit = bg_base64_digit(text[i]);
        if (digit < 0)
            return -EINVAL;
        bits = (bits << 6 | (uint32_t)digit) & 0xffffff;
        bit_count += 6;
        if (bit_count >= 8) {
            bit_count -= 8;
            out[used++] = (uint8_t)(bits >> bit_count);
        }
    }
    return (ssize_t)used;
}

void bg_base64_encode(const uint8_t *bytes, size_t size, char *out)
{
    for (size_t i = 0; i < size; i += 3) {
        size_t left = size - i;
        uint32_t v = (uint32_t)bytes[i] << 16;
        if (left > 1)
            v |= (uint32_t)bytes[i + 1] << 8;
        if (left > 2)
            v |= bytes[i + 2];
        *out++ = alphabet[v >> 18];
        *out++ = alphabet[v >> 12 & 63];
        *out++ = (char)(left > 1 ? alphabet[v >> 6 & 63] : '=');
        *out++ = (char)(left > 2 ? alphabet[v & 63] : '=');
    }
}
