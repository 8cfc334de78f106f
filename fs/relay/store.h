/* Where a sandbox's approvals are kept: a folder with one file for each, named by the SHA-256 of
 * the path that it is about; the file is a note (fs/guard/pins.h). Whoever writes it replaces files
 * by rename, so a reader sees whole ones; others who have the store open hear of it by inotify.
 * Bounded as fs_pins is. Blocking. */
#pragma once

#include "fs/guard/pins.h"

struct fs_store;

/* Opens the folder, and makes it (0700) if its parent is there. Errors: errno of mkdir, open. */
int fs_store_open(const char *dir, struct fs_store **ret, struct bg_err *err) BG_MUST_CHECK;
void fs_store_close(struct fs_store *store); /* NULL: no-op */

/* Reads all of it; take is called for each, the note borrowed for the call. Files that are none of
 * ours, or damaged, are left out: *ret_damaged says how many. Errors: errno of reading the folder;
 * what take returns. */
int fs_store_load(struct fs_store *store, int (*take)(void *owner, const struct fs_pin_note *note),
                  void *owner, size_t *ret_damaged, struct bg_err *err) BG_MUST_CHECK;

/* Keeps or forgets one. Errors: -ENOSPC the store is full; errno. */
int fs_store_keep(struct fs_store *store, const struct fs_pin_note *note,
                  struct bg_err *err) BG_MUST_CHECK;

/* Readable when somebody else has changed the store. */
int fs_store_watch_fd(const struct fs_store *store);
/* Reads what has changed since; not what this store itself has kept. Errors: as fs_store_load. */
int fs_store_changes(struct fs_store *store,
                     int (*take)(void *owner, const struct fs_pin_note *note), void *owner,
                     struct bg_err *err) BG_MUST_CHECK;
