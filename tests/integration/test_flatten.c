/* The disk of a sandbox that is snapshotted more often than it may have layers: it is made short
 * again while it runs, every snapshot stays what it was, what nobody needs goes, and whatever dies
 * on the way, the disk is whole. */
#include "tests/lib/vm.h"

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/limits.h"

#define SNAPSHOTS 70
_Static_assert(SNAPSHOTS > BG_DISK_LAYERS_MAX, "more than it may have layers");

/* ---- what is looked at ---- */

static size_t layers(struct vm *vm, const char *s)
{
    const char *path = vm_text(vm, "%s/disk.json", vm_sandbox_dir(vm, s));
    json_auto_t *disk = json_load_file(path, 0, NULL);
    assert_non_null(disk);
    return json_array_size(json_object_get(disk, "layers"));
}

/* No layer lies in its folder but those of its disk, and no process of it keeps one that was
 * removed. */
static void expect_tidy(struct vm *vm, const char *s)
{
    const char *dir = vm_sandbox_dir(vm, s);
    assert_string_equal(
        vm_host(vm, "ls %s | grep '^disk.*qcow2$' | LC_ALL=C sort", dir),
        vm_host(vm, "grep -o 'disk[-0-9a-f]*[.]qcow2' %s/disk.json | LC_ALL=C sort", dir));
}

struct keeper {
    struct vm *vm;
    int pid;
};

static bool keeps_nothing(void *arg)
{
    const struct keeper *k = arg;
    return !strstr(vm_host(k->vm, "ls -l /proc/%d/fd 2>/dev/null || true", k->pid), "(deleted)");
}

/* The flattening's answer does not wait for QEMU to have closed what it was told to. */
static void expect_nothing_kept(struct vm *vm, const char *s)
{
    static const char *const fields[] = {"qemu_pid", "supervisor_pid", "launcher_pid"};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        struct keeper keeper = {vm, vm_pid(vm, s, fields[i])};
        vm_wait(vm_text(vm, "%s keeps no file that was removed", fields[i]), keeps_nothing,
                &keeper);
    }
}

struct wanted {
    struct vm *vm;
    const char *name;
    size_t at_most;
};

static bool is_short(void *arg)
{
    const struct wanted *wanted = arg;
    return layers(wanted->vm, wanted->name) <= wanted->at_most;
}

static void wait_short(struct vm *vm, const char *s, size_t at_most)
{
    struct wanted wanted = {vm, s, at_most};
    vm_wait("the disk to be flattened", is_short, &wanted);
}

/* Its files, and what they hold on the disk: memory that a fork has of them does not count. */
static const char *sums(struct vm *vm, const char *s)
{
    return vm_guest(vm, s,
                    "sync; for f in file*; do echo $f; dd if=$f iflag=direct bs=1M 2>/dev/null | "
                    "sha256sum; done");
}

/* New blocks, and some of those before once more. */
static void add_blocks(struct vm *vm, const char *s, int number)
{
    (void)vm_guest(vm, s,
                   "put() { dd if=/dev/urandom of=file bs=4096 count=$1 seek=$2 conv=notrunc "
                   "2>/dev/null; }; put 24 %d; put 3 %d; sync",
                   number * 24, number * 5);
}

/* What is forked from the snapshot has just these files. */
static void expect_fork(struct vm *vm, const char *snapshot, const char *want)
{
    const char *child = vm_name(vm);
    (void)vm_ok(vm, "fork", snapshot, child, NULL);
    assert_string_equal(sums(vm, child), want);
    (void)vm_ok(vm, "rm", "--force", child, NULL);
}

/* The sandbox does not stand on most of its snapshots any more, but they are still its own. */
static void expect_not_prunable(struct vm *vm)
{
    json_auto_t *found = vm_json(vm, "prune", "--json", "--all-snapshots", NULL);
    BG_AUTOFREE char *text = json_dumps(found, JSON_COMPACT);
    assert_non_null(text);
    assert_null(strchr(text, '@'));
}

/* ---- tests ---- */

static void a_disk_stays_short(void **state)
{
    struct vm *vm = *state;
    static const int kept[] = {1, 24, 25, 40, SNAPSHOTS};
    const char *want[sizeof kept / sizeof *kept] = {NULL};
    const char *s = vm_sandbox(vm), *fork = vm_name(vm), *forked = NULL, *fork_disk = NULL;
    size_t longest = 0, shortest = SIZE_MAX;
    for (int i = 1; i <= SNAPSHOTS; i++) {
        add_blocks(vm, s, i);
        (void)vm_ok(vm, "snapshot", s, vm_text(vm, "s%d", i), NULL);
        for (size_t k = 0; k < sizeof kept / sizeof *kept; k++)
            if (kept[k] == i)
                want[k] = sums(vm, s);
        if (i == 12) { /* a sandbox that stands on layers which will be copied */
            (void)vm_ok(vm, "fork", vm_text(vm, "%s@s12", s), fork, NULL);
            forked = sums(vm, fork);
            fork_disk = vm_host(vm, "cat %s/disk.json", vm_sandbox_dir(vm, fork));
        }
        size_t now = layers(vm, s);
        longest = now > longest ? now : longest;
        if (i > BG_FLATTEN_LAYERS && now < shortest)
            shortest = now;
    }
    assert_true(longest <= BG_DISK_LAYERS_MAX && shortest < BG_FLATTEN_LAYERS);
    wait_short(vm, s, BG_FLATTEN_LAYERS);
    expect_not_prunable(vm);

    /* Each is as it was: of before the first time, and of later ones. */
    for (size_t k = 0; k < sizeof kept / sizeof *kept; k++)
        expect_fork(vm, vm_text(vm, "%s@s%d", s, kept[k]), want[k]);
    assert_string_equal(sums(vm, s), want[sizeof kept / sizeof *kept - 1]);
    assert_string_equal(vm_host(vm, "cat %s/disk.json", vm_sandbox_dir(vm, fork)), fork_disk);
    assert_string_equal(sums(vm, fork), forked);
    (void)vm_ok(vm, "rm", "--force", fork, NULL);

    /* Going back, and going on from there. */
    (void)vm_ok(vm, "restore", "-y", vm_text(vm, "%s@s24", s), NULL);
    assert_string_equal(sums(vm, s), want[1]);
    (void)vm_ok(vm, "restore", "-y", vm_text(vm, "%s@s%d", s, SNAPSHOTS), NULL);
    assert_string_equal(sums(vm, s), want[sizeof kept / sizeof *kept - 1]);

    /* Its disk again, as long as it was; now somebody asks. */
    size_t before = layers(vm, s);
    json_auto_t *answer = vm_json(vm, "flatten", "--json", s, NULL);
    json_t *entry = json_array_get(answer, 0);
    assert_string_equal(json_string_value(json_object_get(entry, "name")), s);
    assert_int_equal(json_integer_value(json_object_get(entry, "layers_before")), before);
    assert_int_equal(json_integer_value(json_object_get(entry, "layers")), 2);
    assert_int_equal(layers(vm, s), 2);
    expect_tidy(vm, s);
    assert_string_equal(sums(vm, s), want[sizeof kept / sizeof *kept - 1]);

    /* Without its snapshots it takes the room of its files, and not that of all they were. */
    for (int i = 1; i <= SNAPSHOTS; i++)
        (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@s%d", s, i), NULL);
    expect_nothing_kept(vm, s);
    long kib =
        strtol(vm_host(vm, "du -k -c %s/*.qcow2 | tail -n 1", vm_sandbox_dir(vm, s)), NULL, 10);
    assert_true(kib > SNAPSHOTS * 96 && kib < SNAPSHOTS * 400);

    /* From the disk alone. */
    (void)vm_ok(vm, "stop", s, NULL);
    (void)vm_ok(vm, "start", s, NULL);
    assert_string_equal(sums(vm, s), want[sizeof kept / sizeof *kept - 1]);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

/* Puts empty layers below its top, until the disk has as many as it may have. */
static void make_long(struct vm *vm, const char *s)
{
    const char *path = vm_text(vm, "%s/disk.json", vm_sandbox_dir(vm, s));
    json_auto_t *disk = json_load_file(path, 0, NULL);
    json_t *list = json_object_get(disk, "layers");
    for (unsigned n = 0; json_array_size(list) < BG_DISK_LAYERS_MAX; n++) {
        const char *id = vm_text(vm, "%016x", n), *file = vm_text(vm, "disk-%s.qcow2", id);
        (void)vm_host(vm, "cp %s/data/snapshots/%s/child.qcow2 %s/%s", vm->home,
                      json_string_value(json_object_get(disk, "golden")), vm_sandbox_dir(vm, s),
                      file);
        assert_int_equal(json_array_insert_new(list, json_array_size(list) - 1,
                                               json_pack("{s:s, s:s}", "id", id, "file", file)),
                         0);
    }
    assert_int_equal(json_dump_file(disk, path, JSON_COMPACT), 0);
}

/* Snapshots were faster, or it never ran for long: with no room for another layer it is flattened
 * at its start, and a snapshot waits for that. */
static void a_disk_that_is_full_of_layers_takes_a_snapshot(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    add_blocks(vm, s, 1);
    const char *want = sums(vm, s);
    (void)vm_ok(vm, "stop", s, NULL);
    make_long(vm, s);
    vm_refused(vm, "64 layers|bellglass flatten", "snapshot", s, NULL);
    (void)vm_ok(vm, "start", s, NULL);
    (void)vm_ok(vm, "snapshot", s, "full", NULL);
    wait_short(vm, s, 3);
    expect_tidy(vm, s);
    assert_string_equal(sums(vm, s), want);
    expect_fork(vm, vm_text(vm, "%s@full", s), want);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

/* Programs write, and snapshots are taken, while it is done. */
static void the_guest_goes_on_meanwhile(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    for (int i = 1; i <= 3; i++) {
        (void)vm_guest(vm, s, "head -c 12000000 /dev/urandom >file%d; sync", i);
        (void)vm_ok(vm, "snapshot", s, NULL);
    }
    const char *before = sums(vm, s);
    (void)vm_guest(
        vm, s,
        "setsid sh -c 'i=0; while [ ! -e end ]; do i=$((i+1)); head -c 50000 "
        "/dev/urandom >w.new; sha256sum <w.new >w.sum; cp w.new \"w$((i%%5))\"; cp w.sum "
        "\"w$((i%%5)).sum\"; sync; done; touch ended' >/dev/null 2>&1 </dev/null &");
    for (int i = 0; i < 3; i++) {
        const char *argv[] = {"flatten", s, NULL};
        struct vm_process *flatten = vm_start(vm, argv);
        (void)vm_ok(vm, "snapshot", s, NULL);
        assert_int_equal(vm_finish(flatten), 0);
        assert_true(layers(vm, s) <= 3);
        /* Whatever is frozen can be read by others. */
        expect_fork(vm, vm_text(vm, "%s@%d", s, i + 4), before);
    }
    (void)vm_guest(vm, s, "touch end; until [ -e ended ]; do sleep 0.2; done");
    assert_string_equal(sums(vm, s), before);
    (void)vm_guest(vm, s,
                   "for i in 0 1 2 3 4; do [ ! -e w$i ] || sha256sum <w$i | cmp - w$i.sum; done");
    /* Whether the last one's snapshot came before its flattening or after. */
    (void)vm_ok(vm, "flatten", s, NULL);
    (void)vm_ok(vm, "snapshot", s, NULL);
    assert_string_equal(vm_ok(vm, "flatten", s, NULL), vm_text(vm, "%s: 2 layers, 3 before\n", s));
    assert_string_equal(vm_ok(vm, "flatten", s, NULL),
                        vm_text(vm, "%s: flat already, 2 layers\n", s));
    /* Nor does it hold up a suspend: it is done, or is not. */
    (void)vm_ok(vm, "snapshot", s, NULL);
    const char *argv[] = {"flatten", s, NULL};
    struct vm_process *flatten = vm_start(vm, argv);
    (void)vm_ok(vm, "suspend", s, NULL);
    (void)vm_finish(flatten); /* whichever */
    assert_string_equal(sums(vm, s), before);
    expect_tidy(vm, s);
    (void)vm_ok(vm, "stop", s, NULL);
    vm_refused(vm, vm_text(vm, "%s|not running|bellglass start", s), "flatten", s, NULL);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

/* ---- faults ---- */

/* A sandbox with a disk of four layers and a program that runs; those that are forked from it have
 * the fault in their processes' environment. */
static const char *fork_with(struct vm *vm, const char *snapshot, const char *fault)
{
    const char *child = vm_name(vm);
    assert_int_equal(setenv("BELLGLASS_FAULT", fault, 1), 0);
    (void)vm_ok(vm, "fork", snapshot, child, NULL);
    assert_int_equal(unsetenv("BELLGLASS_FAULT"), 0);
    return child;
}

static const char *make_source(struct vm *vm, const char **ret_want)
{
    const char *s = vm_sandbox(vm);
    for (int i = 1; i <= 3; i++) {
        add_blocks(vm, s, i);
        (void)vm_ok(vm, "snapshot", s, vm_text(vm, "s%d", i), NULL);
    }
    *ret_want = sums(vm, s);
    return s;
}

/* What the fault ends, and what is then said. */
enum end { ENDS_SANDBOX, ENDS_FLATTENING };

static void one_fault(struct vm *vm, const char *source, const char *want, const char *fault,
                      enum end end)
{
    const char *s = fork_with(vm, vm_text(vm, "%s@s3", source), fault);
    const char *source_disk = vm_host(vm, "cat %s/disk.json", vm_sandbox_dir(vm, source));
    (void)vm_guest(vm, s, "echo mine >file.mine; sync");
    const char *mine = sums(vm, s);
    assert_int_not_equal(vm_call(vm, "flatten", s, NULL)->status, 0);
    if (end == ENDS_SANDBOX) {
        vm_wait_state(vm, s, "crashed");
        (void)vm_ok(vm, "start", s, NULL);
        expect_tidy(vm, s);
        /* It can be had at the next try: by processes without the fault. */
        (void)vm_ok(vm, "snapshot", s, "again", NULL);
        (void)vm_ok(vm, "flatten", s, NULL);
        assert_int_equal(layers(vm, s), 2);
        (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@again", s), NULL);
    } else {
        assert_string_equal(vm_state(vm, s), "running");
        assert_int_equal(layers(vm, s), 4);
    }
    expect_tidy(vm, s);
    assert_string_equal(sums(vm, s), mine);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
    assert_string_equal(vm_host(vm, "cat %s/disk.json", vm_sandbox_dir(vm, source)), source_disk);
    assert_string_equal(sums(vm, source), want);
}

static void a_process_dies(void **state)
{
    struct vm *vm = *state;
    static const char *const points[] = {
        "flatten-begun",  "flatten-put",           "flatten-noted",
        "flatten-tidied", "flatten-copying",       "flatten-copied",
        "flatten-used",   "flatten-copying=CHILD", "flatten-copied=CHILD"};
    const char *want, *source = make_source(vm, &want);
    for (size_t i = 0; i < sizeof points / sizeof *points; i++)
        one_fault(vm, source, want, points[i], ENDS_SANDBOX);
    one_fault(vm, source, want, "flatten-synced", ENDS_FLATTENING);
    (void)vm_ok(vm, "rm", "--force", source, NULL);
}

/* One that is never started again is tidied by doctor. */
static void doctor_finds_the_file_of_a_killed_one(void **state)
{
    struct vm *vm = *state;
    const char *want, *source = make_source(vm, &want);
    const char *s = fork_with(vm, vm_text(vm, "%s@s3", source), "flatten-begun");
    const char *dir = vm_sandbox_dir(vm, s);
    assert_int_not_equal(vm_call(vm, "flatten", s, NULL)->status, 0);
    vm_wait_state(vm, s, "crashed");
    assert_string_equal(vm_host(vm, "ls %s/disk*.qcow2 | wc -l", dir), "5\n");
    const char *told = vm_call(vm, "doctor", NULL)->out;
    assert_non_null(strstr(told, "1 disks with layers that are not theirs"));
    assert_string_equal(vm_host(vm, "ls %s/disk*.qcow2 | wc -l", dir), "5\n");
    (void)vm_call(vm, "doctor", "--fix", NULL);
    expect_tidy(vm, s);
    assert_non_null(strstr(vm_call(vm, "doctor", NULL)->out, "nothing was left behind"));
    (void)vm_ok(vm, "rm", "--force", s, NULL);
    (void)vm_ok(vm, "rm", "--force", source, NULL);
}

static void a_write_fails(void **state)
{
    struct vm *vm = *state;
    static const char *const points[] = {"flatten-begun=ENOSPC", "flatten-copied=EIO",
                                         "flatten-synced=ENOSPC", "flatten-put=ENOSPC"};
    const char *want, *source = make_source(vm, &want);
    for (size_t i = 0; i < sizeof points / sizeof *points; i++)
        one_fault(vm, source, want, points[i], ENDS_FLATTENING);
    (void)vm_ok(vm, "rm", "--force", source, NULL);
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(a_disk_stays_short),
        cmocka_unit_test(a_disk_that_is_full_of_layers_takes_a_snapshot),
        cmocka_unit_test(the_guest_goes_on_meanwhile), cmocka_unit_test(a_process_dies),
        cmocka_unit_test(a_write_fails), cmocka_unit_test(doctor_finds_the_file_of_a_killed_one))
