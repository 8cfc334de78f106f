/* The guest's DNS server, without its sockets: one query in, one answer out. Every name has an
 * address here (guest/names.h); whether it may be reached is the proxy's business. Pure.
 *
 * A and AAAA give the synthetic address, other types of a good name an empty answer. `localhost`
 * and the own host name are the loopback. What cannot be a host name (an IP address, odd bytes)
 * does not exist. Format: RFC 1035 §4; one question, no compression in it. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "guest/names.h"

/* Room that an answer needs: header, the question again, one record with an IPv6 address. */
#define DNS_ANSWER_MAX 512

/* Answers the query (untrusted, any size). hostname: the machine's, as given to sethostname. out:
 * DNS_ANSWER_MAX bytes. Returns the size of the answer, 0 for what deserves none (too short, itself
 * an answer). */
size_t dns_answer(struct names *names, const char *hostname, const uint8_t *query, size_t size,
                  uint8_t *out);
