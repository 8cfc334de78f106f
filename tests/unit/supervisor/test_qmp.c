#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/io.h"
#include "host/supervisor/qmp.h"

struct fake {
    uv_loop_t loop;
    struct qmp *qmp;
    int peer; /* QEMU's end */
    int ready, lost, closed, answers;
    int lost_code, answer_code;
    char event[64];
    long long value;
};

static void on_ready(void *owner)
{
    ((struct fake *)owner)->ready++;
}

static void on_event(void *owner, const char *name, const json_t *data)
{
    struct fake *f = owner;
    (void)data;
    (void)snprintf(f->event, sizeof f->event, "%s", name);
}

static void on_lost(void *owner, const struct bg_err *err)
{
    struct fake *f = owner;
    f->lost++;
    f->lost_code = err->code;
    qmp_close(f->qmp);
}

static void on_closed(void *owner)
{
    ((struct fake *)owner)->closed++;
}

static void answered(void *arg, const struct bg_err *err, const json_t *value)
{
    struct fake *f = arg;
    f->answers++;
    f->answer_code = err ? err->code : 0;
    f->value = json_integer_value(value);
}

static void start(struct fake *f)
{
    int pair[2];
    struct bg_err err;
    *f = (struct fake){.peer = -1};
    assert_int_equal(uv_loop_init(&f->loop), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    f->peer = pair[1];
    const struct qmp_opts opts = {.fd = pair[0],
                                  .on_ready = on_ready,
                                  .on_event = on_event,
                                  .on_lost = on_lost,
                                  .on_closed = on_closed,
                                  .owner = f};
    assert_int_equal(qmp_open(&f->loop, &opts, &f->qmp, &err), 0);
}

/* Says text as QEMU and lets the client take it. */
static void say(struct fake *f, const char *text)
{
    assert_int_equal(bg_write_full(f->peer, text, strlen(text)), 0);
    (void)uv_run(&f->loop, UV_RUN_NOWAIT);
}

static void finish(struct fake *f)
{
    if (f->lost == 0)
        qmp_close(f->qmp);
    (void)uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(f->closed, 1);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    (void)close(f->peer);
}

static void negotiate(struct fake *f)
{
    char command[256] = {0};
    start(f);
    say(f, "{\"QMP\": {\"version\": {}}}\r\n");
    assert_true(read(f->peer, command, sizeof command - 1) > 0);
    assert_non_null(strstr(command, "qmp_capabilities"));
    say(f, "{\"return\": {}}\r\n");
    assert_int_equal(f->ready, 1);
}

static void answers_come_in_order_and_events_between(void **state)
{
    (void)state;
    struct fake f;
    negotiate(&f);
    qmp_send(f.qmp, "one", NULL, -1, answered, &f);
    qmp_send(f.qmp, "two", json_pack("{s:i}", "a", 1), -1, answered, &f);
    say(&f, "{\"return\": 7}\n{\"event\": \"STOP\"}\n");
    assert_int_equal(f.answers, 1);
    assert_int_equal(f.value, 7);
    assert_string_equal(f.event, "STOP");
    say(&f, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no \\u001b[31m\"}}\n");
    assert_int_equal(f.answers, 2);
    assert_int_equal(f.answer_code, -EREMOTEIO);
    finish(&f);
}

static void lines_may_come_in_pieces(void **state)
{
    (void)state;
    struct fake f;
    negotiate(&f);
    qmp_send(f.qmp, "one", NULL, -1, answered, &f);
    for (const char *c = "{\"return\": 12}\n"; *c; c++)
        say(&f, (char[]){*c, '\0'});
    assert_int_equal(f.value, 12);
    finish(&f);
}

static void loses_a_peer_that_breaks_the_protocol(void **state)
{
    (void)state;
    static const char *const bad[] = {"{\"return\": {}}\n", "[]\n",      "nonsense\n", "{}\n", "\n",
                                      "{\"event\": 5}\n",   "\"text\"\n"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct fake f;
        negotiate(&f);
        say(&f, bad[i]);
        assert_int_equal(f.lost, 1);
        assert_int_equal(f.lost_code, -EPROTO);
        finish(&f);
    }
}

static void refuses_an_endless_line(void **state)
{
    (void)state;
    struct fake f;
    char junk[4097];
    memset(junk, 'x', sizeof junk - 1);
    junk[sizeof junk - 1] = '\0';
    negotiate(&f);
    for (size_t sent = 0; f.lost == 0 && sent < 4u << 20; sent += sizeof junk - 1)
        say(&f, junk);
    assert_int_equal(f.lost_code, -EMSGSIZE);
    finish(&f);
}

static void cancels_what_is_pending_when_the_peer_leaves(void **state)
{
    (void)state;
    struct fake f;
    negotiate(&f);
    qmp_send(f.qmp, "one", NULL, -1, answered, &f);
    (void)shutdown(f.peer, SHUT_RDWR);
    (void)uv_run(&f.loop, UV_RUN_NOWAIT);
    assert_int_equal(f.lost, 1);
    assert_int_equal(f.answers, 1);
    assert_int_equal(f.answer_code, -ECANCELED);
    finish(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_come_in_order_and_events_between),
        cmocka_unit_test(lines_may_come_in_pieces),
        cmocka_unit_test(loses_a_peer_that_breaks_the_protocol),
        cmocka_unit_test(refuses_an_endless_line),
        cmocka_unit_test(cancels_what_is_pending_when_the_peer_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
