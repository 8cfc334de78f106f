#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "host/supervisor/session.h"

struct peer {
    struct session session;
    uint8_t sent[4096];
    size_t sent_size;
    int hellos, warmed, readies, prepared, logs;
    uint32_t spans; /* that PREPARED told of */
    char log[64];
};

static void sent(void *owner, const uint8_t *bytes, size_t size)
{
    struct peer *peer = owner;
    assert_true(size <= sizeof peer->sent - peer->sent_size);
    memcpy(peer->sent + peer->sent_size, bytes, size);
    peer->sent_size += size;
}

static void greeted(void *owner, const char *version)
{
    struct peer *peer = owner;
    peer->hellos++;
    assert_string_equal(version, "1.2");
    session_identify(&peer->session, (const uint8_t *)"who", 3);
}

static void greeted_early(void *owner, const char *version)
{
    struct peer *peer = owner;
    (void)version;
    peer->hellos++;
    session_warm(&peer->session);
}

static void warmed(void *owner)
{
    ((struct peer *)owner)->warmed++;
}

static void ready(void *owner)
{
    ((struct peer *)owner)->readies++;
}

static void prepared(void *owner, const struct bg_page_records *records)
{
    struct peer *peer = owner;
    peer->prepared++;
    peer->spans = records ? records->span_count : 0;
}

static void logged(void *owner, const char *text, size_t size)
{
    struct peer *peer = owner;
    peer->logs++;
    memcpy(peer->log, text, size < sizeof peer->log ? size : sizeof peer->log);
}

static void start(struct peer *peer)
{
    *peer = (struct peer){0};
    const struct session_ops ops = {.send = sent,
                                    .on_hello = greeted,
                                    .on_ready = ready,
                                    .on_prepared = prepared,
                                    .on_log = logged,
                                    .owner = peer};
    session_init(&peer->session, &ops, 0);
}

/* Appends a frame to *at. */
static void frame(uint8_t **at, uint8_t type, const void *payload, size_t size)
{
    bg_frame_header_emit(type, (uint32_t)size, *at);
    *at += BG_FRAME_HEADER_SIZE;
    if (size > 0)
        memcpy(*at, payload, size);
    *at += size;
}

/* A whole good opening by the agent: reply, HELLO, READY. Returns its size. */
static size_t opening(uint8_t *bytes)
{
    static const uint8_t hello[] = {1, 0, 0, 0, 3, 0, 0, 0, '1', '.', '2'};
    static const uint8_t yes[] = {0, 0, 0, 0};
    uint8_t *at = bytes;
    bg_reply_header_emit(&(struct bg_reply_header){0}, at);
    at += BG_REPLY_HEADER_SIZE;
    frame(&at, BG_FRAME_HELLO, hello, sizeof hello);
    frame(&at, BG_FRAME_READY, yes, sizeof yes);
    return (size_t)(at - bytes);
}

static void greets_identifies_and_is_ready_at_every_split(void **state)
{
    (void)state;
    uint8_t bytes[256];
    size_t size = opening(bytes);
    for (size_t cut = 0; cut <= size; cut++) {
        struct peer peer;
        struct bg_err err = {0};
        start(&peer);
        session_open(&peer.session, 1);
        assert_int_equal(peer.sent_size, BG_STREAM_HEADER_SIZE);
        assert_int_equal(session_feed(&peer.session, bytes, cut, 1, &err), 0);
        assert_int_equal(session_feed(&peer.session, bytes + cut, size - cut, 2, &err), 0);
        assert_int_equal(peer.hellos, 1);
        assert_int_equal(peer.readies, 1);
        assert_int_equal(peer.session.state, SESSION_READY);
        assert_int_equal(peer.sent_size, BG_STREAM_HEADER_SIZE + BG_FRAME_HEADER_SIZE + 3);
    }
}

static void tells_how_the_streams_go_on(void **state)
{
    (void)state;
    static const uint8_t want[] = {BG_FRAME_GO_ON, 0, 0, 0, 1, 0, 0, 0, BG_GO_ON_RESUMED};
    struct peer peer;
    start(&peer);
    session_go_on(&peer.session, BG_GO_ON_RESUMED);
    assert_int_equal(peer.sent_size, sizeof want);
    assert_memory_equal(peer.sent, want, sizeof want);
}

static void warms_an_agent_that_waits_for_its_identity(void **state)
{
    (void)state;
    uint8_t bytes[256], *at = bytes;
    struct peer peer;
    struct bg_err err;
    static const uint8_t hello[] = {1, 0, 0, 0, 3, 0, 0, 0, '1', '.', '2'}, yes[4];
    start(&peer);
    peer.session.ops.on_hello = greeted_early;
    peer.session.ops.on_warmed = warmed;
    bg_reply_header_emit(&(struct bg_reply_header){0}, at);
    at += BG_REPLY_HEADER_SIZE;
    frame(&at, BG_FRAME_HELLO, hello, sizeof hello);
    assert_int_equal(session_feed(&peer.session, bytes, (size_t)(at - bytes), 1, &err), 0);
    assert_int_equal(peer.sent_size, BG_FRAME_HEADER_SIZE);
    assert_int_equal(peer.sent[0], BG_FRAME_WARM);
    /* Nothing else comes meanwhile, not another greeting either. */
    static const uint8_t others[] = {BG_FRAME_HELLO, BG_FRAME_READY, BG_FRAME_PONG, BG_FRAME_LOG};
    for (size_t i = 0; i < sizeof others; i++) {
        struct peer copy = peer;
        copy.session.ops.owner = &copy;
        at = bytes;
        frame(&at, others[i], hello, sizeof hello);
        assert_int_equal(session_feed(&copy.session, bytes, (size_t)(at - bytes), 1, &err),
                         -EPROTO);
    }
    at = bytes;
    frame(&at, BG_FRAME_WARMED, NULL, 0);
    assert_int_equal(session_feed(&peer.session, bytes, (size_t)(at - bytes), 1, &err), 0);
    assert_int_equal(peer.warmed, 1);
    struct peer copy = peer;
    copy.session.ops.owner = &copy;
    assert_int_equal(session_feed(&copy.session, bytes, (size_t)(at - bytes), 1, &err), -EPROTO);
    session_identify(&peer.session, (const uint8_t *)"who", 3);
    at = bytes;
    frame(&at, BG_FRAME_READY, yes, sizeof yes);
    assert_int_equal(session_feed(&peer.session, bytes, (size_t)(at - bytes), 1, &err), 0);
    assert_int_equal(peer.readies, 1);
}

static int feed_after_opening(struct peer *peer, uint8_t type, const void *payload, size_t size)
{
    uint8_t bytes[8192], *at = bytes;
    struct bg_err err = {0};
    start(peer);
    assert_int_equal(session_feed(&peer->session, bytes, opening(bytes), 1, &err), 0);
    frame(&at, type, payload, size);
    return session_feed(&peer->session, bytes, (size_t)(at - bytes), 2, &err);
}

static void refuses_what_does_not_fit_the_state(void **state)
{
    (void)state;
    struct peer peer;
    static const uint8_t hello[] = {1, 0, 0, 0, 3, 0, 0, 0, '1', '.', '2'};
    static const uint8_t zeros[8192];
    assert_int_equal(feed_after_opening(&peer, BG_FRAME_HELLO, hello, sizeof hello), -EPROTO);
    assert_int_equal(feed_after_opening(&peer, BG_FRAME_READY, zeros, 4), -EPROTO);
    assert_int_equal(feed_after_opening(&peer, BG_FRAME_PREPARED, NULL, 0), -EPROTO);
    assert_int_equal(feed_after_opening(&peer, BG_FRAME_PONG, zeros, 8), -EPROTO);
    assert_int_equal(feed_after_opening(&peer, BG_FRAME_STDOUT, zeros, 1), -EPROTO);
    assert_int_equal(feed_after_opening(&peer, BG_FRAME_LOG, zeros, 4097), -EPROTO);
    assert_int_equal(feed_after_opening(&peer, BG_FRAME_LOG, "hi", 2), 0);
    assert_string_equal(peer.log, "hi");
}

static void refuses_frames_before_hello_and_other_protocols(void **state)
{
    (void)state;
    struct peer peer;
    struct bg_err err = {0};
    uint8_t bytes[256], *at = bytes + BG_REPLY_HEADER_SIZE;
    static const uint8_t newer[] = {2, 0, 0, 0, 0, 0, 0, 0};
    bg_reply_header_emit(&(struct bg_reply_header){0}, bytes);
    frame(&at, BG_FRAME_LOG, "x", 1);
    start(&peer);
    assert_int_equal(session_feed(&peer.session, bytes, (size_t)(at - bytes), 1, &err), -EPROTO);
    at = bytes + BG_REPLY_HEADER_SIZE;
    frame(&at, BG_FRAME_HELLO, newer, sizeof newer);
    start(&peer);
    assert_int_equal(session_feed(&peer.session, bytes, (size_t)(at - bytes), 1, &err), -EPROTO);
    bg_reply_header_emit(&(struct bg_reply_header){.status = -EBUSY}, bytes);
    start(&peer);
    assert_int_equal(session_feed(&peer.session, bytes, BG_REPLY_HEADER_SIZE, 1, &err), -EPROTO);
}

static void tells_why_the_agent_refused_its_identity(void **state)
{
    (void)state;
    struct peer peer;
    struct bg_err err = {0};
    uint8_t bytes[256], *at = bytes + BG_REPLY_HEADER_SIZE;
    static const uint8_t hello[] = {1, 0, 0, 0, 3, 0, 0, 0, '1', '.', '2'};
    static const uint8_t no[] = {0xfb, 0xff, 0xff, 0xff, 'n', 'o'};
    bg_reply_header_emit(&(struct bg_reply_header){0}, bytes);
    frame(&at, BG_FRAME_HELLO, hello, sizeof hello);
    frame(&at, BG_FRAME_READY, no, sizeof no);
    start(&peer);
    assert_int_equal(session_feed(&peer.session, bytes, (size_t)(at - bytes), 1, &err), -EREMOTEIO);
    assert_non_null(strstr(err.text, "no"));
}

static void pongs_answer_pings_in_order(void **state)
{
    (void)state;
    struct peer peer;
    uint8_t bytes[256], *at = bytes;
    struct bg_err err = {0};
    start(&peer);
    assert_int_equal(session_feed(&peer.session, bytes, opening(bytes), 1, &err), 0);
    session_ping(&peer.session);
    session_ping(&peer.session);
    static const uint8_t zero[8], one[8] = {1};
    frame(&at, BG_FRAME_PONG, zero, sizeof zero);
    frame(&at, BG_FRAME_PONG, one, sizeof one);
    assert_int_equal(session_feed(&peer.session, bytes, (size_t)(at - bytes), 7, &err), 0);
    assert_int_equal(peer.session.heard_ms, 7);
    assert_int_equal(session_feed(&peer.session, bytes, (size_t)(at - bytes), 8, &err), -EPROTO);
}

static void prepared_is_told_once(void **state)
{
    (void)state;
    struct peer peer;
    uint8_t bytes[256], *at = bytes;
    struct bg_err err = {0};
    start(&peer);
    assert_int_equal(session_feed(&peer.session, bytes, opening(bytes), 1, &err), 0);
    session_prepare(&peer.session, /* of_disk= */ false);
    frame(&at, BG_FRAME_PREPARED, NULL, 0);
    assert_int_equal(session_feed(&peer.session, bytes, BG_FRAME_HEADER_SIZE, 2, &err), 0);
    assert_int_equal(peer.prepared, 1);
    assert_int_equal(session_feed(&peer.session, bytes, BG_FRAME_HEADER_SIZE, 2, &err), -EPROTO);
}

static void prepared_tells_of_page_records(void **state)
{
    (void)state;
    struct peer peer;
    struct bg_page_records records = {.record_size = 64,
                                      .span_count = 1,
                                      .spans = {{.first_page = 1, .address = 64, .count = 7}}};
    uint8_t bytes[512], payload[BG_PAGE_RECORDS_SIZE], *at = bytes;
    struct bg_err err = {0};
    size_t size = bg_page_records_emit(&records, payload);
    start(&peer);
    assert_int_equal(session_feed(&peer.session, bytes, opening(bytes), 1, &err), 0);
    session_prepare(&peer.session, /* of_disk= */ false);
    frame(&at, BG_FRAME_PREPARED, payload, size);
    assert_int_equal(session_feed(&peer.session, bytes, (size_t)(at - bytes), 2, &err), 0);
    assert_int_equal(peer.prepared, 1);
    assert_int_equal(peer.spans, 1);
    session_prepare(&peer.session, /* of_disk= */ false);
    at = bytes;
    frame(&at, BG_FRAME_PREPARED, payload, size - 1);
    assert_int_equal(session_feed(&peer.session, bytes, (size_t)(at - bytes), 2, &err), -EPROTO);
    assert_int_equal(peer.prepared, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_how_the_streams_go_on),
        cmocka_unit_test(greets_identifies_and_is_ready_at_every_split),
        cmocka_unit_test(warms_an_agent_that_waits_for_its_identity),
        cmocka_unit_test(refuses_what_does_not_fit_the_state),
        cmocka_unit_test(refuses_frames_before_hello_and_other_protocols),
        cmocka_unit_test(tells_why_the_agent_refused_its_identity),
        cmocka_unit_test(pongs_answer_pings_in_order),
        cmocka_unit_test(prepared_is_told_once),
        cmocka_unit_test(prepared_tells_of_page_records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
