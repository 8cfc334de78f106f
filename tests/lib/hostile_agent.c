/* hostile_agent: takes the agent's place as PID 1 of a guest (BELLGLASS_AGENT) and breaks its word
 * in one chosen way.
 *
 * How it behaves before the guest is ready is chosen by the last 32 bytes of its own file, which
 * the test appends: the boot mode, padded with NUL. With "orderly" it keeps to the protocol until a
 * stream asks for something else: what an exec is told to run, what a copy or a mount is told to
 * fetch, names the misdeed. So one golden snapshot serves many tests.
 *
 * One process a connection, plain blocking calls: whatever it does wrong, it does on purpose. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "common/bytes.h"
#include "common/changes.h"
#include "common/io.h"
#include "common/wire.h"

#define MODE_SIZE 32
#define ENDLESS   for (;;)

/* Shared by all processes: what the session's process shall do from now on. */
struct shared {
    char session[MODE_SIZE];
    char layer[MODE_SIZE]; /* what the copy-on-write share is to do: its place, without the '/' */
};

/* Says what it does on the console, where a failing test shows it. */
static void say(const char *format, ...) BG_PRINTF(1, 2);
static void say(const char *format, ...)
{
    char line[256];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line, sizeof line, format, args);
    va_end(args);
    (void)dprintf(1, "%s\n", line);
}

static _Noreturn void stall(void)
{
    ENDLESS(void) pause();
}

/* Sends everything or ends this process: the host has hung up. */
static void put(int fd, const void *bytes, size_t size)
{
    if (bg_write_full(fd, bytes, size) < 0)
        _exit(0);
}

static void put_reply(int fd, int32_t status, const void *body, uint32_t body_size)
{
    uint8_t header[BG_REPLY_HEADER_SIZE];
    const struct bg_reply_header reply = {.status = status, .body_size = body_size};
    bg_reply_header_emit(&reply, header);
    put(fd, header, sizeof header);
    put(fd, body, body_size);
}

static void put_frame(int fd, uint8_t type, const void *payload, uint32_t size)
{
    uint8_t header[BG_FRAME_HEADER_SIZE];
    bg_frame_header_emit(type, size, header);
    put(fd, header, sizeof header);
    put(fd, payload, size);
}

static void put_exit(int fd, uint32_t how, uint32_t value)
{
    uint8_t payload[8];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u32le(&w, how);
    bg_writer_u32le(&w, value);
    put_frame(fd, BG_FRAME_EXIT, payload, sizeof payload);
}

static void put_garbage(int fd, size_t size)
{
    uint8_t chunk[4096];
    while (size > 0) {
        size_t n = size < sizeof chunk ? size : sizeof chunk;
        bg_random(chunk, n);
        put(fd, chunk, n);
        size -= n;
    }
}

static bool is(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

/* ---- session ---- */

static void put_hello(int fd)
{
    uint8_t payload[64];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u32le(&w, 1);
    bg_writer_text32le(&w, "hostile");
    put_frame(fd, BG_FRAME_HELLO, payload, (uint32_t)w.used);
}

static void put_ready(int fd, int32_t status, const char *text)
{
    uint8_t payload[256];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u32le(&w, (uint32_t)status);
    bg_writer_bytes(&w, text, strlen(text));
    put_frame(fd, BG_FRAME_READY, payload, (uint32_t)w.used);
}

static void misbehave_in_session(int fd, const char *mode)
{
    if (is(mode, "session-close"))
        _exit(0);
    if (is(mode, "session-silent"))
        stall();
    if (is(mode, "session-garbage"))
        put_garbage(fd, 1 << 20);
    if (is(mode, "session-long")) {
        static const uint8_t header[BG_FRAME_HEADER_SIZE] = {BG_FRAME_LOG, 0,   0,   0,
                                                             255,          255, 255, 255};
        put(fd, header, sizeof header);
        stall();
    }
    if (is(mode, "session-half")) {
        static const uint8_t header[] = {BG_FRAME_LOG, 0, 0, 0, 100, 0, 0, 0, 'x'};
        put(fd, header, sizeof header);
        stall();
    }
    if (is(mode, "session-unasked"))
        put_frame(fd, BG_FRAME_PREPARED, "", 0);
    if (is(mode, "session-flood"))
        ENDLESS put_frame(fd, BG_FRAME_LOG, "\x1b[2J flood\n", 11);
}

/* The session as it should be, until shared->session says otherwise. */
static void serve_session(int fd, struct shared *shared)
{
    static uint8_t payload[BG_IDENTITY_SIZE_MAX];
    put_reply(fd, 0, "", 0);
    put_hello(fd);
    ENDLESS
    {
        uint8_t bytes[BG_FRAME_HEADER_SIZE];
        struct bg_frame_header h;
        /* The host pings every two seconds, so a change of mode is seen soon. */
        if (bg_read_full(fd, bytes, sizeof bytes) < 0 ||
            bg_frame_header_parse(bytes, sizeof bytes, BG_IDENTITY_SIZE_MAX, &h, NULL) < 0 ||
            bg_read_full(fd, payload, h.size) < 0)
            _exit(0);
        misbehave_in_session(fd, shared->session);
        if (h.type == BG_FRAME_IDENTITY)
            put_ready(fd, 0, "");
        else if (h.type == BG_FRAME_PING)
            put_frame(fd, BG_FRAME_PONG, payload, h.size);
        else if (h.type == BG_FRAME_PREPARE)
            put_frame(fd, BG_FRAME_PREPARED, "", 0);
        else if (h.type == BG_FRAME_SHUTDOWN)
            (void)kill(1, SIGTERM);
    }
}

/* A session that goes wrong before the guest is ready. */
static void spoil_session(int fd, const char *mode)
{
    if (is(mode, "close"))
        _exit(0);
    if (is(mode, "half-reply")) {
        put(fd, "BGLR\0", 5);
        stall();
    }
    if (is(mode, "garbage")) {
        put_garbage(fd, 1 << 20);
        stall();
    }
    if (is(mode, "huge-reply")) {
        static const uint8_t header[] = {'B', 'G', 'L', 'R', 0, 0, 0, 0, 255, 255, 255, 255};
        put(fd, header, sizeof header);
        stall();
    }
    put_reply(fd, 0, "", 0);
    if (is(mode, "no-hello"))
        stall();
    if (is(mode, "huge-hello")) {
        static const uint8_t header[] = {BG_FRAME_HELLO, 0, 0, 0, 255, 255, 255, 255};
        put(fd, header, sizeof header);
        stall();
    }
    if (is(mode, "many-hellos"))
        ENDLESS put_hello(fd);
    put_hello(fd);
    if (is(mode, "refuses")) {
        put_ready(fd, -EPERM, "no \x1b[31mred\x1b[0m identity");
        stall();
    }
    stall(); /* "not-ready" */
}

/* ---- exec ---- */

static _Noreturn void unbind_device(void)
{
    /* The driver goes, and with it every connection: what a guest's root can always do. */
    static const char driver[] = "/sys/bus/virtio/drivers/vmw_vsock_virtio_transport";
    char path[300];
    for (int i = 0; i < 8; i++) {
        (void)snprintf(path, sizeof path, "%s/virtio%d", driver, i);
        if (access(path, F_OK) < 0)
            continue;
        (void)snprintf(path, sizeof path, "%s/unbind", driver);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        char name[16];
        int n = snprintf(name, sizeof name, "virtio%d", i);
        if (fd < 0 || write(fd, name, (size_t)n) != n)
            say("unbind: %s", strerror(errno));
        break;
    }
    stall();
}

/* Opens as many connections to the host as it can, with a good header or without, and keeps them.
 */
static _Noreturn void flood_connects(bool with_header)
{
    for (uint32_t i = 1; i <= 4000; i++) {
        int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const struct sockaddr_vm host = {.svm_family = AF_VSOCK,
                                         .svm_cid = BG_VSOCK_HOST_CID,
                                         .svm_port = i % 16 == 0 ? 9999 : BG_VSOCK_EGRESS_PORT};
        if (fd < 0 || connect(fd, (const struct sockaddr *)&host, sizeof host) < 0) {
            if (fd >= 0)
                (void)close(fd);
            continue;
        }
        if (!with_header) {
            put(fd, "x", 1);
            continue;
        }
        uint8_t bytes[BG_STREAM_HEADER_SIZE + 64];
        struct bg_writer w = bg_writer_init(bytes + BG_STREAM_HEADER_SIZE, 64);
        const struct bg_connect_request request = {
            .form = BG_CONNECT_NAME, .port = 443, .host = "flood.example"};
        bg_connect_request_emit(&request, &w);
        const struct bg_stream_header header = {
            .kind = BG_STREAM_CONNECT, .id = i, .body_size = (uint32_t)w.used};
        bg_stream_header_emit(&header, bytes);
        if (bg_write_full(fd, bytes, BG_STREAM_HEADER_SIZE + w.used) < 0)
            (void)close(fd);
    }
    say("flood: done");
    stall();
}

static void flood_output(int fd)
{
    static uint8_t chunk[BG_FRAME_SIZE_MAX];
    memset(chunk, 'f', sizeof chunk);
    ENDLESS put_frame(fd, BG_FRAME_STDOUT, chunk, sizeof chunk);
}

/* An answer that is right, in the smallest pieces that there are. */
static void trickle(int fd)
{
    static const char text[] = "trickle\n";
    uint8_t bytes[BG_FRAME_HEADER_SIZE + 1];
    for (size_t i = 0; i < sizeof text - 1; i++) {
        bg_frame_header_emit(BG_FRAME_STDOUT, 1, bytes);
        bytes[BG_FRAME_HEADER_SIZE] = (uint8_t)text[i];
        for (size_t b = 0; b < sizeof bytes; b++)
            put(fd, bytes + b, 1);
    }
    put_exit(fd, BG_EXIT_STATUS, 7);
}

static void serve_exec(int fd, const uint8_t *body, size_t size, struct shared *shared)
{
    static const uint8_t pid[4] = {100, 0, 0, 0};
    struct bg_exec_request request;
    char what[MODE_SIZE];
    if (bg_exec_request_parse(body, size, &request, NULL) < 0)
        _exit(1);
    struct bg_reader in = bg_reader_init(request.strings, request.strings_size);
    bg_reader_text32le(&in, what, sizeof what);
    say("exec: %s", what);
    if (is(what, "no-reply"))
        stall();
    if (is(what, "half-reply")) {
        put(fd, "BGLR\0", 5);
        stall();
    }
    if (is(what, "bad-reply"))
        put(fd, "this is not a reply at all", 26);
    if (is(what, "refuse")) {
        put_reply(fd, -EACCES, "\x1b]0;title\x07no", 12);
        _exit(0);
    }
    if (is(what, "no-pid"))
        put_reply(fd, 0, "", 0);
    else
        put_reply(fd, 0, pid, sizeof pid);
    if (is(what, "close"))
        _exit(0);
    if (is(what, "stall") || is(what, "deaf"))
        stall(); /* deaf: the same, with input that waits */
    if (is(what, "bad-type"))
        put_frame(fd, 99, "x", 1);
    if (is(what, "padding"))
        put(fd, "\x10\1\0\0\1\0\0\0x", 9);
    if (is(what, "long-frame"))
        put(fd, "\x10\0\0\0\xff\xff\xff\xff", 8);
    if (is(what, "half-frame")) {
        put(fd, "\x10\0\0\0\x64\0\0\0x", 9);
        _exit(0);
    }
    if (is(what, "short-exit"))
        put_frame(fd, BG_FRAME_EXIT, "abc", 3);
    if (is(what, "bad-exit"))
        put_exit(fd, 7, 0);
    if (is(what, "bad-signal"))
        put_exit(fd, BG_EXIT_SIGNAL, UINT32_MAX);
    if (is(what, "after-exit")) {
        put_exit(fd, BG_EXIT_STATUS, 0);
        put_frame(fd, BG_FRAME_STDOUT, "late", 4);
    }
    if (is(what, "window"))
        for (int i = 0; i < 100; i++)
            put_frame(fd, BG_FRAME_WINDOW, "\xff\xff\xff\xff", 4);
    if (is(what, "flood"))
        flood_output(fd);
    if (is(what, "trickle"))
        trickle(fd);
    if (is(what, "true"))
        put_exit(fd, BG_EXIT_STATUS, 0);
    if (strncmp(what, "session-", 8) == 0) {
        (void)snprintf(shared->session, sizeof shared->session, "%s", what);
        put_exit(fd, BG_EXIT_STATUS, 0);
    }
    if (is(what, "unbind"))
        unbind_device();
    if (is(what, "connects"))
        flood_connects(/* with_header= */ true);
    if (is(what, "half-connects"))
        flood_connects(/* with_header= */ false);
    if (is(what, "poweroff"))
        (void)reboot(RB_POWER_OFF);
    if (is(what, "panic")) {
        int trigger = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);
        (void)!write(trigger, "c", 1); /* does not come back */
    }
    /* What the host does not understand it must end by itself: here nothing closes. */
    if (!is(what, "trickle") && !is(what, "true") && !is(what, "after-exit"))
        stall();
    (void)shutdown(fd, SHUT_WR);
}

/* ---- copy: archives that want out of the folder they are unpacked to ---- */

static void put_entry(int fd, const char *name, char type, const char *link, const char *content)
{
    char block[1024] = {0};
    size_t size = strlen(content);
    (void)snprintf(block, 100, "%s", name);
    (void)snprintf(block + 100, 8, "%07o", 06755u);
    (void)snprintf(block + 108, 8, "%07o", 0u);
    (void)snprintf(block + 116, 8, "%07o", 0u);
    (void)snprintf(block + 124, 12, "%07zo", size & 0777);
    (void)snprintf(block + 136, 12, "%011o", 0u);
    block[156] = type;
    (void)snprintf(block + 157, 100, "%s", link);
    memcpy(block + 257,
           "ustar\0"
           "00",
           8);
    (void)snprintf(block + 329, 8, "%07o", 1u);
    (void)snprintf(block + 337, 8, "%07o", 3u);
    memset(block + 148, ' ', 8);
    unsigned sum = 0;
    for (size_t i = 0; i < 512; i++)
        sum += (unsigned char)block[i];
    (void)snprintf(block + 148, 8, "%06o", sum);
    memcpy(block + 512, content, size < 512 ? size : 512);
    put_frame(fd, BG_FRAME_DATA, block, size ? 1024 : 512);
}

static void serve_copy(int fd, const uint8_t *body, size_t size)
{
    static const uint8_t done[4] = {0};
    static const uint8_t zeros[1024];
    struct bg_copy_request request;
    if (bg_copy_request_parse(body, size, &request, NULL) < 0)
        _exit(1);
    const char *slash = strrchr(request.path, '/');
    const char *what = slash ? slash + 1 : request.path;
    char name[BG_NAME_MAX + 64];
    say("copy: %s", what);
    put_reply(fd, 0, "", 0);
    if (is(what, "close"))
        _exit(0);
    if (is(what, "stall"))
        stall();
    if (is(what, "garbage")) {
        for (int i = 0; i < 16; i++) {
            uint8_t junk[4096];
            bg_random(junk, sizeof junk);
            put_frame(fd, BG_FRAME_DATA, junk, sizeof junk);
        }
        put_frame(fd, BG_FRAME_END, done, sizeof done);
        stall();
    }
    put_entry(fd, request.root, '5', "", "");
    if (is(what, "up")) {
        (void)snprintf(name, sizeof name, "%s/../../escaped", request.root);
        put_entry(fd, name, '0', "", "up");
    }
    if (is(what, "absolute"))
        put_entry(fd, "/tmp/bellglass-escaped", '0', "", "absolute");
    if (is(what, "through")) {
        (void)snprintf(name, sizeof name, "%s/door", request.root);
        put_entry(fd, name, '2', "..", "");
        (void)snprintf(name, sizeof name, "%s/door/escaped", request.root);
        put_entry(fd, name, '0', "", "through");
    }
    if (is(what, "hardlink")) {
        (void)snprintf(name, sizeof name, "%s/hosts", request.root);
        put_entry(fd, name, '1', "/etc/hosts", "");
    }
    if (is(what, "device")) {
        (void)snprintf(name, sizeof name, "%s/null", request.root);
        put_entry(fd, name, '3', "", "");
    }
    if (is(what, "other-top"))
        put_entry(fd, "escaped", '0', "", "beside");
    if (is(what, "setuid")) {
        (void)snprintf(name, sizeof name, "%s/program", request.root);
        put_entry(fd, name, '0', "", "#!/bin/true\n");
    }
    if (is(what, "short")) {
        (void)snprintf(name, sizeof name, "%s/half", request.root);
        put_entry(fd, name, '0', "", "half a file");
    } else {
        put_frame(fd, BG_FRAME_DATA, zeros, sizeof zeros);
    }
    put_frame(fd, BG_FRAME_END, done, sizeof done);
    stall();
}

/* ---- fuse: answers to requests of the host's kernel ---- */

static void serve_fuse(int fd, const uint8_t *body, size_t size)
{
    struct bg_fuse_request request;
    static uint8_t message[2 << 20];
    if (bg_fuse_request_parse(body, size, &request, NULL) < 0)
        _exit(1);
    const char *what = request.path + 1;
    say("fuse: %s", what);
    put_reply(fd, 0, "", 0);
    if (is(what, "close"))
        _exit(0);
    if (is(what, "garbage")) {
        put_garbage(fd, 1 << 20);
        stall();
    }
    ENDLESS
    {
        /* linux/fuse.h, struct fuse_in_header: u32 len, u32 opcode, u64 unique, ... 40 bytes */
        if (bg_read_full(fd, message, 40) < 0)
            _exit(0);
        struct bg_reader in = bg_reader_init(message, 40);
        uint32_t length = bg_reader_u32le(&in);
        (void)bg_reader_u32le(&in);
        uint64_t unique = bg_reader_u64le(&in);
        if (length < 40 || length > sizeof message ||
            bg_read_full(fd, message + 40, length - 40) < 0)
            _exit(0);
        /* struct fuse_out_header: u32 len, i32 error, u64 unique */
        uint8_t answer[16 + 64] = {0};
        struct bg_writer w = bg_writer_init(answer, sizeof answer);
        bg_writer_u32le(&w, is(what, "huge") ? UINT32_MAX : is(what, "tiny") ? 3 : sizeof answer);
        bg_writer_u32le(&w, is(what, "positive") ? 5 : 0);
        bg_writer_u64le(&w, is(what, "unique") ? unique + 1000 : unique);
        if (is(what, "silent"))
            continue;
        put(fd, answer, sizeof answer);
    }
}

/* ---- shares, and the layers over them ---- */

static void serve_share(int fd)
{
    uint8_t hello[32] = {0};
    struct bg_writer w = bg_writer_init(hello, sizeof hello);
    put_reply(fd, 0, "", 0);
    bg_writer_u32le(&w, 0x43464742); /* docs/protocol.md, "FUSE stream" */
    bg_writer_u16le(&w, 1);
    bg_writer_u16le(&w, 0);
    bg_writer_u32le(&w, 1);
    put(fd, hello, sizeof hello);
    stall();
}

static void put_change(int fd, uint8_t type, const char *path, uint64_t size)
{
    static uint8_t bytes[4 + BG_CHANGE_RECORD_MAX];
    struct bg_change change = {.type = type, .mode = 0644, .size = size};
    (void)snprintf(change.path, sizeof change.path, "%s", path);
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    bg_change_emit(&change, &w);
    put_frame(fd, BG_FRAME_DATA, bytes, (uint32_t)w.used);
}

static void put_end(int fd, int32_t status, const char *text)
{
    uint8_t payload[256];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u32le(&w, (uint32_t)status);
    bg_writer_bytes(&w, text, strlen(text));
    put_frame(fd, BG_FRAME_END, payload, (uint32_t)w.used);
}

static void serve_changes(int fd, const uint8_t *body, size_t size, struct shared *shared)
{
    struct bg_changes_request request;
    if (bg_changes_request_parse(body, size, &request, NULL) < 0)
        _exit(1);
    put_reply(fd, 0, "", 0);
    if (request.op >= BG_CHANGES_MOUNT)
        (void)snprintf(shared->layer, sizeof shared->layer, "%.*s", MODE_SIZE - 1,
                       request.path + 1);
    if (request.op >= BG_CHANGES_MOUNT)
        stall();
    const char *what = shared->layer;
    say("changes: %s", what);
    if (is(what, "close"))
        _exit(0);
    if (is(what, "garbage")) {
        uint8_t junk[4096];
        bg_random(junk, sizeof junk);
        put_frame(fd, BG_FRAME_DATA, junk, sizeof junk);
    }
    if (is(what, "up"))
        put_change(fd, BG_CHANGE_FILE, "../../escaped", 0);
    if (is(what, "half"))
        put_frame(fd, BG_FRAME_DATA, "\x40\0\0\0\1", 5);
    if (is(what, "refuse"))
        put_end(fd, -EIO, "\x1b]0;title\x07no");
    if (is(what, "many"))
        for (unsigned i = 0; i <= BG_CHANGES_RECORDS_MAX; i++)
            put_change(fd, BG_CHANGE_REMOVED, "x", 0);
    if (is(what, "large"))
        put_change(fd, BG_CHANGE_FILE, "large", 1ull << 60);
    if (is(what, "other") || is(what, "grown"))
        put_change(fd, BG_CHANGE_FILE,
                   request.op == BG_CHANGES_LIST || is(what, "grown") ? "asked" : what,
                   request.op == BG_CHANGES_LIST ? 1 : 1ull << 40);
    put_end(fd, 0, "");
    stall();
}

/* ---- streams ---- */

static void serve(int fd, const char *mode, struct shared *shared)
{
    static uint8_t body[BG_STREAM_BODY_MAX];
    uint8_t bytes[BG_STREAM_HEADER_SIZE];
    struct bg_stream_header header;
    if (bg_read_full(fd, bytes, sizeof bytes) < 0 ||
        bg_stream_header_parse(bytes, sizeof bytes, &header, NULL) < 0 ||
        bg_read_full(fd, body, header.body_size) < 0)
        return;
    if (header.kind == BG_STREAM_SESSION && !is(mode, "orderly"))
        spoil_session(fd, mode);
    else if (header.kind == BG_STREAM_SESSION)
        serve_session(fd, shared);
    else if (header.kind == BG_STREAM_EXEC)
        serve_exec(fd, body, header.body_size, shared);
    else if (header.kind == BG_STREAM_COPY)
        serve_copy(fd, body, header.body_size);
    else if (header.kind == BG_STREAM_FUSE)
        serve_fuse(fd, body, header.body_size);
    else if (header.kind == BG_STREAM_SHARE)
        serve_share(fd);
    else if (header.kind == BG_STREAM_CHANGES)
        serve_changes(fd, body, header.body_size, shared);
}

/* ---- boot ---- */

static void load_modules(void)
{
    struct utsname names;
    char path[600];
    if (uname(&names) < 0)
        return;
    (void)snprintf(path, sizeof path, "/lib/modules/%s/bellglass.load", names.release);
    FILE *list = fopen(path, "re");
    char line[256];
    while (list && fgets(line, sizeof line, list)) {
        line[strcspn(line, "\n")] = '\0';
        int fd = open(line, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (syscall(SYS_finit_module, fd, "", 0) < 0)
            say("%s: %s", line, strerror(errno));
        (void)close(fd);
    }
    if (list)
        (void)fclose(list);
}

/* The mode at the end of our own file. */
static void read_mode(char mode[MODE_SIZE + 1])
{
    memset(mode, 0, MODE_SIZE + 1);
    int fd = open("/init", O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0 ||
        pread(fd, mode, MODE_SIZE, st.st_size - MODE_SIZE) != MODE_SIZE)
        say("no mode in /init");
    if (fd >= 0)
        (void)close(fd);
}

static void power_off(int signal_number)
{
    (void)signal_number;
    (void)reboot(RB_POWER_OFF);
}

int main(void)
{
    char mode[MODE_SIZE + 1];
    (void)mkdir("/proc", 0755);
    (void)mkdir("/sys", 0755);
    (void)mkdir("/dev", 0755);
    (void)mount("proc", "/proc", "proc", 0, NULL);
    (void)mount("sysfs", "/sys", "sysfs", 0, NULL);
    (void)mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    int console = open("/dev/console", O_RDWR | O_CLOEXEC);
    for (int fd = 0; console >= 0 && fd < 3; fd++)
        (void)dup2(console, fd);
    (void)signal(SIGCHLD, SIG_IGN); /* no zombies */
    (void)signal(SIGPIPE, SIG_IGN);
    read_mode(mode);
    say("hostile agent: %s", mode);
    if (is(mode, "exit"))
        return 0; /* the kernel panics */
    if (is(mode, "no-driver"))
        stall();
    load_modules();
    if (is(mode, "no-listener"))
        stall();
    (void)signal(SIGTERM, power_off);
    struct shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct sockaddr_vm any = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = BG_VSOCK_AGENT_PORT};
    if (shared == MAP_FAILED || listener < 0 ||
        bind(listener, (const struct sockaddr *)&any, sizeof any) < 0 ||
        listen(listener, 128) < 0) {
        say("listen: %s", strerror(errno));
        stall();
    }
    ENDLESS
    {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        if (fork() == 0) {
            serve(fd, mode, shared);
            _exit(0);
        }
        (void)close(fd);
    }
}
