#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/state/sandbox.h"
#include "common/state/sandbox_json.h"

#define DIGEST "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

struct fixture {
    char home[64];
    struct bg_paths paths;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    (void)snprintf(f->home, sizeof f->home, "/tmp/bg-test-XXXXXX");
    assert_non_null(mkdtemp(f->home));
    assert_int_equal(setenv("BELLGLASS_HOME", f->home, 1), 0);
    struct bg_err err;
    assert_int_equal(bg_paths_init(&f->paths, &err), 0);
    *state = f;
    return 0;
}

static void remove_all(const char *path)
{
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (const struct dirent *e; (e = readdir(dir));) {
        char below[1024];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        (void)snprintf(below, sizeof below, "%s/%s", path, e->d_name);
        struct stat st;
        assert_int_equal(lstat(below, &st), 0);
        if (S_ISDIR(st.st_mode))
            remove_all(below);
        else
            assert_int_equal(unlink(below), 0);
    }
    (void)closedir(dir);
    assert_int_equal(rmdir(path), 0);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    bg_paths_done(&f->paths);
    remove_all(f->home);
    free(f);
    return 0;
}

/* A sandbox as a command would ask for it; end with bg_sandbox_done. */
static struct bg_sandbox wanted(const char *name)
{
    struct bg_sandbox s = {.cpus = 2, .memory_bytes = 512u << 20, .ephemeral = true};
    s.name = name ? strdup(name) : NULL;
    s.image_name = strdup("debian");
    s.image_digest = strdup(DIGEST);
    s.env = calloc(2, sizeof *s.env);
    s.env[0] = strdup("A=1=2");
    s.env[1] = strdup("B=\xff\xfe z");
    s.env_count = 2;
    s.allow = calloc(1, sizeof *s.allow);
    s.allow[0] = strdup("*.example.org:443");
    s.allow_count = 1;
    s.upstream_ca = strdup("/etc/\xc3\xa4/ca.pem");
    s.policy = strdup("network:\n  rules: []\n");
    s.secrets = calloc(1, sizeof *s.secrets);
    s.secrets[0].name = strdup("TOKEN");
    s.secrets[0].hosts = calloc(2, sizeof *s.secrets[0].hosts);
    s.secrets[0].hosts[0] = strdup("api.example.org");
    s.secrets[0].hosts[1] = strdup("*.example.net");
    s.secrets[0].host_count = 2;
    s.secret_count = 1;
    s.shares = calloc(1, sizeof *s.shares);
    s.shares[0] = (struct bg_share){.id = 3,
                                    .host = strdup("/src/\xff"),
                                    .guest = strdup("/home/app/src"),
                                    .mode = BG_SHARE_RO,
                                    .any_links = true,
                                    .hide = calloc(1, sizeof(char *)),
                                    .hide_count = 1};
    s.shares[0].hide[0] = strdup("*.sqlite");
    s.share_count = 1;
    return s;
}

static size_t entries(const char *dir)
{
    DIR *d = opendir(dir);
    assert_non_null(d);
    size_t count = 0;
    for (const struct dirent *e; (e = readdir(d));)
        count += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    (void)closedir(d);
    return count;
}

static void accepts_only_plain_names(void **state)
{
    (void)state;
    static const char *const good[] = {"a", "0", "web-1", "a.b_c", "amber-otter-41"};
    static const char *const bad[] = {"",    ".",   "..",  "-a",       "_a",  ".new-x", "A",
                                      "a/b", "a b", "a\n", "\xc3\xa4", "a:b", "../a"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(bg_sandbox_name_ok(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(bg_sandbox_name_ok(bad[i]));
    char longest[BG_SANDBOX_NAME_MAX + 2];
    memset(longest, 'a', sizeof longest);
    longest[BG_SANDBOX_NAME_MAX] = '\0';
    assert_true(bg_sandbox_name_ok(longest));
    longest[BG_SANDBOX_NAME_MAX] = 'a';
    longest[BG_SANDBOX_NAME_MAX + 1] = '\0';
    assert_false(bg_sandbox_name_ok(longest));
}

static void loads_what_it_created(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = wanted("web"), back;
    assert_int_equal(bg_sandbox_create(&f->paths, &s, &err), 0);
    assert_int_equal(bg_sandbox_load(&f->paths, "web", &back, &err), 0);
    assert_string_equal(back.id, s.id);
    assert_string_equal(back.name, "web");
    assert_string_equal(back.dir, s.dir);
    assert_true(back.created_ms == s.created_ms && back.created_ms > 0);
    assert_string_equal(back.image_name, "debian");
    assert_string_equal(back.image_digest, DIGEST);
    assert_int_equal(back.cpus, 2);
    assert_true(back.memory_bytes == 512u << 20);
    assert_true(back.ephemeral);
    assert_int_equal(back.env_count, 2);
    assert_string_equal(back.env[0], "A=1=2");
    assert_string_equal(back.env[1], "B=\xff\xfe z");
    assert_int_equal(back.allow_count, 1);
    assert_string_equal(back.allow[0], "*.example.org:443");
    assert_string_equal(back.upstream_ca, "/etc/\xc3\xa4/ca.pem");
    assert_string_equal(back.policy, "network:\n  rules: []\n");
    assert_int_equal(back.secret_count, 1);
    assert_string_equal(back.secrets[0].name, "TOKEN");
    assert_int_equal(back.secrets[0].host_count, 2);
    assert_string_equal(back.secrets[0].hosts[1], "*.example.net");
    assert_string_equal(back.secrets[0].placeholder, s.secrets[0].placeholder);
    assert_int_equal(strlen(back.secrets[0].placeholder), 17 + 64);
    assert_int_equal(back.share_count, 1);
    assert_int_equal(back.shares[0].id, 3);
    assert_string_equal(back.shares[0].host, "/src/\xff");
    assert_string_equal(back.shares[0].guest, "/home/app/src");
    assert_int_equal(back.shares[0].mode, BG_SHARE_RO);
    assert_true(back.shares[0].any_links && !back.shares[0].unguarded);
    assert_int_equal(back.shares[0].hide_count, 1);
    assert_string_equal(back.shares[0].hide[0], "*.sqlite");
    assert_int_equal(back.shares[0].show_count, 0);
    struct stat st;
    assert_int_equal(stat(s.dir, &st), 0);
    assert_int_equal(st.st_mode & 0777, geteuid() == 0 ? 0711 : 0700);
    bg_sandbox_done(&s);
    bg_sandbox_done(&back);
}

static void saves_what_was_changed(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = wanted("web"), back;
    assert_int_equal(bg_sandbox_create(&f->paths, &s, &err), 0);
    size_t before = entries(s.dir);
    free(s.policy);
    s.policy = NULL;
    assert_int_equal(bg_sandbox_save(&s, &err), 0);
    assert_int_equal(entries(s.dir), before);
    assert_int_equal(bg_sandbox_load(&f->paths, "web", &back, &err), 0);
    assert_null(back.policy);
    assert_string_equal(back.id, s.id);
    assert_string_equal(back.secrets[0].placeholder, s.secrets[0].placeholder);
    bg_sandbox_done(&back);
    bg_sandbox_done(&s);
}

/* sandbox.json as a snapshot has it. */
static json_t *config_of(const struct bg_sandbox *s)
{
    BG_AUTOFREE char *text = sandbox_json_emit(s);
    assert_non_null(text);
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    return json;
}

/* A fork of s as it is read back. */
static void fork_of(struct fixture *f, const struct bg_sandbox *s, const char *name,
                    struct bg_sandbox *ret)
{
    struct bg_err err;
    struct bg_sandbox made;
    json_auto_t *json = config_of(s);
    assert_int_equal(bg_sandbox_fork_config(json, name, &made, &err), 0);
    assert_int_equal(bg_sandbox_create(&f->paths, &made, &err), 0);
    assert_int_equal(bg_sandbox_load(&f->paths, made.name, ret, &err), 0);
    assert_string_equal(ret->secrets[0].placeholder, made.secrets[0].placeholder);
    bg_sandbox_done(&made);
}

static void a_fork_is_like_its_source_but_itself(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = wanted("web"), child, grandchild;
    assert_int_equal(bg_sandbox_create(&f->paths, &s, &err), 0);
    fork_of(f, &s, NULL, &child);
    assert_string_not_equal(child.id, s.id);
    assert_string_not_equal(child.name, s.name);
    assert_false(child.ephemeral);
    assert_string_equal(child.image_digest, s.image_digest);
    assert_int_equal(child.cpus, s.cpus);
    assert_true(child.memory_bytes == s.memory_bytes);
    assert_int_equal(child.env_count, 2);
    assert_string_equal(child.env[1], s.env[1]);
    assert_string_equal(child.allow[0], s.allow[0]);
    assert_string_equal(child.upstream_ca, s.upstream_ca);
    assert_string_equal(child.policy, s.policy);
    assert_int_equal(child.share_count, 1);
    assert_string_equal(child.shares[0].host, s.shares[0].host);
    assert_int_equal(child.shares[0].id, 3);
    assert_int_equal(child.secret_count, 1);
    assert_string_equal(child.secrets[0].hosts[1], "*.example.net");
    assert_string_not_equal(child.secrets[0].placeholder, s.secrets[0].placeholder);
    assert_int_equal(child.secrets[0].inherited_count, 1);
    assert_string_equal(child.secrets[0].inherited[0], s.secrets[0].placeholder);

    fork_of(f, &child, "third", &grandchild);
    assert_string_equal(grandchild.name, "third");
    assert_int_equal(grandchild.secrets[0].inherited_count, 2);
    assert_string_equal(grandchild.secrets[0].inherited[0], child.secrets[0].placeholder);
    assert_string_equal(grandchild.secrets[0].inherited[1], s.secrets[0].placeholder);
    bg_sandbox_disinherit(&grandchild);
    assert_int_equal(bg_sandbox_save(&grandchild, &err), 0);
    struct bg_sandbox back;
    assert_int_equal(bg_sandbox_load(&f->paths, "third", &back, &err), 0);
    assert_int_equal(back.secrets[0].inherited_count, 0);
    bg_sandbox_done(&back);
    bg_sandbox_done(&grandchild);
    bg_sandbox_done(&child);
    bg_sandbox_done(&s);
}

static void a_lifetime_begins_with_the_sandbox(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = wanted("web"), back;
    s.ttl_s = 3600;
    s.idle_suspend_s = 60;
    assert_int_equal(bg_sandbox_create(&f->paths, &s, &err), 0);
    assert_int_equal(bg_sandbox_load(&f->paths, "web", &back, &err), 0);
    assert_int_equal(back.ttl_s, 3600);
    assert_int_equal(back.idle_suspend_s, 60);
    assert_true(back.expires_ms == back.created_ms + 3600 * 1000);
    bg_sandbox_done(&back);
    /* A fork's begins with the fork. */
    s.created_ms = 1;
    s.expires_ms = 3600 * 1000 + 1;
    fork_of(f, &s, "fork", &back);
    assert_int_equal(back.ttl_s, 3600);
    assert_int_equal(back.idle_suspend_s, 60);
    assert_true(back.expires_ms == back.created_ms + 3600 * 1000);
    bg_sandbox_done(&back);
    bg_sandbox_done(&s);
}

static void settings_of_before_have_no_lifetime(void **state)
{
    static const char added[] = "\"ttl_s\":0,\"expires_ms\":0,\"idle_suspend_s\":0,";
    (void)state;
    struct bg_err err;
    struct bg_sandbox s = wanted("web"), back;
    memcpy(s.id, "sbx_0123456789abcdefghij", 25);
    memcpy(s.secrets[0].placeholder, SANDBOX_PLACEHOLDER_PREFIX DIGEST, 17 + 65);
    BG_AUTOFREE char *text = sandbox_json_emit(&s);
    assert_non_null(text);
    char *at = strstr(text, added);
    assert_non_null(at);
    memmove(at, at + strlen(added), strlen(at + strlen(added)) + 1);
    assert_int_equal(sandbox_json_parse(text, strlen(text), "web", &back, &err), 0);
    assert_true(back.ttl_s == 0 && back.expires_ms == 0 && back.idle_suspend_s == 0);
    bg_sandbox_done(&back);
    bg_sandbox_done(&s);
}

static void the_machine_id_is_the_sandboxs(void **state)
{
    (void)state;
    struct bg_sandbox one = {.id = "sbx_00000000000000000000"},
                      two = {.id = "sbx_00000000000000000001"};
    uint8_t first[16], again[16], other[16];
    bg_sandbox_machine_id(&one, first);
    bg_sandbox_machine_id(&one, again);
    bg_sandbox_machine_id(&two, other);
    assert_memory_equal(first, again, sizeof first);
    assert_memory_not_equal(first, other, sizeof first);
    assert_int_equal(first[6] >> 4, 4);
    assert_int_equal(first[8] >> 6, 2);
}

static void the_oldest_placeholders_are_not_inherited(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = wanted(NULL);
    assert_int_equal(bg_sandbox_create(&f->paths, &s, &err), 0);
    char first[sizeof s.secrets[0].placeholder], second[sizeof first];
    memcpy(first, s.secrets[0].placeholder, sizeof first);
    for (int i = 0; i < BG_SECRET_INHERITED_MAX + 1; i++) {
        struct bg_sandbox child;
        fork_of(f, &s, NULL, &child);
        bg_sandbox_done(&s);
        s = child;
        if (i == 0)
            memcpy(second, s.secrets[0].placeholder, sizeof second);
    }
    const struct bg_secret_use *use = &s.secrets[0];
    assert_int_equal(use->inherited_count, BG_SECRET_INHERITED_MAX);
    assert_string_equal(use->inherited[BG_SECRET_INHERITED_MAX - 1], second);
    for (size_t i = 0; i < use->inherited_count; i++)
        assert_string_not_equal(use->inherited[i], first);
    bg_sandbox_done(&s);
}

static void a_fork_of_damaged_settings_is_refused(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = wanted("web"), child;
    assert_int_equal(bg_sandbox_create(&f->paths, &s, &err), 0);
    json_auto_t *json = config_of(&s);
    json_t *secret = json_array_get(json_object_get(json, "secrets"), 0);
    json_t *list = json_array();
    assert_int_equal(json_object_set_new(secret, "inherited", list), 0);
    for (int i = 0; i < BG_SECRET_INHERITED_MAX; i++)
        assert_int_equal(json_array_append_new(list, json_string(s.secrets[0].placeholder)), 0);
    assert_int_equal(bg_sandbox_fork_config(json, NULL, &child, &err), 0);
    bg_sandbox_done(&child);
    assert_int_equal(json_array_append_new(list, json_string(s.secrets[0].placeholder)), 0);
    assert_int_equal(bg_sandbox_fork_config(json, NULL, &child, &err), -EINVAL);
    assert_int_equal(json_array_clear(list), 0);
    assert_int_equal(json_array_append_new(list, json_string("BELLGLASS_SECRET_12")), 0);
    assert_int_equal(bg_sandbox_fork_config(json, NULL, &child, &err), -EINVAL);
    assert_int_equal(json_object_del(json, "name"), 0);
    assert_int_equal(bg_sandbox_fork_config(json, NULL, &child, &err), -EINVAL);
    json_auto_t *no_object = json_true();
    assert_int_equal(bg_sandbox_fork_config(no_object, NULL, &child, &err), -EINVAL);
    bg_sandbox_done(&s);
}

static void a_name_is_taken_once(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox a = wanted("web"), b = wanted("web");
    assert_int_equal(bg_sandbox_create(&f->paths, &a, &err), 0);
    assert_int_equal(bg_sandbox_create(&f->paths, &b, &err), -EEXIST);
    assert_non_null(strstr(err.text, "name in use: 'web'"));
    char base[256];
    (void)snprintf(base, sizeof base, "%s/sandboxes", f->paths.state);
    assert_int_equal(entries(base), 1);
    bg_sandbox_done(&a);
    bg_sandbox_done(&b);
}

static void of_racing_creators_one_wins(void **state)
{
    struct fixture *f = *state;
    pid_t children[8];
    int gate[2];
    assert_int_equal(pipe(gate), 0);
    for (size_t i = 0; i < 8; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0) {
            (void)close(gate[1]);
            char byte;
            if (read(gate[0], &byte, 1) < 0)
                _exit(3);
            struct bg_sandbox s = wanted("race");
            struct bg_err err;
            int r = bg_sandbox_create(&f->paths, &s, &err);
            bg_sandbox_done(&s);
            _exit(r == 0 ? 0 : r == -EEXIST ? 1 : 2);
        }
    }
    (void)close(gate[0]);
    (void)close(gate[1]); /* the end of file lets all of them go at once */
    int won = 0, lost = 0;
    for (size_t i = 0; i < 8; i++) {
        int status;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_true(WIFEXITED(status));
        won += WEXITSTATUS(status) == 0;
        lost += WEXITSTATUS(status) == 1;
    }
    assert_int_equal(won, 1);
    assert_int_equal(lost, 7);
}

static void makes_up_names(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    for (int i = 0; i < 20; i++) {
        struct bg_sandbox s = wanted(NULL);
        assert_int_equal(bg_sandbox_create(&f->paths, &s, &err), 0);
        assert_true(bg_sandbox_name_ok(s.name));
        bg_sandbox_done(&s);
    }
    char **names;
    assert_int_equal(bg_sandbox_names(&f->paths, &names, &err), 0);
    size_t count = 0;
    for (; names[count]; count++)
        assert_true(count == 0 || strcmp(names[count - 1], names[count]) < 0);
    assert_int_equal(count, 20);
    bg_sandbox_names_free(names);
}

static void refuses_impossible_names(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = wanted("../x"), back;
    assert_int_equal(bg_sandbox_create(&f->paths, &s, &err), -EINVAL);
    assert_int_equal(bg_sandbox_load(&f->paths, "../x", &back, &err), -ENOENT);
    assert_int_equal(bg_sandbox_load(&f->paths, "nobody", &back, &err), -ENOENT);
    assert_non_null(strstr(err.text, "no sandbox 'nobody': see bellglass ls"));
    bg_sandbox_done(&s);
}

static void refuses_damaged_config(void **state)
{
    (void)state;
    struct bg_err err;
    struct bg_sandbox s = wanted("web"), back;
    memcpy(s.id, "sbx_0123456789abcdefghij", 25);
    memcpy(s.secrets[0].placeholder, SANDBOX_PLACEHOLDER_PREFIX DIGEST, 17 + 65);
    BG_AUTOFREE char *text = sandbox_json_emit(&s);
    assert_non_null(text);
    assert_int_equal(sandbox_json_parse(text, strlen(text), "web", &back, &err), 0);
    bg_sandbox_done(&back);
    assert_int_equal(sandbox_json_parse(text, strlen(text), "other", &back, &err), -EINVAL);
    for (size_t cut = 0; cut < strlen(text); cut++)
        assert_int_equal(sandbox_json_parse(text, cut, "web", &back, &err), -EINVAL);
    static const char *const edits[][2] = {
        {"\"version\":1", "\"version\":2"},
        {"\"version\":1", "\"version\":1,\"extra\":0"},
        {"sbx_0", "sbx_Z"},
        {"sbx_0", "sby_0"},
        {"\"name\":\"web\"", "\"name\":\"wob\""},
        {"\"digest\":\"0", "\"digest\":\"x"},
        {"\"digest\":\"0", "\"digest\":\""},
        {"\"cpus\":2", "\"cpus\":0"},
        {"\"cpus\":2", "\"cpus\":65"},
        {"\"cpus\":2", "\"cpus\":\"2\""},
        {"\"memory_bytes\":", "\"memory_bytes\":-"},
        {"\"memory_bytes\":536870912", "\"memory_bytes\":1"},
        {"\"ttl_s\":0", "\"ttl_s\":-1"},
        {"\"ttl_s\":0", "\"ttl_s\":315360001"},
        {"\"expires_ms\":0", "\"expires_ms\":-1"},
        {"\"idle_suspend_s\":0", "\"idle_suspend_s\":-1"},
        {"\"idle_suspend_s\":0", "\"idle_suspend_s\":315360001"},
        {"\"ephemeral\":true", "\"ephemeral\":1"},
        {"\"A=1=2\"", "\"=A\""},
        {"\"A=1=2\"", "\"A\""},
        {"\"A=1=2\"", "7"},
        {"{\"hex\":\"423d", "{\"hex\":\"423"},
        {"{\"hex\":\"423d", "{\"hex\":\"420023d"},
        {"{\"hex\":\"423d", "{\"hex\":\"42zz"},
        {"{\"hex\":\"423d", "{\"more\":1,\"hex\":\"423d"},
        {"\"allow\":[", "\"allow\":[3,"},
        {"\"network\":{", "\"network\":{\"deny\":[],"},
        {"\"upstream_ca\":\"", "\"upstream_ca\":5,\"x\":\""},
        {"\"secrets\":[", "\"secrets\":[0,"},
        {"BELLGLASS_SECRET_0", "BELLGLASS_SECRET_"},
        {"BELLGLASS_SECRET_0", "BELLGLASS_SECRET_00"},
        {"BELLGLASS_SECRET_0", "BELLGLASS_SECRET_g"},
        {"\"TOKEN\"", "\"\""},
        {"\"shares\":[", "\"shares\":[0,"},
        {"\"id\":3", "\"id\":0"},
        {"\"id\":3", "\"id\":-3"},
        {"\"mode\":\"ro\"", "\"mode\":\"wo\""},
        {"\"guest\":\"/", "\"guest\":\""},
        {"\"hide\":[", "\"hide\":[1,"},
        {"\"unguarded\":false", "\"unguarded\":0"},
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        const char *at = strstr(text, edits[i][0]);
        assert_non_null(at);
        BG_AUTOFREE char *edited = NULL;
        assert_true(asprintf(&edited, "%.*s%s%s", (int)(at - text), text, edits[i][1],
                             at + strlen(edits[i][0])) > 0);
        if (sandbox_json_parse(edited, strlen(edited), "web", &back, &err) != -EINVAL)
            fail_msg("accepted: %s", edited);
    }
    bg_sandbox_done(&s);
}

static void names_a_damaged_sandbox(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = wanted("web"), back;
    assert_int_equal(bg_sandbox_create(&f->paths, &s, &err), 0);
    BG_AUTOFREE char *path = NULL;
    assert_true(asprintf(&path, "%s/sandbox.json", s.dir) > 0);
    assert_int_equal(truncate(path, 10), 0);
    assert_int_equal(bg_sandbox_load(&f->paths, "web", &back, &err), -EUCLEAN);
    assert_int_equal(err.code, -EUCLEAN);
    assert_non_null(strstr(err.text, "sandbox 'web' is damaged: sandbox.json: "));
    assert_non_null(strstr(err.text, "bellglass rm -f web"));
    assert_int_equal(bg_sandbox_locate(&f->paths, "web", &back, &err), 0);
    assert_int_equal(bg_sandbox_remove(&back, &err), 0);
    bg_sandbox_done(&back);
    assert_int_equal(bg_sandbox_locate(&f->paths, "web", &back, &err), -ENOENT);
    bg_sandbox_done(&s);
}

static enum bg_sandbox_state state_of(const struct bg_sandbox *s, int *ret_pid)
{
    enum bg_sandbox_state state;
    struct bg_err err;
    assert_int_equal(bg_sandbox_state(s, &state, ret_pid, &err), 0);
    return state;
}

static void the_lock_decides_what_runs(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = wanted("web");
    int pid, lock, other;
    assert_int_equal(bg_sandbox_create(&f->paths, &s, &err), 0);
    assert_int_equal(state_of(&s, &pid), BG_SANDBOX_STOPPED);
    assert_int_equal(bg_sandbox_lock(&s, &lock, &err), 0);
    assert_int_equal(state_of(&s, &pid), BG_SANDBOX_STARTING);
    assert_int_equal(bg_sandbox_lock(&s, &other, &err), -EBUSY);
    assert_int_equal(bg_sandbox_set_state(&s, BG_SANDBOX_RUNNING, "all \"well\" \xff", &err), 0);
    assert_int_equal(state_of(&s, &pid), BG_SANDBOX_RUNNING);
    assert_int_equal(pid, getpid());
    char reason[BG_ERR_TEXT_SIZE];
    enum bg_sandbox_state noted;
    assert_true(bg_sandbox_noted(&s, &noted, reason));
    assert_int_equal(noted, BG_SANDBOX_RUNNING);
    assert_string_equal(reason, "all \"well\" \\xff");
    (void)close(lock);
    assert_int_equal(state_of(&s, &pid), BG_SANDBOX_CRASHED);
    assert_int_equal(pid, 0);
    assert_int_equal(bg_sandbox_lock(&s, &lock, &err), 0);
    assert_int_equal(bg_sandbox_set_state(&s, BG_SANDBOX_STOPPED, NULL, &err), 0);
    (void)close(lock);
    assert_int_equal(state_of(&s, &pid), BG_SANDBOX_STOPPED);
    BG_AUTOFREE char *path = NULL;
    assert_true(asprintf(&path, "%s/state.json", s.dir) > 0);
    assert_int_equal(truncate(path, 5), 0);
    assert_int_equal(state_of(&s, &pid), BG_SANDBOX_CRASHED);
    bg_sandbox_done(&s);
}

static enum bg_sandbox_use use_of(const struct bg_sandbox *s)
{
    enum bg_sandbox_use use = BG_SANDBOX_UNUSED;
    struct bg_err err;
    assert_int_equal(bg_sandbox_use(s, &use, &err), 0);
    return use;
}

static void the_disk_of_one_that_stands_still_can_be_locked(void **state)
{
    struct fixture *f = *state;
    struct bg_sandbox s = wanted("web");
    struct bg_err err;
    enum bg_sandbox_state what;
    int first, second, other;
    assert_int_equal(bg_sandbox_create(&f->paths, &s, &err), 0);
    assert_int_equal(use_of(&s), BG_SANDBOX_UNUSED);
    /* Many may read, and it neither runs nor can be started meanwhile. */
    assert_int_equal(bg_sandbox_lock_disk(&s, false, &first, &err), 0);
    assert_int_equal(bg_sandbox_lock_disk(&s, false, &second, &err), 0);
    assert_int_equal(use_of(&s), BG_SANDBOX_READ);
    assert_int_equal(bg_sandbox_state(&s, &what, NULL, &err), 0);
    assert_int_equal(what, BG_SANDBOX_STOPPED);
    assert_int_equal(bg_sandbox_lock_disk(&s, true, &other, &err), -EBUSY);
    assert_int_equal(bg_sandbox_lock(&s, &other, &err), -EBUSY);
    assert_non_null(strstr(err.text, "mounted"));
    (void)close(first);
    assert_int_equal(use_of(&s), BG_SANDBOX_READ);
    (void)close(second);
    /* One may write, alone. */
    assert_int_equal(bg_sandbox_lock_disk(&s, true, &first, &err), 0);
    assert_int_equal(use_of(&s), BG_SANDBOX_WRITTEN);
    assert_int_equal(bg_sandbox_state(&s, &what, NULL, &err), 0);
    assert_int_equal(what, BG_SANDBOX_STOPPED);
    assert_int_equal(bg_sandbox_lock_disk(&s, false, &other, &err), -EBUSY);
    assert_int_equal(bg_sandbox_lock(&s, &other, &err), -EBUSY);
    (void)close(first);
    /* Nobody has to do with the disk of one that runs. */
    assert_int_equal(bg_sandbox_lock(&s, &first, &err), 0);
    assert_int_equal(use_of(&s), BG_SANDBOX_OWNED);
    assert_int_equal(bg_sandbox_lock_disk(&s, false, &other, &err), -EBUSY);
    assert_null(strstr(err.text, "mounted"));
    (void)close(first);
    bg_sandbox_done(&s);
}

static void the_lock_lives_with_its_inheritors(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = wanted("web");
    int lock, other, gate[2];
    assert_int_equal(bg_sandbox_create(&f->paths, &s, &err), 0);
    assert_int_equal(bg_sandbox_lock(&s, &lock, &err), 0);
    assert_int_equal(pipe(gate), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)close(gate[1]);
        char byte;
        _exit(read(gate[0], &byte, 1) == 0 ? 0 : 1);
    }
    (void)close(gate[0]);
    (void)close(lock);
    assert_int_equal(bg_sandbox_lock(&s, &other, &err), -EBUSY);
    (void)close(gate[1]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(bg_sandbox_lock(&s, &other, &err), 0);
    (void)close(other);
    bg_sandbox_done(&s);
}

static void a_removed_sandbox_cannot_be_locked(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = wanted("web");
    int lock, other;
    assert_int_equal(bg_sandbox_create(&f->paths, &s, &err), 0);
    BG_AUTOFREE char *below = NULL;
    assert_true(asprintf(&below, "%s/deep", s.dir) > 0);
    assert_int_equal(mkdir(below, 0700), 0);
    assert_int_equal(bg_sandbox_lock(&s, &lock, &err), 0);
    assert_int_equal(bg_sandbox_remove(&s, &err), 0);
    assert_int_equal(access(s.dir, F_OK), -1);
    assert_int_equal(bg_sandbox_lock(&s, &other, &err), -ENOENT);
    enum bg_sandbox_state now;
    assert_int_equal(bg_sandbox_state(&s, &now, NULL, &err), -ENOENT);
    (void)close(lock);
    char base[256];
    (void)snprintf(base, sizeof base, "%s/sandboxes", f->paths.state);
    assert_int_equal(entries(base), 0);
    bg_sandbox_done(&s);
}

static void sweeps_old_leftovers_only(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    size_t count;
    assert_int_equal(bg_sandbox_sweep(&f->paths, &count, &err), 0);
    char base[256], path[512];
    (void)snprintf(base, sizeof base, "%s/sandboxes", f->paths.state);
    static const char *const names[] = {".new-sbx_a", ".old-b", ".new-fresh"};
    struct timespec old[2] = {{.tv_sec = time(NULL) - 3600}, {.tv_sec = time(NULL) - 3600}};
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", base, names[i]);
        assert_int_equal(mkdir(path, 0700), 0);
        if (i < 2)
            assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
    }
    assert_int_equal(bg_sandbox_sweep(&f->paths, &count, &err), 0);
    assert_int_equal(count, 2);
    assert_int_equal(entries(base), 1);
    char **list;
    assert_int_equal(bg_sandbox_names(&f->paths, &list, &err), 0);
    assert_null(list[0]);
    bg_sandbox_names_free(list);
}

static void talks_over_its_socket(const struct bg_paths *paths)
{
    struct bg_err err;
    struct bg_sandbox s = wanted("web");
    int listener, client;
    assert_int_equal(bg_sandbox_create(paths, &s, &err), 0);
    assert_int_equal(bg_sandbox_connect(paths, &s, &client, &err), -ENOTCONN);
    assert_non_null(strstr(err.text, "bellglass start web"));
    for (int i = 0; i < 2; i++) { /* the second time over the dead one */
        assert_int_equal(bg_sandbox_listen(paths, &s, &listener, &err), 0);
        assert_int_equal(bg_sandbox_connect(paths, &s, &client, &err), 0);
        int served = accept(listener, NULL, NULL);
        assert_true(served >= 0);
        assert_int_equal(bg_write_full(served, "x", 1), 0);
        char byte;
        assert_int_equal(bg_read_full(client, &byte, 1), 0);
        BG_AUTOFREE char *path = NULL;
        assert_true(asprintf(&path, "%s/%s.sock", paths->runtime, s.id) > 0);
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        (void)close(served);
        (void)close(client);
        (void)close(listener);
        assert_int_equal(bg_sandbox_connect(paths, &s, &client, &err), -ENOTCONN);
    }
    bg_sandbox_unlisten(paths, &s);
    assert_int_equal(entries(paths->runtime), 0);
    bg_sandbox_done(&s);
}

static void connects(void **state)
{
    struct fixture *f = *state;
    talks_over_its_socket(&f->paths);
}

static void connects_below_a_long_path(void **state)
{
    struct fixture *f = *state;
    char part[121], home[256];
    memset(part, 'x', sizeof part - 1);
    part[sizeof part - 1] = '\0';
    (void)snprintf(home, sizeof home, "%s/%s", f->home, part);
    assert_int_equal(setenv("BELLGLASS_HOME", home, 1), 0);
    struct bg_paths paths;
    struct bg_err err;
    assert_int_equal(bg_paths_init(&paths, &err), 0);
    talks_over_its_socket(&paths);
    bg_paths_done(&paths);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts_only_plain_names),
        cmocka_unit_test_setup_teardown(loads_what_it_created, setup, teardown),
        cmocka_unit_test_setup_teardown(saves_what_was_changed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_fork_is_like_its_source_but_itself, setup, teardown),
        cmocka_unit_test(the_machine_id_is_the_sandboxs),
        cmocka_unit_test_setup_teardown(the_oldest_placeholders_are_not_inherited, setup, teardown),
        cmocka_unit_test_setup_teardown(a_fork_of_damaged_settings_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_name_is_taken_once, setup, teardown),
        cmocka_unit_test_setup_teardown(of_racing_creators_one_wins, setup, teardown),
        cmocka_unit_test_setup_teardown(makes_up_names, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_impossible_names, setup, teardown),
        cmocka_unit_test(refuses_damaged_config),
        cmocka_unit_test(settings_of_before_have_no_lifetime),
        cmocka_unit_test_setup_teardown(a_lifetime_begins_with_the_sandbox, setup, teardown),
        cmocka_unit_test_setup_teardown(names_a_damaged_sandbox, setup, teardown),
        cmocka_unit_test_setup_teardown(the_lock_decides_what_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(the_disk_of_one_that_stands_still_can_be_locked, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_lock_lives_with_its_inheritors, setup, teardown),
        cmocka_unit_test_setup_teardown(a_removed_sandbox_cannot_be_locked, setup, teardown),
        cmocka_unit_test_setup_teardown(sweeps_old_leftovers_only, setup, teardown),
        cmocka_unit_test_setup_teardown(connects, setup, teardown),
        cmocka_unit_test_setup_teardown(connects_below_a_long_path, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
