/* One vhost-user message: u8 number of fds, header, payload. */
#include <stdlib.h>

#include "host/vsock/vhost_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct vhost_header header;
    struct vhost_message m;
    struct bg_err err;
    if (size < 1 + VHOST_HEADER_SIZE)
        return 0;
    size_t fd_count = bytes[0];
    if (vhost_header_parse(bytes + 1, VHOST_HEADER_SIZE, &header, &err) < 0)
        return 0;
    if (size - 1 - VHOST_HEADER_SIZE < header.payload_size)
        return 0;
    if (vhost_message_parse(&header, bytes + 1 + VHOST_HEADER_SIZE, fd_count, &m, &err) < 0)
        return 0;
    if (m.index >= VHOST_RINGS || m.region_count > BG_VSOCK_REGIONS_MAX ||
        m.config_size > VHOST_CONFIG_MAX)
        abort();
    struct guest_memory memory = {0};
    if (m.request == VHOST_SET_MEM_TABLE &&
        guest_memory_set(&memory, m.regions, m.region_count, &err) == 0) {
        for (size_t i = 0; i < m.region_count; i++) {
            uint64_t addr;
            const struct guest_region *r = &m.regions[i];
            if (!guest_memory_contains(&memory, r->guest_addr, r->size) ||
                guest_memory_from_user(&memory, r->user_addr, r->size, &addr) < 0)
                abort();
        }
    }
    return 0;
}
