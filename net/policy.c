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

int host_pattern_parse_network(const char *text, size_t size, struct host_pattern *ret,
                               struct bg_err *err)
{
    const char *slash = memchr(text, '/', size);
    struct address first;
    if (!slash || address_parse(text, (size_t)(slash - text), &first) == -ENOENT)
        return host_pattern_parse(text, size, ret, err);
    const char *colon = memchr(slash, ':', size - (size_t)(slash - text));
    size_t head = colon ? (size_t)(colon - text) : size;
    struct host_pattern p = {.kind = HOST_PATTERN_NETWORK};
    int r = address_network_parse(text, head, &p.network, err);
    if (r < 0)
        return r;
    if (colon && destination_parse_port(colon + 1, size - head - 1, &p.host.port) < 0)
        return bg_err_set(err, -EINVAL, "want a port from 1 to 65535 behind ADDRESS/BITS:");
    address_network_format(&p.network, p.host.host);
    *ret = p;
    return 0;
}

bool host_pattern_matches(const struct host_pattern *pattern, const struct destination *destination)
{
    if (pattern->kind == HOST_PATTERN_NETWORK)
        return destination->is_address &&
               address_network_has(&pattern->network, &destination->address);
    if (pattern->kind == HOST_PATTERN_EXACT)
        return destination_same_host(&pattern->host, destination);
    if (destination->is_address)
        return false;
    if (pattern->kind == HOST_PATTERN_ANY)
        return true;
    size_t want = strlen(pattern->host.host), have = strlen(destination->host);
    return have > want + 1 && destination->host[have - want - 1] == '.' &&
           memcmp(destination->host + have - want, pattern->host.host, want) == 0;
}

int policy_add_pin(struct policy_rule *rule, const char *text, size_t size, struct bg_err *err)
{
    struct address_network *pin = &rule->pins[rule->pin_count];
    char shown[64];
    if (rule->pin_count == POLICY_PINS_MAX)
        return bg_err_set(err, -EINVAL, "more than %d addresses", POLICY_PINS_MAX);
    if (memchr(text, '/', size)) {
        int r = address_network_parse(text, size, pin, err);
        if (r < 0)
            return r;
    } else if (address_parse(text, size, &pin->first) < 0) {
        bg_escape(text, size, shown, sizeof shown);
        return bg_err_set(err, -EINVAL, "'%s' is no IP address and no network", shown);
    } else {
        pin->bits = address_bits(&pin->first);
    }
    rule->pin_count++;
    return 0;
}

static int parse_pins(const char *text, struct policy_rule *rule, struct bg_err *err)
{
    for (;;) {
        size_t size = strcspn(text, ",");
        int r = policy_add_pin(rule, text, size, err);
        if (r < 0)
            return r;
        if (text[size] == '\0')
            return 0;
        text += size + 1;
    }
}

int policy_rule_parse(const char *text, struct policy_rule *ret, struct bg_err *err)
{
    struct policy_rule rule = {.body_max = UINT64_MAX};
    size_t size = strcspn(text, "=");
    int r = host_pattern_parse_network(text, size, &rule.host, err);
    if (r == 0 && text[size] == '=') {
        if (policy_is_at_address(&rule))
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

bool policy_is_at_address(const struct policy_rule *rule)
{
    return rule->host.host.is_address || rule->host.kind == HOST_PATTERN_NETWORK;
}

int policy_rule_learn(struct policy_rule *ret, struct bg_err *err)
{
    struct policy_rule rule = {.host.kind = HOST_PATTERN_ANY,
                               .host.host.host = "*",
                               .body_max = UINT64_MAX,
                               .text = strdup("default: learn")};
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

static bool has_port(const struct policy_rule *rule, uint16_t port)
{
    uint16_t own = rule->host.host.port;
    return own == 0 ? port == 80 || port == 443 : port == own;
}

static bool is_at(const struct policy_rule *rule, const struct destination *to)
{
    if (!has_port(rule, to->port) || !host_pattern_matches(&rule->host, to))
        return false;
    /* What is denied is all of a network, what is allowed less. */
    return rule->action == POLICY_DENY || rule->host.kind != HOST_PATTERN_NETWORK ||
           address_network_means(&rule->host.network, &to->address);
}

/* The first rule that decides about the destination, whatever is asked for. */
static const struct policy_rule *find_first(const struct policy *policy,
                                            const struct destination *destination)
{
    for (size_t i = 0; i < policy->count; i++) {
        const struct policy_rule *rule = &policy->rules[i];
        if (is_at(rule, destination) &&
            (rule->action == POLICY_ALLOW || request_match_is_any(&rule->match)))
            return rule;
    }
    return NULL;
}

const struct policy_rule *policy_find(const struct policy *policy,
                                      const struct destination *destination)
{
    const struct policy_rule *rule = find_first(policy, destination);
    return rule && rule->action == POLICY_ALLOW ? rule : NULL;
}

const struct policy_rule *policy_denial(const struct policy *policy,
                                        const struct destination *destination)
{
    const struct policy_rule *rule = find_first(policy, destination);
    return rule && rule->action == POLICY_DENY ? rule : NULL;
}

static struct policy_count *count_of(struct policy_meter *meter)
{
    return meter->count ? meter->count : &meter->own;
}

/* A bucket that fills at the rate and has room for a whole one, told by when it will be full: each
 * request puts that off. A time that is further away than any request puts it is of a clock that
 * has begun again; the bucket is taken for empty then. */
static bool spend_rate(const struct policy_meter *m, struct policy_count *c, uint64_t now_ms)
{
    uint64_t now = now_ms * m->rate, full = now + m->rate * m->per_ms, next;
    uint64_t due = __atomic_load_n(&c->due, __ATOMIC_RELAXED);
    bool fits;
    do {
        next = due < now ? now : due > full ? full : due;
        fits = m->per_ms <= full - next;
        next += fits ? m->per_ms : 0;
    } while (!__atomic_compare_exchange_n(&c->due, &due, next, /* weak= */ true, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    return fits;
}

enum policy_spending policy_meter_spend(struct policy_meter *m, uint64_t now_ms)
{
    struct policy_count *c = count_of(m);
    uint64_t spent = __atomic_load_n(&c->spent, __ATOMIC_RELAXED);
    if (m->requests_max > 0 && spent >= m->requests_max)
        return POLICY_USED_UP;
    if (m->rate > 0 && !spend_rate(m, c, now_ms))
        return POLICY_TOO_FAST;
    do {
        if (m->requests_max > 0 && spent >= m->requests_max)
            return POLICY_USED_UP; /* another process took the last one just now */
    } while (!__atomic_compare_exchange_n(&c->spent, &spent, spent + 1, /* weak= */ true,
                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return POLICY_SPENT;
}

static uint64_t bytes_left(struct policy_meter *m)
{
    uint64_t bytes = __atomic_load_n(&count_of(m)->bytes, __ATOMIC_RELAXED);
    return bytes < m->bytes_max ? m->bytes_max - bytes : 0;
}

bool policy_bytes_gone(const struct policy_rule *rule)
{
    return rule->meter && rule->meter->bytes_max > 0 && bytes_left(rule->meter) == 0;
}

enum policy_spending policy_spend(const struct policy_rule *rule, uint64_t body_size,
                                  uint64_t now_ms)
{
    struct policy_meter *m = rule->meter;
    if (!m)
        return POLICY_SPENT;
    if (policy_bytes_gone(rule) || (m->bytes_max > 0 && body_size > bytes_left(m)))
        return POLICY_BYTES_USED_UP;
    return policy_meter_spend(m, now_ms);
}

bool policy_spend_bytes(const struct policy_rule *rule, uint64_t size)
{
    struct policy_meter *m = rule->meter;
    if (!m || m->bytes_max == 0)
        return true;
    if (size > 0 && bytes_left(m) == 0)
        return false;
    /* A proxy that was replaced counts its last requests there too. */
    uint64_t cut = size <= m->bytes_max ? size : m->bytes_max;
    uint64_t bytes = __atomic_add_fetch(&count_of(m)->bytes, cut, __ATOMIC_RELAXED);
    return cut == size && (size == 0 || bytes <= m->bytes_max);
}

/* What the rules there look at, of enum request_part. */
static unsigned parts_asked_for(const struct policy *policy, const struct destination *to)
{
    unsigned parts = 0;
    for (size_t i = 0; i < policy->count; i++) {
        const struct request_match *match = &policy->rules[i].match;
        unsigned asks = (match->path_count > 0 ? REQUEST_PATH : 0u) |
                        (request_match_asks_query(match) ? REQUEST_QUERY : 0u);
        if ((asks & ~parts) && is_at(&policy->rules[i], to))
            parts |= asks;
    }
    return parts;
}

static bool query_unclear(const struct policy *policy, const struct destination *to,
                          const struct request_view *view)
{
    for (size_t i = 0; i < policy->count; i++)
        if (request_match_query_unclear(&policy->rules[i].match, view) &&
            is_at(&policy->rules[i], to))
            return true;
    return false;
}

static enum policy_verdict decide(const struct policy *policy, const struct destination *to,
                                  const struct request_view *view,
                                  const struct policy_rule **ret_rule)
{
    enum policy_verdict verdict = POLICY_NO_HOST;
    for (size_t i = 0; i < policy->count && !*ret_rule; i++) {
        const struct policy_rule *rule = &policy->rules[i];
        if (!is_at(rule, to))
            continue;
        if (rule->passthrough)
            verdict = POLICY_NO_REQUEST; /* what we could read did not come inside of TLS */
        else if (request_match_covers(&rule->match, view)) {
            verdict = rule->action == POLICY_ALLOW ? POLICY_ALLOWED : POLICY_DENIED;
            *ret_rule = rule;
        } else if (rule->action == POLICY_ALLOW) {
            verdict = POLICY_NO_REQUEST;
        }
    }
    return verdict;
}

enum policy_verdict policy_decide(const struct policy *policy, const struct destination *to,
                                  const struct request_text *request,
                                  const struct policy_rule **ret_rule)
{
    struct request_view view;
    unsigned parts = parts_asked_for(policy, to);
    enum policy_verdict verdict;
    *ret_rule = NULL;
    request_view_init(&view, request, parts);
    if ((parts & REQUEST_PATH) && !(view.clear & REQUEST_PATH))
        verdict = POLICY_UNCLEAR_PATH;
    else if ((parts & REQUEST_QUERY) && query_unclear(policy, to, &view))
        verdict = POLICY_UNCLEAR_QUERY;
    else
        verdict = decide(policy, to, &view, ret_rule);
    request_view_done(&view);
    return verdict;
}

bool policy_knows_addresses(const struct policy_rule *rule)
{
    for (size_t i = 0; i < rule->pin_count; i++)
        if (rule->pins[i].bits != address_bits(&rule->pins[i].first))
            return false;
    return rule->pin_count > 0;
}

/* Whether a rule before that one denies all requests to the address. */
static bool is_denied(const struct policy *policy, const struct policy_rule *before, uint16_t port,
                      const struct address *address)
{
    struct destination to = {.is_address = true, .address = *address, .port = port};
    address_format(address, to.host);
    for (size_t i = 0; i < policy->count && &policy->rules[i] != before; i++) {
        const struct policy_rule *rule = &policy->rules[i];
        if (rule->action == POLICY_DENY && request_match_is_any(&rule->match) && is_at(rule, &to))
            return true;
    }
    return false;
}

bool policy_address_ok(const struct policy *policy, const struct policy_rule *rule,
                       const struct destination *destination, const struct address *address)
{
    if (destination->is_address) /* the rule that matched named it */
        return address_equal(address, &destination->address);
    if (is_denied(policy, rule, destination->port, address))
        return false;
    if (rule->pin_count == 0)
        return address_classify(address) == ADDRESS_PUBLIC;
    for (size_t i = 0; i < rule->pin_count; i++)
        if (address_network_means(&rule->pins[i], address))
            return true;
    return false;
}

bool policy_same_addresses(const struct policy *policy, const struct policy_rule *a,
                           const struct policy_rule *b)
{
    if (a == b)
        return true;
    if (a->pin_count > 0 || b->pin_count > 0)
        return false;
    /* One that denies addresses may stand between the two. */
    for (size_t i = 0; i < policy->count; i++)
        if (policy->rules[i].action == POLICY_DENY && policy_is_at_address(&policy->rules[i]))
            return false;
    return true;
}
