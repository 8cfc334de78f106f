/* A cgroup (v2) for each exec, below one folder, so that "all of it" can be ended at once, whatever
 * became of its process groups. No controllers are enabled: making a cgroup is one mkdir. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

/* Makes the folder, or takes the one there, and opens it. *ret_fd: owned by the caller.
 * Errors: errno of mkdir, open; -EOPNOTSUPP it is not a cgroup2 folder with cgroup.kill. */
int cgroup_tree_open(const char *path, int *ret_fd, struct bg_err *err) BG_MUST_CHECK;

/* Makes cgroup `id` and opens it for CLONE_INTO_CGROUP. Returns the fd or negative errno. */
int cgroup_make(int tree_fd, uint32_t id) BG_MUST_CHECK;

/* SIGKILL to everything in the cgroup. False if that could not be done. */
bool cgroup_kill(int tree_fd, uint32_t id);

/* The same for all cgroups of the tree. */
bool cgroup_kill_all(int tree_fd);

/* Stops all processes of the tree where they are, those too that are started in it meanwhile; or
 * lets them go on. They stop on their way back to their own code: soon, not at once. A SIGKILL ends
 * them all the same. False if that could not be done. */
bool cgroup_freeze(int tree_fd, bool frozen);

/* Waits until all have stopped. One that waits in the kernel for something that does not come (a
 * disk, a share) has not, but will not run code of its own either before it is let go on. Errors:
 * -ETIME; errno. */
int cgroup_wait_frozen(int tree_fd, int timeout_ms) BG_MUST_CHECK;

/* Removes the cgroup; false while a process is left in it. */
bool cgroup_remove(int tree_fd, uint32_t id);

/* Removes every cgroup of the tree that is empty. Returns whether any is left. */
bool cgroup_sweep(int tree_fd);
