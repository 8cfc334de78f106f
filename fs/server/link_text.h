/* Symbolic links for a client whose kernel walks them: it may follow ".." only at the start of a
 * text, where it is known what is above. A ".." after a name means whatever that name leads to,
 * which only the machine that has the link can say. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/cleanup.h"
#include "common/limits.h"

/* True when a ".." stands after a name or after the root's "/". */
bool fs_link_needs_cleaning(const char *text);

/* The way from one folder to `rest` in another: ".." only at its start. folder, target: paths from
 * the same root without "." and "..", "" is the root itself. Pure. Errors: -ENAMETOOLONG. */
int fs_link_between(const char *folder, const char *target, const char *rest, char out[BG_PATH_MAX],
                    size_t *ret_size) BG_MUST_CHECK;

struct fs_link_place {
    int root_fd;   /* what is served */
    bool whole;    /* that is the root of this machine */
    int folder_fd; /* where the link is */
};

/* Writes the text anew so that it needs no cleaning and leads to the same place: what is before the
 * last ".." is resolved, what is after it stays. out must not be text. Errors: errno of resolving;
 * -EXDEV it leads, or the folder is, outside of what is served; -ENAMETOOLONG. */
int fs_link_clean(const struct fs_link_place *place, const char *text, char out[BG_PATH_MAX],
                  size_t *ret_size) BG_MUST_CHECK;
