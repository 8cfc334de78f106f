/* truncate, fallocate, copy_file_range, lseek, O_TMPFILE, O_APPEND, mmap: what bytes do. */
#include "tests/integration/fs/posix_check.h"

#include <linux/falloc.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/statvfs.h>
#include <sys/uio.h>

#define PAGE          4096
#define APPENDERS     3u
#define APPENDS       200u
#define APPEND_RECORD 16u

static int open_new(const char *name)
{
    int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    assert_ok(fd);
    return fd;
}

static void fill(char *bytes, size_t size, char with)
{
    memset(bytes, with, size);
}

/* ---- sizes ---- */

static void growing_a_file_fills_it_with_zeros(void)
{
    char bytes[3 * PAGE], zeros[PAGE] = {0};
    int fd = open_new("f");
    fill(bytes, sizeof bytes, 'x');
    assert_int_equal(pwrite(fd, bytes, sizeof bytes, 0), sizeof bytes);
    assert_ok(ftruncate(fd, 100)); /* what was behind must not come back */
    assert_ok(ftruncate(fd, sizeof bytes));
    assert_int_equal(pread(fd, bytes, sizeof bytes, 0), sizeof bytes);
    assert_int_equal(bytes[99], 'x');
    assert_memory_equal(bytes + 100, zeros, PAGE);
    assert_int_equal(pwrite(fd, "end", 3, 10 * PAGE), 3);
    assert_int_equal(pread(fd, bytes, PAGE, 5 * PAGE), PAGE);
    assert_memory_equal(bytes, zeros, PAGE);
    assert_ok(close(fd));
}

static void truncating_says_what_is_wrong(void)
{
    make_file("f", "text");
    assert_ok(mkdir("d", 0755));
    assert_errno(truncate("f", -1), EINVAL);
    assert_errno(truncate("d", 0), EISDIR);
    int fd = open("f", O_RDONLY | O_CLOEXEC);
    assert_ok(fd);
    assert_errno(ftruncate(fd, 0), EINVAL);
    assert_ok(close(fd));
    fd = open("d", O_RDONLY | O_CLOEXEC);
    assert_ok(fd);
    assert_errno(ftruncate(fd, 0), EINVAL);
    assert_ok(close(fd));
    assert_string_equal(text_of("f"), "text");
}

static void sizes_beyond_the_limit_are_refused(void)
{
    struct rlimit before, limit;
    assert_ok(getrlimit(RLIMIT_FSIZE, &before));
    limit = (struct rlimit){.rlim_cur = 8192, .rlim_max = before.rlim_max};
    char bytes[PAGE];
    fill(bytes, sizeof bytes, 'x');
    int fd = open_new("f");
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_ok(setrlimit(RLIMIT_FSIZE, &limit));
    int cut = ftruncate(fd, 8193) < 0 ? errno : 0;
    ssize_t inside = pwrite(fd, bytes, PAGE, 8192 - 100); /* as much as fits */
    int outside = pwrite(fd, bytes, 1, 8192) < 0 ? errno : 0;
    assert_ok(setrlimit(RLIMIT_FSIZE, &before));
    (void)signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(cut, EFBIG);
    assert_int_equal(inside, 100);
    assert_int_equal(outside, EFBIG);
    assert_int_equal(stat_of("f").st_size, 8192);
    assert_ok(close(fd));
}

static void files_may_be_huge_and_empty(void)
{
    int fd = open_new("f");
    const off_t huge = (off_t)1 << 40;
    assert_ok(ftruncate(fd, huge));
    assert_int_equal(pwrite(fd, "end", 3, huge - 3), 3);
    char text[4] = {0};
    assert_int_equal(pread(fd, text, 4, huge - 3), 3);
    assert_string_equal(text, "end");
    struct stat st = stat_of("f");
    assert_true(st.st_size == huge);
    assert_true(st.st_blocks < 1024);
    assert_int_equal(lseek(fd, 0, SEEK_END), huge);
    assert_ok(close(fd));
}

/* ---- space ---- */

static void space_is_taken_and_given_back(void)
{
    char bytes[4 * PAGE], zeros[PAGE] = {0};
    int fd = open_new("f");
    fill(bytes, sizeof bytes, 'x');
    assert_int_equal(posix_fallocate(fd, 0, sizeof bytes), 0);
    assert_int_equal(stat_of("f").st_size, sizeof bytes);
    assert_true(stat_of("f").st_blocks >= 4 * PAGE / 512);
    assert_int_equal(pread(fd, bytes, PAGE, PAGE), PAGE);
    assert_memory_equal(bytes, zeros, PAGE);
    fill(bytes, sizeof bytes, 'x');
    assert_int_equal(pwrite(fd, bytes, sizeof bytes, 0), sizeof bytes);
    assert_int_equal(posix_fallocate(fd, PAGE, PAGE), 0); /* leaves what is there */
    assert_int_equal(pread(fd, bytes, 1, PAGE), 1);
    assert_int_equal(bytes[0], 'x');
    assert_ok(fallocate(fd, FALLOC_FL_ZERO_RANGE, PAGE, PAGE));
    assert_int_equal(pread(fd, bytes, PAGE, PAGE), PAGE);
    assert_memory_equal(bytes, zeros, PAGE);
    assert_ok(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * PAGE + 10, 100));
    assert_int_equal(pread(fd, bytes, PAGE, 2 * PAGE), PAGE);
    assert_int_equal(bytes[9], 'x');
    assert_int_equal(bytes[10], 0);
    assert_int_equal(bytes[109], 0);
    assert_int_equal(bytes[110], 'x');
    assert_ok(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 100 * PAGE));
    assert_int_equal(stat_of("f").st_size, sizeof bytes);
    assert_ok(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, 100 * PAGE));
    assert_int_equal(stat_of("f").st_size, sizeof bytes);
    assert_ok(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 5 * PAGE));
    assert_int_equal(stat_of("f").st_size, 5 * PAGE);
    assert_ok(close(fd));
}

static void allocating_says_what_is_wrong(void)
{
    int fd = open_new("f");
    assert_errno(fallocate(fd, 0, 0, 0), EINVAL);
    assert_errno(fallocate(fd, 0, -1, 10), EINVAL);
    assert_errno(fallocate(fd, 0, 0, -1), EINVAL);
    assert_errno(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 10), EOPNOTSUPP);
    assert_ok(close(fd));
    fd = open("f", O_RDONLY | O_CLOEXEC);
    assert_errno(fallocate(fd, 0, 0, 10), EBADF);
    assert_ok(close(fd));
    fd = open(".", O_RDONLY | O_CLOEXEC);
    assert_errno(fallocate(fd, 0, 0, 10), EBADF);
    assert_ok(close(fd));
}

static void files_are_not_shifted(void)
{
    int fd = open_new("f");
    assert_ok(ftruncate(fd, 16 * PAGE));
    assert_errno(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, PAGE), EOPNOTSUPP);
    assert_errno(fallocate(fd, FALLOC_FL_INSERT_RANGE, 0, PAGE), EOPNOTSUPP);
    assert_ok(close(fd));
}

static void holes_and_data_alternate(void)
{
    char bytes[PAGE];
    int fd = open_new("f");
    const off_t step = 1 << 20;
    fill(bytes, sizeof bytes, 'x');
    for (int i = 0; i < 4; i++)
        assert_int_equal(pwrite(fd, bytes, PAGE, i * step), PAGE);
    assert_ok(ftruncate(fd, 4 * step));
    assert_ok(fsync(fd));
    for (int i = 0; i < 4; i++) {
        assert_int_equal(lseek(fd, i * step, SEEK_DATA), i * step);
        assert_int_equal(lseek(fd, i * step, SEEK_HOLE), i * step + PAGE);
        if (i < 3)
            assert_int_equal(lseek(fd, i * step + PAGE, SEEK_DATA), (i + 1) * step);
    }
    assert_errno(lseek(fd, 3 * step + PAGE, SEEK_DATA), ENXIO);
    assert_errno(lseek(fd, 4 * step, SEEK_HOLE), ENXIO);
    assert_errno(lseek(fd, -1, SEEK_DATA), ENXIO);
    assert_errno(lseek(fd, -1, SEEK_SET), EINVAL);
    assert_errno(lseek(fd, 0, 99), EINVAL);
    assert_int_equal(lseek(fd, 10, SEEK_SET), 10);
    assert_int_equal(lseek(fd, 5, SEEK_CUR), 15);
    assert_ok(close(fd));
    make_file("g", "full");
    fd = open("g", O_RDONLY | O_CLOEXEC);
    assert_int_equal(lseek(fd, 0, SEEK_HOLE), 4); /* the end counts as one */
    assert_ok(close(fd));
}

/* ---- copies ---- */

static void ranges_are_copied_within_and_between_files(void)
{
    const size_t size = 3u << 20;
    char *bytes = malloc(size), *back = malloc(size);
    assert_non_null(bytes);
    assert_non_null(back);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)(i * 7 + i / 1000);
    int a = open_new("a"), b = open_new("b");
    assert_int_equal(write(a, bytes, size), size);
    off_t from = 0, to = 5;
    while ((size_t)from < size) {
        ssize_t n = copy_file_range(a, &from, b, &to, size - (size_t)from, 0);
        assert_true(n > 0);
    }
    assert_int_equal(copy_file_range(a, &from, b, &to, 100, 0), 0); /* the end */
    assert_int_equal(pread(b, back, size, 5), size);
    assert_memory_equal(bytes, back, size);
    from = 0;
    to = 10;
    assert_errno(copy_file_range(a, &from, a, &to, 100, 0), EINVAL); /* they overlap */
    to = (off_t)size;
    assert_int_equal(copy_file_range(a, &from, a, &to, 100, 0), 100);
    assert_int_equal(pread(a, back, 100, (off_t)size), 100);
    assert_memory_equal(bytes, back, 100);
    assert_errno(copy_file_range(a, &from, b, &to, 100, 1), EINVAL);
    int only = open("a", O_RDONLY | O_CLOEXEC);
    from = to = 0;
    assert_errno(copy_file_range(a, &from, only, &to, 100, 0), EBADF);
    assert_ok(close(only));
    assert_ok(close(a));
    assert_ok(close(b));
    free(bytes);
    free(back);
}

static void the_kernel_moves_bytes_without_us(void)
{
    char text[32] = {0}, bytes[PAGE];
    int pipes[2], a, b;
    fill(bytes, sizeof bytes, 'p');
    make_file("a", "0123456789");
    a = open("a", O_RDONLY | O_CLOEXEC);
    b = open_new("b");
    off_t from = 2;
    assert_int_equal(sendfile(b, a, &from, 5), 5);
    assert_int_equal(pread(b, text, sizeof text, 0), 5);
    assert_string_equal(text, "23456");
    assert_ok(pipe2(pipes, O_CLOEXEC));
    assert_int_equal(write(pipes[1], bytes, PAGE), PAGE);
    off_t to = 100;
    assert_int_equal(splice(pipes[0], NULL, b, &to, PAGE, 0), PAGE);
    assert_int_equal(pread(b, text, 4, 4000), 4);
    assert_memory_equal(text, "pppp", 4);
    from = 0;
    assert_int_equal(splice(a, &from, pipes[1], NULL, 10, 0), 10);
    assert_int_equal(read(pipes[0], text, sizeof text), 10);
    assert_memory_equal(text, "0123456789", 10);
    assert_ok(close(pipes[0]));
    assert_ok(close(pipes[1]));
    assert_ok(close(a));
    assert_ok(close(b));
}

static void vectors_are_one_piece(void)
{
    char one[4] = "one", two[4] = "two", back[8] = {0}, rest[8] = {0};
    struct iovec out[2] = {{one, 3}, {two, 3}}, in[2] = {{back, 2}, {rest, 8}};
    int fd = open_new("f");
    assert_int_equal(writev(fd, out, 2), 6);
    assert_int_equal(pwritev(fd, out, 2, 6), 6);
    assert_int_equal(preadv(fd, in, 2, 1), 10);
    assert_memory_equal(back, "ne", 2);
    assert_memory_equal(rest, "twoonetw", 8);
    assert_int_equal(pwritev2(fd, out, 2, 0, RWF_APPEND), 6);
    assert_int_equal(stat_of("f").st_size, 18);
    assert_int_equal(pwritev2(fd, out, 2, 0, RWF_DSYNC), 6);
    assert_ok(close(fd));
}

/* ---- files without a name ---- */

static void files_without_a_name_are_like_others(void)
{
    char text[8] = {0}, path[64];
    struct stat st;
    int fd = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0640);
    assert_ok(fd);
    assert_ok(fstat(fd, &st));
    assert_int_equal(st.st_nlink, 0);
    assert_int_equal(st.st_mode, S_IFREG | 0640);
    assert_int_equal(st.st_uid, geteuid());
    assert_int_equal(write(fd, "text", 4), 4);
    assert_int_equal(pread(fd, text, 8, 0), 4);
    assert_ok(ftruncate(fd, 2));
    assert_ok(fchmod(fd, 0600));
    assert_ok(fsync(fd));
    assert_errno(rmdir("."), EINVAL);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    assert_ok(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    assert_ok(fstat(fd, &st));
    assert_int_equal(st.st_nlink, 1);
    assert_int_equal(st.st_ino, stat_of("named").st_ino);
    assert_ok(close(fd));
    assert_string_equal(text_of("named"), "te");
    assert_int_equal(stat_of("named").st_mode, S_IFREG | 0600);
}

static void files_without_a_name_may_be_kept_so(void)
{
    char path[64];
    int fd = open(".", O_TMPFILE | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    assert_ok(fd);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    assert_errno(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW), ENOENT);
    assert_ok(close(fd));
    assert_errno(open("none", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), ENOENT);
    assert_errno(open(".", O_TMPFILE | O_RDONLY | O_CLOEXEC, 0600), EINVAL);
}

/* ---- several at once ---- */

static void appends_of_several_processes_are_all_there(void)
{
    pid_t pids[APPENDERS];
    for (unsigned p = 0; p < APPENDERS; p++) {
        pids[p] = fork();
        assert_ok(pids[p]);
        if (pids[p] != 0)
            continue;
        int fd = open("log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        for (unsigned i = 0; i < APPENDS; i++) {
            char record[APPEND_RECORD + 1];
            (void)snprintf(record, sizeof record, "%5u %8u\n", p, i); /* 15 bytes and one more */
            record[APPEND_RECORD - 1] = '\n';
            if (fd < 0 || write(fd, record, APPEND_RECORD) != APPEND_RECORD)
                _exit(1);
        }
        _exit(0);
    }
    for (unsigned p = 0; p < APPENDERS; p++)
        assert_int_equal(status_of(pids[p]), 0);
    assert_int_equal(stat_of("log").st_size, APPENDERS * APPENDS * APPEND_RECORD);
    unsigned next[APPENDERS] = {0};
    FILE *file = fopen("log", "re");
    assert_non_null(file);
    for (unsigned i = 0; i < APPENDERS * APPENDS; i++) {
        unsigned who, number;
        assert_int_equal(fscanf(file, "%u %u", &who, &number), 2);
        assert_true(who < APPENDERS);
        assert_int_equal(number, next[who]++); /* each one's own are in order */
    }
    (void)fclose(file);
}

static void a_write_at_a_place_appends_when_opened_so(void)
{
    make_file("f", "text");
    int fd = open("f", O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_ok(fd);
    assert_int_equal(pwrite(fd, "more", 4, 0), 4); /* Linux; POSIX would overwrite */
    assert_ok(close(fd));
    assert_string_equal(text_of("f"), "textmore");
}

static void what_one_process_writes_another_reads(void)
{
    int to[2], back[2];
    char byte = 0, text[16];
    make_file("f", "0");
    assert_ok(pipe2(to, O_CLOEXEC));
    assert_ok(pipe2(back, O_CLOEXEC));
    pid_t pid = fork();
    assert_ok(pid);
    if (pid == 0) {
        int fd = open("f", O_RDWR | O_CLOEXEC);
        for (int i = 1; i <= 50; i++) {
            int n = snprintf(text, sizeof text, "%d", i);
            if (pwrite(fd, text, (size_t)n, 0) != n || write(back[1], "x", 1) != 1 ||
                read(to[0], &byte, 1) != 1)
                _exit(1);
        }
        _exit(0);
    }
    int fd = open("f", O_RDWR | O_CLOEXEC);
    assert_ok(fd);
    for (int i = 1; i <= 50; i++) {
        assert_int_equal(read(back[0], &byte, 1), 1);
        ssize_t n = pread(fd, text, sizeof text - 1, 0);
        assert_true(n > 0);
        text[n] = '\0';
        assert_int_equal(strtol(text, NULL, 10), i);
        assert_int_equal(write(to[1], "x", 1), 1);
    }
    assert_int_equal(status_of(pid), 0);
    assert_ok(close(fd));
    for (int i = 0; i < 2; i++) {
        assert_ok(close(to[i]));
        assert_ok(close(back[i]));
    }
}

/* ---- maps ---- */

static void shared_maps_are_seen_by_other_processes(void)
{
    int fd = open_new("f");
    assert_ok(ftruncate(fd, 2 * PAGE));
    char *map = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(map, MAP_FAILED);
    pid_t pid = fork();
    assert_ok(pid);
    if (pid == 0) {
        int other = open("f", O_RDWR | O_CLOEXEC);
        char *theirs = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0);
        if (other < 0 || theirs == MAP_FAILED)
            _exit(1);
        memcpy(theirs + PAGE, "from the child", 15);
        _exit(munmap(theirs, 2 * PAGE) < 0);
    }
    assert_int_equal(status_of(pid), 0);
    assert_string_equal(map + PAGE, "from the child");
    memcpy(map, "from the parent", 16);
    assert_ok(msync(map, 2 * PAGE, MS_SYNC));
    assert_ok(close(fd)); /* the map stays */
    memcpy(map + 100, "later", 6);
    pid = fork();
    assert_ok(pid);
    if (pid == 0) {
        char text[128];
        int other = open("f", O_RDONLY | O_CLOEXEC);
        _exit(pread(other, text, sizeof text, 0) != sizeof text ||
              strcmp(text, "from the parent") != 0 || strcmp(text + 100, "later") != 0);
    }
    assert_int_equal(status_of(pid), 0);
    assert_ok(unlink("f"));
    memcpy(map + 200, "even then", 10);
    assert_ok(msync(map, 2 * PAGE, MS_SYNC));
    assert_string_equal(map + 200, "even then");
    assert_ok(munmap(map, 2 * PAGE));
}

static void private_maps_change_nothing(void)
{
    make_file("f", "text");
    int fd = open("f", O_RDONLY | O_CLOEXEC);
    assert_ok(fd);
    char *map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    assert_ptr_not_equal(map, MAP_FAILED);
    map[0] = 'n';
    assert_int_equal(map[10], 0); /* the rest of the page */
    assert_string_equal(text_of("f"), "text");
    assert_ok(munmap(map, PAGE));
    errno = 0;
    assert_ptr_equal(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    assert_int_equal(errno, EACCES);
    assert_ok(close(fd));
}

/* ---- direct and synchronous ---- */

static void direct_and_cached_see_the_same(void)
{
    char *bytes = aligned_alloc(PAGE, 2 * PAGE), text[PAGE];
    assert_non_null(bytes);
    int cached = open_new("f");
    fill(bytes, 2 * PAGE, 'd');
    int direct = open("f", O_RDWR | O_DIRECT | O_CLOEXEC);
    assert_ok(direct);
    assert_int_equal(pwrite(direct, bytes, 2 * PAGE, 0), 2 * PAGE);
    assert_int_equal(pread(cached, text, PAGE, PAGE), PAGE);
    assert_memory_equal(text, bytes, PAGE);
    assert_int_equal(pwrite(cached, "cached", 6, 0), 6);
    assert_int_equal(pread(direct, bytes, PAGE, 0), PAGE);
    assert_memory_equal(bytes, "cachedd", 7);
    assert_int_equal(pwrite(direct, bytes, PAGE, PAGE), PAGE);
    assert_int_equal(pread(cached, text, PAGE, PAGE), PAGE);
    assert_memory_equal(text, "cachedd", 7);
    assert_ok(close(direct));
    assert_ok(close(cached));
    free(bytes);
}

static void everything_can_be_synced(void)
{
    int fd = open_new("f"), dir = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(write(fd, "x", 1), 1);
    assert_ok(fdatasync(fd));
    assert_ok(fsync(fd));
    assert_ok(syncfs(fd));
    assert_ok(sync_file_range(fd, 0, 1,
                              SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                  SYNC_FILE_RANGE_WAIT_AFTER));
    assert_ok(fsync(dir));
    assert_ok(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
    assert_ok(close(dir));
    assert_ok(close(fd));
}

/* ---- open and gone ---- */

static void a_removed_file_can_do_everything_but_be_found(void)
{
    char bytes[2 * PAGE], path[64];
    struct stat st;
    make_file("f", "text");
    assert_ok(link("f", "g"));
    int fd = open("f", O_RDWR | O_CLOEXEC);
    assert_ok(fd);
    assert_ok(unlink("f"));
    assert_ok(fstat(fd, &st));
    assert_int_equal(st.st_nlink, 1);
    assert_ok(unlink("g"));
    assert_ok(fstat(fd, &st));
    assert_int_equal(st.st_nlink, 0);
    assert_ok(ftruncate(fd, sizeof bytes));
    assert_ok(fallocate(fd, 0, 0, 3 * PAGE));
    const struct timespec times[2] = {{.tv_sec = 5}, {.tv_sec = 6, .tv_nsec = 7}};
    assert_ok(futimens(fd, times));
    assert_ok(fchmod(fd, 0400));
    assert_ok(fstat(fd, &st));
    assert_int_equal(st.st_size, 3 * PAGE);
    assert_int_equal(st.st_mtim.tv_sec, 6);
    assert_int_equal(st.st_mtim.tv_nsec, 7);
    assert_int_equal(st.st_mode & 0777, 0400);
    assert_ok(fchmod(fd, 0600));
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = open(path, O_RDWR | O_CLOEXEC); /* Linux: opened by what it is */
    assert_ok(again);
    assert_int_equal(pwrite(again, "again", 5, 0), 5);
    assert_int_equal(pread(fd, bytes, 5, 0), 5);
    assert_memory_equal(bytes, "again", 5);
    assert_ok(close(again));
    assert_ok(close(fd));
}

static const struct posix_case cases[] = {
    {"growing_a_file_fills_it_with_zeros", growing_a_file_fills_it_with_zeros, NULL},
    {"truncating_says_what_is_wrong", truncating_says_what_is_wrong, NULL},
    {"sizes_beyond_the_limit_are_refused", sizes_beyond_the_limit_are_refused, NULL},
    {"files_may_be_huge_and_empty", files_may_be_huge_and_empty, NULL},
    {"space_is_taken_and_given_back", space_is_taken_and_given_back, NULL},
    {"allocating_says_what_is_wrong", allocating_says_what_is_wrong, NULL},
    {"files_are_not_shifted", files_are_not_shifted,
     "the kernel's FUSE client knows no collapsing and inserting of ranges"},
    {"holes_and_data_alternate", holes_and_data_alternate, NULL},
    {"ranges_are_copied_within_and_between_files", ranges_are_copied_within_and_between_files,
     NULL},
    {"the_kernel_moves_bytes_without_us", the_kernel_moves_bytes_without_us, NULL},
    {"vectors_are_one_piece", vectors_are_one_piece, NULL},
    {"files_without_a_name_are_like_others", files_without_a_name_are_like_others, NULL},
    {"files_without_a_name_may_be_kept_so", files_without_a_name_may_be_kept_so, NULL},
    {"appends_of_several_processes_are_all_there", appends_of_several_processes_are_all_there,
     NULL},
    {"a_write_at_a_place_appends_when_opened_so", a_write_at_a_place_appends_when_opened_so, NULL},
    {"what_one_process_writes_another_reads", what_one_process_writes_another_reads, NULL},
    {"shared_maps_are_seen_by_other_processes", shared_maps_are_seen_by_other_processes, NULL},
    {"private_maps_change_nothing", private_maps_change_nothing, NULL},
    {"direct_and_cached_see_the_same", direct_and_cached_see_the_same, NULL},
    {"everything_can_be_synced", everything_can_be_synced, NULL},
    {"a_removed_file_can_do_everything_but_be_found", a_removed_file_can_do_everything_but_be_found,
     NULL},
};
const struct posix_table posix_data = {cases, sizeof cases / sizeof *cases};
