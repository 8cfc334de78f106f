#include "net/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "common/checked.h"
#include "common/quote.h"

/* One part of a dotted address, as inet_aton(3) and the WHATWG URL standard read it. */
static bool parse_part(const char *text, size_t size, uint64_t *ret)
{
    unsigned base = 10;
    if (size >= 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
        base = 16;
        text += 2;
        size -= 2;
    } else if (size >= 2 && text[0] == '0') {
        base = 8;
        text++;
        size--;
    } else if (size == 0) {
        return false;
    }
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++) {
        unsigned digit;
        char c = text[i];
        if (c >= '0' && c <= '9')
            digit = (unsigned)(c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            digit = (unsigned)((c | 0x20) - 'a') + 10;
        else
            return false;
        if (digit >= base)
            return false;
        value = value * base + digit;
        if (value > UINT32_MAX)
            return false;
    }
    *ret = value;
    return true;
}

/* True when a resolver or a client may take the last part for a number, so that the whole is an
 * address and never a name. */
static bool last_part_numeric(const char *text, size_t size)
{
    const char *dot = memrchr(text, '.', size);
    const char *part = dot ? dot + 1 : text;
    size_t left = size - (size_t)(part - text);
    if (left == 0)
        return false;
    if (left >= 2 && part[0] == '0' && (part[1] == 'x' || part[1] == 'X')) {
        for (size_t i = 2; i < left; i++)
            if (!((part[i] >= '0' && part[i] <= '9') ||
                  ((part[i] | 0x20) >= 'a' && (part[i] | 0x20) <= 'f')))
                return false;
        return true;
    }
    for (size_t i = 0; i < left; i++)
        if (part[i] < '0' || part[i] > '9')
            return false;
    return true;
}

static int parse_v4(const char *text, size_t size, struct address *ret)
{
    uint64_t parts[4];
    size_t count = 0;
    for (size_t at = 0;; count++) {
        const char *dot = memchr(text + at, '.', size - at);
        size_t end = dot ? (size_t)(dot - text) : size;
        if (count == 4 || !parse_part(text + at, end - at, &parts[count]))
            return -EINVAL;
        if (!dot) {
            count++;
            break;
        }
        at = end + 1;
    }
    uint64_t value = parts[count - 1];
    if (value >> (8 * (5 - count)))
        return -EINVAL;
    for (size_t i = 0; i + 1 < count; i++) {
        if (parts[i] > 255)
            return -EINVAL;
        value |= parts[i] << (24 - 8 * i);
    }
    *ret = (struct address){.family = 4,
                            .bytes = {(uint8_t)(value >> 24), (uint8_t)(value >> 16),
                                      (uint8_t)(value >> 8), (uint8_t)value}};
    return 0;
}

static struct address from_v6_bytes(const uint8_t bytes[16])
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    struct address a = {.family = 6};
    if (memcmp(bytes, mapped, sizeof mapped) == 0) {
        a.family = 4;
        memcpy(a.bytes, bytes + 12, 4);
    } else {
        memcpy(a.bytes, bytes, 16);
    }
    return a;
}

static int parse_v6(const char *text, size_t size, struct address *ret)
{
    char copy[INET6_ADDRSTRLEN];
    if (text[0] == '[') {
        if (size < 2 || text[size - 1] != ']')
            return -EINVAL;
        text++;
        size -= 2;
    }
    if (size >= sizeof copy || memchr(text, 0, size))
        return -EINVAL;
    memcpy(copy, text, size);
    copy[size] = '\0';
    uint8_t bytes[16];
    if (inet_pton(AF_INET6, copy, bytes) != 1) /* refuses zone ids */
        return -EINVAL;
    *ret = from_v6_bytes(bytes);
    return 0;
}

int address_parse(const char *text, size_t size, struct address *ret)
{
    if (size == 0)
        return -ENOENT;
    if (text[0] == '[' || memchr(text, ':', size))
        return parse_v6(text, size, ret);
    if (text[size - 1] == '.')
        size--;
    return last_part_numeric(text, size) ? parse_v4(text, size, ret) : -ENOENT;
}

int address_from_sockaddr(const struct sockaddr *sa, struct address *ret)
{
    if (sa->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof in);
        struct address a = {.family = 4};
        memcpy(a.bytes, &in.sin_addr, 4);
        *ret = a;
        return 0;
    }
    if (sa->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, sa, sizeof in6);
        *ret = from_v6_bytes(in6.sin6_addr.s6_addr);
        return 0;
    }
    return -EAFNOSUPPORT;
}

socklen_t address_to_sockaddr(const struct address *address, uint16_t port,
                              struct sockaddr_storage *ret)
{
    memset(ret, 0, sizeof *ret);
    if (address->family == 4) {
        struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
        memcpy(&in.sin_addr, address->bytes, 4);
        memcpy(ret, &in, sizeof in);
        return sizeof in;
    }
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    memcpy(&in6.sin6_addr, address->bytes, 16);
    memcpy(ret, &in6, sizeof in6);
    return sizeof in6;
}

bool address_equal(const struct address *a, const struct address *b)
{
    return a->family == b->family && memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

void address_format(const struct address *address, char out[ADDRESS_TEXT_SIZE])
{
    /* Cannot fail: the family is one of the two and the buffer is large enough. */
    (void)inet_ntop(address->family == 4 ? AF_INET : AF_INET6, address->bytes, out,
                    ADDRESS_TEXT_SIZE);
}

struct range {
    uint8_t prefix[4];
    uint8_t bits;
    uint8_t class; /* enum address_class */
};

static bool same_bits(const uint8_t *a, const uint8_t *b, unsigned bits)
{
    for (unsigned bit = 0; bit < bits; bit += 8) {
        unsigned left = bits - bit;
        uint8_t mask = left >= 8 ? 0xff : (uint8_t)(0xff << (8 - left));
        if ((a[bit / 8] ^ b[bit / 8]) & mask)
            return false;
    }
    return true;
}

/* The first range that has all of a network of so many bits; NULL: none. */
static const struct range *find_range(const struct range *ranges, size_t count,
                                      const uint8_t *bytes, unsigned bits)
{
    for (size_t i = 0; i < count; i++)
        if (ranges[i].bits <= bits && same_bits(bytes, ranges[i].prefix, ranges[i].bits))
            return &ranges[i];
    return NULL;
}

static enum address_class classify_v4(const uint8_t *bytes, unsigned bits)
{
    /* IANA's IPv4 special-purpose registry, plus class D and E, and the one public address that
     * leads from a virtual machine to its cloud's own services (Azure). */
    static const struct range ranges[] = {
        {{0}, 8, ADDRESS_UNSPECIFIED},         {{10}, 8, ADDRESS_PRIVATE},
        {{100, 64}, 10, ADDRESS_SHARED},       {{127}, 8, ADDRESS_LOOPBACK},
        {{169, 254}, 16, ADDRESS_LINK_LOCAL},  {{172, 16}, 12, ADDRESS_PRIVATE},
        {{192, 0, 0}, 24, ADDRESS_RESERVED},   {{192, 0, 2}, 24, ADDRESS_RESERVED},
        {{192, 88, 99}, 24, ADDRESS_RESERVED}, {{192, 168}, 16, ADDRESS_PRIVATE},
        {{198, 18}, 15, ADDRESS_RESERVED},     {{198, 51, 100}, 24, ADDRESS_RESERVED},
        {{203, 0, 113}, 24, ADDRESS_RESERVED}, {{224}, 4, ADDRESS_MULTICAST},
        {{240}, 4, ADDRESS_RESERVED},          {{168, 63, 129, 16}, 32, ADDRESS_RESERVED},
    };
    const struct range *range = find_range(ranges, sizeof ranges / sizeof *ranges, bytes, bits);
    return range ? (enum address_class)range->class : ADDRESS_PUBLIC;
}

static enum address_class classify_v6(const uint8_t *bytes, unsigned bits)
{
    static const uint8_t zero[16];
    static const uint8_t one[16] = {[15] = 1};
    if (bits == 128 && memcmp(bytes, zero, 16) == 0)
        return ADDRESS_UNSPECIFIED;
    if (bits == 128 && memcmp(bytes, one, 16) == 0)
        return ADDRESS_LOOPBACK;
    /* Only 2000::/3 is handed out for global unicast, and not all of it. */
    static const struct range ranges[] = {
        {{0xfc}, 7, ADDRESS_PRIVATE},
        {{0xfe, 0x80}, 10, ADDRESS_LINK_LOCAL},
        {{0xfe, 0xc0}, 10, ADDRESS_PRIVATE},
        {{0xff}, 8, ADDRESS_MULTICAST},
        {{0x20, 0x01, 0x00}, 23, ADDRESS_RESERVED}, /* Teredo, ORCHID and kin */
        {{0x20, 0x01, 0x0d, 0xb8}, 32, ADDRESS_RESERVED},
        {{0x20, 0x02}, 16, ADDRESS_RESERVED},       /* 6to4 */
        {{0x3f, 0xff, 0x00}, 20, ADDRESS_RESERVED}, /* documentation, RFC 9637 */
    };
    const struct range *range = find_range(ranges, sizeof ranges / sizeof *ranges, bytes, bits);
    if (range)
        return (enum address_class)range->class;
    return bits < 3 || (bytes[0] & 0xe0) == 0x20 ? ADDRESS_PUBLIC : ADDRESS_RESERVED;
}

/* What all addresses with the same first bits are; ADDRESS_PUBLIC: some of them are public. */
static enum address_class classify(const struct address *address, unsigned bits)
{
    return address->family == 4 ? classify_v4(address->bytes, bits)
                                : classify_v6(address->bytes, bits);
}

unsigned address_bits(const struct address *address)
{
    return address->family == 4 ? 32 : 128;
}

enum address_class address_classify(const struct address *address)
{
    return classify(address, address_bits(address));
}

const char *address_class_text(enum address_class class)
{
    switch (class) {
    case ADDRESS_PUBLIC:
        return "a public address";
    case ADDRESS_UNSPECIFIED:
        return "an unspecified address";
    case ADDRESS_LOOPBACK:
        return "a loopback address";
    case ADDRESS_LINK_LOCAL:
        return "a link-local address";
    case ADDRESS_PRIVATE:
        return "a private address";
    case ADDRESS_SHARED:
        return "a shared (carrier) address";
    case ADDRESS_MULTICAST:
        return "a multicast address";
    case ADDRESS_RESERVED:
        return "a reserved address";
    }
    return "an address of no known kind";
}

int address_network_parse(const char *text, size_t size, struct address_network *ret,
                          struct bg_err *err)
{
    const char *slash = memchr(text, '/', size);
    struct address_network n = {0};
    uint64_t bits = 0;
    char shown[64], digits[4] = "", first[ADDRESS_TEXT_SIZE];
    (void)bg_escape(text, size, shown, sizeof shown);
    size_t head = slash ? (size_t)(slash - text) : 0, tail = slash ? size - head - 1 : 0;
    if (tail > 0 && tail < sizeof digits)
        memcpy(digits, slash + 1, tail);
    if (!slash || address_parse(text, head, &n.first) < 0 ||
        bg_parse_u64(digits, 0, address_bits(&n.first), &bits) < 0 ||
        (tail > 1 && digits[0] == '0'))
        return bg_err_set(err, -EINVAL, "'%s' is no network; want ADDRESS/BITS, as in 10.0.3.0/24",
                          shown);
    if (n.first.family == 4 && memchr(text, ':', head))
        return bg_err_set(err, -EINVAL, "'%s': write it as an IPv4 network", shown);
    n.bits = (unsigned)bits;
    const struct address given = n.first;
    for (unsigned bit = n.bits; bit < address_bits(&given); bit++)
        n.first.bytes[bit / 8] &= (uint8_t) ~(0x80u >> bit % 8);
    if (!address_equal(&given, &n.first)) {
        address_format(&n.first, first);
        return bg_err_set(err, -EINVAL, "'%s' has bits set behind the first %u; want %s/%u", shown,
                          n.bits, first, n.bits);
    }
    *ret = n;
    return 0;
}

bool address_network_has(const struct address_network *network, const struct address *address)
{
    return address->family == network->first.family &&
           same_bits(address->bytes, network->first.bytes, network->bits);
}

/* Where clouds tell virtual machines their credentials. */
static bool is_metadata(const struct address *address)
{
    static const struct address services[] = {
        {4, {169, 254, 169, 254}},
        {4, {169, 254, 170, 2}},   /* of containers at AWS */
        {4, {169, 254, 170, 23}},  /* likewise, EKS */
        {4, {100, 100, 100, 200}}, /* Alibaba */
        {4, {192, 0, 0, 192}},     /* Oracle */
        {4, {168, 63, 129, 16}},   /* Azure's WireServer */
        {6, {0xfd, 0, 0x0e, 0xc2, [14] = 0x02, 0x54}},
        {6, {0xfd, 0, 0x0e, 0xc2, [15] = 0x23}},
        {6, {0xfd, 0x20, 0, 0xce, [14] = 0x02, 0x54}}, /* Google */
    };
    for (size_t i = 0; i < sizeof services / sizeof *services; i++)
        if (address_equal(address, &services[i]))
            return true;
    return false;
}

bool address_network_means(const struct address_network *network, const struct address *address)
{
    if (!address_network_has(network, address))
        return false;
    if (network->bits == address_bits(address))
        return true;
    if (is_metadata(address))
        return false;
    enum address_class class = address_classify(address);
    return class == ADDRESS_PUBLIC || class == classify(&network->first, network->bits);
}

void address_network_format(const struct address_network *network,
                            char out[ADDRESS_NETWORK_TEXT_SIZE])
{
    char first[ADDRESS_TEXT_SIZE];
    address_format(&network->first, first);
    (void)snprintf(out, ADDRESS_NETWORK_TEXT_SIZE, "%s/%u", first, network->bits);
}
