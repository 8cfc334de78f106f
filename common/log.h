/* One-line logging for the edges. The logger is a value that main makes and passes down. Each line
 * is `TIME LEVEL TAG: text`, escaped to one line of printable ASCII/UTF-8, written by one write().
 */
#pragma once

#include "common/cleanup.h"

enum bg_log_level { BG_LOG_ERROR, BG_LOG_WARN, BG_LOG_INFO, BG_LOG_DEBUG };

struct bg_log {
    int fd;                  /* borrowed; negative: drop everything */
    enum bg_log_level level; /* lines above it are dropped */
    const char *tag;         /* borrowed for the logger's life: "vm=web", "proxy" */
};

/* Writes one line; longer than 1 KiB is cut. log may be NULL: no-op. Never fails: a log line that
 * cannot be written is lost. */
void bg_log(const struct bg_log *log, enum bg_log_level level, const char *format, ...)
    BG_PRINTF(3, 4);
