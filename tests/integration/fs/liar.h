/* A file server that lies: it speaks the protocol well, over a small tree that is in its head, but
 * for one operation. The tree: folders "d" and "e" (empty), a file "f", a link "l", and
 * "a/b/c/out", a link that is right only where it is. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

enum lie {
    LIE_NONE,
    LIE_SILENCE,
    LIE_UNIQUE, /* the answer to something else */
    LIE_TWICE,
    LIE_LATE,     /* when everybody has given up */
    LIE_SHORT,    /* half of the payload */
    LIE_LONG,     /* bytes after it */
    LIE_SIZE,     /* a length that no message has */
    LIE_ERRORS,   /* one after the other that no operation has */
    LIE_KIND,     /* another type, another inode, another id */
    LIE_NUMBERS,  /* the largest, everywhere */
    LIE_FLIPS,    /* one byte more in each answer is wrong */
    LIE_CLOSE,    /* hangs up */
    LIE_SLOW_WALK /* takes its time with READLINK, and then with GETATTR */
};
#define LIES (LIE_SLOW_WALK + 1)

struct liar_opts {
    uint32_t opcode; /* 0: every one */
    enum lie lie;
    uint64_t seed;
};

/* Starts it; it ends with its stream. *ret_stream is our end. */
pid_t liar_start(const struct liar_opts *opts, int *ret_stream);
