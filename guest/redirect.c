#include "guest/redirect.h"

#include <endian.h>
#include <netinet/in.h> /* before the kernel's headers, which then leave out the same things */
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdint.h>

#include "guest/netlink.h"

#define TABLE    "bellglass"
#define CHAIN    "output"
#define LO_INDEX 1u /* in every network namespace */
#define DNS_PORT 53

/* Of destination NAT (linux/netfilter_ipv4.h, which clashes with libc's headers). */
#define PRIORITY_NAT (-100)

static void begin(struct netlink *nl, uint16_t type, uint16_t flags)
{
    struct nfgenmsg header = {.nfgen_family = NFPROTO_INET, .version = NFNETLINK_V0};
    netlink_begin(nl, (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | type), flags);
    netlink_header(nl, &header, sizeof header);
}

static void batch(struct netlink *nl, uint16_t type)
{
    struct nfgenmsg header = {.version = NFNETLINK_V0, .res_id = htobe16(NFNL_SUBSYS_NFTABLES)};
    netlink_begin(nl, type, 0);
    netlink_header(nl, &header, sizeof header);
}

static void table(struct netlink *nl, uint16_t type, uint16_t flags)
{
    begin(nl, type, flags);
    netlink_put_text(nl, NFTA_TABLE_NAME, TABLE);
}

static void chain(struct netlink *nl)
{
    begin(nl, NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_ACK);
    netlink_put_text(nl, NFTA_CHAIN_TABLE, TABLE);
    netlink_put_text(nl, NFTA_CHAIN_NAME, CHAIN);
    size_t hook = netlink_nest(nl, NFTA_CHAIN_HOOK);
    netlink_put_u32be(nl, NFTA_HOOK_HOOKNUM, NF_INET_LOCAL_OUT);
    netlink_put_u32be(nl, NFTA_HOOK_PRIORITY, (uint32_t)PRIORITY_NAT);
    netlink_nest_end(nl, hook);
    netlink_put_text(nl, NFTA_CHAIN_TYPE, "nat");
}

/* ---- rules: a list of expressions ---- */

static size_t rule_begin(struct netlink *nl)
{
    begin(nl, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND | NLM_F_ACK);
    netlink_put_text(nl, NFTA_RULE_TABLE, TABLE);
    netlink_put_text(nl, NFTA_RULE_CHAIN, CHAIN);
    return netlink_nest(nl, NFTA_RULE_EXPRESSIONS);
}

static void rule_end(struct netlink *nl, size_t rule)
{
    netlink_nest_end(nl, rule);
}

struct expression {
    size_t element, data;
};

static struct expression expression_begin(struct netlink *nl, const char *name)
{
    struct expression e = {.element = netlink_nest(nl, NFTA_LIST_ELEM)};
    netlink_put_text(nl, NFTA_EXPR_NAME, name);
    e.data = netlink_nest(nl, NFTA_EXPR_DATA);
    return e;
}

static void expression_end(struct netlink *nl, struct expression e)
{
    netlink_nest_end(nl, e.data);
    netlink_nest_end(nl, e.element);
}

static void compare(struct netlink *nl, const void *value, size_t size)
{
    struct expression e = expression_begin(nl, "cmp");
    netlink_put_u32be(nl, NFTA_CMP_SREG, NFT_REG_1);
    netlink_put_u32be(nl, NFTA_CMP_OP, NFT_CMP_EQ);
    size_t data = netlink_nest(nl, NFTA_CMP_DATA);
    netlink_put(nl, NFTA_DATA_VALUE, value, size);
    netlink_nest_end(nl, data);
    expression_end(nl, e);
}

static void load_meta(struct netlink *nl, uint32_t key)
{
    struct expression e = expression_begin(nl, "meta");
    netlink_put_u32be(nl, NFTA_META_DREG, NFT_REG_1);
    netlink_put_u32be(nl, NFTA_META_KEY, key);
    expression_end(nl, e);
}

static void match_loopback(struct netlink *nl)
{
    const uint32_t index = LO_INDEX;
    load_meta(nl, NFT_META_OIF);
    compare(nl, &index, sizeof index);
}

static void match_protocol(struct netlink *nl, uint8_t protocol)
{
    load_meta(nl, NFT_META_L4PROTO);
    compare(nl, &protocol, sizeof protocol);
}

/* The destination port of TCP and UDP, at the same place in both. */
static void match_port(struct netlink *nl, uint16_t port)
{
    struct expression e = expression_begin(nl, "payload");
    netlink_put_u32be(nl, NFTA_PAYLOAD_DREG, NFT_REG_1);
    netlink_put_u32be(nl, NFTA_PAYLOAD_BASE, NFT_PAYLOAD_TRANSPORT_HEADER);
    netlink_put_u32be(nl, NFTA_PAYLOAD_OFFSET, 2);
    netlink_put_u32be(nl, NFTA_PAYLOAD_LEN, sizeof port);
    expression_end(nl, e);
    uint16_t wire_port = htobe16(port);
    compare(nl, &wire_port, sizeof wire_port);
}

/* To this port of the loopback address. */
static void redirect_to(struct netlink *nl, uint16_t port)
{
    uint16_t wire_port = htobe16(port);
    struct expression e = expression_begin(nl, "immediate");
    netlink_put_u32be(nl, NFTA_IMMEDIATE_DREG, NFT_REG_1);
    size_t data = netlink_nest(nl, NFTA_IMMEDIATE_DATA);
    netlink_put(nl, NFTA_DATA_VALUE, &wire_port, sizeof wire_port);
    netlink_nest_end(nl, data);
    expression_end(nl, e);
    e = expression_begin(nl, "redir");
    netlink_put_u32be(nl, NFTA_REDIR_REG_PROTO_MIN, NFT_REG_1);
    expression_end(nl, e);
}

static void return_verdict(struct netlink *nl)
{
    struct expression e = expression_begin(nl, "immediate");
    netlink_put_u32be(nl, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
    size_t data = netlink_nest(nl, NFTA_IMMEDIATE_DATA);
    size_t verdict = netlink_nest(nl, NFTA_DATA_VERDICT);
    netlink_put_u32be(nl, NFTA_VERDICT_CODE, (uint32_t)NFT_RETURN);
    netlink_nest_end(nl, verdict);
    netlink_nest_end(nl, data);
    expression_end(nl, e);
}

static void refuse(struct netlink *nl)
{
    const uint8_t code = NFT_REJECT_ICMPX_PORT_UNREACH;
    struct expression e = expression_begin(nl, "reject");
    netlink_put_u32be(nl, NFTA_REJECT_TYPE, NFT_REJECT_ICMPX_UNREACH);
    netlink_put(nl, NFTA_REJECT_ICMP_CODE, &code, sizeof code);
    expression_end(nl, e);
}

static void add_rules(struct netlink *nl)
{
    size_t rule = rule_begin(nl);
    match_loopback(nl);
    return_verdict(nl);
    rule_end(nl, rule);
    static const uint8_t dns_protocols[] = {IPPROTO_TCP, IPPROTO_UDP};
    for (size_t i = 0; i < sizeof dns_protocols; i++) {
        rule = rule_begin(nl);
        match_protocol(nl, dns_protocols[i]);
        match_port(nl, DNS_PORT);
        redirect_to(nl, REDIRECT_DNS_PORT);
        rule_end(nl, rule);
    }
    rule = rule_begin(nl);
    match_protocol(nl, IPPROTO_TCP);
    redirect_to(nl, REDIRECT_TCP_PORT);
    rule_end(nl, rule);
    rule = rule_begin(nl);
    refuse(nl);
    rule_end(nl, rule);
}

int redirect_install(struct bg_err *err)
{
    struct netlink nl;
    int r = netlink_init(&nl, NETLINK_NETFILTER, err);
    if (r < 0)
        return r;
    batch(&nl, NFNL_MSG_BATCH_BEGIN);
    /* Made if it is missing, so that the removal cannot fail; then anew. */
    table(&nl, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK);
    table(&nl, NFT_MSG_DELTABLE, NLM_F_ACK);
    table(&nl, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK);
    chain(&nl);
    add_rules(&nl);
    batch(&nl, NFNL_MSG_BATCH_END);
    r = netlink_send(&nl, err);
    netlink_done(&nl);
    return r < 0 ? bg_err_prefix(err, "redirection rules") : 0;
}
