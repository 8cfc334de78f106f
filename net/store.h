/* The values of secrets on disk: DATA/secrets/NAME, mode 0600 in a 0700 folder. Nobody else reads
 * or writes there. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/* Keeps a value under a name, replacing the one before. Errors: -EINVAL name or value; errno. */
int store_set(const char *data_dir, const char *name, const void *value, size_t size,
              struct bg_err *err) BG_MUST_CHECK;

/* Reads a value into locked memory, the caller's, to be freed by locked_free(*ret_value,
 * *ret_size). Errors: -ENOENT no such secret; -EINVAL damaged; -EPERM others could read or write
 * it; errno. */
int store_get(const char *data_dir, const char *name, void **ret_value, size_t *ret_size,
              bool *ret_locked, struct bg_err *err) BG_MUST_CHECK;

/* Errors: -ENOENT no such secret. */
int store_remove(const char *data_dir, const char *name, struct bg_err *err) BG_MUST_CHECK;

struct store_entry {
    char *name;
    int64_t changed_ms; /* Unix time */
};

/* All secrets by name: heap array, to be freed by store_list_free. */
int store_list(const char *data_dir, struct store_entry **ret, size_t *ret_count,
               struct bg_err *err) BG_MUST_CHECK;
void store_list_free(struct store_entry *entries, size_t count);
