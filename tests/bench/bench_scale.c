/* Many sandboxes of one snapshot: fifty that run, two hundred that sleep, and what one more costs
 * when there are few others and when there are many. */
#include <stdio.h>
#include <string.h>

#include "tests/bench/measure.h"

#define SOURCE   "bench-scale"
#define RUNNING  50
#define SLEEPING 200
#define FEW      10
#define MANY     400
#define ROUNDS   20

static void remove_some(const char *prefix, int count)
{
    for (int i = 0; i < count;) {
        char names[20][32];
        const char *argv[23] = {"rm", "--force"};
        for (int k = 0; k < 20 && i < count; k++, i++) {
            (void)snprintf(names[k], sizeof names[k], "%s-%d", prefix, i);
            argv[2 + k] = names[k];
        }
        (void)timed(getenv("BG_TEST_BELLGLASS"), argv);
    }
}

/* By 20 names a command. */
static double fork_some(const char *prefix, int count, bool start)
{
    double took = 0;
    for (int i = 0; i < count;) {
        char names[20][32];
        const char *argv[26] = {"fork", "-q", start ? "-q" : "--no-start", SOURCE "@1"};
        for (int k = 0; k < 20 && i < count; k++, i++) {
            (void)snprintf(names[k], sizeof names[k], "%s-%d", prefix, i);
            argv[4 + k] = names[k];
        }
        took += timed(getenv("BG_TEST_BELLGLASS"), argv).total_ms;
    }
    return took;
}

static void run_fifty(void)
{
    static const int counts[] = {1, 10, RUNNING};
    (void)printf("  forks   all ready     each   private memory of each\n");
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        struct memory sums[4] = {0};
        double took = fork_some("bench-run", counts[c], /* start= */ true), dirty = 0;
        for (int i = 0; i < counts[c]; i++) {
            char name[32];
            (void)snprintf(name, sizeof name, "bench-run-%d", i);
            sandbox_memory_add(name, sums);
        }
        for (int i = 0; i < 4; i++)
            dirty += (double)sums[i].dirty / 1024 / counts[c];
        (void)printf("  %5d %8.0f ms %5.0f ms %8.1f MiB\n", counts[c], took, took / counts[c],
                     dirty);
        remove_some("bench-run", counts[c]);
    }
}

/* What one more costs beside the others, and that it goes again. */
static void add_round(struct samples s[3])
{
    samples_add(&s[0], BELLGLASS("fork", "-q", "--no-start", SOURCE "@1", "bench-one").total_ms);
    samples_add(&s[1], BELLGLASS("snapshot", "-q", "bench-one", "kept").total_ms);
    (void)BELLGLASS("snapshot", "rm", "-q", "bench-one@kept");
    samples_add(&s[2], BELLGLASS("rm", "bench-one").total_ms);
}

void bench_scale(void)
{
    static struct samples few[3], many[3], listed;
    static const char *const what[] = {"fork --no-start", "snapshot (suspended)", "rm"};
    char text[128];
    (void)BELLGLASS("create", "--memory", "256M", SOURCE);
    (void)BELLGLASS("snapshot", "-q", SOURCE, "1");
    (void)printf("scale: forks of one snapshot of a 256 MiB guest\n");
    run_fifty();
    (void)fork_some("bench-few", FEW, /* start= */ false);
    for (int i = 0; i < ROUNDS; i++)
        add_round(few);
    (void)fork_some("bench-more", SLEEPING - FEW, /* start= */ false);
    for (int i = 0; i < ROUNDS; i++)
        samples_add(&listed, BELLGLASS("ls").total_ms);
    (void)fork_some("bench-many", MANY - SLEEPING, /* start= */ false);
    for (int i = 0; i < MANY - SLEEPING; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "bench-many-%d", i);
        (void)BELLGLASS("snapshot", "-q", name, "1");
    }
    for (int i = 0; i < ROUNDS; i++)
        add_round(many);
    (void)printf("  ls, %d suspended             %s    target < 100\n", SLEEPING,
                 samples_text(&listed, "ms", text));
    (void)printf("  one more beside %d others and beside %d with %d snapshots:\n", FEW, MANY,
                 MANY - SLEEPING);
    for (int i = 0; i < 3; i++)
        (void)printf("  %-22s %6.1f ms  %6.1f ms   ratio %.2f\n", what[i], samples_median(&few[i]),
                     samples_median(&many[i]), samples_median(&many[i]) / samples_median(&few[i]));
    for (int i = 0; i < MANY - SLEEPING; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "bench-many-%d@1", i);
        (void)BELLGLASS("snapshot", "rm", "-q", name);
    }
    remove_some("bench-many", MANY - SLEEPING);
    remove_some("bench-more", SLEEPING - FEW);
    remove_some("bench-few", FEW);
    (void)BELLGLASS("rm", "--force", SOURCE);
    (void)BELLGLASS("snapshot", "rm", "-q", SOURCE "@1");
}
