/* The process that does echoes (echo.h): it has the mount's parent folder, a socket to the relay
 * and nothing else, and the rights of the mount's user on the mount only. It holds no fd on the
 * mount while it waits, so that the mount is not in use by it. */
#pragma once

#include <sys/types.h>

#include "common/bytes.h"
#include "common/err.h"
#include "common/limits.h"

enum fs_echo_op {
    FS_ECHO_CREATE = 1, /* makes a file */
    FS_ECHO_MKDIR = 2,
    FS_ECHO_WRITE = 3, /* opens it, sets its size to what it is, closes it */
    FS_ECHO_CLOSE = 4, /* opens and closes it, as after writing */
    FS_ECHO_TOUCH = 5, /* sets its times; without a name, those of the folder */
    FS_ECHO_UNLINK = 6,
    FS_ECHO_RMDIR = 7,
    FS_ECHO_RENAME = 8,
};

/* One operation, as a message: u8 op, u64 size, four text32. Folders are paths below the mount, ""
 * for its top; names are one component. */
struct fs_echo_command {
    uint8_t op;
    uint64_t size; /* WRITE */
    char folder[BG_PATH_MAX], name[BG_FS_NAME_MAX + 1];
    char folder2[BG_PATH_MAX], name2[BG_FS_NAME_MAX + 1]; /* RENAME */
};

#define FS_ECHO_COMMAND_MAX (1u + 8u + 4u * 4u + 2u * (BG_PATH_MAX + BG_FS_NAME_MAX))
#define FS_ECHO_RESULT_SIZE 4u /* i32: 0 or negative errno */

void fs_echo_command_emit(const struct fs_echo_command *command, struct bg_writer *w);
/* Errors: -EPROTO. */
int fs_echo_command_parse(const uint8_t *bytes, size_t size,
                          struct fs_echo_command *ret) BG_MUST_CHECK;

/* Starts it for the mount at path (absolute, without symbolic links), which must be mounted. Before
 * the relay gives up its rights. *ret_fd: a non-blocking SOCK_SEQPACKET socket; when it is closed,
 * the process ends. Errors: errno of socketpair, fork, open. */
int fs_echoer_start(const char *path, int *ret_fd, pid_t *ret_pid,
                    struct bg_err *err) BG_MUST_CHECK;
