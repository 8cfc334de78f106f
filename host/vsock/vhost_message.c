#include "host/vsock/vhost_message.h"

#include <inttypes.h>

#define VERSION      1u
#define VERSION_MASK 3u
#define FLAG_REPLY   4u
#define FLAG_NEED    8u
#define KICK_INDEX   0xffu
#define KICK_NO_FD   0x100u

int vhost_header_parse(const uint8_t *bytes, size_t size, struct vhost_header *ret,
                       struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    uint32_t request = bg_reader_u32le(&in);
    uint32_t flags = bg_reader_u32le(&in);
    uint32_t payload_size = bg_reader_u32le(&in);
    if (!bg_reader_end(&in))
        return bg_err_set(err, -EPROTO, "vhost-user header of %zu bytes", size);
    if ((flags & VERSION_MASK) != VERSION || (flags & ~(VERSION_MASK | FLAG_NEED)) != 0)
        return bg_err_set(err, -EPROTO, "vhost-user message %" PRIu32 ": flags 0x%" PRIx32, request,
                          flags);
    if (payload_size > VHOST_PAYLOAD_MAX)
        return bg_err_set(err, -EPROTO, "vhost-user message %" PRIu32 " of %" PRIu32 " bytes",
                          request, payload_size);
    *ret = (struct vhost_header){
        .request = request, .need_reply = (flags & FLAG_NEED) != 0, .payload_size = payload_size};
    return 0;
}

static void parse_table(struct bg_reader *in, struct vhost_message *m)
{
    uint32_t count = bg_reader_u32le(in);
    (void)bg_reader_u32le(in); /* padding */
    if (count > BG_VSOCK_REGIONS_MAX) {
        in->failed = true;
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        m->regions[i].guest_addr = bg_reader_u64le(in);
        m->regions[i].size = bg_reader_u64le(in);
        m->regions[i].user_addr = bg_reader_u64le(in);
        (void)bg_reader_u64le(in); /* offset in the fd, which we do not map */
    }
    m->region_count = count;
}

static void parse_vring_fd(struct bg_reader *in, struct vhost_message *m)
{
    uint64_t bits = bg_reader_u64le(in);
    if (bits & ~(uint64_t)(KICK_INDEX | KICK_NO_FD))
        in->failed = true;
    m->index = (uint32_t)(bits & KICK_INDEX);
    m->has_fd = (bits & KICK_NO_FD) == 0;
}

static void parse_config(struct bg_reader *in, struct vhost_message *m)
{
    m->config_offset = bg_reader_u32le(in);
    m->config_size = bg_reader_u32le(in);
    (void)bg_reader_u32le(in); /* flags: of SET_CONFIG */
    if (m->config_size == 0 || m->config_size > VHOST_CONFIG_MAX)
        in->failed = true;
    else
        (void)bg_reader_bytes(in, m->config_size); /* room for the answer */
}

int vhost_message_parse(const struct vhost_header *header, const uint8_t *payload, size_t fd_count,
                        struct vhost_message *ret, struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(payload, header->payload_size);
    struct vhost_message m = {.need_reply = header->need_reply};
    size_t fds_wanted = 0;
    switch (header->request) {
    case VHOST_GET_FEATURES:
    case VHOST_GET_PROTOCOL_FEATURES:
    case VHOST_GET_QUEUE_NUM:
    case VHOST_SET_OWNER:
        break;
    case VHOST_SET_FEATURES:
    case VHOST_SET_PROTOCOL_FEATURES:
        m.bits = bg_reader_u64le(&in);
        break;
    case VHOST_SET_MEM_TABLE:
        parse_table(&in, &m);
        fds_wanted = m.region_count;
        break;
    case VHOST_SET_VRING_NUM:
    case VHOST_SET_VRING_BASE:
    case VHOST_GET_VRING_BASE:
    case VHOST_SET_VRING_ENABLE:
        m.index = bg_reader_u32le(&in);
        m.value = bg_reader_u32le(&in);
        if (header->request == VHOST_SET_VRING_ENABLE && m.value > 1)
            in.failed = true;
        break;
    case VHOST_SET_VRING_ADDR:
        m.index = bg_reader_u32le(&in);
        if (bg_reader_u32le(&in) != 0) /* flags: dirty log, which we do not offer */
            in.failed = true;
        m.desc = bg_reader_u64le(&in);
        m.used = bg_reader_u64le(&in);
        m.avail = bg_reader_u64le(&in);
        (void)bg_reader_u64le(&in); /* address of the log */
        break;
    case VHOST_SET_VRING_KICK:
    case VHOST_SET_VRING_CALL:
    case VHOST_SET_VRING_ERR:
        parse_vring_fd(&in, &m);
        fds_wanted = m.has_fd ? 1 : 0;
        break;
    case VHOST_GET_CONFIG:
        parse_config(&in, &m);
        break;
    default:
        return bg_err_set(err, -EPROTO, "vhost-user message %" PRIu32 ": unknown or not offered",
                          header->request);
    }
    if (!bg_reader_end(&in))
        return bg_err_set(err, -EPROTO, "vhost-user message %" PRIu32 ": malformed",
                          header->request);
    if (m.index >= VHOST_RINGS)
        return bg_err_set(err, -EPROTO, "vhost-user message %" PRIu32 ": no ring %" PRIu32,
                          header->request, m.index);
    if (fd_count != fds_wanted)
        return bg_err_set(err, -EPROTO, "vhost-user message %" PRIu32 ": %zu fds, want %zu",
                          header->request, fd_count, fds_wanted);
    m.request = (enum vhost_request)header->request;
    *ret = m;
    return 0;
}

static void reply_header(enum vhost_request request, uint32_t size, struct bg_writer *w)
{
    bg_writer_u32le(w, request);
    bg_writer_u32le(w, VERSION | FLAG_REPLY);
    bg_writer_u32le(w, size);
}

void vhost_reply_u64(enum vhost_request request, uint64_t value, struct bg_writer *w)
{
    reply_header(request, 8, w);
    bg_writer_u64le(w, value);
}

void vhost_reply_vring(enum vhost_request request, uint32_t index, uint32_t value,
                       struct bg_writer *w)
{
    reply_header(request, 8, w);
    bg_writer_u32le(w, index);
    bg_writer_u32le(w, value);
}

void vhost_reply_config(uint32_t offset, const uint8_t *bytes, uint32_t size, struct bg_writer *w)
{
    reply_header(VHOST_GET_CONFIG, 12 + size, w);
    bg_writer_u32le(w, offset);
    bg_writer_u32le(w, size);
    bg_writer_u32le(w, 0);
    bg_writer_bytes(w, bytes, size);
}
