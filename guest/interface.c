#include "guest/interface.h"

#include <arpa/inet.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>

#include "guest/names.h"
#include "guest/netlink.h"

#define DUMMY "dummy0"

static int link_up(struct netlink *nl, const char *name, struct bg_err *err)
{
    struct ifinfomsg link = {.ifi_family = AF_UNSPEC,
                             .ifi_index = (int)if_nametoindex(name),
                             .ifi_flags = IFF_UP,
                             .ifi_change = IFF_UP};
    if (link.ifi_index == 0)
        return bg_err_errno(err, -errno, "interface %s", name);
    netlink_begin(nl, RTM_NEWLINK, NLM_F_ACK);
    netlink_header(nl, &link, sizeof link);
    return netlink_send(nl, err) < 0 ? bg_err_prefix(err, "interface %s", name) : 0;
}

/* Loading the module makes the first one by itself; another network namespace has none. */
static int make_dummy(struct netlink *nl, struct bg_err *err)
{
    struct ifinfomsg link = {.ifi_family = AF_UNSPEC};
    netlink_begin(nl, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
    netlink_header(nl, &link, sizeof link);
    netlink_put_text(nl, IFLA_IFNAME, DUMMY);
    size_t info = netlink_nest(nl, IFLA_LINKINFO);
    netlink_put_text(nl, IFLA_INFO_KIND, "dummy");
    netlink_nest_end(nl, info);
    int r = netlink_send(nl, err);
    return r < 0 && r != -EEXIST ? bg_err_prefix(err, "interface " DUMMY) : 0;
}

static int add_address(struct netlink *nl, uint8_t family, const void *address, size_t size,
                       struct bg_err *err)
{
    struct ifaddrmsg header = {.ifa_family = family,
                               .ifa_prefixlen = (uint8_t)(8 * size),
                               /* No neighbours: there is nobody to have the same one. */
                               .ifa_flags = family == AF_INET6 ? IFA_F_NODAD : 0,
                               .ifa_index = if_nametoindex(DUMMY)};
    netlink_begin(nl, RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE);
    netlink_header(nl, &header, sizeof header);
    netlink_put(nl, IFA_LOCAL, address, size);
    netlink_put(nl, IFA_ADDRESS, address, size);
    return netlink_send(nl, err) < 0 ? bg_err_prefix(err, "address of " DUMMY) : 0;
}

static int add_default_route(struct netlink *nl, uint8_t family, struct bg_err *err)
{
    struct rtmsg header = {.rtm_family = family,
                           .rtm_table = RT_TABLE_MAIN,
                           .rtm_protocol = RTPROT_STATIC,
                           .rtm_scope = RT_SCOPE_LINK,
                           .rtm_type = RTN_UNICAST};
    if (family == AF_INET6)
        header.rtm_scope = RT_SCOPE_UNIVERSE;
    netlink_begin(nl, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE);
    netlink_header(nl, &header, sizeof header);
    netlink_put_u32(nl, RTA_OIF, if_nametoindex(DUMMY));
    return netlink_send(nl, err) < 0 ? bg_err_prefix(err, "default route") : 0;
}

int interface_loopback_up(struct bg_err *err)
{
    struct netlink nl;
    int r = netlink_init(&nl, NETLINK_ROUTE, err);
    if (r < 0)
        return r;
    r = link_up(&nl, "lo", err);
    netlink_done(&nl);
    return r;
}

int interface_dummy_up(struct bg_err *err)
{
    struct netlink nl;
    int r = netlink_init(&nl, NETLINK_ROUTE, err);
    if (r < 0)
        return r;
    uint32_t v4 = htonl(NAMES_OWN);
    uint8_t v6[16];
    names_to_v6(NAMES_OWN, v6);
    r = make_dummy(&nl, err);
    if (r == 0)
        r = link_up(&nl, DUMMY, err);
    if (r == 0)
        r = add_address(&nl, AF_INET, &v4, sizeof v4, err);
    if (r == 0)
        r = add_address(&nl, AF_INET6, v6, sizeof v6, err);
    if (r == 0)
        r = add_default_route(&nl, AF_INET, err);
    if (r == 0)
        r = add_default_route(&nl, AF_INET6, err);
    netlink_done(&nl);
    return r;
}
