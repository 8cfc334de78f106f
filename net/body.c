#include "net/body.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "common/io.h"
#include "common/limits.h"
#include "net/decode.h"
#include "net/json_scan.h"

/* ---- what it is ---- */

/* The kind of a media type without its parameters; 0: another. */
static unsigned kind_of(struct slice media)
{
    static const char *const json[] = {"application/json", "text/json", "application/x-ndjson"};
    struct slice subtype = media, type = slice_cut(&subtype, '/');
    if (!slice_is_token(type) || !slice_is_token(subtype))
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

bool body_start(struct body *body, const struct secrets_scope *scope, const struct http_head *head)
{
    *body = (struct body){0};
    const struct http_field *field = http_head_field(head, "content-type", NULL);
    int layers = decoder_layers(head);
    if (!field || layers < 0 || head->framing == HTTP_NO_BODY)
        return false;
    struct slice parameters = field->value, media = slice_trim(slice_cut(&parameters, ';'));
    struct secrets_scope s = *scope;
    s.body.type = kind_of(media);
    s.body.coded = layers > 0;
    s.body.size = 0;
    body->size_max = s.body.type ? secrets_body_max(&s) : 0;
    if (body->size_max == 0 ||
        (s.body.type == SECRET_BODY_MULTIPART && multipart_mark_read(parameters, &body->mark) < 0))
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
    unsigned place;                    /* SECRET_IN_BODY; 0: they stay, and are noted */
    const struct multipart_mark *mark; /* NULL: not multipart */
    size_t start;                      /* multipart: of the part, in out */
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
    if (!p->mark)
        return false;
    size_t size = buffer_size(p->out) - p->start;
    const char *text = size > 0 ? (const char *)buffer_bytes(p->out) + p->start : "";
    bool line = size == 0 || text[size - 1] == '\n' || text[size - 1] == '\r';
    bool dash = size > 0 && text[size - 1] == '-';
    bool second = size == 1 || (size > 1 && (text[size - 2] == '\n' || text[size - 2] == '\r'));
    if ((line && value[0] == '-') || (dash && (second || value[0] == '-')))
        return true;
    for (size_t n = 2; n <= p->mark->size && n <= size; n++)
        if (memcmp(text + size - n, p->mark->bytes, n) == 0)
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

/* ---- the kinds ---- */

/* Errors: -EPROTO it is no JSON; what was put is of no use then. */
static int put_json_strings(const struct putter *p, const char *text, size_t size)
{
    struct json_scan scan;
    struct json_string string;
    size_t kept = 0;
    int r;
    json_scan_init(&scan, text, size);
    while ((r = json_scan_next(&scan, &string)) > 0) {
        buffer_put(p->out, text + kept, string.start - kept);
        if (string.is_name)
            put_untouched(p, text + string.start, string.end - string.start);
        else
            put_text(p, text + string.start, string.end - string.start);
        kept = string.end;
    }
    buffer_put(p->out, text + kept, size - kept);
    return r;
}

static void put_json(const struct putter *outer, const char *text, size_t size)
{
    size_t before = buffer_size(outer->out);
    struct secrets_use use = {0};
    struct putter p = *outer;
    p.style = &style_json;
    p.use = &use;
    if (put_json_strings(&p, text, size) == 0) {
        secrets_use_add(outer->use, &use);
        return;
    }
    if (buffer_ok(p.out))
        buffer_cut(p.out, before);
    p.style = &style_plain;
    p.use = outer->use;
    put_untouched(&p, text, size);
}

static void put_form(const struct putter *outer, const char *text, size_t size)
{
    struct putter p = *outer;
    struct slice left = {text, size};
    p.style = &style_form;
    while (left.size > 0) {
        const char *at = left.at;
        struct slice pair = slice_cut(&left, '&');
        bool more = left.at > at + pair.size;
        struct slice value = pair, name = slice_cut(&value, '=');
        put_untouched(&p, name.at, name.size);
        if (name.size < pair.size) {
            buffer_put(p.out, "=", 1);
            put_text(&p, value.at, value.size);
        }
        if (more)
            buffer_put(p.out, "&", 1);
    }
}

static void put_part(const struct putter *outer, const struct multipart_part *part)
{
    struct putter p = *outer;
    struct slice parameters = part->type;
    unsigned kind = kind_of(slice_trim(slice_cut(&parameters, ';')));
    p.start = buffer_size(p.out);
    if (part->sealed || kind == SECRET_BODY_MULTIPART)
        put_untouched(&p, part->content.at, part->content.size);
    else if (kind == SECRET_BODY_JSON)
        put_json(&p, part->content.at, part->content.size);
    else if (kind == SECRET_BODY_FORM)
        put_form(&p, part->content.at, part->content.size);
    else
        put_text(&p, part->content.at, part->content.size);
}

/* Errors: -EPROTO its parts are not clear; what was put is of no use then. */
static int put_parts(const struct putter *p, struct slice text)
{
    struct multipart multipart;
    struct multipart_part part;
    int r;
    multipart_init(&multipart, text, p->mark);
    while ((r = multipart_next(&multipart, &part)) > 0) {
        put_untouched(p, part.before.at, part.before.size);
        put_part(p, &part);
    }
    struct slice rest = multipart_rest(&multipart);
    put_untouched(p, rest.at, rest.size);
    return r;
}

static void put_multipart(const struct putter *outer, const struct multipart_mark *mark,
                          struct slice text)
{
    struct secrets_use use = {0};
    struct putter p = *outer;
    p.mark = mark;
    p.use = &use;
    if (put_parts(&p, text) == 0) {
        secrets_use_add(outer->use, &use);
        return;
    }
    if (buffer_ok(p.out))
        buffer_cut(p.out, 0);
    put_untouched(outer, text.at, text.size);
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
        put_multipart(p, &body->mark, (struct slice){text, size});
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
