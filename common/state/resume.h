/* The instant that a sandbox's next start goes on from: its folder resume/, a manifest with state
 * and memory, which belongs to one disk. A fork has it before its first start, and so has a
 * sandbox that was suspended or restored.
 *
 * Disk and memory are changed at one instant, though they are two files: resume/ counts only if
 * the disk is the one in its manifest. It is replaced in this order: the new one is made as
 * resume.next/, disk.json is replaced (that is the instant), the two folders change names, the old
 * one is removed. What was killed on the way is settled by the next start, or by a command: a
 * resume.next/ of the disk that is there, without a layer of its own yet, becomes resume/; any
 * other goes. */
#pragma once

#include "common/state/disk.h"
#include "common/state/snapshot.h"

#define BG_RESUME_FOLDER "resume"

/* Puts right what was killed half-way: after it there is a resume/ that counts, or none. The caller
 * holds the sandbox's lock. Errors: errno. */
int bg_resume_settle(int dir_fd, struct bg_err *err) BG_MUST_CHECK;

/* Reads resume/ below a sandbox's folder, for a disk that was just loaded. A writable layer above
 * those of the manifest is one that a start had made before its guest ran: it is empty. Errors:
 * -ENOENT there is none that counts; -EUCLEAN damaged, with what is wrong. */
int bg_resume_load(int dir_fd, const struct bg_disk *disk, struct bg_snapshot *ret,
                   struct bg_err *err) BG_MUST_CHECK;

/* True if resume/ is there, whatever is in it. */
bool bg_resume_present(int dir_fd);

/* Forgets the instant: the next start boots the disk. The caller holds the lock. Errors: errno. */
int bg_resume_drop(int dir_fd, struct bg_err *err) BG_MUST_CHECK;

/* Makes the sandbox in sandbox_dir_fd go on from the snapshot: links of its disk's layers,
 * disk.json and, unless it is one of a disk alone, resume/. For a new sandbox's folder, or for one
 * whose lock the caller holds: what was there is replaced as above. Errors: -EUCLEAN the snapshot
 * is damaged; those of bg_layer_link; errno. The sandbox is as before then. */
int bg_snapshot_fork_into(const struct bg_paths *paths, const struct bg_snapshot *snapshot,
                          int sandbox_dir_fd, struct bg_err *err) BG_MUST_CHECK;

/* Fills in what a snapshot says of its sandbox and gives it an id, whatever its kind; of the rest
 * nothing is touched. note: may be NULL. Ended by bg_snapshot_done, after an error too. Errors:
 * -ENOMEM. */
int bg_snapshot_describe(const struct bg_sandbox *sandbox, const struct bg_disk *disk,
                         const char *tag, const char *note, struct bg_snapshot *s,
                         struct bg_err *err) BG_MUST_CHECK;

/* Makes a snapshot of a sandbox that does not run: a full one if it is suspended, else one of its
 * disk alone (disk_only: in any case). Takes its lock. tag: NULL for the next number; note: may be
 * NULL. *ret_name: heap. Errors: -EBUSY it runs, or its disk is written; -ENOENT it was never
 * started; -EEXIST the tag is in use; -EMLINK too many layers; -EUCLEAN damaged; -EOPNOTSUPP its
 * disk is a volume; errno. */
int bg_snapshot_of_folder(const struct bg_paths *paths, const struct bg_sandbox *sandbox,
                          const char *tag, const char *note, bool disk_only, char **ret_name,
                          struct bg_err *err) BG_MUST_CHECK;
