#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>

#include "common/limits.h"
#include "common/base64.h"
#include "net/locked.h"
#include "net/secrets.h"

#define HEX_A "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define HEX_B "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100"
#define HEX_C "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
#define HEX_X "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define A     SECRET_PREFIX HEX_A /* AKEY, for a.org */
#define B     SECRET_PREFIX HEX_B /* BKEY, for *.b.org:8443 */
#define C     SECRET_PREFIX HEX_C /* CKEY, for a.org, without a value */
#define X     SECRET_PREFIX HEX_X /* nobody's */

static void add(struct secrets *secrets, const char *name, const char *placeholder,
                const char *host, const char *value)
{
    void *copy = NULL;
    if (value) {
        copy = locked_new(strlen(value), NULL);
        assert_non_null(copy);
        memcpy(copy, value, strlen(value));
    }
    struct bg_err err = {0};
    if (secrets_add(secrets, name, placeholder, &host, 1, copy, value ? strlen(value) : 0, &err) <
        0)
        fail_msg("%s", err.text);
}

static struct secrets three(void)
{
    struct secrets secrets = {0};
    add(&secrets, "AKEY", A, "a.org", "s3cret-A");
    add(&secrets, "BKEY", B, "*.b.org:8443", "Bs");
    add(&secrets, "CKEY", C, "a.org", NULL);
    return secrets;
}

static int set_up(void **state)
{
    static struct secrets secrets;
    secrets = three();
    *state = &secrets;
    return 0;
}

static int tear_down(void **state)
{
    secrets_done(*state);
    return 0;
}

static struct secrets_use put(const struct secrets *secrets, const char *to, bool verified,
                              const char *name, const char *value, struct buffer *out)
{
    struct destination d;
    struct secrets_use use = {0};
    assert_int_equal(destination_parse(to, strlen(to), 443, &d, NULL), 0);
    const struct secrets_scope scope = {.secrets = secrets, .to = &d, .verified = verified};
    const struct http_field field = {{name, strlen(name)}, {value, strlen(value)}};
    *out = buffer_init(4 * BG_SECRET_SIZE_MAX);
    out->wipe = true;
    secrets_put_field(&scope, &field, out, &use);
    return use;
}

static const struct {
    const char *to;
    bool verified;
    const char *name, *value, *want; /* want NULL: unchanged */
    uint64_t used, not_approved, valueless;
    unsigned unknown;
} rows[] = {
    {"a.org", true, "Authorization", "Bearer " A, "Bearer s3cret-A", 1, 0, 0, 0},
    {"a.org:8080", true, "X-Key", A, "s3cret-A", 1, 0, 0, 0},
    {"a.org", true, "X-Key", A A, "s3cret-As3cret-A", 1, 0, 0, 0},
    {"a.org", true, "Cookie", "x=1; t=" A "; y=2", "x=1; t=s3cret-A; y=2", 1, 0, 0, 0},
    {"a.org", true, "X-Key", A "0", "s3cret-A0", 1, 0, 0, 0},
    {"a.org", true, "X-Key", SECRET_PREFIX A, SECRET_PREFIX "s3cret-A", 1, 0, 0, 0},
    {"x.b.org:8443", true, "X-Key", B, "Bs", 2, 0, 0, 0},
    {"x.y.b.org:8443", true, "X-Key", A "," B, A ",Bs", 2, 1, 0, 0},
    /* elsewhere */
    {"evil.org", true, "Authorization", "Bearer " A, NULL, 0, 1, 0, 0},
    {"a.org.evil", true, "X-Key", A, NULL, 0, 1, 0, 0},
    {"sub.a.org", true, "X-Key", A, NULL, 0, 1, 0, 0},
    {"x.b.org:443", true, "X-Key", B, NULL, 0, 2, 0, 0},
    {"b.org:8443", true, "X-Key", B, NULL, 0, 2, 0, 0},
    {"a.org", false, "X-Key", A, NULL, 0, 1, 0, 0},
    /* not the placeholder */
    {"a.org", true, "X-Key", X, NULL, 0, 0, 0, 1},
    {"a.org", true, "X-Key", X X, NULL, 0, 0, 0, 2},
    {"a.org", true, "X-Key", SECRET_PREFIX, NULL, 0, 0, 0, 0},
    {"a.org", true, "X-Key", "bellglass_secret_" HEX_A, NULL, 0, 0, 0, 0},
    {"a.org", true, "X-Key",
     SECRET_PREFIX "00112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff", NULL, 0, 0,
     0, 0},
    {"a.org", true, "X-Key", SECRET_PREFIX "0011", NULL, 0, 0, 0, 0},
    {"a.org", true, "X-Key", HEX_A, NULL, 0, 0, 0, 0},
    {"a.org", true, "X-Key", "nothing", NULL, 0, 0, 0, 0},
    {"a.org", true, "X-Key", "", NULL, 0, 0, 0, 0},
    /* the store has none */
    {"a.org", true, "X-Key", C, NULL, 0, 0, 4, 0},
    {"b.org", true, "X-Key", C, NULL, 0, 4, 0, 0},
    /* never there */
    {"a.org", true, "Host", A, NULL, 0, 0, 0, 0},
    {"a.org", true, "content-length", A, NULL, 0, 0, 0, 0},
    {"a.org", true, "Range", A, NULL, 0, 0, 0, 0},
    {"a.org", true, "Transfer-Encoding", A, NULL, 0, 0, 0, 0},
    {"a.org", true, "Upgrade", A, NULL, 0, 0, 0, 0},
};

static void check_rows(const struct secrets *secrets, bool inherited)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buffer out;
        struct secrets_use use =
            put(secrets, rows[i].to, rows[i].verified, rows[i].name, rows[i].value, &out);
        const char *want = rows[i].want ? rows[i].want : rows[i].value;
        if (buffer_size(&out) != strlen(want) ||
            (*want && memcmp(buffer_bytes(&out), want, strlen(want)) != 0))
            fail_msg("row %zu: '%.*s'", i, (int)buffer_size(&out),
                     (const char *)buffer_bytes(&out));
        if (use.used != rows[i].used || use.not_approved != rows[i].not_approved ||
            use.valueless != rows[i].valueless || use.unknown != rows[i].unknown ||
            use.inherited != (inherited ? rows[i].used : 0))
            fail_msg("row %zu: use %d %d %d %u", i, (int)use.used, (int)use.not_approved,
                     (int)use.valueless, use.unknown);
        buffer_reset(&out);
    }
}

static void exchanges_placeholders_where_they_may_go(void **state)
{
    check_rows(*state, false);
}

#define FORK(n) SECRET_PREFIX "f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f" #n

/* As three(), but each has a placeholder of its own, and those of three() from before. */
static struct secrets three_of_a_fork(void)
{
    struct secrets secrets = {0};
    static const char *const names[] = {"AKEY", "BKEY", "CKEY"}, *const before[] = {A, B, C};
    add(&secrets, "AKEY", FORK(1), "a.org", "s3cret-A");
    add(&secrets, "BKEY", FORK(2), "*.b.org:8443", "Bs");
    add(&secrets, "CKEY", FORK(3), "a.org", NULL);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(secrets_add_inherited(&secrets, names[i], before[i], NULL), 0);
    return secrets;
}

static void inherited_placeholders_are_good_for_the_same(void **state)
{
    (void)state;
    struct secrets secrets = three_of_a_fork();
    check_rows(&secrets, true);
    /* Its own as well. */
    struct buffer out;
    struct secrets_use use = put(&secrets, "a.org", true, "X-Key", FORK(1) "," A, &out);
    assert_int_equal(buffer_size(&out), 17);
    assert_memory_equal(buffer_bytes(&out), "s3cret-A,s3cret-A", 17);
    assert_true(use.used == 1 && use.inherited == 1);
    buffer_reset(&out);
    use = put(&secrets, "a.org", true, "X-Key", FORK(1), &out);
    assert_true(use.used == 1 && use.inherited == 0);
    buffer_reset(&out);
    /* "x:A" and "x:FORK(1)" alike. */
    static const char *const plain[] = {"x:" A, "x:" FORK(1)};
    for (size_t i = 0; i < 2; i++) {
        char value[256] = "Basic ";
        bg_base64_encode((const uint8_t *)plain[i], strlen(plain[i]), value + 6);
        value[6 + BG_BASE64_SIZE(strlen(plain[i]))] = '\0';
        use = put(&secrets, "a.org", true, "Authorization", value, &out);
        assert_int_equal(buffer_size(&out), 6 + BG_BASE64_SIZE(10));
        assert_memory_equal(buffer_bytes(&out), "Basic eDpzM2NyZXQtQQ==", 6 + 16);
        assert_true(use.used == 1 && use.inherited == (i == 0));
        buffer_reset(&out);
    }
    secrets_done(&secrets);
}

static void inherited_placeholders_are_taken_in_targets(void **state)
{
    (void)state;
    struct secrets secrets = three_of_a_fork();
    struct secret_rule rule = {.in = (unsigned)SECRET_IN_QUERY | SECRET_IN_PATH};
    assert_int_equal(host_pattern_parse("a.org", 5, &rule.host, NULL), 0);
    assert_int_equal(secrets_add_rule(&secrets, "AKEY", &rule, NULL), 0);
    struct destination d;
    assert_int_equal(destination_parse("a.org", 5, 443, &d, NULL), 0);
    const struct secrets_scope scope = {.secrets = &secrets, .to = &d, .verified = true};
    static const char target[] = "/" A "?k=" A "&x=" X;
    static const char want[] = "/s3cret-A?k=s3cret-A&x=" X;
    struct secrets_use use = {0};
    struct buffer out = buffer_init(4096);
    secrets_put_target(&scope, (struct slice){target, sizeof target - 1}, &out, &use);
    assert_int_equal(buffer_size(&out), sizeof want - 1);
    assert_memory_equal(buffer_bytes(&out), want, sizeof want - 1);
    assert_true(use.used == 1 && use.inherited == 1 && use.unknown == 1);
    buffer_reset(&out);
    secrets_done(&secrets);
}

static void refuses_unfit_inheritances(void **state)
{
    (void)state;
    struct secrets set = three(), *secrets = &set;
    struct bg_err err;
    assert_int_equal(secrets_add_inherited(secrets, "AKEY", "x", &err), -EINVAL);
    assert_int_equal(secrets_add_inherited(secrets, "AKEY", A, &err), -EEXIST);
    assert_int_equal(secrets_add_inherited(secrets, "AKEY", B, &err), -EEXIST);
    assert_int_equal(secrets_add_inherited(secrets, "NONE", X, &err), -ENOENT);
    for (unsigned i = 0; i <= BG_SECRET_INHERITED_MAX; i++) {
        char placeholder[SECRET_PLACEHOLDER_SIZE + 1];
        (void)snprintf(placeholder, sizeof placeholder, "%s%064x", SECRET_PREFIX, i);
        assert_int_equal(secrets_add_inherited(secrets, "BKEY", placeholder, &err),
                         i < BG_SECRET_INHERITED_MAX ? 0 : -E2BIG);
        assert_int_equal(secrets_add_inherited(secrets, "AKEY", placeholder, &err),
                         i < BG_SECRET_INHERITED_MAX ? -EEXIST : 0);
    }
    const char *host = "a.org";
    char first[SECRET_PLACEHOLDER_SIZE + 1];
    (void)snprintf(first, sizeof first, "%s%064x", SECRET_PREFIX, 0u);
    assert_int_equal(secrets_add(secrets, "NEW", first, &host, 1, NULL, 0, &err), -EEXIST);
    secrets_done(secrets);
}

static void exchanges_inside_of_basic_credentials(void **state)
{
    static const struct {
        const char *plain, *want, *to;
    } basics[] = {
        {"user:" A, "user:s3cret-A", "a.org"},
        {"u:" A, "u:s3cret-A", "a.org"},
        {"us:" A, "us:s3cret-A", "a.org"},
        {A ":", "s3cret-A:", "a.org"},
        {A ":" A, "s3cret-A:s3cret-A", "a.org"},
        {"x" A "y:" A "z", "xs3cret-Ay:s3cret-Az", "a.org"},
        {"user:" A, NULL, "evil.org"},
        {"user:pass", NULL, "a.org"},
        {"user:" X, NULL, "a.org"},
        {"user:" C, NULL, "a.org"},
    };
    static const char *const schemes[] = {"Basic ", "basic ", "BASIC  "};
    for (size_t i = 0; i < sizeof basics / sizeof *basics; i++) {
        for (size_t s = 0; s < 3; s++) {
            char value[1024], want[1024];
            size_t scheme = strlen(schemes[s]);
            const char *want_plain = basics[i].want ? basics[i].want : basics[i].plain;
            memcpy(value, schemes[s], scheme);
            memcpy(want, schemes[s], scheme);
            size_t value_size = scheme + BG_BASE64_SIZE(strlen(basics[i].plain));
            size_t want_size = scheme + BG_BASE64_SIZE(strlen(want_plain));
            bg_base64_encode((const uint8_t *)basics[i].plain, strlen(basics[i].plain),
                             value + scheme);
            bg_base64_encode((const uint8_t *)want_plain, strlen(want_plain), want + scheme);
            value[value_size] = '\0';
            struct buffer out;
            struct secrets_use use = put(*state, basics[i].to, true, "AUTHORIZATION", value, &out);
            assert_int_equal(use.used != 0, basics[i].want != NULL);
            assert_int_equal(buffer_size(&out), want_size);
            assert_memory_equal(buffer_bytes(&out), want, want_size);
            buffer_reset(&out);
        }
    }
}

static void notes_what_stands_in_basic_credentials(void **state)
{
    char value[1024] = "Basic ";
    struct buffer out;
    bg_base64_encode((const uint8_t *)"u:" C, strlen("u:" C), value + 6);
    value[6 + BG_BASE64_SIZE(strlen("u:" C))] = '\0';
    assert_int_equal(put(*state, "a.org", true, "Authorization", value, &out).valueless, 4);
    buffer_reset(&out);
    assert_int_equal(put(*state, "b.org", true, "Authorization", value, &out).not_approved, 4);
    buffer_reset(&out);
}

/* The second use of one secret in a request is a use too. */
static void exchanges_again_in_another_header(void **state)
{
    char value[1024] = "Basic ";
    struct destination d;
    struct secrets_use use = {0};
    bg_base64_encode((const uint8_t *)"u:" A, strlen("u:" A), value + 6);
    value[6 + BG_BASE64_SIZE(strlen("u:" A))] = '\0';
    assert_int_equal(destination_parse("a.org", 5, 443, &d, NULL), 0);
    const struct secrets_scope scope = {.secrets = *state, .to = &d, .verified = true};
    const struct http_field first = {{"X-Key", 5}, {A, strlen(A)}};
    const struct http_field second = {{"Authorization", 13}, {value, strlen(value)}};
    struct buffer out = buffer_init(4096);
    secrets_put_field(&scope, &first, &out, &use);
    secrets_put_field(&scope, &second, &out, &use);
    assert_null(memmem(buffer_bytes(&out), buffer_size(&out), value, strlen(value)));
    buffer_reset(&out);
}

static void leaves_what_is_no_base64(void **state)
{
    static const char *const values[] = {"Basic", "Basic ", "Basic !!!", "Basic A", "Basic " A};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        struct buffer out;
        (void)put(*state, "evil.org", true, "Authorization", values[i], &out);
        assert_int_equal(buffer_size(&out), strlen(values[i]));
        assert_memory_equal(buffer_bytes(&out), values[i], strlen(values[i]));
        buffer_reset(&out);
    }
}

/* Puts the placeholder into each of the fields of a request at now_ms. */
static struct secrets_use use_in(const struct secrets *secrets, const char *target, unsigned fields,
                                 uint64_t now_ms)
{
    struct destination d;
    struct secrets_use use = {0};
    const struct request_text text = {.method = {"GET", 3}, .target = {target, strlen(target)}};
    struct request_view view;
    assert_int_equal(destination_parse("a.org", 5, 443, &d, NULL), 0);
    request_view_init(&view, &text, (unsigned)REQUEST_PATH | REQUEST_QUERY);
    const struct secrets_scope scope = {
        .secrets = secrets, .to = &d, .verified = true, .view = &view, .now_ms = now_ms};
    for (unsigned i = 0; i < fields; i++) {
        const struct http_field field = {{"X-Key", 5}, {B, strlen(B)}};
        struct buffer out = buffer_init(4096);
        secrets_put_field(&scope, &field, &out, &use);
        buffer_reset(&out);
    }
    request_view_done(&view);
    return use;
}

static struct secret_rule rule_for(const char *host, struct policy_meter *meter)
{
    struct secret_rule rule = {.in = SECRET_IN_DEFAULT, .meter = meter};
    assert_int_equal(host_pattern_parse(host, strlen(host), &rule.host, NULL), 0);
    meter->owners++;
    return rule;
}

static struct policy_meter *meter_of(uint64_t requests_max, uint64_t rate, uint64_t per_ms)
{
    struct policy_meter *meter = calloc(1, sizeof *meter);
    assert_non_null(meter);
    *meter = (struct policy_meter){.requests_max = requests_max, .rate = rate, .per_ms = per_ms};
    return meter;
}

static void counts_requests_against_a_budget(void **state)
{
    struct secrets set = three(), *secrets = &set;
    (void)state;
    struct policy_meter *meter = meter_of(3, 0, 0);
    struct secret_rule first = rule_for("a.org", meter), second = rule_for("*.a.org", meter);
    assert_int_equal(secrets_add_rule(secrets, "BKEY", &first, NULL), 0);
    assert_int_equal(secrets_add_rule(secrets, "BKEY", &second, NULL), 0);
    assert_int_equal(secrets->budget_count, 1); /* shared */
    for (int i = 0; i < 3; i++) {
        struct secrets_use use = use_in(secrets, "/", 5, 1); /* five places, one request */
        assert_int_equal(use.used, 2);
        assert_int_equal(use.used_up | use.not_approved, 0);
    }
    assert_int_equal(meter->own.spent, 3);
    struct secrets_use use = use_in(secrets, "/", 1, 1);
    assert_int_equal(use.used, 0);
    assert_int_equal(use.used_up, 2);
    assert_int_equal(use.too_fast | use.not_approved | use.valueless, 0);
    secrets_done(&set);
}

static void fills_a_budget_with_time(void **state)
{
    struct secrets set = three(), *secrets = &set;
    (void)state;
    struct secret_rule rule = rule_for("a.org", meter_of(0, 2, 1000));
    assert_int_equal(secrets_add_rule(secrets, "BKEY", &rule, NULL), 0);
    assert_int_equal(use_in(secrets, "/", 1, 5000).used, 2);
    assert_int_equal(use_in(secrets, "/", 1, 5000).used, 2);
    struct secrets_use use = use_in(secrets, "/", 1, 5000);
    assert_int_equal(use.used, 0);
    assert_int_equal(use.used_up, 2);
    assert_int_equal(use.too_fast, 2);
    assert_int_equal(use_in(secrets, "/", 1, 5600).used, 2);
    secrets_done(&set);
}

/* A rule whose budget is gone leaves it to the next. */
static void tries_another_rule_for_its_budget(void **state)
{
    struct secrets set = three(), *secrets = &set;
    (void)state;
    struct secret_rule one = rule_for("a.org", meter_of(1, 0, 0));
    struct secret_rule two = rule_for("a.org", meter_of(1, 0, 0));
    assert_int_equal(request_match_add_query(&two.match, "k", "v*", NULL), 0);
    assert_int_equal(secrets_add_rule(secrets, "BKEY", &one, NULL), 0);
    assert_int_equal(secrets_add_rule(secrets, "BKEY", &two, NULL), 0);
    assert_int_equal(use_in(secrets, "/?k=v1", 2, 1).used, 2);
    assert_int_equal(use_in(secrets, "/?k=w", 1, 1).used_up, 2);
    assert_int_equal(use_in(secrets, "/?k=v1&K=w", 1, 1).used_up, 2); /* not clear */
    assert_int_equal(use_in(secrets, "/?k=v1", 2, 1).used, 2);
    assert_int_equal(use_in(secrets, "/?k=v1", 1, 1).used_up, 2);
    secrets_done(&set);
}

/* Without a value nothing goes out, so nothing is counted. */
static void counts_no_request_that_fails(void **state)
{
    struct secrets set = three(), *secrets = &set;
    (void)state;
    struct policy_meter *meter = meter_of(1, 0, 0);
    struct secret_rule rule = rule_for("z.org", meter);
    struct buffer out;
    assert_int_equal(secrets_add_rule(secrets, "CKEY", &rule, NULL), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(put(secrets, "z.org", true, "X-Key", C, &out).valueless, 4);
        buffer_reset(&out);
        assert_int_equal(put(secrets, "y.org", true, "X-Key", C, &out).not_approved, 4);
        buffer_reset(&out);
    }
    assert_int_equal(meter->own.spent, 0);
    secrets_done(&set);
}

static void has_a_limit_on_budgets(void **state)
{
    struct secrets set = three(), *secrets = &set;
    (void)state;
    for (int i = 0; i < BG_EGRESS_BUDGETS_MAX; i++) {
        struct secret_rule rule = rule_for("a.org", meter_of(1, 0, 0));
        assert_int_equal(secrets_add_rule(secrets, "BKEY", &rule, NULL), 0);
    }
    struct secret_rule rule = rule_for("a.org", meter_of(1, 0, 0));
    assert_int_equal(secrets_add_rule(secrets, "BKEY", &rule, NULL), -E2BIG);
    secret_rule_done(&rule);
    for (int i = 0; i < BG_EGRESS_BUDGETS_MAX; i++)
        assert_int_equal(use_in(secrets, "/", 1, 1).used, 2);
    assert_int_equal(use_in(secrets, "/", 1, 1).used_up, 2);
    secrets_done(&set);
}

static void fails_when_it_does_not_fit(void **state)
{
    struct destination d;
    struct secrets_use use = {0};
    assert_int_equal(destination_parse("a.org", 5, 443, &d, NULL), 0);
    const struct secrets_scope scope = {.secrets = *state, .to = &d, .verified = true};
    const struct http_field field = {{"X", 1}, {A, strlen(A)}};
    struct buffer out = buffer_init(7); /* one less than the secret */
    secrets_put_field(&scope, &field, &out, &use);
    assert_false(buffer_ok(&out));
    buffer_reset(&out);
}

static void refuses_unfit_secrets(void **state)
{
    struct secrets *secrets = *state;
    const char *host = "a.org", *bad_host = "*";
    struct bg_err err;
    assert_int_equal(secrets_add(secrets, "1X", X, &host, 1, NULL, 0, &err), -EINVAL);
    assert_int_equal(secrets_add(secrets, "", X, &host, 1, NULL, 0, &err), -EINVAL);
    assert_int_equal(secrets_add(secrets, "A-B", X, &host, 1, NULL, 0, &err), -EINVAL);
    assert_int_equal(secrets_add(secrets, "X", "BELLGLASS", &host, 1, NULL, 0, &err), -EINVAL);
    assert_int_equal(secrets_add(secrets, "X", X "0", &host, 1, NULL, 0, &err), -EINVAL);
    assert_int_equal(secrets_add(secrets, "X", X, &bad_host, 1, NULL, 0, &err), -EINVAL);
    assert_int_equal(secrets_add(secrets, "AKEY", X, &host, 1, NULL, 0, &err), -EEXIST);
    assert_int_equal(secrets_add(secrets, "X", A, &host, 1, NULL, 0, &err), -EEXIST);
    assert_int_equal(secrets->count, 3);
}

static void knows_which_values_fit_a_header(void **state)
{
    (void)state;
    static char large[BG_SECRET_SIZE_MAX + 1];
    memset(large, 'x', sizeof large);
    assert_int_equal(secret_value_check("x", 1, NULL), 0);
    assert_int_equal(secret_value_check("\xff \t", 3, NULL), 0);
    assert_int_equal(secret_value_check(large, BG_SECRET_SIZE_MAX, NULL), 0);
    assert_int_equal(secret_value_check(large, BG_SECRET_SIZE_MAX + 1, NULL), -EINVAL);
    assert_int_equal(secret_value_check("", 0, NULL), -EINVAL);
    assert_int_equal(secret_value_check("a\nb", 3, NULL), -EINVAL);
    assert_int_equal(secret_value_check("a\r", 2, NULL), -EINVAL);
    assert_int_equal(secret_value_check("a\0b", 3, NULL), -EINVAL);
}

static void has_a_limit(void **state)
{
    (void)state;
    struct secrets secrets = {0};
    const char *host = "a.org";
    for (unsigned i = 0; i <= BG_EGRESS_SECRETS_MAX; i++) {
        char name[16], placeholder[SECRET_PLACEHOLDER_SIZE + 1];
        (void)snprintf(name, sizeof name, "S%u", i);
        (void)snprintf(placeholder, sizeof placeholder, "%s%064x", SECRET_PREFIX, i);
        assert_int_equal(secrets_add(&secrets, name, placeholder, &host, 1, NULL, 0, NULL),
                         i < BG_EGRESS_SECRETS_MAX ? 0 : -E2BIG);
    }
    secrets_done(&secrets);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exchanges_placeholders_where_they_may_go),
        cmocka_unit_test(inherited_placeholders_are_good_for_the_same),
        cmocka_unit_test(inherited_placeholders_are_taken_in_targets),
        cmocka_unit_test(refuses_unfit_inheritances),
        cmocka_unit_test(exchanges_inside_of_basic_credentials),
        cmocka_unit_test(notes_what_stands_in_basic_credentials),
        cmocka_unit_test(exchanges_again_in_another_header),
        cmocka_unit_test(leaves_what_is_no_base64),
        cmocka_unit_test(fails_when_it_does_not_fit),
        cmocka_unit_test(refuses_unfit_secrets),
        cmocka_unit_test(knows_which_values_fit_a_header),
        cmocka_unit_test(has_a_limit),
        cmocka_unit_test(counts_requests_against_a_budget),
        cmocka_unit_test(fills_a_budget_with_time),
        cmocka_unit_test(tries_another_rule_for_its_budget),
        cmocka_unit_test(counts_no_request_that_fails),
        cmocka_unit_test(has_a_limit_on_budgets),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
