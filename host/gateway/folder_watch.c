#include "host/gateway/folder_watch.h"

#include <stdlib.h>

struct folder_watch {
    uv_fs_event_t event;
    void (*on_change)(void *owner);
    void *owner;
};

static void closed(uv_handle_t *handle)
{
    struct folder_watch *watch = handle->data;
    free(watch);
}

static void changed(uv_fs_event_t *event, const char *name, int events, int status)
{
    struct folder_watch *watch = event->data;
    (void)name;
    (void)events;
    (void)status; /* whatever it is, whoever watches looks */
    watch->on_change(watch->owner);
}

int folder_watch_open(uv_loop_t *loop, const char *folder, void (*on_change)(void *owner),
                      void *owner, struct folder_watch **ret, struct bg_err *err)
{
    struct folder_watch *watch = calloc(1, sizeof *watch);
    if (!watch)
        return bg_err_errno(err, -ENOMEM, "%s", folder);
    watch->on_change = on_change;
    watch->owner = owner;
    (void)uv_fs_event_init(loop, &watch->event); /* cannot fail */
    watch->event.data = watch;
    int r = uv_fs_event_start(&watch->event, changed, folder, 0);
    if (r < 0) {
        uv_close((uv_handle_t *)&watch->event, closed);
        return bg_err_set(err, r, "%s: %s", folder, uv_strerror(r));
    }
    *ret = watch;
    return 0;
}

void folder_watch_close(struct folder_watch *watch)
{
    if (watch)
        uv_close((uv_handle_t *)&watch->event, closed);
}
