/* Cleanup attributes for locals: what a function owns is released on every way out, and handed
 * over with BG_TAKE. */
#pragma once

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static inline void bg_cleanup_free(void *p)
{
    free(*(void **)p);
}

static inline void bg_cleanup_close(const int *fd)
{
    if (*fd >= 0) {
        int saved = errno;
        (void)close(*fd); /* nothing can be done about a failed close of a dropped fd */
        errno = saved;
    }
}

/* Frees the pointer at scope end. NULL is fine. */
#define BG_AUTOFREE __attribute__((cleanup(bg_cleanup_free)))
/* Closes the fd at scope end unless it is negative. */
#define BG_AUTOCLOSE __attribute__((cleanup(bg_cleanup_close)))

/* Steals a pointer out of its cleanup variable. */
#define BG_TAKE(p)                                                                                 \
    ({                                                                                             \
        __typeof__(p) bg_taken_ = (p);                                                             \
        (p) = NULL;                                                                                \
        bg_taken_;                                                                                 \
    })

/* Steals an fd out of its cleanup variable. */
static inline int bg_take_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

#define BG_MUST_CHECK                      __attribute__((warn_unused_result))
#define BG_PRINTF(format_index, first_arg) __attribute__((format(printf, format_index, first_arg)))
