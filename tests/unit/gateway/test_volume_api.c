#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "host/gateway/volume_api.h"

static void targets_are_told_apart(void **state)
{
    (void)state;
    static const struct {
        const char *method, *target, *name;
        enum volume_match match;
        enum volume_verb verb;
        bool snapshots;
    } rows[] = {
        {"GET", "/api/v2/volumes", "", VOLUME_MATCH, VOLUME_LIST, false},
        {"GET", "/api/v2/volumes?x=/y", "", VOLUME_MATCH, VOLUME_LIST, false},
        {"POST", "/api/v2/volumes", "", VOLUME_MATCH, VOLUME_CREATE, false},
        {"GET", "/api/v2/snapshots", "", VOLUME_MATCH, VOLUME_LIST, true},
        {"GET", "/api/v2/volumes/a-b", "a-b", VOLUME_MATCH, VOLUME_SHOW, false},
        {"DELETE", "/api/v2/snapshots/snp_1", "snp_1", VOLUME_MATCH, VOLUME_DELETE, true},
        {"POST", "/api/v2/volumes/x/snapshot", "x", VOLUME_MATCH, VOLUME_SNAPSHOT, false},
        {"GET", "/api/v2/volumes/..%2Ftokens", "", VOLUME_MATCH, VOLUME_SHOW, false},
        {"GET", "/api/v2/volumes/..", "", VOLUME_MATCH, VOLUME_SHOW, false},
        {"PUT", "/api/v2/volumes/x", "x", VOLUME_WRONG_METHOD, VOLUME_DELETE, false},
        {"POST", "/api/v2/snapshots", "", VOLUME_WRONG_METHOD, VOLUME_LIST, true},
    };
    static const char *const others[] = {"/api/v2/volumesx",
                                         "/api/v2/volumes/",
                                         "/api/v2/volumes/x/",
                                         "/api/v2/volumes/x/snapshots",
                                         "/api/v2/snapshots/x/snapshot",
                                         "/api/v2/",
                                         "",
                                         "/"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct volume_target t = {0};
        assert_int_equal(volume_target_find(rows[i].method, rows[i].target, &t), rows[i].match);
        assert_int_equal(t.verb, rows[i].verb);
        assert_int_equal(t.snapshots, rows[i].snapshots);
        assert_string_equal(t.name, rows[i].name);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct volume_target t;
        assert_int_equal(volume_target_find("GET", others[i], &t), VOLUME_OTHER);
    }
}

static void queries_are_read(void **state)
{
    (void)state;
    struct volume_query q;
    struct bg_err err;
    assert_int_equal(volume_query_parse("/x", &q, &err), 0);
    assert_int_equal(q.limit, 100);
    assert_string_equal(q.after_id, "");
    assert_int_equal(
        volume_query_parse("/x?search=a%2Db+&limit=7&cursor=12.vol_0123456789abcdefghij", &q, &err),
        0);
    assert_int_equal(q.limit, 7);
    assert_string_equal(q.search, "a-b ");
    assert_int_equal(q.after_ms, 12);
    assert_string_equal(q.after_id, "vol_0123456789abcdefghij");
    static const char *const wrong[] = {"/x?limit=0",
                                        "/x?limit=1001",
                                        "/x?limit=",
                                        "/x?cursor=12",
                                        "/x?cursor=.vol_0123456789abcdefghij",
                                        "/x?cursor=1.vol_0123456789abcdefghijk",
                                        "/x?search=%",
                                        "/x?search=%4",
                                        "/x?search=%00"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(volume_query_parse(wrong[i], &q, &err), -EINVAL);
}

static void no_sizes(const struct bg_volume *volume, uint64_t *own, uint64_t *whole)
{
    (void)volume;
    *own = *whole = 1;
}

static void a_list_comes_in_pages(void **state)
{
    (void)state;
    static char region[] = "ord", owner[] = "";
    struct bg_volume all[5] = {0};
    char target[128], cursor[VOLUME_CURSOR_SIZE] = "";
    struct bg_err err;
    for (size_t i = 0; i < 5; i++) {
        (void)snprintf(all[i].id, sizeof all[i].id, "vol_0000000000000000000%zu", i);
        (void)snprintf(all[i].slug, sizeof all[i].slug, "v-%zu", i);
        all[i].created_ms = i / 2; /* some of one moment */
        all[i].region = region;
        all[i].owner = owner;
        all[i].snapshot = i == 3;
    }
    size_t seen = 0, pages = 0;
    do {
        struct volume_query q;
        (void)snprintf(target, sizeof target, "/x?limit=2%s%s", cursor[0] ? "&cursor=" : "",
                       cursor);
        assert_int_equal(volume_query_parse(target, &q, &err), 0);
        json_t *page = volume_page(all, 5, /* snapshots= */ false, &q, no_sizes, cursor);
        assert_in_range(json_array_size(page), 1, 2);
        seen += json_array_size(page);
        json_decref(page);
        pages++;
    } while (cursor[0]);
    assert_int_equal(seen, 4);
    assert_int_equal(pages, 2);
}

static int create(const char *json, struct volume_request *ret)
{
    struct bg_err err;
    json_t *body = json_loads(json, 0, NULL);
    int r = volume_request_create(body, ret, &err);
    json_decref(body);
    return r;
}

static void bodies_are_checked(void **state)
{
    (void)state;
    struct volume_request q;
    struct bg_err err;
    static const struct {
        const char *json;
        uint64_t capacity;
    } good[] = {
        {"{\"slug\":\"ab\",\"region\":\"ord\",\"capacity\":\"1GB\"}", 1000001536},
        {"{\"slug\":\"ab\",\"region\":\"ord\",\"capacity\":67108864.0}", 67108864},
        {"{\"slug\":\"ab\",\"region\":\"ord\",\"capacity\":1e10,\"from\":null}", 10000003072}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(create(good[i].json, &q), 0);
        assert_int_equal(q.capacity, good[i].capacity);
    }
    static const char *const wrong[] = {
        "[]",
        "1",
        "{}",
        "x",
        "{\"slug\":\"ab\",\"region\":\"ord\"}",
        "{\"slug\":\"a\",\"region\":\"ord\",\"capacity\":\"1GB\"}",
        "{\"slug\":\"ab\",\"region\":\"o d\",\"capacity\":\"1GB\"}",
        "{\"slug\":\"ab\",\"region\":\"ord\",\"capacity\":-1}",
        "{\"slug\":\"ab\",\"region\":\"ord\",\"capacity\":1e300}",
        "{\"slug\":\"ab\",\"region\":\"ord\",\"capacity\":\"1GB\",\"from\":1}"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(create(wrong[i], &q), -EINVAL);
    assert_int_equal(volume_request_snapshot(NULL, &q, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(targets_are_told_apart),
        cmocka_unit_test(queries_are_read),
        cmocka_unit_test(a_list_comes_in_pages),
        cmocka_unit_test(bodies_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
