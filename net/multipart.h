/* Takes a multipart body apart (RFC 2046 §5.1), where there is one way to do so: lines that begin
 * as a boundary and go on otherwise, or that end in a bare CR or LF, are an error, for another
 * reader could see other parts. Pure. */
#pragma once

#include "net/http_head.h"

#define MULTIPART_BOUNDARY_MAX 70 /* RFC 2046 §5.1.1 */

/* "--" and the boundary: what a line begins with that stands between parts. */
struct multipart_mark {
    char bytes[2 + MULTIPART_BOUNDARY_MAX];
    size_t size;
};

/* Reads it from the Content-Type's parameters (what follows its first ';'). Errors: -EPROTO there
 * is none, or more than one way to read it. */
int multipart_mark_read(struct slice parameters, struct multipart_mark *ret) BG_MUST_CHECK;

struct multipart {
    struct slice text; /* borrowed, as mark is */
    const struct multipart_mark *mark;
    size_t at; /* in text: nothing of it has been told yet from here on */
    struct {
        size_t end; /* where its line ends, and a part begins */
        bool found, last;
    } delimiter;
};

struct multipart_part {
    struct slice before;  /* the line before it, its head, and for the first all before that */
    struct slice type;    /* its Content-Type; empty: none */
    struct slice content; /* up to the line end that belongs to the next boundary */
    bool sealed;          /* encoded, or with a head that is odd */
};

/* text: untrusted. */
void multipart_init(struct multipart *multipart, struct slice text,
                    const struct multipart_mark *mark);

/* The next part: 1 and *ret; 0 there is none, and what is left of the text is not of a part: see
 * multipart_rest. Errors: -EPROTO. */
int multipart_next(struct multipart *multipart, struct multipart_part *ret) BG_MUST_CHECK;

static inline struct slice multipart_rest(const struct multipart *multipart)
{
    return (struct slice){multipart->text.at + multipart->at, multipart->text.size - multipart->at};
}
