#include "net/body.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "common/io.h"
#include "common/limits.h"
#include "net/decode.h"

/* ---- what it is ---- */

static const char token_bytes[] = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "abcdefghijklmnopqrstuvwxyz";

static bool is_one_of(char c, const char *set)
{
    return c != '\0' && strchr(set, c);
}

static bool is_token(struct slice s)
{
    for (size_t i = 0; i < s.size; i++)
        if (!is_one_of(s.at[i], token_bytes))
            return false;
    return s.size > 0;
}

static struct slice trim(struct slice s)
{
    while (s.size > 0 && (*s.at == ' ' || *s.at == '\t')) {
        s.at++;
        s.size--;
    }
    while (s.size > 0 && (s.at[s.size - 1] == ' ' || s.at[s.size - 1] == '\t'))
        s.size--;
    return s;
}

/* Up to the first c, or all of it; *s is what follows that. */
static struct slice cut(struct slice *s, char c)
{
    const char *at = memchr(s->at, c, s->size);
    struct slice before = {s->at, at ? (size_t)(at - s->at) : s->size};
    size_t skip = before.size + (at ? 1 : 0);
    s->at += skip;
    s->size -= skip;
    return before;
}

static bool starts_with(struct slice s, const char *text_lower)
{
    size_t size = strlen(text_lower);
    return s.size >= size && strncasecmp(s.at, text_lower, size) == 0;
}

/* The kind of a media type without its parameters; 0: another. */
static unsigned kind_of(struct slice media)
{
    static const char *const json[] = {"application/json", "text/json", "application/x-ndjson"};
    struct slice subtype = media, type = cut(&subtype, '/');
    if (!is_token(type) || !is_token(subtype))
        return 0;
    for (size_t i = 0; i < sizeof json / sizeof *json; i++)
        if (slice_is(media, json[i]))
            return SECRET_BODY_JSON;
    if (subtype.size > 5 && strncasecmp(subtype.at + subtype.size - 5, "+json", 5) == 0)
        return SECRET_BODY_JSON;
    if (slice_is(media, "application/x-www-form-urlencoded"))
        return SECRET_BODY_FORM;
    if (slice_is(type, "multipart"))
        return SECRET_BODY_MULTIPART;
    return slice_is(type, "text") ? SECRET_BODY_TEXT : 0;
}

/* A parameter's value, a token or a quoted string; -EINVAL: neither, or too long. */
static ssize_t read_value(struct slice *s, char out[BODY_BOUNDARY_MAX])
{
    size_t size = 0;
    bool quoted = s->size > 0 && *s->at == '"';
    if (quoted) {
        s->at++;
        s->size--;
    }
    for (;;) {
        if (s->size == 0)
            return quoted ? -EINVAL : (ssize_t)size;
        char c = *s->at;
        if (!quoted && !is_one_of(c, token_bytes))
            return (ssize_t)size;
        s->at++;
        s->size--;
        if (quoted && c == '"')
            return (ssize_t)size;
        if (quoted && c == '\\' && s->size > 0) {
            c = *s->at++;
            s->size--;
        }
        if (size == BODY_BOUNDARY_MAX)
            return -EINVAL;
        out[size++] = c;
    }
}

/* The boundary, if there is exactly one way to read it; false: there is none. */
static bool read_boundary(struct body *body, struct slice parameters)
{
    static const char others[] = "'()+_,-./:=? ";
    body->boundary_size = 0;
    for (bool first = true; parameters.size > 0 || first; first = false) {
        char value[BODY_BOUNDARY_MAX];
        parameters = trim(parameters);
        size_t size = 0;
        while (size < parameters.size && is_one_of(parameters.at[size], token_bytes))
            size++;
        struct slice name = {parameters.at, size};
        if (size == 0 || size == parameters.size || parameters.at[size] != '=')
            return false;
        parameters.at += size + 1;
        parameters.size -= size + 1;
        ssize_t value_size = read_value(&parameters, value);
        if (value_size < 0)
            return false;
        if (starts_with(name, "boundary")) {
            if (!slice_is(name, "boundary") || body->boundary_size > 0)
                return false; /* RFC 2231 has more ways to write it, and few read them */
            memcpy(body->boundary, value, (size_t)value_size);
            body->boundary_size = (size_t)value_size;
        }
        parameters = trim(parameters);
        if (parameters.size > 0 && cut(&parameters, ';').size > 0)
            return false;
    }
    for (size_t i = 0; i < body->boundary_size; i++) {
        char c = body->boundary[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && !is_one_of(c, others))
            return false;
    }
    return body->boundary_size > 0 && body->boundary[body->boundary_size - 1] != ' ';
}

bool body_start(struct body *body, const struct secrets_scope *scope, const struct http_head *head)
{
    *body = (struct body){0};
    const struct http_field *field = http_head_field(head, "content-type", NULL);
    int layers = decoder_layers(head);
    if (!field || layers < 0 || head->framing == HTTP_NO_BODY)
        return false;
    struct slice parameters = field->value, media = trim(cut(&parameters, ';'));
    struct secrets_scope s = *scope;
    s.body.type = kind_of(media);
    s.body.coded = layers > 0;
    s.body.size = 0;
    body->size_max = s.body.type ? secrets_body_max(&s) : 0;
    if (body->size_max == 0 ||
        (s.body.type == SECRET_BODY_MULTIPART && !read_boundary(body, parameters)))
        return false;
    body->type = s.body.type;
    body->coded = s.body.coded;
    body->in = buffer_init(body->size_max);
    body->out = buffer_init(body->size_max + BODY_GROWTH_MAX);
    body->out.wipe = true;
    return true;
}

void body_put(struct body *body, const uint8_t *bytes, size_t size)
{
    buffer_put(&body->in, bytes, size);
}

void body_done(struct body *body)
{
    buffer_reset(&body->in);
    buffer_reset(&body->out);
    *body = (struct body){0};
}

/* ---- placeholders in a stretch of text ---- */

struct style;

/* Where text is put together, and what becomes of its placeholders. */
struct putter {
    const struct secrets_scope *scope;
    const struct style *style;
    unsigned place;         /* SECRET_IN_BODY; 0: they stay, and are noted */
    struct slice delimiter; /* multipart: "--" and the boundary; empty: there is none */
    size_t start;           /* multipart: of the part, in out */
    struct buffer *out;
    struct secrets_use *use;
};

/* How characters are written in a kind of text. */
struct style {
    /* How many bytes (at least one) the first unit takes; *ret is its character, or -1: none that a
     * placeholder has. NULL: every byte is one. */
    size_t (*decode)(const char *text, size_t size, int *ret);
    void (*put)(struct buffer *out, const char *value, size_t size);
    bool utf8; /* it cannot hold any bytes */
};

static void put_plain(struct buffer *out, const char *value, size_t size)
{
    buffer_put(out, value, size);
}

static void put_encoded(struct buffer *out, const char *value, size_t size)
{
    secret_put_encoded(out, value, size);
}

static size_t decode_plain(const char *text, size_t size, int *ret)
{
    (void)size;
    *ret = (unsigned char)*text;
    return 1;
}

static size_t decode_percent(const char *text, size_t size, int *ret)
{
    int high = size > 2 ? bg_hex_digit(text[1]) : -1;
    int low = size > 2 ? bg_hex_digit(text[2]) : -1;
    if (*text != '%' || high < 0 || low < 0)
        return decode_plain(text, size, ret);
    *ret = high << 4 | low;
    return 3;
}

/* Inside of a string that has been found good. */
static size_t decode_json(const char *text, size_t size, int *ret)
{
    if (*text != '\\')
        return decode_plain(text, size, ret);
    *ret = -1;
    if (size < 6 || text[1] != 'u')
        return size < 2 ? size : 2;
    int code = 0;
    for (size_t i = 2; i < 6; i++)
        code = code << 4 | (bg_hex_digit(text[i]) & 15);
    if (code < 0x80)
        *ret = code;
    return 6;
}

static void put_json_text(struct buffer *out, const char *value, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if ((unsigned char)value[i] < 0x20) {
            buffer_printf(out, "\\u%04x", (unsigned)value[i]);
            continue;
        }
        if (value[i] == '"' || value[i] == '\\')
            buffer_put(out, "\\", 1);
        buffer_put(out, &value[i], 1);
    }
}

static const struct style style_plain = {decode_plain, put_plain, .utf8 = false};
static const struct style style_form = {decode_percent, put_encoded, .utf8 = false};
static const struct style style_json = {decode_json, put_json_text, .utf8 = true};

/* No overlong forms, no surrogates, nothing above U+10FFFF (RFC 3629). */
static bool is_utf8(const unsigned char *bytes, size_t size)
{
    for (size_t i = 0; i < size;) {
        unsigned char c = bytes[i++];
        size_t more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2 : 3;
        unsigned char low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
        unsigned char high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
        if ((c >= 0x80 && c < 0xc2) || c > 0xf4 || size - i < more)
            return false;
        for (; more > 0; more--, low = 0x80, high = 0xbf)
            if (bytes[i] < low || bytes[i++] > high)
                return false;
    }
    return true;
}

/* Whether the value may be a part of a boundary for whoever reads what is put. */
static bool near_boundary(const struct putter *p, const char *value)
{
    if (p->delimiter.size == 0)
        return false;
    size_t size = buffer_size(p->out) - p->start;
    const char *text = size > 0 ? (const char *)buffer_bytes(p->out) + p->start : "";
    bool line = size == 0 || text[size - 1] == '\n' || text[size - 1] == '\r';
    bool dash = size > 0 && text[size - 1] == '-';
    bool second = size == 1 || (size > 1 && (text[size - 2] == '\n' || text[size - 2] == '\r'));
    if ((line && value[0] == '-') || (dash && (second || value[0] == '-')))
        return true;
    for (size_t n = 2; n <= p->delimiter.size && n <= size; n++)
        if (memcmp(text + size - n, p->delimiter.at, n) == 0)
            return true;
    return false;
}

static void put_placeholder(const struct putter *p, const char *placeholder, struct slice as_is)
{
    struct secrets_use use = {0};
    const struct secret *found = secrets_resolve(p->scope, p->place, placeholder, &use);
    if (found && ((p->style->utf8 && !is_utf8(found->value, found->value_size)) ||
                  near_boundary(p, found->value))) {
        use = (struct secrets_use){0};
        found = secrets_resolve(p->scope, 0, placeholder, &use);
    }
    secrets_use_add(p->use, &use);
    if (found)
        p->style->put(p->out, found->value, found->value_size);
    else
        buffer_put(p->out, as_is.at, as_is.size);
}

/* How many bytes the placeholder takes with which the text begins; 0: there is none. */
static size_t read_placeholder(const struct style *style, const char *text, size_t size,
                               char ret[SECRET_PLACEHOLDER_SIZE])
{
    size_t at = 0;
    for (size_t i = 0; i < SECRET_PLACEHOLDER_SIZE; i++) {
        int c;
        if (at == size)
            return 0;
        at += style->decode(text + at, size - at, &c);
        if (c < 0 || (i < sizeof SECRET_PREFIX - 1 && c != SECRET_PREFIX[i]))
            return 0;
        ret[i] = (char)c;
    }
    return secret_is_placeholder(ret, SECRET_PLACEHOLDER_SIZE) ? at : 0;
}

static void put_text(const struct putter *p, const char *text, size_t size)
{
    char placeholder[SECRET_PLACEHOLDER_SIZE];
    size_t kept = 0; /* from here on nothing is put yet */
    for (size_t at = 0; at < size;) {
        int c;
        size_t unit = p->style->decode(text + at, size - at, &c);
        size_t taken = c == SECRET_PREFIX[0]
                           ? read_placeholder(p->style, text + at, size - at, placeholder)
                           : 0;
        if (taken == 0) {
            at += unit;
            continue;
        }
        buffer_put(p->out, text + kept, at - kept);
        put_placeholder(p, placeholder, (struct slice){text + at, taken});
        at += taken;
        kept = at;
    }
    buffer_put(p->out, text + kept, size - kept);
}

/* Puts it unchanged, and notes what stands in it. */
static void put_untouched(const struct putter *p, const char *text, size_t size)
{
    struct putter inner = *p;
    inner.place = 0;
    put_text(&inner, text, size);
}

/* ---- JSON (RFC 8259) ---- */

/* What may come next. */
enum json_want {
    JSON_VALUE,
    JSON_VALUE_OR_END,
    JSON_NAME,
    JSON_NAME_OR_END,
    JSON_COLON,
    JSON_NEXT
};

struct json {
    const char *text;
    size_t size, at;
    enum json_want want;
    uint8_t objects[BODY_DEPTH_MAX / 8]; /* a bit a level: an object, else an array */
    size_t depth;
};

static bool json_in_object(const struct json *j)
{
    size_t i = j->depth - 1;
    return j->depth > 0 && (j->objects[i / 8] >> i % 8 & 1);
}

static bool json_open(struct json *j, bool object)
{
    size_t i = j->depth;
    if (i == BODY_DEPTH_MAX)
        return false;
    j->objects[i / 8] = (uint8_t)((j->objects[i / 8] & ~(1u << i % 8)) | (unsigned)object << i % 8);
    j->depth++;
    j->at++;
    j->want = object ? JSON_NAME_OR_END : JSON_VALUE_OR_END;
    return true;
}

/* A value is complete: several may follow each other at the top. */
static void json_valued(struct json *j)
{
    j->want = j->depth > 0 ? JSON_NEXT : JSON_VALUE;
}

static bool json_close(struct json *j, bool object)
{
    bool may_end =
        j->want == JSON_NEXT || j->want == (object ? JSON_NAME_OR_END : JSON_VALUE_OR_END);
    if (!may_end || j->depth == 0 || json_in_object(j) != object)
        return false;
    j->depth--;
    j->at++;
    json_valued(j);
    return true;
}

static size_t json_digits(const struct json *j, size_t at)
{
    size_t start = at;
    while (at < j->size && j->text[at] >= '0' && j->text[at] <= '9')
        at++;
    return at - start;
}

static bool json_number(struct json *j)
{
    size_t at = j->at, count;
    if (j->text[at] == '-')
        at++;
    count = json_digits(j, at);
    if (count == 0 || (count > 1 && j->text[at] == '0'))
        return false;
    at += count;
    if (at < j->size && j->text[at] == '.') {
        count = json_digits(j, ++at);
        if (count == 0)
            return false;
        at += count;
    }
    if (at < j->size && (j->text[at] == 'e' || j->text[at] == 'E')) {
        at++;
        if (at < j->size && (j->text[at] == '+' || j->text[at] == '-'))
            at++;
        count = json_digits(j, at);
        if (count == 0)
            return false;
        at += count;
    }
    j->at = at;
    json_valued(j);
    return true;
}

static bool json_word(struct json *j)
{
    static const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t size = strlen(words[i]);
        if (j->size - j->at >= size && memcmp(j->text + j->at, words[i], size) == 0) {
            j->at += size;
            json_valued(j);
            return true;
        }
    }
    return json_number(j);
}

/* Where the string's closing quote is, for one that begins behind an opening one; SIZE_MAX: none.
 */
static size_t json_string_end(const struct json *j, size_t at)
{
    while (at < j->size) {
        unsigned char c = (unsigned char)j->text[at];
        if (c == '"')
            return at;
        if (c < 0x20)
            return SIZE_MAX;
        if (c != '\\') {
            at++;
            continue;
        }
        size_t left = j->size - at;
        if (left >= 6 && j->text[at + 1] == 'u') {
            for (size_t i = at + 2; i < at + 6; i++)
                if (bg_hex_digit(j->text[i]) < 0)
                    return SIZE_MAX;
            at += 6;
        } else if (left >= 2 && is_one_of(j->text[at + 1], "\"\\/bfnrt")) {
            at += 2;
        } else {
            return SIZE_MAX;
        }
    }
    return SIZE_MAX;
}

static bool json_string(struct json *j, const struct putter *p)
{
    size_t start = j->at + 1, end = json_string_end(j, start);
    bool name = j->want == JSON_NAME || j->want == JSON_NAME_OR_END;
    if (end == SIZE_MAX || j->want == JSON_COLON || j->want == JSON_NEXT)
        return false;
    buffer_put(p->out, "\"", 1);
    if (name)
        put_untouched(p, j->text + start, end - start);
    else
        put_text(p, j->text + start, end - start);
    buffer_put(p->out, "\"", 1);
    j->at = end + 1;
    if (name)
        j->want = JSON_COLON;
    else
        json_valued(j);
    return true;
}

/* One token that is not a string. */
static bool json_token(struct json *j)
{
    bool value = j->want == JSON_VALUE || j->want == JSON_VALUE_OR_END;
    switch (j->text[j->at]) {
    case '{':
    case '[':
        return value && json_open(j, j->text[j->at] == '{');
    case '}':
    case ']':
        return json_close(j, j->text[j->at] == '}');
    case ',':
        if (j->want != JSON_NEXT)
            return false;
        j->want = json_in_object(j) ? JSON_NAME : JSON_VALUE;
        j->at++;
        return true;
    case ':':
        if (j->want != JSON_COLON)
            return false;
        j->want = JSON_VALUE;
        j->at++;
        return true;
    default:
        return value && json_word(j);
    }
}

/* Returns false if it is no JSON; what was put is of no use then. */
static bool put_json_values(const struct putter *p, const char *text, size_t size)
{
    struct json j = {.text = text, .size = size, .want = JSON_VALUE};
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        j.at = 3; /* a byte order mark; most readers skip it */
    size_t kept = 0;
    while (j.at < size) {
        char c = text[j.at];
        bool ok = true;
        if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
            j.at++;
        } else if (c == '"') {
            buffer_put(p->out, text + kept, j.at - kept);
            ok = json_string(&j, p);
            kept = j.at;
        } else {
            ok = json_token(&j);
        }
        if (!ok)
            return false;
    }
    buffer_put(p->out, text + kept, size - kept);
    return j.depth == 0 && j.want == JSON_VALUE;
}

static void put_json(const struct putter *outer, const char *text, size_t size)
{
    size_t before = buffer_size(outer->out);
    struct secrets_use use = {0};
    struct putter p = *outer;
    p.style = &style_json;
    p.use = &use;
    if (put_json_values(&p, text, size)) {
        secrets_use_add(outer->use, &use);
        return;
    }
    if (buffer_ok(p.out))
        buffer_cut(p.out, before);
    p.style = &style_plain;
    p.use = outer->use;
    put_untouched(&p, text, size);
}

/* ---- form ---- */

static void put_form(const struct putter *outer, const char *text, size_t size)
{
    struct putter p = *outer;
    struct slice left = {text, size};
    p.style = &style_form;
    while (left.size > 0) {
        const char *at = left.at;
        struct slice pair = cut(&left, '&');
        bool more = left.at > at + pair.size;
        struct slice value = pair, name = cut(&value, '=');
        put_untouched(&p, name.at, name.size);
        if (name.size < pair.size) {
            buffer_put(p.out, "=", 1);
            put_text(&p, value.at, value.size);
        }
        if (more)
            buffer_put(p.out, "&", 1);
    }
}

/* ---- multipart (RFC 2046 §5.1) ---- */

/* A delimiter with its line, the CR LF before it included. */
struct delimiter {
    size_t start, end;
    bool last;
};

/* The next delimiter from at on. Errors: -ENOENT there is none; -EPROTO something that one reader
 * may take for one and another not. */
static int find_delimiter(struct slice text, struct slice mark, size_t from, struct delimiter *ret)
{
    for (size_t at = from;;) {
        const char *hit = memmem(text.at + at, text.size - at, mark.at, mark.size);
        if (!hit)
            return -ENOENT;
        at = (size_t)(hit - text.at);
        char before = at > 0 ? text.at[at - 1] : '\n';
        if (before != '\n' && before != '\r') {
            at++; /* in the middle of a line */
            continue;
        }
        /* The line end before it may be that of the delimiter or of the head before. */
        bool whole = at == 0 || (at >= from + 2 && text.at[at - 2] == '\r' && before == '\n');
        struct delimiter d = {.start = at == 0 ? 0 : at - 2, .end = at + mark.size};
        d.last = text.size - d.end >= 2 && memcmp(text.at + d.end, "--", 2) == 0;
        if (d.last)
            d.end += 2;
        while (d.end < text.size && (text.at[d.end] == ' ' || text.at[d.end] == '\t'))
            d.end++;
        bool ends = d.last && d.end == text.size;
        bool line = text.size - d.end >= 2 && memcmp(text.at + d.end, "\r\n", 2) == 0;
        if (!whole || (!ends && !line))
            return -EPROTO;
        if (line && !d.last)
            d.end += 2;
        *ret = d;
        return 0;
    }
}

/* What a part's head says of what the part holds. */
struct part_head {
    size_t size; /* with the empty line */
    unsigned type;
    bool sealed; /* encoded, or of a kind that we do not look into */
};

static void read_part_field(struct slice line, struct part_head *head, bool *typed)
{
    struct slice value = line, name = cut(&value, ':');
    value = trim(value);
    if (!is_token(name)) {
        head->sealed = true; /* folded, or odd */
    } else if (slice_is(name, "content-type")) {
        struct slice media = trim(cut(&value, ';'));
        head->type = kind_of(media);
        head->sealed |= *typed || head->type == SECRET_BODY_MULTIPART;
        *typed = true;
    } else if (slice_is(name, "content-transfer-encoding")) {
        head->sealed |=
            !slice_is(value, "7bit") && !slice_is(value, "8bit") && !slice_is(value, "binary");
    } else if (slice_is(name, "content-encoding")) {
        head->sealed = true;
    }
}

/* Returns false if the head has no end, or lines that one reader ends elsewhere than another. */
static bool read_part_head(struct slice part, struct part_head *ret)
{
    bool typed = false;
    *ret = (struct part_head){0};
    for (size_t at = 0; at < part.size;) {
        const char *lf = memchr(part.at + at, '\n', part.size - at);
        size_t line = lf ? (size_t)(lf - part.at) - at : 0;
        if (line == 0 || part.at[at + line - 1] != '\r' || memchr(part.at + at, '\r', line - 1))
            return false;
        ret->size = at + line + 1;
        if (line == 1)
            return true;
        read_part_field((struct slice){part.at + at, line - 1}, ret, &typed);
        at = ret->size;
    }
    return false;
}

static bool put_part(const struct putter *outer, struct slice part)
{
    struct part_head head;
    if (!read_part_head(part, &head))
        return false;
    put_untouched(outer, part.at, head.size);
    struct putter p = *outer;
    p.start = buffer_size(p.out);
    const char *text = part.at + head.size;
    size_t size = part.size - head.size;
    if (head.sealed)
        put_untouched(&p, text, size);
    else if (head.type == SECRET_BODY_JSON)
        put_json(&p, text, size);
    else if (head.type == SECRET_BODY_FORM)
        put_form(&p, text, size);
    else
        put_text(&p, text, size);
    return true;
}

/* Returns false if its parts are not clear; what was put is of no use then. */
static bool put_parts(const struct putter *p, struct slice text)
{
    struct delimiter d;
    if (find_delimiter(text, p->delimiter, 0, &d) < 0)
        return false;
    put_untouched(p, text.at, d.end);
    while (!d.last) {
        size_t start = d.end;
        if (find_delimiter(text, p->delimiter, start, &d) < 0 ||
            !put_part(p, (struct slice){text.at + start, d.start - start}))
            return false;
        buffer_put(p->out, text.at + d.start, d.end - d.start);
    }
    put_untouched(p, text.at + d.end, text.size - d.end);
    return true;
}

static void put_multipart(const struct putter *outer, const struct body *body, struct slice text)
{
    char mark[2 + BODY_BOUNDARY_MAX] = "--";
    struct secrets_use use = {0};
    struct putter p = *outer;
    memcpy(mark + 2, body->boundary, body->boundary_size);
    p.style = &style_plain;
    p.delimiter = (struct slice){mark, 2 + body->boundary_size};
    p.use = &use;
    if (put_parts(&p, text)) {
        secrets_use_add(outer->use, &use);
        return;
    }
    if (buffer_ok(p.out))
        buffer_cut(p.out, 0);
    p.use = outer->use;
    put_untouched(&p, text.at, text.size);
}

/* ---- all of it ---- */

/* Takes the content codings off. Errors: -E2BIG, -EPROTO, -ENOMEM. */
static int decode(struct body *body, const struct http_head *head, struct bg_err *err)
{
    struct decoder *decoder = NULL;
    struct buffer plain = buffer_init(body->size_max);
    uint8_t piece[4096];
    size_t used, made;
    int r = decoder_new(head, &decoder, err);
    while (r == 0 && decoder && buffer_ok(&plain)) {
        size_t size = buffer_size(&body->in);
        r = decoder_run(decoder, size > 0 ? buffer_bytes(&body->in) : piece, size, &used, piece,
                        sizeof piece, &made, err);
        if (r < 0)
            break;
        buffer_drop(&body->in, used);
        buffer_put(&plain, piece, made);
        if (used + made == 0)
            break;
    }
    if (r == 0 && !buffer_ok(&plain))
        r = bg_err_set(err, -E2BIG,
                       "the body is larger than %zu bytes without its content coding, the most in "
                       "which placeholders are looked for there",
                       body->size_max);
    if (r == 0 && decoder)
        r = decoder_end(decoder, err);
    decoder_free(decoder);
    buffer_reset(&body->in);
    body->in = plain;
    return r;
}

static void exchange(struct body *body, const struct putter *p)
{
    size_t size = buffer_size(&body->in);
    const char *text = size > 0 ? (const char *)buffer_bytes(&body->in) : "";
    switch ((enum secret_body_type)body->type) {
    case SECRET_BODY_JSON:
        put_json(p, text, size);
        break;
    case SECRET_BODY_FORM:
        put_form(p, text, size);
        break;
    case SECRET_BODY_MULTIPART:
        put_multipart(p, body, (struct slice){text, size});
        break;
    case SECRET_BODY_TEXT:
        put_text(p, text, size);
        break;
    }
}

int body_finish(struct body *body, const struct secrets_scope *scope, const struct http_head *head,
                struct secrets_use *use, struct bg_err *err)
{
    int r = body->coded ? decode(body, head, err) : 0;
    if (r < 0)
        return r;
    struct secrets_scope s = *scope;
    struct secrets_use inside = {0};
    s.body.type = body->type;
    s.body.coded = body->coded;
    s.body.size = buffer_size(&body->in);
    const struct putter p = {.scope = &s,
                             .style = &style_plain,
                             .place = SECRET_IN_BODY,
                             .out = &body->out,
                             .use = &inside};
    exchange(body, &p);
    buffer_reset(&body->in);
    secrets_use_add(use, &inside);
    body->changed = inside.used != 0;
    if (!buffer_ok(&body->out))
        return bg_err_set(err, -E2BIG, "the body is too large with its secrets");
    return 0;
}
