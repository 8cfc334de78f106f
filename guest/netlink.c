#include "guest/netlink.h"

#include <endian.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* The kernel answers at once; this is against waiting for ever for what it does not answer. */
#define ANSWER_S 10

int netlink_init(struct netlink *nl, int protocol, struct bg_err *err)
{
    *nl = (struct netlink){.fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)};
    if (nl->fd < 0)
        return bg_err_errno(err, -errno, "netlink");
    struct timeval wait = {.tv_sec = ANSWER_S};
    (void)setsockopt(nl->fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait); /* only a net */
    return 0;
}

void netlink_done(struct netlink *nl)
{
    bg_cleanup_close(&nl->fd);
}

/* Room for size bytes and the padding after them, zeroed; NULL if it does not fit. */
static uint8_t *room(struct netlink *nl, size_t size)
{
    size_t padded = NLMSG_ALIGN(size);
    if (nl->failed || padded > sizeof nl->bytes - nl->used) {
        nl->failed = true;
        return NULL;
    }
    uint8_t *at = nl->bytes + nl->used;
    memset(at, 0, padded);
    nl->used += padded;
    return at;
}

/* The message's length grows with all that is put. */
static void update_length(struct netlink *nl)
{
    uint32_t length = (uint32_t)(nl->used - nl->message);
    memcpy(nl->bytes + nl->message, &length, sizeof length);
}

void netlink_begin(struct netlink *nl, uint16_t type, uint16_t flags)
{
    nl->message = nl->used;
    struct nlmsghdr header = {
        .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags, .nlmsg_seq = ++nl->sequence};
    uint8_t *at = room(nl, sizeof header);
    if (!at)
        return;
    memcpy(at, &header, sizeof header);
    update_length(nl);
}

void netlink_header(struct netlink *nl, const void *bytes, size_t size)
{
    uint8_t *at = room(nl, size);
    if (!at)
        return;
    memcpy(at, bytes, size);
    update_length(nl);
}

void netlink_put(struct netlink *nl, uint16_t type, const void *bytes, size_t size)
{
    struct nlattr attribute = {.nla_len = (uint16_t)(sizeof attribute + size), .nla_type = type};
    uint8_t *at = size > UINT16_MAX - sizeof attribute ? NULL : room(nl, sizeof attribute + size);
    if (!at) {
        nl->failed = true;
        return;
    }
    memcpy(at, &attribute, sizeof attribute);
    if (size > 0)
        memcpy(at + sizeof attribute, bytes, size);
    update_length(nl);
}

void netlink_put_u32(struct netlink *nl, uint16_t type, uint32_t value)
{
    netlink_put(nl, type, &value, sizeof value);
}

void netlink_put_u32be(struct netlink *nl, uint16_t type, uint32_t value)
{
    netlink_put_u32(nl, type, htobe32(value));
}

void netlink_put_text(struct netlink *nl, uint16_t type, const char *text)
{
    netlink_put(nl, type, text, strlen(text) + 1);
}

size_t netlink_nest(struct netlink *nl, uint16_t type)
{
    size_t nest = nl->used;
    netlink_put(nl, type | NLA_F_NESTED, NULL, 0);
    return nest;
}

void netlink_nest_end(struct netlink *nl, size_t nest)
{
    if (nl->failed)
        return;
    uint16_t size = (uint16_t)(nl->used - nest); /* at most NETLINK_SIZE_MAX */
    memcpy(nl->bytes + nest, &size, sizeof size);
}

static unsigned count_acks(const struct netlink *nl)
{
    unsigned count = 0;
    struct nlmsghdr header;
    for (size_t at = 0; at < nl->used; at += NLMSG_ALIGN(header.nlmsg_len)) {
        memcpy(&header, nl->bytes + at, sizeof header);
        count += (header.nlmsg_flags & NLM_F_ACK) != 0;
    }
    return count;
}

/* Reads one packet of answers. Returns how many acknowledgements were in it, or negative errno. */
static int read_answers(struct netlink *nl, int *ret_first_error)
{
    /* An error carries the message that it is about. */
    uint8_t answer[NETLINK_SIZE_MAX + 256] __attribute__((aligned(8)));
    ssize_t n = recv(nl->fd, answer, sizeof answer, 0);
    if (n < 0)
        return errno == EINTR ? 0 : errno == EAGAIN ? -ETIMEDOUT : -errno;
    int count = 0;
    size_t left = (size_t)n;
    for (const uint8_t *at = answer; left >= sizeof(struct nlmsghdr);) {
        struct nlmsghdr header;
        memcpy(&header, at, sizeof header);
        if (header.nlmsg_len < sizeof header || header.nlmsg_len > left)
            return -EPROTO;
        if (header.nlmsg_type == NLMSG_ERROR) {
            int code;
            if (header.nlmsg_len < sizeof header + sizeof code)
                return -EPROTO;
            memcpy(&code, at + sizeof header, sizeof code);
            if (*ret_first_error == 0)
                *ret_first_error = code;
            count++;
        }
        size_t step = NLMSG_ALIGN(header.nlmsg_len);
        if (step > left)
            break;
        at += step;
        left -= step;
    }
    return count;
}

int netlink_send(struct netlink *nl, struct bg_err *err)
{
    if (nl->failed)
        return bg_err_set(err, -EMSGSIZE, "netlink: the request is too large");
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    unsigned acks = count_acks(nl);
    ssize_t n = sendto(nl->fd, nl->bytes, nl->used, 0, (struct sockaddr *)&kernel, sizeof kernel);
    nl->used = 0;
    if (n < 0)
        return bg_err_errno(err, -errno, "netlink");
    int first_error = 0;
    while (acks > 0) {
        int r = read_answers(nl, &first_error);
        if (r < 0)
            return bg_err_errno(err, r, "netlink answer");
        if (first_error < 0)
            break; /* a failed batch is not acknowledged message by message */
        acks -= (unsigned)r < acks ? (unsigned)r : acks;
    }
    return first_error < 0 ? bg_err_errno(err, first_error, "netlink") : 0;
}
