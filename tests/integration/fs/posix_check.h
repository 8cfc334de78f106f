/* What the cases of the POSIX tables have in common. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/integration/fs/posix_table.h"

#define assert_ok(expression)                                                                      \
    do {                                                                                           \
        if ((expression) < 0)                                                                      \
            fail_msg("%s: %s", #expression, strerror(errno));                                      \
    } while (0)
#define assert_errno(expression, want)                                                             \
    do {                                                                                           \
        errno = 0;                                                                                 \
        if ((expression) >= 0)                                                                     \
            fail_msg("%s: no error", #expression);                                                 \
        if (errno != (want))                                                                       \
            fail_msg("%s: %s", #expression, strerror(errno));                                      \
    } while (0)

static inline void make_file(const char *name, const char *text)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_ok(fd);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_ok(close(fd));
}

static inline const char *text_of(const char *name)
{
    static char text[4096];
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    assert_ok(fd);
    ssize_t n = read(fd, text, sizeof text - 1);
    assert_ok(n);
    text[n] = '\0';
    assert_ok(close(fd));
    return text;
}

static inline struct stat stat_of(const char *name)
{
    struct stat st;
    assert_ok(lstat(name, &st));
    return st;
}

/* A child ends by _exit: it must not come back into cmocka. Returns its status. */
static inline int status_of(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            fail_msg("waitpid: %s", strerror(errno));
    if (!WIFEXITED(status))
        fail_msg("a child was ended by signal %d", WTERMSIG(status));
    return WEXITSTATUS(status);
}
