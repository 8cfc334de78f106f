/* net_helper: PID 1 of the guest that the vsock benchmark is compared with. Brings the network card
 * up with the address that QEMU's user network gives, and serves the agent's bench modes over TCP.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include "common/io.h"
#include "common/wire.h"

#define PORT  5000
#define CHUNK (256 * 1024)

static void load(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)syscall(SYS_finit_module, fd, "", 0); /* what is missing shows as no network */
        (void)close(fd);
    }
}

static void load_modules(void)
{
    static const char *const extra[] = {"/extra/failover.ko", "/extra/net_failover.ko",
                                        "/extra/virtio_net.ko"};
    struct utsname names;
    char path[600], line[256];
    (void)uname(&names); /* cannot fail with a valid pointer */
    (void)snprintf(path, sizeof path, "/lib/modules/%s/bellglass.load", names.release);
    FILE *list = fopen(path, "re");
    while (list && fgets(line, sizeof line, list)) {
        line[strcspn(line, "\n")] = '\0';
        load(line);
    }
    for (size_t i = 0; i < 3; i++)
        load(extra[i]);
}

static int set_address(int fd, const char *card, unsigned long request, const char *address)
{
    struct ifreq ifr = {0};
    const struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = inet_addr(address)};
    (void)snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "%s", card);
    memcpy(&ifr.ifr_addr, &in, sizeof in);
    return ioctl(fd, request, &ifr);
}

static void bring_up(void)
{
    BG_AUTOCLOSE int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq ifr = {.ifr_name = "eth0"};
    if (set_address(fd, "eth0", SIOCSIFADDR, "10.0.2.15") < 0 ||
        set_address(fd, "eth0", SIOCSIFNETMASK, "255.255.255.0") < 0)
        return;
    ifr.ifr_flags = IFF_UP | IFF_RUNNING;
    (void)ioctl(fd, SIOCSIFFLAGS, &ifr); /* without it nobody connects, and the benchmark says so */
}

static void serve(int fd)
{
    static uint8_t chunk[CHUNK];
    uint8_t body[9];
    struct bg_bench_request request;
    if (bg_read_full(fd, body, sizeof body) < 0 ||
        bg_bench_request_parse(body, sizeof body, &request, NULL) < 0 ||
        bg_write_full(fd, "r", 1) < 0)
        return;
    for (uint64_t left = request.bytes; left > 0;) {
        size_t want = left < CHUNK ? (size_t)left : CHUNK;
        ssize_t n =
            request.mode == BG_BENCH_SOURCE ? write(fd, chunk, want) : read(fd, chunk, want);
        if (n <= 0)
            return;
        left -= (uint64_t)n;
    }
    if (request.mode == BG_BENCH_SINK)
        (void)!bg_write_full(fd, "d", 1); /* the host sees a failure as the end of the stream */
}

int main(void)
{
    (void)mkdir("/proc", 0755);
    (void)mount("proc", "/proc", "proc", 0, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGCHLD, SIG_IGN);
    load_modules();
    bring_up();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    if (listener < 0 || bind(listener, (const struct sockaddr *)&any, sizeof any) < 0 ||
        listen(listener, 16) < 0)
        return 1;
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0 && fork() == 0) {
            serve(fd);
            _exit(0);
        }
        if (fd >= 0)
            (void)close(fd);
    }
}
