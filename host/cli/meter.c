#include "host/cli/meter.h"

#include <stdio.h>
#include <unistd.h>

#include "common/io.h"
#include "host/cli/app.h"
#include "host/cli/output.h"

#define FIRST_MS 1000
#define AGAIN_MS 250

void meter_begin(struct meter *meter, const char *what, uint64_t total, bool quiet)
{
    *meter = (struct meter){.what = what,
                            .total = total,
                            .begin_ms = bg_now_ms(),
                            .quiet = quiet,
                            .terminal = isatty(STDERR_FILENO)};
}

void meter_update(struct meter *meter, uint64_t done)
{
    char size[OUTPUT_SIZE_SIZE];
    uint64_t now = bg_now_ms();
    if (meter->quiet || now - meter->begin_ms < FIRST_MS || now - meter->shown_ms < AGAIN_MS)
        return;
    if (!meter->terminal) {
        if (!meter->shown)
            app_note("%s", meter->what);
        meter->shown = true;
        return;
    }
    output_size(done, size);
    if (meter->total > 0)
        (void)fprintf(stderr, "\r%s: %s, %u%%\033[K", meter->what, size,
                      (unsigned)(done < meter->total ? done * 100 / meter->total : 100));
    else
        (void)fprintf(stderr, "\r%s: %s\033[K", meter->what, size);
    (void)fflush(stderr);
    meter->shown_ms = now;
    meter->shown = true;
}

void meter_end(struct meter *meter)
{
    if (meter->shown && meter->terminal)
        (void)fprintf(stderr, "\r\033[K");
    meter->shown = false;
}
