/* metrics: what a gateway counts, and that as Prometheus reads it (text format 0.0.4). Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/limits.h"

#define METRIC_NAME_SIZE 48

/* Counts by name, such as a method's. Names come from lists of our own, so there are few; what is
 * too much goes to "other". */
struct metric_family {
    struct {
        char name[METRIC_NAME_SIZE]; /* what is longer is cut off */
        uint64_t count;
    } list[BG_GATEWAY_METRICS_MAX];
    size_t count;
    uint64_t other;
};

void metric_count(struct metric_family *family, const char *name);

/* Upper bounds in ms: a fork takes some tenths of a second with KVM, some seconds without. */
#define METRIC_BOUNDS_MS                                                                           \
    {                                                                                              \
        50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000                                   \
    }
#define METRIC_BOUNDS 10

struct metric_histogram {
    uint64_t counts[METRIC_BOUNDS + 1]; /* each of its own range; the last: above all bounds */
    uint64_t sum_ms;
};

void metric_observe(struct metric_histogram *histogram, uint64_t ms);

/* What only grows. */
struct metrics {
    uint64_t connections, refused_connections, requests;
    uint64_t bytes_in, bytes_out;            /* of clients' sockets; with TLS, as encrypted */
    uint64_t streams_in, streams_out;        /* begun by clients, and by us */
    uint64_t suspended, woken;               /* by the gateway */
    struct metric_family calls, call_errors; /* by method; by class */
    struct metric_family refusals;           /* of HTTP, by code */
    struct metric_histogram create;          /* of those that were made */
    uint64_t create_failed;
};

/* A sandbox that there is. */
struct metric_sandbox {
    const char *token, *state; /* borrowed */
    uint64_t memory_bytes;
};

/* What there is now. */
struct metrics_now {
    uint64_t connections, websockets, tunnels;
    const struct metric_sandbox *sandboxes;
    size_t sandbox_count;
};

/* The text: heap, the caller's; NULL: out of memory. */
char *metrics_text(const struct metrics *metrics, const struct metrics_now *now);
