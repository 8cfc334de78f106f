/* Trees as tar streams (pax), for `bellglass cp` on both sides: packs a file or folder, unpacks a
 * stream that the other, hostile side made. Blocking; for a process or thread of its own.
 *
 * The process must be in the C locale (never call setlocale): libarchive would convert names that
 * are not ASCII; in the C locale it cannot, and marks them in the stream as bytes.
 *
 * Kept: names (any bytes), contents, permission bits, mtimes in ns, symlinks, hard links within the
 * tree, sizes above 8 GiB. Not kept: owners, set-id bits, devices, FIFOs, sockets, xattrs.
 *
 * Unpacking stays below its destination: every entry is opened by openat2 under the destination's
 * fd with no symlink followed (none that the stream made, none that was there before), names that
 * are absolute or contain `..` are refused. A regular file that is already there is replaced at the
 * end of its data in one step, so a stream that breaks off leaves the old one. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

struct tree_tar_counts {
    uint64_t entries; /* packed or unpacked */
    uint64_t bytes;   /* of file contents */
    uint64_t skipped; /* devices, FIFOs, sockets; each was told to on_skip */
};

struct tree_tar_pack_opts {
    int dir_fd;       /* what path is relative to: AT_FDCWD or a folder; borrowed */
    const char *path; /* what to pack; a symlink is packed as itself unless it ends in '/' */
    const char *root; /* name of the top entry: one component, or "." */
    /* Takes the next bytes of the stream; 0 or negative errno, which ends the packing. */
    int (*write)(void *owner, const void *bytes, size_t size);
    /* A thing that was left out, and why ("is a socket"); may be NULL. */
    void (*on_skip)(void *owner, const char *name, const char *why);
    void *owner;
};

/* Packs opts->path. A file that shrinks while it is read is filled up with zeros, one that grows is
 * cut. *ret_counts may be NULL. Errors: errno of what failed, with the path in the text;
 * what write() returned, with its text left to the caller (err then only says "stream"). */
int tree_tar_pack(const struct tree_tar_pack_opts *opts, struct tree_tar_counts *ret_counts,
                  struct bg_err *err) BG_MUST_CHECK;

struct tree_tar_unpack_opts {
    int dir_fd;       /* what path is relative to: AT_FDCWD or a folder; borrowed */
    const char *path; /* destination; what it means depends on root */
    /* Name of the stream's top entry (one component): if path is a folder, `root` lands in it under
     * that name (root ".": the entries below it do), else `root` becomes path, whose parent must
     * exist. NULL: path is a folder (made if missing) and entries go below it as they are named. */
    const char *root;
    /* Gives the next bytes of the stream: *ret_bytes borrowed until the next call; returns their
     * count, 0 at the end of the stream, or a negative errno, which ends the unpacking. */
    ssize_t (*read)(void *owner, const void **ret_bytes);
    /* A thing that was left out, and why; may be NULL. name is hostile: escape it. */
    void (*on_skip)(void *owner, const char *name, const char *why);
    void *owner;
};

/* Unpacks a stream. What is made belongs to the calling process's user. Folders that were there
 * before keep their permissions and times. *ret_counts may be NULL. Errors: -EPROTO the stream is
 * damaged or names something outside; -ENOENT the destination's parent is missing; else the errno
 * of what failed, with the path in the text ("/home/app/x: disk full"). */
int tree_tar_unpack(const struct tree_tar_unpack_opts *opts, struct tree_tar_counts *ret_counts,
                    struct bg_err *err) BG_MUST_CHECK;
