#include "fs/trust/diff.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/quote.h"

struct text {
    const uint8_t *at;
    size_t size;
};

/* The first line of text, with its end. */
static struct text first_line(struct text text)
{
    const uint8_t *end = text.size > 0 ? memchr(text.at, '\n', text.size) : NULL;
    return (struct text){text.at, end ? (size_t)(end - text.at) + 1 : text.size};
}

static struct text last_line(struct text text)
{
    const uint8_t *before = text.size > 1 ? memrchr(text.at, '\n', text.size - 1) : NULL;
    size_t start = before ? (size_t)(before - text.at) + 1 : 0;
    return (struct text){text.size > 0 ? text.at + start : text.at, text.size - start};
}

static bool equal(struct text a, struct text b)
{
    return a.size == b.size && a.size > 0 && memcmp(a.at, b.at, a.size) == 0;
}

/* Size of the UTF-8 sequence at p that is invisible, or turns the writing's direction, or 0:
 * bg_escape lets some of them through, which are harmless in a name and not in code. */
static size_t invisible(const char *p, unsigned *ret_code)
{
    const uint8_t *u = (const uint8_t *)p;
    *ret_code = 0x061c;
    if (u[0] == 0xd8 && u[1] == 0x9c)
        return 2;
    if (u[0] < 0xe0 || u[0] > 0xef || (u[1] & 0xc0) != 0x80 || (u[2] & 0xc0) != 0x80)
        return 0;
    unsigned code = (u[0] & 15u) << 12 | (u[1] & 63u) << 6 | (u[2] & 63u);
    bool hides = (code >= 0x200b && code <= 0x200f) || (code >= 0x2028 && code <= 0x202e) ||
                 (code >= 0x2060 && code <= 0x206f) || code == 0xfeff || code == 0x180e;
    *ret_code = code;
    return hides ? 3 : 0;
}

static void write_line(FILE *out, char mark, struct text line, char *scratch, size_t room)
{
    bool ended = line.size > 0 && line.at[line.size - 1] == '\n';
    (void)fputc(mark, out); /* memory: looked at in the end */
    bg_escape((const char *)line.at, line.size - ended, scratch, room);
    for (const char *p = scratch; *p != '\0';) {
        unsigned code;
        size_t skip = invisible(p, &code);
        if (skip > 0)
            (void)fprintf(out, "\\u%04x", code);
        else
            (void)fputc(*p, out);
        p += skip > 0 ? skip : 1;
    }
    (void)fputs(ended ? "\n" : "\n\\ no end of line\n", out);
}

static void write_lines(FILE *out, char mark, struct text text, char *scratch, size_t room)
{
    while (text.size > 0) {
        struct text line = first_line(text);
        write_line(out, mark, line, scratch, room);
        text.at += line.size;
        text.size -= line.size;
    }
}

int trust_diff(const uint8_t *before, size_t before_size, const uint8_t *after, size_t after_size,
               char **ret)
{
    struct text a = {before, before ? before_size : 0}, b = {after, after_size};
    size_t room = 4 * (a.size > b.size ? a.size : b.size) + 16; /* \xNN for each byte */
    size_t same = 0, size;
    BG_AUTOFREE char *scratch = malloc(room);
    char *text = NULL;
    FILE *out = scratch ? open_memstream(&text, &size) : NULL;
    if (!out)
        return -ENOMEM;
    for (struct text line; (line = first_line(a)).size > 0 && equal(line, first_line(b)); same++) {
        a = (struct text){a.at + line.size, a.size - line.size};
        b = (struct text){b.at + line.size, b.size - line.size};
    }
    for (struct text line; (line = last_line(a)).size > 0 && equal(line, last_line(b));) {
        a.size -= line.size;
        b.size -= line.size;
    }
    if (same > 0 && a.size + b.size > 0)
        (void)fprintf(out, "@@ after line %zu @@\n", same);
    write_lines(out, '-', a, scratch, room);
    write_lines(out, '+', b, scratch, room);
    if (fclose(out) != 0) {
        free(text);
        return -ENOMEM;
    }
    *ret = text;
    return 0;
}
