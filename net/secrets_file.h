/* Values of secrets in one file beside the store, for a proxy that is set up by other tools: lines
 * NAME=VALUE. The value is the rest of the line as it is: no quotes, no escapes. Empty lines and
 * those that begin with # are skipped. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

struct secrets_file {
    void *bytes; /* locked memory, owned */
    size_t size;
};

/* Reads the file into locked memory and checks all of its lines. *ret_locked (may be NULL): as of
 * locked_new. Errors: -EPERM others can read it, or it is not ours; -EINVAL a line, which is named
 * by its number; -EFBIG above BG_SECRETS_FILE_MAX; -ENOMEM; errno. */
int secrets_file_open(const char *path, struct secrets_file *ret, bool *ret_locked,
                      struct bg_err *err) BG_MUST_CHECK;

/* Cleanses it. A zeroed one: no-op. */
void secrets_file_close(struct secrets_file *file);

/* Copies the value of that name into locked memory, the caller's (locked_free). Errors: -ENOENT;
 * -ENOMEM. */
int secrets_file_get(const struct secrets_file *file, const char *name, void **ret_value,
                     size_t *ret_size) BG_MUST_CHECK;
