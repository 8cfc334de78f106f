/* What the server checks when the folder is the host's own and the client a hostile guest: run
 * before each operation, since what the operations do by themselves is right only among friends.
 *
 * - A file is reached by an fd, and programs of the host may move it out of the share meanwhile: so
 *   each request begins by asking the kernel where the file is now. That path, not what the client
 *   looked up some time ago, is what the rules for names go by.
 * - Names may be hidden or fixed (struct fs_share_rules). So are further hard links of such files.
 * - Links must stay inside the share wherever they stand, for the sake of the host's programs.
 * - Owners are translated, nothing is given away, and what the client can use up is bounded.
 *
 * Thread-safe. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "fs/proto/proto.h"
#include "fs/server/handles.h"
#include "fs/server/nodes.h"

/* What a rule may say of a path. */
#define FS_SHARE_HIDDEN 1u /* it is not there for the client, and cannot be made */
#define FS_SHARE_FIXED  2u /* it cannot be made, removed or moved; a file not changed either */
#define FS_SHARE_FROZEN 4u /* the same, and a folder takes no changes */
#define FS_SHARE_ANCHORED                                                                          \
    8u /* no folder is moved from or to it, and no link put there: rules for                       \
          what is in it go by its name */

struct fs_share_rules {
    /* FS_SHARE_* of a path below the share's root ("a/b"); what holds for a folder above it, as far
     * as it holds for all below, is included. Called by several threads. */
    unsigned (*judge)(const void *owner, const char *path);
    const void *owner;   /* borrowed */
    bool any_links;      /* links may lead anywhere */
    bool layered;        /* an overlay lies over it, which cannot bear a name that means another
                            file; whoever made it has it look again */
    uint64_t space_min;  /* bytes left free on the file system; then ENOSPC */
    uint64_t write_max;  /* bytes written in all; then EDQUOT */
    uint64_t inodes_max; /* files made in all; then EDQUOT */
};

struct fs_share;

/* rules and nodes: borrowed until close. uid, gid: of the client's user, who is shown as the owner
 * of our own files. Errors: -ENOMEM. */
int fs_share_open(const struct fs_share_rules *rules, struct fs_nodes *nodes,
                  struct fs_share **ret) BG_MUST_CHECK;
void fs_share_close(struct fs_share *share);

/* Who the client's user is: known after its hello, before its first request. */
void fs_share_set_client(struct fs_share *share, uint32_t uid, uint32_t gid);

/* Around check and operation: some of them must not meet. */
void fs_share_begin(struct fs_share *share, uint32_t opcode);
void fs_share_end(struct fs_share *share, uint32_t opcode);

/* Before an operation on a node. Takes out of the request what is not done (changes of the owner
 * that change nothing). Errors: -ESTALE the file is not in the share any more; -ENOENT, -EACCES
 * hidden; -EROFS fixed; -EPERM a link that leads out, an owner; -EXDEV a folder with such links;
 * -ENOSPC, -EDQUOT; -ENAMETOOLONG; errno of looking. */
int fs_share_check(struct fs_share *share, struct fs_request *request,
                   const struct fs_pin *pin) BG_MUST_CHECK;

/* Before an operation on an open file. Errors: -ENOSPC, -EDQUOT, -EFBIG. */
int fs_share_check_open_file(struct fs_share *share,
                             const struct fs_request *request) BG_MUST_CHECK;

/* Before a file that was found, not made, is opened. Errors: -EROFS; -ENOENT; -ESTALE. */
int fs_share_check_open(struct fs_share *share, const struct fs_pin *pin,
                        bool for_change) BG_MUST_CHECK;

/* A file that was found, with its attributes as they are. Errors: -ENOENT it is a hidden one by
 * another name. */
int fs_share_found(struct fs_share *share, uint64_t ino, uint64_t nlink,
                   uint64_t mode) BG_MUST_CHECK;

/* Attributes and times of validity as the client shall see them. */
void fs_share_show(const struct fs_share *share, struct fs_reply *reply);

/* The path of a folder that is about to be read, "" for the root. Errors: as fs_share_check. */
int fs_share_folder(const struct fs_share *share, const struct fs_pin *pin,
                    char out[BG_PATH_MAX]) BG_MUST_CHECK;
/* True when the folder's entry is to be shown. */
bool fs_share_shows(const struct fs_share *share, const char *folder, const char *name);
