/* Rules about links and further names of one file. The first part is pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/* True when a link with this text stays inside wherever the folders in its text lead: relative,
 * with
 * ".." only at the beginning and at most depth of them. depth: folders between the root and the
 * link. */
bool fs_link_inside(const char *text, size_t size, size_t depth);

/* How many names a path has: "" 0, "a/b" 2. */
size_t fs_path_depth(const char *path);

/* Looks through a folder that shall move so that its own depth becomes `depth`: true when a link in
 * it would lead out then. Also true when it is too large to tell. dir_fd, name: where it is. */
bool fs_links_lead_out(int dir_fd, const char *name, size_t depth);

/* Files that have several names, one of which is hidden or fixed. */
struct fs_names;

/* Looks through all below root_fd, on its mount. judge: as in struct fs_share_rules; only files
 * with a verdict in mask and more than one name are kept. Errors: -ENOMEM; -E2BIG too many files.
 */
int fs_names_find(int root_fd, unsigned (*judge)(const void *owner, const char *path),
                  const void *owner, unsigned mask, struct fs_names **ret) BG_MUST_CHECK;
/* The verdict kept for that inode, or 0. */
unsigned fs_names_verdict(const struct fs_names *names, uint64_t ino);
void fs_names_free(struct fs_names *names);
