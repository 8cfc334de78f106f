#include "fs/server/events.h"

#include <errno.h>
#include <linux/fanotify.h>

#define EVENT_HEAD_SIZE 24u

static bool ends_in_nul(const uint8_t *bytes, size_t size)
{
    return size > 0 && memchr(bytes, 0, size);
}

/* One file of an event: fsid, handle, and a name if with_name. */
static void file_parse(struct bg_reader *in, bool with_name, struct fs_event_file *ret)
{
    struct fs_event_file file = {0};
    file.fsid = bg_reader_u64le(in);
    file.handle_size = bg_reader_u32le(in);
    file.handle_type = (int32_t)bg_reader_u32le(in);
    file.handle = bg_reader_bytes(in, file.handle_size);
    if (with_name) {
        size_t size = in->left; /* padded with NULs */
        const uint8_t *name = bg_reader_bytes(in, size);
        if (!name || !ends_in_nul(name, size))
            in->failed = true;
        else if (strcmp((const char *)name, ".") != 0) /* "." is the folder itself */
            file.name = (const char *)name;
    }
    if (!in->failed)
        *ret = file;
}

static void info_parse(uint8_t type, struct bg_reader *in, struct fs_event *event)
{
    switch (type) {
    case FAN_EVENT_INFO_TYPE_FID:
        file_parse(in, /* with_name= */ false, &event->file);
        break;
    case FAN_EVENT_INFO_TYPE_DFID:
        file_parse(in, /* with_name= */ false, &event->folder);
        break;
    case FAN_EVENT_INFO_TYPE_DFID_NAME:
    case FAN_EVENT_INFO_TYPE_OLD_DFID_NAME:
        file_parse(in, /* with_name= */ true, &event->folder);
        break;
    case FAN_EVENT_INFO_TYPE_NEW_DFID_NAME:
        file_parse(in, /* with_name= */ true, &event->folder_to);
        break;
    default:
        break; /* something newer, which says no less without it */
    }
}

int fs_event_next(struct bg_reader *events, struct fs_event *ret, struct bg_err *err)
{
    if (bg_reader_end(events))
        return 0;
    struct bg_reader head = *events;
    uint32_t size = bg_reader_u32le(&head);
    uint8_t version = bg_reader_u8(&head);
    (void)bg_reader_u8(&head); /* reserved */
    uint16_t head_size = bg_reader_u16le(&head);
    struct fs_event event = {.mask = bg_reader_u64le(&head)};
    (void)bg_reader_u32le(&head); /* fd: none with FAN_REPORT_FID */
    event.pid = (int32_t)bg_reader_u32le(&head);
    if (!bg_reader_ok(&head) || version != FANOTIFY_METADATA_VERSION ||
        head_size < EVENT_HEAD_SIZE || size < head_size)
        return bg_err_set(err, -EPROTO, "fanotify: event of %u bytes, version %u", size, version);
    const uint8_t *bytes = bg_reader_bytes(events, size);
    struct bg_reader infos = bg_reader_init(bytes, bytes ? size : 0);
    (void)bg_reader_bytes(&infos, head_size);
    while (infos.left > 0 && !infos.failed) {
        uint8_t type = bg_reader_u8(&infos);
        (void)bg_reader_u8(&infos); /* padding */
        uint16_t info_size = bg_reader_u16le(&infos);
        size_t rest = info_size >= 4 ? info_size - 4u : infos.left + 1; /* too much: it fails */
        const uint8_t *at = bg_reader_bytes(&infos, rest);
        struct bg_reader info = bg_reader_init(at, at ? rest : 0);
        if (at)
            info_parse(type, &info, &event);
        infos.failed = infos.failed || info.failed;
    }
    if (!bytes || infos.failed)
        return bg_err_set(err, -EPROTO, "fanotify: event of %u bytes", size);
    *ret = event;
    return 1;
}
