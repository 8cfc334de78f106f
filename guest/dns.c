#include "guest/dns.h"

#include <string.h>

#include "common/bytes.h"

#define HEADER_SIZE 12u
#define LABEL_MAX   63u
#define TYPE_A      1u
#define TYPE_AAAA   28u
#define TYPE_ANY    255u
#define CLASS_IN    1u
#define TTL_S       60u /* names stay longer; a restarted agent forgets them */

#define FLAG_ANSWER    0x8000u
#define FLAG_OPCODE    0x7800u
#define FLAG_RECURSION 0x0100u /* desired, copied back */
#define FLAG_AVAILABLE 0x0080u

enum rcode { NOERROR = 0, FORMERR = 1, SERVFAIL = 2, NXDOMAIN = 3, NOTIMP = 4 };

struct question {
    const uint8_t *bytes; /* as it came, for the answer */
    size_t size;
    uint16_t type, class;
    char name[NAMES_NAME_MAX + 1]; /* lower case, no final dot; "" is the root */
    bool is_host;                  /* it can be the name of a host */
};

static bool is_host_byte(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/* Reads the labels. False: malformed. A name that is well formed but no host's leaves is_host off.
 */
static bool read_name(struct bg_reader *in, struct question *q)
{
    size_t used = 0;
    bool digits = false; /* the last label is a number: an IPv4 address, or nothing */
    q->is_host = true;
    for (;;) {
        uint8_t size = bg_reader_u8(in);
        if (!bg_reader_ok(in) || size > LABEL_MAX)
            return false;
        if (size == 0)
            break;
        const uint8_t *label = bg_reader_bytes(in, size);
        if (!label || used + (used > 0) + size > NAMES_NAME_MAX)
            return false;
        if (used > 0)
            q->name[used++] = '.';
        digits = true;
        for (size_t i = 0; i < size; i++) {
            uint8_t c = label[i];
            if (c >= 'A' && c <= 'Z')
                c = (uint8_t)(c - 'A' + 'a');
            if (!is_host_byte(c))
                q->is_host = false;
            if (c < '0' || c > '9')
                digits = false;
            q->name[used++] = (char)c;
        }
    }
    q->name[used] = '\0';
    if (used == 0 || digits)
        q->is_host = false;
    return true;
}

static bool read_question(struct bg_reader *in, struct question *q)
{
    q->bytes = in->at;
    size_t before = in->left;
    if (!read_name(in, q))
        return false;
    q->type = bg_reader_u16be(in);
    q->class = bg_reader_u16be(in);
    q->size = before - in->left;
    return bg_reader_ok(in);
}

static bool ends_with(const char *name, const char *end)
{
    size_t size = strlen(name), end_size = strlen(end);
    return size > end_size && strcmp(name + size - end_size, end) == 0;
}

static bool same_name(const char *name, const char *hostname)
{
    /* hostname is as somebody set it; name is lower case. */
    for (; *name && *hostname; name++, hostname++) {
        char c = *hostname;
        if (c >= 'A' && c <= 'Z')
            c = (char)(c - 'A' + 'a');
        if (c != *name)
            return false;
    }
    return *name == *hostname;
}

/* Appends the answer's record, a pointer to the question's name first. */
static void write_record(struct bg_writer *w, uint16_t type, const void *address, size_t size)
{
    bg_writer_u16be(w, 0xc000 | HEADER_SIZE);
    bg_writer_u16be(w, type);
    bg_writer_u16be(w, CLASS_IN);
    bg_writer_u32be(w, TTL_S);
    bg_writer_u16be(w, (uint16_t)size);
    bg_writer_bytes(w, address, size);
}

/* The addresses of a good name. Returns the number of records, or -1 when memory is out. */
static int write_records(struct names *names, const char *hostname, const struct question *q,
                         struct bg_writer *w)
{
    const bool want_v4 = q->type == TYPE_A || q->type == TYPE_ANY, want_v6 = q->type == TYPE_AAAA;
    if (q->class != CLASS_IN || (!want_v4 && !want_v6))
        return 0;
    uint8_t v6[16] = {[15] = 1}, v4[4] = {127, 0, 0, 1};
    if (strcmp(q->name, "localhost") != 0 && !ends_with(q->name, ".localhost") &&
        !same_name(q->name, hostname)) {
        uint32_t address = names_address(names, q->name);
        if (address == 0)
            return -1;
        names_to_v6(address, v6);
        memcpy(v4, v6 + 12, sizeof v4);
    }
    write_record(w, want_v4 ? TYPE_A : TYPE_AAAA, want_v4 ? v4 : v6,
                 want_v4 ? sizeof v4 : sizeof v6);
    return 1;
}

size_t dns_answer(struct names *names, const char *hostname, const uint8_t *query, size_t size,
                  uint8_t *out)
{
    struct bg_reader in = bg_reader_init(query, size);
    uint16_t id = bg_reader_u16be(&in), flags = bg_reader_u16be(&in);
    uint16_t question_count = bg_reader_u16be(&in);
    (void)bg_reader_bytes(&in, 6); /* the other counts: what they count is not looked at */
    if (!bg_reader_ok(&in) || (flags & FLAG_ANSWER))
        return 0;
    struct question q = {0};
    enum rcode rcode = NOERROR;
    if (flags & FLAG_OPCODE)
        rcode = NOTIMP;
    else if (question_count != 1 || !read_question(&in, &q))
        rcode = FORMERR;
    else if (!q.is_host && q.name[0] != '\0')
        rcode = NXDOMAIN;

    bool with_question = rcode == NOERROR || rcode == NXDOMAIN;
    struct bg_writer body = bg_writer_init(out + HEADER_SIZE, DNS_ANSWER_MAX - HEADER_SIZE);
    int records = 0;
    if (with_question)
        bg_writer_bytes(&body, q.bytes, q.size);
    if (rcode == NOERROR && q.is_host)
        records = write_records(names, hostname, &q, &body);
    if (records < 0 || !bg_writer_ok(&body)) {
        rcode = SERVFAIL;
        records = 0;
        with_question = false;
        body.used = 0;
    }
    struct bg_writer header = bg_writer_init(out, HEADER_SIZE);
    bg_writer_u16be(&header, id);
    bg_writer_u16be(&header, (uint16_t)(FLAG_ANSWER | (flags & (FLAG_OPCODE | FLAG_RECURSION)) |
                                        FLAG_AVAILABLE | rcode));
    bg_writer_u16be(&header, with_question);
    bg_writer_u16be(&header, (uint16_t)records);
    bg_writer_u32be(&header, 0); /* no authority, nothing additional */
    return HEADER_SIZE + body.used;
}
