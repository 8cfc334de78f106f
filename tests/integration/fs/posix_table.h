/* What POSIX says that calls do, as a table of cases. Each runs in an empty folder, which is its
 * working directory. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct posix_case {
    const char *name;
    void (*run)(void);
    bool mount_only; /* a rule of ours that other file systems do not have */
};

extern const struct posix_case posix_table[];
extern const size_t posix_table_size;
