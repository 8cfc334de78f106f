/* Memory for secrets: locked against swap, left out of core dumps, cleansed when freed. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/cleanup.h"

/* size > 0. *ret_locked (may be NULL) becomes false if the limit on locked memory kept it
 * swappable. NULL: out of memory. */
void *locked_new(size_t size, bool *ret_locked) BG_MUST_CHECK;

/* size: as given to locked_new. NULL: no-op. */
void locked_free(void *memory, size_t size);
