/* The files of a working folder that programs of the host execute, or that tell them what to
 * execute, as soon as the user works in it: git's hooks and configuration, what editors, debuggers
 * and shells run when a folder is opened. A guest that could write them would run code on the host.
 * What a build or a language server runs is not among them: that is the project's own code. Pure.
 */
#pragma once

#include <stddef.h>

/* FS_SHARE_FIXED, FROZEN, ANCHORED for a path. names: its parts from the root down, folded (small
 * letters, see names.h); count > 0. */
unsigned executed_judge(const char *const *names, size_t count);
