#include "tests/integration/fs/posix_check.h"

#include <dirent.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

static void new_files_have_mode_and_owner(void)
{
    mode_t before = umask(027);
    int fd = open("f", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    assert_ok(fd);
    assert_ok(mkdir("d", 0777));
    (void)umask(before);
    struct stat f = stat_of("f"), d = stat_of("d");
    assert_int_equal(f.st_mode, S_IFREG | 0640);
    assert_int_equal(d.st_mode, S_IFDIR | 0750);
    assert_int_equal(f.st_uid, geteuid());
    assert_int_equal(f.st_gid, getegid());
    assert_int_equal(d.st_uid, geteuid());
    assert_int_equal(f.st_size, 0);
    assert_int_equal(f.st_nlink, 1);
    assert_ok(close(fd));
}

static void opening_fails_as_it_should(void)
{
    char longest[257];
    memset(longest, 'n', sizeof longest);
    longest[256] = '\0';
    make_file("f", "x");
    assert_ok(mkdir("d", 0755));
    assert_ok(symlink("nowhere", "dangling"));
    assert_ok(symlink("loop", "loop"));
    assert_errno(open("f", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644), EEXIST);
    assert_errno(open("dangling", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644), EEXIST);
    assert_errno(open("none", O_RDONLY | O_CLOEXEC), ENOENT);
    assert_errno(open("none/x", O_RDWR | O_CREAT | O_CLOEXEC, 0644), ENOENT);
    assert_errno(open("f/x", O_RDONLY | O_CLOEXEC), ENOTDIR);
    assert_errno(open("d", O_WRONLY | O_CLOEXEC), EISDIR);
    assert_errno(open("f", O_RDONLY | O_DIRECTORY | O_CLOEXEC), ENOTDIR);
    assert_errno(open("dangling", O_RDONLY | O_CLOEXEC), ENOENT);
    assert_errno(open("dangling", O_RDONLY | O_NOFOLLOW | O_CLOEXEC), ELOOP);
    assert_errno(open("loop", O_RDONLY | O_CLOEXEC), ELOOP);
    assert_errno(open(longest, O_RDWR | O_CREAT | O_CLOEXEC, 0644), ENAMETOOLONG);
    longest[255] = '\0';
    make_file(longest, "long");
    assert_string_equal(text_of(longest), "long");
}

static void bytes_are_where_they_were_written(void)
{
    char text[16] = {0};
    int fd = open("f", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    assert_ok(fd);
    assert_int_equal(pwrite(fd, "world", 5, 6), 5);
    assert_int_equal(pwrite(fd, "hello", 5, 0), 5);
    assert_int_equal(pread(fd, text, sizeof text, 0), 11);
    assert_memory_equal(text, "hello\0world", 11);
    assert_int_equal(lseek(fd, -5, SEEK_END), 6);
    assert_int_equal(read(fd, text, 2), 2);
    assert_int_equal(lseek(fd, 0, SEEK_CUR), 8);
    assert_int_equal(pread(fd, text, 4, 100), 0);
    assert_int_equal(pwrite(fd, "far", 3, 5000000000), 3);
    assert_int_equal(stat_of("f").st_size, 5000000003);
    assert_ok(close(fd));
    assert_errno(pread(fd, text, 1, 0), EBADF);
}

static void appending_goes_to_the_end(void)
{
    make_file("f", "one");
    int a = open("f", O_WRONLY | O_APPEND | O_CLOEXEC);
    int b = open("f", O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_ok(a);
    assert_ok(b);
    assert_int_equal(write(a, "two", 3), 3);
    assert_int_equal(write(b, "three", 5), 5);
    assert_int_equal(write(a, "four", 4), 4);
    assert_ok(close(a));
    assert_ok(close(b));
    assert_string_equal(text_of("f"), "onetwothreefour");
}

static void truncating_sets_the_size(void)
{
    char bytes[10];
    make_file("f", "0123456789");
    assert_ok(truncate("f", 4));
    assert_string_equal(text_of("f"), "0123");
    int fd = open("f", O_RDWR | O_CLOEXEC);
    assert_ok(fd);
    assert_ok(ftruncate(fd, 10));
    assert_int_equal(pread(fd, bytes, 10, 0), 10);
    assert_memory_equal(bytes, "0123\0\0\0\0\0\0", 10);
    assert_errno(ftruncate(fd, -1), EINVAL);
    assert_ok(close(fd));
    fd = open("f", O_RDWR | O_TRUNC | O_CLOEXEC);
    assert_ok(fd);
    assert_int_equal(stat_of("f").st_size, 0);
    assert_ok(close(fd));
    assert_ok(mkdir("d", 0755));
    assert_errno(truncate("d", 0), EISDIR);
}

static void folders_are_made_and_removed(void)
{
    assert_ok(mkdir("d", 0755));
    assert_errno(mkdir("d", 0755), EEXIST);
    make_file("d/f", "x");
    assert_errno(rmdir("d"), ENOTEMPTY);
    assert_errno(unlink("d"), EISDIR);
    assert_errno(rmdir("d/f"), ENOTDIR);
    assert_errno(rmdir("none"), ENOENT);
    assert_errno(unlink("none"), ENOENT);
    assert_errno(rmdir("d/."), EINVAL);
    assert_ok(unlink("d/f"));
    assert_ok(mkdir("d/e", 0755));
    assert_int_equal(stat_of("d").st_nlink, 3);
    assert_ok(rmdir("d/e"));
    assert_int_equal(stat_of("d").st_nlink, 2);
    assert_ok(rmdir("d"));
    assert_errno(rmdir("d"), ENOENT);
}

static void renaming_replaces_what_it_may(void)
{
    make_file("a", "a");
    make_file("b", "b");
    ino_t ino = stat_of("a").st_ino;
    assert_ok(rename("a", "b"));
    assert_string_equal(text_of("b"), "a");
    assert_int_equal(stat_of("b").st_ino, ino);
    assert_errno(access("a", F_OK), ENOENT);
    assert_ok(mkdir("d", 0755));
    assert_ok(mkdir("e", 0755));
    make_file("e/full", "x");
    assert_errno(rename("b", "d"), EISDIR);
    assert_errno(rename("d", "b"), ENOTDIR);
    assert_errno(rename("d", "e"), ENOTEMPTY);
    assert_errno(rename("e", "e/inside"), EINVAL);
    assert_errno(rename("none", "x"), ENOENT);
    assert_errno(rename("b", "none/x"), ENOENT);
    assert_ok(rename("e", "d"));
    assert_string_equal(text_of("d/full"), "x");
    assert_ok(rename("d/full", "full"));
    assert_ok(rename("full", "full"));
    assert_string_equal(text_of("full"), "x");
}

static void renaming_with_flags(void)
{
    make_file("a", "a");
    assert_ok(mkdir("b", 0755));
    make_file("b/in", "in");
    assert_errno(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
    assert_ok(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE));
    assert_string_equal(text_of("b"), "a");
    assert_string_equal(text_of("a/in"), "in");
    assert_ok(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_NOREPLACE));
    assert_string_equal(text_of("c"), "a");
}

static void a_moved_folder_takes_its_files_along(void)
{
    char path[64];
    assert_ok(mkdir("a", 0755));
    assert_ok(mkdir("a/b", 0755));
    assert_ok(mkdir("other", 0755));
    for (int i = 0; i < 20; i++) {
        (void)snprintf(path, sizeof path, "a/b/%d", i);
        make_file(path, path);
    }
    int fd = open("a/b/7", O_RDONLY | O_CLOEXEC);
    assert_ok(fd);
    assert_ok(rename("a", "other/moved"));
    for (int i = 0; i < 20; i++) {
        char text[64];
        (void)snprintf(text, sizeof text, "a/b/%d", i);
        (void)snprintf(path, sizeof path, "other/moved/b/%d", i);
        assert_string_equal(text_of(path), text);
    }
    char bytes[8] = {0};
    assert_int_equal(read(fd, bytes, sizeof bytes), 5);
    assert_string_equal(bytes, "a/b/7");
    assert_ok(close(fd));
}

static void links_are_the_same_file(void)
{
    make_file("a", "text");
    assert_ok(mkdir("d", 0755));
    assert_ok(link("a", "d/b"));
    assert_int_equal(stat_of("a").st_ino, stat_of("d/b").st_ino);
    assert_int_equal(stat_of("a").st_nlink, 2);
    make_file("d/b", "changed");
    assert_string_equal(text_of("a"), "changed");
    assert_errno(link("a", "d/b"), EEXIST);
    assert_errno(link("d", "e"), EPERM);
    assert_errno(link("none", "e"), ENOENT);
    assert_ok(unlink("a"));
    assert_int_equal(stat_of("d/b").st_nlink, 1);
    assert_string_equal(text_of("d/b"), "changed");
}

static void symbolic_links_lead_on(void)
{
    char text[64] = {0};
    assert_ok(mkdir("d", 0755));
    make_file("f", "text");
    assert_ok(symlink("../f", "d/up"));
    assert_ok(symlink("d", "dir"));
    assert_int_equal(readlink("d/up", text, sizeof text), 4);
    assert_string_equal(text, "../f");
    assert_int_equal(stat_of("d/up").st_size, 4);
    assert_string_equal(text_of("d/up"), "text");
    assert_string_equal(text_of("dir/up"), "text");
    assert_errno(symlink("x", "d/up"), EEXIST);
    assert_errno(readlink("f", text, sizeof text), EINVAL);
    make_file("dir/new", "new");
    assert_string_equal(text_of("d/new"), "new");
    assert_ok(unlink("dir"));
    assert_int_equal(stat_of("d").st_mode & S_IFMT, S_IFDIR);
}

static void modes_are_set_and_kept(void)
{
    make_file("f", "x");
    assert_ok(chmod("f", 0604));
    assert_int_equal(stat_of("f").st_mode, S_IFREG | 0604);
    int fd = open("f", O_RDONLY | O_CLOEXEC);
    assert_ok(fd);
    assert_ok(fchmod(fd, 0751));
    assert_int_equal(stat_of("f").st_mode, S_IFREG | 0751);
    assert_ok(close(fd));
    assert_ok(mkdir("d", 0755));
    assert_ok(chmod("d", 0700));
    assert_int_equal(stat_of("d").st_mode, S_IFDIR | 0700);
    assert_errno(chmod("none", 0700), ENOENT);
}

static void set_id_bits_are_never_there(void)
{
    make_file("f", "x");
    assert_ok(chmod("f", 06755));
    assert_int_equal(stat_of("f").st_mode, S_IFREG | 0755);
    assert_ok(mkdir("d", 0755));
    assert_ok(chmod("d", 03777));
    assert_int_equal(stat_of("d").st_mode, S_IFDIR | 0777);
}

static void files_belong_to_the_user_only(void)
{
    make_file("f", "x");
    assert_ok(chown("f", geteuid(), getegid()));
    assert_ok(chown("f", (uid_t)-1, (gid_t)-1));
    assert_errno(chown("f", 4242, (gid_t)-1), EPERM);
    assert_errno(chown("f", (uid_t)-1, 4242), EPERM);
}

static void times_are_exact(void)
{
    make_file("f", "x");
    struct timespec times[2] = {{.tv_sec = 1000000000, .tv_nsec = 123456789},
                                {.tv_sec = 4000000000, .tv_nsec = 987654321}};
    assert_ok(utimensat(AT_FDCWD, "f", times, 0));
    struct stat st = stat_of("f");
    assert_int_equal(st.st_atim.tv_sec, 1000000000);
    assert_int_equal(st.st_atim.tv_nsec, 123456789);
    assert_int_equal(st.st_mtim.tv_sec, 4000000000);
    assert_int_equal(st.st_mtim.tv_nsec, 987654321);
    times[0].tv_nsec = UTIME_OMIT;
    times[1].tv_nsec = UTIME_NOW;
    assert_ok(utimensat(AT_FDCWD, "f", times, 0));
    struct stat after = stat_of("f");
    assert_int_equal(after.st_atim.tv_nsec, 123456789);
    assert_true(after.st_mtim.tv_sec < 4000000000);
    assert_ok(symlink("f", "l"));
    times[0] = times[1] = (struct timespec){.tv_sec = 5, .tv_nsec = 6};
    assert_ok(utimensat(AT_FDCWD, "l", times, AT_SYMLINK_NOFOLLOW));
    assert_int_equal(stat_of("l").st_mtim.tv_sec, 5);
    assert_true(stat_of("f").st_mtim.tv_sec > 5);
}

static void changes_move_the_times(void)
{
    struct timespec old[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    assert_ok(mkdir("d", 0755));
    make_file("d/f", "x");
    assert_ok(utimensat(AT_FDCWD, "d", old, 0));
    assert_ok(utimensat(AT_FDCWD, "d/f", old, 0));
    int fd = open("d/f", O_WRONLY | O_CLOEXEC);
    assert_ok(fd);
    assert_int_equal(write(fd, "y", 1), 1);
    assert_ok(close(fd));
    assert_true(stat_of("d/f").st_mtim.tv_sec > 1);
    assert_int_equal(stat_of("d").st_mtim.tv_sec, 1);
    make_file("d/g", "x");
    assert_true(stat_of("d").st_mtim.tv_sec > 1);
}

static void removed_files_live_while_open(void)
{
    char text[8] = {0};
    make_file("f", "text");
    int fd = open("f", O_RDWR | O_CLOEXEC);
    assert_ok(fd);
    assert_ok(unlink("f"));
    struct stat st;
    assert_ok(fstat(fd, &st));
    assert_int_equal(st.st_nlink, 0);
    assert_int_equal(pwrite(fd, "more", 4, 4), 4);
    assert_int_equal(pread(fd, text, 8, 0), 8);
    assert_memory_equal(text, "textmore", 8);
    assert_ok(ftruncate(fd, 2));
    assert_ok(fchmod(fd, 0600));
    assert_ok(fstat(fd, &st));
    assert_int_equal(st.st_size, 2);
    make_file("f", "other");
    assert_int_equal(pread(fd, text, 8, 0), 2);
    assert_ok(close(fd));
    assert_string_equal(text_of("f"), "other");
}

static void replaced_files_live_while_open(void)
{
    char text[8] = {0};
    make_file("f", "old");
    make_file("g", "new");
    int fd = open("f", O_RDONLY | O_CLOEXEC);
    assert_ok(fd);
    assert_ok(rename("g", "f"));
    assert_int_equal(read(fd, text, sizeof text), 3);
    assert_string_equal(text, "old");
    assert_string_equal(text_of("f"), "new");
    assert_ok(close(fd));
}

static size_t count_entries(DIR *dir, const char *wanted, size_t *ret_wanted)
{
    size_t count = 0;
    *ret_wanted = 0;
    for (const struct dirent *entry; (entry = readdir(dir)); count++)
        if (strcmp(entry->d_name, wanted) == 0)
            ++*ret_wanted;
    return count;
}

static void folders_list_everything_once(void)
{
    char name[32];
    size_t wanted;
    for (int i = 0; i < 1000; i++) {
        (void)snprintf(name, sizeof name, "file-with-a-name-%d", i);
        make_file(name, "");
    }
    DIR *dir = opendir(".");
    assert_non_null(dir);
    assert_int_equal(count_entries(dir, "file-with-a-name-500", &wanted), 1002);
    assert_int_equal(wanted, 1);
    make_file("late", "");
    rewinddir(dir);
    assert_int_equal(count_entries(dir, "late", &wanted), 1003);
    assert_int_equal(wanted, 1);
    rewinddir(dir);
    for (int i = 0; i < 300; i++)
        assert_non_null(readdir(dir));
    long at = telldir(dir);
    const struct dirent *entry = readdir(dir);
    assert_non_null(entry);
    (void)snprintf(name, sizeof name, "%.31s", entry->d_name);
    assert_int_equal(count_entries(dir, "", &wanted), 1003 - 301);
    seekdir(dir, at);
    entry = readdir(dir);
    assert_non_null(entry);
    assert_string_equal(entry->d_name, name);
    assert_ok(closedir(dir));
}

static void folders_can_be_emptied_while_they_are_read(void)
{
    char name[32];
    size_t left = 0;
    for (int i = 0; i < 500; i++) {
        (void)snprintf(name, sizeof name, "%d", i);
        make_file(name, "");
    }
    DIR *dir = opendir(".");
    assert_non_null(dir);
    for (const struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            assert_ok(unlink(entry->d_name));
    rewinddir(dir);
    assert_int_equal(count_entries(dir, "", &left), 2);
    assert_ok(closedir(dir));
}

static void user_attributes_are_kept(void)
{
    char bytes[300] = {0};
    make_file("f", "x");
    memset(bytes, 'v', sizeof bytes);
    assert_ok(setxattr("f", "user.one", "1", 1, XATTR_CREATE));
    assert_errno(setxattr("f", "user.one", "1", 1, XATTR_CREATE), EEXIST);
    assert_errno(setxattr("f", "user.two", "1", 1, XATTR_REPLACE), ENODATA);
    assert_ok(setxattr("f", "user.two", bytes, sizeof bytes, 0));
    assert_int_equal(getxattr("f", "user.two", NULL, 0), sizeof bytes);
    assert_errno(getxattr("f", "user.two", bytes, 10), ERANGE);
    assert_int_equal(getxattr("f", "user.two", bytes, sizeof bytes), sizeof bytes);
    assert_ok(setxattr("f", "user.empty", "", 0, 0));
    assert_int_equal(getxattr("f", "user.empty", bytes, sizeof bytes), 0);
    assert_int_equal(listxattr("f", bytes, sizeof bytes), 9 + 9 + 11);
    assert_ok(removexattr("f", "user.two"));
    assert_errno(getxattr("f", "user.two", bytes, sizeof bytes), ENODATA);
    assert_errno(removexattr("f", "user.two"), ENODATA);
}

static void other_attributes_do_not_exist(void)
{
    make_file("f", "x");
    if (geteuid() == 0) /* others are stopped before they get to us */
        assert_errno(setxattr("f", "security.other", "x", 1, 0), EOPNOTSUPP);
    assert_errno(getxattr("f", "security.capability", NULL, 0), EOPNOTSUPP);
    assert_errno(getxattr("f", "trusted.x", NULL, 0), geteuid() == 0 ? EOPNOTSUPP : ENODATA);
}

static void holes_are_made_and_found(void)
{
    char bytes[8192];
    int fd = open("f", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    assert_ok(fd);
    assert_ok(fallocate(fd, 0, 0, 8192));
    assert_int_equal(stat_of("f").st_size, 8192);
    int other = open("g", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    assert_ok(other);
    assert_ok(fallocate(other, FALLOC_FL_KEEP_SIZE, 8192, 8192));
    assert_int_equal(stat_of("g").st_size, 0);
    assert_ok(close(other));
    memset(bytes, 'x', sizeof bytes);
    assert_int_equal(pwrite(fd, bytes, sizeof bytes, 0), sizeof bytes);
    assert_int_equal(pwrite(fd, bytes, sizeof bytes, 1 << 20), sizeof bytes);
    assert_ok(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096));
    assert_int_equal(pread(fd, bytes, sizeof bytes, 0), sizeof bytes);
    assert_int_equal(bytes[4095], 'x');
    assert_int_equal(bytes[4096], 0);
    assert_int_equal(lseek(fd, 0, SEEK_HOLE), 4096);
    assert_int_equal(lseek(fd, 4096, SEEK_DATA), 1 << 20);
    assert_errno(lseek(fd, 2 << 20, SEEK_DATA), ENXIO);
    assert_ok(close(fd));
}

static void ranges_are_copied(void)
{
    make_file("a", "0123456789");
    int a = open("a", O_RDONLY | O_CLOEXEC), b = open("b", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    off_t from = 3, to = 2;
    assert_int_equal(copy_file_range(a, &from, b, &to, 100, 0), 7);
    assert_int_equal(from, 10);
    assert_int_equal(to, 9);
    assert_ok(close(a));
    assert_ok(close(b));
    assert_memory_equal((text_of("b")), "\0\0003456789", 9);
}

static void only_files_are_made_by_mknod(void)
{
    assert_ok(mknod("f", S_IFREG | 0640, 0));
    assert_int_equal(stat_of("f").st_mode, S_IFREG | 0640);
    assert_errno(mknod("f", S_IFREG | 0640, 0), EEXIST);
    assert_errno(mkfifo("p", 0644), EPERM);
}

static void maps_and_writes_agree(void)
{
    char bytes[8] = {0};
    int fd = open("f", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    assert_ok(fd);
    assert_ok(ftruncate(fd, 10000));
    char *map = mmap(NULL, 10000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(map, MAP_FAILED);
    memcpy(map + 5000, "mapped", 6);
    assert_int_equal(pread(fd, bytes, 6, 5000), 6);
    assert_string_equal(bytes, "mapped");
    assert_int_equal(pwrite(fd, "writes", 6, 9000), 6);
    assert_memory_equal(map + 9000, "writes", 6);
    assert_ok(msync(map, 10000, MS_SYNC));
    assert_ok(munmap(map, 10000));
    assert_ok(close(fd));
    fd = open("f", O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, bytes, 6, 5000), 6);
    assert_string_equal(bytes, "mapped");
    assert_ok(close(fd));
}

static void syncing_works_on_files_and_folders(void)
{
    int fd = open("f", O_RDWR | O_CREAT | O_SYNC | O_CLOEXEC, 0644);
    assert_ok(fd);
    assert_int_equal(write(fd, "x", 1), 1);
    assert_ok(fsync(fd));
    assert_ok(fdatasync(fd));
    assert_ok(close(fd));
    fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_ok(fd);
    assert_ok(fsync(fd));
    assert_ok(close(fd));
}

/* Runs the function in a child; its result must be what is wanted. */
static void child_gets(int (*function)(void), int want)
{
    pid_t pid = fork();
    assert_ok(pid);
    if (pid == 0)
        _exit(function());
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), want);
}

static int posix_lock_errno(void)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 10};
    int fd = open("f", O_RDWR | O_CLOEXEC);
    return fcntl(fd, F_SETLK, &lock) < 0 ? errno : 0;
}

static int flock_errno(void)
{
    int fd = open("f", O_RDWR | O_CLOEXEC);
    return flock(fd, LOCK_EX | LOCK_NB) < 0 ? errno : 0;
}

static void locks_keep_others_out(void)
{
    make_file("f", "0123456789012345678901234567890123456789");
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 15, .l_len = 1};
    int fd = open("f", O_RDWR | O_CLOEXEC);
    assert_ok(fd);
    assert_ok(fcntl(fd, F_SETLK, &lock));
    child_gets(posix_lock_errno, EAGAIN);
    struct flock ask = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    assert_ok(fcntl(fd, F_GETLK, &ask));
    assert_int_equal(ask.l_type, F_UNLCK); /* one's own do not count */
    lock.l_type = F_UNLCK;
    assert_ok(fcntl(fd, F_SETLK, &lock));
    child_gets(posix_lock_errno, 0);
    lock.l_type = F_WRLCK;
    assert_ok(fcntl(fd, F_SETLK, &lock));
    int other = open("f", O_RDONLY | O_CLOEXEC);
    assert_ok(close(other)); /* any close ends all of the process's locks */
    child_gets(posix_lock_errno, 0);
    assert_ok(flock(fd, LOCK_EX));
    child_gets(flock_errno, EAGAIN);
    assert_ok(flock(fd, LOCK_UN));
    child_gets(flock_errno, 0);
    assert_ok(close(fd));
}

static void rights_are_asked_for(void)
{
    make_file("f", "x");
    assert_ok(chmod("f", 0444));
    assert_ok(access("f", R_OK));
    assert_errno(access("f", X_OK), EACCES);
    if (geteuid() != 0) {
        assert_errno(access("f", W_OK), EACCES);
        assert_errno(open("f", O_WRONLY | O_CLOEXEC), EACCES);
        assert_ok(mkdir("d", 0555));
        assert_errno(open("d/x", O_WRONLY | O_CREAT | O_CLOEXEC, 0644), EACCES);
        assert_ok(chmod("d", 0));
        assert_errno(access("d/x", F_OK), EACCES);
        assert_ok(chmod("d", 0755));
    }
}

static void the_file_system_has_numbers(void)
{
    struct statvfs fs;
    assert_ok(statvfs(".", &fs));
    assert_true(fs.f_blocks > 0 && fs.f_bfree <= fs.f_blocks);
    assert_int_equal(fs.f_namemax, 255);
}

static void programs_are_not_run(void)
{
    make_file("f", "#!/bin/sh\nexit 0\n");
    assert_ok(chmod("f", 0755));
    char *argv[] = {NULL, NULL}, name[] = "./f";
    argv[0] = name;
    assert_errno(execv(name, argv), EACCES);
}

static void odd_names_are_names(void)
{
    static const char *const names[] = {"a b",          "-", "\xff\xfe", "...", "a\\b",
                                        "\xe2\x80\xae", "%s"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        make_file(names[i], names[i]);
        assert_string_equal(text_of(names[i]), names[i]);
    }
}

static void names_with_control_characters_cannot_be_made(void)
{
    assert_errno(open("a\nb", O_WRONLY | O_CREAT | O_CLOEXEC, 0644), EPERM);
    assert_errno(access("a\nb", F_OK), ENOENT);
}

static const struct posix_case cases[] = {
    {"new_files_have_mode_and_owner", new_files_have_mode_and_owner, NULL},
    {"opening_fails_as_it_should", opening_fails_as_it_should, NULL},
    {"bytes_are_where_they_were_written", bytes_are_where_they_were_written, NULL},
    {"appending_goes_to_the_end", appending_goes_to_the_end, NULL},
    {"truncating_sets_the_size", truncating_sets_the_size, NULL},
    {"folders_are_made_and_removed", folders_are_made_and_removed, NULL},
    {"renaming_replaces_what_it_may", renaming_replaces_what_it_may, NULL},
    {"renaming_with_flags", renaming_with_flags, NULL},
    {"a_moved_folder_takes_its_files_along", a_moved_folder_takes_its_files_along, NULL},
    {"links_are_the_same_file", links_are_the_same_file, NULL},
    {"symbolic_links_lead_on", symbolic_links_lead_on, NULL},
    {"modes_are_set_and_kept", modes_are_set_and_kept, NULL},
    {"set_id_bits_are_never_there", set_id_bits_are_never_there,
     "programs of the guest must not get rights of the host"},
    {"files_belong_to_the_user_only", files_belong_to_the_user_only,
     "the guest's users are not the host's"},
    {"times_are_exact", times_are_exact, NULL},
    {"changes_move_the_times", changes_move_the_times, NULL},
    {"removed_files_live_while_open", removed_files_live_while_open, NULL},
    {"replaced_files_live_while_open", replaced_files_live_while_open, NULL},
    {"folders_list_everything_once", folders_list_everything_once, NULL},
    {"folders_can_be_emptied_while_they_are_read", folders_can_be_emptied_while_they_are_read,
     NULL},
    {"user_attributes_are_kept", user_attributes_are_kept, NULL},
    {"other_attributes_do_not_exist", other_attributes_do_not_exist,
     "labels, capabilities and ACLs are each machine's own"},
    {"holes_are_made_and_found", holes_are_made_and_found, NULL},
    {"ranges_are_copied", ranges_are_copied, NULL},
    {"only_files_are_made_by_mknod", only_files_are_made_by_mknod,
     "pipes, sockets and devices do not work across machines"},
    {"maps_and_writes_agree", maps_and_writes_agree, NULL},
    {"syncing_works_on_files_and_folders", syncing_works_on_files_and_folders, NULL},
    {"locks_keep_others_out", locks_keep_others_out, NULL},
    {"rights_are_asked_for", rights_are_asked_for, NULL},
    {"the_file_system_has_numbers", the_file_system_has_numbers, NULL},
    {"programs_are_not_run", programs_are_not_run, "the guest's programs stay in the guest"},
    {"odd_names_are_names", odd_names_are_names, NULL},
    {"names_with_control_characters_cannot_be_made", names_with_control_characters_cannot_be_made,
     "they would control the terminal that lists them"},
};
const struct posix_table posix_basics = {cases, sizeof cases / sizeof *cases};
