/* Netlink requests, built by hand and acknowledged one by one: what the agent configures is little,
 * and a library for each of two families would be more. Blocking; the peer is the kernel. Integers
 * are in host byte order unless the kernel's header says otherwise. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/* Everything that one request, or one batch of nf_tables, may be. */
#define NETLINK_SIZE_MAX 8192

struct netlink {
    int fd;
    uint32_t sequence;
    size_t used;
    size_t message; /* offset of the message at hand */
    bool failed;    /* something did not fit: netlink_send says so */
    uint8_t bytes[NETLINK_SIZE_MAX] __attribute__((aligned(8)));
};

/* protocol: NETLINK_ROUTE, NETLINK_NETFILTER. End with netlink_done. Errors: errno of socket. */
int netlink_init(struct netlink *nl, int protocol, struct bg_err *err) BG_MUST_CHECK;
void netlink_done(struct netlink *nl);

/* Begins a message; flags beside NLM_F_REQUEST. Then its fixed header, then attributes. */
void netlink_begin(struct netlink *nl, uint16_t type, uint16_t flags);
void netlink_header(struct netlink *nl, const void *bytes, size_t size);

void netlink_put(struct netlink *nl, uint16_t type, const void *bytes, size_t size);
void netlink_put_u32(struct netlink *nl, uint16_t type, uint32_t value);
void netlink_put_u32be(struct netlink *nl, uint16_t type, uint32_t value);
void netlink_put_text(struct netlink *nl, uint16_t type, const char *text); /* with its NUL */

/* A nested attribute: what is put until netlink_nest_end is in it. */
size_t netlink_nest(struct netlink *nl, uint16_t type);
void netlink_nest_end(struct netlink *nl, size_t nest);

/* Sends what was built and waits for the acknowledgement of each message that asked for one
 * (NLM_F_ACK). The buffer is empty then. Errors: what the kernel said first. */
int netlink_send(struct netlink *nl, struct bg_err *err) BG_MUST_CHECK;
