/* oracle: a program in a guest that knows whether its memory, a file and a mapping of another one
 * are of one instant, whatever became of the guest. */
#pragma once

#include "tests/lib/vm.h"

/* Starts it; pause_ms between its records, so that it takes no processor from others. */
void oracle_start(struct vm *vm, const char *sandbox, unsigned pause_ms);

/* How many records it has; fails the test if they do not agree. */
long oracle_ask(struct vm *vm, const char *sandbox);
