/* The agent's side of a session, as the supervisor reads it. */
#include "host/supervisor/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void sent(void *owner, const uint8_t *bytes, size_t size)
{
    (void)owner;
    (void)bytes;
    (void)size;
}

static void greeted(void *owner, const char *version)
{
    (void)version;
    session_identify(owner, (const uint8_t *)"who", 3);
}

/* One that is asked for its identity late. */
static void greeted_early(void *owner, const char *version)
{
    (void)version;
    session_warm(owner);
}

static void warmed(void *owner)
{
    session_identify(owner, (const uint8_t *)"who", 3);
}

static void told(void *owner)
{
    (void)owner;
}

static void prepared(void *owner, const struct bg_page_records *records)
{
    (void)owner;
    (void)records;
}

static void logged(void *owner, const char *text, size_t size)
{
    (void)owner;
    (void)text;
    (void)size;
}

static void feed(const uint8_t *bytes, size_t size, bool early)
{
    static struct session session; /* large, and set whole by init */
    const struct session_ops ops = {.send = sent,
                                    .on_hello = early ? greeted_early : greeted,
                                    .on_warmed = warmed,
                                    .on_ready = told,
                                    .on_prepared = prepared,
                                    .on_log = logged,
                                    .owner = &session};
    struct bg_err err;
    session_init(&session, &ops, 0);
    session_open(&session, 1);
    session_ping(&session);
    session_prepare(&session, /* of_disk= */ false);
    if (session_feed(&session, bytes, size / 2, 1, &err) == 0)
        (void)!session_feed(&session, bytes + size / 2, size - size / 2, 2, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    feed(bytes, size, false);
    feed(bytes, size, true);
    return 0;
}
