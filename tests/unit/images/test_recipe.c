#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "common/io.h"
#include "images/recipe.h"

#define HEAD "name: x\nsuite: bookworm\n"

static struct recipe *parse(const char *text)
{
    struct recipe *recipe;
    struct bg_err err = {0};
    int r = recipe_parse(text, strlen(text), NULL, &recipe, &err);
    if (r < 0)
        print_error("%s\n", err.text);
    assert_int_equal(r, 0);
    return recipe;
}

static void fills_in_what_is_left_out(void **state)
{
    (void)state;
    struct recipe *recipe = parse(HEAD);
    assert_string_equal(recipe->name, "x");
    assert_int_equal(recipe->disk_bytes, UINT64_C(10) << 30);
    assert_null(recipe->user);
    BG_AUTOFREE char *text = json_dumps(recipe->canonical, JSON_SORT_KEYS | JSON_COMPACT);
    assert_string_equal(text,
                        "{\"disk_bytes\":10737418240,\"docs\":false,\"files\":[],\"format\":1,"
                        "\"kernel\":\"linux-image-cloud-amd64\",\"packages\":[],\"run\":[],"
                        "\"suite\":\"bookworm\",\"user\":\"root\"}");
    recipe_free(recipe);
}

static void takes_all_keys(void **state)
{
    (void)state;
    struct recipe *recipe =
        parse("name: full\nsuite: trixie\npackages: [b, a, b]\nkernel: linux-image-amd64\n"
              "user: dev\ndisk: 16G\ndocs: yes\nfiles:\n  - path: /etc/motd\n    mode: \"0600\"\n"
              "    owner: dev\n    content: |\n      hello\nrun:\n  - echo one\n  - |\n"
              "    echo two\n    echo three\n");
    assert_int_equal(recipe->packages_count, 2);
    assert_string_equal(recipe->packages[0], "a");
    assert_string_equal(recipe->packages[1], "b");
    assert_string_equal(recipe->files[0].content, "hello\n");
    assert_string_equal(recipe->run[1], "echo two\necho three\n");
    assert_int_equal(recipe->disk_bytes, UINT64_C(16) << 30);
    assert_true(json_is_true(json_object_get(recipe->canonical, "docs")));
    recipe_free(recipe);
}

static bool are_equal(const char *a, const char *b)
{
    struct recipe *left = parse(a), *right = parse(b);
    bool equal = json_equal(left->canonical, right->canonical);
    recipe_free(left);
    recipe_free(right);
    return equal;
}

static void calls_equal_what_makes_equal_images(void **state)
{
    (void)state;
    assert_true(are_equal(HEAD "packages: [a, b]\n", "packages: [b, a, a]\n" HEAD));
    assert_true(are_equal(HEAD, "name: y\nsuite: bookworm\ndisk: 10240M\nuser: root\ndocs: no\n"));
    assert_false(are_equal(HEAD, HEAD "user: app\n"));
    assert_false(are_equal(HEAD "packages: [a]\n", HEAD "packages: [b]\n"));
    assert_false(are_equal(HEAD "run: [a, b]\n", HEAD "run: [b, a]\n"));
    assert_false(are_equal(HEAD "files:\n  - path: /a\n    content: b\n",
                           HEAD "files:\n  - path: /a\n    content: c\n"));
    assert_false(are_equal(HEAD "disk: 11G\n", HEAD "disk: 12G\n"));
}

static void refuses_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words[3];
    } cases[] = {
        {"", {"empty"}},
        {"just text", {"SCALAR"}},
        {"name: x\n", {"Missing", "suite"}},
        {"suite: bookworm\n", {"Missing", "name"}},
        {HEAD "packagess: [a]\n", {"line 3", "packagess", "packages, kernel, user"}},
        {HEAD "files:\n  - path: /a\n    contents: b\n", {"line 5", "contents", "path, mode"}},
        {HEAD "packages: a\n", {"line 3"}},
        {HEAD "packages: [[a]]\n", {"line 3"}},
        {HEAD "packages: [A]\n", {"packages", "'A'"}},
        {HEAD "packages: ['a b']\n", {"packages", "'a b'"}},
        {HEAD "packages: ['-a']\n", {"packages", "'-a'"}},
        {HEAD "packages: ['a,b']\n", {"packages", "'a,b'"}},
        {"name: X\nsuite: bookworm\n", {"name", "'X'"}},
        {"name: ../x\nsuite: bookworm\n", {"name", "'../x'"}},
        {"name: x\nsuite: 'a;b'\n", {"suite", "'a;b'"}},
        {"name: x\nsuite: --a\n", {"suite", "'--a'"}},
        {HEAD "user: 'a b'\n", {"user", "'a b'"}},
        {HEAD "user: 0a\n", {"user", "'0a'"}},
        {HEAD "kernel: bash\n", {"kernel", "'bash'", "linux-image-"}},
        {HEAD "disk: 100M\n", {"disk", "'100M'"}},
        {HEAD "disk: 5T\n", {"disk", "'5T'"}},
        {HEAD "disk: 10GB\n", {"disk", "'10GB'"}},
        {HEAD "disk: 1073741825\n", {"disk"}},
        {HEAD "docs: maybe\n", {"line 3", "maybe"}},
        {HEAD "docs: 1\n", {"line 3"}},
        {HEAD "files:\n  - path: a\n    content: b\n", {"path", "'a'", "absolute"}},
        {HEAD "files:\n  - path: /a/../b\n    content: b\n", {"path", "'/a/../b'"}},
        {HEAD "files:\n  - path: /a/..\n    content: b\n", {"path", "'/a/..'"}},
        {HEAD "files:\n  - path: /a//b\n    content: b\n", {"path", "'/a//b'"}},
        {HEAD "files:\n  - path: /\n    content: b\n", {"path", "'/'"}},
        {HEAD "files:\n  - path: \"/a\\nb\"\n    content: b\n", {"path", "\\x0a"}},
        {HEAD "files:\n  - content: b\n", {"Missing", "path"}},
        {HEAD "files:\n  - path: /a\n", {"either content or source"}},
        {HEAD "files:\n  - path: /a\n    content: b\n    source: c\n", {"either"}},
        {HEAD "files:\n  - path: /a\n    source: c\n", {"source", "'c'"}},
        {HEAD "files:\n  - path: /a\n    content: b\n    mode: \"0888\"\n", {"mode", "'0888'"}},
        {HEAD "files:\n  - path: /a\n    content: b\n    mode: \"64\"\n", {"mode", "'64'"}},
        {HEAD "files:\n  - path: /a\n    content: b\n    owner: bob\n", {"owner", "'bob'"}},
        {HEAD "run: [&a x, *a]\n", {"line 3"}},
        {HEAD "name: \"\x01\"\n", {"libyaml"}},
        {HEAD "run: [\"\xff\"]\n", {"libyaml"}},
        {"name: \"x\n", {"libyaml"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct recipe *recipe = NULL;
        struct bg_err err = {0};
        int r = recipe_parse(cases[i].text, strlen(cases[i].text), NULL, &recipe, &err);
        if (r != -EINVAL)
            print_error("not refused: %s (%s)\n", cases[i].text, err.text);
        assert_int_equal(r, -EINVAL);
        for (size_t w = 0; w < 3 && cases[i].words[w]; w++) {
            if (!strstr(err.text, cases[i].words[w]))
                print_error("%s\n  says: %s\n", cases[i].text, err.text);
            assert_non_null(strstr(err.text, cases[i].words[w]));
        }
    }
}

static void refuses_a_nul(void **state)
{
    (void)state;
    static const char text[] = HEAD "run: [a]\n\0# b";
    struct recipe *recipe;
    assert_int_equal(recipe_parse(text, sizeof text - 1, NULL, &recipe, NULL), -EINVAL);
}

static void survives_every_truncation(void **state)
{
    (void)state;
    static const char text[] = HEAD "packages: [a, b]\nfiles:\n  - path: /a\n    content: \"b\"\n"
                                    "run:\n  - |\n    c\n";
    for (size_t size = 0; size < sizeof text; size++) {
        struct recipe *recipe = NULL;
        if (recipe_parse(text, size, NULL, &recipe, NULL) == 0)
            recipe_free(recipe);
    }
}

static void knows_source_files_by_their_contents(void **state)
{
    (void)state;
    char folder[] = "/tmp/bg-recipe-XXXXXX", path[64], source[64];
    assert_non_null(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/r.yaml", folder);
    (void)snprintf(source, sizeof source, "%s/s", folder);
    static const char text[] = HEAD "files:\n  - path: /a\n    source: s\n";
    struct bg_err err = {0};
    struct recipe *recipe[3];
    assert_int_equal(bg_write_file(AT_FDCWD, path, text, sizeof text - 1, 0644, NULL), 0);
    assert_int_equal(recipe_load(path, &recipe[0], &err), -ENOENT);
    assert_non_null(strstr(err.text, source));
    static const char *const contents[] = {"one", "one", "two"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(bg_write_file(AT_FDCWD, source, contents[i], 3, 0644, NULL), 0);
        assert_int_equal(recipe_load(path, &recipe[i], NULL), 0);
        assert_string_equal(recipe[i]->files[0].source, source);
    }
    assert_true(json_equal(recipe[0]->canonical, recipe[1]->canonical));
    assert_false(json_equal(recipe[0]->canonical, recipe[2]->canonical));
    for (size_t i = 0; i < 3; i++)
        recipe_free(recipe[i]);
    assert_int_equal(unlink(source), 0);
    assert_int_equal(symlink("/dev/zero", source), 0);
    assert_int_equal(recipe_load(path, &recipe[0], &err), -EINVAL);
    assert_int_equal(unlink(source), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

static void says_where_it_looked(void **state)
{
    (void)state;
    struct recipe *recipe;
    struct bg_err err = {0};
    assert_int_equal(recipe_load("no-such-recipe", &recipe, &err), -ENOENT);
    assert_non_null(strstr(err.text, "'no-such-recipe'"));
    assert_int_equal(recipe_load("./no/such.yaml", &recipe, &err), -ENOENT);
    assert_non_null(strstr(err.text, "./no/such.yaml"));
    assert_int_equal(recipe_load("/etc/passwd", &recipe, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fills_in_what_is_left_out),
        cmocka_unit_test(takes_all_keys),
        cmocka_unit_test(calls_equal_what_makes_equal_images),
        cmocka_unit_test(refuses_what_is_wrong),
        cmocka_unit_test(refuses_a_nul),
        cmocka_unit_test(survives_every_truncation),
        cmocka_unit_test(knows_source_files_by_their_contents),
        cmocka_unit_test(says_where_it_looked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
