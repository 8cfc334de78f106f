#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "host/vsock/vhost_message.h"

static int header(uint32_t request, uint32_t flags, uint32_t size, struct vhost_header *ret)
{
    uint8_t bytes[VHOST_HEADER_SIZE];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    bg_writer_u32le(&w, request);
    bg_writer_u32le(&w, flags);
    bg_writer_u32le(&w, size);
    return vhost_header_parse(bytes, sizeof bytes, ret, NULL);
}

static void checks_the_header(void **state)
{
    (void)state;
    struct vhost_header h;
    assert_int_equal(header(7, 1, 0, &h), 0);
    assert_int_equal(h.request, 7);
    assert_false(h.need_reply);
    assert_int_equal(header(7, 9, VHOST_PAYLOAD_MAX, &h), 0);
    assert_true(h.need_reply);
    assert_int_equal(h.payload_size, VHOST_PAYLOAD_MAX);
    assert_int_equal(header(7, 1, VHOST_PAYLOAD_MAX + 1, &h), -EPROTO);
    assert_int_equal(header(7, 1, UINT32_MAX, &h), -EPROTO);
    const uint32_t bad_flags[] = {0, 2, 3, 5, 1 | 16, 1u | 1u << 31};
    for (size_t i = 0; i < sizeof bad_flags / sizeof bad_flags[0]; i++)
        assert_int_equal(header(7, bad_flags[i], 0, &h), -EPROTO);
    uint8_t bytes[VHOST_HEADER_SIZE + 1] = {0, 0, 0, 0, 1};
    for (size_t size = 0; size < VHOST_HEADER_SIZE; size++)
        assert_int_equal(vhost_header_parse(bytes, size, &h, NULL), -EPROTO);
    assert_int_equal(vhost_header_parse(bytes, VHOST_HEADER_SIZE + 1, &h, NULL), -EPROTO);
}

/* A message of each kind, well formed. */
struct sample {
    uint32_t request;
    size_t fd_count, size;
    uint8_t bytes[VHOST_PAYLOAD_MAX];
};

static struct sample sample_of(uint32_t request)
{
    struct sample s = {.request = request};
    struct bg_writer w = bg_writer_init(s.bytes, sizeof s.bytes);
    switch (request) {
    case VHOST_SET_FEATURES:
    case VHOST_SET_PROTOCOL_FEATURES:
        bg_writer_u64le(&w, 0x123456789abcdef0);
        break;
    case VHOST_SET_MEM_TABLE:
        bg_writer_u32le(&w, 2);
        bg_writer_u32le(&w, 0);
        for (uint64_t i = 0; i < 2; i++) {
            bg_writer_u64le(&w, i * 0x1000);
            bg_writer_u64le(&w, 0x1000);
            bg_writer_u64le(&w, 0x7000000 + i * 0x1000);
            bg_writer_u64le(&w, 5);
        }
        s.fd_count = 2;
        break;
    case VHOST_SET_VRING_NUM:
    case VHOST_SET_VRING_BASE:
    case VHOST_GET_VRING_BASE:
    case VHOST_SET_VRING_ENABLE:
        bg_writer_u32le(&w, 1);
        bg_writer_u32le(&w, 1);
        break;
    case VHOST_SET_VRING_ADDR:
        bg_writer_u32le(&w, 1);
        bg_writer_u32le(&w, 0);
        bg_writer_u64le(&w, 0x1000);
        bg_writer_u64le(&w, 0x2000);
        bg_writer_u64le(&w, 0x3000);
        bg_writer_u64le(&w, 0);
        break;
    case VHOST_SET_VRING_KICK:
    case VHOST_SET_VRING_CALL:
    case VHOST_SET_VRING_ERR:
        bg_writer_u64le(&w, 1);
        s.fd_count = 1;
        break;
    case VHOST_GET_CONFIG:
        bg_writer_u32le(&w, 0);
        bg_writer_u32le(&w, 8);
        bg_writer_u32le(&w, 0);
        bg_writer_u64le(&w, 0);
        break;
    default:
        break;
    }
    s.size = w.used;
    return s;
}

static int parse(const struct sample *s, size_t size, size_t fd_count, struct vhost_message *ret)
{
    const struct vhost_header h = {.request = s->request, .payload_size = (uint32_t)size};
    return vhost_message_parse(&h, s->bytes, fd_count, ret, NULL);
}

static const uint32_t known[] = {
    VHOST_GET_FEATURES,   VHOST_SET_FEATURES,          VHOST_SET_OWNER,
    VHOST_SET_MEM_TABLE,  VHOST_SET_VRING_NUM,         VHOST_SET_VRING_ADDR,
    VHOST_SET_VRING_BASE, VHOST_GET_VRING_BASE,        VHOST_SET_VRING_KICK,
    VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR,         VHOST_GET_PROTOCOL_FEATURES,
    VHOST_GET_QUEUE_NUM,  VHOST_SET_PROTOCOL_FEATURES, VHOST_SET_VRING_ENABLE,
    VHOST_GET_CONFIG,
};

static void takes_each_message_in_its_exact_size_only(void **state)
{
    (void)state;
    struct vhost_message m;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        struct sample s = sample_of(known[i]);
        assert_int_equal(parse(&s, s.size, s.fd_count, &m), 0);
        assert_int_equal(m.request, s.request);
        for (size_t size = 0; size < s.size; size++)
            assert_int_equal(parse(&s, size, s.fd_count, &m), -EPROTO);
        assert_int_equal(parse(&s, s.size + 1, s.fd_count, &m), -EPROTO);
        assert_int_equal(parse(&s, s.size, s.fd_count + 1, &m), -EPROTO);
        if (s.fd_count > 0)
            assert_int_equal(parse(&s, s.size, s.fd_count - 1, &m), -EPROTO);
    }
}

static void refuses_unknown_requests(void **state)
{
    (void)state;
    struct vhost_message m;
    for (uint32_t request = 0; request < 100; request++) {
        bool is_known = false;
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
            is_known = is_known || known[i] == request;
        struct sample s = {.request = request};
        if (!is_known)
            assert_int_equal(parse(&s, 0, 0, &m), -EPROTO);
    }
}

static void reads_the_fields(void **state)
{
    (void)state;
    struct vhost_message m;
    struct sample s = sample_of(VHOST_SET_VRING_ADDR);
    assert_int_equal(parse(&s, s.size, 0, &m), 0);
    assert_int_equal(m.index, 1);
    assert_int_equal(m.desc, 0x1000);
    assert_int_equal(m.used, 0x2000);
    assert_int_equal(m.avail, 0x3000);
    s = sample_of(VHOST_SET_MEM_TABLE);
    assert_int_equal(parse(&s, s.size, 2, &m), 0);
    assert_int_equal(m.region_count, 2);
    assert_int_equal(m.regions[1].guest_addr, 0x1000);
    assert_int_equal(m.regions[1].size, 0x1000);
    assert_int_equal(m.regions[1].user_addr, 0x7001000);
    s = sample_of(VHOST_SET_VRING_CALL);
    s.bytes[1] = 1; /* no fd */
    assert_int_equal(parse(&s, s.size, 0, &m), 0);
    assert_false(m.has_fd);
    assert_int_equal(parse(&s, s.size, 1, &m), -EPROTO);
}

static void refuses_values_out_of_range(void **state)
{
    (void)state;
    const struct {
        uint32_t request, at;
        uint8_t value;
    } rows[] = {
        {VHOST_SET_VRING_NUM, 0, VHOST_RINGS},
        {VHOST_SET_VRING_NUM, 3, 1},
        {VHOST_SET_VRING_BASE, 0, VHOST_RINGS},
        {VHOST_GET_VRING_BASE, 0, 255},
        {VHOST_SET_VRING_ENABLE, 4, 2},
        {VHOST_SET_VRING_ENABLE, 7, 1},
        {VHOST_SET_VRING_ADDR, 0, VHOST_RINGS},
        {VHOST_SET_VRING_ADDR, 4, 1},
        {VHOST_SET_VRING_KICK, 0, VHOST_RINGS},
        {VHOST_SET_VRING_KICK, 1, 2},
        {VHOST_SET_VRING_ERR, 7, 1},
        {VHOST_SET_MEM_TABLE, 0, 3},
        {VHOST_SET_MEM_TABLE, 0, 1},
        {VHOST_SET_MEM_TABLE, 3, 0x80},
        {VHOST_GET_CONFIG, 4, 0},
        {VHOST_GET_CONFIG, 4, 9},
        {VHOST_GET_CONFIG, 7, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct vhost_message m;
        struct sample s = sample_of(rows[i].request);
        s.bytes[rows[i].at] = rows[i].value;
        if (parse(&s, s.size, s.fd_count, &m) != -EPROTO)
            fail_msg("row %zu", i);
    }
    /* As many regions as there may be, and one more. */
    for (uint32_t count = BG_VSOCK_REGIONS_MAX; count <= BG_VSOCK_REGIONS_MAX + 1; count++) {
        uint8_t bytes[8 + 32 * (BG_VSOCK_REGIONS_MAX + 1)] = {(uint8_t)count};
        const struct vhost_header h = {.request = VHOST_SET_MEM_TABLE,
                                       .payload_size = 8 + 32 * count};
        struct vhost_message m;
        assert_int_equal(vhost_message_parse(&h, bytes, count, &m, NULL),
                         count > BG_VSOCK_REGIONS_MAX ? -EPROTO : 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checks_the_header),
        cmocka_unit_test(takes_each_message_in_its_exact_size_only),
        cmocka_unit_test(refuses_unknown_requests),
        cmocka_unit_test(reads_the_fields),
        cmocka_unit_test(refuses_values_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
