#include "guest/sockets.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>

#define BACKLOG 128

static unsigned port_of(const struct sockaddr *address)
{
    /* sin_port and sin6_port are at the same place. */
    struct sockaddr_in in;
    memcpy(&in, address, sizeof in);
    return ntohs(in.sin_port);
}

int sockets_bind(const struct sockaddr *address, socklen_t size, int type, int *ret_fd,
                 struct bg_err *err)
{
    BG_AUTOCLOSE int fd =
        socket(address->sa_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, /* protocol= */ 0);
    int on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, address, size) < 0 || (type == SOCK_STREAM && listen(fd, BACKLOG) < 0))
        return bg_err_errno(err, -errno, "listening on loopback port %u", port_of(address));
    *ret_fd = bg_take_fd(&fd);
    return 0;
}
