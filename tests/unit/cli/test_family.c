#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "host/cli/family.h"

/* layers: one letter each. */
static void add(struct family *family, enum family_kind kind, const char *name, const char *parent,
                const char *letters, uint64_t created_ms)
{
    char texts[8][2] = {{0}};
    const char *layers[8];
    size_t count = strlen(letters);
    assert_true(count <= 8);
    for (size_t i = 0; i < count; i++) {
        texts[i][0] = letters[i];
        layers[i] = texts[i];
    }
    const struct family_entry entry = {.kind = kind,
                                       .name = name,
                                       .parent = parent,
                                       .state = kind == FAMILY_SANDBOX ? "running" : "full",
                                       .note = kind == FAMILY_SANDBOX ? NULL : "",
                                       .created_ms = created_ms,
                                       .layers = layers,
                                       .layer_count = count};
    assert_int_equal(family_add(family, &entry), 0);
}

static char *printed(struct family *family, const char *name)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    (void)family_print(family, name, 1000, out);
    assert_int_equal(fclose(out), 0);
    return text;
}

static void check(struct family *family, const char *name, const char *want)
{
    assert_int_equal(family_link(family), 0);
    char *text = printed(family, name);
    assert_string_equal(text, want);
    free(text);
    family_free(family);
}

static void draws_a_family(void **state)
{
    (void)state;
    struct family *f = family_new();
    add(f, FAMILY_SANDBOX, "web", "web@2", "ab", 0);
    add(f, FAMILY_SANDBOX, "try-1", "web@1", "a", 0);
    add(f, FAMILY_SANDBOX, "try-2", "web@1", "a", 0);
    add(f, FAMILY_SANDBOX, "other", NULL, "", 0);
    add(f, FAMILY_SNAPSHOT, "web@2", "web@1", "ab", 0);
    add(f, FAMILY_SNAPSHOT, "web@1", NULL, "a", 0);
    check(f, NULL,
          "web@1  full, 1s\n"
          "├─ web@2  full, 1s\n"
          "│  └─ web  running, 1s\n"
          "├─ try-1  running, 1s\n"
          "└─ try-2  running, 1s\n"
          "other  running, 1s\n");
}

static void a_name_chooses_its_family(void **state)
{
    (void)state;
    struct family *f = family_new();
    add(f, FAMILY_SANDBOX, "web", NULL, "a", 0);
    add(f, FAMILY_SANDBOX, "web2", NULL, "b", 0);
    check(f, "web", "web  running, 1s\n");
}

static void what_shares_an_instant_stands_together(void **state)
{
    (void)state;
    struct family *f = family_new();
    add(f, FAMILY_SANDBOX, "web", "web@.fork-1", "abx", 0);
    add(f, FAMILY_SANDBOX, "child", "web@.fork-1", "aby", 0);
    add(f, FAMILY_SNAPSHOT, "web@1", NULL, "a", 0);
    check(f, NULL,
          "web@1  full, 1s\n"
          "└─ (an instant of web)\n"
          "   ├─ child  running, 1s\n"
          "   └─ web  running, 1s\n");
}

static void a_removed_parent_is_bridged(void **state)
{
    (void)state;
    struct family *f = family_new();
    add(f, FAMILY_SNAPSHOT, "web@1", NULL, "a", 0);
    add(f, FAMILY_SNAPSHOT, "web@3", "web@2", "abc", 0);
    add(f, FAMILY_SANDBOX, "web", "web@3", "abc", 0);
    check(f, NULL,
          "web@1  full, 1s\n"
          "└─ web@3  full, 1s\n"
          "   └─ web  running, 1s\n");
    f = family_new();
    add(f, FAMILY_SANDBOX, "one", "web@2", "ab", 0);
    add(f, FAMILY_SANDBOX, "two", "web@2", "ab", 0);
    check(f, NULL,
          "web@2 (removed)\n"
          "├─ one  running, 1s\n"
          "└─ two  running, 1s\n");
}

static void circles_are_broken(void **state)
{
    (void)state;
    struct family *f = family_new();
    add(f, FAMILY_SNAPSHOT, "a@1", "a@2", "x", 0);
    add(f, FAMILY_SNAPSHOT, "a@2", "a@1", "x", 0);
    add(f, FAMILY_SNAPSHOT, "b@1", "b@1", "y", 0);
    check(f, NULL,
          "a@1  full, 1s\n"
          "└─ a@2  full, 1s\n"
          "b@1  full, 1s\n");
}

static void deep_ones_are_drawn_to_the_end(void **state)
{
    (void)state;
    struct family *f = family_new();
    char name[16], parent[16];
    for (unsigned i = 0; i < 400; i++) {
        (void)snprintf(name, sizeof name, "w@%u", i);
        (void)snprintf(parent, sizeof parent, "w@%u", i - 1);
        add(f, FAMILY_SNAPSHOT, name, i ? parent : NULL, "", 0);
    }
    assert_int_equal(family_link(f), 0);
    char *text = printed(f, NULL);
    assert_non_null(strstr(text, "w@399  full"));
    free(text);
    json_t *json = family_json(f, "w"), *at = json;
    for (unsigned i = 0; i < 400; i++)
        at = json_object_get(json_array_get(at, 0), "children");
    assert_int_equal(json_array_size(at), 0);
    assert_non_null(at);
    json_decref(json);
    family_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_a_family),
        cmocka_unit_test(a_name_chooses_its_family),
        cmocka_unit_test(what_shares_an_instant_stands_together),
        cmocka_unit_test(a_removed_parent_is_bridged),
        cmocka_unit_test(circles_are_broken),
        cmocka_unit_test(deep_ones_are_drawn_to_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
