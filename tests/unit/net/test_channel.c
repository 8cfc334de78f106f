#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/limits.h"
#include "net/channel.h"

struct end {
    struct channel *channel;
    unsigned ready, closed;
};

struct fixture {
    uv_loop_t loop;
    struct end ends[2];
};

static void end_ready(void *owner)
{
    struct end *end = owner;
    end->ready++;
}

static void end_closed(void *owner)
{
    struct end *end = owner;
    end->closed++;
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct channel *channels[2];
    struct channel_opts opts[2];
    assert_non_null(f);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    for (size_t i = 0; i < 2; i++)
        opts[i] = (struct channel_opts){
            .on_ready = end_ready, .on_closed = end_closed, .owner = &f->ends[i]};
    assert_int_equal(channel_open_pair(&f->loop, opts, channels, NULL), 0);
    for (size_t i = 0; i < 2; i++)
        f->ends[i].channel = channels[i];
    *state = f;
    return 0;
}

static void turn(struct fixture *f)
{
    (void)uv_run(&f->loop, UV_RUN_NOWAIT);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    for (size_t i = 0; i < 2; i++)
        channel_close(f->ends[i].channel);
    (void)uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(f->ends[0].closed + f->ends[1].closed, 2);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    free(f);
    return 0;
}

static void put(struct end *end, const char *text)
{
    buffer_put_text(channel_out(end->channel), text);
    assert_int_equal(channel_flush(end->channel), 0);
    channel_watch(end->channel, /* want_read= */ false);
}

static void expect(struct end *end, const char *text)
{
    char got[64];
    assert_int_equal(channel_read(end->channel, got, sizeof got), strlen(text));
    assert_memory_equal(got, text, strlen(text));
}

static ssize_t read_some(struct end *end)
{
    char got[64];
    return channel_read(end->channel, got, sizeof got);
}

static void one_reads_what_the_other_has_queued(void **state)
{
    struct fixture *f = *state;
    struct end *a = &f->ends[0], *b = &f->ends[1];
    assert_int_equal(read_some(b), -EAGAIN);
    channel_watch(b->channel, /* want_read= */ true);
    turn(f);
    assert_int_equal(b->ready, 0);
    put(a, "hello");
    turn(f);
    assert_int_equal(b->ready, 1);
    /* Still there: told again when it is asked for again, and only then. */
    turn(f);
    assert_int_equal(b->ready, 1);
    channel_watch(b->channel, /* want_read= */ true);
    turn(f);
    assert_int_equal(b->ready, 2);
    expect(b, "hello");
    assert_int_equal(read_some(b), -EAGAIN);
    /* And whoever had something queued is told that it was taken. */
    turn(f);
    assert_int_equal(a->ready, 1);
    put(b, "back");
    expect(a, "back");
}

static void nobody_is_told_who_did_not_ask(void **state)
{
    struct fixture *f = *state;
    channel_watch(f->ends[1].channel, /* want_read= */ false);
    put(&f->ends[0], "hello");
    turn(f);
    assert_int_equal(f->ends[1].ready, 0);
}

static void an_end_comes_after_what_was_queued(void **state)
{
    struct fixture *f = *state;
    struct end *a = &f->ends[0], *b = &f->ends[1];
    put(a, "last");
    channel_finish(a->channel);
    assert_int_equal(channel_flush(a->channel), 0);
    assert_true(channel_finished(a->channel));
    assert_false(channel_gone(b->channel));
    expect(b, "last");
    assert_int_equal(read_some(b), 0);
    put(b, "more"); /* the other way is open still */
    expect(a, "more");
}

static void what_was_queued_outlives_who_queued_it(void **state)
{
    struct fixture *f = *state;
    struct end *a = &f->ends[0], *b = &f->ends[1];
    channel_watch(b->channel, /* want_read= */ true);
    put(a, "last");
    channel_finish(a->channel);
    channel_close(BG_TAKE(a->channel));
    turn(f);
    turn(f);
    assert_int_equal(a->closed, 1);
    assert_true(b->ready > 0);
    assert_true(channel_gone(b->channel));
    expect(b, "last");
    assert_int_equal(read_some(b), 0);
    buffer_put_text(channel_out(b->channel), "x");
    assert_int_equal(channel_flush(b->channel), -EPIPE);
}

static void an_end_without_a_word_is_a_reset(void **state)
{
    struct fixture *f = *state;
    struct end *a = &f->ends[0], *b = &f->ends[1];
    put(a, "part");
    channel_close(BG_TAKE(a->channel));
    expect(b, "part");
    assert_int_equal(read_some(b), -ECONNRESET);
}

static void a_new_owner_is_called(void **state)
{
    struct fixture *f = *state;
    struct end *a = &f->ends[0], *b = &f->ends[1], other = {0};
    channel_watch(b->channel, /* want_read= */ true);
    put(a, "hello");
    const struct channel_opts opts = {
        .on_ready = end_ready, .on_closed = end_closed, .owner = &other};
    channel_set_owner(b->channel, &opts);
    turn(f);
    assert_int_equal(b->ready + other.ready, 0);
    channel_watch(b->channel, /* want_read= */ true);
    turn(f);
    assert_int_equal(other.ready, 1);
    channel_close(BG_TAKE(b->channel));
    turn(f);
    assert_int_equal(other.closed, 1);
    b->closed = 1; /* for tear_down, which counts two */
}

static void the_queue_has_a_limit(void **state)
{
    struct fixture *f = *state;
    static char much[BG_EGRESS_QUEUE_MAX];
    struct buffer *out = channel_out(f->ends[0].channel);
    buffer_put(out, much, sizeof much);
    assert_int_equal(channel_flush(f->ends[0].channel), 0);
    buffer_put(out, much, 1);
    assert_int_equal(channel_flush(f->ends[0].channel), -ENOBUFS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_reads_what_the_other_has_queued, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nobody_is_told_who_did_not_ask, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_end_comes_after_what_was_queued, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_was_queued_outlives_who_queued_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_end_without_a_word_is_a_reset, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_new_owner_is_called, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_queue_has_a_limit, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
