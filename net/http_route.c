#include "net/http_route.h"

#include <string.h>

/* The parts of an absolute-form target. */
struct absolute {
    bool https;
    struct slice authority, path;
};

static bool parse_absolute(struct slice target, struct absolute *ret)
{
    struct absolute a = {0};
    if (target.size >= 7 && strncasecmp(target.at, "http://", 7) == 0) {
        target.at += 7;
        target.size -= 7;
    } else if (target.size >= 8 && strncasecmp(target.at, "https://", 8) == 0) {
        a.https = true;
        target.at += 8;
        target.size -= 8;
    } else {
        return false;
    }
    size_t size = 0;
    while (size < target.size && target.at[size] != '/' && target.at[size] != '?')
        size++;
    a.authority = (struct slice){target.at, size};
    a.path = (struct slice){target.at + size, target.size - size};
    /* "http://host?query" has no path to send; nobody writes it, and guessing is not needed. */
    if (a.path.size > 0 && a.path.at[0] == '?')
        return false;
    if (a.path.size == 0)
        a.path = (struct slice){"/", 1};
    *ret = a;
    return true;
}

/* Checks one spelling of the destination against the one that holds. A port that is not given is
 * that of the connection. */
static int check_same(struct slice authority, const char *what, const struct destination *want,
                      int *ret_status, struct bg_err *err)
{
    struct destination d;
    *ret_status = 400;
    if (destination_parse(authority.at, authority.size, want->port, &d, err) < 0)
        return (void)bg_err_prefix(err, "%s", what), -EPROTO;
    if (destination_same_host(&d, want) && d.port == want->port)
        return 0;
    char is[DESTINATION_TEXT_SIZE], should[DESTINATION_TEXT_SIZE];
    destination_format(&d, 0, is);
    destination_format(want, 0, should);
    *ret_status = 421;
    return bg_err_set(err, -EPROTO, "%s is %s on a connection for %s", what, is, should);
}

static int check_host(const struct http_head *head, const struct destination *want, int *ret_status,
                      struct bg_err *err)
{
    const struct http_field *host = http_head_field(head, "host", NULL);
    return host ? check_same(host->value, "Host", want, ret_status, err) : 0;
}

int http_route(const struct http_head *head, const struct http_route_opts *opts,
               struct http_route *ret, int *ret_status, struct bg_err *err)
{
    struct http_route route = {0};
    struct slice target = head->target;
    struct absolute absolute;
    *ret_status = 400;
    if (slice_is(head->method, "connect")) {
        if (opts->fixed)
            return bg_err_set(err, -EPROTO, "CONNECT inside of a connection to a host");
        if (destination_parse(target.at, target.size, 0, &route.destination, err) < 0)
            return (void)bg_err_prefix(err, "CONNECT"), -EPROTO;
        if (route.destination.port == 0)
            return bg_err_set(err, -EPROTO, "CONNECT without a port");
        route.is_connect = true;
    } else if (parse_absolute(target, &absolute)) {
        route.path = absolute.path;
        if (absolute.https != opts->tls)
            return bg_err_set(err, -EPROTO, "a target of another scheme than the connection's");
        if (opts->fixed) {
            route.destination = *opts->fixed;
            int r = check_same(absolute.authority, "the target", opts->fixed, ret_status, err);
            if (r < 0)
                return r;
        } else if (destination_parse(absolute.authority.at, absolute.authority.size, 80,
                                     &route.destination, err) < 0) {
            return (void)bg_err_prefix(err, "target"), -EPROTO;
        }
    } else if (!opts->fixed) {
        return bg_err_set(err, -EPROTO, "this is a proxy: want a target as http://HOST/PATH");
    } else if (target.at[0] == '/' ||
               (target.size == 1 && target.at[0] == '*' && slice_is(head->method, "options"))) {
        route.destination = *opts->fixed;
        route.path = target;
    } else {
        return bg_err_set(err, -EPROTO, "a request target that is neither /path nor a URL");
    }
    int r = check_host(head, &route.destination, ret_status, err);
    if (r < 0)
        return r;
    *ret = route;
    return 0;
}
