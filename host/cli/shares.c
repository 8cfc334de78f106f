#include "host/cli/shares.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/quote.h"
#include "common/wire.h"
#include "host/cli/client.h"
#include "host/cli/cow.h"
#include "host/cli/launch.h"
#include "host/cli/output.h"
#include "host/cli/process.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/wake.h"

#define REPLY_TIMEOUT_MS 120000 /* a loaded guest without KVM is slow */
#define READY_TIMEOUT_MS 60000
#define END_TIMEOUT_MS   10000 /* for the server, after its mount or its stream has gone */
#define LOCK_LOOK_MS     20
#define READY_LINE_MAX   4096
#define GUEST_HOME       "/home/app"

/* Numbers in bellglass-share; its options name them. */
#define STREAM_FD 3
#define READY_FD  4
#define LOCK_FD   5

/* ---- the list ---- */

struct bg_share *shares_find(const struct bg_sandbox *sandbox, const char *guest)
{
    for (size_t i = 0; i < sandbox->share_count; i++)
        if (strcmp(sandbox->shares[i].guest, guest) == 0)
            return &sandbox->shares[i];
    return NULL;
}

void shares_remove(struct bg_sandbox *sandbox, struct bg_share *share)
{
    size_t index = (size_t)(share - sandbox->shares);
    bg_share_done(share);
    sandbox->share_count--;
    memmove(share, share + 1, (sandbox->share_count - index) * sizeof *share);
}

static int look_at(const char *dir, struct bg_err *err)
{
    char quoted[512];
    struct stat st;
    (void)bg_quote(dir, quoted, sizeof quoted);
    if (stat(dir, &st) < 0)
        return bg_err_errno(err, -errno, "%s", quoted);
    if (!S_ISDIR(st.st_mode))
        return bg_err_set(err, -ENOTDIR, "%s is not a folder", quoted);
    return access(dir, R_OK | X_OK) < 0 ? bg_err_errno(err, -errno, "%s", quoted) : 0;
}

static int check_allowed(const struct app *app, const char *dir, struct bg_err *err)
{
    const char *home = getenv("HOME");
    BG_AUTOFREE char *real_home = home ? realpath(home, NULL) : NULL;
    BG_AUTOFREE char *data = realpath(app->paths.data, NULL);
    BG_AUTOFREE char *state = realpath(app->paths.state, NULL);
    BG_AUTOFREE char *runtime = realpath(app->paths.runtime, NULL);
    return share_spec_allowed(
        dir,
        &(struct share_places){.home = real_home, .data = data, .state = state, .runtime = runtime},
        err);
}

static int copy_texts(const struct args *args, int option, char ***ret, size_t *ret_count)
{
    size_t at = 0;
    *ret = calloc(args->given_count + 1, sizeof **ret);
    if (!*ret)
        return -ENOMEM;
    for (const char *text; (text = args_next(args, option, &at));) {
        (*ret)[*ret_count] = strdup(text);
        if (!(*ret)[(*ret_count)++])
            return -ENOMEM;
    }
    return 0;
}

/* One that nobody uses, not even the server of a share that was taken away while it was in use. */
static unsigned free_id(const struct bg_sandbox *sandbox)
{
    struct bg_share next = {.id = 1};
    for (size_t i = 0; i < sandbox->share_count; i++)
        if (sandbox->shares[i].id >= next.id)
            next.id = sandbox->shares[i].id + 1;
    while (sandbox->dir && shares_served(sandbox, &next))
        next.id++;
    return next.id;
}

/* spec's parts move into the share. */
static int fill(const struct args *args, struct share_spec *spec, struct bg_share *share,
                struct bg_err *err)
{
    const char *last = strrchr(share->host, '/') + 1;
    share->mode = spec->mode;
    share->guest = BG_TAKE(spec->guest);
    share->unguarded = args_flag(args, OPTION_SHARE_UNGUARDED);
    share->any_links = args_flag(args, OPTION_SHARE_ANY_LINKS);
    if (!share->guest && *last == '\0')
        return bg_err_set(err, -EINVAL, "'/' has no name: say where it shall be in the sandbox");
    if (!share->guest && asprintf(&share->guest, GUEST_HOME "/%s", last) < 0)
        share->guest = NULL;
    if (!share->guest || copy_texts(args, OPTION_HIDE, &share->hide, &share->hide_count) < 0 ||
        copy_texts(args, OPTION_SHOW, &share->show, &share->show_count) < 0)
        return bg_err_errno(err, -ENOMEM, "share");
    return 0;
}

static int add(struct app *app, const struct args *args, struct share_spec *spec,
               struct bg_sandbox *sandbox, struct bg_share *share, struct bg_err *err)
{
    char quoted[512];
    share->host = realpath(spec->dir, NULL);
    if (!share->host)
        return bg_err_errno(err, -errno, "%s", bg_quote(spec->dir, quoted, sizeof quoted));
    int r = look_at(share->host, err);
    if (r == 0 && !args_flag(args, OPTION_SHARE_ANYWAY))
        r = check_allowed(app, share->host, err);
    if (r == 0)
        r = fill(args, spec, share, err);
    if (r < 0)
        return r;
    if (shares_find(sandbox, share->guest))
        return bg_err_set(err, -EEXIST, "%s: a share is there already",
                          bg_quote(share->guest, quoted, sizeof quoted));
    if (sandbox->share_count == BG_SHARES_MAX)
        return bg_err_set(err, -E2BIG, "a sandbox has at most %d shares", BG_SHARES_MAX);
    share->id = free_id(sandbox);
    struct bg_share *grown =
        reallocarray(sandbox->shares, sandbox->share_count + 1, sizeof *sandbox->shares);
    if (!grown)
        return bg_err_errno(err, -ENOMEM, "share");
    sandbox->shares = grown;
    grown[sandbox->share_count++] = *share;
    *share = (struct bg_share){0};
    return 0;
}

int shares_add(struct app *app, const struct args *args, const char *text,
               struct bg_sandbox *sandbox, struct bg_err *err)
{
    struct share_spec spec;
    struct bg_share share = {0};
    int r = share_spec_parse(text, &spec, err);
    if (r < 0)
        return r;
    r = add(app, args, &spec, sandbox, &share, err);
    bg_share_done(&share);
    share_spec_done(&spec);
    return r;
}

int shares_check(const struct bg_sandbox *sandbox, struct bg_err *err)
{
    for (size_t i = 0; i < sandbox->share_count; i++) {
        struct bg_err why;
        int r = look_at(sandbox->shares[i].host, &why);
        if (r < 0)
            return bg_err_set(err, r, "share %s; bring it back, or: bellglass unshare %s %s",
                              why.text, sandbox->name, sandbox->shares[i].guest);
    }
    return 0;
}

/* ---- its process ---- */

static char *file_path(const struct bg_sandbox *sandbox, const struct bg_share *share,
                       const char *kind)
{
    char *path = NULL;
    return asprintf(&path, "%s/share-%u.%s", sandbox->dir, share->id, kind) < 0 ? NULL : path;
}

static bool is_locked(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

bool shares_served(const struct bg_sandbox *sandbox, const struct bg_share *share)
{
    BG_AUTOFREE char *path = file_path(sandbox, share, "lock");
    BG_AUTOCLOSE int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    return fd >= 0 && is_locked(fd);
}

/* An fd of the process that holds the lock; -1: none does. The number in the file is the holder's
 * as long as the lock is held, and that is asked after the fd was opened. */
static int open_server(const struct bg_sandbox *sandbox, const struct bg_share *share)
{
    char text[32];
    uint64_t pid;
    BG_AUTOFREE char *path = file_path(sandbox, share, "lock");
    BG_AUTOCLOSE int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof text - 1, 0);
    if (n <= 0)
        return -1;
    text[n] = '\0';
    if (bg_parse_u64(text, 1, INT32_MAX, &pid) < 0)
        return -1;
    BG_AUTOCLOSE int server = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    return server >= 0 && is_locked(fd) ? bg_take_fd(&server) : -1;
}

static bool ended_within(int pidfd, int timeout_ms)
{
    uint64_t deadline = bg_now_ms() + (uint64_t)timeout_ms;
    for (;;) {
        uint64_t now = bg_now_ms();
        struct pollfd p = {.fd = pidfd, .events = POLLIN};
        int n = poll(&p, 1, now >= deadline ? 0 : (int)(deadline - now));
        if (n > 0 || now >= deadline)
            return n > 0;
    }
}

/* ---- starting ---- */

static int open_stream(struct app *app, const struct bg_sandbox *sandbox,
                       const struct bg_share_request *request, int *ret_fd, struct bg_err *err)
{
    uint8_t body[BG_PATH_MAX + 64];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    bg_share_request_emit(request, &w);
    int r = wake_open(app, sandbox, "share", body, w.used, ret_fd, err);
    if (r < 0)
        return r;
    r = client_stream_reply(*ret_fd, REPLY_TIMEOUT_MS, err);
    if (r < 0) {
        (void)close(*ret_fd);
        *ret_fd = -1;
    }
    return r;
}

/* A copy-on-write share is itself mounted where nobody sees it; see cow.h. */
static int request_for(const struct bg_share *share, uint32_t flags, struct bg_share_request *ret,
                       struct bg_err *err)
{
    *ret = (struct bg_share_request){.flags = flags};
    if (share->mode == BG_SHARE_COW) {
        cow_lower(share, ret->path);
        return 0;
    }
    if (strlen(share->guest) >= sizeof ret->path)
        return bg_err_errno(err, -ENAMETOOLONG, "share");
    memcpy(ret->path, share->guest, strlen(share->guest) + 1);
    return 0;
}

/* The lock as this process has it, for the server to inherit. One whose stream has just ended may
 * have it for a moment yet. Errors: -EEXIST it is served. */
static int take_lock(const struct bg_sandbox *sandbox, const struct bg_share *share, int *ret_fd,
                     struct bg_err *err)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    BG_AUTOFREE char *path = file_path(sandbox, share, "lock");
    BG_AUTOCLOSE int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0)
        return bg_err_errno(err, path ? -errno : -ENOMEM, "%s", sandbox->dir);
    uint64_t deadline = bg_now_ms() + END_TIMEOUT_MS;
    while (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
        if (errno != EAGAIN && errno != EACCES)
            return bg_err_errno(err, -errno, "%s", path);
        if (bg_now_ms() >= deadline)
            return bg_err_set(err, -EEXIST, "%s is shared there already", share->host);
        (void)poll(NULL, 0, LOCK_LOOK_MS);
    }
    /* The number of the one before is that of no holder any more. */
    if (ftruncate(fd, 0) < 0)
        return bg_err_errno(err, -errno, "%s", path);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

/* The server's one line: its pid, or why not. */
static int wait_ready(int ready_fd, pid_t pid, struct bg_err *err)
{
    uint64_t deadline = bg_now_ms() + READY_TIMEOUT_MS;
    char line[READY_LINE_MAX], text[BG_ERR_TEXT_SIZE];
    int r = 0;
    size_t used = 0;
    while (used < sizeof line && !memchr(line, '\n', used)) {
        uint64_t now = bg_now_ms();
        struct pollfd p = {.fd = ready_fd, .events = POLLIN};
        int n = poll(&p, 1, now >= deadline ? 0 : (int)(deadline - now));
        if (n == 0) {
            (void)kill(pid, SIGKILL); /* our child, not waited for */
            return bg_err_set(err, -ETIME, "the share did not begin within %d s",
                              READY_TIMEOUT_MS / 1000);
        }
        ssize_t got = n < 0 ? 1 : read(ready_fd, line + used, sizeof line - used);
        if (n > 0 && got <= 0)
            break;
        used += n > 0 ? (size_t)got : 0;
    }
    const char *end = memchr(line, '\n', used);
    if (!end) {
        int status = process_wait(pid);
        return bg_err_set(err, -EIO, "bellglass-share ended with status %d", status);
    }
    enum launch_line_kind kind;
    json_t *nothing = NULL;
    r = launch_parse_line(line, (size_t)(end - line), &kind, text, &nothing, err);
    json_decref(nothing);
    return r;
}

/* The server's command line; the array is the caller's, its texts are borrowed. */
static char **command_line(const struct bg_share *share)
{
    static char program[] = "bellglass-share", stream[] = "--stream-fd", stream_fd[] = "3",
                ready[] = "--ready-fd", ready_fd[] = "4", log[] = "--log-fd", log_fd[] = "2",
                lock[] = "--lock-fd", lock_fd[] = "5", root[] = "--root", hide[] = "--hide",
                show[] = "--show", read_only[] = "--read-only", unguarded[] = "--unguarded",
                any_links[] = "--any-links", layered[] = "--layered";
    char *const fixed[] = {program, stream, stream_fd, ready, ready_fd,   log,
                           log_fd,  lock,   lock_fd,   root,  share->host};
    size_t used = sizeof fixed / sizeof *fixed;
    char **argv = calloc(used + 5 + 2 * (share->hide_count + share->show_count), sizeof *argv);
    if (!argv)
        return NULL;
    memcpy(argv, fixed, sizeof fixed);
    if (share->mode != BG_SHARE_RW)
        argv[used++] = read_only;
    if (share->unguarded)
        argv[used++] = unguarded;
    if (share->any_links)
        argv[used++] = any_links;
    if (share->mode == BG_SHARE_COW)
        argv[used++] = layered;
    for (size_t i = 0; i < share->hide_count; i++) {
        argv[used++] = hide;
        argv[used++] = share->hide[i];
    }
    for (size_t i = 0; i < share->show_count; i++) {
        argv[used++] = show;
        argv[used++] = share->show[i];
    }
    return argv;
}

static int start_server(const struct bg_sandbox *sandbox, const struct bg_share *share,
                        int stream_fd, int lock_fd, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *log_path = file_path(sandbox, share, "log");
    BG_AUTOFREE char **argv = command_line(share);
    int ready[2];
    pid_t pid;
    int r = bg_helper_path("bellglass-share", &path, err);
    if (r < 0)
        return r;
    if (!argv || !log_path)
        return bg_err_errno(err, -ENOMEM, "share");
    BG_AUTOCLOSE int log_fd =
        open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    BG_AUTOCLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (log_fd < 0 || null < 0 || pipe2(ready, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "%s", log_path);
    BG_AUTOCLOSE int ready_fd = ready[0];
    /* It outlives us: nothing of our terminal and pipes goes with it. */
    const struct process_opts opts = {.path = path,
                                      .argv = argv,
                                      .fds = {{.from = null, .to = 0},
                                              {.from = null, .to = 1},
                                              {.from = log_fd, .to = 2},
                                              {.from = stream_fd, .to = STREAM_FD},
                                              {.from = ready[1], .to = READY_FD},
                                              {.from = lock_fd, .to = LOCK_FD}},
                                      .fd_count = 6,
                                      .new_session = true};
    r = process_start(&opts, &pid, err);
    (void)close(ready[1]);
    if (r < 0)
        return r;
    char text[32];
    int n = snprintf(text, sizeof text, "%d", pid);
    if (pwrite(lock_fd, text, (size_t)n, 0) != n)
        r = bg_err_errno(err, -errno, "%s", sandbox->dir);
    return r < 0 ? r : wait_ready(ready_fd, pid, err);
}

int shares_start(struct app *app, const struct bg_sandbox *sandbox, const struct bg_share *share,
                 struct bg_err *err)
{
    struct bg_share_request request;
    int lock_fd = -1, stream_fd = -1;
    int r = request_for(share, share->mode != BG_SHARE_RW ? BG_SHARE_READ_ONLY : 0, &request, err);
    if (r == 0)
        r = take_lock(sandbox, share, &lock_fd, err);
    BG_AUTOCLOSE int lock = lock_fd;
    if (r == 0)
        r = open_stream(app, sandbox, &request, &stream_fd, err);
    BG_AUTOCLOSE int stream = stream_fd;
    if (r == 0)
        r = start_server(sandbox, share, stream, lock, err);
    if (r == 0 && share->mode == BG_SHARE_COW)
        r = cow_start(app, sandbox, share, err);
    return r < 0 ? bg_err_prefix(err, "share %s", share->host) : 0;
}

int shares_start_all(struct app *app, const struct bg_sandbox *sandbox, struct bg_err *err)
{
    int r = 0;
    for (size_t i = 0; i < sandbox->share_count && r == 0; i++)
        r = shares_start(app, sandbox, &sandbox->shares[i], err);
    return r;
}

/* ---- ending ---- */

static int ask_end(struct app *app, const struct bg_sandbox *sandbox, const struct bg_share *share,
                   bool lazily, struct bg_err *err)
{
    struct bg_share_request request;
    int fd = -1;
    int r = request_for(share, BG_SHARE_END | (lazily ? BG_SHARE_LAZY : 0), &request, err);
    if (r == 0)
        r = open_stream(app, sandbox, &request, &fd, err);
    if (fd >= 0)
        (void)close(fd); /* its reply was all there is */
    return r;
}

int shares_end(struct app *app, const struct bg_sandbox *sandbox, const struct bg_share *share,
               bool force, bool *ret_busy, struct bg_err *err)
{
    BG_AUTOCLOSE int server = open_server(sandbox, share);
    bool cow_busy = false;
    int r = share->mode == BG_SHARE_COW ? cow_end(app, sandbox, share, &cow_busy, err) : 0;
    if (r < 0 && !force)
        return bg_err_prefix(err, "share %s", share->host);
    r = ask_end(app, sandbox, share, /* lazily= */ false, err);
    bool busy = r == -EBUSY || cow_busy;
    if (busy)
        r = ask_end(app, sandbox, share, /* lazily= */ true, err);
    bool gone = r == -EINVAL; /* not mounted: its process had ended before */
    if (r < 0 && !gone && !force)
        return bg_err_prefix(err, "share %s", share->host);
    *ret_busy = busy && !force;
    /* A sandbox may say what it likes: what is not in use has no server any more. */
    if (server >= 0 && !*ret_busy && (force || !ended_within(server, END_TIMEOUT_MS)))
        (void)syscall(SYS_pidfd_send_signal, server, SIGKILL, NULL, 0); /* it may be gone */
    return 0;
}

/* ---- showing ---- */

json_t *shares_json(const struct bg_sandbox *sandbox)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < sandbox->share_count; i++) {
        const struct bg_share *s = &sandbox->shares[i];
        json_t *entry = json_pack(
            "{s:o, s:o, s:s, s:b, s:b, s:b, s:o, s:o}", "host", output_text(s->host), "guest",
            output_text(s->guest), "mode", bg_share_mode_name(s->mode), "served",
            shares_served(sandbox, s), "unguarded", s->unguarded, "any_links", s->any_links, "hide",
            output_texts(s->hide, s->hide_count), "show", output_texts(s->show, s->show_count));
        if (json_array_append_new(array, entry) < 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}
