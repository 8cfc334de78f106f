/* pools: who keeps sandboxes ready. Each keeper is a process (pool_keeper.h) with a folder
 * STATE/pools/KEY: `lock`, which it holds for as long as it lives, and `pool.json`, which says what
 * it keeps (docs/protocol.md, "Pools"). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "common/state/paths.h"

#define POOLS_KEY_SIZE 48

struct pool_info {
    char key[POOLS_KEY_SIZE]; /* also of what is not there yet; not in the file */
    char *image;              /* a name, as it was given */
    unsigned cpus;
    uint64_t memory_bytes;
    unsigned wanted, ready;
    int keeper_pid;
    bool gateway; /* `bellglass serve` has it, and it ends with that */
};

void pool_info_done(struct pool_info *info);

/* Sets key from the rest. A gateway's has its keeper's pid in it: each has its own. */
void pool_info_key(struct pool_info *info);

/* pool.json as text; heap, the caller's; NULL: out of memory. Pure, as the next one. */
char *pool_info_emit(const struct pool_info *info);
/* Fills all but key. Errors: -EINVAL not as we write it; -ENOMEM. */
int pool_info_parse(const char *text, size_t size, struct pool_info *ret) BG_MUST_CHECK;

/* For the keeper: takes the lock. Errors: -EBUSY another keeper has it; errno. */
int pools_lock(const struct bg_paths *paths, const struct pool_info *info, int *ret_lock,
               struct bg_err *err) BG_MUST_CHECK;
/* For its holder: says what is; removes the folder. What fails is no reason to stop. */
void pools_note(const struct bg_paths *paths, const struct pool_info *info);
void pools_forget(const struct bg_paths *paths, const struct pool_info *info);

/* Those whose keeper lives; what others have left is removed. Heap array, the caller's. Errors:
 * errno. */
int pools_list(const struct bg_paths *paths, struct pool_info **ret, size_t *ret_count,
               struct bg_err *err) BG_MUST_CHECK;
void pools_free(struct pool_info *list, size_t count);

/* Ends the keeper with that key and waits for it; its members end with it. *ret_ended: there was
 * one. Errors: -ETIME it does not end; errno. */
int pools_end(const struct bg_paths *paths, const char *key, bool *ret_ended,
              struct bg_err *err) BG_MUST_CHECK;

/* Starts a keeper for it, our child. status_fd and owner_fd as in pool_keeper.h, borrowed. Errors:
 * as process_start. */
int pools_start(const struct pool_info *info, int status_fd, int owner_fd, pid_t *ret_pid,
                struct bg_err *err) BG_MUST_CHECK;
