#include "net/policy_file.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/checked.h"
#include "common/limits.h"
#include "common/quote.h"
#include "net/yaml_doc.h"

#define HOSTS_MAX   64
#define PORTS_MAX   16
#define PRESETS_MAX 16
#define HEADERS_MAX 16
#define RATE_MAX    1000000

/* What a file is read into, and what that takes. */
struct reader {
    struct policy_file file;
    const struct policy_presets *presets;
};

/* One entry of a list of rules while it is read; for a secret too. */
struct entry {
    yaml_node_t *hosts[HOSTS_MAX];
    size_t host_count;
    yaml_node_t *presets[PRESETS_MAX];
    size_t preset_count;
    uint16_t ports[PORTS_MAX];
    size_t port_count;
    struct policy_rule rule; /* what all hosts have in common */
    bool acts;               /* allow or deny was there */
    struct policy_meter meter;
    unsigned in;
    char **headers;
    size_t header_count;
    struct secret_body body;
    bool has_body;
};

static void entry_done(struct entry *entry)
{
    struct secret_rule secret = {.headers = entry->headers, .header_count = entry->header_count};
    secret_rule_done(&secret);
    policy_rule_done(&entry->rule);
}

/* ---- values ---- */

static int read_bool(struct yaml_doc *doc, yaml_node_t *node, const char *key, bool *ret,
                     struct bg_err *err)
{
    const char *text;
    int r = yaml_doc_text(doc, node, key, &text, err);
    if (r == 0 && strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
        r = yaml_doc_fail(doc, node, err, "%s: want true or false", key);
    if (r == 0)
        *ret = strcmp(text, "true") == 0;
    return r;
}

static int read_host(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct entry *entry = owner;
    if (entry->host_count == HOSTS_MAX)
        return yaml_doc_fail(doc, node, err, "more than %d hosts", HOSTS_MAX);
    entry->hosts[entry->host_count++] = node;
    return 0;
}

static int read_action(struct entry *entry, struct yaml_doc *doc, yaml_node_t *node,
                       enum policy_action action, struct bg_err *err)
{
    if (entry->acts)
        return yaml_doc_fail(doc, node, err, "both allow and deny; make two rules of it");
    entry->acts = true;
    entry->rule.action = action;
    return yaml_doc_list(doc, node, action == POLICY_ALLOW ? "allow" : "deny", read_host, entry,
                         err);
}

static int read_allow(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return read_action(owner, doc, node, POLICY_ALLOW, err);
}

static int read_deny(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return read_action(owner, doc, node, POLICY_DENY, err);
}

static int read_hosts(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return yaml_doc_list(doc, node, "host", read_host, owner, err);
}

static int read_preset(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct entry *entry = owner;
    if (entry->preset_count == PRESETS_MAX)
        return yaml_doc_fail(doc, node, err, "more than %d presets", PRESETS_MAX);
    entry->presets[entry->preset_count++] = node;
    return 0;
}

static int read_presets(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return yaml_doc_list(doc, node, "preset", read_preset, owner, err);
}

static int read_port(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct entry *entry = owner;
    const char *text;
    char shown[40];
    int r = yaml_doc_text(doc, node, "ports", &text, err);
    if (r < 0)
        return r;
    if (entry->port_count == PORTS_MAX)
        return yaml_doc_fail(doc, node, err, "more than %d ports", PORTS_MAX);
    if (destination_parse_port(text, strlen(text), &entry->ports[entry->port_count]) < 0)
        return yaml_doc_fail(doc, node, err, "ports: %s: want a number from 1 to 65535",
                             bg_quote(text, shown, sizeof shown));
    entry->port_count++;
    return 0;
}

static int read_ports(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return yaml_doc_list(doc, node, "ports", read_port, owner, err);
}

static int read_protocol(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct entry *entry = owner;
    const char *text;
    char shown[40];
    int r = yaml_doc_text(doc, node, "protocol", &text, err);
    if (r < 0)
        return r;
    entry->rule.tcp = strcmp(text, "tcp") == 0;
    entry->rule.passthrough = strcmp(text, "passthrough") == 0;
    if (!entry->rule.tcp && !entry->rule.passthrough && strcmp(text, "http") != 0)
        return yaml_doc_fail(doc, node, err,
                             "protocol: %s: want http (HTTP and HTTPS), passthrough (TLS that is "
                             "not opened) or tcp (any)",
                             bg_quote(text, shown, sizeof shown));
    return 0;
}

static int read_method(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct entry *entry = owner;
    const char *text;
    int r = yaml_doc_text(doc, node, "methods", &text, err);
    if (r < 0)
        return r;
    r = request_match_add_method(&entry->rule.match, text, err);
    return r < 0 ? yaml_doc_prefix(doc, node, "methods", err) : 0;
}

static int read_methods(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return yaml_doc_list(doc, node, "methods", read_method, owner, err);
}

static int read_path(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct entry *entry = owner;
    const char *text;
    int r = yaml_doc_text(doc, node, "paths", &text, err);
    if (r < 0)
        return r;
    r = request_match_add_path(&entry->rule.match, text, err);
    return r < 0 ? yaml_doc_prefix(doc, node, "paths", err) : 0;
}

static int read_paths(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return yaml_doc_list(doc, node, "paths", read_path, owner, err);
}

/* One key of a query, or one field, and what its value has to match. */
struct condition_reader {
    struct entry *entry;
    const char *what, *name;
    int (*add)(struct request_match *match, const char *name, const char *pattern,
               struct bg_err *err);
};

static int read_pattern(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct condition_reader *reader = owner;
    const char *text;
    int r = yaml_doc_text(doc, node, reader->what, &text, err);
    if (r < 0)
        return r;
    r = reader->add(&reader->entry->rule.match, reader->name, text, err);
    return r < 0 ? yaml_doc_prefix(doc, node, reader->what, err) : 0;
}

static int read_condition(struct condition_reader *reader, struct yaml_doc *doc, yaml_node_t *value,
                          struct bg_err *err)
{
    if (value->type == YAML_SEQUENCE_NODE &&
        value->data.sequence.items.start == value->data.sequence.items.top)
        return yaml_doc_fail(doc, value, err, "%s: a list without a pattern would match nothing",
                             reader->what);
    return yaml_doc_list(doc, value, reader->what, read_pattern, reader, err);
}

static int read_query_pair(void *owner, struct yaml_doc *doc, yaml_node_t *key, const char *name,
                           yaml_node_t *value, struct bg_err *err)
{
    struct condition_reader reader = {owner, "query", name, request_match_add_query};
    (void)key;
    return read_condition(&reader, doc, value, err);
}

static int read_query(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return yaml_doc_pairs(doc, node, "query", "KEY: PATTERN, or a list of patterns",
                          read_query_pair, owner, err);
}

static int read_query_key(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct entry *entry = owner;
    const char *text;
    int r = yaml_doc_text(doc, node, "query_keys", &text, err);
    if (r < 0)
        return r;
    r = request_match_add_key(&entry->rule.match, text, err);
    return r < 0 ? yaml_doc_prefix(doc, node, "query_keys", err) : 0;
}

static int read_query_keys(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    ((struct entry *)owner)->rule.match.only_keys = true;
    return yaml_doc_list(doc, node, "query_keys", read_query_key, owner, err);
}

static int read_header_pair(void *owner, struct yaml_doc *doc, yaml_node_t *key, const char *name,
                            yaml_node_t *value, struct bg_err *err)
{
    struct entry *entry = owner;
    struct condition_reader reader = {owner, "headers", name, request_match_add_header};
    size_t before = entry->rule.match.header_count;
    int r = read_condition(&reader, doc, value, err);
    if (r == 0 && entry->rule.match.header_count == before)
        r = yaml_doc_fail(doc, key, err, "headers: '%s' is there twice, in another case", name);
    return r;
}

static int read_header_conditions(void *owner, struct yaml_doc *doc, yaml_node_t *node,
                                  struct bg_err *err)
{
    return yaml_doc_pairs(doc, node, "headers", "NAME: PATTERN, or a list of patterns",
                          read_header_pair, owner, err);
}

static int read_address(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct policy_rule *rule = &((struct entry *)owner)->rule;
    const char *text;
    int r = yaml_doc_text(doc, node, "addresses", &text, err);
    if (r < 0)
        return r;
    r = policy_add_pin(rule, text, strlen(text), err);
    return r < 0 ? yaml_doc_prefix(doc, node, "addresses", err) : 0;
}

static int read_addresses(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return yaml_doc_list(doc, node, "addresses", read_address, owner, err);
}

/* N/s, N/min, N/h or N/day. Returns false if it is something else. */
static bool parse_rate(const char *text, struct policy_meter *meter)
{
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = {{"/s", 1000}, {"/min", 60000}, {"/h", 3600000}, {"/day", 86400000}};
    char number[16];
    size_t size = strcspn(text, "/");
    (void)snprintf(number, sizeof number, "%.*s", (int)(size < 15 ? size : 15), text);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(text + size, units[i].name) == 0)
            meter->per_ms = units[i].ms;
    return meter->per_ms > 0 && bg_parse_u64(number, 1, RATE_MAX, &meter->rate) == 0;
}

static int read_rate(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct entry *entry = owner;
    const char *text;
    char shown[40];
    int r = yaml_doc_text(doc, node, "rate", &text, err);
    if (r == 0 && !parse_rate(text, &entry->meter))
        r = yaml_doc_fail(doc, node, err, "rate: %s: want N/s, N/min, N/h or N/day",
                          bg_quote(text, shown, sizeof shown));
    return r;
}

/* A secret's: N in all, or N in a time. */
static int read_budget(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct policy_meter *meter = &((struct entry *)owner)->meter;
    const char *text;
    char shown[40];
    int r = yaml_doc_text(doc, node, "budget", &text, err);
    if (r < 0)
        return r;
    bool good = strchr(text, '/') ? parse_rate(text, meter)
                                  : bg_parse_u64(text, 1, INT64_MAX, &meter->requests_max) == 0;
    if (!good)
        r = yaml_doc_fail(doc, node, err,
                          "budget: %s: want N (requests in all), N/s, N/min, N/h or N/day",
                          bg_quote(text, shown, sizeof shown));
    return r;
}

static int read_bytes(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct entry *entry = owner;
    const char *text;
    char shown[40];
    int r = yaml_doc_text(doc, node, "bytes", &text, err);
    if (r == 0 && bg_parse_bytes(text, 1, INT64_MAX, &entry->meter.bytes_max) < 0)
        r = yaml_doc_fail(doc, node, err, "bytes: %s: want a size from 1 on, such as 64K or 10G",
                          bg_quote(text, shown, sizeof shown));
    return r;
}

static int read_requests(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct entry *entry = owner;
    const char *text;
    char shown[40];
    int r = yaml_doc_text(doc, node, "requests", &text, err);
    if (r == 0 && bg_parse_u64(text, 1, INT64_MAX, &entry->meter.requests_max) < 0)
        r = yaml_doc_fail(doc, node, err, "requests: %s: want a number from 1 on",
                          bg_quote(text, shown, sizeof shown));
    return r;
}

static int read_max_body(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct entry *entry = owner;
    const char *text;
    char shown[40];
    int r = yaml_doc_text(doc, node, "max_body", &text, err);
    if (r == 0 && bg_parse_bytes(text, 0, INT64_MAX, &entry->rule.body_max) < 0)
        r = yaml_doc_fail(doc, node, err, "max_body: %s: want a size such as 0, 64K or 10M",
                          bg_quote(text, shown, sizeof shown));
    return r;
}

static int read_place(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    static const struct {
        const char *name;
        enum secret_place place;
    } places[] = {{"header", SECRET_IN_HEADER},
                  {"basic", SECRET_IN_BASIC},
                  {"query", SECRET_IN_QUERY},
                  {"path", SECRET_IN_PATH},
                  {"body", SECRET_IN_BODY}};
    struct entry *entry = owner;
    const char *text;
    char shown[40];
    int r = yaml_doc_text(doc, node, "in", &text, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (strcmp(text, places[i].name) == 0) {
            entry->in |= places[i].place;
            return 0;
        }
    return yaml_doc_fail(doc, node, err, "in: %s: want header, basic, query, path or body",
                         bg_quote(text, shown, sizeof shown));
}

static int read_in(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return yaml_doc_list(doc, node, "in", read_place, owner, err);
}

static int read_body_type(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    static const struct {
        const char *name;
        enum secret_body_type type;
    } types[] = {{"json", SECRET_BODY_JSON},
                 {"form", SECRET_BODY_FORM},
                 {"multipart", SECRET_BODY_MULTIPART},
                 {"text", SECRET_BODY_TEXT}};
    struct secret_body *body = owner;
    const char *text;
    char shown[40];
    int r = yaml_doc_text(doc, node, "types", &text, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(text, types[i].name) == 0) {
            body->types |= types[i].type;
            return 0;
        }
    return yaml_doc_fail(doc, node, err, "types: %s: want json, form, multipart or text",
                         bg_quote(text, shown, sizeof shown));
}

static int read_body_types(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    const struct secret_body *body = owner;
    int r = yaml_doc_list(doc, node, "types", read_body_type, owner, err);
    if (r == 0 && body->types == 0) /* without the key it would be all of them */
        r = yaml_doc_fail(doc, node, err, "types: want json, form, multipart or text");
    return r;
}

static int read_body_max(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct secret_body *body = owner;
    const char *text;
    char shown[40];
    uint64_t max;
    int r = yaml_doc_text(doc, node, "max", &text, err);
    if (r < 0)
        return r;
    if (bg_parse_bytes(text, 1, BG_EGRESS_BODY_MAX, &max) < 0)
        return yaml_doc_fail(doc, node, err, "max: %s: want a size such as 64K or 1M, at most 16M",
                             bg_quote(text, shown, sizeof shown));
    body->size_max = (size_t)max;
    return 0;
}

static int read_body_decode(void *owner, struct yaml_doc *doc, yaml_node_t *node,
                            struct bg_err *err)
{
    struct secret_body *body = owner;
    return read_bool(doc, node, "decode", &body->decode, err);
}

static int read_body(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    static const struct yaml_key keys[] = {{"types", read_body_types},
                                           {"max", read_body_max},
                                           {"decode", read_body_decode},
                                           {NULL, NULL}};
    struct entry *entry = owner;
    entry->has_body = true;
    return yaml_doc_mapping(doc, node, "body", keys, &entry->body, err);
}

static int read_header(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct entry *entry = owner;
    const char *text;
    char shown[80];
    int r = yaml_doc_text(doc, node, "headers", &text, err);
    if (r < 0)
        return r;
    size_t size = strlen(text);
    bool ok = size > 0 && size <= 64;
    for (size_t i = 0; i < size; i++)
        ok &= isalnum((unsigned char)text[i]) || strchr("-_.", text[i]);
    if (!ok)
        return yaml_doc_fail(doc, node, err, "headers: %s is no header's name",
                             bg_quote(text, shown, sizeof shown));
    if (entry->header_count == HEADERS_MAX)
        return yaml_doc_fail(doc, node, err, "more than %d headers", HEADERS_MAX);
    char **headers = reallocarray(entry->headers, entry->header_count + 1, sizeof *headers);
    if (!headers)
        return bg_err_errno(err, -ENOMEM, "%s", doc->name);
    entry->headers = headers;
    char *lower = strdup(text);
    if (!lower)
        return bg_err_errno(err, -ENOMEM, "%s", doc->name);
    for (char *c = lower; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    headers[entry->header_count++] = lower;
    return 0;
}

static int read_headers(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    if (node->type == YAML_MAPPING_NODE)
        return yaml_doc_fail(doc, node, err,
                             "headers: want the names of the fields that the secret may stand in; "
                             "conditions on fields are for rules of network");
    return yaml_doc_list(doc, node, "headers", read_header, owner, err);
}

/* ---- rules ---- */

/* The k-th of the entry's ports for a host that has none of its own; 0: the default. */
static int host_of(const struct entry *entry, struct yaml_doc *doc, yaml_node_t *node, size_t k,
                   struct host_pattern *ret, struct bg_err *err)
{
    const char *text;
    int r = yaml_doc_text(doc, node, "host", &text, err);
    if (r < 0)
        return r;
    r = entry->acts ? host_pattern_parse_network(text, strlen(text), ret, err)
                    : host_pattern_parse(text, strlen(text), ret, err);
    if (r < 0) {
        char shown[200];
        return yaml_doc_prefix(doc, node, bg_quote(text, shown, sizeof shown), err);
    }
    if (entry->port_count > 0 && ret->host.port != 0)
        return yaml_doc_fail(doc, node, err, "the host has a port, and there are ports; give one");
    if (entry->port_count > 0)
        ret->host.port = entry->ports[k];
    return 0;
}

static int add_rule(struct policy_file *file, struct yaml_doc *doc, const struct entry *entry,
                    yaml_node_t *node, size_t k, struct bg_err *err)
{
    struct policy_rule rule = entry->rule; /* whose heap parts are replaced by copies here */
    rule.match = (struct request_match){0};
    rule.meter = NULL;
    rule.text = NULL;
    int r = host_of(entry, doc, node, k, &rule.host, err);
    if (r < 0)
        return r;
    if (rule.passthrough && rule.host.host.port == 0)
        rule.host.host.port = 443;
    if (rule.passthrough && policy_is_at_address(&rule))
        return yaml_doc_fail(doc, node, err, "passthrough goes by the server name; give a name");
    if (rule.tcp && rule.host.host.port == 0)
        return yaml_doc_fail(doc, node, err, "protocol tcp needs a port: HOST:PORT, or ports");
    if (rule.pin_count > 0 && policy_is_at_address(&rule))
        return yaml_doc_fail(doc, node, err, "an address needs no addresses");
    if (asprintf(&rule.text, "%s:%u %s %s", doc->name, yaml_doc_line(node),
                 rule.action == POLICY_ALLOW ? "allow" : "deny",
                 (const char *)node->data.scalar.value) < 0) {
        rule.text = NULL;
        return bg_err_errno(err, -ENOMEM, "%s", doc->name);
    }
    rule.meter = entry->rule.meter;
    if (rule.meter)
        rule.meter->owners++;
    r = request_match_copy(&entry->rule.match, &rule.match);
    r = r < 0 ? bg_err_errno(err, r, "%s", doc->name) : policy_add(&file->policy, &rule, err);
    policy_rule_done(&rule); /* nothing is left in it if it was added */
    return r;
}

/* Adds the rules of a preset, which is a policy file without secrets and presets. */
static int add_preset(struct reader *reader, struct yaml_doc *doc, yaml_node_t *node,
                      struct bg_err *err)
{
    const char *name;
    char shown[80], file_name[80];
    BG_AUTOFREE char *text = NULL;
    size_t size;
    struct policy_file file;
    int r = yaml_doc_text(doc, node, "preset", &name, err);
    if (r < 0)
        return r;
    size_t length = strlen(name);
    bool ok = length > 0 && length <= 32 &&
              strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == length;
    r = ok && reader->presets
            ? reader->presets->load(reader->presets->owner, name, &text, &size, err)
            : -ENOENT;
    if (r == -ENOENT)
        return yaml_doc_fail(doc, node, err, "preset: there is no %s",
                             bg_quote(name, shown, sizeof shown));
    (void)snprintf(file_name, sizeof file_name, "preset %s", name);
    if (r == 0)
        r = policy_file_parse(file_name, text, size, NULL, &file, err);
    if (r < 0)
        return r;
    if (file.secret_count > 0)
        r = yaml_doc_fail(doc, node, err, "preset: %s has secrets, which a preset may not", name);
    else if (file.learn)
        r = yaml_doc_fail(doc, node, err, "preset: %s has default: learn, which a preset may not",
                          name);
    else if (file.audit_best_effort)
        r = yaml_doc_fail(doc, node, err, "preset: %s has audit, which a preset may not", name);
    else if (file.parent.port != 0)
        r = yaml_doc_fail(doc, node, err, "preset: %s has a parent, which a preset may not", name);
    for (size_t i = 0; r == 0 && i < file.policy.count; i++)
        r = policy_add(&reader->file.policy, &file.policy.rules[i], err);
    policy_file_done(&file);
    return r;
}

/* Of those that only requests can have. */
static bool has_conditions(const struct entry *entry)
{
    return !request_match_is_any(&entry->rule.match) || entry->meter.rate > 0 ||
           entry->meter.requests_max > 0 || entry->rule.body_max != UINT64_MAX;
}

static bool is_metered(const struct policy_meter *meter)
{
    return meter->rate > 0 || meter->requests_max > 0 || meter->bytes_max > 0;
}

/* What only the whole rule can tell. */
static int check_rule(const struct entry *entry, const struct yaml_doc *doc,
                      const yaml_node_t *node, struct bg_err *err)
{
    bool limits = is_metered(&entry->meter) || entry->rule.body_max != UINT64_MAX;
    if (entry->preset_count > 0 &&
        (entry->acts || has_conditions(entry) || limits || entry->port_count > 0 ||
         entry->rule.pin_count > 0 || entry->rule.tcp || entry->rule.passthrough))
        return yaml_doc_fail(doc, node, err, "preset stands alone in its rule");
    if (entry->preset_count > 0)
        return 0;
    if (entry->host_count == 0)
        return yaml_doc_fail(doc, node, err, "the rule has neither allow nor deny with a host");
    bool blind = entry->rule.tcp || entry->rule.passthrough;
    if (blind && has_conditions(entry))
        return yaml_doc_fail(doc, node, err,
                             "protocol %s lets bytes pass that nobody reads: no conditions on "
                             "requests and no limits but bytes",
                             entry->rule.tcp ? "tcp" : "passthrough");
    if (blind && entry->rule.action == POLICY_DENY)
        return yaml_doc_fail(doc, node, err, "protocol is for allow; deny is for all of them");
    if (entry->rule.action == POLICY_DENY && (limits || entry->rule.pin_count > 0))
        return yaml_doc_fail(doc, node, err, "addresses and limits are for allow");
    if (entry->rule.action == POLICY_DENY && entry->rule.match.only_keys)
        return yaml_doc_fail(doc, node, err,
                             "query_keys is for allow: one more key would be a way around deny");
    return 0;
}

/* Keys that a later version will have. */
static int check_reserved(struct yaml_doc *doc, const yaml_node_t *node, struct bg_err *err)
{
    if (node->type != YAML_MAPPING_NODE)
        return 0;
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
         pair < node->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key = yaml_document_get_node(&doc->document, pair->key);
        if (key->type == YAML_SCALAR_NODE &&
            strcmp((const char *)key->data.scalar.value, "ask") == 0)
            return yaml_doc_fail(doc, key, err,
                                 "ask is reserved for rules that ask a person, and is not possible "
                                 "yet; use allow or deny");
    }
    return 0;
}

/* FNV-1a, 64 bits, of the text and the NUL at its end. Who writes a policy has no reason to make
 * two that are the same. */
static void mix(uint64_t *hash, const char *text)
{
    const unsigned char *c = (const unsigned char *)text;
    do {
        *hash = (*hash ^ *c) * UINT64_C(0x100000001b3);
    } while (*c++ != '\0');
}

static void mix_texts(uint64_t *hash, const char *what, char *const *texts, size_t count)
{
    mix(hash, what);
    for (size_t i = 0; i < count; i++)
        mix(hash, texts[i]);
}

static void mix_conditions(uint64_t *hash, const char *what,
                           const struct request_condition *conditions, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        mix(hash, what);
        mix_texts(hash, conditions[i].name, conditions[i].patterns, conditions[i].pattern_count);
    }
}

/* What a meter is told from others by, when the policy was changed elsewhere: whom it is for, and
 * for which requests, and not how much it allows. */
static uint64_t key_of(const struct entry *entry, const char *secret)
{
    const struct request_match *match = &entry->rule.match;
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    char number[16];
    mix(&hash, secret);
    for (size_t i = 0; i < entry->host_count; i++)
        mix(&hash, (const char *)entry->hosts[i]->data.scalar.value);
    for (size_t i = 0; i < entry->port_count; i++) {
        (void)snprintf(number, sizeof number, "ports %u", entry->ports[i]);
        mix(&hash, number);
    }
    (void)snprintf(number, sizeof number, "in %u", entry->in);
    mix(&hash, number);
    mix(&hash, entry->rule.tcp ? "tcp" : entry->rule.passthrough ? "passthrough" : "http");
    mix_texts(&hash, "headers", entry->headers, entry->header_count);
    mix_texts(&hash, "methods", match->methods, match->method_count);
    mix_texts(&hash, "paths", match->paths, match->path_count);
    mix_conditions(&hash, "query", match->query, match->query_count);
    mix_texts(&hash, match->only_keys ? "only" : "any", match->keys, match->key_count);
    mix_conditions(&hash, "header", match->header, match->header_count);
    return hash ? hash : 1;
}

/* A meter for all hosts of the entry, in its rule; NULL: it has no limits. secret: its name, "" for
 * a rule of network. */
static int make_meter(struct entry *entry, const char *secret, const struct yaml_doc *doc,
                      struct bg_err *err)
{
    if (!is_metered(&entry->meter))
        return 0;
    entry->rule.meter = malloc(sizeof *entry->rule.meter);
    if (!entry->rule.meter)
        return bg_err_errno(err, -ENOMEM, "%s", doc->name);
    *entry->rule.meter = entry->meter;
    entry->rule.meter->owners = 1;
    entry->rule.meter->key = key_of(entry, secret);
    return 0;
}

static int read_rule(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    static const struct yaml_key keys[] = {{"allow", read_allow},
                                           {"deny", read_deny},
                                           {"ports", read_ports},
                                           {"protocol", read_protocol},
                                           {"methods", read_methods},
                                           {"paths", read_paths},
                                           {"query", read_query},
                                           {"query_keys", read_query_keys},
                                           {"headers", read_header_conditions},
                                           {"addresses", read_addresses},
                                           {"rate", read_rate},
                                           {"requests", read_requests},
                                           {"bytes", read_bytes},
                                           {"max_body", read_max_body},
                                           {"preset", read_presets},
                                           {NULL, NULL}};
    struct reader *reader = owner;
    struct entry entry = {.rule = {.body_max = UINT64_MAX}};
    int r = check_reserved(doc, node, err);
    if (r == 0)
        r = yaml_doc_mapping(doc, node, "a rule", keys, &entry, err);
    if (r == 0)
        r = check_rule(&entry, doc, node, err);
    if (r == 0)
        r = make_meter(&entry, "", doc, err);
    /* One field of several is enough to refuse, and not to allow. */
    entry.rule.match.any_field = entry.rule.action == POLICY_DENY;
    for (size_t i = 0; r == 0 && i < entry.host_count; i++)
        for (size_t k = 0; r == 0 && (k == 0 || k < entry.port_count); k++)
            r = add_rule(&reader->file, doc, &entry, entry.hosts[i], k, err);
    for (size_t i = 0; r == 0 && i < entry.preset_count; i++)
        r = add_preset(reader, doc, entry.presets[i], err);
    entry_done(&entry);
    return r;
}

static int read_rules(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    if (node->type == YAML_SCALAR_NODE && node->data.scalar.length == 0)
        return 0; /* all of them are comments */
    if (node->type != YAML_SEQUENCE_NODE)
        return yaml_doc_fail(doc, node, err, "rules: want a list, each with allow or deny");
    return yaml_doc_list(doc, node, "rules", read_rule, owner, err);
}

static int read_default(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct reader *reader = owner;
    const char *text;
    int r = yaml_doc_text(doc, node, "default", &text, err);
    if (r == 0 && strcmp(text, "deny") != 0 && strcmp(text, "learn") != 0)
        r = yaml_doc_fail(doc, node, err,
                          "default: want deny, or learn to find out what a policy needs");
    if (r == 0)
        reader->file.learn = strcmp(text, "learn") == 0;
    return r;
}

static int read_strict(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct reader *reader = owner;
    return read_bool(doc, node, "strict", &reader->file.policy.strict, err);
}

static int read_parent(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct reader *reader = owner;
    const char *text;
    struct bg_err why;
    int r = yaml_doc_text(doc, node, "parent", &text, err);
    if (r < 0)
        return r;
    if (strncmp(text, "http://", 7) == 0)
        text += 7;
    size_t size = strlen(text);
    size -= size > 0 && text[size - 1] == '/';
    if (memchr(text, '@', size))
        return yaml_doc_fail(doc, node, err,
                             "parent: a login has no place here; put USER:PASSWORD into the store "
                             "with 'bellglass secret set NAME', and name it with parent_login");
    if (destination_parse(text, size, 0, &reader->file.parent, &why) < 0)
        return yaml_doc_fail(doc, node, err, "parent: want http://HOST:PORT: %s", why.text);
    if (reader->file.parent.port == 0)
        return yaml_doc_fail(doc, node, err, "parent: want http://HOST:PORT, with a port");
    return 0;
}

static int read_parent_login(void *owner, struct yaml_doc *doc, yaml_node_t *node,
                             struct bg_err *err)
{
    struct reader *reader = owner;
    const char *text;
    char shown[80];
    int r = yaml_doc_text(doc, node, "parent_login", &text, err);
    if (r == 0 && !secret_name_ok(text))
        r = yaml_doc_fail(doc, node, err, "parent_login: %s: want the name of a secret",
                          bg_quote(text, shown, sizeof shown));
    if (r < 0)
        return r;
    reader->file.parent_login = strdup(text);
    return reader->file.parent_login ? 0 : bg_err_errno(err, -ENOMEM, "%s", doc->name);
}

static int read_network(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    static const struct yaml_key keys[] = {
        {"default", read_default},           {"strict", read_strict}, {"parent", read_parent},
        {"parent_login", read_parent_login}, {"rules", read_rules},   {NULL, NULL}};
    const struct reader *reader = owner;
    int r = yaml_doc_mapping(doc, node, "network", keys, owner, err);
    if (r == 0 && reader->file.parent_login && reader->file.parent.port == 0)
        r = yaml_doc_fail(doc, node, err, "parent_login without parent");
    return r;
}

/* ---- secrets ---- */

struct secret_reader {
    struct policy_file *file;
    const char *name;
};

static int add_secret(struct secret_reader *reader, struct yaml_doc *doc, const struct entry *entry,
                      yaml_node_t *node, struct bg_err *err)
{
    struct policy_file *file = reader->file;
    struct policy_secret *secrets =
        reallocarray(file->secrets, file->secret_count + 1, sizeof *secrets);
    if (!secrets)
        return bg_err_errno(err, -ENOMEM, "%s", doc->name);
    file->secrets = secrets;
    struct policy_secret *s = &secrets[file->secret_count];
    *s = (struct policy_secret){.name = strdup(reader->name)};
    s->rule.in = entry->in ? entry->in : SECRET_IN_DEFAULT;
    if (s->rule.in & SECRET_IN_BODY) {
        s->rule.body = entry->body;
        if (s->rule.body.types == 0)
            s->rule.body.types = SECRET_BODY_TYPES;
        if (s->rule.body.size_max == 0)
            s->rule.body.size_max = BG_EGRESS_BODY_SIZE;
    }
    s->rule.headers = calloc(entry->header_count + 1, sizeof *s->rule.headers);
    file->secret_count++; /* from here on policy_file_done frees it */
    if (!s->name || !s->rule.headers || request_match_copy(&entry->rule.match, &s->rule.match) < 0)
        return bg_err_errno(err, -ENOMEM, "%s", doc->name);
    s->rule.meter = entry->rule.meter;
    if (s->rule.meter)
        s->rule.meter->owners++;
    for (size_t i = 0; i < entry->header_count; i++) {
        s->rule.headers[i] = strdup(entry->headers[i]);
        if (!s->rule.headers[i])
            return bg_err_errno(err, -ENOMEM, "%s", doc->name);
        s->rule.header_count++;
    }
    return host_of(entry, doc, node, 0, &s->rule.host, err);
}

static int read_use(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    static const struct yaml_key keys[] = {{"host", read_hosts},
                                           {"in", read_in},
                                           {"headers", read_headers},
                                           {"methods", read_methods},
                                           {"paths", read_paths},
                                           {"query", read_query},
                                           {"query_keys", read_query_keys},
                                           {"budget", read_budget},
                                           {"body", read_body},
                                           {NULL, NULL}};
    struct secret_reader *reader = owner;
    struct entry entry = {0};
    int r = yaml_doc_mapping(doc, node, "a secret's rule", keys, &entry, err);
    if (r == 0 && entry.host_count == 0)
        r = yaml_doc_fail(doc, node, err, "the secret's rule has no host");
    if (r == 0 && entry.header_count > 0 && entry.in && !(entry.in & SECRET_IN_DEFAULT))
        r = yaml_doc_fail(doc, node, err, "headers, but header is not among in");
    if (r == 0 && entry.has_body && !(entry.in & SECRET_IN_BODY))
        r = yaml_doc_fail(doc, node, err, "body, but body is not among in: in: [body]");
    if (r == 0)
        r = make_meter(&entry, reader->name, doc, err);
    for (size_t i = 0; r == 0 && i < entry.host_count; i++)
        r = add_secret(reader, doc, &entry, entry.hosts[i], err);
    entry_done(&entry);
    return r;
}

static int read_secret(void *owner, struct yaml_doc *doc, yaml_node_t *key, const char *name,
                       yaml_node_t *value, struct bg_err *err)
{
    struct secret_reader reader = {.file = &((struct reader *)owner)->file, .name = name};
    char shown[80];
    if (!secret_name_ok(name))
        return yaml_doc_fail(doc, key, err,
                             "secrets: %s: a name is letters, digits and _, no digit in front",
                             bg_quote(name, shown, sizeof shown));
    if (value->type != YAML_SEQUENCE_NODE ||
        value->data.sequence.items.start == value->data.sequence.items.top)
        return yaml_doc_fail(doc, value, err,
                             "secrets: %s: want a list of rules, such as '- host: HOST'", name);
    return yaml_doc_list(doc, value, name, read_use, &reader, err);
}

static int read_secrets(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return yaml_doc_pairs(doc, node, "secrets", "names, each with a list of rules", read_secret,
                          owner, err);
}

/* ---- all of it ---- */

static int read_audit(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct reader *reader = owner;
    const char *text;
    int r = yaml_doc_text(doc, node, "audit", &text, err);
    if (r == 0 && strcmp(text, "required") != 0 && strcmp(text, "best-effort") != 0)
        r = yaml_doc_fail(doc, node, err, "audit: want required or best-effort");
    if (r == 0)
        reader->file.audit_best_effort = strcmp(text, "best-effort") == 0;
    return r;
}

void policy_file_done(struct policy_file *file)
{
    for (size_t i = 0; i < file->secret_count; i++) {
        free(file->secrets[i].name);
        secret_rule_done(&file->secrets[i].rule);
    }
    free(file->secrets);
    free(file->parent_login);
    policy_done(&file->policy);
    *file = (struct policy_file){0};
}

/* After all others: what they deny stays denied. */
static int add_learning(struct policy *policy, struct bg_err *err)
{
    struct policy_rule rule = {0};
    int r = policy_rule_learn(&rule, err);
    if (r == 0)
        r = policy_add(policy, &rule, err);
    if (r < 0)
        policy_rule_done(&rule);
    return r;
}

/* What a project's file says of its sandbox is not the policy's to check (project_file.h). */
static int pass_over(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    (void)owner;
    (void)doc;
    (void)node;
    (void)err;
    return 0;
}

int policy_file_parse(const char *name, const char *text, size_t size,
                      const struct policy_presets *presets, struct policy_file *ret,
                      struct bg_err *err)
{
    static const struct yaml_key keys[] = {{"network", read_network},
                                           {"secrets", read_secrets},
                                           {"audit", read_audit},
                                           {"image", pass_over},
                                           {"cpus", pass_over},
                                           {"memory", pass_over},
                                           {"ttl", pass_over},
                                           {"idle_suspend", pass_over},
                                           {"env", pass_over},
                                           {"mounts", pass_over},
                                           {NULL, NULL}};
    struct yaml_doc doc;
    struct reader reader = {.presets = presets};
    int r = yaml_doc_parse(&doc, name, text, size, err);
    if (r < 0)
        return r;
    yaml_node_t *root = yaml_doc_root(&doc);
    if (root)
        r = yaml_doc_mapping(&doc, root, "a policy", keys, &reader, err);
    yaml_doc_done(&doc);
    if (r == 0 && reader.file.learn)
        r = add_learning(&reader.file.policy, err);
    if (r < 0)
        policy_file_done(&reader.file);
    else
        *ret = reader.file;
    return r;
}
