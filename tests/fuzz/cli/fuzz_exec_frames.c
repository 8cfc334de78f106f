/* What a guest sends on an exec stream. byte 0: 1 tty, 2 attached; byte 1: how finely the rest is
 * cut (0: not at all); then the stream. However it is cut, the same must come of it. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "host/cli/exec_frames.h"

#define OWED 4096

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

struct digest {
    uint64_t hash;
    bool over, failed;
};

static void mix(struct digest *d, const void *bytes, size_t size)
{
    const uint8_t *in = bytes;
    for (size_t i = 0; i < size; i++)
        d->hash = (d->hash ^ in[i]) * 0x100000001b3;
}

static void take(struct digest *d, const struct exec_event *event)
{
    int kind = (int)event->kind;
    if (event->kind == EXEC_OUTPUT) {
        uint8_t which = event->is_stderr;
        for (size_t i = 0; i < event->size; i++) { /* however it is cut into events */
            mix(d, &which, 1);
            mix(d, event->bytes + i, 1);
        }
        return;
    }
    mix(d, &kind, sizeof kind);
    if (event->kind == EXEC_REFUSED) {
        mix(d, event->text, strlen(event->text));
        for (const char *p = event->text; *p != '\0'; p++)
            assert((unsigned char)*p >= 0x20 && *p != 0x7f);
    }
    if (event->kind == EXEC_ENDED)
        assert(event->exit_status >= 0 && event->exit_status <= 255);
    if (event->kind == EXEC_WINDOW)
        assert(event->window > 0 && event->window <= BG_EXEC_STDIN_WINDOW);
    if (event->kind == EXEC_ATTACHED)
        assert(event->pid != 0 && event->attached.stdin_owed <= BG_EXEC_STDIN_WINDOW);
    d->over = d->over || event->kind == EXEC_ENDED || event->kind == EXEC_REFUSED ||
              event->kind == EXEC_TAKEN;
}

static struct digest run(unsigned how, const uint8_t *bytes, size_t size, size_t piece)
{
    static struct exec_frames frames;
    struct digest d = {.hash = 0xcbf29ce484222325};
    if (how & 2)
        exec_frames_init_attach(&frames);
    else
        exec_frames_init(&frames, how & 1);
    if (!(how & 2))
        exec_frames_sent(&frames, OWED);
    for (size_t at = 0; at < size && !d.failed;) {
        size_t here = size - at < piece ? size - at : piece;
        for (size_t done = 0; done < here && !d.failed;) {
            struct exec_event event;
            struct bg_err err;
            size_t used = 0;
            int r = exec_frames_next(&frames, bytes + at + done, here - done, &used, &event, &err);
            assert(used <= here - done);
            d.failed = r < 0;
            if (r == 0 && event.kind != EXEC_NEED_MORE) {
                assert(!d.over);
                take(&d, &event);
            }
            assert(r < 0 || event.kind != EXEC_NEED_MORE || used == here - done);
            done += used;
        }
        at += here;
    }
    return d;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size < 2)
        return 0;
    struct digest whole = run(bytes[0] & 3, bytes + 2, size - 2, size);
    struct digest cut = run(bytes[0] & 3, bytes + 2, size - 2, bytes[1] ? bytes[1] : size);
    assert(whole.hash == cut.hash && whole.over == cut.over && whole.failed == cut.failed);
    return 0;
}
