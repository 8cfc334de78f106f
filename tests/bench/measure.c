#include "tests/bench/measure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "common/io.h"
#include "common/state/sandbox.h"

void bench_fail(const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    (void)fprintf(stderr, "bench: %s\n", text);
    exit(1);
}

void samples_add(struct samples *samples, double value)
{
    if (samples->count == SAMPLES_MAX)
        bench_fail("more than %d samples", SAMPLES_MAX);
    samples->values[samples->count++] = value;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double samples_quantile(struct samples *samples, double q)
{
    if (samples->count == 0)
        return 0;
    qsort(samples->values, samples->count, sizeof *samples->values, compare);
    size_t rank = (size_t)(q * (double)(samples->count - 1) + 0.5);
    return samples->values[rank];
}

double samples_median(struct samples *samples)
{
    return samples_quantile(samples, 0.5);
}

const char *samples_text(struct samples *samples, const char *unit, char text[128])
{
    (void)snprintf(text, 128, "%9.1f %s (p5 %.1f, p95 %.1f, n %zu)", samples_median(samples), unit,
                   samples_quantile(samples, 0.05), samples_quantile(samples, 0.95),
                   samples->count);
    return text;
}

double now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail with this clock */
    return (double)now.tv_sec * 1000 + (double)now.tv_nsec / 1e6;
}

void read_all(int fd, void *bytes, size_t size)
{
    int r = bg_read_full(fd, bytes, size);
    if (r < 0)
        bench_fail("read: %s", strerror(-r));
}

void write_all(int fd, const void *bytes, size_t size)
{
    int r = bg_write_full(fd, bytes, size);
    if (r < 0)
        bench_fail("write: %s", strerror(-r));
}

struct timing timed(const char *program, const char *const *argv)
{
    char *all[32] = {NULL};
    size_t count = 0;
    int out[2];
    if (!program)
        bench_fail("BG_TEST_BELLGLASS is not set");
    memcpy(&all[count++], &program, sizeof program); /* execv writes to none of them */
    for (; *argv && count < 31; argv++)
        memcpy(&all[count++], argv, sizeof *argv);
    if (pipe2(out, O_CLOEXEC) < 0)
        bench_fail("pipe: %s", strerror(errno));
    double start = now_ms();
    pid_t pid = fork();
    if (pid < 0)
        bench_fail("fork: %s", strerror(errno));
    if (pid == 0) {
        if (dup2(out[1], 1) < 0)
            _exit(126);
        (void)execv(program, all);
        _exit(126);
    }
    (void)close(out[1]);
    struct timing timing = {0};
    char chunk[4096];
    while (read(out[0], chunk, sizeof chunk) > 0)
        if (timing.first_output_ms == 0)
            timing.first_output_ms = now_ms() - start;
    (void)close(out[0]);
    int status;
    struct rusage usage;
    if (wait4(pid, &status, 0, &usage) != pid || status != 0)
        bench_fail("%s %s: status 0x%x", program, all[1] ? all[1] : "", status);
    timing.total_ms = now_ms() - start;
    timing.cpu_ms = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
                    (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
    return timing;
}

static int control_connect(const char *sandbox)
{
    struct bg_paths paths;
    struct bg_sandbox s;
    struct bg_err err;
    int fd;
    if (bg_paths_init(&paths, &err) < 0 || bg_sandbox_load(&paths, sandbox, &s, &err) < 0 ||
        bg_sandbox_connect(&paths, &s, &fd, &err) < 0)
        bench_fail("%s", err.text);
    bg_sandbox_done(&s);
    bg_paths_done(&paths);
    return fd;
}

json_t *sandbox_ask(const char *sandbox, const char *request)
{
    BG_AUTOCLOSE int fd = control_connect(sandbox);
    write_all(fd, request, strlen(request));
    write_all(fd, "\n", 1);
    json_t *answer = json_loadfd(fd, JSON_DISABLE_EOF_CHECK, NULL);
    if (!answer)
        bench_fail("%s: no answer to %s", sandbox, request);
    return answer;
}

int sandbox_pid(const char *sandbox, const char *field)
{
    json_t *status = sandbox_ask(sandbox, "{\"op\":\"status\"}");
    int pid = (int)json_integer_value(json_object_get(status, field));
    json_decref(status);
    if (pid <= 1)
        bench_fail("%s: no %s", sandbox, field);
    return pid;
}

/* The fields of /proc/PID/stat behind the name, which may hold anything. */
static char *stat_fields(int pid)
{
    char path[64], *text;
    (void)snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (bg_read_file(AT_FDCWD, path, 4096, &text, NULL, NULL) < 0)
        bench_fail("%s: gone", path);
    const char *paren = strrchr(text, ')');
    char *rest = paren ? strdup(paren + 2) : NULL;
    free(text);
    if (!rest)
        bench_fail("%s: malformed", path);
    return rest;
}

int parent_of(int pid)
{
    BG_AUTOFREE char *fields = stat_fields(pid);
    return (int)strtol(fields + 2, NULL, 10); /* state, then ppid (proc(5)) */
}

double cpu_of(int pid)
{
    BG_AUTOFREE char *fields = stat_fields(pid);
    char *at = fields;
    for (int i = 3; i < 14; i++) /* utime is field 14, stime 15 */
        at = strchr(at, ' ') + 1;
    unsigned long user = strtoul(at, &at, 10), system_time = strtoul(at, NULL, 10);
    return (double)(user + system_time) * 1000 / (double)sysconf(_SC_CLK_TCK);
}

void memory_add(int pid, struct memory *sum)
{
    char path[64];
    BG_AUTOFREE char *text = NULL;
    (void)snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    if (bg_read_file(AT_FDCWD, path, 1 << 16, &text, NULL, NULL) < 0)
        bench_fail("%s: cannot be read", path);
    const struct {
        const char *name;
        long *sum;
    } fields[] = {{"\nPrivate_Dirty:", &sum->dirty},
                  {"\nPrivate_Clean:", &sum->clean},
                  {"\nPss:", &sum->pss}};
    for (size_t i = 0; i < 3; i++) {
        const char *found = strstr(text, fields[i].name);
        if (found)
            *fields[i].sum += strtol(found + strlen(fields[i].name), NULL, 10);
    }
}

void sandbox_memory_add(const char *sandbox, struct memory sums[4])
{
    int qemu = sandbox_pid(sandbox, "qemu_pid");
    const int pids[] = {qemu, parent_of(qemu), sandbox_pid(sandbox, "proxy_pid"),
                        sandbox_pid(sandbox, "launcher_pid")};
    for (int i = 0; i < 4; i++)
        memory_add(pids[i], &sums[i]);
}

int stream_open(const char *sandbox, const char *kind, const void *body, size_t body_size)
{
    char line[512];
    int fd = control_connect(sandbox);
    int n = snprintf(line, sizeof line, "{\"op\":\"open\",\"kind\":\"%s\",\"body_size\":%zu}\n",
                     kind, body_size);
    write_all(fd, line, (size_t)n);
    write_all(fd, body, body_size);
    size_t used = 0;
    do { /* byte by byte: what follows the line is the stream */
        read_all(fd, line + used, 1);
    } while (line[used++] != '\n' && used < sizeof line);
    if (!memmem(line, used, "true", 4))
        bench_fail("open %s: %.*s", kind, (int)used, line);
    uint8_t header[BG_REPLY_HEADER_SIZE], text[BG_REPLY_TEXT_MAX];
    struct bg_reply_header reply;
    struct bg_err err;
    read_all(fd, header, sizeof header);
    if (bg_reply_header_parse(header, sizeof header, &reply, &err) < 0)
        bench_fail("open %s: %s", kind, err.text);
    read_all(fd, text, reply.body_size);
    if (reply.status < 0)
        bench_fail("open %s: %s", kind, strerror(-reply.status));
    return fd;
}
