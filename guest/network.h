/* The guest's network, in a process of its own: interface, redirection, DNS, egress. It holds no
 * state that the guest cannot get again, so the agent starts it anew when it ends. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

struct agent_opts;

/* Forks it. Returns its pid or negative errno. *ret_fd: its socket, the caller's. */
pid_t network_start(const struct agent_opts *opts, int *ret_fd);

/* What is said on the socket, a message at a time: the agent tells how its streams are parked and
 * go on (guest/parking.h), the process answers PARK by PARKED. Both are one program. */
enum {
    NETWORK_PARK,
    NETWORK_RESUME, /* id, host_has; with the new connection */
    NETWORK_GO_ON,  /* how */
    NETWORK_RESET,  /* every connection is gone */
    NETWORK_PARKED,
};

struct network_message {
    uint64_t host_has;
    uint32_t op, id, how; /* how: enum bg_go_on */
};
