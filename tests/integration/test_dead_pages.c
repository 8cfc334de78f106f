/* What a guest has freed is not saved, and what it has not freed is: files in memory come and go
 * between snapshots, and whatever stands on one of them finds its memory as it was. */
#include "tests/lib/vm.h"

#include <string.h>

#include "tests/lib/oracle.h"

#define FILE_MIB 120
#define SMALL_MIB                                                                                  \
    30 /* what a guest that does nothing else writes, and pages that it keeps for itself */

static long long written_by(struct vm *vm, const char *s, const char *tag)
{
    json_auto_t *taken = vm_json(vm, "snapshot", "--json", s, tag, NULL);
    return json_integer_value(json_object_get(taken, "written_bytes")) >> 20;
}

/* Fills memory with what no other call has; returns its checksum. */
static const char *fill(struct vm *vm, const char *s)
{
    return vm_guest(vm, s, "head -c %dM /dev/urandom >/dev/shm/file; sha256sum </dev/shm/file",
                    FILE_MIB);
}

static void clear(struct vm *vm, const char *s)
{
    (void)vm_guest(vm, s, "rm /dev/shm/file");
}

/* The kernel gives out its free pages: it believes of those that it has cleared, and of new ones,
 * that they are zeros. */
static void memory_is_sane(struct vm *vm, const char *s)
{
    (void)oracle_ask(vm, s);
    assert_string_equal(
        vm_guest(vm, s, "python3 -c 'print(bytearray(%d << 20).count(0) >> 20)'", FILE_MIB),
        vm_text(vm, "%d\n", FILE_MIB));
    assert_string_equal(vm_guest(vm, s, "sudo dmesg --level=err,crit,alert,emerg"), "");
}

/* What it writes now is where dead pages were. */
static void sum_again(struct vm *vm, const char *s)
{
    const char *sum = fill(vm, s);
    assert_string_equal(vm_guest(vm, s, "sha256sum </dev/shm/file"), sum);
}

static void freed_again_and_again(struct vm *vm, const char *s)
{
    oracle_start(vm, s, 20);
    fill(vm, s);
    clear(vm, s);
    assert_in_range(written_by(vm, s, "freed"), 0, SMALL_MIB);
    const char *sum = fill(vm, s);
    assert_in_range(written_by(vm, s, "full"), FILE_MIB, FILE_MIB + SMALL_MIB);
    clear(vm, s); /* zeros over what the last layer has */
    assert_in_range(written_by(vm, s, "gone"), 0, SMALL_MIB);
    memory_is_sane(vm, s);
    const char *child = vm_name(vm);
    (void)vm_ok(vm, "fork", vm_text(vm, "%s@full", s), child, NULL);
    assert_string_equal(vm_guest(vm, child, "sha256sum </dev/shm/file"), sum);
    (void)vm_ok(vm, "rm", "--force", child, NULL);
    (void)vm_ok(vm, "fork", vm_text(vm, "%s@gone", s), child, NULL);
    memory_is_sane(vm, child);
    sum_again(vm, child);
    (void)vm_ok(vm, "rm", "--force", child, NULL);
    (void)vm_ok(vm, "restore", s, "full", NULL);
    assert_string_equal(vm_guest(vm, s, "sha256sum </dev/shm/file"), sum);
    clear(vm, s);
    memory_is_sane(vm, s);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@freed", s), vm_text(vm, "%s@full", s),
                vm_text(vm, "%s@gone", s), NULL);
}

static void of_a_fork(void **state)
{
    struct vm *vm = *state;
    freed_again_and_again(vm, vm_sandbox(vm));
}

/* Large pages go back to the processor's own list first, which must not keep many. */
static void of_a_program_that_ended(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox_with(vm, "--memory", "1G", NULL);
    (void)vm_guest(vm, s, "python3 -c 'b = bytearray(b\"x\") * (%d << 20)'", 2 * FILE_MIB);
    assert_in_range(written_by(vm, s, "ended"), 0, SMALL_MIB);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@ended", s), NULL);
}

/* RAM on both sides of the hole below 4 GiB, in which a page's number is not its place in RAM. */
static void of_a_large_one(void **state)
{
    struct vm *vm = *state;
    freed_again_and_again(vm, vm_sandbox_with(vm, "--memory", "4G", NULL));
}

static void of_one_that_was_booted_cold(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    (void)vm_ok(vm, "stop", s, NULL);
    (void)vm_ok(vm, "start", s, NULL);
    fill(vm, s);
    const char *sum = vm_guest(vm, s,
                               "head -c 20M /dev/urandom >/dev/shm/kept; cd /dev/shm; "
                               "sha256sum kept");
    long long with = written_by(vm, s, "with");
    clear(vm, s);
    (void)vm_ok(vm, "suspend", s, NULL);
    (void)vm_ok(vm, "resume", s, NULL);
    assert_string_equal(vm_guest(vm, s, "cd /dev/shm; sha256sum kept"), sum);
    /* It stands on zeros, so the layer has all that it uses. */
    long long without = written_by(vm, s, "without");
    assert_true(with > FILE_MIB + 20 && without < SMALL_MIB);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@with", s), vm_text(vm, "%s@without", s),
                NULL);
}

/* Many layers, of which the lower ones are folded into one: what is freed meanwhile goes. */
static void of_a_chain(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    oracle_start(vm, s, 20);
    for (int i = 0; i < 5; i++) {
        const char *sum = fill(vm, s), *child = vm_name(vm);
        (void)vm_ok(vm, "fork", s, child, NULL);
        (void)vm_ok(vm, "rm", "--force", s, NULL);
        assert_string_equal(vm_guest(vm, child, "sha256sum </dev/shm/file"), sum);
        clear(vm, child);
        s = child;
    }
    assert_in_range(written_by(vm, s, "last"), 0, SMALL_MIB);
    const char *last = vm_name(vm), *archive = vm_path(vm, "exported");
    (void)vm_ok(vm, "export", vm_text(vm, "%s@last", s), archive, NULL);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@last", s), NULL);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
    (void)vm_ok(vm, "import", archive, NULL);
    (void)vm_ok(vm, "fork", vm_text(vm, "%s@last", s), last, NULL);
    memory_is_sane(vm, last);
    (void)vm_ok(vm, "rm", "--force", last, NULL);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@last", s), NULL);
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(of_a_fork), cmocka_unit_test(of_a_program_that_ended),
        cmocka_unit_test(of_a_large_one), cmocka_unit_test(of_one_that_was_booted_cold),
        cmocka_unit_test(of_a_chain))
