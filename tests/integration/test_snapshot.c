/* Snapshots of a sandbox that runs, and what comes of them: the guest's memory, file and mapping
 * are those of one instant in every child, and the parent goes on. */
#include "tests/lib/vm.h"

#include <string.h>
#include <unistd.h>

#include "tests/lib/oracle.h"

static void memory_file_and_mapping_are_of_one_instant(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    oracle_start(vm, s, 0);
    long before = oracle_ask(vm, s);
    json_auto_t *taken = vm_json(vm, "snapshot", "--json", s, "one", NULL);
    assert_true(json_integer_value(json_object_get(taken, "pause_ms")) > 0);
    assert_true(json_integer_value(json_object_get(taken, "dirty_bytes")) > 0);
    long after = oracle_ask(vm, s); /* the parent goes on */
    assert_true(after > before);
    (void)vm_ok(vm, "snapshot", s, "two", NULL);
    const char *first = vm_name(vm), *second = vm_name(vm), *third = vm_name(vm);
    (void)vm_ok(vm, "fork", vm_text(vm, "%s@one", s), first, NULL);
    (void)vm_ok(vm, "fork", vm_text(vm, "%s@two", s), second, third, NULL);
    assert_true(oracle_ask(vm, first) >= before);
    assert_true(oracle_ask(vm, second) >= after);
    assert_true(oracle_ask(vm, third) >= after);
    assert_string_equal(vm_guest(vm, first, "hostname"), vm_text(vm, "%s\n", first));
    /* A child of a child, and the parent's own disk is not the child's. */
    (void)vm_guest(vm, first, "echo child >mark");
    const char *grandchild = vm_name(vm);
    (void)vm_ok(vm, "fork", first, grandchild, NULL);
    (void)oracle_ask(vm, grandchild);
    assert_string_equal(vm_guest(vm, grandchild, "cat mark"), "child\n");
    assert_string_equal(vm_guest(vm, s, "ls mark 2>&1 || true"),
                        "ls: cannot access 'mark': No such file or directory\n");
    (void)vm_ok(vm, "rm", "--force", s, first, NULL);
    (void)oracle_ask(vm, grandchild); /* what it stands on is its own too */
    (void)vm_ok(vm, "rm", "--force", second, third, grandchild, NULL);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@one", s), vm_text(vm, "%s@two", s), NULL);
}

static void suspended_and_resumed(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    oracle_start(vm, s, 0);
    long before = oracle_ask(vm, s);
    const char *id = vm_guest(vm, s, "cat /etc/machine-id");
    for (int i = 0; i < 2; i++) {
        int qemu = vm_pid(vm, s, "qemu_pid");
        (void)vm_ok(vm, "suspend", s, NULL);
        assert_string_equal(vm_state(vm, s), "suspended");
        vm_wait_gone(qemu);
        (void)vm_ok(vm, "resume", s, NULL);
        assert_string_equal(vm_state(vm, s), "running");
        long after = oracle_ask(vm, s);
        assert_true(after >= before);
        before = after;
        assert_string_equal(vm_guest(vm, s, "cat /etc/machine-id"), id);
    }
    /* A fork of one that sleeps, which goes on sleeping. */
    (void)vm_ok(vm, "suspend", s, NULL);
    const char *child = vm_name(vm);
    (void)vm_ok(vm, "fork", s, child, NULL);
    assert_string_equal(vm_state(vm, s), "suspended");
    assert_true(oracle_ask(vm, child) >= before);
    (void)vm_ok(vm, "start", s, NULL);
    assert_true(oracle_ask(vm, s) >= before);
    /* From its disk, whatever there is in memory. */
    (void)vm_ok(vm, "suspend", s, NULL);
    (void)vm_ok(vm, "start", "--cold", s, NULL);
    assert_string_equal(vm_guest(vm, s, "pgrep -c python3 || true"), "0\n");
    (void)vm_ok(vm, "rm", "--force", s, child, NULL);
}

static void goes_back_in_place(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_guest(vm, s, "echo first >file; sleep 100000 >/dev/null 2>&1 </dev/null & ");
    (void)vm_ok(vm, "snapshot", s, "first", "--note", "before all", NULL);
    (void)vm_guest(vm, s, "echo second >file; pkill sleep");
    (void)vm_ok(vm, "restore", s, "first", NULL);
    assert_string_equal(vm_guest(vm, s, "cat file; pgrep -c sleep"), "first\n1\n");
    vm_refused(vm, "first|use", "snapshot", "-q", s, "first", NULL);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@first", s), NULL);
}

static void one_that_was_booted_cold(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_ok(vm, "stop", s, NULL);
    (void)vm_ok(vm, "start", s, NULL);
    oracle_start(vm, s, 0);
    (void)vm_ok(vm, "snapshot", s, "cold", NULL);
    const char *child = vm_name(vm), *grandchild = vm_name(vm);
    (void)vm_ok(vm, "fork", vm_text(vm, "%s@cold", s), child, NULL);
    (void)oracle_ask(vm, child);
    (void)vm_ok(vm, "fork", child, grandchild, NULL);
    (void)oracle_ask(vm, grandchild);
    (void)oracle_ask(vm, s);
    (void)vm_ok(vm, "rm", "--force", s, child, grandchild, NULL);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@cold", s), NULL);
}

/* What boots from it finds a file system at rest, though the sandbox wrote all the while and does
 * so still. */
static void a_disk_alone_needs_no_journal(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm), *child = vm_name(vm);
    (void)vm_guest(vm, s,
                   "setsid sh -c 'while :; do date >>busy; mv busy b; mv b busy; done' "
                   ">/dev/null 2>&1 </dev/null & until test -s busy; do sleep 0.1; done");
    (void)vm_ok(vm, "snapshot", "--disk-only", s, "disk", NULL);
    (void)vm_guest(vm, s,
                   "n=$(until cat busy 2>/dev/null; do :; done | wc -c); until [ $(cat busy b "
                   "2>/dev/null | wc -c) -gt $n ]; "
                   "do sleep 0.1; done");
    (void)vm_ok(vm, "fork", vm_text(vm, "%s@disk", s), child, NULL);
    const char *log = vm_guest(vm, child, "sudo dmesg | grep EXT4");
    assert_non_null(strstr(log, "mounted"));
    assert_null(strstr(log, "recovery"));
    (void)vm_guest(vm, child, "test -s busy || test -s b");
    (void)vm_ok(vm, "rm", "--force", s, child, NULL);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@disk", s), NULL);
}

/* Its files as they were, while the sandbox has gone on, and by the same folder mount of what runs.
 */
static void its_files_are_here(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_guest(vm, s, "mkdir d; echo then >d/file");
    (void)vm_ok(vm, "snapshot", s, "then", NULL);
    (void)vm_guest(vm, s, "echo now >d/file");
    (void)vm_ok(vm, "snapshot", "--disk-only", s, "now", NULL);
    const char *then = vm_text(vm, "%s@then", s), *now = vm_text(vm, "%s@now", s);
    const char *copy = vm_path(vm, "copy"), *m = vm_path(vm, "mnt");
    (void)vm_ok(vm, "cp", vm_text(vm, "%s:d", then), copy, NULL);
    assert_string_equal(vm_host(vm, "cat %s/file", copy), "then\n");
    vm_refused(vm, "does not change", "cp", copy, vm_text(vm, "%s:x", then), NULL);
    (void)vm_host(vm, "mkdir %s", m);
    vm_refused(vm, "read-only", "mount", "--rw", then, m, NULL);
    (void)vm_ok(vm, "mount", vm_text(vm, "%s:/home/app", now), m, NULL);
    assert_string_equal(vm_host(vm, "cat %s/d/file; ! echo x 2>/dev/null >%s/d/file", m, m),
                        "now\n");
    (void)vm_ok(vm, "umount", m, NULL);
    /* A disk alone is booted by its forks. */
    const char *child = vm_name(vm);
    (void)vm_ok(vm, "fork", now, child, NULL);
    assert_string_equal(vm_guest(vm, child, "cat d/file; hostname"),
                        vm_text(vm, "now\n%s\n", child));
    (void)vm_ok(vm, "rm", "--force", s, child, NULL);
    (void)vm_ok(vm, "snapshot", "rm", then, now, NULL);
}

#define LOAD_SNAPSHOTS 50
#define LOAD_FORK_EACH 10

static const char load[] =
    "set -e\n"
    "cat >db.py <<'END'\n"
    "import sqlite3\n"
    "db = sqlite3.connect('db', isolation_level=None)\n"
    "db.execute('create table if not exists t (n integer primary key, square integer)')\n"
    "n = 0\n"
    "while True:\n"
    "    db.execute('begin')\n"
    "    for i in range(10):\n"
    "        db.execute('insert into t values (?, ?)', (n, n * n))\n"
    "        n += 1\n"
    "    db.execute('commit')\n"
    "END\n"
    "git init -q r\n"
    "git -C r config user.name n\n"
    "git -C r config user.email e\n"
    "setsid python3 db.py >db.log 2>&1 </dev/null &\n"
    "setsid sh -c 'n=0; while :; do n=$((n+1)); echo $n >r/file; git -C r add file; git -C r "
    "commit "
    "-qm $n; done' >git.log 2>&1 </dev/null &\n"
    "until [ -s db ] && git -C r log -1 >/dev/null 2>&1; do sleep 0.2; done\n";

static const char look[] =
    "git -C r fsck --strict && test -z \"$(cat git.log)\" && python3 -c \"\n"
    "import sqlite3\n"
    "db = sqlite3.connect('db')\n"
    "print(db.execute('pragma integrity_check').fetchone()[0])\n"
    "n, wrong = db.execute('select count(*), sum(square != n * n) from t').fetchone()\n"
    "assert n > 0 and n % 10 == 0 and wrong == 0, (n, wrong)\n"
    "\" && test ! -s db.log";

static void a_database_and_a_repository_under_load(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_guest(vm, s, "%s", load);
    for (int i = 1; i <= LOAD_SNAPSHOTS; i++) {
        const char *tag = vm_text(vm, "l%d", i);
        (void)vm_ok(vm, "snapshot", s, tag, NULL);
        if (i % LOAD_FORK_EACH == 0) {
            const char *child = vm_name(vm);
            (void)vm_ok(vm, "fork", vm_text(vm, "%s@%s", s, tag), child, NULL);
            (void)vm_guest(vm, child,
                           "pkill -f '[d]b.py'; pkill -f 'n=[0]'; while pgrep -x git || pgrep -f "
                           "'[d]b.py'; do sleep 0.1; done >/dev/null; %s",
                           look);
            (void)vm_ok(vm, "rm", "--force", child, NULL);
        }
        (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@%s", s, tag), NULL);
    }
    (void)vm_guest(vm, s,
                   "pkill -f '[d]b.py'; pkill -f 'n=[0]'; while pgrep -x git || pgrep -f "
                   "'[d]b.py'; do sleep 0.1; done >/dev/null; %s",
                   look);
    (void)vm_ok(vm, "stop", "-t", VM_POWER_OFF_S, s, NULL);
    (void)vm_ok(vm, "start", s, NULL); /* its disk alone, after fifty new tops */
    (void)vm_guest(vm, s, "%s", look);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

VM_MAIN(VM_NEEDS_VM | VM_NEEDS_FUSE, cmocka_unit_test(memory_file_and_mapping_are_of_one_instant),
        cmocka_unit_test(suspended_and_resumed), cmocka_unit_test(goes_back_in_place),
        cmocka_unit_test(one_that_was_booted_cold), cmocka_unit_test(a_disk_alone_needs_no_journal),
        cmocka_unit_test(its_files_are_here),
        cmocka_unit_test(a_database_and_a_repository_under_load))
