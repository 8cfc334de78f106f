/* The relay against a hostile server: the input is what the server sends, its hello first. Where it
 * breaks the protocol, the stream is lost and what follows is another one, with a hello again. A
 * pretended kernel asks for everything that it can on whatever nodes and handles it is given, and
 * looks at each answer: it must be one that the host's kernel may see. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/proto/proto.h"
#include "fs/relay/echoer.h"
#include "fs/relay/relay.h"

#define REQUESTS_MAX 512
#define DEADLINE_MS  1000
#define ECHOER       99

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

struct kernel {
    struct fs_relay *relay;
    uint32_t asked[REQUESTS_MAX]; /* opcode by unique / 2 */
    uint64_t sizes[REQUESTS_MAX];
    bool answered[REQUESTS_MAX];
    bool pinned[REQUESTS_MAX]; /* about the name whose bytes are the host's */
    bool guards;
    size_t count;
    uint64_t folder, file, link, folder_fh, file_fh; /* the newest of each */
    bool more;                                       /* something new came: ask again */
    unsigned notices;
    bool commanded, echoing; /* the process for echoes has something to do, and does it */
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

static void check_valid(const struct fs_reply *reply)
{
    require(reply->entry_valid <= 60 && reply->attr_valid <= 60);
    require(reply->entry_valid_ns == 0 && reply->attr_valid_ns == 0);
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
        check_valid(&entry.entry);
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
        check_valid(&reply);
        require(reply.open_flags == 0);
        take_node(k, &reply);
        break;
    case FS_REPLY_ENTRY:
        check_valid(&reply);
        if (!k->pinned[which]) {
            take_node(k, &reply);
            break;
        }
        check_attr(
            &reply.attr); /* and never the newest: what is written to it would be its bytes */
        require(reply.attr.size == 4 && (reply.attr.mode & S_IFMT) == S_IFREG);
        break;
    case FS_REPLY_ATTR:
        check_valid(&reply);
        check_attr(&reply.attr);
        break;
    case FS_REPLY_OPEN:
        require((reply.open_flags & ~(uint64_t)(FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR)) == 0);
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

static bool notify(void *owner, const struct fs_notice *notice)
{
    struct kernel *k = owner;
    if (notice->all_names) {
        require(notice->node == 0 && !notice->name && !notice->contents);
    } else if (notice->name) {
        require(notice->node != 0 && !notice->contents);
        require(fs_name_ok(notice->name, notice->name_size));
    } else {
        require(notice->node != 0);
    }
    return k->notices++ % 64 != 63; /* now and then there is no room */
}

static bool to_echoer(void *owner, const uint8_t *bytes, size_t size)
{
    struct kernel *k = owner;
    struct fs_echo_command command;
    require(!k->commanded && fs_echo_command_parse(bytes, size, &command) == 0);
    k->commanded = true;
    return true;
}

/* What the process for echoes asks for changes nothing there. */
static void to_server(void *owner, const struct iovec *parts, int count)
{
    const struct kernel *k = owner;
    const uint8_t *head = parts[0].iov_base;
    require(count > 0 && parts[0].iov_len >= FS_REQUEST_HEADER_SIZE);
    uint32_t opcode = (uint32_t)head[4] | (uint32_t)head[5] << 8;
    require(!k->echoing || !fs_op_mutates(opcode));
}

static void ask(struct kernel *k, struct fs_request request)
{
    uint8_t bytes[8192];
    if (k->count == REQUESTS_MAX || request.node == 0)
        return;
    request.unique = k->count * 2;
    request.caller_pid = k->echoing ? ECHOER : 1;
    request.name_size = request.name ? strlen(request.name) : 0;
    request.name2_size = request.name2 ? strlen(request.name2) : 0;
    k->asked[k->count] = request.opcode;
    k->sizes[k->count] = request.size;
    k->pinned[k->count] = request.opcode == FUSE_LOOKUP && strcmp(request.name, ".envrc") == 0;
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
    static const uint8_t data[4096];
    static const uint32_t on_file[] = {
        FUSE_READ,  FUSE_FLUSH, FUSE_FSYNC,     FUSE_SETLKW, FUSE_GETLK,           FUSE_WRITE,
        FUSE_WRITE, FUSE_READ,  FUSE_FALLOCATE, FUSE_LSEEK,  FUSE_COPY_FILE_RANGE, FUSE_FLUSH,
        FUSE_SETLK, FUSE_FSYNC};
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
                                   .offset = on_file[i] == FUSE_WRITE ? i * 4096 : 0,
                                   .size = sizeof data,
                                   .data = on_file[i] == FUSE_WRITE ? data : NULL,
                                   .data_size = on_file[i] == FUSE_WRITE ? sizeof data : 0,
                                   .lock_end = 10,
                                   .lock_type = F_WRLCK,
                                   .whence = SEEK_DATA});
    ask(k, (struct fs_request){.opcode = FUSE_TMPFILE,
                               .node = k->folder,
                               .name = "/",
                               .mode = S_IFREG | 0600,
                               .flags = O_RDWR});
}

/* The same with names that are guarded. */
static void ask_for_guarded(struct kernel *k)
{
    static const char *const names[] = {".envrc", ".git",    "config", "hooks",  "pre-commit",
                                        "HEAD",   "objects", ".npmrc", ".claude"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        ask(k, (struct fs_request){.opcode = FUSE_LOOKUP, .node = k->folder, .name = names[i]});
    ask(k, (struct fs_request){.opcode = FUSE_LOOKUP, .node = 1, .name = ".envrc"});
    ask(k, (struct fs_request){.opcode = FUSE_RENAME,
                               .node = k->folder,
                               .node2 = k->folder,
                               .name = "name",
                               .name2 = ".npmrc"});
    ask(k, (struct fs_request){.opcode = FUSE_CREATE,
                               .node = k->folder,
                               .name = ".npmrc",
                               .mode = S_IFREG | 0644,
                               .flags = O_WRONLY | O_TRUNC});
    ask(k, (struct fs_request){.opcode = FUSE_WRITE,
                               .node = k->file,
                               .fh = k->file_fh,
                               .data = (const uint8_t *)"text",
                               .data_size = 4,
                               .size = 4});
    ask(k, (struct fs_request){.opcode = FUSE_FLUSH, .node = k->file, .fh = k->file_fh});
    ask(k, (struct fs_request){.opcode = FUSE_RELEASE, .node = k->file, .fh = k->file_fh});
    ask(k, (struct fs_request){.opcode = FUSE_UNLINK, .node = k->folder, .name = ".npmrc"});
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

/* Gives the relay the server's messages of one stream. Returns how many bytes they were: to their
 * end, or to where it has had enough. */
static size_t feed(struct kernel *k, const uint8_t *bytes, size_t size, uint64_t now_ms)
{
    struct bg_err err;
    uint64_t next_ms;
    size_t at = 0;
    while (size - at >= 4) {
        size_t message;
        if (fs_message_size(bytes + at, FS_REPLY_HEADER_SIZE, &message, NULL) < 0 ||
            message > size - at)
            return at;
        at += message;
        if (fs_relay_reply(k->relay, bytes + at - message, message, now_ms, &err) < 0)
            return at;
        now_ms += 25; /* longer than an echo waits */
        if (k->more) {
            ask_for_all(k);
            if (k->guards)
                ask_for_guarded(k);
        }
        if (k->commanded) {
            k->echoing = true;
            ask_for_all(k);
            k->commanded = k->echoing = false;
            fs_relay_echoed(k->relay, k->count % 2 ? -EEXIST : 0, now_ms);
        }
        if (fs_relay_tick(k->relay, now_ms, &next_ms, &err) < 0)
            return at;
        fs_relay_flush_forgets(k->relay);
    }
    return at;
}

/* Another stream begins at bytes. */
static bool comes_back(struct kernel *k, const uint8_t *bytes, size_t size, uint64_t now_ms)
{
    struct bg_err err;
    if (fs_relay_lost(k->relay, now_ms) < 0)
        return false;
    ask_for_all(k); /* these wait */
    return size >= FS_HELLO_SIZE &&
           fs_relay_returned(k->relay, bytes, FS_HELLO_SIZE, now_ms, &err) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct kernel k = {.folder = 1};
    struct fs_relay_opts opts = {.uid = 1000,
                                 .gid = 1001,
                                 .returns = true,
                                 .deadline_ms = DEADLINE_MS,
                                 .to_kernel = to_kernel,
                                 .to_server = to_server,
                                 .notify = notify,
                                 .to_echoer = to_echoer,
                                 .owner = &k};
    struct bg_err err;
    if (size < FS_HELLO_SIZE)
        return 0;
    k.guards = bytes[12] == 'G'; /* of the server's uid */
    opts.guard.policy = k.guards ? GUARD_PIN : GUARD_OFF;
    require(fs_relay_new(&opts, &k.relay) == 0);
    struct fs_pin_note note = {
        .path = "/.envrc", .mode = 0644, .bytes = (const uint8_t *)"host", .size = 4};
    require(fs_relay_note(k.relay, &note) == 0);
    if (fs_relay_greeted(k.relay, bytes, FS_HELLO_SIZE, &err) == 0) {
        require(fs_relay_echo_by(k.relay, ECHOER) == 0);
        initialise(&k);
        ask_for_all(&k);
        if (k.guards)
            ask_for_guarded(&k);
        uint64_t now_ms = 1000;
        size_t at = 0;
        do {
            at += FS_HELLO_SIZE;
            at += feed(&k, bytes + at, size - at, now_ms);
            now_ms += DEADLINE_MS / 2;
        } while (size - at >= FS_HELLO_SIZE && comes_back(&k, bytes + at, size - at, now_ms));
        fs_relay_gone(k.relay);
        for (size_t i = 0; i < k.count; i++)
            require(k.answered[i]); /* nobody is left waiting */
    }
    fs_relay_free(k.relay);
    return 0;
}
