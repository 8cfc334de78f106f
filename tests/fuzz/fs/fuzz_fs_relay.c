/* The relay against a hostile server: the input is what the server sends, its hello first. A
 * pretended kernel asks for everything that it can on whatever nodes and handles it is given, and
 * looks at each answer: it must be one that the host's kernel may see. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/proto/proto.h"
#include "fs/relay/relay.h"

#define REQUESTS_MAX 512
#define DEADLINE_MS  1000

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

struct kernel {
    struct fs_relay *relay;
    uint32_t asked[REQUESTS_MAX]; /* opcode by unique / 2 */
    uint64_t sizes[REQUESTS_MAX];
    bool answered[REQUESTS_MAX];
    size_t count;
    uint64_t folder, file, link, folder_fh, file_fh; /* the newest of each */
    bool more;                                       /* something new came: ask again */
};

static void require(bool good)
{
    if (!good)
        abort();
}

static void check_attr(const struct fs_attr *attr)
{
    uint64_t type = attr->mode & S_IFMT;
    require(type == S_IFREG || type == S_IFDIR || type == S_IFLNK);
    require((attr->mode & 07000) == 0 && attr->rdev == 0 && attr->flags == 0);
    require(attr->size <= 1ull << 53 && attr->nlink <= INT32_MAX);
    require(attr->atime_ns < 1000000000 && attr->mtime_ns < 1000000000 &&
            attr->ctime_ns < 1000000000);
    require((attr->uid == 1000 || attr->uid == 65534) && (attr->gid == 1001 || attr->gid == 65534));
}

static void take_node(struct kernel *k, const struct fs_reply *reply)
{
    if (reply->node == 0)
        return;
    check_attr(&reply->attr);
    require(reply->generation == 0 && reply->node != 1);
    uint64_t type = reply->attr.mode & S_IFMT;
    uint64_t *newest = type == S_IFDIR ? &k->folder : type == S_IFLNK ? &k->link : &k->file;
    k->more = k->more || *newest != reply->node;
    *newest = reply->node;
}

static void check_entries(struct kernel *k, const struct fs_reply *reply, bool plus)
{
    struct bg_reader in = bg_reader_init(reply->data, reply->data_size);
    struct fs_dirent entry;
    while (fs_dirent_parse(&in, plus, &entry)) {
        bool dots = entry.name[0] == '.' &&
                    (entry.name_size == 1 || (entry.name_size == 2 && entry.name[1] == '.'));
        require(dots || fs_name_ok(entry.name, entry.name_size));
        require(entry.offset > 0 && entry.offset <= INT64_MAX);
        require(!dots || entry.entry.node == 0);
        take_node(k, &entry.entry);
    }
    require(bg_reader_end(&in));
}

static void check_link(const struct fs_reply *reply)
{
    require(reply->data_size > 0 && reply->data_size < BG_PATH_MAX);
    require(reply->data[0] != '/' && !memchr(reply->data, 0, reply->data_size));
}

static int to_kernel(void *owner, const struct iovec *parts, int count)
{
    struct kernel *k = owner;
    static uint8_t bytes[BG_FS_MESSAGE_MAX];
    size_t size = 0;
    for (int i = 0; i < count; i++) {
        require(parts[i].iov_len <= sizeof bytes - size);
        memcpy(bytes + size, parts[i].iov_base, parts[i].iov_len);
        size += parts[i].iov_len;
    }
    size_t which = fs_reply_unique(bytes) / 2;
    require(which < k->count && !k->answered[which]); /* once, and to a request that there was */
    k->answered[which] = true;
    uint32_t opcode = k->asked[which];
    if (opcode == FUSE_INIT)
        return 0;
    struct fs_reply reply;
    require(fs_reply_parse(opcode, bytes, size, &reply, NULL) == 0);
    require(reply.error <= 0 && reply.error > -512);
    if (reply.error < 0)
        return 0;
    switch (fs_op_find(opcode)->reply) {
    case FS_REPLY_ENTRY_OPEN:
        k->file_fh = reply.fh;
        require(reply.open_flags == 0);
        take_node(k, &reply);
        break;
    case FS_REPLY_ENTRY:
        take_node(k, &reply);
        break;
    case FS_REPLY_ATTR:
        check_attr(&reply.attr);
        break;
    case FS_REPLY_OPEN:
        require(reply.open_flags == 0);
        *(opcode == FUSE_OPENDIR ? &k->folder_fh : &k->file_fh) = reply.fh;
        k->more = true;
        break;
    case FS_REPLY_DATA:
        require(reply.data_size <= k->sizes[which]);
        break;
    case FS_REPLY_TEXT:
        check_link(&reply);
        break;
    case FS_REPLY_DIRENTS:
    case FS_REPLY_DIRENTS_PLUS:
        require(reply.data_size <= k->sizes[which]);
        check_entries(k, &reply, opcode == FUSE_READDIRPLUS);
        break;
    case FS_REPLY_COUNT:
        require(reply.size <= k->sizes[which]);
        break;
    case FS_REPLY_XATTR:
        require(k->sizes[which] == 0 ? reply.size <= BG_FS_XATTR_MAX
                                     : reply.data_size <= k->sizes[which]);
        break;
    case FS_REPLY_NONE:
    case FS_REPLY_EMPTY:
    case FS_REPLY_STATFS:
    case FS_REPLY_LOCK:
    case FS_REPLY_OFFSET:
    case FS_REPLY_OTHER:
        break;
    }
    return 0;
}

static void to_server(void *owner, const struct iovec *parts, int count)
{
    (void)owner;
    (void)parts;
    (void)count;
}

static void ask(struct kernel *k, struct fs_request request)
{
    uint8_t bytes[8192];
    if (k->count == REQUESTS_MAX || request.node == 0)
        return;
    request.unique = k->count * 2;
    request.name_size = request.name ? strlen(request.name) : 0;
    request.name2_size = request.name2 ? strlen(request.name2) : 0;
    k->asked[k->count] = request.opcode;
    k->sizes[k->count] = request.size;
    k->count++;
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    fs_request_emit(&request, &w);
    bg_writer_bytes(&w, request.data, request.data_size);
    require(bg_writer_ok(&w));
    fs_relay_request(k->relay, bytes, w.used, 1000);
}

/* One of everything, on the newest nodes. */
static void ask_for_all(struct kernel *k)
{
    static const uint32_t in_folder[] = {FUSE_LOOKUP, FUSE_MKDIR, FUSE_UNLINK, FUSE_CREATE};
    static const uint32_t on_file[] = {FUSE_READ,   FUSE_FLUSH,           FUSE_FSYNC,
                                       FUSE_SETLKW, FUSE_GETLK,           FUSE_FALLOCATE,
                                       FUSE_LSEEK,  FUSE_COPY_FILE_RANGE, FUSE_SETLK};
    k->more = false;
    for (size_t i = 0; i < sizeof in_folder / sizeof *in_folder; i++)
        ask(k,
            (struct fs_request){
                .opcode = in_folder[i], .node = k->folder, .name = "name", .mode = S_IFREG | 0644});
    ask(k, (struct fs_request){.opcode = FUSE_RENAME,
                               .node = k->folder,
                               .node2 = 1,
                               .name = "name",
                               .name2 = "name2"});
    ask(k, (struct fs_request){
               .opcode = FUSE_SYMLINK, .node = k->folder, .name = "name", .name2 = "text"});
    ask(k, (struct fs_request){
               .opcode = FUSE_LINK, .node = k->folder, .node2 = k->file, .name = "name"});
    ask(k, (struct fs_request){.opcode = FUSE_GETATTR, .node = k->folder});
    ask(k, (struct fs_request){.opcode = FUSE_STATFS, .node = 1});
    ask(k, (struct fs_request){.opcode = FUSE_READLINK, .node = k->link});
    ask(k, (struct fs_request){.opcode = FUSE_OPENDIR, .node = k->folder});
    ask(k, (struct fs_request){.opcode = FUSE_OPEN, .node = k->file, .flags = O_RDWR});
    ask(k, (struct fs_request){.opcode = FUSE_SETATTR, .node = k->file, .valid = FATTR_MODE});
    ask(k, (struct fs_request){.opcode = FUSE_LISTXATTR, .node = k->file, .size = 100});
    ask(k,
        (struct fs_request){.opcode = FUSE_GETXATTR, .node = k->file, .name = "user.a", .size = 0});
    for (int plus = 0; plus < 2; plus++)
        ask(k, (struct fs_request){.opcode = plus ? FUSE_READDIRPLUS : FUSE_READDIR,
                                   .node = k->folder,
                                   .fh = k->folder_fh,
                                   .size = 4096});
    for (size_t i = 0; i < sizeof on_file / sizeof *on_file; i++)
        ask(k, (struct fs_request){.opcode = on_file[i],
                                   .node = k->file,
                                   .fh = k->file_fh,
                                   .node2 = k->file,
                                   .fh2 = k->file_fh,
                                   .size = 4096,
                                   .lock_end = 10,
                                   .lock_type = F_WRLCK,
                                   .whence = SEEK_DATA});
    ask(k, (struct fs_request){.opcode = FUSE_TMPFILE,
                               .node = k->folder,
                               .name = "/",
                               .mode = S_IFREG | 0600,
                               .flags = O_RDWR});
}

static void initialise(struct kernel *k)
{
    uint8_t bytes[FS_REQUEST_HEADER_SIZE + 64] = {0};
    struct bg_writer w = bg_writer_init(bytes, sizeof bytes);
    bg_writer_u32le(&w, sizeof bytes);
    bg_writer_u32le(&w, FUSE_INIT);
    w.used = FS_REQUEST_HEADER_SIZE;
    bg_writer_u32le(&w, 7);
    bg_writer_u32le(&w, 38);
    k->asked[k->count++] = FUSE_INIT;
    fs_relay_request(k->relay, bytes, sizeof bytes, 1000);
}

/* Gives the relay the server's messages. Returns when they end or it has had enough. */
static void feed(struct kernel *k, const uint8_t *bytes, size_t size)
{
    struct bg_err err;
    uint64_t now_ms = 1000, next_ms;
    while (size >= 4) {
        size_t message;
        if (fs_message_size(bytes, FS_REPLY_HEADER_SIZE, &message, NULL) < 0 || message > size ||
            fs_relay_reply(k->relay, bytes, message, now_ms, &err) < 0)
            return;
        bytes += message;
        size -= message;
        now_ms += 10;
        if (k->more)
            ask_for_all(k);
        if (fs_relay_tick(k->relay, now_ms, &next_ms, &err) < 0)
            return;
        fs_relay_flush_forgets(k->relay);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct kernel k = {.folder = 1};
    struct fs_relay_opts opts = {.uid = 1000,
                                 .gid = 1001,
                                 .deadline_ms = DEADLINE_MS,
                                 .to_kernel = to_kernel,
                                 .to_server = to_server,
                                 .owner = &k};
    struct bg_err err;
    if (size < FS_HELLO_SIZE)
        return 0;
    require(fs_relay_new(&opts, &k.relay) == 0);
    if (fs_relay_greeted(k.relay, bytes, FS_HELLO_SIZE, &err) == 0) {
        initialise(&k);
        ask_for_all(&k);
        feed(&k, bytes + FS_HELLO_SIZE, size - FS_HELLO_SIZE);
        fs_relay_gone(k.relay);
        for (size_t i = 0; i < k.count; i++)
            require(k.answered[i]); /* nobody is left waiting */
    }
    fs_relay_free(k.relay);
    return 0;
}
