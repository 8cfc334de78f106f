#include "common/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/quote.h"

#define LINE_SIZE 1024

void bg_log(const struct bg_log *log, enum bg_log_level level, const char *format, ...)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    if (!log || log->fd < 0 || level > log->level)
        return;
    char text[LINE_SIZE];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);

    struct timespec now;
    struct tm utc;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail with this clock */
    (void)gmtime_r(&now.tv_sec, &utc);
    char line[LINE_SIZE + 128];
    int used = snprintf(line, sizeof line,
                        "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ %s %s: ", utc.tm_year + 1900,
                        utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                        now.tv_nsec / 1000000, names[level], log->tag ? log->tag : "-");
    if (used < 0 || (size_t)used >= sizeof line - 1)
        return;
    bg_escape(text, strlen(text), line + used, sizeof line - (size_t)used - 1);
    size_t size = strlen(line);
    line[size++] = '\n';
    ssize_t n = write(log->fd, line, size);
    (void)n; /* see the header: a lost line is lost */
}
