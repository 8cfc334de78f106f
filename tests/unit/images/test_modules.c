#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "images/modules.h"

static const char dep[] = "kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko\n"
                          "kernel/drivers/virtio/virtio_ring.ko:\n"
                          "kernel/drivers/virtio/virtio_pci.ko: "
                          "kernel/drivers/virtio/virtio_pci_legacy_dev.ko "
                          "kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko\n"
                          "kernel/drivers/virtio/virtio_pci_legacy_dev.ko:\n"
                          "kernel/net/foo-bar.ko.xz:\n";
static const char builtin[] = "kernel/fs/ext4/ext4.ko\nkernel/crypto/sha-generic.ko\n";

/* The paths, joined, or the error's code. */
static void expect(const char *list, const char *dep_text, int code, const char *want)
{
    struct modules modules;
    struct bg_err err = {0};
    int r = modules_resolve(list, dep_text, builtin, &modules, &err);
    assert_int_equal(r, code);
    if (code < 0) {
        assert_non_null(strstr(err.text, want));
        return;
    }
    char joined[1024] = "";
    size_t used = 0;
    for (size_t i = 0; i < modules.count; i++) {
        const char *slash = strrchr(modules.paths[i], '/');
        used +=
            (size_t)snprintf(joined + used, sizeof joined - used, "%s%s", i ? " " : "", slash + 1);
        assert_true(used < sizeof joined);
    }
    assert_string_equal(joined, want);
    modules_done(&modules);
}

static void puts_what_is_needed_first(void **state)
{
    (void)state;
    expect("virtio_pci\n", dep, 0,
           "virtio_pci_legacy_dev.ko virtio_ring.ko virtio.ko virtio_pci.ko");
}

static void keeps_the_order_of_the_list_and_names_each_once(void **state)
{
    (void)state;
    expect("virtio\nfoo_bar\nvirtio_pci\nvirtio_ring\n", dep, 0,
           "virtio_ring.ko virtio.ko foo-bar.ko.xz virtio_pci_legacy_dev.ko virtio_pci.ko");
}

static void takes_dash_and_underscore_for_one(void **state)
{
    (void)state;
    expect("foo-bar", dep, 0, "foo-bar.ko.xz");
    expect("foo_bar", dep, 0, "foo-bar.ko.xz");
}

static void leaves_out_comments_blanks_and_what_is_built_in(void **state)
{
    (void)state;
    expect("# all\n\n  virtio_ring # the ring\next4\nsha_generic\n\t\n", dep, 0, "virtio_ring.ko");
    expect("", dep, 0, "");
}

static void names_a_module_that_is_not_there(void **state)
{
    (void)state;
    expect("virtio\nnope\n", dep, -ENOENT, "'nope'");
    expect("virtio_rin\n", dep, -ENOENT, "'virtio_rin'");
    expect("virtio\n", "", -ENOENT, "'virtio'");
}

static void refuses_a_damaged_modules_dep(void **state)
{
    (void)state;
    expect("a", "k/a.ko: k/b.ko\n", -EUCLEAN, "'b'");
    expect("a", "k/a.ko: k/b.ko\nk/b.ko: k/a.ko\n", -EUCLEAN, "circle");
    expect("a", "k/a.ko: k/a.ko\n", -EUCLEAN, "circle");
    expect("a", "k/a.ko\n", -ENOENT, "'a'");
}

static void bounds_the_number_of_modules(void **state)
{
    (void)state;
    char *text = NULL, *list = NULL;
    size_t text_size, list_size;
    FILE *out = open_memstream(&text, &text_size), *names = open_memstream(&list, &list_size);
    for (int i = 0; i <= MODULES_MAX; i++) {
        (void)fprintf(out, "k/m%d.ko:\n", i);
        (void)fprintf(names, "m%d\n", i);
    }
    assert_int_equal(fclose(out), 0);
    assert_int_equal(fclose(names), 0);
    expect(list, text, -E2BIG, "512");
    list[list_size - strlen("m512\n")] = '\0';
    struct modules modules;
    assert_int_equal(modules_resolve(list, text, "", &modules, NULL), 0);
    assert_int_equal(modules.count, MODULES_MAX);
    modules_done(&modules);
    free(text);
    free(list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(puts_what_is_needed_first),
        cmocka_unit_test(keeps_the_order_of_the_list_and_names_each_once),
        cmocka_unit_test(takes_dash_and_underscore_for_one),
        cmocka_unit_test(leaves_out_comments_blanks_and_what_is_built_in),
        cmocka_unit_test(names_a_module_that_is_not_there),
        cmocka_unit_test(refuses_a_damaged_modules_dep),
        cmocka_unit_test(bounds_the_number_of_modules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
