#include "images/progress.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/io.h"
#include "common/quote.h"

#define TAIL_LINES 20
#define TAIL_BYTES 8192

void progress_init(struct progress *progress)
{
    *progress = (struct progress){.terminal = isatty(STDERR_FILENO), .start_ms = bg_now_ms()};
}

void progress_begin(struct progress *progress, const char *step, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    progress->step = step;
    progress->step_ms = bg_now_ms();
    (void)fprintf(stderr, "%s: %s%s", step, text, progress->terminal ? " ... " : "\n");
    (void)fflush(stderr);
}

void progress_end(struct progress *progress, bool ok)
{
    double seconds = (double)(bg_now_ms() - progress->step_ms) / 1000;
    double total = (double)(bg_now_ms() - progress->start_ms) / 1000;
    if (progress->terminal)
        (void)fprintf(stderr, "%s (%.1f s)\n", ok ? "done" : "failed", seconds);
    else
        (void)fprintf(stderr, "%s: %s in %.1f s (%.1f s in all)\n", progress->step,
                      ok ? "done" : "failed", seconds, total);
}

void progress_note(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
}

void progress_log_tail(const char *path)
{
    BG_AUTOCLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return; /* there was no log yet */
    char bytes[TAIL_BYTES + 1];
    off_t size = lseek(fd, 0, SEEK_END);
    off_t from = size > TAIL_BYTES ? size - TAIL_BYTES : 0;
    ssize_t n = pread(fd, bytes, TAIL_BYTES, from);
    if (n <= 0)
        return;
    while (n > 0 && bytes[n - 1] == '\n')
        n--;
    const char *start = bytes + n;
    for (int lines = 0; start > bytes; start--)
        if (start[-1] == '\n' && ++lines == TAIL_LINES)
            break;
    for (const char *end = bytes + n; start < end;) {
        const char *stop = memchr(start, '\n', (size_t)(end - start));
        if (!stop)
            stop = end;
        char line[512];
        bg_escape(start, (size_t)(stop - start), line, sizeof line);
        (void)fprintf(stderr, "  | %s\n", line);
        start = stop + 1;
    }
}
