/* Members of pools: sandboxes that are started ahead and wait for a name (docs/protocol.md,
 * "Pools"). A member's folder is STATE/sandboxes/.pool-ID, which no sandbox can be called, so that
 * whatever lists sandboxes does not see it. Its launcher holds its lock and alone changes what is
 * in it; who wants it asks that one, over the socket in the folder. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "common/state/sandbox.h"

#define BG_POOL_PREFIX ".pool-"

/* What the two say to each other: a byte, what is behind it, and fds. One claimer at a time. */
enum bg_pool_word {
    /* claimer -> launcher */
    BG_POOL_CLAIM = 'C', /* the name; carries a file with the sandbox.json that it is to have */
    BG_POOL_GO = 'G',    /* carries the status fd, then the owner's if there is one */
    /* launcher -> claimer */
    BG_POOL_TAKEN = 'T',   /* it is that sandbox now, and waits for GO */
    BG_POOL_REFUSED = 'R', /* struct bg_err; it is a member still */
    /* The end, without a word: it is none any more, or another claimer has it. */
};

#define BG_POOL_WORD_MAX (1 + sizeof(struct bg_err))

/* True for the name of a member's folder. */
bool bg_pool_folder_ok(const char *name);

/* True if what is wanted can be made from the member: the same image and sizes, and no disk of
 * another's. Pure. */
bool bg_pool_fits(const struct bg_sandbox *member, const struct bg_sandbox *wanted);

/* The members that there are, in an order that is another one each time: heap array, the caller's,
 * to be ended with bg_pool_members_free. Those that are just being made or claimed may be missing.
 * Errors: errno. */
int bg_pool_members(const struct bg_paths *paths, struct bg_sandbox **ret, size_t *ret_count,
                    struct bg_err *err) BG_MUST_CHECK;
void bg_pool_members_free(struct bg_sandbox *members, size_t count);

/* True if the member waits to be claimed. */
bool bg_pool_waits(const struct bg_sandbox *member);

/* Connects to a member's launcher. Errors: -ENOTCONN it does not wait; errno. */
int bg_pool_connect(const struct bg_sandbox *member, int *ret_fd, struct bg_err *err) BG_MUST_CHECK;

/* For the launcher: from now on the member waits. */
int bg_pool_listen(const struct bg_sandbox *member, int *ret_fd, struct bg_err *err) BG_MUST_CHECK;
/* It does not any more. */
void bg_pool_unlisten(const struct bg_sandbox *member);

/* What a claim asks for: the sandbox.json in fd, as of a sandbox of that name. End *ret with
 * bg_sandbox_done. Errors: errno of pread; of parsing; -ENOMEM. */
int bg_pool_read_claim(int fd, const char *name, struct bg_sandbox *ret,
                       struct bg_err *err) BG_MUST_CHECK;

/* For the launcher: writes the sandbox.json of what the member becomes into the member's folder
 * (sandbox->dir), and gives the folder that name; dir is the new one then. Errors: -EEXIST name in
 * use, and the member has its own sandbox.json to be written again; errno. */
int bg_pool_name(const struct bg_paths *paths, struct bg_sandbox *sandbox,
                 struct bg_err *err) BG_MUST_CHECK;
