#include "host/cli/ssh_greeting.h"

#include <string.h>

#include "common/base64.h"
#include "common/bytes.h"

#define TAG      "bellglass-ssh-1 "
#define KEY_TYPE "ssh-ed25519"

/* RFC 8709 §4: string "ssh-ed25519", string of 32 bytes; each with a u32 size before it. */
#define BLOB_SIZE (4 + 11 + 4 + 32)

int ssh_key_parse(const char *text, char ret_key[SSH_KEY_SIZE], struct bg_err *err)
{
    static const char prefix[] = KEY_TYPE " ";
    uint8_t blob[SSH_KEY_SIZE / 4 * 3 + 3];
    bool ok = strncmp(text, prefix, sizeof prefix - 1) == 0;
    const char *key = ok ? text + sizeof prefix - 1 : "";
    size_t size = strcspn(key, " ");
    if (ok && size == SSH_KEY_SIZE - 1 && bg_base64_decode(key, size, blob) == BLOB_SIZE) {
        struct bg_reader in = bg_reader_init(blob, BLOB_SIZE);
        uint32_t type_size = bg_reader_u32be(&in);
        const uint8_t *type = bg_reader_bytes(&in, sizeof KEY_TYPE - 1);
        uint32_t point_size = bg_reader_u32be(&in);
        (void)bg_reader_bytes(&in, 32);
        ok = bg_reader_end(&in) && type_size == sizeof KEY_TYPE - 1 && point_size == 32 &&
             memcmp(type, KEY_TYPE, sizeof KEY_TYPE - 1) == 0;
    } else {
        ok = false;
    }
    if (!ok)
        return bg_err_set(err, -EPROTO, "not an ed25519 key");
    memcpy(ret_key, key, size);
    ret_key[size] = '\0';
    return 0;
}

ssize_t ssh_greeting_feed(struct ssh_greeting *greeting, const uint8_t *bytes, size_t size,
                          struct bg_err *err)
{
    const uint8_t *end = memchr(bytes, '\n', size);
    size_t take = end ? (size_t)(end - bytes) : size;
    char line[SSH_GREETING_MAX];
    if (take >= sizeof greeting->line - greeting->used)
        return bg_err_set(err, -EPROTO, "the sandbox's greeting is too long");
    memcpy(greeting->line + greeting->used, bytes, take);
    greeting->used += take;
    if (!end)
        return (ssize_t)take;
    memcpy(line, greeting->line, greeting->used);
    line[greeting->used] = '\0';
    if (strlen(line) != greeting->used || strncmp(line, TAG, sizeof TAG - 1) != 0 ||
        ssh_key_parse(line + sizeof TAG - 1, greeting->key, NULL) < 0)
        return bg_err_set(err, -EPROTO, "the sandbox's greeting makes no sense");
    greeting->done = true;
    return (ssize_t)take + 1;
}
