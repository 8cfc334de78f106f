/* Listening sockets of the network process. */
#pragma once

#include <sys/socket.h>

#include "common/err.h"

/* A nonblocking socket at an address; listening, if type is SOCK_STREAM. *ret_fd: owned by the
 * caller. Errors: errno of socket, bind, listen. */
int sockets_bind(const struct sockaddr *address, socklen_t size, int type, int *ret_fd,
                 struct bg_err *err) BG_MUST_CHECK;
