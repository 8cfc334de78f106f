/* What the host's kernel may be told: the rules for values that come from a hostile server. Pure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/cleanup.h"
#include "fs/proto/proto.h"

#define FS_NOBODY 65534u /* owner of what is not the user's */

/* Who owns what, on both sides. */
struct fs_check_owners {
    uint32_t uid, gid;               /* the user of the mount */
    uint32_t server_uid, server_gid; /* whose rights requests have there */
    bool all;                        /* they have all rights: every file counts as the user's */
};

/* Makes attributes fit to be shown. The type becomes a regular file, a folder or a link; anything
 * else an empty file that nobody may open, *ret_special. Set-id and sticky bits, device numbers and
 * flags go, owners are translated, sizes, counts and times are brought into their ranges.
 * Errors: -EIO there is no such type. */
int fs_check_attr(const struct fs_check_owners *owners, struct fs_attr *attr,
                  bool *ret_special) BG_MUST_CHECK;

/* True when a name may be shown: without control characters, unless raw. The name has passed
 * fs_name_ok. */
bool fs_check_name_shown(const char *name, size_t size, bool raw);

/* The text of a symbolic link as the kernel may follow it: it must stay inside the mount whatever
 * the folders in it are. depth: how many folders the link's own folder is below the root of the
 * mount. An absolute text is made relative if whole (the mount's root is the server's root).
 * out: BG_PATH_MAX bytes. Errors: -EIO not a link's text; -EPERM it leaves the mount, or has ".."
 * after a name, where only the server can say what it means; -ENAMETOOLONG. */
int fs_check_link(const uint8_t *text, size_t size, unsigned depth, bool whole,
                  char out[BG_PATH_MAX], size_t *ret_size) BG_MUST_CHECK;

/* How often a checked text goes up from where it starts. */
unsigned fs_check_link_ups(const char *text, size_t size);

/* The text of a link that nobody will follow, or anybody may. Errors: -EIO not a link's text. */
int fs_check_link_text(const uint8_t *text, size_t size) BG_MUST_CHECK;

/* True when bytes are names of user.* attributes, each with its NUL. */
bool fs_check_xattr_list(const uint8_t *bytes, size_t size);

/* True for an attribute that passes in either direction. */
bool fs_check_xattr_name(const char *name);

/* Brings the numbers of statfs into what tools can take. */
void fs_check_statfs(struct fs_statfs *statfs);
