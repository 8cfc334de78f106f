/* mkdir, rmdir, unlink, link, symlink, rename, mknod, open, chmod: what names and folders do. */
#include "tests/integration/fs/posix_check.h"

#include <stdio.h>
#include <stdbool.h>

#define NAME_MAX_SIZE 255
#define DEEP          100

/* ---- wrong paths, for every call that takes one ---- */

static int do_open(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd >= 0)
        (void)close(fd);
    return fd;
}

static int do_open_only(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        (void)close(fd);
    return fd;
}

static int do_mkdir(const char *path)
{
    return mkdir(path, 0755);
}

static int do_symlink(const char *path)
{
    return symlink("text", path);
}

static int do_mknod(const char *path)
{
    return mknod(path, S_IFREG | 0644, 0);
}

static int do_link_from(const char *path)
{
    return link(path, "made");
}

static int do_link_to(const char *path)
{
    return link("file", path);
}

static int do_rename_from(const char *path)
{
    return rename(path, "made");
}

static int do_rename_to(const char *path)
{
    return rename("file", path);
}

static int do_chmod(const char *path)
{
    return chmod(path, 0644);
}

static int do_chown(const char *path)
{
    return chown(path, (uid_t)-1, (gid_t)-1);
}

static int do_truncate(const char *path)
{
    return truncate(path, 0);
}

static int do_utimens(const char *path)
{
    return utimensat(AT_FDCWD, path, NULL, 0);
}

static int do_readlink(const char *path)
{
    char text[8];
    return (int)readlink(path, text, sizeof text);
}

static int do_stat(const char *path)
{
    struct stat st;
    return stat(path, &st);
}

static const struct {
    int (*call)(const char *path);
    const char *name;
    bool follows; /* a link at the end */
    bool makes;
} calls[] = {
    {do_open, "open", true, true},
    {do_open_only, "open read-only", true, false},
    {do_mkdir, "mkdir", false, true},
    {do_symlink, "symlink", false, true},
    {do_mknod, "mknod", false, true},
    {do_link_from, "link from", false, false},
    {do_link_to, "link to", false, true},
    {do_rename_from, "rename from", false, false},
    {do_rename_to, "rename to", false, true},
    {rmdir, "rmdir", false, false},
    {unlink, "unlink", false, false},
    {do_chmod, "chmod", true, false},
    {do_chown, "chown", true, false},
    {do_truncate, "truncate", true, false},
    {do_utimens, "utimensat", true, false},
    {do_readlink, "readlink", false, false},
    {do_stat, "stat", true, false},
};

static void expect(size_t call, const char *path, int want)
{
    errno = 0;
    int r = calls[call].call(path);
    if (r >= 0 || errno != want)
        fail_msg("%s %.40s: %d, %s; want %s", calls[call].name, path, r,
                 r < 0 ? strerror(errno) : "done", strerror(want));
}

static void wrong_paths_have_their_errors(void)
{
    char name[NAME_MAX_SIZE + 2], path[5000];
    memset(name, 'n', sizeof name);
    name[NAME_MAX_SIZE + 1] = '\0';
    for (size_t i = 0; i + 2 < sizeof path; i += 2)
        memcpy(path + i, "./", 2);
    path[sizeof path - 2] = 'x';
    path[sizeof path - 1] = '\0';
    make_file("file", "x");
    assert_ok(symlink("loop2", "loop"));
    assert_ok(symlink("loop", "loop2"));
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        expect(i, "file/below", ENOTDIR);
        expect(i, "none/below", ENOENT);
        expect(i, name, ENAMETOOLONG);
        expect(i, path, ENAMETOOLONG);
        expect(i, "loop/below", ELOOP);
        expect(i, "", ENOENT);
        if (calls[i].follows)
            expect(i, "loop", ELOOP);
        if (!calls[i].makes)
            expect(i, "none", ENOENT);
    }
    assert_string_equal(text_of("file"), "x");
}

static void names_have_up_to_255_bytes(void)
{
    char a[NAME_MAX_SIZE + 1], b[NAME_MAX_SIZE + 1], path[2 * NAME_MAX_SIZE + 2];
    memset(a, 'a', NAME_MAX_SIZE);
    memset(b, 'b', NAME_MAX_SIZE);
    a[NAME_MAX_SIZE] = b[NAME_MAX_SIZE] = '\0';
    assert_ok(mkdir(a, 0755));
    (void)snprintf(path, sizeof path, "%s/%s", a, b);
    make_file(path, "text");
    assert_ok(link(path, b));
    assert_ok(unlink(path));
    assert_ok(symlink(b, path));
    assert_ok(unlink(path));
    assert_ok(rename(b, path));
    assert_string_equal(text_of(path), "text");
    assert_ok(unlink(path));
    assert_ok(rmdir(a));
}

static void paths_may_be_deep(void)
{
    char path[2 * DEEP + 8];
    size_t used = 0;
    for (int i = 0; i < DEEP; i++) {
        used += (size_t)snprintf(path + used, sizeof path - used, "%sd", i ? "/" : "");
        assert_ok(mkdir(path, 0755));
    }
    (void)snprintf(path + used, sizeof path - used, "/f");
    make_file(path, "deep");
    assert_string_equal(text_of(path), "deep");
    assert_ok(rename(path, "f"));
    for (; used > 0; used -= used > 1 ? 2 : 1) {
        path[used] = '\0';
        assert_ok(rmdir(path));
    }
}

static void folders_are_at_most_128_deep(void)
{
    int r = 0, depth = 0, at = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    assert_ok(at);
    while (r == 0 && depth < 200) {
        r = mkdirat(at, "d", 0755);
        if (r < 0)
            break;
        int next = openat(at, "d", O_PATH | O_DIRECTORY | O_CLOEXEC);
        assert_ok(next);
        (void)close(at);
        at = next;
        depth++;
    }
    assert_int_equal(errno, ENAMETOOLONG);
    assert_true(depth > 120 && depth <= 128);
    (void)close(at);
}

/* ---- modes ---- */

static void every_mode_can_be_set(void)
{
    make_file("f", "x");
    assert_ok(mkdir("d", 0700));
    for (mode_t mode = 0; mode <= 0777; mode += 7) {
        assert_ok(chmod("f", mode));
        assert_int_equal(stat_of("f").st_mode, S_IFREG | mode);
        assert_ok(chmod("d", mode));
        assert_int_equal(stat_of("d").st_mode, S_IFDIR | mode);
    }
    assert_ok(chmod("d", 0700)); /* so that it can be removed */
}

static void umask_takes_bits_from_everything_that_is_made(void)
{
    static const mode_t masks[] = {0, 022, 077, 0137, 0777};
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
        char f[16], d[16], n[16];
        (void)snprintf(f, sizeof f, "f%zu", i);
        (void)snprintf(d, sizeof d, "d%zu", i);
        (void)snprintf(n, sizeof n, "n%zu", i);
        mode_t before = umask(masks[i]);
        int fd = open(f, O_RDWR | O_CREAT | O_CLOEXEC, 0777);
        int made = mkdir(d, 0777), noded = mknod(n, S_IFREG | 0777, 0);
        (void)umask(before);
        assert_ok(fd);
        assert_ok(made);
        assert_ok(noded);
        assert_int_equal(write(fd, "x", 1), 1); /* who made it may write, whatever the mode */
        assert_ok(close(fd));
        assert_int_equal(stat_of(f).st_mode, S_IFREG | (0777 & ~masks[i]));
        assert_int_equal(stat_of(d).st_mode, S_IFDIR | (0777 & ~masks[i]));
        assert_int_equal(stat_of(n).st_mode, S_IFREG | (0777 & ~masks[i]));
        assert_ok(chmod(d, 0700));
    }
}

static void a_file_of_mode_0_is_open_for_who_made_it(void)
{
    char text[8];
    int fd = open("f", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0);
    assert_ok(fd);
    assert_int_equal(write(fd, "secret", 6), 6);
    assert_int_equal(pread(fd, text, sizeof text, 0), 6);
    assert_ok(ftruncate(fd, 3));
    struct stat st;
    assert_ok(fstat(fd, &st));
    assert_int_equal(st.st_mode, S_IFREG);
    assert_int_equal(st.st_size, 3);
    if (geteuid() != 0)
        assert_errno(open("f", O_RDONLY | O_CLOEXEC), EACCES);
    assert_ok(close(fd));
}

static void rights_of_folders_are_kept(void)
{
    if (geteuid() == 0)
        return; /* root may everything */
    assert_ok(mkdir("d", 0755));
    make_file("d/f", "x");
    make_file("d/g", "x");
    assert_ok(chmod("d", 0555));
    assert_errno(unlink("d/f"), EACCES);
    assert_errno(rename("d/f", "d/h"), EACCES);
    assert_errno(rename("d/f", "h"), EACCES);
    assert_errno(mkdir("d/d", 0755), EACCES);
    assert_errno(symlink("x", "d/l"), EACCES);
    assert_errno(link("d/f", "d/l"), EACCES);
    assert_string_equal(text_of("d/f"), "x");
    assert_ok(chmod("d", 0666)); /* may be listed, not entered */
    assert_errno(open("d/f", O_RDONLY | O_CLOEXEC), EACCES);
    assert_errno(chmod("d/f", 0600), EACCES);
    assert_ok(chmod("d", 0311)); /* may be entered, not listed */
    assert_string_equal(text_of("d/f"), "x");
    assert_errno(open("d", O_RDONLY | O_DIRECTORY | O_CLOEXEC), EACCES);
    assert_ok(chmod("d", 0755));
}

static void rights_of_files_are_kept(void)
{
    static const struct {
        mode_t mode;
        int flags;
        bool want;
    } table[] = {{0400, O_RDONLY, true},  {0400, O_WRONLY, false},
                 {0400, O_RDWR, false},   {0200, O_RDONLY, false},
                 {0200, O_WRONLY, true},  {0200, O_RDWR, false},
                 {0600, O_RDWR, true},    {0077, O_RDONLY, false},
                 {0077, O_WRONLY, false}, {0400, O_RDONLY | O_TRUNC, false}};
    if (geteuid() == 0)
        return;
    make_file("f", "x");
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        assert_ok(chmod("f", table[i].mode));
        int fd = open("f", table[i].flags | O_CLOEXEC);
        if ((fd >= 0) != table[i].want || (fd < 0 && errno != EACCES))
            fail_msg("mode %o, flags %o: %s", table[i].mode, table[i].flags, strerror(errno));
        if (fd >= 0)
            (void)close(fd);
    }
    assert_ok(chmod("f", 0400));
    assert_errno(truncate("f", 0), EACCES);
}

/* ---- links ---- */

static void links_are_counted(void)
{
    char name[16];
    make_file("f", "x");
    ino_t ino = stat_of("f").st_ino;
    for (unsigned i = 1; i < 20; i++) {
        (void)snprintf(name, sizeof name, "l%u", i);
        assert_ok(link(i % 2 ? "f" : "l1", name));
        assert_int_equal(stat_of("f").st_nlink, i + 1);
        assert_int_equal(stat_of(name).st_ino, ino);
    }
    for (unsigned i = 1; i < 20; i++) {
        (void)snprintf(name, sizeof name, "l%u", i);
        assert_ok(unlink(name));
        assert_int_equal(stat_of("f").st_nlink, 20 - i);
    }
}

static void folders_count_their_folders(void)
{
    assert_ok(mkdir("d", 0755));
    make_file("d/f", "x");
    nlink_t alone = stat_of("d").st_nlink;
    assert_ok(mkdir("d/a", 0755));
    assert_ok(mkdir("d/b", 0755));
    assert_int_equal(stat_of("d").st_nlink, alone + 2);
    assert_ok(rename("d/a", "a"));
    assert_int_equal(stat_of("d").st_nlink, alone + 1);
    assert_ok(rename("a", "d/b")); /* replaces it */
    assert_int_equal(stat_of("d").st_nlink, alone + 1);
    assert_ok(rmdir("d/b"));
    assert_int_equal(stat_of("d").st_nlink, alone);
}

static void symbolic_links_can_have_two_names(void)
{
    char text[8] = {0};
    assert_ok(symlink("target", "a"));
    assert_ok(linkat(AT_FDCWD, "a", AT_FDCWD, "b", 0));
    assert_int_equal(stat_of("a").st_ino, stat_of("b").st_ino);
    assert_int_equal(stat_of("b").st_nlink, 2);
    assert_ok(unlink("a"));
    assert_int_equal(readlink("b", text, sizeof text), 6);
    assert_string_equal(text, "target");
    make_file("target", "x");
    assert_ok(linkat(AT_FDCWD, "b", AT_FDCWD, "c", AT_SYMLINK_FOLLOW));
    assert_int_equal(stat_of("c").st_mode & S_IFMT, S_IFREG);
    assert_int_equal(stat_of("c").st_ino, stat_of("target").st_ino);
}

static void texts_of_links_have_up_to_4095_bytes(void)
{
    static char text[4097], back[4097];
    for (size_t i = 0; i < 4096; i++)
        text[i] = i % 100 == 99 ? '/' : 't';
    text[4095] = '\0';
    assert_ok(symlink(text, "l"));
    assert_int_equal(stat_of("l").st_size, 4095);
    assert_int_equal(readlink("l", back, sizeof back), 4095);
    assert_memory_equal(text, back, 4095);
    assert_int_equal(readlink("l", back, 10), 10); /* cut without an error */
    text[4095] = 't';
    text[4096] = '\0';
    assert_errno(symlink(text, "m"), ENAMETOOLONG);
    assert_errno(symlink("", "m"), ENOENT);
}

static void calls_follow_links_or_do_not(void)
{
    make_file("f", "text");
    assert_ok(mkdir("d", 0755));
    assert_ok(symlink("f", "lf"));
    assert_ok(symlink("d", "ld"));
    assert_ok(symlink("made", "lm"));
    assert_ok(chmod("lf", 0600));
    assert_int_equal(stat_of("f").st_mode, S_IFREG | 0600);
    assert_ok(truncate("lf", 2));
    assert_string_equal(text_of("f"), "te");
    make_file("lm", "through"); /* makes what the link names */
    assert_string_equal(text_of("made"), "through");
    assert_int_equal(stat_of("lm").st_mode & S_IFMT, S_IFLNK);
    assert_errno(rmdir("ld"), ENOTDIR);
    assert_errno(mkdir("ld", 0755), EEXIST);
    assert_ok(rename("lf", "moved"));
    assert_int_equal(stat_of("moved").st_mode & S_IFMT, S_IFLNK);
    assert_ok(unlink("ld"));
    assert_int_equal(stat_of("d").st_mode & S_IFMT, S_IFDIR);
    assert_int_equal(stat_of("moved").st_mode & 0777, 0777);
}

/* ---- rename, rmdir, unlink ---- */

static void renaming_onto_the_same_file_does_nothing(void)
{
    make_file("a", "x");
    assert_ok(link("a", "b"));
    assert_ok(rename("a", "b"));
    assert_int_equal(stat_of("a").st_nlink, 2); /* POSIX: both stay */
    assert_ok(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE));
    assert_string_equal(text_of("a"), "x");
}

static void renaming_every_kind_onto_every_kind(void)
{
    static const char *const kinds[] = {"a file", "an empty folder", "a full folder", "a link"};
    static const int want[4][4] = {
        /*           f        d        e          l */
        [0] = {0, EISDIR, EISDIR, 0},           /* file */
        [1] = {ENOTDIR, 0, ENOTEMPTY, ENOTDIR}, /* empty folder */
        [2] = {ENOTDIR, 0, ENOTEMPTY, ENOTDIR}, /* full folder */
        [3] = {0, EISDIR, EISDIR, 0},           /* link */
    };
    for (int from = 0; from < 4; from++)
        for (int to = 0; to < 4; to++) {
            char a[16], b[16], in[24];
            (void)snprintf(a, sizeof a, "a%d%d", from, to);
            (void)snprintf(b, sizeof b, "b%d%d", from, to);
            for (int i = 0; i < 2; i++) {
                int kind = i ? to : from;
                const char *name = i ? b : a;
                (void)snprintf(in, sizeof in, "%s/in", name);
                if (kind == 0)
                    make_file(name, name);
                else if (kind == 3)
                    assert_ok(symlink(name, name));
                else
                    assert_ok(mkdir(name, 0755));
                if (kind == 2)
                    make_file(in, "x");
            }
            struct stat st = stat_of(a);
            int r = rename(a, b) < 0 ? errno : 0;
            if (r != want[from][to])
                fail_msg("%s onto %s: %s", kinds[from], kinds[to], strerror(r));
            if (r == 0) {
                assert_int_equal(stat_of(b).st_ino, st.st_ino);
                assert_errno(lstat(a, &st), ENOENT);
            }
        }
}

static void renaming_dots_and_roots_is_refused(void)
{
    assert_ok(mkdir("d", 0755));
    assert_ok(mkdir("d/e", 0755));
    assert_errno(rename("d/.", "x"), EBUSY);
    assert_errno(rename("d/e/..", "x"), EBUSY);
    assert_errno(rename("d", "d/e/x"), EINVAL);
    assert_errno(rename("d/e", "d"), ENOTEMPTY);
    assert_errno(renameat2(AT_FDCWD, "d", AT_FDCWD, "x", 0x100), EINVAL);
    assert_errno(renameat2(AT_FDCWD, "d", AT_FDCWD, "x", RENAME_NOREPLACE | RENAME_EXCHANGE),
                 EINVAL);
    assert_errno(renameat2(AT_FDCWD, "d", AT_FDCWD, "none", RENAME_EXCHANGE), ENOENT);
    assert_errno(renameat2(AT_FDCWD, "d", AT_FDCWD, "d/e", RENAME_EXCHANGE), EINVAL);
    make_file("f", "x");
    assert_errno(rename("f", "new/"), ENOTDIR);
    assert_errno(rename("f/", "new"), ENOTDIR);
    assert_ok(rename("d/", "new/"));
    assert_int_equal(stat_of("new").st_mode & S_IFMT, S_IFDIR);
}

static void exchanging_moves_both_whatever_they_are(void)
{
    assert_ok(mkdir("d", 0755));
    assert_ok(mkdir("e", 0755));
    make_file("d/in", "d");
    make_file("e/in", "e");
    make_file("f", "file");
    assert_ok(symlink("f", "l"));
    assert_ok(renameat2(AT_FDCWD, "d", AT_FDCWD, "e", RENAME_EXCHANGE));
    assert_string_equal(text_of("d/in"), "e");
    assert_string_equal(text_of("e/in"), "d");
    assert_ok(renameat2(AT_FDCWD, "d", AT_FDCWD, "l", RENAME_EXCHANGE));
    assert_string_equal(text_of("l/in"), "e");
    assert_int_equal(stat_of("d").st_mode & S_IFMT, S_IFLNK);
    assert_ok(renameat2(AT_FDCWD, "e", AT_FDCWD, "l/in", RENAME_EXCHANGE));
    assert_string_equal(text_of("l/in/in"), "d");
    assert_string_equal(text_of("e"), "e");
}

static void open_files_keep_what_they_are_when_renamed(void)
{
    char text[16] = {0};
    make_file("f", "one");
    assert_ok(mkdir("d", 0755));
    int fd = open("f", O_RDWR | O_CLOEXEC);
    assert_ok(fd);
    assert_ok(rename("f", "d/g"));
    assert_int_equal(pwrite(fd, "two", 3, 0), 3);
    assert_string_equal(text_of("d/g"), "two");
    assert_ok(rename("d", "e"));
    assert_int_equal(pwrite(fd, "six", 3, 0), 3);
    assert_string_equal(text_of("e/g"), "six");
    make_file("h", "other");
    assert_ok(rename("h", "e/g"));
    assert_int_equal(pread(fd, text, 3, 0), 3);
    assert_string_equal(text, "six");
    struct stat st;
    assert_ok(fstat(fd, &st));
    assert_int_equal(st.st_nlink, 0);
    assert_ok(close(fd));
}

static void a_removed_working_folder_is_empty_for_good(void)
{
    char before[4096];
    assert_non_null(getcwd(before, sizeof before));
    assert_ok(mkdir("d", 0755));
    assert_ok(chdir("d"));
    assert_ok(rmdir("../d"));
    assert_errno(open("f", O_RDWR | O_CREAT | O_CLOEXEC, 0644), ENOENT);
    assert_errno(mkdir("e", 0755), ENOENT);
    assert_ok(chdir(before));
}

static void removing_says_what_is_wrong(void)
{
    assert_ok(mkdir("d", 0755));
    assert_ok(mkdir("d/e", 0755));
    make_file("f", "x");
    assert_errno(rmdir("d"), ENOTEMPTY);
    assert_errno(rmdir("d/e/.."), ENOTEMPTY);
    assert_errno(rmdir("d/e/."), EINVAL);
    assert_errno(rmdir("f/"), ENOTDIR);
    assert_errno(unlink("f/"), ENOTDIR);
    assert_errno(unlink("d/e/"), EISDIR);
    assert_errno(unlinkat(AT_FDCWD, "f", AT_REMOVEDIR), ENOTDIR);
    assert_errno(unlinkat(AT_FDCWD, "d", 0), EISDIR);
    assert_ok(rmdir("d/e/"));
    assert_ok(rmdir("d"));
    assert_ok(unlink("f"));
}

static void names_are_told_apart_by_every_byte(void)
{
    make_file("name", "1");
    make_file("Name", "2");
    make_file("name ", "3");
    make_file("name.", "4");
    make_file("n\xc3\xa4me", "5");  /* composed */
    make_file("na\xcc\x88me", "6"); /* decomposed */
    assert_string_equal(text_of("name"), "1");
    assert_string_equal(text_of("Name"), "2");
    assert_string_equal(text_of("name "), "3");
    assert_string_equal(text_of("n\xc3\xa4me"), "5");
}

/* ---- open ---- */

static void opening_obeys_its_flags(void)
{
    char text[8];
    make_file("f", "text");
    assert_ok(mkdir("d", 0755));
    assert_ok(symlink("f", "l"));
    int fd = open("f", O_PATH | O_CLOEXEC);
    assert_ok(fd);
    assert_errno(read(fd, text, 1), EBADF);
    struct stat st;
    assert_ok(fstat(fd, &st));
    assert_int_equal(st.st_size, 4);
    assert_ok(close(fd));
    fd = open("l", O_PATH | O_NOFOLLOW | O_CLOEXEC);
    assert_ok(fd);
    assert_ok(fstat(fd, &st));
    assert_int_equal(st.st_mode & S_IFMT, S_IFLNK);
    assert_int_equal(readlinkat(fd, "", text, sizeof text), 1);
    assert_ok(close(fd));
    assert_errno(open("d", O_RDWR | O_CLOEXEC), EISDIR);
    assert_errno(open("d", O_RDONLY | O_CREAT | O_CLOEXEC, 0644), EISDIR);
    assert_errno(open("new/", O_RDWR | O_CREAT | O_CLOEXEC, 0644), EISDIR);
    assert_errno(open("l", O_RDONLY | O_DIRECTORY | O_CLOEXEC), ENOTDIR);
    fd = open("f", O_WRONLY | O_CLOEXEC);
    assert_ok(fd);
    assert_errno(read(fd, text, 1), EBADF);
    assert_ok(close(fd));
    fd = open("f", O_RDONLY | O_CLOEXEC);
    assert_ok(fd);
    assert_errno(write(fd, "x", 1), EBADF);
    assert_ok(close(fd));
    fd = open("f", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0);
    assert_ok(fd);
    assert_int_equal(stat_of("f").st_size, 0);
    assert_int_equal(stat_of("f").st_mode, S_IFREG | 0644); /* only new files get the mode */
    assert_ok(close(fd));
}

static void opening_many_times_is_one_file(void)
{
    int fds[200];
    char text[16] = {0};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        fds[i] = open("f", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        assert_ok(fds[i]);
    }
    assert_int_equal(pwrite(fds[7], "shared", 6, 0), 6);
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        assert_int_equal(pread(fds[i], text, sizeof text, 0), 6);
        assert_ok(close(fds[i]));
    }
    assert_string_equal(text, "shared");
}

static const struct posix_case cases[] = {
    {"wrong_paths_have_their_errors", wrong_paths_have_their_errors, NULL},
    {"names_have_up_to_255_bytes", names_have_up_to_255_bytes, NULL},
    {"paths_may_be_deep", paths_may_be_deep, NULL},
    {"folders_are_at_most_128_deep", folders_are_at_most_128_deep,
     "a guest could make a path without end"},
    {"every_mode_can_be_set", every_mode_can_be_set, NULL},
    {"umask_takes_bits_from_everything_that_is_made", umask_takes_bits_from_everything_that_is_made,
     NULL},
    {"a_file_of_mode_0_is_open_for_who_made_it", a_file_of_mode_0_is_open_for_who_made_it, NULL},
    {"rights_of_folders_are_kept", rights_of_folders_are_kept, NULL},
    {"rights_of_files_are_kept", rights_of_files_are_kept, NULL},
    {"links_are_counted", links_are_counted, NULL},
    {"folders_count_their_folders", folders_count_their_folders, NULL},
    {"symbolic_links_can_have_two_names", symbolic_links_can_have_two_names, NULL},
    {"texts_of_links_have_up_to_4095_bytes", texts_of_links_have_up_to_4095_bytes, NULL},
    {"calls_follow_links_or_do_not", calls_follow_links_or_do_not, NULL},
    {"renaming_onto_the_same_file_does_nothing", renaming_onto_the_same_file_does_nothing, NULL},
    {"renaming_every_kind_onto_every_kind", renaming_every_kind_onto_every_kind, NULL},
    {"renaming_dots_and_roots_is_refused", renaming_dots_and_roots_is_refused, NULL},
    {"exchanging_moves_both_whatever_they_are", exchanging_moves_both_whatever_they_are, NULL},
    {"open_files_keep_what_they_are_when_renamed", open_files_keep_what_they_are_when_renamed,
     NULL},
    {"a_removed_working_folder_is_empty_for_good", a_removed_working_folder_is_empty_for_good,
     NULL},
    {"removing_says_what_is_wrong", removing_says_what_is_wrong, NULL},
    {"names_are_told_apart_by_every_byte", names_are_told_apart_by_every_byte, NULL},
    {"opening_obeys_its_flags", opening_obeys_its_flags, NULL},
    {"opening_many_times_is_one_file", opening_many_times_is_one_file, NULL},
};
const struct posix_table posix_names = {cases, sizeof cases / sizeof *cases};
