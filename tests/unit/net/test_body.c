#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <zlib.h>

#include "common/limits.h"
#include "net/body.h"
#include "net/json_scan.h"
#include "net/locked.h"

#define HEX_A "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define HEX_Y "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define A     SECRET_PREFIX HEX_A /* all types; a value that every kind escapes */
#define D                                                                                          \
    SECRET_PREFIX "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd" /* begins --  \
                                                                                      */
#define B                                                                                          \
    SECRET_PREFIX "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb" /* no UTF-8   \
                                                                                      */
#define H                                                                                          \
    SECRET_PREFIX "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee" /* headers */
#define L                                                                                          \
    SECRET_PREFIX "1111111111111111111111111111111111111111111111111111111111111111" /* no value   \
                                                                                      */
#define X SECRET_PREFIX HEX_Y                                                        /* nobody's */

#define A_VALUE "q\"\\\t+&=\xc3\xa9/x"
#define A_JSON  "q\\\"\\\\\\u0009+&=\xc3\xa9/x"
#define A_FORM  "q%22%5C%09%2B%26%3D%C3%A9%2Fx"
/* The first characters of A as escapes. */
#define A_REST    "ELLGLASS_SECRET_" HEX_A
#define A_U       "\\u0042" A_REST
#define A_PERCENT "%42%45%4c%4CGLASS%5fSECRET_" HEX_A

enum { BIT_A = 1, BIT_D = 2, BIT_B = 4, BIT_H = 8, BIT_L = 16 };

static void add(struct secrets *secrets, const char *name, const char *placeholder,
                const char *value, unsigned in, const struct secret_body *body)
{
    void *copy = NULL;
    if (value) {
        copy = locked_new(strlen(value), NULL);
        assert_non_null(copy);
        memcpy(copy, value, strlen(value));
    }
    assert_int_equal(
        secrets_add(secrets, name, placeholder, NULL, 0, copy, value ? strlen(value) : 0, NULL), 0);
    struct secret_rule rule = {.in = in, .body = *body};
    assert_int_equal(host_pattern_parse("a.org", 5, &rule.host, NULL), 0);
    assert_int_equal(request_match_add_method(&rule.match, "POST", NULL), 0);
    assert_int_equal(secrets_add_rule(secrets, name, &rule, NULL), 0);
}

static int set_up(void **state)
{
    static struct secrets secrets;
    static const struct secret_body all = {SECRET_BODY_TYPES, 64 * 1024, false};
    secrets = (struct secrets){0};
    add(&secrets, "AKEY", A, A_VALUE, SECRET_IN_BODY, &all);
    add(&secrets, "DKEY", D, "--dash", SECRET_IN_BODY, &all);
    add(&secrets, "BKEY", B, "\xff\xfe", SECRET_IN_BODY, &all);
    add(&secrets, "HKEY", H, "header", SECRET_IN_HEADER, &(struct secret_body){0});
    add(&secrets, "LKEY", L, NULL, SECRET_IN_BODY, &all);
    *state = &secrets;
    return 0;
}

static int tear_down(void **state)
{
    secrets_done(*state);
    return 0;
}

struct request {
    const char *to, *method, *type, *coding;
    bool unverified;
};

/* Returns 1 if no rule is for the body, or what body_finish does; on 0 body->out is the result. */
static int run(const struct secrets *secrets, const struct request *request, const void *bytes,
               size_t size, struct body *body, struct secrets_use *use, struct bg_err *err)
{
    const char *to_text = request->to ? request->to : "a.org";
    const char *method = request->method ? request->method : "POST";
    struct http_field fields[2] = {{{"Content-Type", 12}, {request->type, strlen(request->type)}}};
    struct http_head head = {.fields = fields, .field_count = 1, .framing = HTTP_CHUNKED};
    if (request->coding) {
        fields[1].name = (struct slice){"Content-Encoding", 16};
        fields[1].value = (struct slice){request->coding, strlen(request->coding)};
        head.field_count = 2;
    }
    struct destination to;
    const struct request_text text = {.method = {method, strlen(method)}, .target = {"/", 1}};
    struct request_view view;
    request_view_init(&view, &text, 0);
    assert_int_equal(destination_parse(to_text, strlen(to_text), 443, &to, NULL), 0);
    const struct secrets_scope scope = {
        .secrets = secrets, .to = &to, .verified = !request->unverified, .view = &view};
    *use = (struct secrets_use){0};
    if (!body_start(body, &scope, &head)) {
        assert_int_equal(body->type, 0);
        assert_int_equal(body_memory(body), 0);
        return 1;
    }
    /* In two pieces: it is whole before anything is looked at. */
    body_put(body, bytes, size / 2);
    body_put(body, (const uint8_t *)bytes + size / 2, size - size / 2);
    assert_true(buffer_ok(&body->in));
    return body_finish(body, &scope, &head, use, err);
}

struct row {
    const char *type, *in, *want; /* want NULL: unchanged */
    uint64_t used, not_approved;
    unsigned unknown;
};

static void check_rows(const struct secrets *secrets, const struct row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct request request = {.type = rows[i].type};
        const char *want = rows[i].want ? rows[i].want : rows[i].in;
        struct body body;
        struct secrets_use use;
        struct bg_err err = {0};
        int r = run(secrets, &request, rows[i].in, strlen(rows[i].in), &body, &use, &err);
        if (r != 0)
            fail_msg("row %zu: %d %s", i, r, err.text);
        if (buffer_size(&body.out) != strlen(want) ||
            (*want && memcmp(buffer_bytes(&body.out), want, strlen(want)) != 0))
            fail_msg("row %zu: '%.*s'", i, (int)buffer_size(&body.out),
                     (const char *)buffer_bytes(&body.out));
        if (use.used != rows[i].used || use.not_approved != rows[i].not_approved ||
            use.unknown != rows[i].unknown || body.changed != (use.used != 0))
            fail_msg("row %zu: use %d %d %u", i, (int)use.used, (int)use.not_approved, use.unknown);
        body_done(&body);
    }
}

#define JSON "application/json"

/* 7 */
static void exchanges_in_strings_of_json(void **state)
{
    static const struct row rows[] = {
        {JSON, "{\"k\":\"" A "\"}", "{\"k\":\"" A_JSON "\"}", BIT_A, 0, 0},
        {JSON, "\"" A "\"", "\"" A_JSON "\"", BIT_A, 0, 0},
        {JSON, " [1, -0.5e+7, true, null, \"x" A "y\"] ",
         " [1, -0.5e+7, true, null, \"x" A_JSON "y\"] ", BIT_A, 0, 0},
        {JSON, "{\"a\":{\"b\":[{\"c\":\"Bearer " A A "\"}]}}",
         "{\"a\":{\"b\":[{\"c\":\"Bearer " A_JSON A_JSON "\"}]}}", BIT_A, 0, 0},
        {"application/JSON; charset=utf-8", "[\"" A_U "\"]", "[\"" A_JSON "\"]", BIT_A, 0, 0},
        {"text/json", "[\"" A "\"]", "[\"" A_JSON "\"]", BIT_A, 0, 0},
        {"application/graphql+json", "[\"" A "\"]", "[\"" A_JSON "\"]", BIT_A, 0, 0},
        {"application/x-ndjson", "{\"a\":\"" A "\"}\n{\"a\":\"" A "\"}\n",
         "{\"a\":\"" A_JSON "\"}\n{\"a\":\"" A_JSON "\"}\n", BIT_A, 0, 0},
        {JSON, "\xef\xbb\xbf[\"" A "\"]", "\xef\xbb\xbf[\"" A_JSON "\"]", BIT_A, 0, 0},
        {JSON, "[\"\\\\" A "\\n\\u00e9\"]", "[\"\\\\" A_JSON "\\n\\u00e9\"]", BIT_A, 0, 0},
        {JSON, "[\"" D "\"]", "[\"--dash\"]", BIT_D, 0, 0},
        {JSON, "{\"k\":\"" SECRET_PREFIX A "\"}", "{\"k\":\"" SECRET_PREFIX A_JSON "\"}", BIT_A, 0,
         0},
        /* not in names */
        {JSON, "{\"" A "\":\"" A "\"}", "{\"" A "\":\"" A_JSON "\"}", BIT_A, BIT_A, 0},
        {JSON, "{\"" A_U "\":1,\"" A "\":[2]}", NULL, 0, BIT_A, 0},
        /* another's, one for headers, nobody's, one that cannot stand in JSON */
        {JSON, "[\"" H "\",\"" X "\",\"" B "\"]", NULL, 0, BIT_H | BIT_B, 1},
        /* \\u is a backslash and a letter */
        {JSON, "[\"\\\\u0042" A_REST "\"]", NULL, 0, 0, 0},
        /* not the placeholder (16) */
        {JSON, "[\"" SECRET_PREFIX "\",\"bellglass_secret_" HEX_A "\",\"" SECRET_PREFIX "0011\"]",
         NULL, 0, 0, 0},
        {JSON, "[\"" SECRET_PREFIX "\\u0130" HEX_A "\"]", NULL, 0, 0, 0},
        {JSON, "", NULL, 0, 0, 0},
    };
    check_rows(*state, rows, sizeof rows / sizeof *rows);
}

static void escapes_every_character_of_a_placeholder_in_json(void **state)
{
    char in[8 + 6 * SECRET_PLACEHOLDER_SIZE] = "[\"";
    for (size_t i = 0; i < SECRET_PLACEHOLDER_SIZE; i++)
        (void)snprintf(in + 2 + 6 * i, 7, i % 2 ? "\\u%04x" : "\\u%04X", A[i]);
    memcpy(in + 2 + 6 * SECRET_PLACEHOLDER_SIZE, "\"]", 3);
    const struct row row = {JSON, in, "[\"" A_JSON "\"]", BIT_A, 0, 0};
    check_rows(*state, &row, 1);
}

static void leaves_what_is_no_json(void **state)
{
    static const char *const broken[] = {
        "{'k':'%s'}",
        "{\"k\":\"%s\",}",
        "[\"%s\",]",
        "[\"%s\"",
        "{\"k\" \"%s\"}",
        "[1 \"%s\"]",
        "\"%s",
        "[\"%s\"]]",
        "[\"\\x%s\"]",
        "[\"\n%s\"]",
        "[\"%s\\u12g4\"]",
        "%s",
        "[\"%s\" /* c */]",
        "{1:\"%s\"}",
        "[01,\"%s\"]",
        "[1.,\"%s\"]",
        "[1e,\"%s\"]",
        "[-,\"%s\"]",
        "[nul,\"%s\"]",
        "{\"a\":\"%s\"]",
        "[\"%s\"}",
        "[,\"%s\"]",
        "{\"a\":,\"%s\":1}",
        "[\"%s\\\"]",
        "{\"a\":\"%s\",1}",
        "[\"%s\"],",
        "{\"a\"}\"%s\"",
        "{\"%s\"}",
        "\xef\xbb[\"%s\"]",
        "[+1,\"%s\"]",
        "[.5,\"%s\"]",
        "[1.5e+,\"%s\"]",
        "{\"a\":[\"%s\"},]",
        "{\"k\":\"%s\":1}",
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        char in[512];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        (void)snprintf(in, sizeof in, broken[i], A);
#pragma GCC diagnostic pop
        const struct row row = {JSON, in, NULL, 0, BIT_A, 0};
        check_rows(*state, &row, 1);
    }
}

static void knows_how_deep_json_may_be(void **state)
{
    char in[2 * JSON_SCAN_DEPTH_MAX + 256];
    for (size_t depth = JSON_SCAN_DEPTH_MAX; depth <= JSON_SCAN_DEPTH_MAX + 1; depth++) {
        char value[128];
        int n = snprintf(value, sizeof value, "\"%s\"", A);
        memset(in, '[', depth);
        memcpy(in + depth, value, (size_t)n);
        memset(in + depth + n, ']', depth);
        in[2 * depth + (size_t)n] = '\0';
        const struct request request = {.type = JSON};
        struct body body;
        struct secrets_use use;
        assert_int_equal(run(*state, &request, in, strlen(in), &body, &use, NULL), 0);
        assert_int_equal(use.used, depth == JSON_SCAN_DEPTH_MAX ? BIT_A : 0);
        assert_int_equal(use.not_approved, depth == JSON_SCAN_DEPTH_MAX ? 0 : BIT_A);
        body_done(&body);
    }
}

#define FORM "application/x-www-form-urlencoded"

/* 8 */
static void exchanges_in_values_of_forms(void **state)
{
    static const struct row rows[] = {
        {FORM, "k=" A, "k=" A_FORM, BIT_A, 0, 0},
        {FORM, "a=1&k=x+" A "&b=2", "a=1&k=x+" A_FORM "&b=2", BIT_A, 0, 0},
        {FORM ";charset=UTF-8", "k=" A_PERCENT "%00", "k=" A_FORM "%00", BIT_A, 0, 0},
        {FORM, "k==" A "&&", "k==" A_FORM "&&", BIT_A, 0, 0},
        {FORM, "k=" A "&k=" A, "k=" A_FORM "&k=" A_FORM, BIT_A, 0, 0},
        {FORM, "=" A, "=" A_FORM, BIT_A, 0, 0},
        {FORM, "k=" B "&l=" D, "k=%FF%FE&l=--dash", BIT_B | BIT_D, 0, 0},
        /* not in names, with a value or without */
        {FORM, A "=1&" A_PERCENT "=1&" A, NULL, 0, BIT_A, 0},
        {FORM, "k=" H "&l=" X, NULL, 0, BIT_H, 1},
        /* '+' is a space, '%2542' no 'B' */
        {FORM, "k=BELLGLASS+SECRET_" HEX_A, NULL, 0, 0, 0},
        {FORM, "k=%2542" A_REST, NULL, 0, 0, 0},
        {FORM, "k=%4" A_REST "&l=%", NULL, 0, 0, 0},
        {FORM, "k=BELL&GLASS_SECRET_" HEX_A, NULL, 0, 0, 0},
        {FORM, "", NULL, 0, 0, 0},
    };
    check_rows(*state, rows, sizeof rows / sizeof *rows);
}

#define MULTI      "multipart/form-data; boundary=bound"
#define PART       "Content-Disposition: form-data; name=\"k\"\r\n"
#define BEGIN      "--bound\r\n" PART "\r\n"
#define END        "\r\n--bound--\r\n"
#define TYPED(t)   "--bound\r\n" PART "content-type: " t "\r\n\r\n"
#define CODED(c)   "--bound\r\n" PART "Content-Transfer-Encoding: " c "\r\n\r\n"
#define A_SPLIT(s) "BELLGLASS_SECRET_001122" s "33445566778899aabbccddeeff00112233445566778899aabb"

/* 8 */
static void exchanges_inside_of_parts(void **state)
{
    static const struct row rows[] = {
        {MULTI, BEGIN A END, BEGIN A_VALUE END, BIT_A, 0, 0},
        {"multipart/form-data; charset=utf-8; Boundary=\"bo\\und\" ;", BEGIN A END,
         BEGIN A_VALUE END, BIT_A, 0, 0},
        {"multipart/related; boundary=\"bound\"; type=x", BEGIN "k: " A " " A "\r\n" A END,
         BEGIN "k: " A_VALUE " " A_VALUE "\r\n" A_VALUE END, BIT_A, 0, 0},
        {MULTI, BEGIN A "\r\n" BEGIN A END, BEGIN A_VALUE "\r\n" BEGIN A_VALUE END, BIT_A, 0, 0},
        {MULTI, "before\r\n" BEGIN A "\r\n--bound-- \t\r\nafter",
         "before\r\n" BEGIN A_VALUE "\r\n--bound-- \t\r\nafter", BIT_A, 0, 0},
        {MULTI, "--bound \r\n\r\n" A "\r\n--bound--", "--bound \r\n\r\n" A_VALUE "\r\n--bound--",
         BIT_A, 0, 0},
        /* by the part's own type */
        {MULTI, TYPED("application/json") "{\"k\":\"" A_U "\"}" END,
         TYPED("application/json") "{\"k\":\"" A_JSON "\"}" END, BIT_A, 0, 0},
        {MULTI, TYPED("application/json") "{" A END, NULL, 0, BIT_A, 0},
        {MULTI, TYPED(FORM) A "=" A END, TYPED(FORM) A "=" A_FORM END, BIT_A, BIT_A, 0},
        {MULTI, TYPED("application/octet-stream") "\x7f" A END,
         TYPED("application/octet-stream") "\x7f" A_VALUE END, BIT_A, 0, 0},
        {MULTI, CODED("8bit") A END, CODED("8bit") A_VALUE END, BIT_A, 0, 0},
        /* sealed ones */
        {MULTI, CODED("base64") A END, NULL, 0, BIT_A, 0},
        {MULTI, TYPED("multipart/mixed; boundary=x") "--x\r\n\r\n" A "\r\n--x--" END, NULL, 0,
         BIT_A, 0},
        {MULTI, "--bound\r\nContent-Type:\r\n application/json\r\n\r\n" A END, NULL, 0, BIT_A, 0},
        {MULTI, "--bound\r\nContent-Type: a/b\r\nContent-Type: a/c\r\n\r\n" A END, NULL, 0, BIT_A,
         0},
        {MULTI, "--bound\r\nContent-Encoding: gzip\r\n\r\n" A END, NULL, 0, BIT_A, 0},
        /* not in heads, file names, before, after */
        {MULTI,
         "--bound\r\nContent-Disposition: form-data; name=\"" A "\"; filename=\"" A "\"\r\n" A
         ": x\r\n\r\nx" END,
         NULL, 0, BIT_A, 0},
        {MULTI, A "\r\n" BEGIN "x" END A, NULL, 0, BIT_A, 0},
        {MULTI, BEGIN "x\r\n--bound--\r\n\r\n--bound\r\n\r\n" A, NULL, 0, BIT_A, 0},
        /* not over a boundary, a line end, or a part's head */
        {MULTI, BEGIN A_SPLIT("\r\n" BEGIN) "ccddeeff" END, NULL, 0, 0, 0},
        {MULTI, BEGIN A_SPLIT("\r\n") "ccddeeff" END, NULL, 0, 0, 0},
        {MULTI, "--bound\r\nx: BELLGLASS_\r\n\r\nSECRET_" HEX_A END, NULL, 0, 0, 0},
        {MULTI, BEGIN H "," X END, NULL, 0, BIT_H, 1},
    };
    check_rows(*state, rows, sizeof rows / sizeof *rows);
}

static void leaves_parts_that_are_not_clear(void **state)
{
    static const char *const bodies[] = {
        A,
        "--bound\r\n\r\n" A,
        "--bound\r\n\r\n" A "\r\n--bound\r\n\r\n",
        "--bound\n\n" A "\n--bound--\n",
        BEGIN A "\n--bound\r\n\r\nx" END,
        BEGIN A "\r--bound\r\n\r\nx" END,
        BEGIN A "\r\n--boundary\r\n\r\nx" END,
        BEGIN A "\r\n--bound-\r\n\r\nx" END,
        BEGIN A "\r\n--bound--x\r\n",
        BEGIN A "\r\n--bound",
        BEGIN A "\r\n--bound \n" END,
        "--bound\r\n" A "\r\n--bound--\r\n",
        "--bound\r\na: b\n\r\n" A END,
        "--bound\r\na: b\rc: d\r\n\r\n" A END,
        "--bound\r\n--bound\r\n\r\n" A END,
        "\n" BEGIN A END,
    };
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        const struct row row = {MULTI, bodies[i], NULL, 0, BIT_A, 0};
        check_rows(*state, &row, 1);
    }
}

/* A guest that chooses boundaries must not learn a secret from who reads them. */
static void makes_no_boundary_of_a_secret(void **state)
{
    static const struct row rows[] = {
        {MULTI, BEGIN D END, NULL, 0, BIT_D, 0},
        {MULTI, BEGIN "x\r\n" D END, NULL, 0, BIT_D, 0},
        {MULTI, BEGIN "x\n" D END, NULL, 0, BIT_D, 0},
        {MULTI, BEGIN "x-" D END, NULL, 0, BIT_D, 0},
        {MULTI, BEGIN "x " D END, BEGIN "x --dash" END, BIT_D, 0, 0},
        {MULTI, BEGIN "-" A END, NULL, 0, BIT_A, 0},
        {MULTI, BEGIN "x\r\n-" A END, NULL, 0, BIT_A, 0},
        {MULTI, BEGIN "x\r\n--" A END, NULL, 0, BIT_A, 0},
        {MULTI, BEGIN "x\r\n--bo" A END, NULL, 0, BIT_A, 0},
        {MULTI, BEGIN "x--boun" A END, NULL, 0, BIT_A, 0},
        {MULTI, BEGIN "x--bound" A END, NULL, 0, BIT_A, 0},
        {MULTI, BEGIN "sk-" A END, BEGIN "sk-" A_VALUE END, BIT_A, 0, 0},
        {MULTI, BEGIN "x--c" A END, BEGIN "x--c" A_VALUE END, BIT_A, 0, 0},
        {MULTI, BEGIN A D END, BEGIN A_VALUE "--dash" END, BIT_A | BIT_D, 0, 0},
        {MULTI, TYPED(FORM) "=" D END, TYPED(FORM) "=--dash" END, BIT_D, 0, 0},
        {MULTI, TYPED(FORM) "=-" D END, NULL, 0, BIT_D, 0},
        {"text/plain", D, "--dash", BIT_D, 0, 0},
    };
    check_rows(*state, rows, sizeof rows / sizeof *rows);
}

static void exchanges_in_text(void **state)
{
    static const struct row rows[] = {
        {"text/plain", A, A_VALUE, BIT_A, 0, 0},
        {"Text/XML ; charset=x", "<a>" A "</a>" A, "<a>" A_VALUE "</a>" A_VALUE, BIT_A, 0, 0},
        {"text/plain", A_U A_PERCENT, NULL, 0, 0, 0},
        {"text/plain", SECRET_PREFIX A SECRET_PREFIX, SECRET_PREFIX A_VALUE SECRET_PREFIX, BIT_A, 0,
         0},
        {"text/plain", B, "\xff\xfe", BIT_B, 0, 0},
        {"text/plain", H X X, NULL, 0, BIT_H, 2},
        {"text/plain", "", NULL, 0, 0, 0},
    };
    check_rows(*state, rows, sizeof rows / sizeof *rows);
}

static void says_which_secret_has_no_value(void **state)
{
    const struct request request = {.type = "text/plain"};
    struct body body;
    struct secrets_use use;
    assert_int_equal(run(*state, &request, L, strlen(L), &body, &use, NULL), 0);
    assert_int_equal(use.valueless, BIT_L);
    assert_int_equal(buffer_size(&body.out), strlen(L));
    body_done(&body);
}

static void does_not_read_what_no_rule_is_for(void **state)
{
    static const struct request requests[] = {
        {.type = JSON, .to = "b.org"},
        {.type = JSON, .method = "PUT"},
        {.type = JSON, .unverified = true},
        {.type = JSON, .coding = "gzip"},
        {.type = JSON, .coding = "frob"},
        {.type = "application/octet-stream"},
        {.type = "application/xml"},
        {.type = "text"},
        {.type = "text/"},
        {.type = "text/plain, text/html"},
        {.type = "application/json,x"},
        {.type = ""},
        {.type = "; text/plain"},
        {.type = "multipart/form-data"},
        {.type = "multipart/form-data; boundary"},
        {.type = "multipart/form-data; boundary="},
        {.type = "multipart/form-data; boundary=\"\""},
        {.type = "multipart/form-data; boundary=\"x"},
        {.type = "multipart/form-data; boundary=\"x \""},
        {.type = "multipart/form-data; boundary=x; boundary=x"},
        {.type = "multipart/form-data; boundary*=x"},
        {.type = "multipart/form-data; boundary*0=x"},
        {.type = "multipart/form-data; boundary=x; boundary*0=y"},
        {.type = "multipart/form-data; boundary=x,boundary=y"},
        {.type = "multipart/form-data; boundary=x y"},
        {.type = "multipart/form-data; boundary=\"a\\\"b\""},
        {.type = "multipart/form-data; =x; boundary=x"},
        {.type = "multipart/form-data; boundary="
                 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
    };
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        struct body body;
        struct secrets_use use;
        if (run(*state, &requests[i], A, strlen(A), &body, &use, NULL) != 1)
            fail_msg("row %zu", i);
    }
}

static void takes_a_boundary_of_any_allowed_size(void **state)
{
    char type[256], in[512], want[512], boundary[MULTIPART_BOUNDARY_MAX + 1] = "";
    memset(boundary, 'b', MULTIPART_BOUNDARY_MAX);
    (void)snprintf(type, sizeof type, "multipart/form-data; boundary=%s", boundary);
    (void)snprintf(in, sizeof in, "--%s\r\n\r\n%s\r\n--%s--", boundary, A, boundary);
    (void)snprintf(want, sizeof want, "--%s\r\n\r\n%s\r\n--%s--", boundary, A_VALUE, boundary);
    const struct row row = {type, in, want, BIT_A, 0, 0};
    check_rows(*state, &row, 1);
}

/* Each of several rules has its own size; the body is read for the largest of them. */
static void keeps_to_each_rules_size(void **state)
{
    (void)state;
    struct secrets secrets = {0};
    add(&secrets, "AKEY", A, "a", SECRET_IN_BODY, &(struct secret_body){SECRET_BODY_TEXT, 400, 0});
    add(&secrets, "BKEY", B, "b", SECRET_IN_BODY, &(struct secret_body){SECRET_BODY_TEXT, 200, 0});
    char in[512];
    for (size_t size = 200; size <= 400; size += size == 200 ? 1 : 199) {
        const struct request request = {.type = "text/plain"};
        struct body body;
        struct secrets_use use;
        (void)snprintf(in, sizeof in, "%-*s", (int)size, A B);
        assert_int_equal(run(&secrets, &request, in, size, &body, &use, NULL), 0);
        assert_int_equal(body.size_max, 400);
        assert_int_equal(use.used, size == 200 ? 3 : 1);
        assert_int_equal(use.not_approved, size == 200 ? 0 : 2);
        body_done(&body);
    }
    struct body body = {.in = buffer_init(400)};
    memset(in, 'x', sizeof in);
    body_put(&body, (const uint8_t *)in, 400);
    assert_true(buffer_ok(&body.in));
    body_put(&body, (const uint8_t *)in, 1);
    assert_false(buffer_ok(&body.in));
    body_done(&body);
    secrets_done(&secrets);
}

static void goes_by_the_rules_types(void **state)
{
    (void)state;
    struct secrets secrets = {0};
    add(&secrets, "AKEY", A, "a", SECRET_IN_BODY, &(struct secret_body){SECRET_BODY_JSON, 400, 0});
    add(&secrets, "BKEY", B, "b", SECRET_IN_BODY, &(struct secret_body){SECRET_BODY_TEXT, 400, 0});
    struct request request = {.type = JSON};
    struct body body;
    struct secrets_use use;
    static const char in[] = "[\"" A "\",\"" B "\"]";
    assert_int_equal(run(&secrets, &request, in, strlen(in), &body, &use, NULL), 0);
    assert_int_equal(use.used, 1);
    assert_int_equal(use.not_approved, 2);
    body_done(&body);
    request.type = FORM;
    assert_int_equal(run(&secrets, &request, in, strlen(in), &body, &use, NULL), 1);
    secrets_done(&secrets);
}

static size_t gzip(const void *bytes, size_t size, uint8_t *out, size_t out_size)
{
    z_stream z = {0};
    uint8_t copy[1024];
    assert_true(size <= sizeof copy);
    memcpy(copy, bytes, size);
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = copy;
    z.avail_in = (uInt)size;
    z.next_out = out;
    z.avail_out = (uInt)out_size;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    assert_int_equal(deflateEnd(&z), Z_OK);
    return out_size - z.avail_out;
}

/* 12 */
static void takes_codings_off_when_a_rule_says_so(void **state)
{
    (void)state;
    struct secrets secrets = {0};
    uint8_t coded[1024];
    add(&secrets, "AKEY", A, "a", SECRET_IN_BODY,
        &(struct secret_body){SECRET_BODY_TEXT, 300, true});
    add(&secrets, "BKEY", B, "b", SECRET_IN_BODY,
        &(struct secret_body){SECRET_BODY_TEXT, 300, false});
    const struct request request = {.type = "text/plain", .coding = "gzip"};
    struct body body;
    struct secrets_use use;
    struct bg_err err;
    size_t size = gzip(A B, strlen(A B), coded, sizeof coded);
    assert_int_equal(run(&secrets, &request, coded, size, &body, &use, &err), 0);
    assert_true(body.coded && body.changed);
    assert_int_equal(use.used, 1);
    assert_int_equal(use.not_approved, 2);
    assert_int_equal(buffer_size(&body.out), 1 + strlen(B));
    assert_memory_equal(buffer_bytes(&body.out), "a" B, 1 + strlen(B));
    body_done(&body);
    for (size_t cut = 1; cut < size; cut++) {
        assert_int_equal(run(&secrets, &request, coded, cut, &body, &use, &err), -EPROTO);
        assert_int_equal(use.used, 0);
        body_done(&body);
    }
    assert_int_equal(run(&secrets, &request, "x", 1, &body, &use, &err), -EPROTO);
    body_done(&body);
    /* As large as may be, and one byte more. */
    char zeros[301] = {0};
    size = gzip(zeros, 300, coded, sizeof coded);
    assert_int_equal(run(&secrets, &request, coded, size, &body, &use, &err), 0);
    body_done(&body);
    size = gzip(zeros, 301, coded, sizeof coded);
    assert_int_equal(run(&secrets, &request, coded, size, &body, &use, &err), -E2BIG);
    body_done(&body);
    const struct request unknown = {.type = "text/plain", .coding = "gzip, frob"};
    assert_int_equal(run(&secrets, &unknown, coded, size, &body, &use, &err), 1);
    const struct request plain = {.type = "text/plain", .coding = "identity"};
    assert_int_equal(run(&secrets, &plain, A, strlen(A), &body, &use, &err), 0);
    assert_false(body.coded);
    body_done(&body);
    secrets_done(&secrets);
}

static void has_a_limit_with_its_secrets(void **state)
{
    (void)state;
    struct secrets secrets = {0};
    static char value[BG_SECRET_SIZE_MAX + 1], in[6 * SECRET_PLACEHOLDER_SIZE];
    memset(value, 'v', BG_SECRET_SIZE_MAX);
    add(&secrets, "AKEY", A, value, SECRET_IN_BODY,
        &(struct secret_body){SECRET_BODY_TEXT, 5 * SECRET_PLACEHOLDER_SIZE, false});
    const struct request request = {.type = "text/plain"};
    struct body body;
    struct secrets_use use;
    struct bg_err err;
    for (size_t i = 0; i < 5; i++)
        memcpy(in + i * SECRET_PLACEHOLDER_SIZE, A, SECRET_PLACEHOLDER_SIZE);
    assert_int_equal(run(&secrets, &request, in, 4 * SECRET_PLACEHOLDER_SIZE, &body, &use, &err),
                     0);
    assert_int_equal(buffer_size(&body.out), 4 * BG_SECRET_SIZE_MAX);
    body_done(&body);
    assert_int_equal(run(&secrets, &request, in, 5 * SECRET_PLACEHOLDER_SIZE, &body, &use, &err),
                     -E2BIG);
    assert_null(strstr(err.text, "vvv"));
    body_done(&body);
    secrets_done(&secrets);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exchanges_in_strings_of_json),
        cmocka_unit_test(escapes_every_character_of_a_placeholder_in_json),
        cmocka_unit_test(leaves_what_is_no_json),
        cmocka_unit_test(knows_how_deep_json_may_be),
        cmocka_unit_test(exchanges_in_values_of_forms),
        cmocka_unit_test(exchanges_inside_of_parts),
        cmocka_unit_test(leaves_parts_that_are_not_clear),
        cmocka_unit_test(makes_no_boundary_of_a_secret),
        cmocka_unit_test(exchanges_in_text),
        cmocka_unit_test(says_which_secret_has_no_value),
        cmocka_unit_test(does_not_read_what_no_rule_is_for),
        cmocka_unit_test(takes_a_boundary_of_any_allowed_size),
        cmocka_unit_test(keeps_to_each_rules_size),
        cmocka_unit_test(goes_by_the_rules_types),
        cmocka_unit_test(takes_codings_off_when_a_rule_says_so),
        cmocka_unit_test(has_a_limit_with_its_secrets),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
