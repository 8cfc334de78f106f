/* flatten_plan: which layers of a disk are copied into one. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The lowest layer to be copied; all frozen ones above it are copied too. bytes: of each frozen
 * layer, bottom to top. A big layer is left where it is as long as what is above it is not half of
 * it, so that a byte is copied again only once there is as much again that is new; but at most
 * BG_FLATTEN_LEFT are left. count: at least 1. */
size_t flatten_plan_from(const uint64_t *bytes, size_t count);

/* True if a disk of so many layers is to be flattened without anybody's asking. */
bool flatten_plan_due(size_t layers);

/* Bytes a second that may be copied; 0: as fast as it goes. layers: of the disk. waited: by
 * somebody who asked for it. */
uint64_t flatten_plan_speed(size_t layers, bool waited);
