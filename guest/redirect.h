/* nf_tables rules that send the guest's traffic to the agent: every TCP connection that does not
 * stay on the loopback to port REDIRECT_TCP_PORT there, DNS to REDIRECT_DNS_PORT, and an immediate
 * refusal for everything else (UDP, ICMP), so that clients of QUIC and the like fall back at once.
 *
 *   table inet bellglass {
 *     chain output { type nat hook output priority -100;
 *       oif 1 return
 *       meta l4proto tcp th dport 53 redirect to :DNS
 *       meta l4proto udp th dport 53 redirect to :DNS
 *       meta l4proto tcp redirect to :TCP
 *       reject with icmpx port-unreachable }
 *   }
 *
 * A nat chain sees the first packet of what conntrack knows; what is refused never becomes known,
 * so every packet of it is a first one. (A filter chain after it would still see the old output
 * interface of a redirected packet, and could not tell it from the rest.)
 *
 * Root in the guest can remove them: then its packets go to the dummy interface and nowhere. */
#pragma once

#include "common/err.h"

/* Below 1024, so that only root can take their place. */
#define REDIRECT_TCP_PORT 701
#define REDIRECT_DNS_PORT 702

/* Replaces the table in one transaction. Errors: what the kernel says. */
int redirect_install(struct bg_err *err) BG_MUST_CHECK;
