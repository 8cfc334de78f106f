/* A sandbox on disk: STATE/sandboxes/NAME (docs/protocol.md, "Sandboxes"). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "common/err.h"
#include "common/state/paths.h"

#define BG_SANDBOX_NAME_MAX 63
#define BG_VOLUME_ID_SIZE   25 /* "vol_" or "snp_", 20 of [0-9a-z], and a NUL */

struct bg_secret_use {
    char *name;   /* environment variable and name in the store */
    char **hosts; /* where it may go: exact or "*.suffix"; the policy may say more */
    size_t host_count;
    char placeholder[96]; /* "BELLGLASS_SECRET_" and 64 hex digits */
    /* Those that the memory of a fork still has, the newest first; they are good for the same as
     * its own. */
    char **inherited;
    size_t inherited_count; /* at most BG_SECRET_INHERITED_MAX */
};

/* A folder of the host in the guest. */
enum bg_share_mode { BG_SHARE_RO, BG_SHARE_RW, BG_SHARE_COW };

struct bg_share {
    unsigned id;        /* > 0, of the sandbox's shares: names its files in the sandbox's folder */
    char *host, *guest; /* absolute paths; host without symbolic links */
    enum bg_share_mode mode;
    bool unguarded, any_links; /* see bellglass-share */
    char **hide;               /* patterns beside the usual ones */
    size_t hide_count;
    char **show;
    size_t show_count;
};

/* A volume that it has while it runs (common/state/volume.h). */
struct bg_volume_use {
    char id[BG_VOLUME_ID_SIZE];
    char *path; /* in the guest: absolute, plain */
};

struct bg_sandbox {
    char id[32]; /* "sbx_" and 20 of [0-9a-z]; unique for ever */
    char *name;  /* [a-z0-9][a-z0-9._-]{0,62} */
    char *dir;   /* STATE/sandboxes/NAME */
    uint64_t created_ms;
    char *image_name, *image_digest;
    unsigned cpus;
    uint64_t memory_bytes;
    /* How long it lives, and until when by the clock on the wall: from its creation, or from when
     * it was last given that time (start). 0: for ever. */
    uint64_t ttl_s, expires_ms;
    uint64_t idle_suspend_s; /* after so long without work it is suspended; 0: never */
    bool ephemeral;          /* removed when it stops (run without --name) */
    char **env;              /* "K=V"; need not be UTF-8 */
    size_t env_count;
    char **allow; /* "HOST" or "HOST:PORT" */
    size_t allow_count;
    char *upstream_ca; /* absolute path, or NULL */
    char *policy;      /* a policy file's text, or NULL */
    struct bg_secret_use *secrets;
    size_t secret_count;
    struct bg_share *shares;
    size_t share_count;
    char root_volume[BG_VOLUME_ID_SIZE]; /* whose disk it boots; "": its own */
    struct bg_volume_use *volumes;
    size_t volume_count; /* at most BG_SANDBOX_VOLUMES_MAX */
};

enum bg_sandbox_state {
    BG_SANDBOX_STOPPED,
    BG_SANDBOX_STARTING,
    BG_SANDBOX_RUNNING,
    BG_SANDBOX_STOPPING,
    BG_SANDBOX_CRASHED,   /* its launcher is gone without a word; seen by the free lock */
    BG_SANDBOX_SUSPENDED, /* it does not run; its next start goes on where it was left */
};

/* True for names that a sandbox may have. */
bool bg_sandbox_name_ok(const char *name);

/* Makes a new sandbox's folder (0700; as root 0711) and sandbox.json from the fields above (id,
 * dir, created_ms and the placeholders are filled in; name NULL: one is made up, "amber-otter-41").
 * Atomic: two callers with one name, one wins. Errors: -EEXIST name in use; -EINVAL bad name; errno
 * of the calls. */
int bg_sandbox_create(const struct bg_paths *paths, struct bg_sandbox *sandbox,
                      struct bg_err *err) BG_MUST_CHECK;

/* Fills in id (NULL: a new one), created_ms, expires_ms and the placeholders. */
void bg_sandbox_begin(struct bg_sandbox *sandbox, const char *id);

/* "amber-otter-41": heap, the caller's; NULL: out of memory. It may be in use. */
char *bg_sandbox_made_up_name(void);

/* Makes the folder of a pool's member (common/state/pool.h) from image, cpus, memory and ephemeral;
 * id, created_ms, name and dir are filled in. Errors: errno of the calls. */
int bg_sandbox_create_member(const struct bg_paths *paths, struct bg_sandbox *sandbox,
                             struct bg_err *err) BG_MUST_CHECK;

/* Puts more into a new sandbox's folder before that appears: what is half-way there is never seen.
 * sandbox: with its id and name. dir_fd: borrowed. */
struct bg_sandbox_filling {
    int (*fill)(void *owner, const struct bg_sandbox *sandbox, int dir_fd, struct bg_err *err);
    void *owner;
};

/* bg_sandbox_create with such a filling; NULL: none. Errors: also those of fill. */
int bg_sandbox_create_filled(const struct bg_paths *paths, struct bg_sandbox *sandbox,
                             const struct bg_sandbox_filling *filling,
                             struct bg_err *err) BG_MUST_CHECK;

/* What a fork of a sandbox is to be, for bg_sandbox_create, from the source's sandbox.json as it
 * was when the source stood still. All that the user asked for is kept, the shares too: what runs
 * in the fork goes on with its files, and works in the same folders. But it is no ephemeral one,
 * it has none of the source's volumes, which are for one at a time, and it will have placeholders
 * of its own; the source's are inherited. name: NULL: one is made up. Errors: -EINVAL with what is
 * wrong with source; -ENOMEM. */
int bg_sandbox_fork_config(const json_t *source, const char *name, struct bg_sandbox *ret,
                           struct bg_err *err) BG_MUST_CHECK;

/* Forgets the placeholders that were inherited: those that the guest's memory has are worthless
 * then. */
void bg_sandbox_disinherit(struct bg_sandbox *sandbox);

/* The machine-id that its guest has, always the same one: made of its id, so that it tells no more
 * than that and needs no file. */
void bg_sandbox_machine_id(const struct bg_sandbox *sandbox, uint8_t ret[16]);

/* Writes sandbox.json anew, atomically; of a sandbox that was loaded. */
int bg_sandbox_save(const struct bg_sandbox *sandbox, struct bg_err *err) BG_MUST_CHECK;

/* Reads sandbox.json. Errors: -ENOENT unknown (text points to ls); -EUCLEAN damaged. */
int bg_sandbox_load(const struct bg_paths *paths, const char *name, struct bg_sandbox *ret,
                    struct bg_err *err) BG_MUST_CHECK;
void bg_sandbox_done(struct bg_sandbox *sandbox);
void bg_share_done(struct bg_share *share);

/* True for "vol_" (or, snapshot: "snp_") and 20 of [0-9a-z]. */
bool bg_volume_id_ok(const char *id, bool snapshot);

/* "ro", "rw", "cow". */
const char *bg_share_mode_name(enum bg_share_mode mode);
/* Errors: -EINVAL no such mode. */
int bg_share_mode_parse(const char *name, enum bg_share_mode *ret) BG_MUST_CHECK;

/* Finds the folder only: name and dir are set, the rest is zero. For one that is damaged, to remove
 * it. Errors: -ENOENT. */
int bg_sandbox_locate(const struct bg_paths *paths, const char *name, struct bg_sandbox *ret,
                      struct bg_err *err) BG_MUST_CHECK;

/* Names of all sandboxes, sorted: heap array of heap strings, the caller's, NULL-terminated. */
int bg_sandbox_names(const struct bg_paths *paths, char ***ret_names,
                     struct bg_err *err) BG_MUST_CHECK;
void bg_sandbox_names_free(char **names);

/* Takes away what create or remove left when it was killed; both are over in less than the minute
 * that must have passed. ret_count may be NULL. */
int bg_sandbox_sweep(const struct bg_paths *paths, size_t *ret_count,
                     struct bg_err *err) BG_MUST_CHECK;

/* What state.json and the lock say. ret_launcher_pid (may be NULL): 0 unless it runs. */
int bg_sandbox_state(const struct bg_sandbox *sandbox, enum bg_sandbox_state *ret,
                     int *ret_launcher_pid, struct bg_err *err) BG_MUST_CHECK;
const char *bg_sandbox_state_name(enum bg_sandbox_state state); /* "stopped" ... */
/* True if nobody runs it in that state: stopped, crashed or suspended. */
bool bg_sandbox_rests(enum bg_sandbox_state state);

/* What state.json alone says, right or not, and the reason noted there ("" if none). True if there
 * is a reason. */
bool bg_sandbox_noted(const struct bg_sandbox *sandbox, enum bg_sandbox_state *ret,
                      char reason[BG_ERR_TEXT_SIZE]);

/* Writes state.json; only the holder of the lock does. The caller's pid is noted as the launcher's
 * unless it rests in that state. reason may be NULL. */
int bg_sandbox_set_state(const struct bg_sandbox *sandbox, enum bg_sandbox_state state,
                         const char *reason, struct bg_err *err) BG_MUST_CHECK;

/* Takes DIR/lock (an open file description lock, exclusive, not blocking); the fd is the lock,
 * shared with whoever inherits it. Errors: -EBUSY someone holds it (the text leaves the sandbox's
 * name to the caller); -ENOENT the sandbox was removed. */
int bg_sandbox_lock(const struct bg_sandbox *sandbox, int *ret_fd,
                    struct bg_err *err) BG_MUST_CHECK;

/* Who holds the lock. */
enum bg_sandbox_use {
    BG_SANDBOX_UNUSED,
    BG_SANDBOX_OWNED,   /* it runs, or a command holds it for a moment */
    BG_SANDBOX_READ,    /* it does not run, and its disk is read: a mount or a copy */
    BG_SANDBOX_WRITTEN, /* it does not run, and its disk is written: likewise */
};

/* Errors: errno; -ENOENT the sandbox was removed. */
int bg_sandbox_use(const struct bg_sandbox *sandbox, enum bg_sandbox_use *ret,
                   struct bg_err *err) BG_MUST_CHECK;

/* Takes the part of DIR/lock that stands for the disk of a sandbox that does not run: shared to
 * read it, or exclusive to write it. Keeps bg_sandbox_lock from succeeding; to bg_sandbox_state it
 * is as if nobody held the lock. Errors: as bg_sandbox_lock. */
int bg_sandbox_lock_disk(const struct bg_sandbox *sandbox, bool write, int *ret_fd,
                         struct bg_err *err) BG_MUST_CHECK;

/* Removes the folder of a stopped sandbox whose lock the caller holds. */
int bg_sandbox_remove(const struct bg_sandbox *sandbox, struct bg_err *err) BG_MUST_CHECK;

/* Connects to the control socket of a running sandbox (RUNTIME/ID.sock), whatever the length of
 * its path. Errors: -ENOTCONN it is not running (text says how to start it). */
int bg_sandbox_connect(const struct bg_paths *paths, const struct bg_sandbox *sandbox, int *ret_fd,
                       struct bg_err *err) BG_MUST_CHECK;

/* A helper that serves the files of a sandbox that does not run has the sandbox's id for its own,
 * with a dot and so many hex digits behind it; one for the files of an image, this in its place. */
#define BG_HELPER_TAG_SIZE 6
#define BG_HELPER_IMAGE_ID "image"

/* Binds and listens on it, mode 0600, replacing a dead one. For the supervisor. */
int bg_sandbox_listen(const struct bg_paths *paths, const struct bg_sandbox *sandbox, int *ret_fd,
                      struct bg_err *err) BG_MUST_CHECK;

/* Removes the control socket of a sandbox that does not run. */
void bg_sandbox_unlisten(const struct bg_paths *paths, const struct bg_sandbox *sandbox);
