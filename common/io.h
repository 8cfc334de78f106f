/* Whole reads and writes on fds, small files, and fds over sockets. Blocking; for use where no loop
 * runs, and at start-up. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

/* Reads exactly size bytes, through EINTR. Errors: -ENODATA at end of file before that, or the
 * errno of read. */
int bg_read_full(int fd, void *buffer, size_t size) BG_MUST_CHECK;
/* The same at an offset, by pread. */
int bg_pread_full(int fd, void *buffer, size_t size, uint64_t offset) BG_MUST_CHECK;

/* Writes all bytes, through EINTR. Errors: errno of write. */
int bg_write_full(int fd, const void *bytes, size_t size) BG_MUST_CHECK;

/* Reads a whole small file. *ret_bytes: heap, owned by the caller, with a NUL after the end that
 * *ret_size does not count. dir_fd as in openat(2). Errors: -EFBIG above size_max; errno of open,
 * read. */
int bg_read_file(int dir_fd, const char *path, size_t size_max, char **ret_bytes, size_t *ret_size,
                 struct bg_err *err) BG_MUST_CHECK;

/* Replaces path atomically and durably: temporary file in the same folder, fsync, rename, fsync of
 * the folder. mode: permission bits. Errors: errno of the failing call; path is then as before. */
int bg_write_file(int dir_fd, const char *path, const void *bytes, size_t size, mode_t mode,
                  struct bg_err *err) BG_MUST_CHECK;

/* Sends one message with at most one fd over a Unix socket. fd < 0: none. Errors: errno of
 * sendmsg; -EMSGSIZE on a short send. */
int bg_send_fd(int socket, const void *bytes, size_t size, int fd) BG_MUST_CHECK;
/* The same with up to BG_RECV_FDS_MAX. */
int bg_send_fds(int socket, const void *bytes, size_t size, const int *fds,
                size_t fd_count) BG_MUST_CHECK;

/* Receives one message and at most BG_RECV_FDS_MAX fds (O_CLOEXEC; owned by the caller). Returns
 * the size of the message, 0 at the end of the stream, or negative errno: -EMSGSIZE when the
 * message or its fds did not fit (none is kept then). *ret_fd_count is set on success. */
#define BG_RECV_FDS_MAX 16
ssize_t bg_recv_fds(int socket, void *buffer, size_t size, int fds[BG_RECV_FDS_MAX],
                    size_t *ret_fd_count) BG_MUST_CHECK;

/* The number of an open fd in an argument, which programs that we start do not get (FD_CLOEXEC from
 * now on). Errors: -EBADF. */
int bg_parse_fd(const char *text, int *ret) BG_MUST_CHECK; /* text may be NULL */

/* Asks for a send buffer of this size on a socket; gets as much as the system allows. */
void bg_send_buffer(int socket, int size);

/* Fills buffer with random bytes from the kernel; aborts if there is no getrandom(2). */
void bg_random(void *buffer, size_t size);

/* What a hex digit of either case stands for, or -1. */
int bg_hex_digit(char c);

/* size bytes as 2*size lowercase hex digits and a NUL. */
void bg_hex(const void *bytes, size_t size, char *out);

/* CLOCK_MONOTONIC in milliseconds. */
uint64_t bg_now_ms(void);
