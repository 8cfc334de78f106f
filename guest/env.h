/* A list of K=V for execve: a later setting of a name takes the place of an earlier one. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/cleanup.h"

struct env {
    char **entries; /* heap, NULL after the last; each entry heap */
    size_t count, room;
};

void env_done(struct env *env);

/* Sets one K=V of size bytes (no NUL in it). Bytes without '=' or with an empty name are passed
 * over: they would mean nothing to a program. Errors: -ENOMEM. */
int env_put(struct env *env, const char *entry, size_t size) BG_MUST_CHECK;

/* env_put of "name=value". */
int env_set(struct env *env, const char *name, const char *value) BG_MUST_CHECK;

/* env_put of each of from's entries. */
int env_put_all(struct env *env, const struct env *from) BG_MUST_CHECK;

/* env_put of count blobs of the wire (u32 size and bytes), already checked, at blobs. */
int env_put_blobs(struct env *env, const uint8_t *blobs, size_t size, uint32_t count) BG_MUST_CHECK;

/* The value of name, borrowed until the next change; NULL if it is not set. */
const char *env_get(const struct env *env, const char *name);
