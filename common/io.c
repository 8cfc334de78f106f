#include "common/io.h"

#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/checked.h"

int bg_read_full(int fd, void *buffer, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = read(fd, (char *)buffer + at, size - at);
        if (n == 0)
            return -ENODATA;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0)
            at += (size_t)n;
    }
    return 0;
}

int bg_pread_full(int fd, void *buffer, size_t size, uint64_t offset)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = pread(fd, (char *)buffer + at, size - at, (off_t)(offset + at));
        if (n == 0)
            return -ENODATA;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0)
            at += (size_t)n;
    }
    return 0;
}

int bg_write_full(int fd, const void *bytes, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = write(fd, (const char *)bytes + at, size - at);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0)
            at += (size_t)n;
    }
    return 0;
}

int bg_read_file(int dir_fd, const char *path, size_t size_max, char **ret_bytes, size_t *ret_size,
                 struct bg_err *err)
{
    BG_AUTOCLOSE int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", path);
    size_t room = 4096, used = 0;
    BG_AUTOFREE char *bytes = malloc(room + 1);
    if (!bytes)
        return bg_err_errno(err, -ENOMEM, "%s", path);
    for (;;) {
        ssize_t n = read(fd, bytes + used, room - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return bg_err_errno(err, -errno, "%s", path);
        if (n == 0)
            break;
        used += (size_t)n;
        if (used > size_max)
            return bg_err_set(err, -EFBIG, "%s: larger than %zu bytes", path, size_max);
        if (used == room) {
            room *= 2;
            char *grown = realloc(bytes, room + 1);
            if (!grown)
                return bg_err_errno(err, -ENOMEM, "%s", path);
            bytes = grown;
        }
    }
    bytes[used] = '\0';
    *ret_bytes = BG_TAKE(bytes);
    if (ret_size)
        *ret_size = used;
    return 0;
}

int bg_write_file(int dir_fd, const char *path, const void *bytes, size_t size, mode_t mode,
                  struct bg_err *err)
{
    uint64_t tag;
    bg_random(&tag, sizeof tag);
    BG_AUTOFREE char *temp = NULL;
    BG_AUTOFREE char *folder = strdup(path);
    if (!folder || asprintf(&temp, "%s.%016llx.tmp", path, (unsigned long long)tag) < 0)
        return bg_err_errno(err, -ENOMEM, "%s", path);
    BG_AUTOCLOSE int fd = openat(dir_fd, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", temp);
    int r = bg_write_full(fd, bytes, size);
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    if (r == 0 && renameat(dir_fd, temp, dir_fd, path) < 0)
        r = -errno;
    if (r < 0) {
        (void)unlinkat(dir_fd, temp, 0); /* it is ours; a leftover only wastes a name */
        return bg_err_errno(err, r, "%s", path);
    }
    BG_AUTOCLOSE int dir = openat(dir_fd, dirname(folder), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0 || fsync(dir) < 0)
        return bg_err_errno(err, -errno, "%s: its folder", path);
    return 0;
}

int bg_send_fds(int socket, const void *bytes, size_t size, const int *fds, size_t fd_count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * BG_RECV_FDS_MAX)];
    } control = {0};
    if (fd_count > BG_RECV_FDS_MAX)
        return -E2BIG;
    struct iovec iov = {.iov_len = size};
    memcpy(&iov.iov_base, &bytes, sizeof bytes); /* sendmsg does not write; iovec has no const */
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd_count > 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
    }
    ssize_t n;
    do {
        n = sendmsg(socket, &msg, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    return (size_t)n == size ? 0 : -EMSGSIZE;
}

int bg_send_fd(int socket, const void *bytes, size_t size, int fd)
{
    return bg_send_fds(socket, bytes, size, &fd, fd >= 0 ? 1 : 0);
}

ssize_t bg_recv_fds(int socket, void *buffer, size_t size, int fds[BG_RECV_FDS_MAX],
                    size_t *ret_fd_count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * BG_RECV_FDS_MAX)];
    } control = {0};
    struct iovec iov = {.iov_base = buffer, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof control.bytes};
    ssize_t n;
    do {
        n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    size_t count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < here && count < BG_RECV_FDS_MAX; i++)
            memcpy(&fds[count++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
    }
    if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        while (count > 0)
            (void)close(fds[--count]); /* received, not wanted */
        return -EMSGSIZE;
    }
    *ret_fd_count = count;
    return n;
}

int bg_parse_fd(const char *text, int *ret)
{
    uint64_t fd;
    if (!text || bg_parse_u64(text, 0, 1 << 20, &fd) < 0 || fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0)
        return -EBADF;
    *ret = (int)fd;
    return 0;
}

void bg_send_buffer(int socket, int size)
{
    /* Only root may go beyond the system's maximum. What is no socket has none, which is fine too.
     */
    if (setsockopt(socket, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) < 0)
        (void)setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

void bg_random(void *buffer, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = getrandom((char *)buffer + at, size - at, 0);
        if (n < 0 && errno != EINTR)
            abort(); /* no source of randomness: nothing here may go on */
        if (n > 0)
            at += (size_t)n;
    }
}

int bg_hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 32); /* lower case */
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

void bg_hex(const void *bytes, size_t size, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *in = bytes;
    for (size_t i = 0; i < size; i++) {
        out[2 * i] = digits[in[i] >> 4];
        out[2 * i + 1] = digits[in[i] & 15];
    }
    out[2 * size] = '\0';
}

uint64_t bg_now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail with this clock */
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}
