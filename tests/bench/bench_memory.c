/* What 1, 4 and 8 idle forks of a 512 MiB guest cost, all their processes counted. */
#include <poll.h>
#include <stdio.h>

#include "tests/bench/measure.h"

#define FORKS_MAX 8
#define SETTLE_MS 10000 /* the guest's own start-up work ends; nothing tells us of it */

void bench_memory(void)
{
    static const int counts[] = {1, 4, FORKS_MAX};
    char names[FORKS_MAX][16];
    int started = 0;
    (void)BELLGLASS("run", "--memory", "512M", "--", "true");
    (void)printf("memory: idle forks of a 512 MiB guest, MiB each\n");
    (void)printf(
        "  forks   private = dirty + clean       pss   of private: qemu  supervisor  proxy  "
        "launcher\n");
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        for (; started < counts[c]; started++) {
            (void)snprintf(names[started], sizeof names[started], "bench-m%d", started);
            (void)BELLGLASS("create", "--memory", "512M", names[started]);
        }
        (void)poll(NULL, 0, SETTLE_MS);
        struct memory sums[4] = {0};
        for (int i = 0; i < started; i++)
            sandbox_memory_add(names[i], sums);
        double each = 1.0 / 1024 / started, dirty = 0, clean = 0, pss = 0, private[4];
        for (int i = 0; i < 4; i++) {
            private[i] = (double)(sums[i].dirty + sums[i].clean) * each;
            dirty += (double)sums[i].dirty * each;
            clean += (double)sums[i].clean * each;
            pss += (double)sums[i].pss * each;
        }
        (void)printf("  %5d %9.1f %7.1f %7.1f %9.1f %17.1f %11.1f %6.1f %9.1f%s\n", started,
                     dirty + clean, dirty, clean, pss, private[0], private[1], private[2],
                     private[3], c == 0 ? "    target private <= 60" : "");
    }
    for (int i = 0; i < started; i++)
        (void)BELLGLASS("rm", "--force", names[i]);
}
