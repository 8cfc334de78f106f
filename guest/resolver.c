#include "guest/resolver.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/limits.h"
#include "guest/channel.h"
#include "guest/dns.h"
#include "guest/redirect.h"
#include "guest/sockets.h"

/* Queries in one turn of the loop, for each socket. */
#define QUERIES_PER_TURN 64

/* A client of DNS over TCP that says nothing for so long is closed. */
#define CLIENT_IDLE_MS 10000

#define PREFIX_SIZE 2u /* RFC 1035 §4.2.2: the length before each message over TCP */

enum { PLACES = 3 };

struct place {
    struct resolver *resolver;
    uv_poll_t udp, tcp;
    int udp_fd, tcp_fd;
};

struct resolver {
    uv_loop_t *loop;
    struct names *names;
    struct place places[PLACES];
    unsigned client_count;
};

struct client {
    struct resolver *resolver;
    struct channel channel;
    uv_timer_t idle;
    unsigned open_handles;
    size_t used;
    uint8_t input[PREFIX_SIZE + BG_DNS_MESSAGE_MAX];
};

static size_t answer(struct resolver *resolver, const uint8_t *query, size_t size, uint8_t *out)
{
    char hostname[65] = "";
    (void)gethostname(hostname, sizeof hostname - 1); /* it changes with the identity */
    return dns_answer(resolver->names, hostname, query, size, out);
}

/* ---- UDP ---- */

static void queried(uv_poll_t *poll, int status, int events)
{
    (void)status; /* an ICMP error about some answer; it is read and forgotten */
    (void)events;
    struct place *place = poll->data;
    for (int i = 0; i < QUERIES_PER_TURN; i++) {
        uint8_t query[BG_DNS_MESSAGE_MAX], out[DNS_ANSWER_MAX];
        struct sockaddr_storage from;
        socklen_t from_size = sizeof from;
        ssize_t n =
            recvfrom(place->udp_fd, query, sizeof query, 0, (struct sockaddr *)&from, &from_size);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            continue;
        size_t size = answer(place->resolver, query, (size_t)n, out);
        if (size > 0) /* lost like any datagram if the buffer is full */
            (void)sendto(place->udp_fd, out, size, 0, (struct sockaddr *)&from, from_size);
    }
    /* libuv stops a poll that had an error. */
    (void)uv_poll_start(poll, UV_READABLE, queried);
}

/* ---- TCP ---- */

static void client_handle_closed(struct client *client)
{
    if (--client->open_handles > 0)
        return;
    client->resolver->client_count--;
    free(client);
}

static void channel_closed(void *owner)
{
    client_handle_closed(owner);
}

static void idle_closed(uv_handle_t *handle)
{
    client_handle_closed(handle->data);
}

static void client_close(struct client *client)
{
    if (client->channel.state != CHANNEL_OPEN)
        return;
    channel_close(&client->channel, channel_closed);
    uv_close((uv_handle_t *)&client->idle, idle_closed);
}

static void client_idle(uv_timer_t *timer)
{
    client_close(timer->data);
}

/* Answers the first query of the input. False if it is incomplete, or the client is closed. */
static bool client_answer(struct client *client)
{
    struct bg_reader in = bg_reader_init(client->input, client->used);
    size_t size = bg_reader_u16be(&in);
    if (!bg_reader_ok(&in) || (size <= BG_DNS_MESSAGE_MAX && size > in.left))
        return false;
    uint8_t out[PREFIX_SIZE + DNS_ANSWER_MAX];
    size_t out_size =
        size > BG_DNS_MESSAGE_MAX ? 0 : answer(client->resolver, in.at, size, out + PREFIX_SIZE);
    if (out_size == 0) { /* nothing that could be answered will follow */
        client_close(client);
        return false;
    }
    struct bg_writer w = bg_writer_init(out, PREFIX_SIZE);
    bg_writer_u16be(&w, (uint16_t)out_size);
    struct iovec part = {.iov_base = out, .iov_len = PREFIX_SIZE + out_size};
    if (channel_write(&client->channel, &part, 1) < 0) {
        client_close(client);
        return false;
    }
    client->used -= PREFIX_SIZE + size;
    memmove(client->input, client->input + PREFIX_SIZE + size, client->used);
    return true;
}

static void client_answer_all(struct client *client)
{
    while (channel_queued(&client->channel) == 0 && client_answer(client))
        ;
    if (client->channel.state == CHANNEL_OPEN)
        channel_want_input(&client->channel, channel_queued(&client->channel) == 0);
}

static void client_readable(void *owner)
{
    struct client *client = owner;
    ssize_t n = channel_read(&client->channel, client->input + client->used,
                             sizeof client->input - client->used);
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        client_close(client);
        return;
    }
    client->used += (size_t)n;
    (void)uv_timer_again(&client->idle); /* it is running */
    client_answer_all(client);
}

static void client_room(void *owner)
{
    client_answer_all(owner);
}

static void client_broken(void *owner, int status)
{
    (void)status; /* the client is gone, in whatever way */
    client_close(owner);
}

static const struct channel_ops client_ops = {
    .on_readable = client_readable, .on_room = client_room, .on_broken = client_broken};

static void connected(uv_poll_t *poll, int status, int events)
{
    (void)events;
    struct place *place = poll->data;
    if (status < 0)
        return;
    int fd = accept4(place->tcp_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    struct resolver *resolver = place->resolver;
    struct client *client =
        resolver->client_count < BG_DNS_CLIENTS_MAX ? calloc(1, sizeof *client) : NULL;
    if (!client || channel_open(&client->channel, resolver->loop, fd, &client_ops, client) < 0) {
        free(client);
        (void)close(fd); /* it may ask again */
        return;
    }
    client->resolver = resolver;
    resolver->client_count++;
    client->open_handles = 2;
    (void)uv_timer_init(resolver->loop, &client->idle); /* cannot fail, nor starting it */
    client->idle.data = client;
    (void)uv_timer_start(&client->idle, client_idle, CLIENT_IDLE_MS, CLIENT_IDLE_MS);
    channel_want_input(&client->channel, true);
}

/* ---- opening ---- */

static int open_place(struct resolver *resolver, struct place *place,
                      const struct sockaddr *address, socklen_t size, struct bg_err *err)
{
    place->resolver = resolver;
    int r = sockets_bind(address, size, SOCK_DGRAM, &place->udp_fd, err);
    if (r == 0)
        r = sockets_bind(address, size, SOCK_STREAM, &place->tcp_fd, err);
    if (r < 0)
        return r;
    r = uv_poll_init(resolver->loop, &place->udp, place->udp_fd);
    if (r == 0)
        r = uv_poll_init(resolver->loop, &place->tcp, place->tcp_fd);
    if (r < 0)
        return bg_err_errno(err, r, "DNS server");
    place->udp.data = place->tcp.data = place;
    (void)uv_poll_start(&place->udp, UV_READABLE, queried); /* not closing: cannot fail */
    (void)uv_poll_start(&place->tcp, UV_READABLE, connected);
    return 0;
}

int resolver_open(uv_loop_t *loop, struct names *names, struct resolver **ret_resolver,
                  struct bg_err *err)
{
    struct resolver *resolver = calloc(1, sizeof *resolver);
    if (!resolver)
        return bg_err_errno(err, -ENOMEM, "DNS server");
    resolver->loop = loop;
    resolver->names = names;
    struct sockaddr_in named = {.sin_family = AF_INET, .sin_port = htons(53)};
    struct sockaddr_in v4 = {.sin_family = AF_INET,
                             .sin_port = htons(REDIRECT_DNS_PORT),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6,
                              .sin6_port = htons(REDIRECT_DNS_PORT),
                              .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    (void)inet_pton(AF_INET, RESOLVER_ADDRESS, &named.sin_addr); /* a constant of ours */
    int r =
        open_place(resolver, &resolver->places[0], (struct sockaddr *)&named, sizeof named, err);
    if (r == 0)
        r = open_place(resolver, &resolver->places[1], (struct sockaddr *)&v4, sizeof v4, err);
    if (r == 0)
        r = open_place(resolver, &resolver->places[2], (struct sockaddr *)&v6, sizeof v6, err);
    if (r < 0)
        return r; /* the process ends with that; so do the sockets */
    *ret_resolver = resolver;
    return 0;
}
