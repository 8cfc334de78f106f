/* The guest's side of a share, over a stream of its own for each question. Blocking. What comes is
 * hostile: it costs the command, nothing else. */
#pragma once

#include "host/changes/store.h"
#include "host/cli/app.h"

struct link {
    struct app *app;
    const struct bg_sandbox *sandbox;
    uint32_t share;
};

/* The layer, sorted. ret: to be ended with entries_done. */
int link_list(const struct link *link, struct entries *ret, struct bg_err *err) BG_MUST_CHECK;

/* Fetches the files of guest for which wanted[i] is set into the store, and notes hash and identity
 * (or that they are torn) there. on_bytes: how many came, for progress; may be NULL. Errors: -EFBIG
 * they are more than BG_CHANGES_BYTES_MAX; -EPROTO. */
int link_fetch(const struct link *link, const struct store *store, struct entries *guest,
               const bool *wanted, void (*on_bytes)(void *owner, size_t size), void *owner,
               struct bg_err *err) BG_MUST_CHECK;

/* Takes the items out of the layer. op: BG_CHANGES_SETTLE or _DISCARD. ret_kept: what stayed, with
 * the reason in its flags; to be ended with entries_done. */
int link_drop(const struct link *link, enum bg_changes_op op, const struct entry *const *items,
              size_t count, struct entries *ret_kept, struct bg_err *err) BG_MUST_CHECK;
