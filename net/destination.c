#include "net/destination.h"

#include <stdio.h>
#include <string.h>

#include "common/quote.h"

#define LABEL_MAX 63u

static bool label_ok(const char *label, size_t size)
{
    if (size == 0 || size > LABEL_MAX || label[0] == '-' || label[size - 1] == '-')
        return false;
    /* "xn--" and nothing encodes no name. */
    return !(size == 4 && memcmp(label, "xn--", 4) == 0);
}

/* Lower-cases a DNS name into out and checks it. */
static bool canonical_name(const char *text, size_t size, char out[DESTINATION_HOST_SIZE])
{
    if (size > 0 && text[size - 1] == '.')
        size--;
    if (size == 0 || size >= DESTINATION_HOST_SIZE)
        return false;
    size_t label = 0;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (c >= 'A' && c <= 'Z')
            c = (char)(c | 0x20);
        out[i] = c;
        if (c == '.') {
            if (!label_ok(out + label, i - label))
                return false;
            label = i + 1;
        } else if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_')) {
            return false;
        }
    }
    out[size] = '\0';
    return label_ok(out + label, size - label);
}

int destination_parse_host(const char *text, size_t size, struct destination *ret,
                           struct bg_err *err)
{
    struct destination d = {0};
    int r = address_parse(text, size, &d.address);
    if (r == 0) {
        d.is_address = true;
        address_format(&d.address, d.host);
    } else if (r != -ENOENT || !canonical_name(text, size, d.host)) {
        char shown[128];
        bg_escape(text, size, shown, sizeof shown);
        bool wide = false;
        for (size_t i = 0; i < size; i++)
            wide |= (uint8_t)text[i] >= 0x80;
        return bg_err_set(err, -EINVAL, "'%s' is no host name or address%s", shown,
                          wide ? "; write an international name in its xn-- form" : "");
    }
    *ret = d;
    return 0;
}

int destination_parse_port(const char *text, size_t size, uint16_t *ret)
{
    unsigned value = 0;
    if (size == 0 || size > 5 || text[0] == '0')
        return -EINVAL;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -EINVAL;
        value = value * 10 + (unsigned)(text[i] - '0');
    }
    if (value > UINT16_MAX)
        return -EINVAL;
    *ret = (uint16_t)value;
    return 0;
}

int destination_parse(const char *text, size_t size, uint16_t port_default, struct destination *ret,
                      struct bg_err *err)
{
    uint16_t port = port_default;
    size_t host_size = size;
    const char *bracket = size > 0 && text[0] == '[' ? memchr(text, ']', size) : NULL;
    const char *after = bracket ? bracket + 1 : text;
    const char *colon = memchr(after, ':', size - (size_t)(after - text));
    if (colon) {
        host_size = (size_t)(colon - text);
        if (destination_parse_port(colon + 1, size - host_size - 1, &port) < 0) {
            char shown[64];
            bg_escape(colon + 1, size - host_size - 1, shown, sizeof shown);
            return bg_err_set(err, -EINVAL, "'%s' is no port; use 1 to 65535%s", shown,
                              bracket ? "" : ", and [brackets] around an IPv6 address");
        }
    }
    struct destination d;
    int r = destination_parse_host(text, host_size, &d, err);
    if (r < 0)
        return r;
    d.port = port;
    *ret = d;
    return 0;
}

bool destination_same_host(const struct destination *a, const struct destination *b)
{
    return a->is_address == b->is_address && strcmp(a->host, b->host) == 0;
}

void destination_format(const struct destination *destination, uint16_t port_default,
                        char out[DESTINATION_TEXT_SIZE])
{
    bool v6 = destination->is_address && destination->address.family == 6;
    const char *open = v6 ? "[" : "", *close = v6 ? "]" : "";
    if (destination->port == port_default)
        (void)snprintf(out, DESTINATION_TEXT_SIZE, "%s%s%s", open, destination->host, close);
    else
        (void)snprintf(out, DESTINATION_TEXT_SIZE, "%s%s%s:%u", open, destination->host, close,
                       destination->port);
}
