#include "host/supervisor/report.h"

#include <jansson.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Writes one line and drops the object. A listener that is gone is no reason to stop. */
static void say(struct report *report, json_t *object)
{
    BG_AUTOFREE char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!text || report->fd < 0 || report->done)
        return;
    size_t size = strlen(text);
    text[size] = '\n';
    if (write(report->fd, text, size + 1) < 0) {
        (void)close(report->fd); /* nothing was promised to it */
        report->fd = -1;
    }
}

static void finish(struct report *report)
{
    report->done = true;
    if (report->fd >= 0)
        (void)close(report->fd); /* its reader sees the end */
    report->fd = -1;
}

void report_progress(struct report *report, const char *text)
{
    say(report, json_pack("{s:s}", "progress", text));
}

void report_ready(struct report *report, const struct vm_timings *timings)
{
    say(report,
        json_pack("{s:b, s:{s:I, s:I, s:I, s:I}}", "ready", 1, "timings", "qemu_ms",
                  (json_int_t)timings->monitor_ms, "running_ms", (json_int_t)timings->running_ms,
                  "connected_ms", (json_int_t)timings->connected_ms, "ready_ms",
                  (json_int_t)timings->ready_ms));
    finish(report);
}

void report_serving(struct report *report, const char *id)
{
    say(report, json_pack("{s:b, s:s}", "ready", 1, "id", id));
}

void report_ended(struct report *report)
{
    say(report, json_pack("{s:b}", "ended", 1));
    finish(report);
}

void report_error(struct report *report, const struct bg_err *err)
{
    say(report, json_pack("{s:s, s:i}", "error", err->text, "errno", -err->code));
    finish(report);
}
