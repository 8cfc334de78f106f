/* tree_walk: a folder of a guest and what is in it, on the loop: depth first, in the order in which
 * the guest lists it. One list is asked for at a time. It gives the loop back after
 * BG_GATEWAY_TURN_MS, since a client's patterns may take their time. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include <jansson.h>
#include <uv.h>

#include "host/gateway/guest_files.h"
#include "host/gateway/pattern.h"

#define TREE_FOLDER  (S_IFDIR >> 12)
#define TREE_FILE    (S_IFREG >> 12)
#define TREE_SYMLINK (S_IFLNK >> 12)

struct tree_walk;

struct tree_entry {
    const char *path, *name;
    uint8_t type; /* TREE_*, or another one of stat(2)'s */
};

struct tree_walk_opts {
    struct guest_files *files; /* borrowed until tree_walk_free, as the lists below */
    const char *root;          /* borrowed for the call */
    uint8_t root_type;
    int64_t depth_max; /* of names below the root; negative: nothing at all */
    bool files_too, folders_too, links_too;
    bool follows;       /* links are gone through: not told as such */
    bool canonicalizes; /* with that, what is told has the path that the link leads to */
    const json_t *exts; /* one of which a path must end with; NULL: none */
    const struct patterns *match, *skip;
    /* 0, or a negative errno, which then is the walk's end. */
    int (*on_entry)(void *owner, const struct tree_entry *entry);
    bool (*may_go_on)(void *owner); /* false: the owner calls tree_walk_go_on some time later */
    /* Last: 0, or a negative errno; -EOVERFLOW: of pattern_matches. May free it. */
    void (*on_done)(void *owner, int status);
    void *owner;
};

/* Calls back in a later turn of the loop. Errors: -ENOMEM. */
int tree_walk_start(uv_loop_t *loop, const struct tree_walk_opts *opts,
                    struct tree_walk **ret) BG_MUST_CHECK;
void tree_walk_go_on(struct tree_walk *walk);
/* Ends it at once; answers of `files` that are still to come are passed over only if that is
 * closed, too. NULL: no-op. */
void tree_walk_free(struct tree_walk *walk);
