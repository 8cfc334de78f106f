/* shares: folders of the host in a sandbox. Each has a bellglass-share process of its own, which
 * ends with the sandbox. SANDBOX/share-ID.lock is held by it (an open file description lock) and
 * has its pid; SANDBOX/share-ID.log is what it had to say. */
#pragma once

#include <jansson.h>

#include "host/cli/app.h"
#include "host/cli/args.h"
#include "host/cli/share_spec.h"

/* Adds a share that an option describes to the sandbox's list: looks at the folder, fills in what
 * was left out. args: SHARE_OPTIONS of sandbox_options.h. Errors: -EINVAL, -ENOENT, -ENOTDIR,
 * -EPERM it is not to be shared, -EEXIST the place in the sandbox is taken, -E2BIG. */
int shares_add(struct app *app, const struct args *args, const char *text,
               struct bg_sandbox *sandbox, struct bg_err *err) BG_MUST_CHECK;

/* The share at a folder of the guest, or NULL. */
struct bg_share *shares_find(const struct bg_sandbox *sandbox, const char *guest);
/* Takes it off the list; nothing is unmounted. */
void shares_remove(struct bg_sandbox *sandbox, struct bg_share *share);

/* True while its process serves. */
bool shares_served(const struct bg_sandbox *sandbox, const struct bg_share *share);

/* Looks whether the folders of all shares are still there, before a start. Errors: -ENOENT,
 * -ENOTDIR with the way out. */
int shares_check(const struct bg_sandbox *sandbox, struct bg_err *err) BG_MUST_CHECK;

/* Mounts one share, or all, in a running sandbox. Errors: -EBUSY something is mounted there;
 * -ETIME; what the sandbox or bellglass-share say. */
int shares_start(struct app *app, const struct bg_sandbox *sandbox, const struct bg_share *share,
                 struct bg_err *err) BG_MUST_CHECK;
int shares_start_all(struct app *app, const struct bg_sandbox *sandbox,
                     struct bg_err *err) BG_MUST_CHECK;

/* Unmounts a share in a running sandbox. *ret_busy: it was in use: gone from its place, and served
 * on for those who have files of it open. force: its process is ended too, whatever is open. */
int shares_end(struct app *app, const struct bg_sandbox *sandbox, const struct bg_share *share,
               bool force, bool *ret_busy, struct bg_err *err) BG_MUST_CHECK;

/* As JSON: an array of objects. NULL: out of memory. */
json_t *shares_json(const struct bg_sandbox *sandbox);
