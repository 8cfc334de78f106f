/* Where a secret may begin in a text, by the first characters of all forms that it is looked for
 * in (net/scrub.h): a quick test that nearly every place of a text fails, so that few get a closer
 * look. A place that passes need not be one. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SCRUB_HINT_DEPTH 4

/* A bit a form: whether the character may stand there if the form begins at the first place. */
#define SCRUB_HINT_FORMS 0x7fu
/* In may[0]: an escape begins with the character. In may[1]: it may be the second one of any. */
#define SCRUB_HINT_ESCAPE 0x80u

/* It tells the first characters of secrets, so it is kept in locked memory. */
struct scrub_hint {
    uint64_t set; /* of secrets */
    uint8_t may[SCRUB_HINT_DEPTH][256];
    uint8_t nibbles[8][16]; /* made of may by scrub_hint_finish */
};

/* Every set gets a hint of its own while there is room; items[0] is that of all secrets. */
#define SCRUB_HINTS_MAX 7
struct scrub_hints {
    size_t count;
    struct scrub_hint items[SCRUB_HINTS_MAX];
};

/* may has been filled. */
void scrub_hint_finish(struct scrub_hint *hint);

/* Finds, from at on, the next SCRUB_HINT_BLOCK places where something may begin at one at least.
 * Returns the first of them, with a bit in *ret_places for each where it may (bit 0: the first);
 * size: there are none. */
#define SCRUB_HINT_BLOCK 32
size_t scrub_hint_scan(const struct scrub_hint *hint, const uint8_t *text, size_t at, size_t size,
                       uint32_t *ret_places);

/* The same, without what only some processors can do. */
size_t scrub_hint_scan_plain(const struct scrub_hint *hint, const uint8_t *text, size_t at,
                             size_t size, uint32_t *ret_places);
