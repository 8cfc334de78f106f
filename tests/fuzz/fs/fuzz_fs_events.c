/* The parser of what fanotify(7) says. The kernel is trusted; the names in it are the guest's. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fs/server/events.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check_file(const struct fs_event_file *file, const uint8_t *bytes, size_t size)
{
    if (file->handle && (file->handle < bytes || file->handle_size > size))
        abort();
    if (file->name && strlen(file->name) >= size)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    struct fs_event event;
    while (fs_event_next(&in, &event, NULL) > 0) {
        check_file(&event.file, bytes, size);
        check_file(&event.folder, bytes, size);
        check_file(&event.folder_to, bytes, size);
    }
    return 0;
}
