#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/limits.h"
#include "net/policy_file.h"

static int load_preset(void *owner, const char *name, char **ret, size_t *ret_size,
                       struct bg_err *err)
{
    static const char *const presets[][2] = {
        {"two", "network:\n  rules:\n    - allow: [t1.org, t2.org]\n"},
        {"nested", "network:\n  rules:\n    - preset: two\n"},
        {"secret", "secrets:\n  X:\n    - host: a\n"},
        {"parent", "network:\n  parent: http://p:1\n"},
        {"learn", "network:\n  default: learn\n"},
        {"audit", "audit: best-effort\n"},
    };
    (void)owner;
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (strcmp(presets[i][0], name) == 0) {
            *ret = strdup(presets[i][1]);
            *ret_size = strlen(presets[i][1]);
            return 0;
        }
    return bg_err_set(err, -ENOENT, "none");
}

static int parse(const char *text, struct policy_file *ret, struct bg_err *err)
{
    static const struct policy_presets presets = {.load = load_preset};
    return policy_file_parse("p.yaml", text, strlen(text), &presets, ret, err);
}

static const char policy[] = "network:\n"
                             "  default: deny\n"
                             "  rules:\n"
                             "    - deny: api.github.com\n"
                             "      methods: [DELETE]\n"
                             "    - allow: api.github.com\n"
                             "      methods: [GET, POST]\n"
                             "      paths: [/repos/acme/**, /graphql]\n"
                             "    - allow: ['*.pypi.org', pypi.org]\n"
                             "      ports: [443, 8443]\n"
                             "      methods: GET\n"
                             "    - allow: db.internal:5432\n"
                             "      protocol: tcp\n"
                             "      addresses: [10.0.3.7]\n"
                             "    - deny: bad.example.org\n"
                             "    - allow: '*.example.org'\n";

static void decides_by_request(void **state)
{
    (void)state;
    static const struct {
        const char *to, *method, *target;
        enum policy_verdict verdict;
        const char *rule;
    } rows[] = {
        {"api.github.com:443", "GET", "/graphql", POLICY_ALLOWED, "p.yaml:6 allow api.github.com"},
        {"api.github.com:443", "GET", "/graphql?x=1", POLICY_ALLOWED,
         "p.yaml:6 allow api.github.com"},
        {"api.github.com:80", "POST", "/repos/acme/x/y", POLICY_ALLOWED,
         "p.yaml:6 allow api.github.com"},
        {"api.github.com:443", "PUT", "/graphql", POLICY_NO_REQUEST, NULL},
        {"api.github.com:443", "GET", "/user", POLICY_NO_REQUEST, NULL},
        {"api.github.com:443", "GET", "/repos/acme/../evil", POLICY_UNCLEAR_PATH, NULL},
        {"api.github.com:443", "DELETE", "/graphql", POLICY_DENIED, "p.yaml:4 deny api.github.com"},
        {"api.github.com:8443", "GET", "/graphql", POLICY_NO_HOST, NULL},
        {"files.pypi.org:443", "GET", "/a/../b", POLICY_ALLOWED, "p.yaml:9 allow *.pypi.org"},
        {"pypi.org:8443", "GET", "/", POLICY_ALLOWED, "p.yaml:9 allow pypi.org"},
        {"pypi.org:80", "GET", "/", POLICY_NO_HOST, NULL},
        {"pypi.org:443", "POST", "/", POLICY_NO_REQUEST, NULL},
        {"bad.example.org:443", "GET", "/", POLICY_DENIED, "p.yaml:15 deny bad.example.org"},
        {"good.example.org:443", "GET", "/", POLICY_ALLOWED, "p.yaml:16 allow *.example.org"},
        {"other.test:443", "GET", "/", POLICY_NO_HOST, NULL},
    };
    struct policy_file file;
    struct bg_err err;
    if (parse(policy, &file, &err) < 0)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct destination to;
        const struct policy_rule *rule;
        assert_int_equal(destination_parse(rows[i].to, strlen(rows[i].to), 0, &to, NULL), 0);
        const struct request_text request = {{rows[i].method, strlen(rows[i].method)},
                                             {rows[i].target, strlen(rows[i].target)},
                                             NULL,
                                             0};
        enum policy_verdict verdict = policy_decide(&file.policy, &to, &request, &rule);
        if (verdict != rows[i].verdict ||
            strcmp(rule ? rule->text : "", rows[i].rule ? rows[i].rule : "") != 0)
            fail_msg("%s %s %s: %d %s", rows[i].method, rows[i].to, rows[i].target, (int)verdict,
                     rule ? rule->text : "-");
    }
    policy_file_done(&file);
}

static void decides_by_connection(void **state)
{
    (void)state;
    static const struct {
        const char *to;
        bool allowed, tcp;
    } rows[] = {
        {"api.github.com:443", true, false},   {"pypi.org:443", true, false},
        {"db.internal:5432", true, true},      {"db.internal:443", false, false},
        {"bad.example.org:443", false, false}, {"a.example.org:443", true, false},
    };
    struct policy_file file;
    assert_int_equal(parse(policy, &file, NULL), 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct destination to;
        assert_int_equal(destination_parse(rows[i].to, strlen(rows[i].to), 0, &to, NULL), 0);
        const struct policy_rule *rule = policy_find(&file.policy, &to);
        if ((rule != NULL) != rows[i].allowed || (rule && rule->tcp != rows[i].tcp))
            fail_msg("%s", rows[i].to);
    }
    policy_file_done(&file);
}

static void reads_secrets(void **state)
{
    (void)state;
    static const char text[] = "secrets:\n"
                               "  TOKEN:\n"
                               "    - host: [api.github.com, '*.githubusercontent.com:443']\n"
                               "      in: [query, header]\n"
                               "      headers: Authorization\n"
                               "      paths: [/repos/**]\n"
                               "    - host: other.org\n"
                               "  K2:\n"
                               "    - host: other.org\n";
    struct policy_file file;
    struct bg_err err;
    if (parse(text, &file, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(file.policy.count, 0);
    assert_int_equal(file.secret_count, 4);
    assert_string_equal(file.secrets[1].name, "TOKEN");
    assert_int_equal(file.secrets[1].rule.in, SECRET_IN_QUERY | SECRET_IN_HEADER);
    assert_string_equal(file.secrets[1].rule.headers[0], "authorization");
    assert_int_equal(file.secrets[1].rule.host.host.port, 443);
    assert_int_equal(file.secrets[1].rule.match.path_count, 1);
    assert_int_equal(file.secrets[2].rule.in, SECRET_IN_DEFAULT);
    assert_string_equal(file.secrets[3].name, "K2");
    policy_file_done(&file);
}

static void reads_which_bodies_a_secret_may_be_in(void **state)
{
    (void)state;
    static const char text[] = "secrets:\n"
                               "  A:\n"
                               "    - host: [a.org, b.org]\n"
                               "      in: [header, body]\n"
                               "    - host: a.org\n"
                               "      in: body\n"
                               "      body: {types: [json, multipart], max: 64K, decode: true}\n"
                               "    - host: a.org\n"
                               "      body: {types: form, max: 16M, decode: false}\n"
                               "      in: [body]\n"
                               "    - host: a.org\n"
                               "      in: [body]\n"
                               "      body: {types: text, max: 1}\n";
    struct policy_file file;
    struct bg_err err;
    if (parse(text, &file, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(file.secret_count, 5);
    for (size_t i = 0; i < 2; i++) {
        const struct secret_rule *rule = &file.secrets[i].rule;
        assert_int_equal(rule->in, SECRET_IN_HEADER | SECRET_IN_BODY);
        assert_int_equal(rule->body.types, SECRET_BODY_TYPES);
        assert_int_equal(rule->body.size_max, BG_EGRESS_BODY_SIZE);
        assert_false(rule->body.decode);
    }
    const struct secret_body *body = &file.secrets[2].rule.body;
    assert_int_equal(body->types, SECRET_BODY_JSON | SECRET_BODY_MULTIPART);
    assert_int_equal(body->size_max, 64 * 1024);
    assert_true(body->decode);
    body = &file.secrets[3].rule.body;
    assert_int_equal(body->types, SECRET_BODY_FORM);
    assert_int_equal(body->size_max, BG_EGRESS_BODY_MAX);
    assert_false(body->decode);
    body = &file.secrets[4].rule.body;
    assert_int_equal(body->types, SECRET_BODY_TEXT);
    assert_int_equal(body->size_max, 1);
    policy_file_done(&file);
}

static void takes_presets_in(void **state)
{
    (void)state;
    struct policy_file file;
    struct bg_err err;
    if (parse("network:\n  rules:\n    - deny: t2.org\n    - preset: two\n    - allow: a.org\n",
              &file, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(file.policy.count, 4);
    assert_string_equal(file.policy.rules[0].text, "p.yaml:3 deny t2.org");
    assert_string_equal(file.policy.rules[2].text, "preset two:3 allow t2.org");
    assert_string_equal(file.policy.rules[3].text, "p.yaml:5 allow a.org");
    policy_file_done(&file);
}

static void says_what_a_lost_audit_means(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool best_effort;
    } rows[] = {{"", false},
                {"network:\n  rules: []\n", false},
                {"audit: required\n", false},
                {"audit: best-effort\n", true}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct policy_file file;
        assert_int_equal(parse(rows[i].text, &file, NULL), 0);
        assert_int_equal(file.audit_best_effort, rows[i].best_effort);
        policy_file_done(&file);
    }
}

static void counts_requests(void **state)
{
    (void)state;
    static const char text[] = "network:\n"
                               "  strict: true\n"
                               "  rules:\n"
                               "    - allow: [a.org, b.org]\n"
                               "      rate: 3/min\n"
                               "      max_body: 1K\n"
                               "    - allow: c.org\n"
                               "      requests: 2\n"
                               "    - allow: d.org\n";
    struct policy_file file;
    assert_int_equal(parse(text, &file, NULL), 0);
    assert_true(file.policy.strict);
    assert_int_equal(file.policy.count, 4);
    const struct policy_rule *a = &file.policy.rules[0], *b = &file.policy.rules[1];
    assert_int_equal(a->body_max, 1024);
    assert_int_equal(file.policy.rules[2].body_max, UINT64_MAX);
    /* Three at once, of both hosts together; then one every 20 s, and never more than three saved.
     */
    assert_int_equal(policy_spend(a, 0, 5000), POLICY_SPENT);
    assert_int_equal(policy_spend(b, 0, 5000), POLICY_SPENT);
    assert_int_equal(policy_spend(a, 0, 5001), POLICY_SPENT);
    assert_int_equal(policy_spend(b, 0, 5002), POLICY_TOO_FAST);
    assert_int_equal(policy_spend(a, 0, 24999), POLICY_TOO_FAST);
    assert_int_equal(policy_spend(a, 0, 25001), POLICY_SPENT);
    assert_int_equal(policy_spend(a, 0, 25002), POLICY_TOO_FAST);
    for (int i = 0; i < 3; i++)
        assert_int_equal(policy_spend(a, 0, 900000000), POLICY_SPENT);
    assert_int_equal(policy_spend(a, 0, 900000000), POLICY_TOO_FAST);
    assert_int_equal(policy_spend(&file.policy.rules[2], 0, 1), POLICY_SPENT);
    assert_int_equal(policy_spend(&file.policy.rules[2], 0, 2), POLICY_SPENT);
    assert_int_equal(policy_spend(&file.policy.rules[2], 0, UINT64_MAX), POLICY_USED_UP);
    assert_int_equal(policy_spend(&file.policy.rules[3], 0, 0), POLICY_SPENT);
    policy_file_done(&file);
}

static const char conditions[] = "network:\n"
                                 "  rules:\n"
                                 "    - deny: a.org\n"
                                 "      query: {admin: '*'}\n"
                                 "    - deny: a.org\n"
                                 "      headers: {X-Mode: [debug, 'trace*']}\n"
                                 "    - allow: a.org\n"
                                 "      query:\n"
                                 "        state: [open, closed]\n"
                                 "      query_keys: [page, q]\n"
                                 "      headers:\n"
                                 "        Accept: application/*\n"
                                 "    - allow: b.org\n"
                                 "      query_keys: []\n";

static void decides_by_query_and_header(void **state)
{
    (void)state;
    static const struct {
        const char *to, *target;
        enum policy_verdict verdict;
        const char *name, *values[2]; /* of header fields */
    } rows[] = {
        {"a.org", "/?state=open", POLICY_ALLOWED, "accept", {"application/json"}},
        {"a.org", "/?page=2&state=c%6Cosed&q=a+b%20c", POLICY_ALLOWED, "ACCEPT", {"application/"}},
        {"a.org", "/?state=all", POLICY_NO_REQUEST, "accept", {"application/json"}},
        {"a.org", "/?state=Open", POLICY_NO_REQUEST, "accept", {"application/json"}},
        {"a.org", "/", POLICY_NO_REQUEST, "accept", {"application/json"}},
        {"a.org", "/?state=open&x", POLICY_NO_REQUEST, "accept", {"application/json"}},
        {"a.org", "/?state=open", POLICY_NO_REQUEST, "accept", {"text/html"}},
        {"a.org", "/?state=open", POLICY_NO_REQUEST, "x-accept", {"application/json"}},
        {"a.org", "/?state=open", POLICY_NO_REQUEST, "accept", {"application/json", "text/html"}},
        {"a.org",
         "/?state=open",
         POLICY_ALLOWED,
         "accept",
         {"application/json", "application/xml"}},
        /* One of two is enough to be denied. */
        {"a.org", "/?state=open", POLICY_DENIED, "x-mode", {"no", "traced"}},
        {"a.org", "/?state=open&admin=", POLICY_DENIED, "accept", {"application/json"}},
        {"a.org", "/?state=open&ad%6Din", POLICY_DENIED, "accept", {"application/json"}},
        /* What servers read in several ways, whatever the rules say. */
        {"a.org", "/?state=open&state=open", POLICY_UNCLEAR_QUERY, "accept", {"application/json"}},
        {"a.org", "/?state=open&Admin=1", POLICY_UNCLEAR_QUERY, "accept", {"application/json"}},
        {"a.org", "/?state[]=open", POLICY_UNCLEAR_QUERY, "accept", {"application/json"}},
        {"a.org", "/?state=open;admin=1", POLICY_UNCLEAR_QUERY, "accept", {"application/json"}},
        {"a.org", "/?state=%", POLICY_UNCLEAR_QUERY, "accept", {"application/json"}},
        {"b.org", "/", POLICY_ALLOWED, "a", {"b"}},
        {"b.org", "/?", POLICY_ALLOWED, "a", {"b"}},
        {"b.org", "/?&&", POLICY_ALLOWED, "a", {"b"}},
        {"b.org", "/?x", POLICY_NO_REQUEST, "a", {"b"}},
        {"b.org", "/?=x", POLICY_UNCLEAR_QUERY, "a", {"b"}},
    };
    struct policy_file file;
    struct bg_err err;
    if (parse(conditions, &file, &err) < 0)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct destination to;
        const struct policy_rule *rule;
        struct http_field fields[2];
        struct request_text request = {
            {"GET", 3}, {rows[i].target, strlen(rows[i].target)}, fields, 0};
        for (size_t k = 0; k < 2 && rows[i].values[k]; k++)
            fields[request.field_count++] =
                (struct http_field){{rows[i].name, strlen(rows[i].name)},
                                    {rows[i].values[k], strlen(rows[i].values[k])}};
        assert_int_equal(destination_parse(rows[i].to, strlen(rows[i].to), 443, &to, NULL), 0);
        enum policy_verdict verdict = policy_decide(&file.policy, &to, &request, &rule);
        if (verdict != rows[i].verdict)
            fail_msg("row %zu, %s: %d", i, rows[i].target, (int)verdict);
    }
    policy_file_done(&file);
}

static void reads_networks(void **state)
{
    (void)state;
    static const char text[] = "network:\n"
                               "  rules:\n"
                               "    - deny: 10.0.3.128/25\n"
                               "      ports: [5432]\n"
                               "    - allow: [10.0.3.0/24, 'fd00:3::/64']\n"
                               "      ports: [5432, 6432]\n"
                               "      protocol: tcp\n"
                               "    - allow: db.org:5432\n"
                               "      addresses: [10.0.0.0/8, 192.0.2.7]\n";
    static const struct {
        const char *to;
        bool allowed;
    } rows[] = {
        {"10.0.3.7:5432", true},    {"10.0.3.7:6432", true},     {"10.0.3.7:443", false},
        {"10.0.3.200:5432", false}, {"10.0.3.200:6432", true},   {"10.0.4.1:5432", false},
        {"[fd00:3::9]:5432", true}, {"[fd00:4::9]:5432", false}, {"db.org:5432", true},
    };
    struct policy_file file;
    struct bg_err err;
    if (parse(text, &file, &err) < 0)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct destination to;
        assert_int_equal(destination_parse(rows[i].to, strlen(rows[i].to), 0, &to, NULL), 0);
        if ((policy_find(&file.policy, &to) != NULL) != rows[i].allowed)
            fail_msg("%s", rows[i].to);
    }
    /* The name's addresses: inside of its networks, and not denied before. */
    static const struct {
        const char *address;
        bool ok;
    } addresses[] = {{"10.0.3.7", true},   {"10.0.3.200", false}, {"10.9.9.9", true},
                     {"192.0.2.7", true},  {"192.0.2.8", false},  {"8.8.8.8", false},
                     {"127.0.0.1", false}, {"fd00:3::9", false}};
    struct destination to;
    assert_int_equal(destination_parse("db.org:5432", 11, 0, &to, NULL), 0);
    const struct policy_rule *rule = policy_find(&file.policy, &to);
    assert_false(policy_knows_addresses(rule));
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
        struct address a;
        const char *address = addresses[i].address;
        assert_int_equal(address_parse(address, strlen(address), &a), 0);
        if (policy_address_ok(&file.policy, rule, &to, &a) != addresses[i].ok)
            fail_msg("%s", address);
    }
    policy_file_done(&file);
}

static void counts_bytes(void **state)
{
    (void)state;
    static const char text[] = "network:\n"
                               "  rules:\n"
                               "    - allow: [a.org, b.org]\n"
                               "      bytes: 1K\n"
                               "    - allow: c.org:22\n"
                               "      protocol: tcp\n"
                               "      bytes: 1K\n"
                               "    - allow: d.org\n";
    struct policy_file file;
    struct bg_err err;
    if (parse(text, &file, &err) < 0)
        fail_msg("%s", err.text);
    const struct policy_rule *a = &file.policy.rules[0], *b = &file.policy.rules[1];
    assert_int_equal(policy_spend(a, 1024, 1), POLICY_SPENT); /* a length alone costs nothing */
    assert_int_equal(policy_spend(a, 1025, 1), POLICY_BYTES_USED_UP);
    assert_true(policy_spend_bytes(a, 1000));
    assert_int_equal(policy_spend(b, 24, 1), POLICY_SPENT);
    assert_int_equal(policy_spend(b, 25, 1), POLICY_BYTES_USED_UP);
    assert_true(policy_spend_bytes(b, 24));
    assert_true(policy_spend_bytes(b, 0));
    assert_true(policy_bytes_gone(a));
    assert_int_equal(policy_spend(a, 0, 1), POLICY_BYTES_USED_UP);
    assert_false(policy_spend_bytes(a, 1));
    /* What does not fit is the end, and a size cannot wrap. */
    assert_true(policy_spend_bytes(&file.policy.rules[2], 1));
    assert_false(policy_spend_bytes(&file.policy.rules[2], UINT64_MAX));
    assert_false(policy_spend_bytes(&file.policy.rules[2], 1));
    assert_true(policy_spend_bytes(&file.policy.rules[3], UINT64_MAX));
    assert_false(policy_bytes_gone(&file.policy.rules[3]));
    policy_file_done(&file);
}

static uint64_t key_in(const char *rule)
{
    char text[512];
    struct policy_file file;
    struct bg_err err;
    (void)snprintf(text, sizeof text, "network:\n  rules:\n    - {%s}\n", rule);
    if (parse(text, &file, &err) < 0)
        fail_msg("%s", err.text);
    uint64_t key = file.policy.rules[0].meter->key;
    policy_file_done(&file);
    return key;
}

/* By whom it is for and for which requests, whatever it allows. */
static void tells_limits_apart_by_their_conditions(void **state)
{
    (void)state;
    static const char *const same[] = {"allow: a.org, requests: 2", "allow: a.org, rate: 1/s",
                                       "bytes: 1G, allow: [a.org]"};
    static const char *const others[] = {
        "allow: b.org, requests: 1",
        "allow: [a.org, b.org], requests: 1",
        "allow: a.org, ports: 443, requests: 1",
        "allow: a.org, methods: GET, requests: 1",
        "allow: a.org, paths: /x, requests: 1",
        "allow: a.org, query: {a: b}, requests: 1",
        "allow: a.org, query: {a: [b, c]}, requests: 1",
        "allow: a.org, query: {a: b, c: d}, requests: 1",
        "allow: a.org, query_keys: [], requests: 1",
        "allow: a.org, query_keys: [a], requests: 1",
        "allow: a.org, headers: {a: b}, requests: 1",
        "allow: 'a.org:22', protocol: tcp, bytes: 1",
    };
    uint64_t keys[sizeof others / sizeof *others + 1] = {key_in("allow: a.org, requests: 1")};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        assert_int_equal(key_in(same[i]), keys[0]);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        keys[i + 1] = key_in(others[i]);
        for (size_t k = 0; k <= i; k++)
            if (keys[k] == keys[i + 1])
                fail_msg("%s", others[i]);
    }
}

/* A clock that jumps back gives nothing, and takes nothing for good. */
static void gives_no_more_when_the_clock_goes_back(void **state)
{
    (void)state;
    struct policy_meter m = {.rate = 2, .per_ms = 60000};
    assert_int_equal(policy_meter_spend(&m, 1000000), POLICY_SPENT);
    assert_int_equal(policy_meter_spend(&m, 1000000), POLICY_SPENT);
    assert_int_equal(policy_meter_spend(&m, 1000), POLICY_TOO_FAST);
    assert_int_equal(policy_meter_spend(&m, 0), POLICY_TOO_FAST);
    assert_int_equal(policy_meter_spend(&m, 30000), POLICY_SPENT);
    assert_int_equal(policy_meter_spend(&m, 30001), POLICY_TOO_FAST);
}

/* What no rule denies, by name. */
static void learns(void **state)
{
    static const char text[] = "network:\n  default: learn\n  rules:\n"
                               "    - deny: b.org\n"
                               "    - deny: c.org\n      methods: [POST]\n"
                               "    - allow: d.org\n      methods: [GET]\n";
    static const struct {
        const char *to, *method;
        enum policy_verdict verdict;
    } rows[] = {
        {"a.org:443", "GET", POLICY_ALLOWED},          {"a.org:80", "POST", POLICY_ALLOWED},
        {"a.org:8443", "GET", POLICY_NO_HOST},         {"b.org:443", "GET", POLICY_DENIED},
        {"c.org:443", "GET", POLICY_ALLOWED},          {"c.org:443", "POST", POLICY_DENIED},
        {"d.org:443", "POST", POLICY_ALLOWED},         {"93.184.215.14:80", "GET", POLICY_NO_HOST},
        {"169.254.169.254:80", "GET", POLICY_NO_HOST},
    };
    struct policy_file file;
    (void)state;
    assert_int_equal(parse(text, &file, NULL), 0);
    assert_true(file.learn);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct request_text request = {.method = {rows[i].method, strlen(rows[i].method)},
                                             .target = {"/", 1}};
        const struct policy_rule *rule;
        struct destination to;
        struct address address;
        assert_int_equal(destination_parse(rows[i].to, strlen(rows[i].to), 0, &to, NULL), 0);
        if (policy_decide(&file.policy, &to, &request, &rule) != rows[i].verdict)
            fail_msg("row %zu", i);
        if (rows[i].verdict != POLICY_ALLOWED)
            continue;
        assert_int_equal(address_parse("93.184.215.14", 13, &address), 0);
        assert_true(policy_address_ok(&file.policy, rule, &to, &address));
        assert_int_equal(address_parse("10.0.0.1", 8, &address), 0);
        assert_false(policy_address_ok(&file.policy, rule, &to, &address));
    }
    policy_file_done(&file);
}

static void reads_a_parent(void **state)
{
    static const struct {
        const char *text, *host, *login;
        uint16_t port;
    } rows[] = {
        {"network:\n  parent: http://Proxy.Corp:3128/\n", "proxy.corp", NULL, 3128},
        {"network:\n  parent: 10.1.2.3:80\n", "10.1.2.3", NULL, 80},
        {"network:\n  parent_login: L\n  parent: http://p:1\n", "p", "L", 1},
        {"network:\n  rules: []\n", "", NULL, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct policy_file file;
        assert_int_equal(parse(rows[i].text, &file, NULL), 0);
        assert_string_equal(file.parent.host, rows[i].host);
        assert_int_equal(file.parent.port, rows[i].port);
        assert_string_equal(file.parent_login ? file.parent_login : "",
                            rows[i].login ? rows[i].login : "");
        policy_file_done(&file);
    }
}

static void takes_an_empty_one(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "# nothing\n", "network:\n  rules: []\n", "{}",
                                        "network:\n  rules:\n    # - allow: a.org\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct policy_file file;
        assert_int_equal(parse(texts[i], &file, NULL), 0);
        assert_int_equal(file.policy.count, 0);
        policy_file_done(&file);
    }
}

static void says_what_is_wrong_and_where(void **state)
{
    (void)state;
#define RULES "network:\n  rules:\n"
#define BODY  "secrets:\n  X:\n    - host: a\n      in: body\n      body: "
    static const struct {
        const char *text, *error;
    } rows[] = {
        {"network:\n  ruls: []\n", "p.yaml:2: 'ruls' is no key of network; did you mean 'rules'?"},
        {"nets: {}\n", "p.yaml:1: 'nets' is no key of a policy, which has: network, secrets"},
        {RULES "    - alow: a.org\n",
         "p.yaml:3: 'alow' is no key of a rule; did you mean 'allow'?"},
        {RULES "    - methods: [GET]\n", "p.yaml:3: the rule has neither"},
        {RULES "    - preset: parent\n",
         "p.yaml:3: preset: parent has a parent, which a preset may not"},
        {"network:\n  parent: http://p\n", "p.yaml:2: parent: want http://HOST:PORT, with a port"},
        {"network:\n  parent: https://p:1\n", "p.yaml:2: parent: want http://HOST:PORT: "},
        {"network:\n  parent: http://p:1/x\n", "p.yaml:2: parent: want http://HOST:PORT: "},
        {"network:\n  parent: ''\n", "p.yaml:2: parent: want http://HOST:PORT: "},
        {"network:\n  parent: http://u:w@p:1\n", "p.yaml:2: parent: a login has no place here"},
        {"network:\n  parent: http://p:1\n  parent_login: 1a\n", "p.yaml:3: parent_login: '1a'"},
        {"network:\n  parent_login: A\n", "p.yaml:2: parent_login without parent"},
        {RULES "    - allow: a.org\n      deny: b.org\n", "p.yaml:4: both allow and deny"},
        {RULES "    - allow: a.org\n      allow: b.org\n", "p.yaml:4: 'allow' is there twice"},
        {RULES "    - allow: a.org\n    - allow: [b.org,\n        a..b]\n", "p.yaml:5: 'a..b': "},
        {RULES "    - allow: '*'\n", "p.yaml:3: '*': "},
        {RULES "    - allow: a.org:1\n      ports: 2\n", "p.yaml:3: the host has a port"},
        {RULES "    - allow: a.org\n      ports: [70000]\n", "p.yaml:4: ports: '70000': want"},
        {RULES "    - allow: a.org\n      protocol: udp\n", "p.yaml:4: protocol: 'udp': want http"},
        {RULES "    - allow: a.org\n      protocol: tcp\n", "p.yaml:3: protocol tcp needs a port"},
        {RULES "    - allow: a.org:1\n      protocol: tcp\n      methods: [GET]\n",
         "p.yaml:3: protocol tcp lets bytes pass"},
        {RULES "    - allow: a.org\n      methods: get\n", "p.yaml:4: methods: 'get': a method"},
        {RULES "    - allow: a.org\n      paths: [x]\n", "p.yaml:4: paths: 'x': a path"},
        {RULES "    - allow: a.org\n      addresses: x\n", "p.yaml:4: addresses: 'x' is no IP"},
        {RULES "    - allow: 1.2.3.4\n      addresses: 1.2.3.4\n", "p.yaml:3: an address needs no"},
        {RULES "    - deny: a.org\n      addresses: 1.2.3.4\n",
         "p.yaml:3: addresses and limits are for allow"},
        {RULES "    - allow: {a: b}\n", "p.yaml:3: allow: want a value or a list"},
        {RULES "    - allow: [[a]]\n", "p.yaml:3: host: want a single value"},
        {RULES "    - deny: a.org\n      rate: 1/s\n", "p.yaml:3: addresses and limits are for"},
        {RULES "    - allow: a.org\n      rate: 1\n", "p.yaml:4: rate: '1': want N/s"},
        {RULES "    - allow: a.org\n      rate: 0/s\n", "p.yaml:4: rate: '0/s': want N/s"},
        {RULES "    - allow: a.org\n      rate: 1/week\n", "p.yaml:4: rate: '1/week': want"},
        {RULES "    - allow: a.org\n      requests: 0\n", "p.yaml:4: requests: '0': want"},
        {RULES "    - allow: a.org\n      max_body: x\n", "p.yaml:4: max_body: 'x': want"},
        {RULES "    - ask: a.org\n", "p.yaml:3: ask is reserved for rules that ask a person"},
        {RULES "    - allow: b.org\n      ask: a.org\n", "p.yaml:4: ask is reserved"},
        {RULES "    - allow: 10.0.3.1/24\n", "p.yaml:3: '10.0.3.1/24': '10.0.3.1/24' has bits set "
                                             "behind the first 24; want 10.0.3.0/24"},
        {RULES "    - allow: 10.0.3.0/33\n",
         "p.yaml:3: '10.0.3.0/33': '10.0.3.0/33' is no network"},
        {RULES "    - allow: a.org/24\n", "p.yaml:3: 'a.org/24': 'a.org/24' is no host name"},
        {RULES "    - allow: 10.0.0.0/8:1\n      ports: 2\n", "p.yaml:3: the host has a port"},
        {RULES "    - allow: 10.0.0.0/8\n      addresses: 1.2.3.4\n",
         "p.yaml:3: an address needs no"},
        {RULES "    - allow: 10.0.0.0/8\n      protocol: passthrough\n",
         "p.yaml:3: passthrough goes by"},
        {RULES "    - allow: a.org\n      addresses: 10.0.3.1/24\n",
         "p.yaml:4: addresses: '10.0.3.1/24' has bits"},
        {RULES "    - allow: a.org\n      query: [a]\n", "p.yaml:4: query: want KEY: PATTERN"},
        {RULES "    - allow: a.org\n      query: {a: []}\n", "p.yaml:4: query: a list without"},
        {RULES "    - allow: a.org\n      query: {a: {b: c}}\n",
         "p.yaml:4: query: want a value or"},
        {RULES "    - allow: a.org\n      query:\n        a: b\n        a: c\n",
         "p.yaml:6: 'a' is there twice"},
        {RULES "    - allow: a.org\n      query: {a: 'b**'}\n",
         "p.yaml:4: query: 'b**': a value is"},
        {RULES "    - allow: a.org\n      query: {'*': b}\n",
         "p.yaml:4: query: '*': want a key as"},
        {RULES "    - allow: a.org\n      query_keys: {a: b}\n",
         "p.yaml:4: query_keys: want a value or a list"},
        {RULES "    - deny: a.org\n      query_keys: a\n", "p.yaml:3: query_keys is for allow"},
        {RULES "    - allow: a.org\n      querys: {a: b}\n",
         "p.yaml:4: 'querys' is no key of a rule; did you mean 'query'?"},
        {RULES "    - allow: a.org\n      headers: [a]\n", "p.yaml:4: headers: want NAME: PATTERN"},
        {RULES "    - allow: a.org\n      headers: {'a b': c}\n",
         "p.yaml:4: headers: 'a b' is no header's name"},
        {RULES "    - allow: a.org\n      headers:\n        A: b\n        a: c\n",
         "p.yaml:6: headers: 'a' is there twice, in another case"},
        {RULES "    - allow: a.org\n      headers: {Host: b}\n",
         "p.yaml:4: headers: 'Host' is written by the proxy"},
        {RULES "    - allow: a.org\n      bytes: 0\n",
         "p.yaml:4: bytes: '0': want a size from 1 on"},
        {RULES "    - allow: a.org\n      bites: 1G\n",
         "p.yaml:4: 'bites' is no key of a rule; did you mean 'bytes'?"},
        {RULES "    - deny: a.org\n      bytes: 1\n", "p.yaml:3: addresses and limits are for"},
        {RULES "    - preset: two\n      bytes: 1\n", "p.yaml:3: preset stands alone"},
        {RULES "    - allow: a.org:1\n      protocol: tcp\n      headers: {a: b}\n",
         "p.yaml:3: protocol tcp lets bytes pass"},
        {"secrets:\n  X:\n    - host: 10.0.0.0/8\n", "p.yaml:3: '10.0.0.0/8': "},
        {"secrets:\n  X:\n    - host: a\n      headers: {a: b}\n",
         "p.yaml:4: headers: want the names of the fields"},
        {"secrets:\n  X:\n    - host: a\n      budget: 0\n", "p.yaml:4: budget: '0': want N"},
        {"secrets:\n  X:\n    - host: a\n      budget: 1/week\n",
         "p.yaml:4: budget: '1/week': want"},
        {"secrets:\n  X:\n    - host: a\n      bugdet: 1\n",
         "p.yaml:4: 'bugdet' is no key of a secret's rule; did you mean 'budget'?"},
        {"secrets:\n  X:\n    - host: a\n  X:\n    - host: b\n", "p.yaml:4: 'X' is there twice"},
        {RULES "    - allow: a.org:1\n      protocol: tcp\n      max_body: 1\n",
         "p.yaml:3: protocol tcp lets bytes pass"},
        {RULES "    - allow: 1.2.3.4\n      protocol: passthrough\n",
         "p.yaml:3: passthrough goes by"},
        {RULES "    - allow: a.org\n      protocol: passthrough\n      paths: /\n",
         "p.yaml:3: protocol passthrough lets bytes pass"},
        {RULES "    - deny: a.org:1\n      protocol: tcp\n", "p.yaml:3: protocol is for allow"},
        {RULES "    - preset: [two,\n       none]\n", "p.yaml:4: preset: there is no 'none'"},
        {RULES "    - preset: ../two\n", "p.yaml:3: preset: there is no '../two'"},
        {RULES "    - preset: two\n      methods: [GET]\n", "p.yaml:3: preset stands alone"},
        {RULES "    - preset: nested\n", "preset nested:3: preset: there is no 'two'"},
        {RULES "    - preset: secret\n", "p.yaml:3: preset: secret has secrets"},
        {RULES "    - preset: audit\n", "p.yaml:3: preset: audit has audit"},
        {"audit: sometimes\n", "p.yaml:1: audit: want required or best-effort"},
        {"audit: [required]\n", "p.yaml:1: audit: want"},
        {"network:\n  strict: yes\n", "p.yaml:2: strict: want true or false"},
        {"network:\n  rules: x\n", "p.yaml:2: rules: want a list"},
        {"network:\n  default: allow\n", "p.yaml:2: default: want deny, or learn"},
        {RULES "    - preset: learn\n", "p.yaml:3: preset: learn has default: learn, which"},
        {"secrets:\n  1X:\n    - host: a\n", "p.yaml:2: secrets: '1X': a name"},
        {"secrets:\n  X: a.org\n", "p.yaml:2: secrets: X: want a list"},
        {"secrets:\n  X: []\n", "p.yaml:2: secrets: X: want a list"},
        {"secrets:\n  X:\n    - in: header\n", "p.yaml:3: the secret's rule has no host"},
        {"secrets:\n  X:\n    - host: a\n      in: trailer\n",
         "p.yaml:4: in: 'trailer': want header, basic, query, path or body"},
        {"secrets:\n  X:\n    - host: a\n      body: {max: 1K}\n",
         "p.yaml:3: body, but body is not"},
        {BODY "{types: [json, xml]}\n",
         "p.yaml:5: types: 'xml': want json, form, multipart or text"},
        {BODY "{types: []}\n", "p.yaml:5: types: want json, form, multipart or text"},
        {BODY "{max: 0}\n", "p.yaml:5: max: '0': want a size such as 64K or 1M, at most 16M"},
        {BODY "{max: 16777217}\n", "p.yaml:5: max: '16777217': want a size"},
        {BODY "{decode: yes}\n", "p.yaml:5: decode: want true or false"},
        {BODY "{typs: json}\n", "p.yaml:5: 'typs' is no key of body; did you mean 'types'?"},
        {BODY "json\n", "p.yaml:5: want the keys of body"},
        {"secrets:\n  X:\n    - host: a\n      headers: 'a b'\n", "p.yaml:4: headers: 'a b' is no"},
        {"secrets:\n  X:\n    - host: a\n      in: query\n      headers: a\n",
         "p.yaml:3: headers, but"},
        {"- a\n", "p.yaml:1: want the keys of a policy"},
        {"a: &x b\nc: *x\n", "p.yaml:2: aliases are not possible"},
        {"a: b\n---\nc: d\n", "p.yaml:2: a second document"},
        {"a: [\n", "p.yaml:2: "},
        {"a: \"b\\0\"\n", "p.yaml:1: 'a' is no key"},
        {RULES "    - allow: \"a\\0b\"\n", "p.yaml:3: host: a NUL"},
        {"\xff\n", "p.yaml:1: "},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct policy_file file;
        struct bg_err err = {0};
        int r = parse(rows[i].text, &file, &err);
        if (r != -EINVAL || strncmp(err.text, rows[i].error, strlen(rows[i].error)) != 0)
            fail_msg("%s\nis: %d %s\nnot: %s", rows[i].text, r, err.text, rows[i].error);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decides_by_request),
        cmocka_unit_test(decides_by_connection),
        cmocka_unit_test(reads_secrets),
        cmocka_unit_test(says_what_a_lost_audit_means),
        cmocka_unit_test(decides_by_query_and_header),
        cmocka_unit_test(reads_networks),
        cmocka_unit_test(reads_which_bodies_a_secret_may_be_in),
        cmocka_unit_test(counts_requests),
        cmocka_unit_test(counts_bytes),
        cmocka_unit_test(tells_limits_apart_by_their_conditions),
        cmocka_unit_test(gives_no_more_when_the_clock_goes_back),
        cmocka_unit_test(takes_presets_in),
        cmocka_unit_test(learns),
        cmocka_unit_test(reads_a_parent),
        cmocka_unit_test(takes_an_empty_one),
        cmocka_unit_test(says_what_is_wrong_and_where),
    };
    return cmocka_run_group_tests_name("net-policy-file", tests, NULL, NULL);
}
