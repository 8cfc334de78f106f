#include "net/secrets.h"

#include <string.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"
#include "common/base64.h"
#include "net/locked.h"

#define NAME_MAX_SIZE 128u
#define HEX_DIGITS    64u

bool secret_name_ok(const char *name)
{
    size_t size = strlen(name);
    if (size == 0 || size > NAME_MAX_SIZE || (name[0] >= '0' && name[0] <= '9'))
        return false;
    for (size_t i = 0; i < size; i++) {
        char c = name[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '_'))
            return false;
    }
    return true;
}

int secret_value_check(const void *value, size_t size, struct bg_err *err)
{
    if (size == 0)
        return bg_err_set(err, -EINVAL, "the value is empty");
    if (size > BG_SECRET_SIZE_MAX)
        return bg_err_set(err, -EINVAL, "the value is larger than %d bytes", BG_SECRET_SIZE_MAX);
    if (memchr(value, '\r', size) || memchr(value, '\n', size) || memchr(value, '\0', size))
        return bg_err_set(err, -EINVAL,
                          "the value has a line break or a NUL byte, which no HTTP "
                          "header can carry");
    return 0;
}

/* Lower-case digits only: so are they made, and only the exact placeholder counts. */
bool secret_is_placeholder(const char *text, size_t size)
{
    if (size < SECRET_PLACEHOLDER_SIZE ||
        memcmp(text, SECRET_PREFIX, sizeof SECRET_PREFIX - 1) != 0)
        return false;
    for (size_t i = sizeof SECRET_PREFIX - 1; i < SECRET_PLACEHOLDER_SIZE; i++)
        if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f')))
            return false;
    return true;
}

void secret_rule_done(struct secret_rule *rule)
{
    for (size_t i = 0; i < rule->header_count; i++)
        free(rule->headers[i]);
    free(rule->headers);
    request_match_done(&rule->match);
    if (rule->meter && --rule->meter->owners == 0)
        free(rule->meter);
    *rule = (struct secret_rule){0};
}

static void secret_done(struct secret *secret)
{
    for (size_t i = 0; i < secret->rule_count; i++)
        secret_rule_done(&secret->rules[i]);
    free(secret->rules);
    free(secret->inherited);
    free(secret->name);
    locked_free(secret->value, secret->value_size);
    *secret = (struct secret){0};
}

void secrets_done(struct secrets *secrets)
{
    for (size_t i = 0; i < secrets->count; i++)
        secret_done(&secrets->items[i]);
    free(secrets->items);
    locked_free(secrets->hints, sizeof *secrets->hints);
    *secrets = (struct secrets){0};
}

/* Takes the same time whichever digit differs, so that answers tell nothing about near misses. */
static bool same_placeholder(const char *a, const char *b)
{
    unsigned char diff = 0;
    for (size_t i = 0; i < SECRET_PLACEHOLDER_SIZE; i++)
        diff |= (unsigned char)(a[i] ^ b[i]);
    return diff == 0;
}

/* The secret that the placeholder stands for, or NULL. */
static struct secret *find_placeholder(const struct secrets *secrets, const char *placeholder,
                                       bool *ret_inherited)
{
    struct secret *found = NULL;
    *ret_inherited = false;
    for (size_t i = 0; i < secrets->count; i++) {
        struct secret *secret = &secrets->items[i];
        if (same_placeholder(placeholder, secret->placeholder))
            found = secret;
        for (size_t k = 0; k < secret->inherited_count; k++)
            if (same_placeholder(placeholder, secret->inherited[k])) {
                found = secret;
                *ret_inherited = true;
            }
    }
    return found;
}

static int check_placeholder(const struct secrets *secrets, const char *name,
                             const char *placeholder, struct bg_err *err)
{
    bool inherited;
    if (strlen(placeholder) != SECRET_PLACEHOLDER_SIZE ||
        !secret_is_placeholder(placeholder, SECRET_PLACEHOLDER_SIZE))
        return bg_err_set(err, -EINVAL, "secret %s: malformed placeholder", name);
    if (find_placeholder(secrets, placeholder, &inherited))
        return bg_err_set(err, -EEXIST, "secret %s: placeholder given twice", name);
    return 0;
}

int secrets_add(struct secrets *secrets, const char *name, const char *placeholder,
                const char *const *hosts, size_t host_count, void *value, size_t value_size,
                struct bg_err *err)
{
    char shown[160];
    if (!secret_name_ok(name))
        return bg_err_set(err, -EINVAL, "secret %s: a name is letters, digits and _",
                          bg_quote(name, shown, sizeof shown));
    if (secrets->count == BG_EGRESS_SECRETS_MAX)
        return bg_err_set(err, -E2BIG, "more than %d secrets", BG_EGRESS_SECRETS_MAX);
    for (size_t i = 0; i < secrets->count; i++)
        if (strcmp(secrets->items[i].name, name) == 0)
            return bg_err_set(err, -EEXIST, "secret %s: given twice", name);
    int r = check_placeholder(secrets, name, placeholder, err);
    if (r < 0)
        return r;
    if (value && secret_value_check(value, value_size, err) < 0)
        return (void)bg_err_prefix(err, "secret %s", name), -EINVAL;
    struct secret *items = reallocarray(secrets->items, secrets->count + 1, sizeof *items);
    if (!items)
        return bg_err_errno(err, -ENOMEM, "secret %s", name);
    secrets->items = items;
    if (!secrets->hints)
        secrets->hints = locked_new(sizeof *secrets->hints, NULL);
    if (!secrets->hints)
        return bg_err_errno(err, -ENOMEM, "secret %s", name);
    secrets->hints->count = 0; /* what they say is no longer true */
    struct secret s = {.name = strdup(name),
                       .rules = calloc(host_count ? host_count : 1, sizeof *s.rules)};
    r = s.name && s.rules ? 0 : bg_err_errno(err, -ENOMEM, "secret %s", name);
    memcpy(s.placeholder, placeholder, SECRET_PLACEHOLDER_SIZE);
    for (; r == 0 && s.rule_count < host_count; s.rule_count++) {
        const char *host = hosts[s.rule_count];
        s.rules[s.rule_count].in = SECRET_IN_DEFAULT;
        r = host_pattern_parse(host, strlen(host), &s.rules[s.rule_count].host, err);
        if (r < 0)
            (void)bg_err_prefix(err, "secret %s: host %s", name,
                                bg_quote(host, shown, sizeof shown));
    }
    if (r < 0) {
        secret_done(&s);
        return r;
    }
    s.value = value;
    s.value_size = value_size;
    secrets->items[secrets->count++] = s;
    return 0;
}

int secrets_add_inherited(struct secrets *secrets, const char *name, const char *placeholder,
                          struct bg_err *err)
{
    int r = check_placeholder(secrets, name, placeholder, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < secrets->count; i++) {
        struct secret *secret = &secrets->items[i];
        if (strcmp(secret->name, name) != 0)
            continue;
        size_t count = secret->inherited_count;
        if (count == BG_SECRET_INHERITED_MAX)
            return bg_err_set(err, -E2BIG, "secret %s: more than %d inherited placeholders", name,
                              BG_SECRET_INHERITED_MAX);
        char(*list)[SECRET_PLACEHOLDER_SIZE + 1] =
            reallocarray(secret->inherited, count + 1, sizeof *list);
        if (!list)
            return bg_err_errno(err, -ENOMEM, "secret %s", name);
        secret->inherited = list;
        memcpy(list[count], placeholder, sizeof list[count]);
        secret->inherited_count++;
        return 0;
    }
    return bg_err_set(err, -ENOENT, "the sandbox has no secret %s", name);
}

/* Gives the rule's meter a number, the same as to others that share it. */
static int number_budget(struct secrets *secrets, struct secret_rule *rule, struct bg_err *err)
{
    for (size_t i = 0; i < secrets->count; i++)
        for (size_t k = 0; k < secrets->items[i].rule_count; k++)
            if (secrets->items[i].rules[k].meter == rule->meter) {
                rule->budget = secrets->items[i].rules[k].budget;
                return 0;
            }
    if (secrets->budget_count == BG_EGRESS_BUDGETS_MAX)
        return bg_err_set(err, -E2BIG, "more than %d budgets of secrets", BG_EGRESS_BUDGETS_MAX);
    rule->budget = secrets->budget_count++;
    return 0;
}

int secrets_add_rule(struct secrets *secrets, const char *name, struct secret_rule *rule,
                     struct bg_err *err)
{
    if (rule->meter && number_budget(secrets, rule, err) < 0)
        return -E2BIG;
    for (size_t i = 0; i < secrets->count; i++) {
        struct secret *secret = &secrets->items[i];
        if (strcmp(secret->name, name) != 0)
            continue;
        struct secret_rule *rules =
            reallocarray(secret->rules, secret->rule_count + 1, sizeof *rules);
        if (!rules)
            return bg_err_errno(err, -ENOMEM, "secret %s", name);
        secret->rules = rules;
        rules[secret->rule_count++] = *rule;
        *rule = (struct secret_rule){0};
        return 0;
    }
    return bg_err_set(err, -ENOENT, "the sandbox has no secret %s", name);
}

static bool is_for(const struct secret_rule *rule, const struct destination *to)
{
    return host_pattern_matches(&rule->host, to) &&
           (rule->host.host.port == 0 || rule->host.host.port == to->port);
}

/* The body is of a kind that the rule is for. */
static bool covers_body(const struct secret_body *body, const struct secrets_scope *scope)
{
    return (body->types & scope->body.type) && (body->decode || !scope->body.coded) &&
           scope->body.size <= body->size_max;
}

/* Whether the rule is for the place in this request; header: its name, for the places in one. */
static bool rule_approves(const struct secret_rule *rule, const struct secrets_scope *scope,
                          unsigned place, struct slice header)
{
    static const struct request_text no_text = {0};
    static const struct request_view no_view = {.text = &no_text};
    if (!scope->verified || !(rule->in & place) || !is_for(rule, scope->to))
        return false;
    bool named = rule->header_count == 0 || !(place & SECRET_IN_DEFAULT);
    for (size_t k = 0; k < rule->header_count; k++)
        named |= slice_is(header, rule->headers[k]);
    if (!named || (place == SECRET_IN_BODY && !covers_body(&rule->body, scope)))
        return false;
    return request_match_covers(&rule->match, scope->view ? scope->view : &no_view);
}

/* Counts the request in the rule's budget, unless it was. */
static enum policy_spending spend(const struct secret_rule *rule, const struct secrets_scope *scope,
                                  struct secrets_use *use)
{
    uint64_t bit = UINT64_C(1) << rule->budget;
    if (!rule->meter || (use->budgets & bit))
        return POLICY_SPENT;
    enum policy_spending spending = policy_meter_spend(rule->meter, scope->now_ms);
    if (spending == POLICY_SPENT)
        use->budgets |= bit;
    return spending;
}

/* Whether the secret may stand in the place. What is approved and has a value is counted in its
 * budget; *ret_spending is that of the last rule that would let it. */
static bool approved(const struct secret *secret, const struct secrets_scope *scope, unsigned place,
                     struct slice header, struct secrets_use *use,
                     enum policy_spending *ret_spending)
{
    bool found = false;
    *ret_spending = POLICY_SPENT;
    for (size_t i = 0; i < secret->rule_count; i++) {
        const struct secret_rule *rule = &secret->rules[i];
        if (!rule_approves(rule, scope, place, header))
            continue;
        found = true;
        *ret_spending = secret->value ? spend(rule, scope, use) : POLICY_SPENT;
        if (*ret_spending == POLICY_SPENT)
            break;
    }
    return found;
}

size_t secrets_body_max(const struct secrets_scope *scope)
{
    const struct secrets *secrets = scope->secrets;
    size_t max = 0;
    for (size_t i = 0; i < secrets->count; i++)
        for (size_t k = 0; k < secrets->items[i].rule_count; k++) {
            const struct secret_rule *rule = &secrets->items[i].rules[k];
            if (rule->body.size_max > max &&
                rule_approves(rule, scope, SECRET_IN_BODY, (struct slice){"", 0}))
                max = rule->body.size_max;
        }
    return max;
}

uint64_t secrets_at(const struct secrets *secrets, const struct destination *to)
{
    uint64_t set = 0;
    for (size_t i = 0; i < secrets->count; i++)
        for (size_t k = 0; k < secrets->items[i].rule_count; k++)
            if (is_for(&secrets->items[i].rules[k], to))
                set |= UINT64_C(1) << i;
    return set;
}

/* Where text is put together, and what becomes of its placeholders. */
struct putter {
    const struct secrets_scope *scope;
    enum secret_place place;
    struct slice header; /* its name */
    struct buffer *out;
    struct secrets_use *use;
};

void secret_put_encoded(struct buffer *out, const void *bytes, size_t size)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    const uint8_t *byte = bytes;
    for (size_t i = 0; i < size; i++)
        if (byte[i] && strchr(plain, byte[i]))
            buffer_put(out, &byte[i], 1);
        else
            buffer_printf(out, "%%%02X", byte[i]);
}

static const struct secret *resolve(const struct secrets_scope *scope, unsigned place,
                                    struct slice header, const char *placeholder,
                                    struct secrets_use *use)
{
    const struct secrets *secrets = scope->secrets;
    bool inherited;
    const struct secret *found = find_placeholder(secrets, placeholder, &inherited);
    if (!found) {
        use->unknown++;
        return NULL;
    }
    uint64_t bit = UINT64_C(1) << (found - secrets->items);
    enum policy_spending spending;
    if (!approved(found, scope, place, header, use, &spending)) {
        use->not_approved |= bit;
        return NULL;
    }
    if (!found->value) {
        use->valueless |= bit;
        return NULL;
    }
    if (spending != POLICY_SPENT) {
        use->used_up |= bit;
        use->too_fast |= spending == POLICY_TOO_FAST ? bit : 0;
        return NULL;
    }
    use->used |= bit;
    use->inherited |= inherited ? bit : 0;
    return found;
}

const struct secret *secrets_resolve(const struct secrets_scope *scope, unsigned place,
                                     const char *placeholder, struct secrets_use *use)
{
    return resolve(scope, place, (struct slice){"", 0}, placeholder, use);
}

/* Puts what stands for the placeholder at text: its secret, or as_is. */
static void put_placeholder(const struct putter *p, const char *text, struct slice as_is)
{
    const struct secret *found = resolve(p->scope, p->place, p->header, text, p->use);
    if (!found)
        buffer_put(p->out, as_is.at, as_is.size);
    else if (p->place & SECRET_IN_DEFAULT)
        buffer_put(p->out, found->value, found->value_size);
    else
        secret_put_encoded(p->out, found->value, found->value_size);
}

static void put_text(const struct putter *p, const char *text, size_t size)
{
    while (size > 0) {
        const char *hit = memmem(text, size, SECRET_PREFIX, sizeof SECRET_PREFIX - 1);
        size_t before = hit ? (size_t)(hit - text) : size;
        buffer_put(p->out, text, before);
        text += before;
        size -= before;
        if (!hit)
            return;
        size_t take = sizeof SECRET_PREFIX - 1;
        if (secret_is_placeholder(text, size)) {
            take = SECRET_PLACEHOLDER_SIZE;
            put_placeholder(p, text, (struct slice){text, take});
        } else {
            buffer_put(p->out, text, take);
        }
        text += take;
        size -= take;
    }
}

/* Puts Basic credentials with their placeholders exchanged; false: none in there, nothing put. */
static bool put_basic(const struct putter *outer, struct slice value)
{
    size_t at = 6;
    if (value.size < at || strncasecmp(value.at, "basic ", at) != 0)
        return false;
    while (at < value.size && value.at[at] == ' ')
        at++;
    size_t text_size = value.size - at;
    BG_AUTOFREE uint8_t *plain = malloc(text_size + 3);
    if (!plain) {
        outer->out->failed = true;
        return true;
    }
    ssize_t plain_size = bg_base64_decode(value.at + at, text_size, plain);
    if (plain_size < 0 ||
        !memmem(plain, (size_t)plain_size, SECRET_PREFIX, sizeof SECRET_PREFIX - 1))
        return false;

    struct secrets_use inside = {.budgets = outer->use->budgets};
    struct buffer joined = buffer_init(2 * BG_SECRET_SIZE_MAX);
    joined.wipe = true;
    const struct putter p = {outer->scope, SECRET_IN_BASIC, outer->header, &joined, &inside};
    put_text(&p, (const char *)plain, (size_t)plain_size);
    explicit_bzero(plain, text_size + 3);
    secrets_use_add(outer->use, &inside);
    if (inside.used == 0) {
        buffer_reset(&joined);
        /* As it came, but what stood in it is noted. */
        buffer_put(outer->out, value.at, value.size);
        return true;
    }
    size_t encoded_size = BG_BASE64_SIZE(buffer_size(&joined));
    char *encoded = buffer_ok(&joined) ? malloc(encoded_size) : NULL;
    if (encoded) {
        bg_base64_encode(buffer_bytes(&joined), buffer_size(&joined), encoded);
        buffer_put(outer->out, value.at, at);
        buffer_put(outer->out, encoded, encoded_size);
        explicit_bzero(encoded, encoded_size);
        free(encoded);
    } else {
        outer->out->failed = true;
    }
    buffer_reset(&joined);
    return true;
}

void secrets_put_field(const struct secrets_scope *scope, const struct http_field *field,
                       struct buffer *out, struct secrets_use *use)
{
    static const char *const never[] = {
        "host", "content-length", "transfer-encoding", "range", "expect", "connection", "upgrade",
    };
    bool eligible = true;
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        eligible &= !slice_is(field->name, never[i]);
    if (!eligible) {
        buffer_put(out, field->value.at, field->value.size);
        return;
    }
    const struct putter p = {scope, SECRET_IN_HEADER, field->name, out, use};
    if (slice_is(field->name, "authorization") && put_basic(&p, field->value))
        return;
    put_text(&p, field->value.at, field->value.size);
}

/* Decodes count characters, each as it is or as %XX. Returns how many bytes of text they take; 0:
 * there are fewer. */
static size_t decode_some(const char *text, size_t size, size_t count, char *out)
{
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        if (at == size)
            return 0;
        if (text[at] != '%') {
            out[i] = text[at++];
            continue;
        }
        int high = size - at > 2 ? bg_hex_digit(text[at + 1]) : -1;
        int low = size - at > 2 ? bg_hex_digit(text[at + 2]) : -1;
        if (high < 0 || low < 0)
            return 0;
        out[i] = (char)(high << 4 | low);
        at += 3;
    }
    return at;
}

void secrets_put_target(const struct secrets_scope *scope, struct slice target, struct buffer *out,
                        struct secrets_use *use)
{
    struct putter p = {scope, SECRET_IN_PATH, {"", 0}, out, use};
    char text[SECRET_PLACEHOLDER_SIZE];
    for (size_t at = 0; at < target.size;) {
        const char *here = target.at + at;
        if (*here == '?')
            p.place = SECRET_IN_QUERY;
        size_t taken = 0;
        if (*here == SECRET_PREFIX[0] || *here == '%')
            taken = decode_some(here, target.size - at, SECRET_PLACEHOLDER_SIZE, text);
        if (taken > 0 && secret_is_placeholder(text, sizeof text)) {
            put_placeholder(&p, text, (struct slice){here, taken});
        } else {
            buffer_put(out, here, 1);
            taken = 1;
        }
        at += taken;
    }
}
