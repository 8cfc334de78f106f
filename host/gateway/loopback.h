/* loopback: which addresses are of this machine alone. */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>

bool loopback_is(const struct sockaddr_storage *address);
