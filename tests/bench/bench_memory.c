/* What 1, 4 and 8 idle forks of a 512 MiB guest cost, all their processes counted. */
#include <poll.h>
#include <stdio.h>

#include "tests/bench/measure.h"

#define FORKS_MAX 8
#define SETTLE_MS 10000 /* the guest's own start-up work ends; nothing tells us of it */

static void add_sandbox(const char *name, long kib[8])
{
    int qemu = sandbox_pid(name, "qemu_pid");
    const int pids[] = {qemu, parent_of(qemu), sandbox_pid(name, "proxy_pid"),
                        sandbox_pid(name, "launcher_pid")};
    for (int i = 0; i < 4; i++)
        memory_of(pids[i], &kib[2 * i], &kib[2 * i + 1]);
}

void bench_memory(void)
{
    static const int counts[] = {1, 4, FORKS_MAX};
    char names[FORKS_MAX][16];
    int started = 0;
    (void)BELLGLASS("run", "--memory", "512M", "--", "true");
    (void)printf("memory: idle forks of a 512 MiB guest, MiB each\n");
    (void)printf("  forks   private       pss   of private: qemu  supervisor  proxy  launcher\n");
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        for (; started < counts[c]; started++) {
            (void)snprintf(names[started], sizeof names[started], "bench-m%d", started);
            (void)BELLGLASS("create", "--memory", "512M", names[started]);
        }
        (void)poll(NULL, 0, SETTLE_MS);
        long kib[8] = {0};
        for (int i = 0; i < started; i++)
            add_sandbox(names[i], kib);
        double each = 1.0 / 1024 / started;
        (void)printf("  %5d %9.1f %9.1f %17.1f %11.1f %6.1f %9.1f%s\n", started,
                     (double)(kib[0] + kib[2] + kib[4] + kib[6]) * each,
                     (double)(kib[1] + kib[3] + kib[5] + kib[7]) * each, (double)kib[0] * each,
                     (double)kib[2] * each, (double)kib[4] * each, (double)kib[6] * each,
                     c == 0 ? "    target private <= 60" : "");
    }
    for (int i = 0; i < started; i++)
        (void)BELLGLASS("rm", "--force", names[i]);
}
