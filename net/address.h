/* IP addresses as the policy sees them: read from every spelling that some program takes for an
 * address, and sorted into what may be dialled without being named. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "common/cleanup.h"
#include "common/err.h"

struct address {
    uint8_t family;    /* 4 or 6 */
    uint8_t bytes[16]; /* network order; the first 4 for family 4; the rest is 0 */
};

/* Reads an address literal: dotted IPv4 with one to four parts, each decimal, octal (0...) or hex
 * (0x...), with or without a dot at the end; IPv6 with or without brackets. A v4-mapped IPv6
 * address becomes the IPv4 address that it means. Errors: -ENOENT it is no address, perhaps a name;
 * -EINVAL it looks like one and is none (part too large, zone id): to be refused. */
int address_parse(const char *text, size_t size, struct address *ret) BG_MUST_CHECK;

/* From and to the kernel's form. Errors: -EAFNOSUPPORT. */
int address_from_sockaddr(const struct sockaddr *sa, struct address *ret) BG_MUST_CHECK;
socklen_t address_to_sockaddr(const struct address *address, uint16_t port,
                              struct sockaddr_storage *ret);

bool address_equal(const struct address *a, const struct address *b);

/* 32 or 128 */
unsigned address_bits(const struct address *address);

/* Canonical text, without brackets. */
#define ADDRESS_TEXT_SIZE 46
void address_format(const struct address *address, char out[ADDRESS_TEXT_SIZE]);

enum address_class {
    ADDRESS_PUBLIC,
    ADDRESS_UNSPECIFIED, /* 0/8, :: */
    ADDRESS_LOOPBACK,
    ADDRESS_LINK_LOCAL, /* with the cloud's metadata service */
    ADDRESS_PRIVATE,    /* RFC 1918, unique local */
    ADDRESS_SHARED,     /* 100.64/10, carrier-grade NAT */
    ADDRESS_MULTICAST,
    ADDRESS_RESERVED, /* documentation, benchmarks, NAT64, 6to4, Teredo, not assigned */
};

enum address_class address_classify(const struct address *address);

/* "a loopback address" */
const char *address_class_text(enum address_class class);

/* A network: all addresses with the same first bits. */
struct address_network {
    struct address first; /* the others' bits are 0 */
    unsigned bits;        /* up to 32 or 128 */
};

/* Reads ADDRESS/BITS; brackets around an IPv6 address are possible. Errors: -EINVAL malformed, or
 * with bits set behind the first BITS, or IPv4 written as IPv6. */
int address_network_parse(const char *text, size_t size, struct address_network *ret,
                          struct bg_err *err) BG_MUST_CHECK;

bool address_network_has(const struct address_network *network, const struct address *address);

/* True if whoever names the network means the address too. A public one in it, always. One that is
 * not public only if the network lies wholly within a range of that kind: 0.0.0.0/0 is no way to
 * loopback. And no network but of one address means a cloud's metadata service. */
bool address_network_means(const struct address_network *network, const struct address *address);

#define ADDRESS_NETWORK_TEXT_SIZE (ADDRESS_TEXT_SIZE + 4)
void address_network_format(const struct address_network *network,
                            char out[ADDRESS_NETWORK_TEXT_SIZE]);
