/* mount-load WHAT ARGS: the loops over files that tests/bench/mount/run times, without a script's
 * own time in them. Works in the current folder.
 *
 *   write FILE MIB               1 MiB at a time, then fsync
 *   read FILE MIB                1 MiB at a time
 *   read4k FILE MIB COUNT        4 KiB at random places
 *   direct4k FILE MIB COUNT      the same with O_DIRECT
 *   write4k FILE MIB COUNT       the same, writing, then fsync
 *   stat|missing|open LIST       each path in the file LIST: its status; of a name that is not
 *                                there; open, read all and close
 *   create|unlink|save DIR COUNT empty files; removes them; writes one anew as an editor does:
 *                                temporary file, fsync, rename
 *   small DIR COUNT              folders with ten files of 1 to 4 KiB each
 *
 * Prints one number: MB/s or operations a second. Ends with status 1 when anything fails: a
 * benchmark with failures is none. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/cleanup.h"

#define MIB       ((size_t)1 << 20)
#define PAGE      4096u
#define COUNT_MAX 10000000u
#define PATH_ROOM 1024u

struct job {
    const char *what, *path;
    uint64_t mib, count;
    uint8_t *buffer; /* MIB bytes, aligned for O_DIRECT */
    uint64_t random;
};

static void fail(const char *what)
{
    (void)fprintf(stderr, "mount-load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now_s(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* xorshift64: the same places on every side. */
static uint64_t next_random(struct job *job)
{
    job->random ^= job->random << 13;
    job->random ^= job->random >> 7;
    job->random ^= job->random << 17;
    return job->random;
}

static int open_file(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0644);
    if (fd < 0)
        fail(path);
    return fd;
}

static void close_file(int fd)
{
    if (close(fd) < 0)
        fail("close");
}

static void put(int fd, const void *bytes, size_t size)
{
    if (write(fd, bytes, size) != (ssize_t)size)
        fail("write");
}

static double stream(struct job *job, bool writes)
{
    double start = now_s();
    int fd = open_file(job->path, writes ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY);
    for (uint64_t i = 0; i < job->mib; i++) {
        if (writes)
            put(fd, job->buffer, MIB);
        else if (read(fd, job->buffer, MIB) != (ssize_t)MIB)
            fail("read");
    }
    if (writes && fsync(fd) < 0)
        fail("fsync");
    close_file(fd);
    return (double)(job->mib * MIB) / 1e6 / (now_s() - start);
}

static double random_pages(struct job *job, bool writes, int flags)
{
    double start = now_s();
    int fd = open_file(job->path, (writes ? O_WRONLY : O_RDONLY) | flags);
    for (uint64_t i = 0; i < job->count; i++) {
        off_t at = (off_t)(next_random(job) % (job->mib * (MIB / PAGE)) * PAGE);
        ssize_t n = writes ? pwrite(fd, job->buffer, PAGE, at) : pread(fd, job->buffer, PAGE, at);
        if (n != PAGE)
            fail(writes ? "pwrite" : "pread");
    }
    if (writes && fsync(fd) < 0)
        fail("fsync");
    close_file(fd);
    return (double)job->count / (now_s() - start);
}

static void visit(struct job *job, const char *path)
{
    struct stat st;
    char other[PATH_ROOM + 4];
    if (strcmp(job->what, "stat") == 0) {
        if (lstat(path, &st) < 0)
            fail(path);
    } else if (strcmp(job->what, "missing") == 0) {
        (void)snprintf(other, sizeof other, "%s.no", path);
        if (lstat(other, &st) == 0 || errno != ENOENT)
            fail(other);
    } else {
        int fd = open_file(path, O_RDONLY);
        ssize_t n;
        while ((n = read(fd, job->buffer, MIB)) > 0)
            ;
        if (n < 0)
            fail(path);
        close_file(fd);
    }
}

static double list(struct job *job)
{
    char line[PATH_ROOM];
    FILE *file = fopen(job->path, "re");
    if (!file)
        fail(job->path);
    double start = now_s();
    uint64_t count = 0;
    for (; fgets(line, sizeof line, file); count++) {
        line[strcspn(line, "\n")] = '\0';
        visit(job, line);
    }
    (void)fclose(file);
    return (double)count / (now_s() - start);
}

static void save(const struct job *job, uint64_t i)
{
    char path[PATH_ROOM], temporary[PATH_ROOM];
    (void)snprintf(path, sizeof path, "%s/saved%u", job->path, (unsigned)(i % 10));
    (void)snprintf(temporary, sizeof temporary, "%s/.saved.tmp", job->path);
    int fd = open_file(temporary, O_WRONLY | O_CREAT | O_EXCL);
    put(fd, job->buffer, 2 * PAGE);
    if (fsync(fd) < 0)
        fail("fsync");
    close_file(fd);
    if (rename(temporary, path) < 0)
        fail("rename");
}

static void small(struct job *job, uint64_t i)
{
    char path[PATH_ROOM];
    (void)snprintf(path, sizeof path, "%s/package%u", job->path, (unsigned)(i / 10));
    if (i % 10 == 0 && mkdir(path, 0755) < 0)
        fail(path);
    (void)snprintf(path, sizeof path, "%s/package%u/file%u.js", job->path, (unsigned)(i / 10),
                   (unsigned)(i % 10));
    int fd = open_file(path, O_WRONLY | O_CREAT | O_EXCL);
    put(fd, job->buffer, 1024 + next_random(job) % 3072);
    close_file(fd);
}

static double files(struct job *job)
{
    char path[PATH_ROOM];
    double start = now_s();
    for (uint64_t i = 0; i < job->count; i++) {
        (void)snprintf(path, sizeof path, "%s/new%06u", job->path, (unsigned)i);
        if (strcmp(job->what, "create") == 0)
            close_file(open_file(path, O_WRONLY | O_CREAT | O_EXCL));
        else if (strcmp(job->what, "unlink") == 0 && unlink(path) < 0)
            fail(path);
        else if (strcmp(job->what, "save") == 0)
            save(job, i);
        else if (strcmp(job->what, "small") == 0)
            small(job, i);
    }
    return (double)job->count / (now_s() - start);
}

static double run(struct job *job)
{
    static const char *const rates[] = {"create", "unlink", "save", "small"};
    if (strcmp(job->what, "write") == 0 || strcmp(job->what, "read") == 0)
        return stream(job, job->what[0] == 'w');
    if (strcmp(job->what, "read4k") == 0 || strcmp(job->what, "write4k") == 0)
        return random_pages(job, job->what[0] == 'w', 0);
    if (strcmp(job->what, "direct4k") == 0)
        return random_pages(job, false, O_DIRECT);
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        if (strcmp(job->what, rates[i]) == 0)
            return files(job);
    return list(job);
}

int main(int argc, char **argv)
{
    struct job job = {.random = 0x9e3779b97f4a7c15u};
    void *buffer = NULL;
    if (argc < 3 || posix_memalign(&buffer, PAGE, MIB) != 0)
        return 2;
    job.what = argv[1];
    job.path = argv[2];
    job.buffer = buffer;
    bool sized = strstr(job.what, "read") || strstr(job.what, "write") || strstr(job.what, "4k");
    if (sized && (argc < 4 || bg_parse_u64(argv[3], 1, COUNT_MAX, &job.mib) < 0))
        return 2;
    if (argc > 3 && bg_parse_u64(argv[argc - 1], 1, COUNT_MAX, &job.count) < 0)
        return 2;
    for (size_t i = 0; i < MIB; i++)
        job.buffer[i] = (uint8_t)(next_random(&job) >> 32);
    (void)printf("%.3f\n", run(&job));
    free(buffer);
    return 0;
}
