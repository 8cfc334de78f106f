/* folder_watch: tells on the loop that something in a folder has changed, or the folder is gone. */
#pragma once

#include <uv.h>

#include "common/err.h"

struct folder_watch;

/* on_change: once or more for a change; it may close the watch. Errors: -ENOMEM; -ENOENT; -ENOSPC
 * inotify has no watches left; errno. */
int folder_watch_open(uv_loop_t *loop, const char *folder, void (*on_change)(void *owner),
                      void *owner, struct folder_watch **ret, struct bg_err *err) BG_MUST_CHECK;
void folder_watch_close(struct folder_watch *watch); /* NULL: no-op */
