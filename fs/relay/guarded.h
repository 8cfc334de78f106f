/* The guard in the relay: files that programs on the host run or believe (fs/guard/rules.h).
 *
 * A pinned file is one of the relay's own: it has a node that the server knows nothing of, and its
 * bytes are a pin, what the host wrote or approved last. Without a pin it is not there. What the
 * host writes goes to the server too when the file is closed, and the caller waits for that.
 *
 * git's own files are shown as they are in the guest, filtered (view.h): one look-up reads the
 * guest's file once, and the node that the kernel gets has these bytes for good; other bytes later
 * are another node. If the bytes are exactly those that the host wrote, they are shown whole.
 *
 * No node of the tree (tree.h) is ever at the place of a guarded file, so nothing that the server
 * says can become one. A file that the host writes beside it and renames to it is known by its
 * bytes: small files that the host makes are kept until they are renamed, or as memory allows. */
#pragma once

#include "fs/guard/pins.h"
#include "fs/relay/errand.h"
#include "fs/relay/state.h"

/* Errors: -EINVAL root is no path; -ENOMEM. *ret is NULL with GUARD_OFF. */
int fs_guard_new(const struct fs_guard_opts *opts, struct fs_guard **ret) BG_MUST_CHECK;
void fs_guard_free(struct fs_guard *guard); /* NULL: no-op */

/* ---- from the kernel ---- */

/* True if the request is the guard's; then *ret_error is 0 when it has been or will be answered, or
 * what to answer. */
bool fs_guard_takes(struct fs_relay *relay, struct fs_request *request, uint64_t now_ms,
                    int *ret_error);
/* True if they are of a node or handle of ours. */
bool fs_guard_forgets(struct fs_relay *relay, uint64_t id, uint64_t count);
bool fs_guard_releases(struct fs_relay *relay, const struct fs_request *request, uint64_t now_ms);

/* ---- from the server ---- */

/* The answer to a LOOKUP is about a file that must be read first: taken, answered later. */
bool fs_guard_looks_into(struct fs_relay *relay, const struct fs_pending *pending,
                         const struct fs_reply *reply, uint64_t now_ms, int *ret_error);
/* Whether a thing of this type may be at a place, in the tree. Errors: -ENOENT. */
int fs_guard_admits(struct fs_relay *relay, struct fs_rnode *folder, const char *name,
                    struct fs_attr *attr);
/* Attributes of a node that stands at a place: the owner may be another one. */
void fs_guard_paints(struct fs_relay *relay, const struct fs_rnode *node, struct fs_attr *attr);
/* Whether the guard has any rule for this place. */
bool fs_guard_claims(const struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                     size_t size);
/* The kernel must ask again for this name at each use: what is there may turn out to be git's.
 * mode: with the type of what is there. */
bool fs_guard_is_volatile(const struct fs_relay *relay, const struct fs_rnode *folder,
                          const char *name, uint64_t mode);

enum fs_guard_listing { FS_GUARD_SHOW, FS_GUARD_NAME_ONLY, FS_GUARD_HIDE };
enum fs_guard_listing fs_guard_lists(struct fs_relay *relay, struct fs_rnode *folder,
                                     const struct fs_dirent *entry, uint64_t now_ms);
/* The server's part of a folder has ended: ours follows. True if there is one; it was answered. */
bool fs_guard_continues(struct fs_relay *relay, const struct fs_pending *pending,
                        struct fs_rhandle *handle);

/* The host has made a file; it has moved or removed something: before the tree is told. */
void fs_guard_created(struct fs_relay *relay, const struct fs_pending *pending,
                      struct fs_rnode *node);
void fs_guard_moved(struct fs_relay *relay, const struct fs_pending *pending);
