/* Random operations on a folder, in an order that a seed decides: done in the same way in two
 * folders, they must have the same results. */
#pragma once

#include <stdint.h>

/* Does count operations on files, folders and links below `a` and below `b`, and compares results
 * and trees. Returns 0, or 1 after saying on stderr what was different. */
int random_tree_ops(const char *a, const char *b, uint64_t seed, unsigned count);

/* Reads, writes, maps, truncates and punches one file at path, against a copy in memory. */
int random_file_ops(const char *path, uint64_t seed, unsigned count);
