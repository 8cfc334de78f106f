#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "host/supervisor/accel.h"
#include "host/supervisor/qemu.h"
#include "host/supervisor/qemu_note.h"

static char folder[] = "/tmp/bellglass-unit-XXXXXX";
static char program[64];

/* Makes a program that answers --version with text, and points $BELLGLASS_QEMU to it. */
static void fake_qemu(const char *text)
{
    char script[256];
    struct bg_err err;
    (void)snprintf(script, sizeof script, "#!/bin/sh\necho '%s'\n", text);
    assert_int_equal(bg_write_file(AT_FDCWD, program, script, strlen(script), 0755, &err), 0);
    assert_int_equal(setenv("BELLGLASS_QEMU", program, 1), 0);
}

static void takes_a_new_enough_version(void **state)
{
    (void)state;
    struct qemu_program qemu;
    struct bg_err err = {0};
    fake_qemu("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)");
    assert_int_equal(qemu_find(/* note= */ NULL, &qemu, &err), 0);
    assert_string_equal(qemu.version, "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)");
    assert_string_equal(qemu.path, program);
    qemu_program_done(&qemu);
    fake_qemu("QEMU emulator version 10.0.2");
    assert_int_equal(qemu_find(/* note= */ NULL, &qemu, &err), 0);
    qemu_program_done(&qemu);
}

static void refuses_old_and_foreign_programs(void **state)
{
    (void)state;
    struct qemu_program qemu;
    struct bg_err err = {0};
    fake_qemu("QEMU emulator version 6.1.0");
    assert_int_equal(qemu_find(/* note= */ NULL, &qemu, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "7.2"));
    fake_qemu("something else");
    assert_int_equal(qemu_find(/* note= */ NULL, &qemu, &err), -ENOTSUP);
    fake_qemu("");
    assert_int_equal(qemu_find(/* note= */ NULL, &qemu, &err), -ENOTSUP);
}

static void a_version_is_kept_while_the_file_is_the_same(void **state)
{
    char note[80], text[QEMU_VERSION_TEXT_SIZE];
    struct bg_err err = {0};
    (void)state;
    (void)snprintf(note, sizeof note, "%s/note", folder);
    assert_false(qemu_note_read(note, "/proc/self/exe", text));
    qemu_note_write(note, "/proc/self/exe", "QEMU emulator version 7.2.22");
    assert_true(qemu_note_read(note, "/proc/self/exe", text));
    assert_string_equal(text, "QEMU emulator version 7.2.22");
    assert_int_equal(bg_write_file(AT_FDCWD, program, ELFMAG "1", SELFMAG + 1, 0755, &err), 0);
    assert_false(qemu_note_read(note, program, text)); /* of another one */
    qemu_note_write(note, program, "QEMU emulator version 8.0.0");
    assert_true(qemu_note_read(note, program, text));
    assert_int_equal(bg_write_file(AT_FDCWD, program, ELFMAG "2", SELFMAG + 1, 0755, &err), 0);
    assert_false(qemu_note_read(note, program, text));
    /* Of a script nothing is kept, nor is a note believed that ends too early. */
    fake_qemu("QEMU emulator version 7.2.22");
    qemu_note_write(note, program, "QEMU emulator version 7.2.22");
    assert_false(qemu_note_read(note, program, text));
    qemu_note_write(note, "/proc/self/exe", "");
    assert_false(qemu_note_read(note, "/proc/self/exe", text));
    assert_int_equal(unlink(note), 0);
}

static void says_how_to_install_a_missing_one(void **state)
{
    (void)state;
    struct qemu_program qemu;
    struct bg_err err = {0};
    assert_int_equal(setenv("BELLGLASS_QEMU", "/nonexistent/qemu", 1), 0);
    assert_int_equal(qemu_find(/* note= */ NULL, &qemu, &err), -ENOENT);
    assert_non_null(strstr(err.text, "apt-get install"));
}

static void the_accelerator_can_be_set(void **state)
{
    (void)state;
    enum accel accel;
    struct bg_err why = {0};
    assert_int_equal(setenv("BELLGLASS_ACCEL", "tcg", 1), 0);
    assert_int_equal(accel_probe(&accel, &why), 0);
    assert_int_equal(accel, ACCEL_TCG);
    assert_int_equal(setenv("BELLGLASS_ACCEL", "magic", 1), 0);
    assert_int_equal(accel_probe(&accel, &why), -EINVAL);
    assert_int_equal(unsetenv("BELLGLASS_ACCEL"), 0);
    assert_int_equal(accel_probe(&accel, &why), 0);
    assert_true(strlen(why.text) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_a_new_enough_version),
        cmocka_unit_test(refuses_old_and_foreign_programs),
        cmocka_unit_test(a_version_is_kept_while_the_file_is_the_same),
        cmocka_unit_test(says_how_to_install_a_missing_one),
        cmocka_unit_test(the_accelerator_can_be_set),
    };
    if (!mkdtemp(folder))
        return 1;
    (void)snprintf(program, sizeof program, "%s/qemu", folder);
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    (void)unlink(program);
    (void)rmdir(folder);
    return r;
}
