/* What writing a memory layer costs: 4 GiB of RAM, 200 MiB of it dirty, in runs as a guest leaves
 * them and in the worst case. No VM: the RAM is a private mapping in a child, as QEMU's is. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "host/supervisor/memory_save.h"
#include "tests/bench/measure.h"

#define PAGE        MEMORY_PAGE_SIZE
#define RAM_SIZE    (4ull << 30)
#define DIRTY_PAGES ((200ull << 20) / PAGE)
#define ROUNDS      5

static int temporary(void)
{
    const char *folder = getenv("TMPDIR");
    int fd = open(folder ? folder : "/var/tmp", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (fd < 0)
        bench_fail("no temporary file: %s", strerror(errno));
    return fd;
}

/* A child that has written DIRTY_PAGES in runs of run pages, spread over its RAM. Returns its pid.
 */
static pid_t start_guest(uint8_t *ram, uint64_t run)
{
    int ready[2];
    char byte = 0;
    if (pipe2(ready, O_CLOEXEC) < 0)
        bench_fail("pipe");
    pid_t pid = fork();
    if (pid == 0) {
        uint64_t step = RAM_SIZE / PAGE / (DIRTY_PAGES / run);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* at worst it stays */
        for (uint64_t i = 0; i < DIRTY_PAGES; i++)
            memset(ram + (i / run * step + i % run) * PAGE, (int)(1 + i % 255), PAGE);
        write_all(ready[1], &byte, 1);
        (void)pause(); /* until it is killed */
        _exit(0);
    }
    if (pid < 0)
        bench_fail("fork");
    read_all(ready[0], &byte, 1);
    (void)close(ready[0]);
    (void)close(ready[1]);
    return pid;
}

static void measure(const char *what, struct memory_save_opts *opts)
{
    struct samples scan = {0}, copy = {0};
    struct memory_save_stats stats;
    struct bg_err err;
    char scan_text[128], copy_text[128];
    for (int i = 0; i < ROUNDS; i++) {
        if (memory_save(opts, &stats, &err) < 0)
            bench_fail("%s", err.text);
        samples_add(&scan, (double)stats.scan_us / 1000);
        samples_add(&copy, (double)stats.copy_us / 1000);
    }
    (void)printf("  %-26s scan %s\n  %26s copy %s\n  %26s %.1f MiB, %llu extents\n", what,
                 samples_text(&scan, "ms", scan_text), "", samples_text(&copy, "ms", copy_text), "",
                 (double)stats.written_bytes / (1 << 20), (unsigned long long)stats.extents);
}

static void bench_runs(uint64_t run)
{
    char path[64], what[64];
    BG_AUTOCLOSE int base = temporary();
    BG_AUTOCLOSE int out = temporary();
    BG_AUTOCLOSE int second = temporary();
    struct memory_layer first;
    if (ftruncate(base, (off_t)RAM_SIZE) < 0)
        bench_fail("ftruncate");
    uint8_t *ram =
        mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, base, 0);
    if (ram == MAP_FAILED)
        bench_fail("mmap");
    pid_t pid = start_guest(ram, run);
    (void)snprintf(path, sizeof path, "/proc/%d/pagemap", pid);
    BG_AUTOCLOSE int pagemap = open(path, O_RDONLY | O_CLOEXEC);
    struct memory_save_opts opts = {.qemu_pid = pid,
                                    .ram_address = (uint64_t)(uintptr_t)ram,
                                    .pagemap_fd = pagemap,
                                    .shared_fd = -1,
                                    .ram_size = RAM_SIZE,
                                    .out_fd = out};
    (void)snprintf(what, sizeof what, "runs of %llu pages", (unsigned long long)run);
    measure(what, &opts);
    if (memory_layer_open(out, RAM_SIZE, &first, NULL) < 0)
        bench_fail("its own layer");
    opts.out_fd = second;
    opts.previous = &first;
    opts.previous_count = 1;
    measure("again, nothing new", &opts);
    memory_layer_done(&first);
    (void)kill(pid, SIGKILL); /* it waits for that */
    (void)waitpid(pid, NULL, 0);
    (void)munmap(ram, RAM_SIZE); /* ours */
}

void bench_layers(void)
{
    static const uint64_t runs[] = {64, 8, 1};
    (void)printf("layers: saving %llu MiB dirty of %llu MiB of RAM\n",
                 (unsigned long long)(DIRTY_PAGES * PAGE >> 20),
                 (unsigned long long)(RAM_SIZE >> 20));
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++)
        bench_runs(runs[i]);
}
