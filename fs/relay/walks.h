/* Links and moves. Pure; part of the relay's state.
 *
 * A link's text is checked when it is read: it may go up as often as its folder is deep. The kernel
 * walks it a moment later. If a process of the host moves the folder to a shallower place in that
 * moment, the same text leads out of the mount. So:
 *
 *   walk   somebody was given a text that goes up. It lasts until WALK_MS pass without a question
 * about attributes from the same thread (all that the kernel asks on its way up), or until that
 * thread asks for anything else. While it lasts, moves that would make the text too long wait. move
 *   a folder goes to another depth: from when the host asks for it until WALK_MS after the answer,
 * when the kernel has moved it too. Meanwhile the shallower of its two depths counts for the links
 * below it; a text that is too long for that one waits.
 *
 * Whoever has waited for longer than the deadline gets EBUSY. What only the guest moves does not
 * matter: a folder at another place is another node. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/limits.h"
#include "fs/relay/tree.h"

struct fs_relay;
struct fs_request;

struct fs_walk {
    uint64_t thread;         /* 0: not known */
    struct fs_rnode *folder; /* of the link; referenced */
    unsigned up;             /* how often the text goes up */
    uint64_t asked;          /* the kernel's number of a question in flight */
    uint64_t until_ms;
};

struct fs_move {
    struct fs_rnode *node;  /* referenced */
    unsigned before, after; /* depths */
    uint64_t request;       /* the kernel's number; the move is under way while this is pending */
    uint64_t until_ms;      /* after that */
};

/* A request of the kernel that is taken up again later, from its start. */
struct fs_held {
    struct fs_held *next;
    uint64_t since_ms, unique;
    size_t size;
    uint8_t bytes[];
};

struct fs_walks {
    struct fs_walk walks[BG_FS_WALKS_MAX];
    struct fs_move moves[BG_FS_MOVES_MAX];
    size_t walk_count, move_count, held_count;
    uint64_t full_until_ms; /* there were more walks than can be remembered */
    struct fs_held *first, *last;
    uint64_t retried_since_ms; /* since when the request that is taken up again waits; else 0 */
};

/* Any request of the kernel: what it says about walks of the same thread. */
void fs_walks_see(struct fs_relay *relay, const struct fs_request *request, uint64_t now_ms);

/* A rename is to be passed on. Returns 0, 1 when it must wait (and is held), or negative errno. */
int fs_walks_rename(struct fs_relay *relay, const struct fs_request *request, struct fs_rnode *from,
                    struct fs_rnode *to, uint64_t now_ms) BG_MUST_CHECK;
/* It was done: the kernel moves its own entries next. */
void fs_walks_renamed(struct fs_relay *relay, uint64_t request, uint64_t now_ms);

/* A link's text that goes up is to be given to the kernel. folder: where the link is. Returns as
 * fs_walks_rename; 0: and the walk begins. since_ms: since when its reader waits; 0: new. */
int fs_walks_link(struct fs_relay *relay, uint64_t kernel_unique, const struct fs_rnode *link,
                  uint64_t thread, unsigned up, uint64_t since_ms, uint64_t now_ms) BG_MUST_CHECK;

/* Takes up again what has waited. Returns whether anything still waits. */
bool fs_walks_tick(struct fs_relay *relay, uint64_t now_ms);

/* Answers all that wait with an error. */
void fs_walks_fail(struct fs_relay *relay, int error);
/* Frees what waits, when nobody can be answered any more. */
void fs_walks_done(struct fs_relay *relay);
