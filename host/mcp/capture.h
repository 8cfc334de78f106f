/* capture: what is kept of a command's output: all of it, or its beginning and its end. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/cleanup.h"

struct capture {
    size_t max;           /* bytes that are kept; the first half of them at the beginning */
    uint64_t total;       /* bytes that came */
    uint8_t *head, *tail; /* owned; tail: a ring */
    size_t head_used, tail_used, tail_at;
};

void capture_init(struct capture *capture, size_t max);
void capture_done(struct capture *capture);

/* Errors: -ENOMEM. */
int capture_add(struct capture *capture, const uint8_t *bytes, size_t size) BG_MUST_CHECK;

/* How many bytes were left out. */
uint64_t capture_lost(const struct capture *capture);

/* What was kept as a JSON text, with a line that says how much is missing where it is; what is not
 * UTF-8 is U+FFFD. NULL: out of memory. */
json_t *capture_text(const struct capture *capture);
