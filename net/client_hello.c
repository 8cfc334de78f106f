#include "net/client_hello.h"

#include <string.h>

#include "common/bytes.h"
#include "common/limits.h"

#define RECORD_HANDSHAKE  22u
#define RECORD_SIZE_MAX   16384u /* RFC 8446 §5.1 */
#define TYPE_CLIENT_HELLO 1u
#define EXT_SERVER_NAME   0u
#define EXT_ALPN          16u
#define EXT_ECH           0xfe0du /* RFC 9849 */
#define EXT_ESNI          0xffceu /* what was before it */
/* Raw bytes looked at: room for headers of small records around a message of the largest size. */
#define RAW_SIZE_MAX (2 * (size_t)BG_EGRESS_HELLO_MAX)

/* Joins the fragments at bytes to one handshake message. *ret_size: of its body. */
static int join_records(const uint8_t *bytes, size_t size, uint8_t *message, size_t *ret_size,
                        struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    size_t used = 0, want = 4;
    while (used < want) {
        if (in.left < 5) {
            /* What is there of a record's start must be right already, so that garbage is not
             * waited for. */
            if ((in.left > 0 && in.at[0] != RECORD_HANDSHAKE) || (in.left > 1 && in.at[1] != 3))
                return bg_err_set(err, -EPROTO, "no TLS handshake record");
            return size >= RAW_SIZE_MAX ? -EMSGSIZE : -EAGAIN;
        }
        uint8_t type = bg_reader_u8(&in), major = bg_reader_u8(&in);
        (void)bg_reader_u8(&in); /* minor: any, RFC 8446 §5.1 */
        size_t fragment = bg_reader_u16be(&in);
        if (type != RECORD_HANDSHAKE || major != 3)
            return bg_err_set(err, -EPROTO, "TLS record of type %u, version %u", type, major);
        if (fragment == 0 || fragment > RECORD_SIZE_MAX)
            return bg_err_set(err, -EPROTO, "TLS record of %zu bytes", fragment);
        size_t take = fragment < in.left ? fragment : in.left;
        if (take > BG_EGRESS_HELLO_MAX - used)
            take = BG_EGRESS_HELLO_MAX - used;
        memcpy(message + used, in.at, take);
        used += take;
        if (used >= 4) {
            want = 4 + ((size_t)message[1] << 16 | (size_t)message[2] << 8 | message[3]);
            if (message[0] != TYPE_CLIENT_HELLO)
                return bg_err_set(err, -EPROTO, "TLS handshake of type %u", message[0]);
            if (want > BG_EGRESS_HELLO_MAX)
                return bg_err_set(err, -EMSGSIZE, "ClientHello of %zu bytes: at most %d", want,
                                  BG_EGRESS_HELLO_MAX);
        }
        if (used < want && take < fragment)
            return size >= RAW_SIZE_MAX ? -EMSGSIZE : -EAGAIN;
        (void)bg_reader_bytes(&in, take);
    }
    *ret_size = want - 4;
    return 0;
}

/* The next part of in: a u16 length and that many bytes. */
static struct bg_reader sub16(struct bg_reader *in)
{
    size_t size = bg_reader_u16be(in);
    const uint8_t *p = bg_reader_bytes(in, size);
    struct bg_reader sub = bg_reader_init(p, p ? size : 0);
    sub.failed = !p;
    return sub;
}

/* RFC 6066 §3: a list that may have only one name of type host_name. */
static int parse_server_name(struct bg_reader ext, struct client_hello *hello, struct bg_err *err)
{
    struct bg_reader list = sub16(&ext);
    if (!bg_reader_end(&ext))
        return bg_err_set(err, -EPROTO, "server name: malformed");
    uint8_t type = bg_reader_u8(&list);
    struct bg_reader name = sub16(&list);
    if (!bg_reader_end(&list) || !bg_reader_ok(&name) || type != 0)
        return bg_err_set(err, -EPROTO, "server name: want one host name");
    if (destination_parse_host((const char *)name.at, name.left, &hello->server_name, err) < 0)
        return (void)bg_err_prefix(err, "server name"), -EPROTO;
    if (hello->server_name.is_address)
        return bg_err_set(err, -EPROTO, "server name: an address (RFC 6066 forbids it)");
    hello->has_server_name = true;
    return 0;
}

static int parse_alpn(struct bg_reader ext, struct client_hello *hello, struct bg_err *err)
{
    static const char http11[] = "http/1.1", h2[] = "h2";
    struct bg_reader list = sub16(&ext);
    hello->has_alpn = true;
    while (bg_reader_ok(&list) && list.left > 0) {
        size_t size = bg_reader_u8(&list);
        const uint8_t *name = bg_reader_bytes(&list, size);
        if (size == 0)
            list.failed = true;
        if (name && ((size == sizeof http11 - 1 && memcmp(name, http11, size) == 0) ||
                     (size == sizeof h2 - 1 && memcmp(name, h2, size) == 0)))
            hello->alpn_ours = true;
    }
    if (!bg_reader_end(&ext) || !bg_reader_end(&list))
        return bg_err_set(err, -EPROTO, "ALPN: malformed");
    return 0;
}

static int parse_extensions(struct bg_reader in, struct client_hello *hello, struct bg_err *err)
{
    bool seen_name = false, seen_alpn = false;
    while (bg_reader_ok(&in) && in.left > 0) {
        uint16_t type = bg_reader_u16be(&in);
        struct bg_reader ext = sub16(&in);
        if (!bg_reader_ok(&in))
            break;
        int r = 0;
        if (type == EXT_SERVER_NAME) {
            r = seen_name ? bg_err_set(err, -EPROTO, "two server name extensions")
                          : parse_server_name(ext, hello, err);
            seen_name = true;
        } else if (type == EXT_ALPN) {
            r = seen_alpn ? bg_err_set(err, -EPROTO, "two ALPN extensions")
                          : parse_alpn(ext, hello, err);
            seen_alpn = true;
        } else if (type == EXT_ECH || type == EXT_ESNI) {
            hello->has_ech = true;
        }
        if (r < 0)
            return r;
    }
    return bg_reader_end(&in) ? 0 : bg_err_set(err, -EPROTO, "extensions: malformed");
}

int client_hello_parse(const uint8_t *bytes, size_t size, struct client_hello *ret,
                       struct bg_err *err)
{
    uint8_t message[BG_EGRESS_HELLO_MAX];
    size_t message_size;
    int r = join_records(bytes, size, message, &message_size, err);
    if (r < 0)
        return r == -EMSGSIZE
                   ? bg_err_set(err, r, "ClientHello: more than %d bytes", BG_EGRESS_HELLO_MAX)
                   : r;
    struct bg_reader in = bg_reader_init(message + 4, message_size);
    struct client_hello hello = {0};
    uint16_t version = bg_reader_u16be(&in);
    (void)bg_reader_bytes(&in, 32); /* random */
    size_t session_size = bg_reader_u8(&in);
    (void)bg_reader_bytes(&in, session_size);
    struct bg_reader ciphers = sub16(&in);
    size_t compression_size = bg_reader_u8(&in);
    (void)bg_reader_bytes(&in, compression_size);
    if (!bg_reader_ok(&in) || session_size > 32 || ciphers.left < 2 || ciphers.left % 2 != 0 ||
        compression_size == 0 || version >> 8 != 3)
        return bg_err_set(err, -EPROTO, "ClientHello of %zu bytes: malformed", message_size);
    if (in.left > 0) { /* TLS 1.2 without extensions ends here */
        struct bg_reader extensions = sub16(&in);
        if (!bg_reader_end(&in))
            return bg_err_set(err, -EPROTO, "ClientHello: bytes after the extensions");
        r = parse_extensions(extensions, &hello, err);
        if (r < 0)
            return r;
    }
    *ret = hello;
    return 0;
}
