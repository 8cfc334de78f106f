/* forward. One process listens; each connection has a process of its own, which opens the stream
 * (and wakes the sandbox for it) without holding up the others. */
#include "host/cli/commands.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/limits.h"
#include "host/cli/client.h"
#include "host/cli/forward.h"
#include "host/cli/forward_spec.h"
#include "host/cli/life.h"
#include "host/cli/output.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/signals.h"
#include "host/cli/wake.h"

#define REPLY_TIMEOUT_MS  60000 /* for the sandbox to connect there */
#define STATUS_TIMEOUT_MS 5000
#define ADDRESSES_MAX     16
#define PORTS_MAX         64
#define FREE_PORT_TRIES   16 /* for a port that is free on each of the addresses */
#define GONE              69 /* of a connection's process: the sandbox is no more (sysexits.h) */

enum { OPTION_ADDRESS = OPTION_OWN };

static const struct option_spec options[] = {
    {OPTION_ADDRESS, 0, true, "address", "ADDRESS",
     "listen there [127.0.0.1 and ::1, which only programs here reach]"},
    {OPTION_JSON, 0, false, "json", NULL, "print where it listens as JSON, one object a line"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] NAME [HOSTPORT:]PORT...", NULL};

static const char *const examples[] = {
    "forward web 8080",
    "forward web 8000:80 0:5432",
    "forward --address 192.168.1.5 web 8080",
    NULL,
};

struct address {
    struct sockaddr_storage at;
    socklen_t size;
    bool needed; /* or it is no loss where there is none (IPv6) */
};

struct listener {
    int fd;
    uint16_t guest_port;
};

struct forwarder {
    struct app *app;
    const struct bg_sandbox *sandbox;
    struct address addresses[ADDRESSES_MAX];
    size_t address_count;
    struct listener listeners[ADDRESSES_MAX * PORTS_MAX];
    size_t listener_count;
    size_t connections;
    int signal_fd, child_fd;
    bool json;
};

/* ---- one connection ---- */

static bool is_lost(void *owner)
{
    const struct forwarder *f = owner;
    json_auto_t *request = json_pack("{s:s}", "op", "status");
    /* A supervisor whose VM has ended still listens for a moment, and answers nobody. */
    return client_request(&f->app->paths, f->sandbox, request, STATUS_TIMEOUT_MS, NULL, NULL) < 0;
}

static int open_stream(const struct forwarder *f, uint16_t port, int *ret_fd, struct bg_err *err)
{
    uint8_t body[2];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    struct life life;
    bg_writer_u16le(&w, port);
    int r = life_open_running(f->app, f->sandbox->name, &life, err);
    if (r < 0)
        return r;
    if (strcmp(life.sandbox.id, f->sandbox->id) != 0)
        r = bg_err_set(err, -ENOENT, "sandbox '%s' is another one now", f->sandbox->name);
    if (r == 0)
        r = wake_open(f->app, &life.sandbox, "forward", body, w.used, ret_fd, err);
    life_done(&life);
    return r < 0 ? r : client_stream_reply(*ret_fd, REPLY_TIMEOUT_MS, err);
}

static int carry(struct forwarder *f, uint16_t port, int client_fd)
{
    struct bg_err err;
    int fd = -1, on = 1;
    (void)setsockopt(client_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* slower, no more */
    int r = open_stream(f, port, &fd, &err);
    BG_AUTOCLOSE int stream = fd;
    if (r < 0) {
        (void)app_fail(&err);
        forward_reset(client_fd);
        return r == -ENOENT ? GONE : APP_FAILED;
    }
    const struct forward_opts opts = {
        .client_fd = client_fd, .stream_fd = stream, .is_lost = is_lost, .owner = f};
    if (forward_carry(&opts) < 0)
        forward_reset(client_fd);
    return 0;
}

/* In the child: like a process that was started anew, and ends with the one that listens. */
static void become_connection(struct forwarder *f, pid_t parent)
{
    sigset_t none;
    (void)sigemptyset(&none); /* cannot fail, nor can these */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    if (getppid() != parent)
        _exit(0);
    for (size_t i = 0; i < f->listener_count; i++)
        (void)close(f->listeners[i].fd); /* who listens listens alone */
    (void)close(f->signal_fd);           /* read by the parent */
    (void)close(f->child_fd);            /* likewise */
}

static void take_connection(struct forwarder *f, const struct listener *listener)
{
    pid_t parent = getpid();
    BG_AUTOCLOSE int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return; /* it has gone again; or memory or fds are short: the next turn tries again */
    pid_t pid = fork();
    if (pid == 0) {
        become_connection(f, parent);
        int status = carry(f, listener->guest_port, fd);
        (void)close(fd); /* what was to be sent is the kernel's by now */
        _exit(status);
    }
    if (pid > 0) {
        f->connections++;
        return;
    }
    app_note("a connection to port %u was refused: %s", listener->guest_port, strerror(errno));
    forward_reset(fd);
}

/* ---- listening ---- */

static void set_port(struct sockaddr_storage *address, uint16_t port)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    if (address->ss_family == AF_INET) {
        memcpy(&v4, address, sizeof v4);
        v4.sin_port = htons(port);
        memcpy(address, &v4, sizeof v4);
    } else {
        memcpy(&v6, address, sizeof v6);
        v6.sin6_port = htons(port);
        memcpy(address, &v6, sizeof v6);
    }
}

static void name_of(const struct sockaddr_storage *address, char ret[INET6_ADDRSTRLEN],
                    uint16_t *ret_port)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    memcpy(&v4, address, sizeof v4);
    memcpy(&v6, address, sizeof v6);
    bool is_v4 = address->ss_family == AF_INET;
    const void *bytes = is_v4 ? (const void *)&v4.sin_addr : (const void *)&v6.sin6_addr;
    if (!inet_ntop(address->ss_family, bytes, ret, INET6_ADDRSTRLEN))
        ret[0] = '\0'; /* cannot be */
    *ret_port = ntohs(is_v4 ? v4.sin_port : v6.sin6_port);
}

static int listen_failed(const struct sockaddr_storage *address, int code, struct bg_err *err)
{
    char name[INET6_ADDRSTRLEN];
    uint16_t port;
    name_of(address, name, &port);
    return bg_err_set(err, code, "cannot listen on %s port %u: %s%s", name, port, strerror(-code),
                      code == -EACCES ? "; ports below 1024 are root's: choose HOSTPORT:PORT"
                      : code == -EADDRINUSE
                          ? "; choose another one with HOSTPORT:PORT (0: any that is free)"
                          : "");
}

static int listen_at(const struct address *address, uint16_t port, int *ret_fd, struct bg_err *err)
{
    int on = 1;
    struct sockaddr_storage at = address->at;
    set_port(&at, port);
    BG_AUTOCLOSE int fd = socket(at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return listen_failed(&at, -errno, err);
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        (at.ss_family == AF_INET6 &&
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) < 0) ||
        bind(fd, (const struct sockaddr *)&at, address->size) < 0 || listen(fd, SOMAXCONN) < 0)
        return listen_failed(&at, -errno, err);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage at = {0};
    socklen_t size = sizeof at;
    char name[INET6_ADDRSTRLEN];
    uint16_t port = 0;
    if (getsockname(fd, (struct sockaddr *)&at, &size) == 0)
        name_of(&at, name, &port);
    return port;
}

static void drop_listeners(struct forwarder *f, size_t from)
{
    while (f->listener_count > from)
        (void)close(f->listeners[--f->listener_count].fd); /* nobody has connected */
}

/* On each of the addresses, all with one port. */
static int listen_once(struct forwarder *f, const struct forward_spec *spec, struct bg_err *err)
{
    uint16_t port = spec->host_port;
    size_t from = f->listener_count;
    for (size_t i = 0; i < f->address_count; i++) {
        int fd;
        int r = listen_at(&f->addresses[i], port, &fd, err);
        if (!f->addresses[i].needed && (r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL))
            continue; /* no IPv6 here */
        if (r < 0) {
            drop_listeners(f, from);
            return r;
        }
        if (port == 0)
            port = port_of(fd);
        f->listeners[f->listener_count++] =
            (struct listener){.fd = fd, .guest_port = spec->guest_port};
    }
    return f->listener_count > from ? 0
                                    : bg_err_set(err, -EADDRNOTAVAIL, "no address to listen on");
}

static int listen_for(struct forwarder *f, const struct forward_spec *spec, struct bg_err *err)
{
    int r = listen_once(f, spec, err);
    for (int i = 1; r == -EADDRINUSE && spec->host_port == 0 && i < FREE_PORT_TRIES; i++)
        r = listen_once(f, spec, err);
    return r;
}

static int print_listener(const struct forwarder *f, const struct listener *listener)
{
    struct sockaddr_storage at = {0};
    socklen_t size = sizeof at;
    char name[INET6_ADDRSTRLEN];
    uint16_t port;
    if (getsockname(listener->fd, (struct sockaddr *)&at, &size) < 0)
        return -errno;
    name_of(&at, name, &port);
    if (!f->json) {
        (void)printf(at.ss_family == AF_INET6 ? "[%s]:%u -> %s:%u\n" : "%s:%u -> %s:%u\n", name,
                     port, f->sandbox->name, listener->guest_port);
        return 0;
    }
    json_auto_t *json =
        json_pack("{s:s, s:i, s:s, s:i}", "address", name, "port", (int)port, "sandbox",
                  f->sandbox->name, "sandbox_port", (int)listener->guest_port);
    if (!json || json_dumpf(json, stdout, JSON_COMPACT | JSON_ENSURE_ASCII) < 0)
        return -ENOMEM;
    (void)fputc('\n', stdout);
    return 0;
}

/* ---- the command ---- */

static int add_addresses(struct forwarder *f, const struct args *args, struct bg_err *err)
{
    static const char *const usual[] = {"127.0.0.1", "::1"};
    size_t at = 0;
    bool loopback;
    for (const char *text; (text = args_next(args, OPTION_ADDRESS, &at));) {
        if (f->address_count == ADDRESSES_MAX)
            return bg_err_set(err, -E2BIG, "--address: at most %d", ADDRESSES_MAX);
        struct address *address = &f->addresses[f->address_count++];
        address->needed = true;
        int r = forward_spec_address(text, &address->at, &address->size, &loopback, err);
        if (r < 0)
            return r;
        if (!loopback)
            app_note("whoever reaches this machine at %s can connect to the sandbox", text);
    }
    bool given = f->address_count > 0;
    for (size_t i = 0; i < 2 && !given; i++) {
        struct address *address = &f->addresses[f->address_count++];
        int r = forward_spec_address(usual[i], &address->at, &address->size, &loopback, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int add_ports(struct forwarder *f, const struct args *args, struct bg_err *err)
{
    struct forward_spec specs[PORTS_MAX];
    size_t count = args->operand_count - 1;
    int r = 0;
    if (count > PORTS_MAX)
        return bg_err_set(err, -E2BIG, "%zu ports: at most %d", count, PORTS_MAX);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = forward_spec_parse(args->operands[i + 1], &specs[i], err);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = listen_for(f, &specs[i], err);
    return r;
}

/* The children's ends, as an fd. */
static int watch_children(int *ret_fd, struct bg_err *err)
{
    sigset_t set;
    (void)sigemptyset(&set); /* cannot fail, nor sigaddset with this */
    (void)sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return bg_err_errno(err, -errno, "signals");
    *ret_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return *ret_fd < 0 ? bg_err_errno(err, -errno, "signalfd") : 0;
}

/* Returns false when the sandbox is no more. */
static bool reap(struct forwarder *f)
{
    struct signalfd_siginfo info;
    int status;
    bool there = true;
    while (read(f->child_fd, &info, sizeof info) == (ssize_t)sizeof info)
        ; /* several may have become one */
    while (waitpid(-1, &status, WNOHANG) > 0) {
        f->connections--;
        there = there && !(WIFEXITED(status) && WEXITSTATUS(status) == GONE);
    }
    return there;
}

/* Until a signal, or the sandbox is removed. */
static int serve(struct forwarder *f, struct bg_err *err)
{
    BG_AUTOFREE struct pollfd *fds = calloc(f->listener_count + 2, sizeof *fds);
    if (!fds)
        return bg_err_errno(err, -ENOMEM, "forward");
    for (;;) {
        /* Further ones wait in the kernel's list. */
        bool room = f->connections < BG_FORWARD_CONNECTIONS_MAX;
        for (size_t i = 0; i < f->listener_count; i++)
            fds[i + 2] = (struct pollfd){.fd = room ? f->listeners[i].fd : -1, .events = POLLIN};
        fds[0] = (struct pollfd){.fd = f->signal_fd, .events = POLLIN};
        fds[1] = (struct pollfd){.fd = f->child_fd, .events = POLLIN};
        if (poll(fds, f->listener_count + 2, -1) < 0 && errno != EINTR)
            return bg_err_errno(err, -errno, "poll");
        for (int number; fds[0].revents && (number = signals_next(f->signal_fd)) > 0;)
            if (number == SIGINT || number == SIGTERM || number == SIGHUP || number == SIGQUIT)
                return 0;
        if (fds[1].revents && !reap(f))
            return bg_err_set(err, -ENOENT, "sandbox '%s' was removed", f->sandbox->name);
        for (size_t i = 0; i < f->listener_count; i++)
            if (fds[i + 2].revents)
                take_connection(f, &f->listeners[i]);
    }
}

static int begin(struct forwarder *f, const struct args *args, struct bg_err *err)
{
    int r = add_addresses(f, args, err);
    if (r == 0)
        r = add_ports(f, args, err);
    if (r == 0)
        r = signals_open(&f->signal_fd, err);
    if (r == 0)
        r = watch_children(&f->child_fd, err);
    for (size_t i = 0; r == 0 && i < f->listener_count; i++)
        if ((r = print_listener(f, &f->listeners[i])) < 0)
            (void)bg_err_errno(err, r, "forward");
    /* Whoever reads it waits for it. */
    if (r == 0 && fflush(stdout) != 0)
        r = bg_err_errno(err, -errno, "cannot write to standard output");
    return r;
}

static int run(struct app *app, const struct args *args)
{
    struct bg_err err;
    struct life life;
    struct forwarder f = {
        .app = app, .signal_fd = -1, .child_fd = -1, .json = args_flag(args, OPTION_JSON)};
    /* One that sleeps is not woken before somebody connects. */
    int r = life_open(app, args->operands[0], &life, &err);
    if (r < 0)
        return app_fail(&err);
    f.sandbox = &life.sandbox;
    if (life.state == BG_SANDBOX_STOPPED || life.state == BG_SANDBOX_CRASHED)
        r = bg_err_set(&err, -ENOTCONN, "sandbox '%s' is not running; start it: bellglass start %s",
                       life.sandbox.name, life.sandbox.name);
    if (r == 0)
        r = begin(&f, args, &err);
    if (r == 0)
        r = serve(&f, &err);
    drop_listeners(&f, 0);
    if (f.signal_fd >= 0)
        (void)close(f.signal_fd); /* read from only */
    if (f.child_fd >= 0)
        (void)close(f.child_fd); /* likewise */
    life_done(&life);
    return r < 0 ? app_fail(&err) : 0;
}

const struct command cmd_forward = {
    .name = "forward",
    .summary = "reach ports of a sandbox from here",
    .forms = forms,
    .options = options,
    .details =
        "Listens on HOSTPORT of this machine's loopback (127.0.0.1 and ::1), where only programs "
        "of this machine reach it, of any user; each connection is carried to PORT on the "
        "sandbox's own loopback, over a stream and not through a network. HOSTPORT is PORT unless "
        "given; 0 takes one that is free. Prints a line for each place where it listens, once it "
        "does.\n\n"
        "Goes on until Ctrl-C, which ends the connections too, or until the sandbox is removed. "
        "When the sandbox is suspended its connections are reset, and the next one wakes it. While "
        "it is stopped connections are refused; after a start they work again.\n\n"
        "It stays in the foreground. To have it in the background, let systemd look after it: "
        "systemd-run --user --unit=web-8080 bellglass forward web 8080, and systemctl --user stop "
        "web-8080.",
    .examples = examples,
    .operands_min = 2,
    .operands_max = -1,
    .run = run,
};
