/* What a sandbox may reach. Nothing, unless a rule says so. Pure.
 *
 * Rules come from a policy file (policy_file.h), or are one text:
 *
 *   HOST[:PORT][=ADDRESS[,ADDRESS...]]
 *
 *   HOST      a name; *.suffix for every name below suffix, at any depth, but not suffix itself; an
 *             IP address, IPv6 in brackets; or a network, for addresses that are dialled as such
 *   PORT      without it: ports 80 and 443, and there only HTTP and TLS; with it: that port, and
 *             any protocol (what is neither HTTP nor TLS passes as plain TCP)
 *   ADDRESS   where HOST is, instead of asking DNS; with a network among them DNS is asked, and the
 *             answer has to be in one. The only way to a name whose addresses are not public
 *
 * The first rule that matches decides. A rule may have conditions on the request; a connection is
 * let through, as far as it can be HTTP, if there are requests that would be allowed on it. */
#pragma once

#include "common/err.h"
#include "net/destination.h"
#include "net/request_match.h"

#define POLICY_PINS_MAX 8

enum host_pattern_kind {
    HOST_PATTERN_EXACT,
    HOST_PATTERN_SUFFIX,
    HOST_PATTERN_NETWORK,
    HOST_PATTERN_ANY, /* every name, and no address; not to be written as one */
};

/* HOST[:PORT] of a rule, and where a secret may go. */
struct host_pattern {
    enum host_pattern_kind kind;
    struct destination host; /* suffix: host.host is what follows "*."; network: only for its text;
                                port 0: see the user */
    struct address_network network;
};

/* A name, a suffix or an address. Errors: -EINVAL. */
int host_pattern_parse(const char *text, size_t size, struct host_pattern *ret,
                       struct bg_err *err) BG_MUST_CHECK;

/* Also a network: 10.0.3.0/24, 10.0.3.0/24:5432, fd00::/64:443. Errors: -EINVAL. */
int host_pattern_parse_network(const char *text, size_t size, struct host_pattern *ret,
                               struct bg_err *err) BG_MUST_CHECK;

/* Compares hosts only, on label borders; a network has all of its addresses. */
bool host_pattern_matches(const struct host_pattern *pattern,
                          const struct destination *destination);

enum policy_action { POLICY_ALLOW, POLICY_DENY };

enum policy_spending { POLICY_SPENT, POLICY_TOO_FAST, POLICY_USED_UP, POLICY_BYTES_USED_UP };

/* What is gone of a limit. Processes may share one, so each field is changed in one step. */
struct policy_count {
    uint64_t spent; /* requests */
    uint64_t due;   /* of a rate: when all of it will be there again, in ms times the rate */
    uint64_t bytes; /* may be more than there were, by what did not fit any more */
};

/* How much a rule of a policy file allows, and how much of that is gone. All its hosts share one.
 */
struct policy_meter {
    unsigned owners;            /* rules that point to it */
    uint64_t rate, per_ms;      /* requests in that time, at once if need be; rate 0: any */
    uint64_t requests_max;      /* in all; 0: any */
    uint64_t bytes_max;         /* of bodies, both ways; 0: any */
    uint64_t key;               /* the same whenever a rule with the same hosts and conditions is
                                   read; 0: none */
    struct policy_count own;    /* used while count is NULL */
    struct policy_count *count; /* borrowed from a ledger, which another process may have too */
};

/* Takes one request from it; now_ms: of a clock that only goes forward. */
enum policy_spending policy_meter_spend(struct policy_meter *meter, uint64_t now_ms);

struct policy_rule {
    char *text; /* as written, or "FILE:LINE allow HOST"; owned */
    enum policy_action action;
    struct host_pattern host; /* its port is one of the rule's; 0: 80 and 443 */
    bool tcp;                 /* protocols other than HTTP and TLS pass */
    bool passthrough;         /* TLS passes unopened; HTTP does not */
    struct request_match match;
    uint64_t body_max;          /* of a request, in bytes; UINT64_MAX: any */
    struct policy_meter *meter; /* shared; NULL: no limits */
    struct address_network pins[POLICY_PINS_MAX];
    size_t pin_count;
};

struct policy {
    struct policy_rule *rules; /* owned */
    size_t count;
    bool strict; /* requests with placeholders where their secrets may not go are refused */
};

/* Counts a request that the rule allows, with a body of at least so many bytes, which are not
 * counted yet; now_ms as above. */
enum policy_spending policy_spend(const struct policy_rule *rule, uint64_t body_size,
                                  uint64_t now_ms);

/* True if the rule counts bytes and none is left. */
bool policy_bytes_gone(const struct policy_rule *rule);

/* Counts bytes of a body, either way. False: they are more than what is left, which is gone then;
 * they must not pass. */
bool policy_spend_bytes(const struct policy_rule *rule, uint64_t size) BG_MUST_CHECK;

/* Reads count rules. Errors: -EINVAL names the rule that is wrong; -E2BIG too many; -ENOMEM. */
int policy_init(struct policy *policy, const char *const *texts, size_t count,
                struct bg_err *err) BG_MUST_CHECK;
void policy_done(struct policy *policy);

/* Adds a rule at the end and takes it, on success. Errors: -E2BIG, -ENOMEM. */
int policy_add(struct policy *policy, struct policy_rule *rule, struct bg_err *err) BG_MUST_CHECK;

/* The first rule that allows the destination, perhaps not for every request, borrowed; NULL: none.
 */
const struct policy_rule *policy_find(const struct policy *policy,
                                      const struct destination *destination);

/* The rule that denies everything there, where policy_find has none for that reason; else NULL. */
const struct policy_rule *policy_denial(const struct policy *policy,
                                        const struct destination *destination);

enum policy_verdict {
    POLICY_ALLOWED,
    POLICY_NO_HOST,       /* no rule allows anything there */
    POLICY_NO_REQUEST,    /* rules allow others there, not this one */
    POLICY_DENIED,        /* a rule says so */
    POLICY_UNCLEAR_PATH,  /* rules there ask for paths, and this one has several readings */
    POLICY_UNCLEAR_QUERY, /* likewise */
};

/* Decides about a request. *ret_rule: the rule that allowed or denied it; NULL for the others. Out
 * of memory: one of the unclear ones. */
enum policy_verdict policy_decide(const struct policy *policy, const struct destination *to,
                                  const struct request_text *request,
                                  const struct policy_rule **ret_rule);

/* True if the rule's addresses are single ones, to be dialled without asking DNS. */
bool policy_knows_addresses(const struct policy_rule *rule);

/* Whether the address may be dialled for a destination that the rule of the policy allows: it is
 * one that the rule means, and no rule before that one denies it. */
bool policy_address_ok(const struct policy *policy, const struct policy_rule *rule,
                       const struct destination *destination, const struct address *address);

/* True if the rule is for addresses that are dialled as such. */
bool policy_is_at_address(const struct policy_rule *rule);

/* Adds an address or a network to those that the rule's hosts have. Errors: -EINVAL. */
int policy_add_pin(struct policy_rule *rule, const char *text, size_t size,
                   struct bg_err *err) BG_MUST_CHECK;

/* Makes the rule that allows whatever no other one denies, so that the audit log tells what would
 * be needed: HTTP and HTTPS to every name, as far as it leads to public addresses. Errors: -ENOMEM.
 */
int policy_rule_learn(struct policy_rule *ret, struct bg_err *err) BG_MUST_CHECK;

/* Whether the two rules let the same addresses be dialled for the same destination. */
bool policy_same_addresses(const struct policy *policy, const struct policy_rule *a,
                           const struct policy_rule *b);

/* For one rule alone: heap text inside, freed by policy_rule_done. */
int policy_rule_parse(const char *text, struct policy_rule *ret, struct bg_err *err) BG_MUST_CHECK;
void policy_rule_done(struct policy_rule *rule);
