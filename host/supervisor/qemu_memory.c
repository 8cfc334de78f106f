/* Loaded into QEMU before its libraries (LD_PRELOAD). QEMU up to 8.1 opens the file behind
 * `memory-backend-file,share=off` for writing although it maps it private. The file is a snapshot
 * that all forks share, so no QEMU may be able to write it: this turns that one open into a
 * read-only one, which a private writable mapping is content with (mmap(2)). */
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static int open_file(const char *path, int flags, mode_t mode)
{
    const char *memory = getenv("BELLGLASS_MEMORY_PATH");
    if (memory && strcmp(path, memory) == 0 && (flags & O_ACCMODE) == O_RDWR)
        flags = (flags & ~O_ACCMODE) | O_RDONLY;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

#define FORWARD(name)                                                                              \
    EXPORT int name(const char *path, int flags, ...);                                             \
    EXPORT int name(const char *path, int flags, ...)                                              \
    {                                                                                              \
        mode_t mode = 0;                                                                           \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                                     \
            va_list args;                                                                          \
            va_start(args, flags);                                                                 \
            mode = va_arg(args, mode_t);                                                           \
            va_end(args);                                                                          \
        }                                                                                          \
        return open_file(path, flags, mode);                                                       \
    }
FORWARD(open)
FORWARD(open64)

EXPORT int __open_2(const char *path, int flags);
EXPORT int __open_2(const char *path, int flags)
{
    return open_file(path, flags, 0);
}

EXPORT int __open64_2(const char *path, int flags);
EXPORT int __open64_2(const char *path, int flags)
{
    return open_file(path, flags, 0);
}
