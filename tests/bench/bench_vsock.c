/* Bytes between host and guest: a stream on our device, and TCP through QEMU's user network into a
 * second guest of the same kernel, machine and size. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "common/cpio.h"
#include "common/io.h"
#include "tests/bench/measure.h"

#define NAME       "bench-vsock"
#define ROUNDS     7
#define MIB        (1024.0 * 1024.0)
#define BYTES      (UINT64_C(128) << 20)
#define CHUNK      (256 * 1024)
#define GUEST_PORT 5000
#define BOOT_MS    120000

static uint8_t chunk[CHUNK];

/* Sends bytes and waits for the byte that says they have all been read. */
static double sink_seconds(int fd)
{
    double start = now_ms();
    for (uint64_t left = BYTES; left > 0; left -= CHUNK)
        write_all(fd, chunk, CHUNK);
    read_all(fd, chunk, 1);
    return (now_ms() - start) / 1000;
}

static double source_seconds(int fd)
{
    double start = now_ms();
    for (uint64_t left = BYTES; left > 0;) {
        ssize_t n = read(fd, chunk, left < CHUNK ? (size_t)left : CHUNK);
        if (n <= 0)
            bench_fail("source: ended with %llu bytes to come", (unsigned long long)left);
        left -= (uint64_t)n;
    }
    return (now_ms() - start) / 1000;
}

static int open_vsock(enum bg_bench_mode mode)
{
    uint8_t body[16];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    const struct bg_bench_request request = {.mode = (uint8_t)mode, .bytes = BYTES};
    bg_bench_request_emit(&request, &w);
    return stream_open(NAME, "bench", body, w.used);
}

/* ---- the other guest ---- */

/* Our modules and theirs, and net_helper as /init. */
static void write_initrd(const char *path, const char *image, const char *modules,
                         const char *helper)
{
    static const char *const extra[] = {"failover.ko", "net_failover.ko", "virtio_net.ko"};
    char name[PATH_MAX];
    char *bytes;
    size_t size;
    struct bg_err err;
    BG_AUTOCLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    (void)snprintf(name, sizeof name, "%s/modules.cpio", image);
    if (fd < 0 || bg_read_file(AT_FDCWD, name, 64u << 20, &bytes, &size, &err) < 0)
        bench_fail("%s: cannot be written from %s", path, name);
    write_all(fd, bytes, size);
    free(bytes);
    struct bg_cpio cpio = bg_cpio_init(fd);
    if (bg_read_file(AT_FDCWD, helper, 64u << 20, &bytes, &size, &err) < 0 ||
        bg_cpio_file(&cpio, "init", 0755, bytes, size) < 0 ||
        bg_cpio_folder(&cpio, "extra", 0755) < 0)
        bench_fail("%s: cannot be packed", helper);
    free(bytes);
    for (size_t i = 0; i < 3; i++) {
        char inside[64];
        (void)snprintf(name, sizeof name, "%s/%s", modules, extra[i]);
        (void)snprintf(inside, sizeof inside, "extra/%s", extra[i]);
        if (bg_read_file(AT_FDCWD, name, 64u << 20, &bytes, &size, &err) < 0 ||
            bg_cpio_file(&cpio, inside, 0644, bytes, size) < 0)
            bench_fail("%s: cannot be packed", name);
        free(bytes);
    }
    if (bg_cpio_end(&cpio) < 0)
        bench_fail("%s: cannot be written", path);
}

static uint16_t free_port(void)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof any;
    BG_AUTOCLOSE int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&any, size) < 0 ||
        getsockname(fd, (struct sockaddr *)&any, &size) < 0)
        bench_fail("no free port: %s", strerror(errno));
    return ntohs(any.sin_port);
}

static pid_t start_user_net(const char *image, const char *initrd, uint16_t port)
{
    char kernel[PATH_MAX], net[128];
    (void)snprintf(kernel, sizeof kernel, "%s/vmlinuz", image);
    (void)snprintf(net, sizeof net, "user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:%u-:%u", port,
                   GUEST_PORT);
    const char *accel = getenv("BG_BENCH_ACCEL");
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0)
            _exit(126);
        (void)execlp("qemu-system-x86_64", "qemu-system-x86_64", "-nodefaults", "-no-user-config",
                     "-display", "none", "-machine", "pc", "-accel", accel ? accel : "tcg", "-cpu",
                     "max,-erms", "-m", "512", "-smp", "1", "-kernel", kernel, "-initrd", initrd,
                     "-append", "quiet panic=-1 rdinit=/init", "-netdev", net, "-device",
                     "virtio-net-pci,netdev=n,romfile=", (char *)NULL);
        _exit(126);
    }
    return pid;
}

/* Connects and asks for the mode; retries until the guest is up (QEMU accepts before it is). */
static int open_tcp(uint16_t port, enum bg_bench_mode mode)
{
    const struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    uint8_t body[16], ready;
    struct bg_writer w = bg_writer_init(body, sizeof body);
    const struct bg_bench_request request = {.mode = (uint8_t)mode, .bytes = BYTES};
    bg_bench_request_emit(&request, &w);
    for (double start = now_ms(); now_ms() - start < BOOT_MS; (void)poll(NULL, 0, 100)) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            bench_fail("socket: %s", strerror(errno));
        if (connect(fd, (const struct sockaddr *)&to, sizeof to) == 0 &&
            bg_write_full(fd, body, w.used) == 0 && bg_read_full(fd, &ready, 1) == 0)
            return fd;
        (void)close(fd);
    }
    bench_fail("the guest with a user network did not answer within %d s", BOOT_MS / 1000);
}

static void print_ratio(const char *what, struct samples *ours, struct samples *theirs)
{
    char text[128];
    (void)printf("  %s, vsock          %s\n", what, samples_text(ours, "MiB/s", text));
    (void)printf("  %s, user network   %s\n", what, samples_text(theirs, "MiB/s", text));
    (void)printf("  %s, ratio          %9.1f    target >= 2\n", what,
                 samples_median(ours) / samples_median(theirs));
}

void bench_vsock(const char *image, const char *modules)
{
    static struct samples in, out, tcp_in, tcp_out;
    const char *helper = getenv("BG_BENCH_NET_HELPER"), *temp = getenv("BELLGLASS_HOME");
    char initrd[PATH_MAX];
    if (!helper || !temp)
        bench_fail("BG_BENCH_NET_HELPER and BELLGLASS_HOME must be set");
    (void)signal(SIGPIPE, SIG_IGN);
    (void)snprintf(initrd, sizeof initrd, "%s/net-initrd", temp);
    write_initrd(initrd, image, modules, helper);
    uint16_t port = free_port();
    (void)BELLGLASS("create", NAME);
    pid_t qemu = start_user_net(image, initrd, port);
    for (int i = 0; i <= ROUNDS; i++) { /* the first of each warms up */
        struct samples *const into[] = {&in, &out, &tcp_in, &tcp_out};
        for (int what = 0; what < 4; what++) {
            enum bg_bench_mode mode = what % 2 == 0 ? BG_BENCH_SINK : BG_BENCH_SOURCE;
            int fd = what < 2 ? open_vsock(mode) : open_tcp(port, mode);
            double seconds = mode == BG_BENCH_SINK ? sink_seconds(fd) : source_seconds(fd);
            if (i > 0)
                samples_add(into[what], (double)BYTES / MIB / seconds);
            (void)close(fd);
        }
    }
    (void)kill(qemu, SIGKILL);
    (void)waitpid(qemu, NULL, 0);
    (void)BELLGLASS("rm", "--force", NAME);
    (void)printf("vsock: %llu MiB in one stream\n", (unsigned long long)(BYTES >> 20));
    print_ratio("host to guest", &in, &tcp_in);
    print_ratio("guest to host", &out, &tcp_out);
}
