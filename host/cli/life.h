/* life: finding, stopping and removing a sandbox, whatever state it is in. The first command that
 * touches one whose supervisor died writes that down. */
#pragma once

#include <jansson.h>

#include "common/state/sandbox.h"
#include "host/cli/app.h"

struct life {
    struct bg_sandbox sandbox;
    enum bg_sandbox_state state;
    int launcher_pid; /* 0 unless it runs */
    bool damaged;     /* life_open_any: only name and dir of sandbox are known */
};

/* Loads a sandbox and its state; of one that crashed the dead socket is removed and the crash is
 * noted; its mounts wait for its next start. Errors: -ENOENT unknown (with the nearest name);
 * -EUCLEAN damaged. */
int life_open(struct app *app, const char *name, struct life *ret,
              struct bg_err *err) BG_MUST_CHECK;
/* The same, but a damaged one too: for rm. */
int life_open_any(struct app *app, const char *name, struct life *ret,
                  struct bg_err *err) BG_MUST_CHECK;
void life_done(struct life *life);

/* True of a sandbox that should have vanished with its command, but both its command and its
 * supervisor were killed; life_open removes it. A young one may be just about to start. */
bool life_orphaned(const struct bg_sandbox *sandbox, enum bg_sandbox_state state);

/* life_open, and it must run; one that is suspended is woken (wake.h). Errors: also those of wake;
 * -ENOTCONN with the way out. */
int life_open_running(struct app *app, const char *name, struct life *ret,
                      struct bg_err *err) BG_MUST_CHECK;

/* Ends a running sandbox and waits until its processes are gone; its mounts are unmounted first.
 * grace_ms: for the guest to power off, then it is killed; 0: it is killed at once. A supervisor
 * that does not answer is killed too. *ret_clean (may be NULL): the guest powered off by itself.
 * Nothing happens if it does not run. Errors: -EBUSY it is still starting; -ETIME it does not end.
 */
int life_stop(struct app *app, struct life *life, uint64_t grace_ms, bool *ret_clean,
              struct bg_err *err) BG_MUST_CHECK;

/* Writes a running sandbox's memory to its folder and ends it; its next start goes on from there.
 * Its mounts stay, and wake it. note: what is told on stderr if that takes long, or NULL.
 * *ret_answer: the supervisor's, the caller's. Errors: -ENOTCONN it ended meanwhile; -ETIME; what
 * the supervisor says: then it runs as before. */
int life_suspend(struct app *app, struct life *life, const char *note, json_t **ret_answer,
                 struct bg_err *err) BG_MUST_CHECK;

/* Removes a sandbox that does not run. One that was removed meanwhile is removed: no error. Errors:
 * -EBUSY it runs. */
int life_remove(struct app *app, struct life *life, struct bg_err *err) BG_MUST_CHECK;
