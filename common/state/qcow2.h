/* qcow2: looks at the header of a disk before QEMU gets it. What is in a sandbox's disk file may
 * have been written by a guest that owns its QEMU. Names of backing files in it do no harm, since
 * QEMU is told its chain; but a header can also say that the data are in another file, or ask for
 * things that no disk of ours has. It also makes the empty ones that volumes begin with. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define QCOW2_HEADER_SIZE 104u /* of version 3, without extensions */

/* bytes: the first QCOW2_HEADER_SIZE of the file, or all of a shorter one. Errors: -EMEDIUMTYPE not
 * a qcow2 disk as bellglass makes them, with the reason. */
int qcow2_check(const uint8_t *bytes, size_t size, struct bg_err *err) BG_MUST_CHECK;

/* An empty disk: what is written to a file's beginning, of QCOW2_EMPTY_SIZE bytes in all. The layer
 * below it, if any, is told to QEMU and not noted in it. */
#define QCOW2_EMPTY_SIZE (4u << 16)
#define QCOW2_BYTES_MAX  (1ull << 42) /* of an empty disk: what its one cluster of tables is for */

/* virtual_bytes: a multiple of 512, at most QCOW2_BYTES_MAX. out: all zeros. */
void qcow2_emit_empty(uint64_t virtual_bytes, uint8_t out[QCOW2_EMPTY_SIZE]);
