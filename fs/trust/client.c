#include "fs/trust/client.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"

#define ANSWER_TIMEOUT_MS 60000u /* a loaded guest without KVM is slow */
#define LIST_SIZE         (64u * 1024)

struct trust_client {
    int fd;
    uint64_t next_unique;
    uint8_t *in; /* BG_FS_MESSAGE_MAX */
};

/* Reads exactly size bytes before the deadline. */
static int read_by(int fd, uint8_t *out, size_t size, uint64_t deadline_ms, struct bg_err *err)
{
    for (size_t used = 0; used < size;) {
        uint64_t now_ms = bg_now_ms();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (now_ms >= deadline_ms)
            return bg_err_set(err, -ETIME, "the sandbox's file server does not answer");
        if (poll(&p, 1, (int)(deadline_ms - now_ms)) <= 0)
            continue; /* EINTR, or the deadline */
        ssize_t n = read(fd, out + used, size - used);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0)
            return bg_err_set(err, n < 0 ? -errno : -ECONNRESET,
                              "the sandbox's file server is gone");
        used += (size_t)n;
    }
    return 0;
}

int trust_client_new(int fd, struct trust_client **ret, struct bg_err *err)
{
    struct trust_client *client = calloc(1, sizeof *client);
    uint8_t bytes[FS_HELLO_SIZE];
    struct fs_hello hello = {.flags = FS_HELLO_READ_ONLY};
    if (!client || !(client->in = malloc(BG_FS_MESSAGE_MAX))) {
        free(client);
        return bg_err_errno(err, -ENOMEM, "files");
    }
    client->fd = fd;
    client->next_unique = 1;
    fs_hello_emit(&hello, bytes);
    int r = bg_write_full(fd, bytes, sizeof bytes);
    if (r < 0)
        r = bg_err_errno(err, r, "the sandbox's file server");
    if (r == 0)
        r = read_by(fd, bytes, sizeof bytes, bg_now_ms() + ANSWER_TIMEOUT_MS, err);
    if (r == 0)
        r = fs_hello_parse(bytes, sizeof bytes, /* from_server= */ true, &hello, err);
    if (r < 0) {
        trust_client_free(client);
        return r;
    }
    *ret = client;
    return 0;
}

void trust_client_free(struct trust_client *client)
{
    if (!client)
        return;
    free(client->in);
    free(client);
}

static int send_request(struct trust_client *client, struct fs_request *request, struct bg_err *err)
{
    uint8_t bytes[BG_FS_NAME_MAX + 512];
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    request->unique = client->next_unique++;
    request->name_size = request->name ? strlen(request->name) : 0;
    fs_request_emit(request, &w);
    if (!bg_writer_ok(&w))
        return bg_err_set(err, -ENAMETOOLONG, "the name is too long");
    int r = bg_write_full(client->fd, bytes, w.used);
    return r < 0 ? bg_err_errno(err, r, "the sandbox's file server") : 0;
}

/* Asks, and waits for the answer, which borrows from the client until the next call. Errors: also
 * the answer's. */
static int ask(struct trust_client *client, struct fs_request *request, struct fs_reply *ret,
               struct bg_err *err)
{
    uint64_t deadline_ms = bg_now_ms() + ANSWER_TIMEOUT_MS;
    int r = send_request(client, request, err);
    size_t size = 0;
    if (r == 0)
        r = read_by(client->fd, client->in, 4, deadline_ms, err);
    if (r == 0)
        r = fs_message_size(client->in, FS_REPLY_HEADER_SIZE, &size, err);
    if (r == 0)
        r = read_by(client->fd, client->in + 4, size - 4, deadline_ms, err);
    if (r == 0 && fs_reply_unique(client->in) != request->unique)
        r = bg_err_set(err, -EPROTO, "the sandbox's file server answers what was not asked");
    if (r == 0)
        r = fs_reply_parse(request->opcode, client->in, size, ret, err);
    if (r == 0 && ret->error < 0)
        r = bg_err_errno(err, fs_error_allowed(request->opcode, ret->error) ? ret->error : -EIO,
                         "the sandbox says");
    return r;
}

int trust_client_look_up(struct trust_client *client, uint64_t parent, const char *name,
                         struct trust_node *ret, struct bg_err *err)
{
    struct fs_request request = {.opcode = FUSE_LOOKUP, .node = parent, .name = name};
    struct fs_reply reply = {0};
    int r = ask(client, &request, &reply, err);
    if (r == 0 && reply.node == 0)
        r = bg_err_errno(err, -ENOENT, "the sandbox says");
    if (r == 0)
        *ret = (struct trust_node){.id = reply.node, .mode = reply.attr.mode};
    return r;
}

int trust_client_forget(struct trust_client *client, uint64_t node, struct bg_err *err)
{
    struct fs_request request = {.opcode = FUSE_FORGET, .node = node, .nlookup = 1};
    return send_request(client, &request, err);
}

static int release(struct trust_client *client, uint64_t node, uint64_t fh, bool folder,
                   struct bg_err *err)
{
    struct fs_request request = {
        .opcode = folder ? FUSE_RELEASEDIR : FUSE_RELEASE, .node = node, .fh = fh};
    struct fs_reply reply = {0};
    return ask(client, &request, &reply, err);
}

int trust_client_read(struct trust_client *client, uint64_t node, uint8_t **ret, size_t *ret_size,
                      struct bg_err *err)
{
    struct fs_request request = {.opcode = FUSE_OPEN, .node = node, .flags = O_RDONLY};
    struct fs_reply reply = {0};
    int r = ask(client, &request, &reply, err);
    if (r < 0)
        return r;
    uint64_t fh = reply.fh;
    request =
        (struct fs_request){.opcode = FUSE_READ, .node = node, .fh = fh, .size = BG_GUARD_FILE_MAX};
    BG_AUTOFREE uint8_t *bytes = NULL;
    size_t size = 0;
    r = ask(client, &request, &reply, err);
    if (r == 0 && reply.data_size >= BG_GUARD_FILE_MAX)
        r = bg_err_set(err, -EFBIG, "it is too large to be approved (1 MiB)");
    if (r == 0) {
        size = reply.data_size;
        bytes = malloc(size + 1);
        if (!bytes)
            r = bg_err_errno(err, -ENOMEM, "files");
        else if (size > 0)
            memcpy(bytes, reply.data, size);
    }
    if (r != -ECONNRESET && r != -ETIME && r != -EPROTO) { /* else there is nobody to release it */
        int released = release(client, node, fh, /* folder= */ false, r < 0 ? NULL : err);
        r = r < 0 ? r : released;
    }
    if (r < 0)
        return r;
    *ret = BG_TAKE(bytes);
    *ret_size = size;
    return 0;
}

/* Hands on the names of one answer. *ret_offset: of the last one. */
static int take_names(const struct fs_reply *reply,
                      int (*each)(void *owner, const char *name, uint32_t type), void *owner,
                      uint64_t *ret_offset, size_t *count, struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(reply->data, reply->data_size);
    struct fs_dirent entry;
    char name[BG_FS_NAME_MAX + 1];
    int r = 0;
    while (r == 0 && fs_dirent_parse(&in, /* plus= */ false, &entry)) {
        *ret_offset = entry.offset;
        if (++*count > BG_FS_DIR_ENTRIES_MAX)
            return bg_err_set(err, -ELOOP, "a folder without end");
        if (!fs_name_ok(entry.name, entry.name_size))
            continue; /* "." and "..", or none */
        memcpy(name, entry.name, entry.name_size);
        name[entry.name_size] = '\0';
        r = each(owner, name, entry.type);
        if (r < 0)
            (void)bg_err_errno(err, r, "files");
    }
    if (r == 0 && !bg_reader_end(&in))
        r = bg_err_set(err, -EPROTO, "the sandbox's file server sends no folder");
    return r;
}

int trust_client_list(struct trust_client *client, uint64_t node,
                      int (*each)(void *owner, const char *name, uint32_t type), void *owner,
                      struct bg_err *err)
{
    struct fs_request request = {.opcode = FUSE_OPENDIR, .node = node};
    struct fs_reply reply = {0};
    int r = ask(client, &request, &reply, err);
    if (r < 0)
        return r;
    uint64_t fh = reply.fh, offset = 0;
    size_t count = 0;
    do {
        request = (struct fs_request){
            .opcode = FUSE_READDIR, .node = node, .fh = fh, .offset = offset, .size = LIST_SIZE};
        r = ask(client, &request, &reply, err);
        if (r == 0 && reply.data_size > 0)
            r = take_names(&reply, each, owner, &offset, &count, err);
    } while (r == 0 && reply.data_size > 0);
    if (r != -ECONNRESET && r != -ETIME && r != -EPROTO) {
        int released = release(client, node, fh, /* folder= */ true, r < 0 ? NULL : err);
        r = r < 0 ? r : released;
    }
    return r;
}
