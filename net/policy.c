#include "net/policy.h"

#include <errno.h>
#include <string.h>

#include "common/limits.h"
#include "common/quote.h"

int host_pattern_parse(const char *text, size_t size, struct host_pattern *ret, struct bg_err *err)
{
    struct host_pattern p = {.kind = HOST_PATTERN_EXACT};
    if (size >= 2 && text[0] == '*' && text[1] == '.') {
        p.kind = HOST_PATTERN_SUFFIX;
        text += 2;
        size -= 2;
    } else if (size > 0 && memchr(text, '*', size)) {
        return bg_err_set(err, -EINVAL, "'*' stands only in front, as in *.example.org");
    }
    int r = destination_parse(text, size, 0, &p.host, err);
    if (r < 0)
        return r;
    if (p.kind == HOST_PATTERN_SUFFIX && p.host.is_address)
        return bg_err_set(err, -EINVAL, "*. goes before a name, not before an address");
    *ret = p;
    return 0;
}

bool host_pattern_matches(const struct host_pattern *pattern, const struct destination *destination)
{
    if (pattern->kind == HOST_PATTERN_EXACT)
        return destination_same_host(&pattern->host, destination);
    if (destination->is_address)
        return false;
    size_t want = strlen(pattern->host.host), have = strlen(destination->host);
    return have > want + 1 && destination->host[have - want - 1] == '.' &&
           memcmp(destination->host + have - want, pattern->host.host, want) == 0;
}

static int parse_pins(const char *text, struct policy_rule *rule, struct bg_err *err)
{
    for (;;) {
        size_t size = strcspn(text, ",");
        if (rule->pin_count == POLICY_PINS_MAX)
            return bg_err_set(err, -EINVAL, "more than %d addresses", POLICY_PINS_MAX);
        if (address_parse(text, size, &rule->pins[rule->pin_count]) < 0) {
            char shown[64];
            bg_escape(text, size, shown, sizeof shown);
            return bg_err_set(err, -EINVAL, "'%s' is no IP address", shown);
        }
        rule->pin_count++;
        if (text[size] == '\0')
            return 0;
        text += size + 1;
    }
}

int policy_rule_parse(const char *text, struct policy_rule *ret, struct bg_err *err)
{
    struct policy_rule rule = {.body_max = UINT64_MAX};
    size_t size = strcspn(text, "=");
    int r = host_pattern_parse(text, size, &rule.host, err);
    if (r == 0 && text[size] == '=') {
        if (rule.host.host.is_address)
            r = bg_err_set(err, -EINVAL, "an address needs no =ADDRESS");
        else
            r = parse_pins(text + size + 1, &rule, err);
    }
    if (r < 0) {
        char shown[300];
        (void)bg_err_prefix(err, "rule %s", bg_quote(text, shown, sizeof shown));
        return r;
    }
    rule.tcp = rule.host.host.port != 0;
    rule.text = strdup(text);
    if (!rule.text)
        return bg_err_errno(err, -ENOMEM, "rule");
    *ret = rule;
    return 0;
}

void policy_rule_done(struct policy_rule *rule)
{
    free(rule->text);
    request_match_done(&rule->match);
    if (rule->meter && --rule->meter->owners == 0)
        free(rule->meter);
    *rule = (struct policy_rule){0};
}

int policy_add(struct policy *policy, struct policy_rule *rule, struct bg_err *err)
{
    if (policy->count == BG_EGRESS_RULES_MAX)
        return bg_err_set(err, -E2BIG, "more than %d network rules", BG_EGRESS_RULES_MAX);
    struct policy_rule *rules = reallocarray(policy->rules, policy->count + 1, sizeof *rules);
    if (!rules)
        return bg_err_errno(err, -ENOMEM, "network rules");
    policy->rules = rules;
    rules[policy->count++] = *rule;
    *rule = (struct policy_rule){0};
    return 0;
}

int policy_init(struct policy *policy, const char *const *texts, size_t count, struct bg_err *err)
{
    struct policy p = {0};
    for (size_t i = 0; i < count; i++) {
        struct policy_rule rule = {0};
        int r = policy_rule_parse(texts[i], &rule, err);
        if (r == 0)
            r = policy_add(&p, &rule, err);
        if (r < 0) {
            policy_rule_done(&rule);
            policy_done(&p);
            return r;
        }
    }
    *policy = p;
    return 0;
}

void policy_done(struct policy *policy)
{
    for (size_t i = 0; i < policy->count; i++)
        policy_rule_done(&policy->rules[i]);
    free(policy->rules);
    *policy = (struct policy){0};
}

static bool is_at(const struct policy_rule *rule, const struct destination *to)
{
    uint16_t port = rule->host.host.port;
    bool port_ok = port == 0 ? to->port == 80 || to->port == 443 : to->port == port;
    return port_ok && host_pattern_matches(&rule->host, to);
}

const struct policy_rule *policy_find(const struct policy *policy,
                                      const struct destination *destination)
{
    for (size_t i = 0; i < policy->count; i++) {
        const struct policy_rule *rule = &policy->rules[i];
        if (!is_at(rule, destination))
            continue;
        if (rule->action == POLICY_ALLOW)
            return rule;
        if (request_match_is_any(&rule->match))
            return NULL;
    }
    return NULL;
}

enum policy_spending policy_spend(const struct policy_rule *rule, uint64_t now_ms)
{
    struct policy_meter *m = rule->meter;
    if (!m)
        return POLICY_SPENT;
    if (m->requests_max > 0 && m->spent >= m->requests_max)
        return POLICY_USED_UP;
    if (m->rate > 0) {
        uint64_t full = m->rate * m->per_ms, gone = now_ms - m->filled_ms;
        bool first = m->spent == 0 && m->filled_ms == 0;
        if (first || gone >= m->per_ms || m->tokens + gone * m->rate >= full)
            m->tokens = full;
        else
            m->tokens += gone * m->rate;
        m->filled_ms = now_ms;
        if (m->tokens < m->per_ms)
            return POLICY_TOO_FAST;
        m->tokens -= m->per_ms;
    }
    m->spent++;
    return POLICY_SPENT;
}

static bool asks_for_paths(const struct policy *policy, const struct destination *to)
{
    for (size_t i = 0; i < policy->count; i++)
        if (policy->rules[i].match.path_count > 0 && is_at(&policy->rules[i], to))
            return true;
    return false;
}

enum policy_verdict policy_decide(const struct policy *policy, const struct destination *to,
                                  struct slice method, struct slice target,
                                  const struct policy_rule **ret_rule)
{
    struct buffer path = buffer_init(3 * target.size + 1);
    enum policy_verdict verdict = POLICY_NO_HOST;
    *ret_rule = NULL;
    if (asks_for_paths(policy, to) && request_path_normalize(target, &path) < 0) {
        buffer_reset(&path);
        return POLICY_UNCLEAR_PATH;
    }
    for (size_t i = 0; i < policy->count && !*ret_rule; i++) {
        const struct policy_rule *rule = &policy->rules[i];
        if (!is_at(rule, to))
            continue;
        if (rule->passthrough)
            verdict = POLICY_NO_REQUEST; /* what we could read did not come inside of TLS */
        else if (request_match_covers(&rule->match, method, &path)) {
            verdict = rule->action == POLICY_ALLOW ? POLICY_ALLOWED : POLICY_DENIED;
            *ret_rule = rule;
        } else if (rule->action == POLICY_ALLOW) {
            verdict = POLICY_NO_REQUEST;
        }
    }
    buffer_reset(&path);
    return verdict;
}

bool policy_address_ok(const struct policy_rule *rule, const struct destination *destination,
                       const struct address *address)
{
    if (destination->is_address) /* the rule that matched named it */
        return address_equal(address, &destination->address);
    if (rule->pin_count == 0)
        return address_classify(address) == ADDRESS_PUBLIC;
    for (size_t i = 0; i < rule->pin_count; i++)
        if (address_equal(address, &rule->pins[i]))
            return true;
    return false;
}

bool policy_same_addresses(const struct policy_rule *a, const struct policy_rule *b)
{
    return a == b || (a->pin_count == 0 && b->pin_count == 0);
}
