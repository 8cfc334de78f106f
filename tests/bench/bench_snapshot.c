/* Snapshot, fork, suspend and resume of guests of three sizes, idle and with much of their memory
 * written, by turns; each against what QEMU does by itself from that very snapshot: savevm, loadvm,
 * migrate to a file and from it. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/state/snapshot.h"
#include "tests/bench/bare_qemu.h"
#include "tests/bench/measure.h"

#define SOURCE "bench-snapshot"
#define ROUNDS 5
#define MANY   10
#define MIB    (1024.0 * 1024.0)

/* What is measured of a guest. */
enum what {
    PAUSE,
    STREAM_PAUSE,
    SNAPSHOT,
    DIRTY,
    WRITTEN,
    AGAIN_PAUSE,
    AGAIN_WRITTEN,
    FREED_PAUSE,
    FREED_WRITTEN,
    FORK,
    FORK_OUTPUT,
    FORK_MANY,
    CHILD_MEMORY,
    SUSPEND,
    RESUME_OUTPUT,
    SAVEVM,
    LOADVM,
    MIGRATE,
    MIGRATE_DOWN,
    MIGRATE_LOAD,
    WHATS
};

static const struct {
    const char *text, *unit;
} rows[WHATS] = {
    [PAUSE] = {"snapshot: vCPUs stand still", "ms"},
    [STREAM_PAUSE] = {"snapshot: streams stand still", "ms"},
    [SNAPSHOT] = {"snapshot: in the store", "ms"},
    [DIRTY] = {"snapshot: dirty memory", "MiB"},
    [WRITTEN] = {"snapshot: written", "MiB"},
    [AGAIN_PAUSE] = {"another at once: vCPUs stand still", "ms"},
    [AGAIN_WRITTEN] = {"another at once: written", "MiB"},
    [FREED_PAUSE] = {"freed before: vCPUs stand still", "ms"},
    [FREED_WRITTEN] = {"freed before: written", "MiB"},
    [FORK] = {"fork: ready", "ms"},
    [FORK_OUTPUT] = {"fork, exec: first output", "ms"},
    [FORK_MANY] = {"fork of ten: all ready", "ms"},
    [CHILD_MEMORY] = {"child: private memory of QEMU", "MiB"},
    [SUSPEND] = {"suspend", "ms"},
    [RESUME_OUTPUT] = {"resume, exec: first output", "ms"},
    [SAVEVM] = {"QEMU: savevm", "ms"},
    [LOADVM] = {"QEMU: loadvm", "ms"},
    [MIGRATE] = {"QEMU: migrate to a file", "ms"},
    [MIGRATE_DOWN] = {"QEMU: of that, vCPUs stand still", "ms"},
    [MIGRATE_LOAD] = {"QEMU: start from that file", "ms"},
};

/* With so little memory a guest cannot have 200 MiB written. */
static const struct guest {
    unsigned memory_mib, dirty_mib;
} guests[] = {{256, 0}, {1024, 0}, {4096, 0}, {256, 100}, {1024, 200}, {4096, 200}};
#define GUESTS (sizeof guests / sizeof *guests)

static struct samples results[GUESTS][WHATS];
static struct samples written_ratio, pause_ratio[GUESTS], many_ratio, size_ratio, freed_ratio;

static const char *text_of(char buffer[64], const char *format, ...) BG_PRINTF(2, 3);
static const char *text_of(char buffer[64], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(buffer, 64, format, args);
    va_end(args);
    return buffer;
}

/* ---- ours ---- */

static void make_source(const struct guest *guest)
{
    char memory[64], script[512];
    (void)BELLGLASS("create", "--memory", text_of(memory, "%uM", guest->memory_mib), SOURCE);
    if (guest->dirty_mib == 0) {
        (void)BELLGLASS("exec", SOURCE, "--", "true");
        return;
    }
    (void)snprintf(script, sizeof script,
                   "setsid python3 -c '\n"
                   "import threading\n"
                   "size = %u << 20\n"
                   "memory = bytearray(size)\n"
                   "for at in range(0, size, 4096):\n"
                   "    memory[at:at + 8] = at.to_bytes(8, \"little\")\n"
                   "    memory[at + 4088] = 1\n"
                   "open(\"/tmp/written\", \"w\")\n"
                   "threading.Event().wait()' </dev/null >/dev/null 2>&1 &\n"
                   "until [ -e /tmp/written ]; do sleep 0.1; done",
                   guest->dirty_mib);
    (void)BELLGLASS("exec", SOURCE, "--", "sh", "-c", script);
}

static void add_number(struct samples *to, const json_t *answer, const char *key, double scale)
{
    const json_t *value = json_object_get(answer, key);
    if (!json_is_number(value))
        bench_fail("the snapshot's answer has no %s", key);
    samples_add(to, json_number_value(value) / scale);
}

static json_t *take(const char *tag)
{
    char request[64];
    json_t *answer =
        sandbox_ask(SOURCE, text_of(request, "{\"op\":\"snapshot\",\"tag\":\"%s\"}", tag));
    if (!json_is_true(json_object_get(answer, "ok")))
        bench_fail("snapshot: %s", json_string_value(json_object_get(answer, "error")));
    return answer;
}

static void snapshot(struct samples *s)
{
    double start = now_ms();
    json_t *answer = take("one");
    samples_add(&s[SNAPSHOT], now_ms() - start);
    add_number(&s[PAUSE], answer, "pause_ms", 1);
    add_number(&s[STREAM_PAUSE], answer, "stream_pause_ms", 1);
    add_number(&s[DIRTY], answer, "dirty_bytes", MIB);
    add_number(&s[WRITTEN], answer, "written_bytes", MIB);
    samples_add(&written_ratio, json_number_value(json_object_get(answer, "written_bytes")) /
                                    json_number_value(json_object_get(answer, "dirty_bytes")));
    json_decref(answer);
    answer = take("two");
    add_number(&s[AGAIN_PAUSE], answer, "pause_ms", 1);
    add_number(&s[AGAIN_WRITTEN], answer, "written_bytes", MIB);
    json_decref(answer);
}

/* Of another one, whose program has ended before: nothing has saved what it wrote. */
static void freed(const struct guest *guest, struct samples *s)
{
    make_source(guest);
    (void)BELLGLASS("exec", SOURCE, "--", "sh", "-c",
                    "pkill python3; while pgrep python3 >/dev/null; do sleep 0.1; done");
    json_t *answer = take("freed");
    add_number(&s[FREED_PAUSE], answer, "pause_ms", 1);
    add_number(&s[FREED_WRITTEN], answer, "written_bytes", MIB);
    json_decref(answer);
    const struct samples *full = &s[WRITTEN], *left = &s[FREED_WRITTEN];
    samples_add(&freed_ratio, left->values[left->count - 1] / full->values[full->count - 1]);
    (void)BELLGLASS("rm", "--force", SOURCE);
    (void)BELLGLASS("snapshot", "rm", SOURCE "@freed");
}

static double fork_one(struct samples *s)
{
    struct memory sums[4] = {0};
    struct timing fork = BELLGLASS("fork", SOURCE "@one", "bench-child");
    struct timing first = BELLGLASS("exec", "bench-child", "--", "echo", "x");
    samples_add(&s[FORK], fork.total_ms);
    samples_add(&s[FORK_OUTPUT], fork.total_ms + first.first_output_ms);
    sandbox_memory_add("bench-child", sums);
    samples_add(&s[CHILD_MEMORY], (double)sums[0].dirty / 1024);
    (void)BELLGLASS("rm", "--force", "bench-child");
    return fork.total_ms;
}

static double fork_many(struct samples *s)
{
    char names[MANY][64];
    const char *argv[MANY + 4] = {"fork", SOURCE "@one"}, **at = argv + 2;
    for (unsigned i = 0; i < MANY; i++)
        *at++ = text_of(names[i], "bench-child-%u", i);
    double took = timed(getenv("BG_TEST_BELLGLASS"), argv).total_ms;
    samples_add(&s[FORK_MANY], took);
    argv[0] = "rm";
    argv[1] = "--force";
    (void)timed(getenv("BG_TEST_BELLGLASS"), argv);
    return took;
}

static void suspend(struct samples *s)
{
    samples_add(&s[SUSPEND], BELLGLASS("suspend", SOURCE).total_ms);
    struct timing resume = BELLGLASS("resume", SOURCE);
    struct timing first = BELLGLASS("exec", SOURCE, "--", "echo", "x");
    samples_add(&s[RESUME_OUTPUT], resume.total_ms + first.first_output_ms);
}

/* ---- QEMU's ---- */

static double migrated(const struct bare_qemu *qemu, struct samples *s)
{
    for (;;) {
        json_t *value = bare_qemu_ask(qemu, "query-migrate", NULL, -1);
        const char *status = json_string_value(json_object_get(value, "status"));
        if (status && strcmp(status, "failed") == 0)
            bench_fail("QEMU: migrate failed");
        if (status && strcmp(status, "completed") == 0) {
            double total = json_number_value(json_object_get(value, "total-time"));
            add_number(&s[MIGRATE_DOWN], value, "downtime", 1);
            json_decref(value);
            return total;
        }
        json_decref(value);
        (void)poll(NULL, 0, 2); /* nothing tells us */
    }
}

static void migrate(const struct bg_paths *paths, const struct bg_snapshot *snapshot,
                    struct bare_qemu *qemu, struct samples *s, const char *top, const char *file)
{
    BG_AUTOCLOSE int fd = open(file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        bench_fail("%s: %s", file, strerror(errno));
    /* Its default is that of a slow network. */
    json_decref(bare_qemu_ask(qemu, "migrate-set-parameters",
                              json_pack("{s:I}", "max-bandwidth", (json_int_t)INT64_C(1) << 34),
                              -1));
    json_decref(bare_qemu_ask(qemu, "getfd", json_pack("{s:s}", "fdname", "out"), fd));
    json_decref(bare_qemu_ask(qemu, "migrate", json_pack("{s:s}", "uri", "fd:out"), -1));
    samples_add(&s[MIGRATE], migrated(qemu, s));
    bare_qemu_end(qemu);
    if (lseek(fd, 0, SEEK_SET) != 0)
        bench_fail("%s: %s", file, strerror(errno));
    double start = now_ms();
    *qemu = bare_qemu_start(paths, snapshot, top, fd);
    samples_add(&s[MIGRATE_LOAD], now_ms() - start);
}

static double compare(const struct bg_paths *paths, struct samples *s)
{
    char top[PATH_MAX], file[PATH_MAX];
    struct bg_snapshot snapshot;
    struct bg_err err;
    if (bg_snapshot_load(paths, SOURCE "@one", &snapshot, &err) < 0)
        bench_fail("%s", err.text);
    (void)snprintf(top, sizeof top, "%s/bare-top.qcow2", getenv("BELLGLASS_HOME"));
    (void)snprintf(file, sizeof file, "%s/bare-migrated", getenv("BELLGLASS_HOME"));
    struct bare_qemu qemu = bare_qemu_start(paths, &snapshot, top, -1);
    double start = now_ms();
    bare_qemu_say(&qemu, "savevm x");
    double saved = now_ms() - start;
    samples_add(&s[SAVEVM], saved);
    start = now_ms();
    bare_qemu_say(&qemu, "loadvm x");
    samples_add(&s[LOADVM], now_ms() - start);
    bare_qemu_end(&qemu);
    qemu = bare_qemu_start(paths, &snapshot, top, -1);
    migrate(paths, &snapshot, &qemu, s, top, file);
    bare_qemu_end(&qemu);
    (void)unlink(top);
    (void)unlink(file);
    bg_snapshot_done(&snapshot);
    return saved;
}

/* ---- together ---- */

static void measure(const struct bg_paths *paths, size_t guest, double *ret_output)
{
    struct samples *s = results[guest];
    make_source(&guests[guest]);
    snapshot(s);
    double one = fork_one(s);
    *ret_output = s[FORK_OUTPUT].values[s[FORK_OUTPUT].count - 1];
    if (guests[guest].dirty_mib == 0)
        samples_add(&many_ratio, fork_many(s) / one);
    double pause = s[PAUSE].values[s[PAUSE].count - 1];
    samples_add(&pause_ratio[guest], pause / compare(paths, s));
    suspend(s);
    (void)BELLGLASS("rm", "--force", SOURCE);
    (void)BELLGLASS("snapshot", "rm", SOURCE "@one", SOURCE "@two");
    if (guests[guest].dirty_mib > 0)
        freed(&guests[guest], s);
}

static void print_row(enum what what)
{
    (void)printf("  %-36s", rows[what].text);
    for (size_t i = 0; i < GUESTS; i++)
        if (results[i][what].count == 0)
            (void)printf("%11s", "");
        else
            (void)printf("%11.1f", samples_median(&results[i][what]));
    (void)printf(" %s\n", rows[what].unit);
}

static void print(int rounds)
{
    (void)printf("snapshot: medians of %d rounds, by turns\n  %-36s", rounds, "guest, MiB");
    for (size_t i = 0; i < GUESTS; i++)
        (void)printf("%11u", guests[i].memory_mib);
    (void)printf("\n  %-36s", "written by it beforehand, MiB");
    for (size_t i = 0; i < GUESTS; i++)
        (void)printf("%11u", guests[i].dirty_mib);
    (void)printf("\n");
    for (int what = 0; what < WHATS; what++)
        print_row((enum what)what);
    (void)printf("  %-36s", "pause / savevm");
    for (size_t i = 0; i < GUESTS; i++)
        (void)printf("%11.3f", samples_median(&pause_ratio[i]));
    (void)printf("      target <= 0.1 with 4096\n");
    (void)printf("  written / dirty                      %10.3f      target <= 1.1\n",
                 samples_median(&written_ratio));
    (void)printf("  written, freed before / in use       %10.3f\n", samples_median(&freed_ratio));
    (void)printf("  first output, 4096 / 256             %10.2f      target <= 1.3\n",
                 samples_median(&size_ratio));
    (void)printf("  fork of ten / of one                 %10.2f      target <= 3\n",
                 samples_median(&many_ratio));
}

void bench_snapshot(void)
{
    struct bg_paths paths;
    struct bg_err err;
    const char *wanted = getenv("BG_BENCH_ROUNDS");
    int rounds = wanted ? (int)strtol(wanted, NULL, 10) : ROUNDS;
    if (bg_paths_init(&paths, &err) < 0)
        bench_fail("%s", err.text);
    for (size_t i = 0; i < GUESTS / 2; i++) { /* their golden snapshots */
        char memory[64];
        (void)BELLGLASS("run", "--memory", text_of(memory, "%uM", guests[i].memory_mib), "--",
                        "true");
    }
    for (int round = 0; round < rounds; round++) {
        double output[GUESTS];
        for (size_t i = 0; i < GUESTS; i++)
            measure(&paths, i, &output[i]);
        samples_add(&size_ratio, output[2] / output[0]);
        samples_add(&size_ratio, output[5] / output[3]);
    }
    print(rounds);
    bg_paths_done(&paths);
}
