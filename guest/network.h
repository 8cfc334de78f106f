/* The guest's network, in a process of its own: interface, redirection, DNS, egress. It holds no
 * state that the guest cannot get again, so the agent starts it anew when it ends. */
#pragma once

#include <sys/types.h>

struct agent_opts;

/* Forks it. Returns its pid or negative errno. */
pid_t network_start(const struct agent_opts *opts);
