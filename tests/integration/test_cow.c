/* Copy-on-write shares: a folder of the host that a sandbox changes for itself, and what comes of
 * the changes. */
#include "tests/lib/vm.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A folder like a small project, and a sandbox that has it at /project. */
struct project {
    const char *folder, *sandbox;
};

static struct project project(struct vm *vm)
{
    struct project p = {.folder = vm_path(vm, "project-%s", vm_name(vm))};
    (void)vm_host(vm,
                  "umask 022; mkdir -p %s/src/deep %s/.git/hooks; cd %s; echo one >one; "
                  "echo two >two; printf '1\\n2\\n3\\n' >lines; echo a >src/a; echo b >src/deep/b; "
                  "ln -s one link; echo PASSWORD=1 >.env; echo ref >.git/HEAD",
                  p.folder, p.folder, p.folder);
    p.sandbox = vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/project:cow", p.folder), NULL);
    return p;
}

/* The lines of `diff --stat` without sizes: "M one|A new|". */
static const char *changes(struct vm *vm, const struct project *p)
{
    json_t *shares = vm_json(vm, "diff", "--json", p->sandbox, NULL);
    json_t *list = json_object_get(json_array_get(shares, 0), "changes"), *change;
    char *text = vm_keep(vm, calloc(1, 65536));
    size_t i, used = 0;
    json_array_foreach(list, i, change)
    {
        const char *kind = json_string_value(json_object_get(change, "kind"));
        used += (size_t)snprintf(text + used, 65536 - used, "%s %s%s|", kind,
                                 json_string_value(json_object_get(change, "path")),
                                 json_is_null(json_object_get(change, "conflict")) ? "" : "!");
        assert_true(used < 65536);
    }
    json_decref(shares);
    return text;
}

static void changes_stay_in_the_sandbox_until_they_are_applied(void **state)
{
    struct vm *vm = *state;
    const struct project p = project(vm);
    const char *before = vm_host(vm, "cd %s; find . | sort; cat one two lines src/a", p.folder);
    assert_int_equal(vm_call(vm, "diff", "--exit-code", p.sandbox, NULL)->status, 0);
    (void)vm_guest(vm, p.sandbox,
                   "cd /project; test ! -e .env; echo more >>one; rm two; sed -i s/2/II/ lines; "
                   "mkdir new; echo n >new/n; printf '#!/bin/sh\\n' >new/run; chmod 755 new/run; "
                   "mv src/deep src/moved; chmod 600 src/a");
    assert_string_equal(changes(vm, &p), "modified lines|added new|added new/n|added new/run|"
                                         "modified one|mode src/a|removed src/deep|"
                                         "removed src/deep/b|added src/moved|added src/moved/b|"
                                         "removed two|");
    assert_string_equal(before,
                        vm_host(vm, "cd %s; find . | sort; cat one two lines src/a", p.folder));
    assert_int_equal(vm_call(vm, "diff", "--exit-code", p.sandbox, NULL)->status, 1);
    const char *summary = vm_ok(vm, "diff", p.sandbox, NULL);
    assert_non_null(strstr(summary, "new/run  [executable]"));
    /* The patch is one that git takes. */
    const char *patch = vm_ok(vm, "diff", "-p", p.sandbox, NULL);
    const char *file = vm_path(vm, "patch");
    vm_write(file, patch, strlen(patch));
    assert_string_equal(
        vm_host(vm,
                "cp -a %s %s.copy; cd %s.copy; git apply -p1 %s; cat one lines new/n; test -x "
                "new/run; test ! -e two",
                p.folder, p.folder, p.folder, file),
        "one\nmore\n1\nII\n3\nn\n");
    /* Some of it, then the rest. */
    (void)vm_ok(vm, "apply", "--yes", p.sandbox, "one", "/project/new", NULL);
    assert_string_equal(vm_host(vm, "cd %s; cat one new/n two; stat -c %%a new/run", p.folder),
                        "one\nmore\nn\ntwo\n755\n");
    assert_string_equal(changes(vm, &p), "modified lines|mode src/a|removed src/deep|"
                                         "removed src/deep/b|added src/moved|added src/moved/b|"
                                         "removed two|");
    (void)vm_ok(vm, "apply", "--yes", p.sandbox, NULL);
    assert_string_equal(changes(vm, &p), "");
    assert_string_equal(vm_host(vm, "cd %s; ls -R . ; stat -c %%a src/a", p.folder),
                        vm_guest(vm, p.sandbox, "cd /project; ls -R .; stat -c %%a src/a"));
    /* The guest sees the host's files again, and what becomes of them. */
    (void)vm_host(vm, "cd %s; echo host >>one; echo h >new/h", p.folder);
    assert_int_equal(vm_call(vm, "diff", "--exit-code", p.sandbox, NULL)->status, 0);
    assert_string_equal(vm_guest(vm, p.sandbox,
                                 "cd /project; cat one new/h; sudo ls -A "
                                 "/var/lib/bellglass/cow/1/upper/new"),
                        "one\nmore\nhost\nh\n");
}

static void a_file_that_changed_on_both_sides_is_a_conflict(void **state)
{
    struct vm *vm = *state;
    const struct project p = project(vm);
    (void)vm_guest(vm, p.sandbox,
                   "cd /project; echo guest >one; echo guest >both; rm two; echo x >ok");
    (void)vm_host(vm, "cd %s; echo host >>one; echo host >both; echo host >>two", p.folder);
    assert_string_equal(changes(vm, &p), "modified both!|added ok|modified one!|removed two!|");
    const struct vm_result *r = vm_call(vm, "apply", "--yes", p.sandbox, NULL);
    assert_int_equal(r->status, 1);
    assert_non_null(strstr(r->out, "changed on the host since"));
    assert_string_equal(vm_host(vm, "cd %s; cat one both two ok", p.folder),
                        "one\nhost\nhost\ntwo\nhost\nx\n");
    (void)vm_ok(vm, "apply", "--yes", "--force", p.sandbox, "one", "two", NULL);
    assert_string_equal(vm_host(vm, "cd %s; cat one both; test ! -e two", p.folder),
                        "guest\nhost\n");
    assert_string_equal(changes(vm, &p), "modified both!|");
}

static void discarded_changes_are_gone(void **state)
{
    struct vm *vm = *state;
    const struct project p = project(vm);
    (void)vm_guest(vm, p.sandbox,
                   "cd /project; echo more >>one; rm -r src; mkdir src; echo z >src/z; "
                   "mkdir new; echo n >new/n; rm two");
    (void)vm_ok(vm, "discard", "--yes", p.sandbox, "one", "new", NULL);
    assert_string_equal(
        changes(vm, &p),
        "removed src/a|removed src/deep|removed src/deep/b|added src/z|removed two|");
    /* A file that went with its folder comes back with it. */
    vm_refused(vm, "src/a|discard|src", "discard", "--yes", p.sandbox, "src/a", NULL);
    (void)vm_ok(vm, "discard", "--yes", p.sandbox, NULL);
    assert_string_equal(changes(vm, &p), "");
    assert_string_equal(
        vm_guest(vm, p.sandbox, "cd /project; cat one two src/a src/deep/b; ls src"),
        "one\ntwo\na\nb\na\ndeep\n");
    assert_string_equal(vm_host(vm, "cd %s; cat one two src/a", p.folder), "one\ntwo\na\n");
}

static void dangerous_files_are_marked_and_not_applied_by_the_way(void **state)
{
    struct vm *vm = *state;
    const struct project p = project(vm);
    (void)vm_guest(vm, p.sandbox,
                   "cd /project; ln -s /etc/passwd out; ln -s ../../etc up; ln -s src/a in; "
                   "sudo sh -c 'echo evil >/var/lib/bellglass/cow/1/upper/.env'; echo x >.envrc; "
                   "printf x >\"$(printf 'odd\\033[2Jname')\"; mkfifo pipe; "
                   "printf x >setid; chmod 4755 setid");
    const char *summary = vm_ok(vm, "diff", p.sandbox, NULL);
    assert_null(strchr(summary, '\x1b'));
    assert_non_null(strstr(summary, "out  [link]  [leads out]  -> /etc/passwd"));
    assert_non_null(strstr(summary, "up  [link]  [leads out]"));
    assert_non_null(strstr(summary, "in  [link]  -> src/a"));
    assert_non_null(strstr(summary, ".envrc  [trusted by host tools]"));
    assert_non_null(strstr(summary, "odd\\x1b[2Jname  [odd name]"));
    assert_non_null(strstr(summary, "[special file]"));
    const char *patch = vm_ok(vm, "diff", "-p", p.sandbox, NULL);
    assert_null(strstr(patch, "PASSWORD"));
    assert_int_equal(vm_call(vm, "apply", "--yes", p.sandbox, NULL)->status, 1);
    assert_string_equal(
        vm_host(vm,
                "cd %s; readlink in; cat .env; stat -c %%a setid; test ! -e .envrc; "
                "test ! -L out; test ! -L up; test ! -e pipe",
                p.folder),
        "src/a\nPASSWORD=1\n755\n");
    (void)vm_call(vm, "apply", "--yes", p.sandbox, ".envrc", NULL);
    assert_string_equal(vm_host(vm, "cat %s/.envrc", p.folder), "x\n");
}

static void nothing_is_applied_that_was_not_shown(void **state)
{
    struct vm *vm = *state;
    const struct project p = project(vm);
    (void)vm_guest(vm, p.sandbox, "echo good >/project/one");
    (void)vm_ok(vm, "diff", p.sandbox, NULL);
    (void)vm_guest(vm, p.sandbox, "echo evil >/project/one");
    const struct vm_result *r = vm_call(vm, "apply", "--yes", p.sandbox, NULL);
    assert_int_equal(r->status, 1);
    assert_non_null(strstr(r->err, "changed since"));
    assert_string_equal(vm_host(vm, "cat %s/one", p.folder), "one\n");
    /* Asked on a terminal, the answer counts. */
    struct vm_process *apply =
        vm_start_terminal(vm, 24, 80, (const char *const[]){"apply", p.sandbox, NULL});
    vm_expect(apply, "Write this?");
    vm_send(apply, "n\n", 2);
    assert_int_equal(vm_finish(apply), 1);
    assert_string_equal(vm_host(vm, "cat %s/one", p.folder), "one\n");
    (void)vm_ok(vm, "apply", "--yes", p.sandbox, NULL);
    assert_string_equal(vm_host(vm, "cat %s/one", p.folder), "evil\n");
    vm_refused(vm, "--yes", "apply", p.sandbox, NULL);
}

static void a_file_in_use_stays_in_the_layer(void **state)
{
    struct vm *vm = *state;
    const struct project p = project(vm);
    struct vm_process *user = vm_start(
        vm,
        (const char *const[]){"exec", p.sandbox, "--", "sh", "-c",
                              "cd /project; exec 3>>one; echo first >&3; echo ready; read x; echo "
                              "last >&3; cat one",
                              NULL});
    vm_expect(user, "ready");
    const struct vm_result *r = vm_call(vm, "apply", "--yes", p.sandbox, NULL);
    assert_int_equal(r->status, 0);
    assert_non_null(strstr(r->err, "in use"));
    assert_string_equal(vm_host(vm, "cat %s/one", p.folder), "one\nfirst\n");
    vm_send(user, "go\n", 3);
    vm_expect(user, "last");
    assert_int_equal(vm_finish(user), 0);
    assert_string_equal(changes(vm, &p), "modified one|");
    (void)vm_ok(vm, "apply", "--yes", p.sandbox, NULL);
    assert_string_equal(vm_host(vm, "cat %s/one", p.folder), "one\nfirst\nlast\n");
}

static void the_layer_lives_over_a_stop(void **state)
{
    struct vm *vm = *state;
    const struct project p = project(vm);
    (void)vm_guest(vm, p.sandbox, "echo kept >>/project/one; rm /project/two");
    (void)vm_ok(vm, "stop", "-t", VM_POWER_OFF_S, p.sandbox, NULL);
    vm_refused(vm, p.sandbox, "diff", p.sandbox, NULL);
    (void)vm_host(vm, "echo late >%s/late", p.folder);
    (void)vm_ok(vm, "start", p.sandbox, NULL);
    assert_string_equal(vm_guest(vm, p.sandbox, "cd /project; cat one late; ls"),
                        "one\nkept\nlate\nlate\nlines\nlink\none\nsrc\n");
    assert_string_equal(changes(vm, &p), "modified one|removed two|");
    /* Taken away and shared again it begins anew. */
    (void)vm_ok(vm, "unshare", p.sandbox, "/project", NULL);
    assert_string_equal(
        vm_guest(vm, p.sandbox, "ls -A /project; grep -c /project /proc/mounts || true"), "0\n");
    (void)vm_ok(vm, "share", p.sandbox, vm_text(vm, "%s:/project:cow", p.folder), NULL);
    assert_string_equal(vm_guest(vm, p.sandbox, "cat /project/two"), "two\n");
    assert_string_equal(changes(vm, &p), "");
}

static void what_the_host_does_is_seen(void **state)
{
    struct vm *vm = *state;
    const struct project p = project(vm);
    /* Looked for before it is there; cached as it was; in a folder that has a layer over it. */
    struct vm_process *guest = vm_start(
        vm, (const char *const[]){
                "exec", p.sandbox, "--", "sh", "-c",
                "cd /project; touch src/mine; cat late src/late 2>&1; cat one lines; echo ready; "
                "until test -e late -a -e src/late -a ! -e two && grep -q host one && "
                "grep -q replaced lines; "
                "do sleep 0.2; done; echo seen",
                NULL});
    vm_expect(guest, "ready");
    (void)vm_host(vm,
                  "cd %s; echo late >late; echo late >src/late; echo host >one; rm two; "
                  "echo replaced >new; mv new lines",
                  p.folder);
    vm_expect(guest, "seen");
    assert_int_equal(vm_finish(guest), 0);
    assert_string_equal(changes(vm, &p), "added src/mine|");
}

static void commands_say_what_is_wrong(void **state)
{
    struct vm *vm = *state;
    const char *plain = vm_shared(vm);
    vm_refused(vm, "copy-on-write|:cow", "diff", plain, NULL);
    const struct project p = project(vm);
    vm_refused(vm, "no/such|nothing changed", "apply", "--yes", p.sandbox, "no/such", NULL);
    vm_refused(vm, "none of these paths", "diff", p.sandbox, "/etc", NULL);
    vm_refused(vm, "--patch", "diff", "-p", "--json", p.sandbox, NULL);
}

#define TEST(name) cmocka_unit_test(name)

VM_MAIN(VM_NEEDS_VM | VM_NEEDS_FUSE, TEST(changes_stay_in_the_sandbox_until_they_are_applied),
        TEST(a_file_that_changed_on_both_sides_is_a_conflict), TEST(discarded_changes_are_gone),
        TEST(dangerous_files_are_marked_and_not_applied_by_the_way),
        TEST(nothing_is_applied_that_was_not_shown), TEST(a_file_in_use_stays_in_the_layer),
        TEST(the_layer_lives_over_a_stop), TEST(what_the_host_does_is_seen),
        TEST(commands_say_what_is_wrong))
