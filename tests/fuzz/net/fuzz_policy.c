/* The text of a rule, and of a destination behind a line break: a rule allows its own host, never a
 * host outside of its suffix, and never an address that is not public unless the rule names one. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net/policy.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check(const struct policy_rule *rule, const char *text, size_t size)
{
    static const struct address loopback = {.family = 4, .bytes = {127, 0, 0, 1}};
    const struct policy policy = {.rules = (struct policy_rule[]){*rule}, .count = 1};
    struct destination d;
    if (destination_parse(text, size, 443, &d, NULL) < 0)
        return;
    const struct policy_rule *found = policy_find(&policy, &d);
    if (!found)
        return;
    if (rule->host.kind == HOST_PATTERN_NETWORK) {
        assert(d.is_address && address_network_has(&rule->host.network, &d.address));
        assert(rule->host.network.bits >= 8 || address_classify(&d.address) != ADDRESS_LOOPBACK);
        return;
    }
    const char *want = rule->host.host.host;
    size_t want_size = strlen(want), host_size = strlen(d.host);
    assert(host_size >= want_size && strcmp(d.host + host_size - want_size, want) == 0);
    assert(host_size == want_size || d.host[host_size - want_size - 1] == '.');
    if (!d.is_address && rule->pin_count == 0)
        assert(!policy_address_ok(&policy, found, &d, &loopback));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct policy_rule rule;
    char *text = malloc(size + 1);
    if (!text)
        abort();
    if (size > 0)
        memcpy(text, bytes, size);
    text[size] = '\0';
    char *line = strchr(text, '\n');
    size_t rest = line ? size - (size_t)(line + 1 - text) : 0;
    if (line)
        *line = '\0';
    if (policy_rule_parse(text, &rule, NULL) == 0) {
        check(&rule, rule.host.host.host, strlen(rule.host.host.host));
        if (line)
            check(&rule, line + 1, rest);
        policy_rule_done(&rule);
    }
    free(text);
    return 0;
}
