/* wake: a sandbox that is suspended goes on when a command needs it to run. One of several that
 * come at once starts it, the others wait for that. A sandbox that is stopped stays so. With
 * BELLGLASS_WAKE=0 in the environment none is woken: for scripts that shall find it asleep. */
#pragma once

#include "common/state/sandbox.h"
#include "host/cli/life.h"

/* Whether $BELLGLASS_WAKE lets sandboxes be woken. */
bool wake_allowed(void);

/* Of a sandbox that is suspended: makes it run. Of one that is about to start or to stop: waits
 * for what becomes of it, and goes on from there. Others are left as they are; life->state says
 * what it is then. Whatever ends this process meanwhile, the sandbox comes up whole. Errors:
 * -ENOTCONN it is not to be woken; -ETIME; why it did not start. Not for processes with threads. */
int wake(struct app *app, struct life *life, struct bg_err *err) BG_MUST_CHECK;

/* The same here and now, without a word: for one thread of a process with several. The sandbox has
 * no shares. */
int wake_here(struct app *app, struct life *life, struct bg_err *err) BG_MUST_CHECK;

/* For who waits for others to do something to a sandbox: an fd that is readable when something has
 * happened to it since (its folder is looked at; several things may have become one). Reading it is
 * left to wake_await. Errors: -ENOENT it was removed; errno. */
int wake_watch(const struct bg_sandbox *sandbox, int *ret_fd, struct bg_err *err) BG_MUST_CHECK;
/* Waits for that, at most timeout_ms, or for other_fd (-1: none) to be readable. */
void wake_await(int watch_fd, int other_fd, int timeout_ms);

/* client_open of a sandbox that ran when it was looked at. One that was suspended between is woken,
 * and asked again. */
int wake_open(struct app *app, const struct bg_sandbox *sandbox, const char *kind, const void *body,
              size_t size, int *ret_fd, struct bg_err *err) BG_MUST_CHECK;
