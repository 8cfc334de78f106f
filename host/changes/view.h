/* The three-way view of a copy-on-write share: what the guest changed, what the host changed, and
 * where both did. Pure: lists in, a list out. */
#pragma once

#include "host/changes/marks.h"

enum change_kind {
    CHANGE_ADDED = 'A',
    CHANGE_MODIFIED = 'M',
    CHANGE_REMOVED = 'D',
    CHANGE_TYPE = 'T', /* a file became a folder, a link a file, ... */
    CHANGE_MODE = 'P', /* permissions only */
};

struct change {
    const char *path; /* all of these are borrowed from the lists */
    enum change_kind kind;
    const struct entry *base, *host; /* NULL: not there */
    const struct entry *guest;       /* NULL: gone with its folder, or replaced by another type */
    unsigned marks;                  /* MARK_* */
    const char *conflict;            /* what the host did since, or NULL */
    bool in_opaque; /* a folder above was made anew, so it cannot be discarded alone */
};

struct view {
    struct change *list; /* sorted by path; paths are unique */
    size_t count, room;
    /* Entries of the guest's layer that are as the host has them: to be settled. */
    const struct entry **same;
    size_t same_count, same_room;
};

/* Says if two files of one size have the same contents: 1 yes, 0 no, < 0 an error. */
typedef int view_equal(void *owner, const struct entry *host, const struct entry *guest);

/* base, host, guest: borrowed as long as ret is used; sorted. Errors: -ENOMEM; equal's. */
int view_make(const struct entries *base, const struct entries *host, const struct entries *guest,
              view_equal *equal, void *owner, struct view *ret) BG_MUST_CHECK;
void view_done(struct view *view);

/* NULL: path is unchanged. */
const struct change *view_find(const struct view *view, const char *path);

/* The base as it is to be from now on: what the guest has not touched is as the host has it now;
 * what it has keeps its old base. ret: to be ended with entries_done. Errors: -ENOMEM. */
int view_new_base(const struct view *view, const struct entries *base, const struct entries *host,
                  struct entries *ret) BG_MUST_CHECK;
