#include "net/multipart.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

/* A parameter's value, a token or a quoted string. Errors: -EPROTO neither, or too long. */
static ssize_t read_value(struct slice *s, char out[MULTIPART_BOUNDARY_MAX])
{
    size_t size = 0;
    bool quoted = s->size > 0 && *s->at == '"';
    if (quoted) {
        s->at++;
        s->size--;
    }
    for (;;) {
        if (s->size == 0)
            return quoted ? -EPROTO : (ssize_t)size;
        char c = *s->at;
        if (!quoted && !slice_is_token((struct slice){s->at, 1}))
            return (ssize_t)size;
        s->at++;
        s->size--;
        if (quoted && c == '"')
            return (ssize_t)size;
        if (quoted && c == '\\' && s->size > 0) {
            c = *s->at++;
            s->size--;
        }
        if (size == MULTIPART_BOUNDARY_MAX)
            return -EPROTO;
        out[size++] = c;
    }
}

static bool may_be_boundary(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && (c == '\0' || !strchr("'()+_,-./:=? ", c)))
            return false;
    }
    return size > 0 && text[size - 1] != ' ';
}

int multipart_mark_read(struct slice parameters, struct multipart_mark *ret)
{
    struct multipart_mark mark = {.bytes = "--", .size = 2};
    do {
        char value[MULTIPART_BOUNDARY_MAX];
        parameters = slice_trim(parameters);
        struct slice left = parameters, name = slice_cut(&left, '=');
        ssize_t size = -EPROTO;
        if (name.size < parameters.size && slice_is_token(name))
            size = read_value(&left, value);
        if (size < 0)
            return -EPROTO;
        if (name.size >= 8 && strncasecmp(name.at, "boundary", 8) == 0) {
            /* RFC 2231 has more ways to write it, and few read them. */
            if (name.size > 8 || mark.size > 2 || !may_be_boundary(value, (size_t)size))
                return -EPROTO;
            memcpy(mark.bytes + 2, value, (size_t)size);
            mark.size += (size_t)size;
        }
        parameters = slice_trim(left);
        if (parameters.size > 0 && slice_cut(&parameters, ';').size > 0)
            return -EPROTO;
    } while (parameters.size > 0);
    *ret = mark;
    return mark.size > 2 ? 0 : -EPROTO;
}

void multipart_init(struct multipart *multipart, struct slice text,
                    const struct multipart_mark *mark)
{
    *multipart = (struct multipart){.text = text, .mark = mark};
}

/* A line between parts, with the line end before it. */
struct delimiter {
    size_t start, end;
    bool last;
};

static int read_delimiter(struct slice text, size_t at, size_t from, size_t mark_size,
                          struct delimiter *ret)
{
    /* The line end before it may be that of the delimiter or of the head before. */
    bool whole = at == 0 || (at >= from + 2 && memcmp(text.at + at - 2, "\r\n", 2) == 0);
    struct delimiter d = {.start = at == 0 ? 0 : at - 2, .end = at + mark_size};
    d.last = text.size - d.end >= 2 && memcmp(text.at + d.end, "--", 2) == 0;
    if (d.last)
        d.end += 2;
    while (d.end < text.size && (text.at[d.end] == ' ' || text.at[d.end] == '\t'))
        d.end++;
    bool line = text.size - d.end >= 2 && memcmp(text.at + d.end, "\r\n", 2) == 0;
    bool ends = d.last && d.end == text.size;
    if (!whole || (!line && !ends))
        return -EPROTO;
    if (line)
        d.end += 2;
    *ret = d;
    return 0;
}

/* The next one from there on. */
static int find_delimiter(const struct multipart *m, size_t from, struct delimiter *ret)
{
    struct slice text = m->text;
    for (size_t at = from;; at++) {
        const char *hit = memmem(text.at + at, text.size - at, m->mark->bytes, m->mark->size);
        if (!hit)
            return -EPROTO;
        at = (size_t)(hit - text.at);
        if (at == 0 || text.at[at - 1] == '\n' || text.at[at - 1] == '\r')
            return read_delimiter(text, at, from, m->mark->size, ret);
    }
}

static void read_field(struct slice line, struct multipart_part *part)
{
    struct slice value = line, name = slice_cut(&value, ':');
    value = slice_trim(value);
    if (slice_is(name, "content-type")) {
        part->sealed |= part->type.at != NULL;
        part->type = value;
        return;
    }
    bool encoded = slice_is(name, "content-transfer-encoding") && !slice_is(value, "7bit") &&
                   !slice_is(value, "8bit") && !slice_is(value, "binary");
    /* No token: it goes on with the line before, or is odd. */
    part->sealed |= encoded || slice_is(name, "content-encoding") || !slice_is_token(name);
}

/* Returns the size of the head with its empty line. */
static ssize_t read_head(struct slice text, struct multipart_part *part)
{
    for (size_t at = 0; at < text.size;) {
        const char *lf = memchr(text.at + at, '\n', text.size - at);
        size_t line = lf ? (size_t)(lf - text.at) - at : 0;
        if (line == 0 || text.at[at + line - 1] != '\r' || memchr(text.at + at, '\r', line - 1))
            return -EPROTO;
        if (line > 1)
            read_field((struct slice){text.at + at, line - 1}, part);
        at += line + 1;
        if (line == 1)
            return (ssize_t)at;
    }
    return -EPROTO;
}

int multipart_next(struct multipart *m, struct multipart_part *ret)
{
    struct delimiter d;
    if (!m->delimiter.found) {
        int r = find_delimiter(m, 0, &d);
        if (r < 0)
            return r;
        m->delimiter.found = true;
        m->delimiter.end = d.end;
        m->delimiter.last = d.last;
    }
    if (m->delimiter.last)
        return 0;
    size_t start = m->delimiter.end;
    struct multipart_part part = {0};
    int r = find_delimiter(m, start, &d);
    if (r < 0)
        return r;
    const char *text = m->text.at;
    ssize_t head = read_head((struct slice){text + start, d.start - start}, &part);
    if (head < 0)
        return (int)head;
    size_t content = start + (size_t)head;
    if (!part.type.at)
        part.type = (struct slice){"", 0};
    part.before = (struct slice){text + m->at, content - m->at};
    part.content = (struct slice){text + content, d.start - content};
    m->at = d.start;
    m->delimiter.end = d.end;
    m->delimiter.last = d.last;
    *ret = part;
    return 1;
}
