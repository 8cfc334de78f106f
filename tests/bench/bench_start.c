/* Cold boot to the first output of a command, against fork to the same. */
#include <stdio.h>

#include "tests/bench/measure.h"

#define ROUNDS 10

void bench_start(void)
{
    static struct samples cold, forked, forked_exit, kept;
    char text[128];
    (void)BELLGLASS("run", "--", "true"); /* makes the golden snapshot */
    (void)BELLGLASS("create", "bench-cold");
    (void)BELLGLASS("exec", "bench-cold", "--", "true");
    (void)BELLGLASS("stop", "bench-cold");
    for (int i = 0; i < ROUNDS; i++) {
        /* A stopped sandbox boots its own disk: the same guest without a snapshot. */
        struct timing start = BELLGLASS("start", "bench-cold");
        struct timing first = BELLGLASS("exec", "bench-cold", "--", "echo", "x");
        samples_add(&cold, start.total_ms + first.first_output_ms);
        (void)BELLGLASS("stop", "bench-cold");

        struct timing run = BELLGLASS("run", "--", "echo", "x");
        samples_add(&forked, run.first_output_ms);
        samples_add(&forked_exit, run.total_ms);

        struct timing create = BELLGLASS("create", "bench-fork");
        first = BELLGLASS("exec", "bench-fork", "--", "echo", "x");
        samples_add(&kept, create.total_ms + first.first_output_ms);
        (void)BELLGLASS("rm", "--force", "bench-fork");
    }
    (void)BELLGLASS("rm", "--force", "bench-cold");
    (void)printf("start: to the first output of `echo`\n");
    (void)printf("  cold boot (start, exec)       %s\n", samples_text(&cold, "ms", text));
    (void)printf("  fork (create, exec)           %s\n", samples_text(&kept, "ms", text));
    (void)printf("  fork (run)                    %s\n", samples_text(&forked, "ms", text));
    (void)printf("  fork (run), sandbox removed   %s\n", samples_text(&forked_exit, "ms", text));
    (void)printf("  ratio fork (run) / cold boot  %9.3f    target <= 0.25\n",
                 samples_median(&forked) / samples_median(&cold));
}
