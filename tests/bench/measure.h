/* measure: what the benchmarks share: samples and their median and spread, timed commands, streams
 * opened through a sandbox's control socket. A benchmark ends the program when anything fails. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include "common/cleanup.h"
#include "common/wire.h"

#define SAMPLES_MAX 4096

struct samples {
    double values[SAMPLES_MAX];
    size_t count;
};

void samples_add(struct samples *samples, double value);
/* The q-quantile, 0 <= q <= 1, by nearest rank. Sorts. */
double samples_quantile(struct samples *samples, double q);
double samples_median(struct samples *samples);
/* "123.4 ms (p5 120.1, p95 130.0, n 10)". text: 128 bytes. Returns text. */
const char *samples_text(struct samples *samples, const char *unit, char text[128]);

double now_ms(void);

/* Says what failed and exits. */
_Noreturn void bench_fail(const char *format, ...) BG_PRINTF(1, 2);

/* One command from fork to exit. */
struct timing {
    double first_output_ms, total_ms;
    double cpu_ms; /* of the command itself, user and system */
};

/* Runs a program with the arguments (NULL-terminated, without its name). Must succeed. */
struct timing timed(const char *program, const char *const *argv);

/* The same with $BG_TEST_BELLGLASS. */
#define BELLGLASS(...) timed(getenv("BG_TEST_BELLGLASS"), (const char *const[]){__VA_ARGS__, NULL})

/* Asks a sandbox's supervisor: request is one line of JSON without its end. A new reference to the
 * answer, which may be one of failure. */
json_t *sandbox_ask(const char *sandbox, const char *request);
/* A field of the supervisor's status. */
int sandbox_pid(const char *sandbox, const char *field);
/* The process that started it. */
int parent_of(int pid);
/* User and system time that the process has used, in ms, to the clock tick. */
double cpu_of(int pid);
/* In KiB. Clean: pages of files that no other process maps now; the next fork shares them. */
struct memory {
    long dirty, clean, pss;
};

/* Adds the process's private memory and its proportional share. */
void memory_add(int pid, struct memory *sum);
/* The same of a sandbox's processes, each into its own: QEMU, supervisor, proxy, launcher. */
void sandbox_memory_add(const char *sandbox, struct memory sums[4]);

/* Opens a stream to the agent through the control socket, its reply read. */
int stream_open(const char *sandbox, const char *kind, const void *body, size_t body_size);
void read_all(int fd, void *bytes, size_t size);
void write_all(int fd, const void *bytes, size_t size);

/* The benchmarks. */
void bench_start(void);
void bench_exec(void);
void bench_vsock(const char *images, const char *modules);
void bench_memory(void);
void bench_layers(void);
void bench_snapshot(void);
void bench_scale(void);
