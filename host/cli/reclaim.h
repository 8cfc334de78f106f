/* reclaim: what removing several folders would give back, when files have names in more than one:
 * a file is gone when its last name is. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

struct reclaim_name {
    dev_t device;
    ino_t inode;
    nlink_t links;
    uint64_t bytes; /* on disk */
};

struct reclaim {
    struct reclaim_name *names;
    size_t count, room;
};

/* Adds all names of a folder, below it too. One that is not there has none. Errors: errno. */
int reclaim_add(struct reclaim *reclaim, int parent_fd, const char *name) BG_MUST_CHECK;
/* For tests and for what was looked at elsewhere. Errors: -ENOMEM. */
int reclaim_add_name(struct reclaim *reclaim, const struct reclaim_name *name) BG_MUST_CHECK;

/* The bytes of those files all of whose names were added. Sorts the names. */
uint64_t reclaim_bytes(struct reclaim *reclaim);

void reclaim_done(struct reclaim *reclaim);
