#include "host/gateway/text.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NS       1000000000
#define TIME_MIN (-62167219200ll) /* 0000-01-01T00:00:00Z */
#define TIME_MAX 253402300799ll   /* 9999-12-31T23:59:59Z */

/* Size of the sequence at p, or of its longest part that could become one, which is broken then
 * (Unicode 15 §3.9, table 3-7). */
static size_t sequence(const uint8_t *p, size_t left, bool *ret_whole)
{
    uint8_t low = 0x80, high = 0xbf;
    size_t want = p[0] < 0x80                    ? 1
                  : p[0] >= 0xc2 && p[0] <= 0xdf ? 2
                  : p[0] >= 0xe0 && p[0] <= 0xef ? 3
                  : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4
                                                 : 0;
    if (p[0] == 0xe0)
        low = 0xa0;
    if (p[0] == 0xed)
        high = 0x9f;
    if (p[0] == 0xf0)
        low = 0x90;
    if (p[0] == 0xf4)
        high = 0x8f;
    size_t n = 1;
    while (n < want && n < left && p[n] >= low && p[n] <= high) {
        low = 0x80;
        high = 0xbf;
        n++;
    }
    *ret_whole = n == want;
    return n;
}

json_t *text_lossy(const void *bytes, size_t size)
{
    static const char replacement[] = "\xef\xbf\xbd";
    json_t *text = json_stringn(size ? bytes : "", size);
    if (text)
        return text;
    const uint8_t *in = bytes;
    char *out = size < SIZE_MAX / 3 ? malloc(3 * size + 1) : NULL;
    size_t used = 0;
    if (!out)
        return NULL;
    for (size_t at = 0; at < size;) {
        bool whole;
        size_t n = sequence(in + at, size - at, &whole);
        if (whole)
            memcpy(out + used, in + at, n);
        else
            memcpy(out + used, replacement, 3);
        used += whole ? n : 3;
        at += n;
    }
    text = json_stringn_nocheck(out, used);
    free(out);
    return text;
}

json_t *text_time(int64_t ns)
{
    struct tm tm;
    int64_t seconds = ns / NS, rest = ns % NS;
    if (rest < 0) {
        rest += NS;
        seconds--;
    }
    time_t at = seconds < TIME_MIN ? TIME_MIN : seconds > TIME_MAX ? TIME_MAX : seconds;
    if (!gmtime_r(&at, &tm))
        return NULL; /* not with these */
    return json_sprintf("%04d-%02d-%02dT%02d:%02d:%02d.%03uZ", tm.tm_year + 1900, tm.tm_mon + 1,
                        tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (unsigned)(rest / 1000000));
}

/* [.DIGITS], of which nine count. Returns what follows; NULL: none after the point. */
static const char *parse_fraction(const char *text, int64_t *ret_ns)
{
    int64_t unit = NS;
    *ret_ns = 0;
    if (*text != '.')
        return text;
    size_t size = strspn(++text, "0123456789");
    for (size_t i = 0; i < size; i++) {
        unit /= 10;
        *ret_ns += (text[i] - '0') * unit;
    }
    return size > 0 ? text + size : NULL;
}

/* Z or +HH:MM, and the end. */
static bool parse_zone(const char *text, int64_t *ret_seconds)
{
    static const char form[] = "+00:00";
    *ret_seconds = 0;
    if (strcmp(text, "Z") == 0)
        return true;
    if ((text[0] != '+' && text[0] != '-') || strlen(text) != sizeof form - 1)
        return false;
    for (size_t i = 1; i < sizeof form - 1; i++)
        if (form[i] == ':' ? text[i] != ':' : text[i] < '0' || text[i] > '9')
            return false;
    int hours = (text[1] - '0') * 10 + text[2] - '0',
        minutes = (text[4] - '0') * 10 + text[5] - '0';
    *ret_seconds = (text[0] == '-' ? -60 : 60) * (hours * 60 + minutes);
    return hours < 24 && minutes < 60;
}

int text_parse_time(const char *text, int64_t *ret_ns)
{
    struct tm tm = {0};
    int64_t fraction, zone;
    if (text[0] < '0' || text[0] > '9')
        return -EINVAL;
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    if (!rest || rest != text + 19)
        return -EINVAL;
    rest = parse_fraction(rest, &fraction);
    if (!rest || !parse_zone(rest, &zone))
        return -EINVAL;
    int64_t ns;
    if (__builtin_mul_overflow((int64_t)timegm(&tm) - zone, (int64_t)NS, &ns) ||
        __builtin_add_overflow(ns, fraction, ret_ns))
        return -EINVAL;
    return 0;
}
