/* Host names and the synthetic addresses that stand for them: the guest never sees a real one, so
 * that the proxy is asked for names. 198.18.0.0/15 (RFC 2544, for benchmarks: routed nowhere) and,
 * with the same 32 bits at its end, a prefix of our own in fd00::/8. Pure.
 *
 * One address per name, at most BG_DNS_NAMES_MAX of them; the one that was used longest ago gives
 * way. Its address is not given to another name before all others were, so that a client that still
 * has it is refused rather than connected to something else. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/cleanup.h"

/* The agent's own address on its dummy interface, and the first one for names: both halves of
 * 198.18.0.0/15 count. */
#define NAMES_NETWORK  0xc6120000u /* 198.18.0.0 */
#define NAMES_BITS     15
#define NAMES_OWN      (NAMES_NETWORK + 1)
#define NAMES_FIRST    (NAMES_NETWORK + 256)
#define NAMES_LAST     (NAMES_NETWORK + (1u << (32 - NAMES_BITS)) - 256)
#define NAMES_NAME_MAX 253

struct names;

/* Errors: NULL when memory is out. */
struct names *names_new(void);
void names_free(struct names *names);

/* The address of a name, a new one if it has none. name: canonical (lower case, no final dot), 1 to
 * NAMES_NAME_MAX bytes. Returns 0 when memory is out. Counts as a use. */
uint32_t names_address(struct names *names, const char *name) BG_MUST_CHECK;

/* The name that an address stands for, borrowed until the next call; NULL if there is none. Counts
 * as a use. address: host byte order. */
const char *names_find(struct names *names, uint32_t address);

/* The IPv6 form of an address, and back; false if it is not one of ours. */
void names_to_v6(uint32_t address, uint8_t ret[16]);
bool names_from_v6(const uint8_t v6[16], uint32_t *ret_address);

/* True for an address in the synthetic range, with a name or not. */
bool names_is_synthetic(uint32_t address);
