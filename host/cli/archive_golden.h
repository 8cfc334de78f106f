/* archive_golden: the golden snapshot in an export becomes one of this machine. While it is made
 * its key's lock is held, as by those who make one by a boot; its folder has the same name then, so
 * that what is left by a killed one is found the same way. */
#pragma once

#include "common/err.h"
#include "common/state/paths.h"

struct archive_golden {
    int store_fd, lock_fd; /* -1: none */
    int dir_fd;            /* where its files go; -1: it is here already, and they are not wanted */
    char name[128], temp[64];
};

/* name: "golden-KEY.TAG". Errors: -EUCLEAN not such a name; -EBUSY one is being made; errno. */
int archive_golden_begin(const struct bg_paths *paths, const char *name, struct archive_golden *ret,
                         struct bg_err *err) BG_MUST_CHECK;

/* All files are there: notes when they were written here, makes them durable and gives the folder
 * its name. Errors: -EUCLEAN its manifest makes no sense; errno. */
int archive_golden_commit(struct archive_golden *golden, struct bg_err *err) BG_MUST_CHECK;

/* Lets the lock go; removes what was not committed. */
void archive_golden_done(struct archive_golden *golden);
