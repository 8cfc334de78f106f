#include "guest/keystore.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <sha1.h>

#include "common/base64.h"
#include "common/bytes.h"
#include "common/cleanup.h"

#define MAGIC       0xfeedfeedu
#define VERSION     2u
#define TAG_KEY     1u
#define TAG_TRUSTED 2u
#define HEADER_SIZE 12u
#define CERTIFICATE "X.509"
#define NAME        "bellglass"
#define CERT_MAX    65536u

/* What the digest begins with: the password that all such stores have, in UTF-16, and a word of the
 * format's. */
static void digest(const uint8_t *bytes, size_t size, uint8_t ret[SHA1_DIGEST_LENGTH])
{
    static const char password[] = "changeit", salt[] = "Mighty Aphrodite";
    SHA1_CTX sha1;
    SHA1Init(&sha1);
    for (size_t i = 0; password[i]; i++) {
        const uint8_t unit[2] = {0, (uint8_t)password[i]};
        SHA1Update(&sha1, unit, sizeof unit);
    }
    SHA1Update(&sha1, (const uint8_t *)salt, sizeof salt - 1);
    SHA1Update(&sha1, bytes, size);
    SHA1Final(ret, &sha1);
}

static void skip_certificate(struct bg_reader *in)
{
    (void)bg_reader_bytes(in, bg_reader_u16be(in)); /* its type */
    (void)bg_reader_bytes(in, bg_reader_u32be(in));
}

/* Reads one entry. Returns whether it is ours. */
static bool skip_entry(struct bg_reader *in)
{
    uint32_t tag = bg_reader_u32be(in);
    uint16_t name_size = bg_reader_u16be(in);
    const uint8_t *name = bg_reader_bytes(in, name_size);
    (void)bg_reader_bytes(in, 8); /* date */
    if (tag == TAG_KEY) {
        (void)bg_reader_bytes(in, bg_reader_u32be(in));
        uint32_t count = bg_reader_u32be(in);
        for (uint32_t i = 0; i < count && bg_reader_ok(in); i++)
            skip_certificate(in);
    } else if (tag == TAG_TRUSTED) {
        skip_certificate(in);
    } else {
        in->failed = true;
    }
    return bg_reader_ok(in) && name_size == sizeof NAME - 1 &&
           memcmp(name, NAME, sizeof NAME - 1) == 0;
}

static void put_entry(struct bg_writer *out, const uint8_t *der, size_t der_size, uint64_t now_ms)
{
    bg_writer_u32be(out, TAG_TRUSTED);
    bg_writer_u16be(out, sizeof NAME - 1);
    bg_writer_bytes(out, NAME, sizeof NAME - 1);
    bg_writer_u32be(out, (uint32_t)(now_ms >> 32));
    bg_writer_u32be(out, (uint32_t)now_ms);
    bg_writer_u16be(out, sizeof CERTIFICATE - 1);
    bg_writer_bytes(out, CERTIFICATE, sizeof CERTIFICATE - 1);
    bg_writer_u32be(out, (uint32_t)der_size);
    bg_writer_bytes(out, der, der_size);
}

/* Copies all entries but ours. Returns how many, or -EUCLEAN. */
static int64_t copy_entries(struct bg_reader *in, uint32_t count, struct bg_writer *out)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *start = in->at;
        bool ours = skip_entry(in);
        if (!bg_reader_ok(in))
            return -EUCLEAN;
        if (!ours) {
            bg_writer_bytes(out, start, (size_t)(in->at - start));
            kept++;
        }
    }
    return bg_reader_end(in) ? (int64_t)kept : -EUCLEAN;
}

int keystore_trust(const uint8_t *store, size_t size, const uint8_t *der, size_t der_size,
                   uint64_t now_ms, uint8_t **ret, size_t *ret_size, struct bg_err *err)
{
    uint8_t sum[SHA1_DIGEST_LENGTH];
    if (der_size > CERT_MAX)
        return bg_err_set(err, -E2BIG, "a certificate of %zu bytes", der_size);
    if (size < HEADER_SIZE + sizeof sum)
        return bg_err_set(err, -EUCLEAN, "no JKS trust store");
    size_t list_size = size - sizeof sum;
    digest(store, list_size, sum);
    struct bg_reader in = bg_reader_init(store, list_size);
    bool known = bg_reader_u32be(&in) == MAGIC && bg_reader_u32be(&in) == VERSION;
    uint32_t count = bg_reader_u32be(&in);
    if (!known || memcmp(sum, store + list_size, sizeof sum) != 0)
        return bg_err_set(err, -EUCLEAN, "no JKS trust store, or one with a password of its own");
    size_t room = size + der_size + 64;
    BG_AUTOFREE uint8_t *made = malloc(room);
    if (!made)
        return bg_err_errno(err, -ENOMEM, "trust store");
    struct bg_writer out = bg_writer_init(made + HEADER_SIZE, room - HEADER_SIZE);
    int64_t kept = copy_entries(&in, count, &out);
    if (kept < 0 || kept == UINT32_MAX)
        return bg_err_set(err, -EUCLEAN, "a damaged JKS trust store");
    put_entry(&out, der, der_size, now_ms);
    struct bg_writer header = bg_writer_init(made, HEADER_SIZE);
    bg_writer_u32be(&header, MAGIC);
    bg_writer_u32be(&header, VERSION);
    bg_writer_u32be(&header, (uint32_t)kept + 1);
    digest(made, HEADER_SIZE + out.used, sum);
    bg_writer_bytes(&out, sum, sizeof sum);
    if (!bg_writer_ok(&out) || !bg_writer_ok(&header))
        return bg_err_set(err, -E2BIG, "trust store");
    *ret_size = HEADER_SIZE + out.used;
    *ret = BG_TAKE(made);
    return 0;
}

int keystore_read_pem(const uint8_t *pem, size_t size, uint8_t *ret, size_t *ret_size)
{
    static const char begin[] = "-----BEGIN CERTIFICATE-----", end[] = "-----END CERTIFICATE-----";
    const char *at = memmem(pem, size, begin, sizeof begin - 1);
    if (!at)
        return -EINVAL;
    at += sizeof begin - 1;
    const char *stop = memmem(at, size - (size_t)(at - (const char *)pem), end, sizeof end - 1);
    BG_AUTOFREE char *text = stop ? malloc((size_t)(stop - at) + 1) : NULL;
    if (!text)
        return stop ? -ENOMEM : -EINVAL;
    size_t count = 0;
    for (; at < stop; at++)
        if (*at != '\n' && *at != '\r')
            text[count++] = *at;
    BG_AUTOFREE uint8_t *der = malloc(count / 4 * 3 + 3);
    ssize_t n = der ? bg_base64_decode(text, count, der) : -ENOMEM;
    if (n <= 0)
        return n == 0 ? -EINVAL : (int)n;
    memcpy(ret, der, (size_t)n); /* shorter than its text */
    *ret_size = (size_t)n;
    return 0;
}
