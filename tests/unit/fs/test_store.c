/* The store of approvals, and notes over a socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "fs/relay/notes.h"
#include "fs/relay/store.h"

/* What take was called with: "+PATH=BYTES\n" or "-PATH\n". */
struct taken {
    char text[512];
    size_t count;
};

static int take(void *owner, const struct fs_pin_note *note)
{
    struct taken *taken = owner;
    size_t used = strlen(taken->text);
    taken->count++;
    (void)snprintf(taken->text + used, sizeof taken->text - used, "%c%s=%.*s\n",
                   note->forget ? '-' : '+', note->path, (int)(note->size < 99 ? note->size : 99),
                   note->bytes ? (const char *)note->bytes : "");
    return 0;
}

static struct fs_pin_note note_of(const char *path, const char *bytes)
{
    struct fs_pin_note note = {.mode = 0644,
                               .forget = !bytes,
                               .bytes = (const uint8_t *)bytes,
                               .size = bytes ? strlen(bytes) : 0};
    memcpy(note.path, path, strlen(path) + 1);
    return note;
}

static void keep(struct fs_store *store, const char *path, const char *bytes)
{
    struct fs_pin_note note = note_of(path, bytes);
    assert_int_equal(fs_store_keep(store, &note, NULL), 0);
}

static struct fs_store *open_in(char *dir)
{
    struct fs_store *store;
    assert_int_equal(fs_store_open(dir, &store, NULL), 0);
    return store;
}

static char *new_folder(void)
{
    char *dir = strdup("/tmp/bg-store-XXXXXX");
    assert_non_null(dir);
    assert_non_null(mkdtemp(dir));
    return dir;
}

static void remove_folder(char *dir)
{
    char command[128];
    int fd = open(dir, O_RDONLY | O_DIRECTORY);
    assert_true(fd >= 0);
    for (unsigned i = 0; i < 16; i++) { /* what the tests have left there by name */
        (void)snprintf(command, sizeof command, "%064x", i);
        (void)unlinkat(fd, command, 0);
    }
    (void)close(fd);
    assert_int_equal(rmdir(dir), 0);
    free(dir);
}

static void what_is_kept_is_there_again(void **state)
{
    (void)state;
    char *dir = new_folder();
    struct fs_store *store = open_in(dir);
    struct taken taken = {0};
    size_t damaged;
    keep(store, "/a", "one");
    keep(store, "/a", "two");
    keep(store, "/b", "x");
    keep(store, "/b", NULL);
    keep(store, "/none", NULL);
    fs_store_close(store);
    store = open_in(dir);
    assert_int_equal(fs_store_load(store, take, &taken, &damaged, NULL), 0);
    assert_string_equal(taken.text, "+/a=two\n");
    assert_int_equal(damaged, 0);
    keep(store, "/a", NULL);
    fs_store_close(store);
    remove_folder(dir);
}

static void others_hear_of_it_and_not_who_did_it(void **state)
{
    (void)state;
    char *dir = new_folder();
    struct fs_store *one = open_in(dir), *two = open_in(dir);
    struct taken taken = {0};
    keep(one, "/a", "x");
    keep(two, "/b", "y");
    assert_int_equal(fs_store_changes(one, take, &taken, NULL), 0);
    assert_string_equal(taken.text, "+/b=y\n");
    taken = (struct taken){0};
    keep(one, "/b", NULL);
    keep(one, "/a", "z");
    assert_int_equal(fs_store_changes(two, take, &taken, NULL), 0);
    /* /a is read once: when the first event comes it is there as it is now. */
    assert_non_null(strstr(taken.text, "+/a=z\n"));
    assert_non_null(strstr(taken.text, "-/b=\n"));
    taken = (struct taken){0};
    assert_int_equal(fs_store_changes(one, take, &taken, NULL), 0);
    assert_string_equal(taken.text, "");
    keep(two, "/a", NULL);
    fs_store_close(one);
    fs_store_close(two);
    remove_folder(dir);
}

/* Each is a new file, and gets the inode that the one before the last has given back. */
static void a_file_with_the_number_of_an_old_one_is_heard_of(void **state)
{
    (void)state;
    char *dir = new_folder();
    struct fs_store *one = open_in(dir), *two = open_in(dir);
    for (int i = 0; i < 4; i++) {
        struct taken taken = {0};
        keep(one, "/a", "first");
        for (int j = 0; j <= i; j++)
            keep(two, "/a", j < i ? "between" : "last");
        assert_int_equal(fs_store_changes(one, take, &taken, NULL), 0);
        assert_string_equal(taken.text, "+/a=last\n");
    }
    keep(one, "/a", NULL);
    fs_store_close(one);
    fs_store_close(two);
    remove_folder(dir);
}

static void what_is_none_of_ours_is_left_out(void **state)
{
    (void)state;
    char *dir = new_folder(), path[256];
    struct fs_store *store = open_in(dir);
    struct taken taken = {0};
    size_t damaged;
    (void)snprintf(path, sizeof path, "%s/%064x", dir, 1);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    uint8_t bytes[BG_PATH_MAX + 64];
    struct fs_pin_note note = note_of("/a", "x"); /* a good one, under another's name */
    size_t size = fs_pin_note_emit(&note, bytes);
    bytes[size++] = 'x';
    assert_int_equal(write(fd, bytes, size), (ssize_t)size);
    (void)close(fd);
    (void)snprintf(path, sizeof path, "%s/%064x", dir, 2);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    assert_int_equal(fs_store_load(store, take, &taken, &damaged, NULL), 0);
    assert_int_equal(taken.count, 0);
    assert_int_equal(damaged, 2);
    fs_store_close(store);
    remove_folder(dir);
}

static void leftovers_are_removed(void **state)
{
    (void)state;
    char *dir = new_folder(), old[256], fresh[256];
    struct fs_store *store = open_in(dir);
    struct taken taken = {0};
    size_t damaged;
    (void)snprintf(old, sizeof old, "%s/%064x.a.tmp", dir, 1);
    (void)snprintf(fresh, sizeof fresh, "%s/%064x.b.tmp", dir, 1);
    const char *const paths[] = {old, fresh};
    for (size_t i = 0; i < 2; i++) {
        int fd = open(paths[i], O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        (void)close(fd);
    }
    struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    assert_int_equal(utimensat(AT_FDCWD, old, times, 0), 0);
    assert_int_equal(fs_store_load(store, take, &taken, &damaged, NULL), 0);
    assert_int_equal(access(old, F_OK), -1);
    assert_int_equal(unlink(fresh), 0); /* somebody may be writing it */
    assert_int_equal(damaged, 0);
    fs_store_close(store);
    remove_folder(dir);
}

static void a_store_has_a_maximum(void **state)
{
    (void)state;
    char *dir = new_folder(), path[256], name[BG_SHA256_SIZE * 2 + 1];
    struct fs_store *store = open_in(dir);
    struct taken taken = {0};
    size_t damaged, most = BG_GUARD_BYTES_MAX / BG_GUARD_FILE_MAX;
    uint8_t *bytes = calloc(1, FS_PIN_NOTE_MAX);
    assert_non_null(bytes);
    for (size_t i = 0; i <= most; i++) { /* by hand: fs_store_keep waits for the disk */
        struct fs_pin_note note = note_of("/", "");
        (void)snprintf(note.path, sizeof note.path, "/%zu", i);
        note.size = BG_GUARD_FILE_MAX;
        size_t size = fs_pin_note_emit(&note, bytes) + note.size;
        bg_sha256_hex(note.path, strlen(note.path), name);
        (void)snprintf(path, sizeof path, "%s/%s", dir, name);
        int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, bytes, size), (ssize_t)size);
        (void)close(fd);
    }
    assert_int_equal(fs_store_load(store, take, &taken, &damaged, NULL), 0);
    assert_int_equal(taken.count, most);
    assert_int_equal(damaged, 1); /* one too many: left out */
    struct fs_pin_note one = note_of("/more", "x");
    assert_int_equal(fs_store_keep(store, &one, NULL), -ENOSPC);
    for (size_t i = 0; i <= most; i++) {
        (void)snprintf(path, sizeof path, "/%zu", i);
        keep(store, path, NULL);
    }
    free(bytes);
    fs_store_close(store);
    remove_folder(dir);
}

/* ---- over a socket ---- */

static void notes_come_whole_whatever_the_pieces(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct fs_notes in, out;
    struct taken taken = {0};
    assert_int_equal(fs_notes_init(&in, fds[0]), 0);
    assert_int_equal(fs_notes_init(&out, fds[1]), 0);
    char *big = calloc(1, BG_GUARD_FILE_MAX + 1);
    assert_non_null(big);
    memset(big, 'x', BG_GUARD_FILE_MAX);
    for (int i = 0; i < 3; i++) {
        struct fs_pin_note note = note_of("/big", big);
        assert_int_equal(fs_notes_send(&out, &note), 0);
    }
    struct fs_pin_note last = note_of("/last", NULL);
    assert_int_equal(fs_notes_send(&out, &last), 0);
    assert_true(fs_notes_waits(&out)); /* more than a socket holds */
    while (taken.count < 4) {
        assert_int_equal(fs_notes_read(&in, take, &taken, NULL), 0);
        assert_int_equal(fs_notes_flush(&out), 0);
    }
    assert_false(fs_notes_waits(&out));
    assert_non_null(strstr(taken.text, "-/last=\n"));
    (void)close(fds[1]);
    assert_int_equal(fs_notes_read(&in, take, &taken, NULL), -ECONNRESET);
    (void)close(fds[0]);
    fs_notes_done(&in);
    fs_notes_done(&out);
    free(big);
}

static void what_is_no_note_ends_it(void **state)
{
    (void)state;
    static const uint8_t bad[][8] = {{0xff, 0xff, 0xff, 0xff}, {4, 0, 0, 0, 9, 9, 9, 9}};
    for (size_t i = 0; i < 2; i++) {
        int fds[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        struct fs_notes in;
        struct taken taken = {0};
        assert_int_equal(fs_notes_init(&in, fds[0]), 0);
        assert_int_equal(write(fds[1], bad[i], 8), 8);
        assert_int_equal(fs_notes_read(&in, take, &taken, NULL), -EPROTO);
        assert_int_equal(taken.count, 0);
        fs_notes_done(&in);
        (void)close(fds[0]);
        (void)close(fds[1]);
    }
}

static void a_reader_that_does_not_read_is_given_up(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct fs_notes out;
    assert_int_equal(fs_notes_init(&out, fds[1]), 0);
    char *big = calloc(1, BG_GUARD_FILE_MAX + 1);
    assert_non_null(big);
    memset(big, 'x', BG_GUARD_FILE_MAX);
    struct fs_pin_note note = note_of("/big", big);
    int r = 0;
    for (int i = 0; r == 0 && i < 100; i++)
        r = fs_notes_send(&out, &note);
    assert_int_equal(r, -ENOSPC);
    fs_notes_done(&out);
    (void)close(fds[0]);
    (void)close(fds[1]);
    free(big);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_kept_is_there_again),
        cmocka_unit_test(others_hear_of_it_and_not_who_did_it),
        cmocka_unit_test(a_file_with_the_number_of_an_old_one_is_heard_of),
        cmocka_unit_test(what_is_none_of_ours_is_left_out),
        cmocka_unit_test(leftovers_are_removed),
        cmocka_unit_test(a_store_has_a_maximum),
        cmocka_unit_test(notes_come_whole_whatever_the_pieces),
        cmocka_unit_test(what_is_no_note_ends_it),
        cmocka_unit_test(a_reader_that_does_not_read_is_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
