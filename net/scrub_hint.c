#include "net/scrub_hint.h"

#include <stdbool.h>
#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

/* The tables for many places at a time are by halves of a character: one for its lower four bits,
 * one for its upper four, whose entries have a bit in common if the character may stand there, and
 * now and then if it may not. nibbles[0] and [1] are those of the first character, [2] and [3] of
 * the second, without escapes; [4] to [7] the same for escapes, which have bits of their own for
 * being more exact. */
enum { FORM_NIBBLES = 0, ESCAPE_NIBBLES = 4 };

static const char escapes[] = "%=&\\";

static void add(struct scrub_hint *hint, size_t table, unsigned c, unsigned bits)
{
    hint->nibbles[table][c & 15] |= (uint8_t)bits;
    hint->nibbles[table + 1][c >> 4] |= (uint8_t)bits;
}

/* The escapes, a bit each, that may go on with the character. */
static unsigned continues(unsigned c)
{
    unsigned l = c | 32;
    bool letter = l >= 'a' && l <= 'z', hex = (c >= '0' && c <= '9') || (l >= 'a' && l <= 'f');
    unsigned bits = 8; /* after a backslash nearly all may come */
    if (hex)
        bits |= 1 | 2;
    if (l == 'u')
        bits |= 1;
    if (letter || c == '#')
        bits |= 4;
    return bits;
}

void scrub_hint_finish(struct scrub_hint *hint)
{
    memset(hint->nibbles, 0, sizeof hint->nibbles);
    for (unsigned c = 0; c < 256; c++) {
        add(hint, FORM_NIBBLES, c, hint->may[0][c] & SCRUB_HINT_FORMS);
        add(hint, FORM_NIBBLES + 2, c, hint->may[1][c] & SCRUB_HINT_FORMS);
        add(hint, ESCAPE_NIBBLES + 2, c, continues(c));
    }
    for (unsigned i = 0; escapes[i]; i++)
        if (hint->may[0][(uint8_t)escapes[i]] & SCRUB_HINT_ESCAPE)
            add(hint, ESCAPE_NIBBLES, (uint8_t)escapes[i], 1u << i);
}

/* Of count places; there is a character behind each of them, but for the last if it is the last of
 * all. */
static uint32_t places_of(const struct scrub_hint *hint, const uint8_t *text, size_t count,
                          bool last)
{
    const uint8_t *first = hint->may[0], *second = hint->may[1];
    size_t pairs = last ? count - 1 : count;
    uint32_t places = 0;
    for (size_t i = 0; i < pairs; i++)
        places |= (uint32_t)((first[text[i]] & second[text[i + 1]]) != 0) << i;
    if (last)
        places |= (uint32_t)(first[text[pairs]] != 0) << pairs;
    return places;
}

size_t scrub_hint_scan_plain(const struct scrub_hint *hint, const uint8_t *text, size_t at,
                             size_t size, uint32_t *ret_places)
{
    const uint8_t *first = hint->may[0], *second = hint->may[1];
    for (; size - at > SCRUB_HINT_BLOCK; at += SCRUB_HINT_BLOCK) {
        unsigned any = 0;
        for (const uint8_t *t = text + at; t < text + at + SCRUB_HINT_BLOCK; t++)
            any |= first[t[0]] & second[t[1]];
        if (!any)
            continue;
        *ret_places = places_of(hint, text + at, SCRUB_HINT_BLOCK, /* last= */ false);
        return at;
    }
    *ret_places = at < size ? places_of(hint, text + at, size - at, /* last= */ true) : 0;
    return *ret_places ? at : size;
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static __m256i load(const uint8_t *bytes)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)bytes);
}

__attribute__((target("avx2"))) static __m256i spread(const uint8_t table[16])
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table));
}

/* A bit in each byte whose character is in both halves of the table. */
__attribute__((target("avx2"))) static __m256i look_up(__m256i low_table, __m256i high_table,
                                                       __m256i characters)
{
    const __m256i half = _mm256_set1_epi8(15);
    __m256i low = _mm256_and_si256(characters, half);
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(characters, 4), half);
    return _mm256_and_si256(_mm256_shuffle_epi8(low_table, low),
                            _mm256_shuffle_epi8(high_table, high));
}

__attribute__((target("avx2"))) static size_t scan_avx2(const struct scrub_hint *hint,
                                                        const uint8_t *text, size_t at, size_t size,
                                                        uint32_t *ret_places)
{
    const __m256i none = _mm256_setzero_si256();
    const __m256i first_low = spread(hint->nibbles[0]), first_high = spread(hint->nibbles[1]);
    const __m256i second_low = spread(hint->nibbles[2]), second_high = spread(hint->nibbles[3]);
    const __m256i escape_low = spread(hint->nibbles[4]), escape_high = spread(hint->nibbles[5]);
    const __m256i after_low = spread(hint->nibbles[6]), after_high = spread(hint->nibbles[7]);
    for (; size - at > SCRUB_HINT_BLOCK; at += SCRUB_HINT_BLOCK) {
        __m256i first = load(text + at), second = load(text + at + 1);
        __m256i forms = _mm256_and_si256(look_up(first_low, first_high, first),
                                         look_up(second_low, second_high, second));
        __m256i escapes_there = _mm256_and_si256(look_up(escape_low, escape_high, first),
                                                 look_up(after_low, after_high, second));
        __m256i fails = _mm256_cmpeq_epi8(_mm256_or_si256(forms, escapes_there), none);
        unsigned passes = ~(unsigned)_mm256_movemask_epi8(fails);
        if (passes) {
            *ret_places = passes;
            return at;
        }
    }
    return scrub_hint_scan_plain(hint, text, at, size, ret_places);
}
#endif

size_t scrub_hint_scan(const struct scrub_hint *hint, const uint8_t *text, size_t at, size_t size,
                       uint32_t *ret_places)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2"))
        return scan_avx2(hint, text, at, size, ret_places);
#endif
    return scrub_hint_scan_plain(hint, text, at, size, ret_places);
}
