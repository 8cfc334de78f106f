#include "guest/trust.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"

/* A trust store is about 220 KB; what is much larger is not one. */
#define BUNDLE_MAX      (16u * 1024 * 1024)
#define CERTIFICATE_MAX (64u * 1024)

/* Not durable and not atomic: the next identity writes it again, and a fork waits for us. */
static int write_bytes(const char *path, const void *bytes, size_t size, int flags,
                       struct bg_err *err)
{
    BG_AUTOCLOSE int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0644);
    int r = fd < 0 ? -errno : bg_write_full(fd, bytes, size);
    return r < 0 ? bg_err_errno(err, r, "%s", path) : 0;
}

/* Line breaks take its place, which every reader passes over: nothing else in the bundle moves, and
 * an end in the middle leaves a whole bundle but for this one. */
static int blank(const char *path, char *bundle, const char *at, size_t size, struct bg_err *err)
{
    size_t offset = (size_t)(at - bundle);
    memset(bundle + offset, '\n', size);
    BG_AUTOCLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || pwrite(fd, bundle + offset, size, (off_t)offset) != (ssize_t)size)
        return bg_err_errno(err, fd < 0 || errno ? -errno : -EIO, "%s", path);
    return 0;
}

int trust_certificate(const char *file, const char *bundle, const uint8_t *pem, size_t size,
                      struct bg_err *err)
{
    BG_AUTOFREE char *before = NULL;
    BG_AUTOFREE char *all = NULL;
    size_t before_size = 0, all_size = 0;
    struct bg_err why = {0};
    if (bg_read_file(AT_FDCWD, file, CERTIFICATE_MAX, &before, &before_size, NULL) < 0)
        before_size = 0;
    if (before_size == size && memcmp(before, pem, size) == 0)
        return 0;
    int r = bg_read_file(AT_FDCWD, bundle, BUNDLE_MAX, &all, &all_size, &why);
    if (r < 0 && r != -ENOENT)
        return bg_err_set(err, r, "%s", why.text);
    r = 0;
    const char *old = all && before_size > 0 ? memmem(all, all_size, before, before_size) : NULL;
    if (old)
        r = blank(bundle, all, old, before_size, err);
    if (r == 0 && (!all || !memmem(all, all_size, pem, size))) {
        bool newline = all && all_size > 0 && all[all_size - 1] != '\n';
        r = newline ? write_bytes(bundle, "\n", 1, O_APPEND, err) : 0;
        if (r == 0)
            r = write_bytes(bundle, pem, size, O_APPEND, err);
    }
    /* Last: it says that all of the above was done. */
    return r < 0 ? r : write_bytes(file, pem, size, O_TRUNC, err);
}
