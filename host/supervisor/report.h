/* report: tells the command that started us how far we are (docs/protocol.md, "Supervisor start").
 */
#pragma once

#include "common/err.h"
#include "host/supervisor/vm.h"

struct report {
    int fd;    /* -1: nobody listens any more */
    bool done; /* ready or error has been said */
};

void report_progress(struct report *report, const char *text);
void report_ready(struct report *report, const struct vm_timings *timings);
/* Of a helper: ready, with the id that its control socket is named by; the end is told later. */
void report_serving(struct report *report, const char *id);
void report_ended(struct report *report);
void report_error(struct report *report, const struct bg_err *err);
