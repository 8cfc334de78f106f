/* Symbolic links of a real guest: on the mount of its whole system each leads to where it leads in
 * the guest, and nowhere else. */
#include "tests/lib/vm.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINKS_MIN 100 /* any Debian has more */

/* Lists all links that lead somewhere, and then for each the place; NUL after every path. Views
 * into the kernel are not on the mount. */
#define MAKE_LISTS                                                                                 \
    "find / -xdev \\( -path /proc -o -path /sys -o -path /dev \\) -prune -o -type l ! -xtype l "   \
    "-print0 2>/dev/null | sort -z >all || true; xargs -0 readlink -ze <all >places; "             \
    "paste -d '\\t' <(tr '\\0' '\\n' <all) <(tr '\\0' '\\n' <places) | "                           \
    "grep -vP '\\t/(proc|sys|dev)/' >links"

static void make_odd_links(struct vm *vm, const char *s)
{
    (void)vm_guest(
        vm, s,
        "mkdir -p p/a/b p/c; cd p; echo f >a/f; echo g >c/g; ln -s ../../c a/b/to-c; "
        "ln -s b/../f a/in; ln -s b/to-c/../a/f a/through; ln -s /home/app/p/a/../c/g a/abs; "
        "ln -s ../../../../../../../../etc/../etc/hostname a/b/far; ln -s /.. a/root; "
        "ln -s b/to-c/. a/dot; ln -s a/b/../../c/ slash");
}

static const char *mount_on(struct vm *vm, const char *what, const char *mode)
{
    const char *folder = vm_path(vm, "mnt-%s", vm_name(vm));
    assert_int_equal(mkdir(folder, 0755), 0);
    /* Not the guard, which hides links that have a guarded name. */
    (void)vm_ok(vm, "mount", "--symlinks", mode, "--guard", "off", what, folder, NULL);
    return folder;
}

static void every_link_leads_where_it_does_in_the_guest(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    make_odd_links(vm, s);
    (void)vm_guest(vm, s, "bash -ec \"$(cat <<'END'\n" MAKE_LISTS "\nEND\n)\"");
    const char *m = mount_on(vm, s, "inside");
    const char *count =
        vm_host(vm,
                "cd %s/home/app; n=0; while IFS=$'\\t' read -r link place; do "
                "got=$(readlink -e %s$link) || got=none; [ \"$got\" = %s$place ] || "
                "{ [ %s$place = %s/ ] && [ \"$got\" = %s ]; } || "
                "{ echo \"$link: $got, not $place\"; exit; }; n=$((n + 1)); "
                "done <links; echo $n",
                m, m, m, m, m, m);
    if (strtol(count, NULL, 10) < LINKS_MIN)
        fail_msg("%s", count);
    (void)vm_ok(vm, "umount", m, NULL);
}

static void a_part_shows_what_stays_in_it(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    make_odd_links(vm, s);
    const char *m = mount_on(vm, vm_text(vm, "%s:/home/app/p", s), "inside");
    assert_string_equal(
        vm_host(vm, "cd %s; cat a/in a/through slash/g; readlink a/in a/through slash", m),
        "f\nf\ng\nf\n../a/f\nc/\n");
    assert_string_equal(
        vm_host(vm, "cd %s; { cat a/abs a/b/far 2>&1 || true; } | grep -c 'not permitted'", m),
        "2\n");
    (void)vm_ok(vm, "umount", m, NULL);
    vm_refused(vm, "--symlinks|inside, none or raw", "mount", "--symlinks", "some", s, m, NULL);
    if (geteuid() != 0) {
        vm_refused(vm, "needs root|--symlinks=inside", "mount", "--symlinks", "none", s, m, NULL);
        return;
    }
    (void)vm_ok(vm, "mount", "--symlinks", "none", vm_text(vm, "%s:/home/app/p", s), m, NULL);
    assert_string_equal(vm_host(vm, "cd %s; readlink a/in a/abs", m),
                        "b/../f\n/home/app/p/a/../c/g\n");
    assert_string_equal(
        vm_host(vm, "cd %s; { cat a/in a/abs 2>&1 || true; } | grep -c 'Too many levels'", m),
        "2\n");
    (void)vm_ok(vm, "umount", m, NULL);
}

VM_MAIN(VM_NEEDS_VM | VM_NEEDS_FUSE, cmocka_unit_test(every_link_leads_where_it_does_in_the_guest),
        cmocka_unit_test(a_part_shows_what_stays_in_it))
