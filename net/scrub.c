#include "net/scrub.h"

#include <errno.h>
#include <string.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/base64.h"

/* A secret's value in one form is a row of symbols, each worked out from the value when it is
 * looked at: nothing derived from a secret is stored but the sets of its first characters, in
 * locked memory, which tell most places of a text apart from the few where a closer look is due.
 * A match is followed symbol by symbol, in all the ways that the text can be read: the set of
 * places where the next symbol may stand. It nearly always has one member; a secret with percent
 * signs or backslashes, which escapes begin with too, makes it larger. */
enum form {
    FORM_PLAIN,
    FORM_REVERSED,
    FORM_ROT13,
    FORM_HEX,
    FORM_BASE64_0,
    FORM_BASE64_1,
    FORM_BASE64_2,
    FORM_COUNT
};

#define PLACES_MAX 32
#define ESCAPE_MAX 12 /* bytes of the longest escape that is read: &#x0000041; */
#define GAP_MAX    12 /* bytes between two symbols: a folded line break, or one of hex */
#define FEED_MAX   ((size_t)16 * 1024)
#define HELD_MAX   ((size_t)2 * BG_SECRET_SIZE_MAX * (ESCAPE_MAX + GAP_MAX) + FEED_MAX)
#define INCOMPLETE (-1)

/* Bits of the value before the first whole base64 character, for values that begin at the
 * (form - FORM_BASE64_0)th byte of a group of three. */
static const unsigned base64_skip[] = {0, 4, 2};

static uint8_t lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c;
}

static uint8_t rot13(uint8_t c)
{
    uint8_t l = lower(c);
    if (l < 'a' || l > 'z')
        return c;
    return (uint8_t)(l < 'n' ? c + 13 : c - 13);
}

/* Of both alphabets. */
static int base64_any(uint8_t c)
{
    return bg_base64_digit((char)(c == '-' ? '+' : c == '_' ? '/' : c));
}

static bool is_base64(enum form form)
{
    return form >= FORM_BASE64_0;
}

/* What is looked for: a value in a form, and where. */
struct look {
    const uint8_t *value;
    size_t value_size;
    enum form form;
    size_t count; /* symbols */
    const uint8_t *text;
    size_t size;
    bool final; /* no more will come */
};

static size_t symbol_count(enum form form, size_t value_size)
{
    if (form == FORM_HEX)
        return 2 * value_size;
    return is_base64(form) ? (8 * value_size - base64_skip[form - FORM_BASE64_0]) / 6 : value_size;
}

static bool accepts(const struct look *k, size_t i, uint8_t c)
{
    const uint8_t *v = k->value;
    if (k->form == FORM_HEX)
        return bg_hex_digit((char)c) == (i % 2 ? v[i / 2] & 15 : v[i / 2] >> 4);
    if (is_base64(k->form)) {
        size_t bit = base64_skip[k->form - FORM_BASE64_0] + 6 * i, at = bit / 8;
        unsigned pair = (unsigned)v[at] << 8 | (at + 1 < k->value_size ? v[at + 1] : 0u);
        return base64_any(c) == (int)(pair >> (10 - bit % 8) & 63);
    }
    uint8_t want = k->form == FORM_REVERSED ? v[k->value_size - 1 - i] : v[i];
    if (k->form == FORM_ROT13)
        want = rot13(want);
    if (want == ' ' && c == '+') /* as forms encode it */
        return true;
    return k->value_size < SCRUB_SIZE_MIN ? want == c : lower(want) == lower(c);
}

/* ---- escapes ---- */

/* Reads digits of base, at least one and at most count. Returns how many, 0 if there are none or
 * the number is above 255, INCOMPLETE if more may follow. */
static int read_number(const uint8_t *at, size_t left, unsigned base, size_t count, uint8_t *ret)
{
    unsigned value = 0;
    size_t n = 0;
    for (; n < count; n++) {
        if (n == left)
            return INCOMPLETE;
        int digit = bg_hex_digit((char)at[n]);
        if (digit < 0 || (unsigned)digit >= base)
            break;
        value = value * base + (unsigned)digit;
        if (value > 255)
            return 0;
    }
    *ret = (uint8_t)value;
    return (int)n;
}

/* Exactly two hex digits after skip bytes. */
static int read_pair(const uint8_t *at, size_t left, size_t skip, uint8_t *ret)
{
    for (size_t i = skip; i < skip + 2; i++) {
        if (i >= left)
            return INCOMPLETE;
        if (bg_hex_digit((char)at[i]) < 0)
            return 0;
    }
    *ret = (uint8_t)(bg_hex_digit((char)at[skip]) << 4 | bg_hex_digit((char)at[skip + 1]));
    return (int)skip + 2;
}

/* The text that must stand at the place. 1: it does; 0: not; INCOMPLETE. */
static int stands(const uint8_t *at, size_t left, const char *text)
{
    for (size_t i = 0; text[i]; i++) {
        if (i == left)
            return INCOMPLETE;
        if (lower(at[i]) != (uint8_t)text[i])
            return 0;
    }
    return 1;
}

static int read_entity(const uint8_t *at, size_t left, uint8_t *ret)
{
    static const struct {
        const char *text;
        char c;
    } names[] = {{"&amp;", '&'},    {"&lt;", '<'},     {"&gt;", '>'},    {"&quot;", '"'},
                 {"&apos;", '\''},  {"&plus;", '+'},   {"&sol;", '/'},   {"&equals;", '='},
                 {"&lowbar;", '_'}, {"&hyphen;", '-'}, {"&nbsp;", ' '},  {"&percnt;", '%'},
                 {"&bsol;", '\\'},  {"&num;", '#'},    {"&colon;", ':'}, {"&period;", '.'}};
    if (left < 2)
        return INCOMPLETE;
    if (at[1] == '#') {
        bool hex = left > 2 && lower(at[2]) == 'x';
        size_t skip = hex ? 3 : 2;
        int n = left < skip ? INCOMPLETE
                            : read_number(at + skip, left - skip, hex ? 16 : 10,
                                          ESCAPE_MAX - 1 - skip, ret);
        if (n <= 0)
            return n;
        /* The semicolon may be left out, as browsers see it. */
        if ((size_t)n + skip == left)
            return INCOMPLETE;
        return n + (int)skip + (at[skip + (size_t)n] == ';');
    }
    bool incomplete = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int r = lower(at[1]) == names[i].text[1] ? stands(at, left, names[i].text) : 0;
        if (r == 1) {
            *ret = (uint8_t)names[i].c;
            return (int)strlen(names[i].text);
        }
        incomplete |= r == INCOMPLETE;
    }
    return incomplete ? INCOMPLETE : 0;
}

static int read_backslash(const uint8_t *at, size_t left, uint8_t *ret)
{
    if (left < 2)
        return INCOMPLETE;
    uint8_t c = lower(at[1]);
    int r;
    if (c == 'x')
        return read_pair(at, left, 2, ret);
    if (c == 'u') {
        r = stands(at + 2, left - 2, at[1] == 'U' ? "000000" : "00");
        if (r == 1)
            return read_pair(at, left, at[1] == 'U' ? 8 : 4, ret);
        if (left > 2 && at[2] == '{') {
            r = read_number(at + 3, left - 3, 16, 6, ret);
            if (r <= 0)
                return r;
            if ((size_t)r + 3 == left)
                return INCOMPLETE;
            return at[3 + r] == '}' ? r + 4 : 0;
        }
        return r;
    }
    if (c >= '0' && c <= '3') {
        for (size_t i = 1; i < 4; i++) {
            if (i == left)
                return INCOMPLETE;
            if (at[i] < '0' || at[i] > '7')
                return 0;
        }
        *ret = (uint8_t)((at[1] - '0') << 6 | (at[2] - '0') << 3 | (at[3] - '0'));
        return 4;
    }
    static const char letters[] = "nrtbfav", controls[] = "\n\r\t\b\f\a\v";
    const char *letter = c ? strchr(letters, c) : NULL;
    if (letter) {
        *ret = (uint8_t)controls[letter - letters];
        return 2;
    }
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))
        return 0;
    *ret = at[1];
    return 2;
}

/* Reads one escaped character. Returns its size, 0 when there is none, INCOMPLETE. */
static int read_escape(const uint8_t *at, size_t left, uint8_t *ret)
{
    switch (at[0]) {
    case '%':
        if (left > 1 && lower(at[1]) == 'u') {
            int r = stands(at + 2, left - 2, "00");
            return r == 1 ? read_pair(at, left, 4, ret) : r;
        }
        return read_pair(at, left, 1, ret);
    case '=':
        return read_pair(at, left, 1, ret);
    case '\\':
        return read_backslash(at, left, ret);
    case '&':
        return read_entity(at, left, ret);
    default:
        return 0;
    }
}

/* ---- what may stand between two symbols ---- */

static int read_line_break(const uint8_t *at, size_t left)
{
    static const char *const breaks[] = {"=\r\n",  "=\n", "\r\n",   "\n",
                                         "\\r\\n", "\\n", "%0d%0a", "%0a"};
    for (size_t i = 0; i < sizeof breaks / sizeof *breaks; i++) {
        int r = stands(at, left, breaks[i]);
        if (r == 0)
            continue;
        size_t size = strlen(breaks[i]);
        if (r == INCOMPLETE || size == left)
            return INCOMPLETE;
        return (int)size + (at[size] == ' ' || at[size] == '\t'); /* folded */
    }
    return 0;
}

/* Between two bytes of hex. */
static int read_hex_gap(const uint8_t *at, size_t left)
{
    size_t n = 0;
    if (memchr(":-,", at[n], 3))
        n++;
    if (n < left && at[n] == ' ')
        n++;
    if (n == left)
        return INCOMPLETE;
    if (at[n] == '0' || at[n] == '\\') {
        if (n + 1 == left)
            return INCOMPLETE;
        if (lower(at[n + 1]) == 'x')
            n += 2;
    }
    return (int)n;
}

/* ---- matching ---- */

enum outcome { NO, PARTIAL, YES };

struct best {
    bool partial;
    size_t end; /* of the longest match; 0: none */
};

struct places {
    size_t count;
    size_t at[PLACES_MAX];
};

static void add_place(struct places *places, size_t at)
{
    for (size_t i = 0; i < places->count; i++)
        if (places->at[i] == at)
            return;
    if (places->count < PLACES_MAX)
        places->at[places->count++] = at;
}

/* Reads symbol i at the place, as it is and escaped, and adds where that leads. */
static void step(const struct look *k, size_t i, size_t at, struct places *next, struct best *best)
{
    if (at == k->size) {
        best->partial |= !k->final;
        return;
    }
    uint8_t c = 0;
    int n = read_escape(k->text + at, k->size - at, &c);
    best->partial |= n == INCOMPLETE && !k->final;
    if (accepts(k, i, k->text[at]))
        add_place(next, at + 1);
    if (n > 0 && accepts(k, i, c))
        add_place(next, at + (size_t)n);
}

static int read_gap(const struct look *k, size_t i, size_t at)
{
    if (i == 0 || at == k->size)
        return 0;
    int n = read_line_break(k->text + at, k->size - at);
    return n == 0 && k->form == FORM_HEX && i % 2 == 0 ? read_hex_gap(k->text + at, k->size - at)
                                                       : n;
}

static void follow(const struct look *k, struct best *best)
{
    struct places now = {.count = 1}; /* at 0 */
    struct places next = {0};
    for (size_t i = 0; i < k->count && now.count > 0; i++) {
        next.count = 0;
        for (size_t j = 0; j < now.count; j++) {
            int n = read_gap(k, i, now.at[j]);
            best->partial |= n == INCOMPLETE && !k->final;
            step(k, i, now.at[j], &next, best);
            if (n > 0)
                step(k, i, now.at[j] + (size_t)n, &next, best);
        }
        now.count = next.count;
        memcpy(now.at, next.at, next.count * sizeof next.at[0]);
    }
    for (size_t j = 0; j < now.count; j++)
        if (now.at[j] > best->end)
            best->end = now.at[j];
}

/* Looks for every secret at the beginning of text. */
static enum outcome find(const struct scrub *scrub, const uint8_t *text, size_t size, bool final,
                         unsigned forms, size_t *ret_size, size_t *ret_index)
{
    struct best best = {0};
    for (uint64_t left = scrub->set; left; left &= left - 1) {
        size_t index = (size_t)__builtin_ctzll(left);
        const struct secret *s = &scrub->secrets->items[index];
        for (unsigned form = 0; form < FORM_COUNT; form++) {
            if (!(forms >> form & 1) || (form != FORM_PLAIN && s->value_size < SCRUB_SIZE_MIN))
                continue;
            struct look k = {.value = s->value,
                             .value_size = s->value_size,
                             .form = (enum form)form,
                             .count = symbol_count((enum form)form, s->value_size),
                             .text = text,
                             .size = size,
                             .final = final};
            size_t before = best.end;
            follow(&k, &best);
            if (best.end > before)
                *ret_index = index;
        }
    }
    /* What is not decided may turn out to be longer than what was found. */
    *ret_size = best.end;
    return best.partial ? PARTIAL : best.end > 0 ? YES : NO;
}

/* ---- hints ---- */

static bool begins_escape(uint8_t c)
{
    return c == '%' || c == '\\' || c == '&' || c == '=';
}

/* What read_gap reads more of, before symbol i. */
static bool begins_gap(enum form form, size_t i, uint8_t c)
{
    bool line_break = c == '\r' || c == '\n' || begins_escape(c);
    return i > 0 && (line_break || (form == FORM_HEX && i % 2 == 0 && strchr(":-, 0", c) && c));
}

static void add_to_hint(struct scrub_hint *hint, const struct secret *s, enum form form)
{
    const struct look k = {.value = s->value, .value_size = s->value_size, .form = form};
    for (size_t i = 0; i < SCRUB_HINT_DEPTH; i++)
        for (unsigned c = 0; c < 256; c++)
            if (accepts(&k, i, (uint8_t)c) || begins_gap(form, i, (uint8_t)c))
                hint->may[i][c] |= (uint8_t)(1u << form);
}

static void make_hint(struct scrub_hint *hint, const struct secrets *secrets, uint64_t set)
{
    memset(hint, 0, sizeof *hint);
    hint->set = set;
    for (unsigned c = 0; c < 256; c++) {
        hint->may[0][c] = begins_escape((uint8_t)c) ? SCRUB_HINT_ESCAPE : 0;
        hint->may[1][c] = SCRUB_HINT_ESCAPE; /* whatever it is: it belongs to the escape */
    }
    for (uint64_t left = set; left; left &= left - 1) {
        const struct secret *s = &secrets->items[__builtin_ctzll(left)];
        for (unsigned form = 0; form < FORM_COUNT; form++)
            if (form == FORM_PLAIN || s->value_size >= SCRUB_SIZE_MIN)
                add_to_hint(hint, s, (enum form)form);
    }
    scrub_hint_finish(hint);
}

/* Those of the set that are there, with a value that is long enough. */
static uint64_t to_look_for(const struct secrets *secrets, uint64_t set)
{
    uint64_t found = 0;
    for (size_t index = 0; index < secrets->count; index++)
        if (secrets->items[index].value && secrets->items[index].value_size >= SCRUB_PLAIN_MIN)
            found |= UINT64_C(1) << index;
    return found & set;
}

/* The set's hint. The first is that of all secrets, which does for any set once there is no room
 * for more. */
static const struct scrub_hint *find_hint(const struct secrets *secrets, uint64_t set)
{
    struct scrub_hints *hints = secrets->hints;
    if (hints->count == 0)
        make_hint(&hints->items[hints->count++], secrets, to_look_for(secrets, UINT64_MAX));
    for (size_t i = 0; i < hints->count; i++)
        if (hints->items[i].set == set)
            return &hints->items[i];
    if (hints->count == SCRUB_HINTS_MAX)
        return &hints->items[0];
    struct scrub_hint *hint = &hints->items[hints->count++];
    make_hint(hint, secrets, set);
    return hint;
}

/* True for nearly all of what looks like %XX or =XX, which addresses are full of: its character
 * begins no form. What is no digit becomes some character, which does no harm. */
static bool pair_begins_none(const struct scrub_hint *hint, const uint8_t *text, size_t size)
{
    if ((text[0] != '%' && text[0] != '=') || size < 3 || lower(text[1]) == 'u')
        return false;
    unsigned high = (text[1] & 15u) + 9u * (text[1] >> 6);
    unsigned low = (text[2] & 15u) + 9u * (text[2] >> 6);
    return !(hint->may[0][(high << 4 | low) & 255] & SCRUB_HINT_FORMS);
}

/* Which forms may begin at the text. */
static unsigned forms_at(const struct scrub_hint *hint, const uint8_t *text, size_t size,
                         bool final)
{
    unsigned forms = hint->may[0][text[0]] & SCRUB_HINT_FORMS;
    if (begins_escape(text[0])) {
        if (!forms && pair_begins_none(hint, text, size))
            return 0;
        uint8_t c = 0;
        int n = read_escape(text, size, &c);
        if (n == INCOMPLETE && !final)
            return SCRUB_HINT_FORMS;
        return forms | (n > 0 ? hint->may[0][c] & SCRUB_HINT_FORMS : 0u);
    }
    /* As long as each symbol is one character, the next one is known to be at the next place. */
    for (size_t i = 1; i < SCRUB_HINT_DEPTH && i < size && forms; i++) {
        forms &= hint->may[i][text[i]];
        if (begins_gap(forms >> FORM_HEX & 1 ? FORM_HEX : FORM_PLAIN, i, text[i]))
            return forms;
    }
    return forms;
}

/* To the stream without what went ahead: there every byte stands where it came. */
static void put(struct scrub *scrub, const struct sink *sink, const uint8_t *bytes, size_t size)
{
    size_t skip = 0;
    if (sink == &scrub->sink) {
        skip = scrub->ahead < size ? scrub->ahead : size;
        scrub->ahead -= skip;
    }
    if (size > skip)
        sink->put(sink->owner, bytes + skip, size - skip);
}

static void put_placeholder(struct scrub *scrub, size_t index, size_t match,
                            const struct sink *sink)
{
    const uint8_t *placeholder = (const uint8_t *)scrub->secrets->items[index].placeholder;
    bool same_size = scrub->same_size && sink == &scrub->sink; /* the stream, not a text */
    size_t size = same_size && match < SECRET_PLACEHOLDER_SIZE ? match : SECRET_PLACEHOLDER_SIZE;
    put(scrub, sink, placeholder, size);
    for (; same_size && size < match; size++)
        put(scrub, sink, (const uint8_t *)"*", 1);
}

/* Sends on what is decided and returns how much that was of the text. */
static size_t run(struct scrub *scrub, const uint8_t *text, size_t size, bool final,
                  const struct sink *sink)
{
    size_t sent = 0;
    for (size_t next = 0; scrub->set && next < size;) {
        uint32_t places;
        size_t base = scrub_hint_scan(scrub->hint, text, next, size, &places);
        next = size - base < SCRUB_HINT_BLOCK ? size : base + SCRUB_HINT_BLOCK;
        for (; places; places &= places - 1) {
            size_t at = base + (size_t)__builtin_ctz(places);
            unsigned forms = forms_at(scrub->hint, text + at, size - at, final);
            size_t match = 0, index = 0;
            enum outcome outcome =
                forms ? find(scrub, text + at, size - at, final, forms, &match, &index) : NO;
            if (outcome == NO)
                continue;
            if (at > sent)
                put(scrub, sink, text + sent, at - sent);
            if (outcome == PARTIAL)
                return at;
            scrub->found |= UINT64_C(1) << index;
            put_placeholder(scrub, index, match, sink);
            next = sent = at + match;
            break;
        }
    }
    if (size > sent)
        put(scrub, sink, text + sent, size - sent);
    return size;
}

/* ---- api ---- */

void scrub_init(struct scrub *scrub, const struct secrets *secrets, uint64_t set, struct sink sink)
{
    *scrub = (struct scrub){.secrets = secrets, .held = buffer_init(HELD_MAX), .sink = sink};
    scrub->held.wipe = true;
    scrub->set = to_look_for(secrets, set);
    if (scrub->set)
        scrub->hint = find_hint(secrets, scrub->set);
}

int scrub_feed(struct scrub *scrub, const uint8_t *bytes, size_t size)
{
    struct buffer *held = &scrub->held;
    while (size > 0 && buffer_ok(held)) {
        size_t part = size < FEED_MAX ? size : FEED_MAX;
        if (buffer_size(held) == 0) {
            size_t done = run(scrub, bytes, part, /* final= */ false, &scrub->sink);
            buffer_put(held, bytes + done, part - done);
        } else {
            buffer_put(held, bytes, part);
            if (buffer_ok(held))
                buffer_drop(held, run(scrub, buffer_bytes(held), buffer_size(held),
                                      /* final= */ false, &scrub->sink));
        }
        bytes += part;
        size -= part;
    }
    return buffer_ok(held) ? 0 : -ENOMEM;
}

void scrub_hurry(struct scrub *scrub)
{
    size_t size = buffer_size(&scrub->held), most = SCRUB_AHEAD_MAX;
    for (uint64_t left = scrub->set; left; left &= left - 1) {
        const struct secret *s = &scrub->secrets->items[__builtin_ctzll(left)];
        most = s->value_size / 8 < most ? s->value_size / 8 : most;
    }
    if (!scrub->same_size || size > most || size <= scrub->ahead)
        return;
    scrub->sink.put(scrub->sink.owner, buffer_bytes(&scrub->held) + scrub->ahead,
                    size - scrub->ahead);
    scrub->ahead = size;
}

void scrub_end(struct scrub *scrub)
{
    if (buffer_size(&scrub->held) > 0)
        (void)run(scrub, buffer_bytes(&scrub->held), buffer_size(&scrub->held), /* final= */ true,
                  &scrub->sink);
    buffer_reset(&scrub->held);
}

void scrub_done(struct scrub *scrub)
{
    buffer_reset(&scrub->held);
}

static void put_bytes(void *owner, const uint8_t *bytes, size_t size)
{
    buffer_put(owner, bytes, size);
}

void scrub_text(struct scrub *scrub, const void *text, size_t size, struct buffer *out)
{
    const struct sink sink = {put_bytes, out};
    if (size > 0)
        (void)run(scrub, text, size, /* final= */ true, &sink);
}
