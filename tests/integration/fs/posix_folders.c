/* readdir, telldir, seekdir: what lists of names do while they change. */
#include "tests/integration/fs/posix_check.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>

#define MANY 3000u

static void make_many(const char *prefix, unsigned from, unsigned to)
{
    char name[32];
    for (unsigned i = from; i < to; i++) {
        (void)snprintf(name, sizeof name, "%s%u", prefix, i);
        int fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        assert_ok(fd);
        assert_ok(close(fd));
    }
}

/* Reads on and counts names PREFIXnumber; each at most once. */
static unsigned count_from(DIR *dir, char prefix, unsigned char seen[MANY])
{
    unsigned count = 0;
    for (const struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] != prefix)
            continue;
        unsigned long number = strtoul(entry->d_name + 1, NULL, 10);
        assert_true(number < MANY);
        if (seen[number])
            fail_msg("%s is there twice", entry->d_name);
        seen[number] = 1;
        count++;
    }
    return count;
}

static void names_that_stay_are_listed_once_while_others_come_and_go(void)
{
    static unsigned char seen[MANY];
    memset(seen, 0, sizeof seen);
    make_many("s", 0, 1000);
    make_many("g", 0, 1000);
    DIR *dir = opendir(".");
    assert_non_null(dir);
    unsigned stayed = 0, number = 0;
    char name[32];
    for (const struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == 's') {
            unsigned long n = strtoul(entry->d_name + 1, NULL, 10);
            assert_true(n < 1000 && !seen[n]);
            seen[n] = 1;
            stayed++;
        }
        if (number < 1000) { /* one goes and one comes for each that is read */
            (void)snprintf(name, sizeof name, "g%u", number);
            assert_ok(unlink(name));
            make_many("n", number, number + 1);
            number++;
        }
    }
    assert_int_equal(stayed, 1000);
    assert_ok(closedir(dir));
}

static void another_process_may_change_what_is_read(void)
{
    static unsigned char seen[MANY];
    make_many("s", 0, 500);
    int stop[2];
    assert_ok(pipe2(stop, O_CLOEXEC | O_NONBLOCK));
    pid_t pid = fork();
    assert_ok(pid);
    if (pid == 0) {
        char byte, name[32];
        for (unsigned i = 0; read(stop[0], &byte, 1) < 0; i++) {
            (void)snprintf(name, sizeof name, "x%u", i % 50);
            int fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
            if (fd < 0 || close(fd) < 0 || (i % 2 && unlink(name) < 0))
                _exit(1);
        }
        _exit(0);
    }
    for (int round = 0; round < 20; round++) {
        memset(seen, 0, sizeof seen);
        DIR *dir = opendir(".");
        assert_non_null(dir);
        assert_int_equal(count_from(dir, 's', seen), 500);
        assert_ok(closedir(dir));
    }
    assert_int_equal(write(stop[1], "x", 1), 1);
    assert_int_equal(status_of(pid), 0);
    assert_ok(close(stop[0]));
    assert_ok(close(stop[1]));
}

static void places_are_found_again(void)
{
    enum { PLACES = 50 };
    char names[PLACES][64];
    long places[PLACES];
    make_many("f", 0, 1000);
    DIR *dir = opendir(".");
    assert_non_null(dir);
    for (int i = 0; i < PLACES; i++) {
        for (int skip = 0; skip < 15; skip++)
            assert_non_null(readdir(dir));
        places[i] = telldir(dir);
        const struct dirent *entry = readdir(dir);
        assert_non_null(entry);
        (void)snprintf(names[i], sizeof names[i], "%.63s", entry->d_name);
    }
    for (int i = PLACES - 1; i >= 0; i -= 3) {
        seekdir(dir, places[i]);
        const struct dirent *entry = readdir(dir);
        assert_non_null(entry);
        assert_string_equal(entry->d_name, names[i]);
    }
    seekdir(dir, places[0]);
    static unsigned char seen[MANY];
    memset(seen, 0, sizeof seen);
    unsigned left = count_from(dir, 'f', seen);
    assert_true(left >= 1000 - 15 && left <= 1000);
    assert_ok(closedir(dir));
}

static void entries_say_what_stat_says(void)
{
    make_file("f", "x");
    assert_ok(mkdir("d", 0755));
    assert_ok(symlink("f", "l"));
    DIR *dir = opendir("d");
    assert_non_null(dir);
    unsigned dots = 0;
    for (const struct dirent *entry; (entry = readdir(dir));) {
        bool up = strcmp(entry->d_name, "..") == 0;
        assert_int_equal(entry->d_ino, up ? stat_of(".").st_ino : stat_of("d").st_ino);
        assert_int_equal(entry->d_type, DT_DIR);
        dots++;
    }
    assert_int_equal(dots, 2);
    assert_ok(closedir(dir));
    dir = opendir(".");
    assert_non_null(dir);
    unsigned found = 0;
    for (const struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.')
            continue;
        struct stat st = stat_of(entry->d_name);
        assert_int_equal(entry->d_ino, st.st_ino);
        assert_int_equal(entry->d_type, st.st_mode >> 12);
        found++;
    }
    assert_int_equal(found, 3);
    assert_ok(closedir(dir));
}

static void long_names_are_listed_whole(void)
{
    char name[256];
    for (int i = 0; i < 64; i++) {
        memset(name, 'a' + i % 26, 255);
        (void)snprintf(name, 8, "%07d", i);
        name[7] = 'x';
        name[255] = '\0';
        make_file(name, "");
    }
    DIR *dir = opendir(".");
    assert_non_null(dir);
    unsigned found = 0;
    for (const struct dirent *entry; (entry = readdir(dir));)
        found += strlen(entry->d_name) == 255;
    assert_int_equal(found, 64);
    assert_ok(closedir(dir));
}

static void a_removed_folder_has_no_names(void)
{
    assert_ok(mkdir("d", 0755));
    DIR *dir = opendir("d");
    assert_non_null(dir);
    assert_ok(rmdir("d"));
    errno = 0;
    const struct dirent *entry = readdir(dir);
    if (entry && entry->d_name[0] != '.')
        fail_msg("%s", entry->d_name);
    assert_true(entry || errno == 0 || errno == ENOENT);
    assert_ok(closedir(dir));
}

static void an_open_folder_is_a_way_in(void)
{
    assert_ok(mkdir("d", 0755));
    make_file("d/f", "text");
    int d = open("d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_ok(d);
    assert_ok(rename("d", "e"));
    int fd = openat(d, "f", O_RDWR | O_CLOEXEC);
    assert_ok(fd);
    assert_ok(close(fd));
    assert_ok(mkdirat(d, "g", 0755));
    assert_ok(renameat(d, "f", d, "h"));
    assert_ok(symlinkat("h", d, "l"));
    assert_ok(linkat(d, "h", AT_FDCWD, "outside", 0));
    assert_string_equal(text_of("e/l"), "text");
    assert_string_equal(text_of("outside"), "text");
    assert_ok(unlinkat(d, "g", AT_REMOVEDIR));
    assert_ok(fchdir(d));
    assert_string_equal(text_of("h"), "text");
    assert_ok(chdir(".."));
    assert_errno(read(d, &fd, 1), EISDIR);
    assert_ok(close(d));
}

static void many_names_are_all_there(void)
{
    static unsigned char seen[MANY];
    memset(seen, 0, sizeof seen);
    make_many("f", 0, MANY);
    DIR *dir = opendir(".");
    assert_non_null(dir);
    assert_int_equal(count_from(dir, 'f', seen), MANY);
    rewinddir(dir);
    assert_ok(unlink("f7"));
    memset(seen, 0, sizeof seen);
    assert_int_equal(count_from(dir, 'f', seen), MANY - 1);
    assert_ok(closedir(dir));
}

static const struct posix_case cases[] = {
    {"names_that_stay_are_listed_once_while_others_come_and_go",
     names_that_stay_are_listed_once_while_others_come_and_go, NULL},
    {"another_process_may_change_what_is_read", another_process_may_change_what_is_read, NULL},
    {"places_are_found_again", places_are_found_again, NULL},
    {"entries_say_what_stat_says", entries_say_what_stat_says, NULL},
    {"long_names_are_listed_whole", long_names_are_listed_whole, NULL},
    {"a_removed_folder_has_no_names", a_removed_folder_has_no_names, NULL},
    {"an_open_folder_is_a_way_in", an_open_folder_is_a_way_in, NULL},
    {"many_names_are_all_there", many_names_are_all_there, NULL},
};
const struct posix_table posix_folders = {cases, sizeof cases / sizeof *cases};
