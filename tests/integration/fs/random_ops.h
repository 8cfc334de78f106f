/* Random operations on a folder, in an order that a seed decides: done in the same way in two
 * folders, they must have the same results. */
#pragma once

#include <stdint.h>

/* Does count operations on files, folders, links and open files below `a` and below `b`, comparing
 * what each says and leaves, and then the trees; also with behind_b, which is b seen from the other
 * side. Returns 0, or 1 after saying on stderr what was different, and the seed. */
int random_tree_ops(const char *a, const char *b, const char *behind_b, uint64_t seed,
                    unsigned count);

/* Reads, writes, maps, cuts, copies and punches one file at path through two handles, and appends
 * by a third, against a copy in memory; behind: the file from the other side, or NULL. */
int random_file_ops(const char *path, const char *behind, uint64_t seed, unsigned count);
