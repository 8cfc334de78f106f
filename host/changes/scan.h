/* The host's folder as a list. An edge: it reads folders, follows no symlink, and stays on the file
 * system where it begins. */
#pragma once

#include "host/changes/entry.h"

/* What apply's own temporary files begin with; they are no part of the folder. */
#define SCAN_TEMPORARY ".bellglass-apply-"

/* A list of all below root, sorted; ret is to be ended with entries_done. What cannot be read is
 * there, and nothing below it. Errors: -E2BIG more than BG_CHANGES_INDEX_MAX files; errno. */
int scan_folder(int root, struct entries *ret, struct bg_err *err) BG_MUST_CHECK;

/* Fills the entry's identity (all but path, target and hash). */
struct stat;
void scan_identify(const struct stat *st, struct entry *entry);

/* A folder, or a file's parent folder, below root, through no symlink. path "": root itself.
 * Returns an fd or a negative errno. */
int scan_open(int root, const char *path, int flags);
/* *ret_name: borrowed from path. */
int scan_open_parent(int root, const char *path, const char **ret_name);
