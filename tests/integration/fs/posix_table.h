/* What POSIX and Linux say that calls do, as tables of cases. Each runs in an empty folder, which
 * is its working directory, on the mount and on a local file system, so that the expectation itself
 * is tested. */
#pragma once

#include <stddef.h>

struct posix_case {
    const char *name;
    void (*run)(void);
    const char *differs; /* why the mount is not as other file systems here; NULL: it is */
};

struct posix_table {
    const struct posix_case *cases;
    size_t count;
};

extern const struct posix_table posix_basics, posix_names, posix_data, posix_times, posix_folders,
    posix_locks;
