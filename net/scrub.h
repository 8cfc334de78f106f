/* scrub: takes secrets out of a byte stream on its way to the guest; where one stood, its
 * placeholder goes on. Pure; streaming; what may be the beginning of a secret is held back until
 * that is decided, and nothing else is.
 *
 * A secret is known in these forms:
 *   as it is, reversed, and by rot13; letters in either case
 *   hex, in either case, the bytes together or apart by one of ": - , space" and "0x" or "\x"
 *   base64 and base64url, wherever in the encoded text it lies (three alignments)
 * and each character of those in turn as itself or escaped: %XX, %u00XX, =XX (quoted-printable),
 * \xXX, \u00XX, \u{XX}, \ooo, a backslash before it, &#DD; &#xXX; or an entity's name. One line
 * break (raw, escaped, soft, or folded with a space) may stand between any two characters. With
 * base64 a part of the first and of the last byte lies in characters shared with what is beside the
 * secret; these stay, and tell up to four bits of each.
 *
 * Values below SCRUB_SIZE_MIN bytes are looked for only as they are, below SCRUB_PLAIN_MIN not at
 * all: chance would find them everywhere. What is not in the list (another cipher, a hash, one byte
 * a line) is not found: docs/threat-model.md. */
#pragma once

#include "net/buffer.h"
#include "net/secrets.h"

#define SCRUB_SIZE_MIN  8
#define SCRUB_PLAIN_MIN 4
#define SCRUB_AHEAD_MAX 4

/* Where bytes go. */
struct sink {
    void (*put)(void *owner, const uint8_t *bytes, size_t size);
    void *owner;
};

struct scrub {
    const struct secrets *secrets; /* borrowed */
    uint64_t set;                  /* of them, those to take out */
    uint64_t found;                /* of these, those that were there */
    const struct scrub_hint *hint; /* borrowed from secrets; NULL: the set is empty */
    struct buffer held;            /* may be the beginning of a secret */
    /* For streams that count their bytes: what takes a secret's place there is of its size, the
     * placeholder cut or with '*' behind. The whole placeholder in texts even so. */
    bool same_size;
    size_t ahead; /* bytes at the beginning of held that went on even so, see scrub_hurry */
    struct sink sink;
};

/* set: bits of secrets' indices; those without a value are left out. No secret may be added while
 * there is a scrub. sink: gets bytes from
 * scrub_feed and scrub_end, and must not call us. */
void scrub_init(struct scrub *scrub, const struct secrets *secrets, uint64_t set, struct sink sink);

/* Takes the next bytes of the stream. Errors: -ENOMEM; then the stream cannot go on. */
int scrub_feed(struct scrub *scrub, const uint8_t *bytes, size_t size) BG_MUST_CHECK;

/* A message has ended whose receiver may send nothing before it has all of it, so what is held back
 * could wait for ever: it goes on, if it is at most SCRUB_AHEAD_MAX bytes and an eighth of every
 * value. Should it be the beginning of a secret after all, that much of it is told, and no more.
 * Only for same_size; otherwise a no-op. */
void scrub_hurry(struct scrub *scrub);

/* The stream has ended: nothing can complete what is held back. */
void scrub_end(struct scrub *scrub);

/* Cleanses and frees what is held back. A zeroed scrub: no-op. */
void scrub_done(struct scrub *scrub);

/* Puts a whole text, such as a field's value, to out; beside the stream, at any time. */
void scrub_text(struct scrub *scrub, const void *text, size_t size, struct buffer *out);
