#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "host/gateway/extra_route.h"
#include "host/gateway/openapi.h"
#include "host/gateway/route.h"
#include "host/gateway/web.h"

static json_t *document(void)
{
    json_t *root =
        json_loadb((const char *)openapi_text, openapi_size, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    return root;
}

static void lower(const char *text, char out[16])
{
    size_t i = 0;
    for (; text[i]; i++)
        out[i] = (char)tolower((unsigned char)text[i]);
    out[i] = '\0';
}

/* Files of the dashboard are one route of the document. */
static bool page_pattern(size_t index, struct route_pattern *ret)
{
    static const char folder[] = "/web/";
    const char *path = web_pages[index].path;
    if (!path)
        return false;
    ret->method = "GET";
    bool file = strncmp(path, folder, sizeof folder - 1) == 0;
    assert_true(file || strlen(path) < sizeof ret->path);
    (void)snprintf(ret->path, sizeof ret->path, "%s", file ? "/web/{file}" : path);
    return true;
}

/* All that there are, of all tables; false behind the last. */
static bool next_route(size_t index, struct route_pattern *ret)
{
    static bool (*const tables[])(size_t index, struct route_pattern * ret) = {
        route_pattern, volume_route_pattern, extra_route_pattern, page_pattern};
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        size_t count = 0;
        struct route_pattern pattern;
        while (tables[i](count, &pattern))
            count++;
        assert_true(count > 0);
        if (index < count)
            return tables[i](index, ret);
        index -= count;
    }
    return false;
}

static void every_route_is_described(void **state)
{
    (void)state;
    json_t *root = document(), *paths = json_object_get(root, "paths");
    struct route_pattern route;
    char method[16];
    for (size_t i = 0; next_route(i, &route); i++) {
        lower(route.method, method);
        if (!json_is_object(json_object_get(json_object_get(paths, route.path), method)))
            fail_msg("openapi.json has no %s %s", route.method, route.path);
    }
    json_decref(root);
}

static void what_is_described_is_a_route(void **state)
{
    (void)state;
    json_t *root = document(), *methods, *operation;
    const char *path, *name;
    struct route_pattern route;
    char method[16];
    json_object_foreach(json_object_get(root, "paths"), path, methods)
    {
        json_object_foreach(methods, name, operation)
        {
            bool known = strcmp(name, "parameters") == 0;
            for (size_t i = 0; !known && next_route(i, &route); i++) {
                lower(route.method, method);
                known = strcmp(path, route.path) == 0 && strcmp(name, method) == 0;
            }
            if (!known)
                fail_msg("there is no route %s %s, which openapi.json has", name, path);
        }
    }
    json_decref(root);
}

/* All texts after "$ref" name something in the document. */
static void check_references(const json_t *root, json_t *value)
{
    const char *key;
    json_t *item;
    size_t i;
    json_array_foreach(value, i, item) check_references(root, item);
    json_object_foreach(value, key, item)
    {
        check_references(root, item);
        if (strcmp(key, "$ref") != 0)
            continue;
        char copy[128];
        const json_t *at = root;
        assert_true(strlen(json_string_value(item)) < sizeof copy);
        memcpy(copy, json_string_value(item), strlen(json_string_value(item)) + 1);
        assert_memory_equal(copy, "#/", 2);
        for (char *rest = copy + 2, *word; (word = strsep(&rest, "/"));)
            at = json_object_get(at, word);
        if (!at)
            fail_msg("%s is not there", json_string_value(item));
    }
}

static void references_lead_somewhere(void **state)
{
    (void)state;
    json_t *root = document();
    check_references(root, root);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_route_is_described),
        cmocka_unit_test(what_is_described_is_a_route),
        cmocka_unit_test(references_lead_somewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
