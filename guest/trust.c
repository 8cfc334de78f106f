#include "guest/trust.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "guest/keystore.h"

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

/* A keystore that cannot be had is no reason not to start. */
static void trust_in_keystore(const char *path, const uint8_t *pem, size_t size)
{
    char next[PATH_MAX];
    BG_AUTOFREE char *store = NULL;
    BG_AUTOFREE uint8_t *der = malloc(size), *made = NULL;
    size_t store_size = 0, der_size = 0, made_size = 0;
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail with this clock */
    uint64_t now_ms = (uint64_t)now.tv_sec * 1000;
    if (!der || bg_read_file(AT_FDCWD, path, BUNDLE_MAX, &store, &store_size, NULL) < 0 ||
        keystore_read_pem(pem, size, der, &der_size) < 0 ||
        keystore_trust((const uint8_t *)store, store_size, der, der_size, now_ms, &made, &made_size,
                       NULL) < 0 ||
        snprintf(next, sizeof next, "%s.bellglass", path) >= (int)sizeof next)
        return;
    /* Java reads it whole, so it is replaced whole. */
    if (write_bytes(next, made, made_size, O_TRUNC, NULL) < 0 || rename(next, path) < 0)
        (void)unlink(next);
}

int trust_certificate(const struct trust_paths *paths, const uint8_t *pem, size_t size,
                      struct bg_err *err)
{
    const char *file = paths->file, *bundle = paths->bundle;
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
    if (r == 0)
        trust_in_keystore(paths->keystore, pem, size);
    /* Last: it says that all of the above was done. */
    return r < 0 ? r : write_bytes(file, pem, size, O_TRUNC, err);
}
