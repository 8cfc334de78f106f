/* mount and umount. */
#include "host/cli/commands.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/quote.h"
#include "common/state/snapshot.h"
#include "common/wire.h"
#include "host/cli/client.h"
#include "host/cli/grammar.h"
#include "host/cli/launch.h"
#include "host/cli/life.h"
#include "host/cli/mounted.h"
#include "host/cli/mounts.h"
#include "host/cli/offline.h"
#include "host/cli/process.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/wake.h"

#define REPLY_TIMEOUT_MS 120000 /* a loaded guest without KVM is slow */
#define READY_TIMEOUT_MS 60000  /* for the helper to mount */
#define STREAM_FD        3
#define READY_FD         4
#define HOLD_FD          5
#define READY_LINE_MAX   4096
#define LOG_FILE         "mount.log"
#define LOG_TAIL_MAX     65536

enum {
    OPTION_READ_ONLY = OPTION_OWN,
    OPTION_EXEC,
    OPTION_AS_ROOT,
    OPTION_SYMLINKS,
    OPTION_GUARD,
    OPTION_WATCH,
    OPTION_RW,
    OPTION_FORCE,
    OPTION_AN_IMAGE
};

static const struct option_spec mount_options[] = {
    {OPTION_READ_ONLY, 'r', false, "read-only", NULL, "no changes from here"},
    {OPTION_EXEC, 0, false, "exec", NULL,
     "let programs in it be run here: they are the sandbox's, and would run as you"},
    {OPTION_AS_ROOT, 0, false, "as-root", NULL, "act as the guest's root, not as its user"},
    {OPTION_SYMLINKS, 0, false, "symlinks", "MODE",
     "inside (default), none, or raw: which symbolic links lead on; raw is DANGEROUS, see below"},
    {OPTION_GUARD, 0, false, "guard", "MODE",
     "files that programs here run or believe: pin, owner or off [pin]"},
    {OPTION_WATCH, 0, false, "watch", "seen|none",
     "whether the sandbox's changes make file events here (inotify), in folders seen here [seen]"},
    {OPTION_RW, 'w', false, "rw", NULL, "a stopped sandbox's files too can be changed"},
    {OPTION_FORCE, 0, false, "force", NULL,
     "with --rw: repair a damaged file system, after its disk was copied"},
    {OPTION_AN_IMAGE, 0, false, "image", NULL, "the files of an image, read-only"},
    {OPTION_JSON, 0, false, "json", NULL, "without NAME and DIR: print JSON"},
    {0},
};

static const char *const mount_forms[] = {"[OPTIONS] NAME[:PATH] DIR",
                                          "[OPTIONS] NAME@TAG[:PATH] DIR",
                                          "--image [OPTIONS] IMAGE[:PATH] DIR", "[--json]", NULL};
static const char *const umount_forms[] = {"DIR...", NULL};

static const char *const mount_examples[] = {"mount web ~/web", "mount web:/home/app/src src",
                                             "mount --rw stopped fix", "mount --image debian image",
                                             NULL};

/* Whose files are mounted. */
struct source {
    struct bg_sandbox *sandbox; /* whose control socket is asked for the stream */
    const char *name, *id;      /* what the kernel's list says */
    const char *path;           /* in there */
    const char *log_dir;
    int hold_fd; /* for the mount to keep; -1: none */
    bool disk;   /* through a helper */
    bool read_only;
};

/* Finds what would make mounting fail before anything is asked of the sandbox. *ret_dir: heap. */
static int check_target(const char *dir, char **ret_dir, struct bg_err *err)
{
    char quoted[512];
    struct stat st;
    (void)bg_quote(dir, quoted, sizeof quoted);
    BG_AUTOCLOSE int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fuse < 0 || fstat(fuse, &st) < 0 || !S_ISCHR(st.st_mode))
        return bg_err_set(err, fuse < 0 ? -errno : -ENODEV,
                          "/dev/fuse: %s; load the module (modprobe fuse), or give this container "
                          "the device",
                          fuse < 0 ? strerror(errno) : "not a device");
    BG_AUTOFREE char *path = realpath(dir, NULL);
    int r = path && stat(path, &st) == 0 ? 0 : -errno;
    if (r == -ENOTCONN || r == -EIO)
        return bg_err_set(err, r, "%s is a dead mount: bellglass umount %s", quoted, dir);
    if (r < 0)
        return bg_err_set(err, r, "%s: %s%s", quoted, strerror(-r),
                          r == -ENOENT ? "; make the folder first" : "");
    if (!S_ISDIR(st.st_mode))
        return bg_err_set(err, -ENOTDIR, "%s is not a folder", quoted);
    struct mount_list mounts;
    r = mounts_read(&mounts, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < mounts.count; i++)
        if (r == 0 && strcmp(mounts.entries[i].path, path) == 0)
            r = bg_err_set(err, -EBUSY, "%s has sandbox '%s' mounted already: bellglass umount %s",
                           quoted, mounts.entries[i].sandbox, dir);
    mounts_done(&mounts);
    if (r == 0)
        *ret_dir = BG_TAKE(path);
    return r;
}

static uint32_t fuse_flags(const struct source *source, const struct args *args)
{
    return (source->read_only ? BG_FUSE_READ_ONLY : 0) | (source->disk ? BG_FUSE_DISK : 0) |
           (args_flag(args, OPTION_AS_ROOT) ? BG_FUSE_AS_ROOT : 0);
}

static int open_stream(struct app *app, const struct source *source, const struct args *args,
                       int *ret_fd, struct bg_err *err)
{
    struct bg_fuse_request q = {.flags = fuse_flags(source, args)};
    const char *path = source->path;
    uint8_t body[BG_PATH_MAX + 64];
    char quoted[512];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    if (path[0] != '/' || strlen(path) >= sizeof q.path)
        return bg_err_set(err, -EINVAL, "%s: the path in the sandbox must be absolute",
                          bg_quote(path, quoted, sizeof quoted));
    memcpy(q.path, path, strlen(path) + 1);
    bg_fuse_request_emit(&q, &w);
    int r = wake_open(app, source->sandbox, "fuse", body, w.used, ret_fd, err);
    if (r < 0)
        return r;
    r = client_stream_reply(*ret_fd, REPLY_TIMEOUT_MS, err);
    return r < 0 ? bg_err_prefix(err, "%s", bg_quote(path, quoted, sizeof quoted)) : 0;
}

/* The last line that the helper logged after offset, for the error text. */
static void last_line(int log_fd, off_t offset, char out[BG_ERR_TEXT_SIZE])
{
    char tail[1024];
    off_t end = lseek(log_fd, 0, SEEK_END);
    off_t from = end - (off_t)sizeof tail > offset ? end - (off_t)sizeof tail : offset;
    ssize_t n = pread(log_fd, tail, sizeof tail, from);
    while (n > 0 && tail[n - 1] == '\n')
        n--;
    const char *line = n > 0 ? memrchr(tail, '\n', (size_t)n) : NULL;
    line = line ? line + 1 : tail;
    bg_escape(line, n > 0 ? (size_t)(tail + n - line) : 0, out, 256); /* leaves room for the rest */
}

/* Waits until the helper says that the mount is there, or why not: one line, as a supervisor's. */
static int wait_ready(int ready_fd, pid_t pid, int log_fd, off_t log_offset, struct bg_err *err)
{
    uint64_t deadline = bg_now_ms() + READY_TIMEOUT_MS;
    char line[READY_LINE_MAX], text[BG_ERR_TEXT_SIZE];
    size_t used = 0;
    ssize_t n = 1;
    while (n > 0 && used < sizeof line && !memchr(line, '\n', used)) {
        uint64_t now = bg_now_ms();
        struct pollfd p = {.fd = ready_fd, .events = POLLIN};
        int ready = poll(&p, 1, now >= deadline ? 0 : (int)(deadline - now));
        if (ready == 0) {
            (void)kill(pid, SIGTERM); /* our child, not waited for; it takes the mount down */
            return bg_err_set(err, -ETIME, "the mount did not appear within %d s",
                              READY_TIMEOUT_MS / 1000);
        }
        n = ready < 0 ? 1 : read(ready_fd, line + used, sizeof line - used);
        used += n > 0 && ready > 0 ? (size_t)n : 0;
    }
    const char *end = memchr(line, '\n', used);
    if (end) {
        enum launch_line_kind kind;
        json_t *nothing = NULL;
        int r = launch_parse_line(line, (size_t)(end - line), &kind, text, &nothing, err);
        json_decref(nothing);
        return r;
    }
    int status = process_wait(pid);
    last_line(log_fd, log_offset, text);
    return bg_err_set(err, -EIO, "cannot mount: %s (bellglass-mount ended with status %d)",
                      text[0] ? text : "no reason given", status);
}

/* The command by which the mount gets another stream when it loses this one. */
struct reopen {
    char *program, *name, *id, *path, flags[16];
};

static int reopen_init(struct reopen *reopen, const struct source *source, uint32_t flags,
                       struct bg_err *err)
{
    *reopen = (struct reopen){
        .name = strdup(source->name), .id = strdup(source->id), .path = strdup(source->path)};
    (void)snprintf(reopen->flags, sizeof reopen->flags, "%u", flags);
    if (!reopen->name || !reopen->id || !reopen->path)
        return bg_err_errno(err, -ENOMEM, "mount");
    return bg_helper_path("bellglass-stream", &reopen->program, err);
}

static void reopen_done(struct reopen *reopen)
{
    free(reopen->program);
    free(reopen->name);
    free(reopen->id);
    free(reopen->path);
}

static int check_guard(const struct args *args, struct bg_err *err)
{
    static const char *const modes[] = {"pin", "owner", "off"};
    const char *mode = args_text(args, OPTION_GUARD, "pin");
    char quoted[128];
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (strcmp(mode, modes[i]) == 0)
            return 0;
    return bg_err_set(err, -EINVAL, "--guard %s: pin, owner or off",
                      bg_quote(mode, quoted, sizeof quoted));
}

static int start_helper(const struct source *source, const struct args *args, struct reopen *reopen,
                        char *dir, int stream_fd, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *log_path = NULL;
    BG_AUTOFREE char *name = NULL;
    BG_AUTOFREE char *store = NULL;
    BG_AUTOFREE char *root = strdup(reopen->path);
    BG_AUTOFREE char *mode = strdup(args_text(args, OPTION_GUARD, "pin"));
    int ready[2];
    const char *links = args_text(args, OPTION_SYMLINKS, "inside");
    if (strcmp(links, "inside") != 0 && strcmp(links, "none") != 0 && strcmp(links, "raw") != 0)
        return bg_err_set(err, -EINVAL, "--symlinks %s: want inside, none or raw", links);
    int r = bg_helper_path("bellglass-mount", &path, err);
    if (r < 0)
        return r;
    if (asprintf(&log_path, "%s/%s", source->log_dir, LOG_FILE) < 0 ||
        asprintf(&name, "%s:%s", source->name, source->id) < 0 ||
        asprintf(&store, "%s/guard", source->log_dir) < 0 || !root || !mode)
        return bg_err_errno(err, -ENOMEM, "mount");
    BG_AUTOCLOSE int log_fd = open(log_path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    BG_AUTOCLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (log_fd < 0 || null < 0 || pipe2(ready, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "%s", log_path);
    BG_AUTOCLOSE int ready_fd = ready[0];
    off_t log_offset = lseek(log_fd, 0, SEEK_END);
    if (log_offset > LOG_TAIL_MAX && ftruncate(log_fd, 0) == 0)
        log_offset = 0; /* a log of many mounts: only the last ones matter */
    char program[] = "bellglass-mount", a[] = "--stream-fd", a_value[] = "3", b[] = "--mountpoint",
         c[] = "--name", d[] = "--ready-fd", d_value[] = "4", e[] = "--log-fd", e_value[] = "2",
         read_only[] = "--read-only", exec[] = "--exec", symlinks[] = "--symlinks",
         f[] = "--reopen", f_value[] = "passes", dashes[] = "--", g[] = "--guard",
         h[] = "--guard-root", i[] = "--guard-store", watch[] = "--watch", none[] = "none",
         k[] = "--hold-fd", k_value[] = "5";
    BG_AUTOFREE char *symlinks_value = strdup(links);
    if (!symlinks_value)
        return bg_err_errno(err, -ENOMEM, "mount");
    char *argv[36] = {program, a,        a_value,        b, dir,  c, name, d, d_value, e,
                      e_value, symlinks, symlinks_value, g, mode, h, root};
    size_t argc = 17;
    if (strcmp(source->id, BG_HELPER_IMAGE_ID) != 0) { /* of an image nothing is ever approved */
        argv[argc++] = i;
        argv[argc++] = store;
    }
    if (source->read_only)
        argv[argc++] = read_only;
    if (source->hold_fd >= 0) {
        argv[argc++] = k;
        argv[argc++] = k_value;
    }
    if (args_flag(args, OPTION_EXEC))
        argv[argc++] = exec;
    if (strcmp(args_text(args, OPTION_WATCH, "seen"), "none") == 0) {
        argv[argc++] = watch;
        argv[argc++] = none;
    }
    char *const command[] = {f,          f_value,      dashes,       reopen->program, reopen->name,
                             reopen->id, reopen->path, reopen->flags};
    if (!source->disk) /* a helper comes once */
        memcpy(argv + argc, command, sizeof command);
    /* It outlives us: nothing of our terminal and pipes goes with it. */
    struct process_opts opts = {.path = path,
                                .argv = argv,
                                .fds = {{.from = null, .to = 0},
                                        {.from = null, .to = 1},
                                        {.from = log_fd, .to = 2},
                                        {.from = stream_fd, .to = STREAM_FD},
                                        {.from = ready[1], .to = READY_FD},
                                        {.from = source->hold_fd, .to = HOLD_FD}},
                                .fd_count = source->hold_fd >= 0 ? 6 : 5,
                                .new_session = true};
    pid_t pid;
    r = process_start(&opts, &pid, err);
    (void)close(ready[1]);
    return r < 0 ? r : wait_ready(ready_fd, pid, log_fd, log_offset, err);
}

/* Asks for the stream and mounts it on dir. */
static int mount_source(struct app *app, const struct source *source, const struct args *args,
                        char *dir, struct bg_err *err)
{
    int fd = -1;
    int r = open_stream(app, source, args, &fd, err);
    BG_AUTOCLOSE int stream = fd;
    struct reopen reopen = {0};
    if (r == 0)
        r = reopen_init(&reopen, source, fuse_flags(source, args), err);
    if (r == 0)
        r = start_helper(source, args, &reopen, dir, stream, err);
    reopen_done(&reopen);
    return r;
}

/* What does not run: a helper is started for it, which ends with the mount. */
static int mount_offline(struct app *app, const struct offline_opts *opts,
                         const struct source *source, const struct args *args, char *dir,
                         struct bg_err *err)
{
    struct offline offline;
    struct source there = *source;
    int r = offline_start(app, opts, &offline, err);
    if (r < 0)
        return r;
    there.sandbox = &offline.helper;
    there.hold_fd = offline.owner_fd;
    there.disk = true;
    there.read_only = !opts->write;
    r = mount_source(app, &there, args, dir, err);
    if (r < 0)
        (void)(offline_finish(&offline, NULL) < 0); /* so that nothing is left; err tells why */
    else
        offline_done(&offline);
    return r;
}

static int mount_image(struct app *app, const struct source *source, const struct args *args,
                       char *dir, struct bg_err *err)
{
    if (args_flag(args, OPTION_RW))
        return bg_err_set(err, -EINVAL,
                          "images and snapshots are read-only: --rw is for sandboxes");
    int r = app_paths(app, err);
    if (r < 0)
        return r;
    BG_AUTOFREE char *snapshot = NULL;
    if (strchr(source->name, '@')) {
        r = bg_snapshot_resolve(&app->paths, source->name, &snapshot, err);
        if (r < 0)
            return r;
    }
    const struct offline_opts opts = {.image = snapshot ? snapshot : source->name};
    struct source image = *source;
    image.id = BG_HELPER_IMAGE_ID;
    image.log_dir = app->paths.state;
    return mount_offline(app, &opts, &image, args, dir, err);
}

static int mount_sandbox(struct app *app, const struct source *source, const struct args *args,
                         char *dir, struct bg_err *err)
{
    struct life life = {0};
    struct source sandbox = *source;
    bool write = args_flag(args, OPTION_RW);
    int r = life_open(app, source->name, &life, err);
    if (r == 0 && wake_allowed() && (r = wake(app, &life, err)) < 0)
        life_done(&life);
    if (r < 0)
        return r;
    sandbox.sandbox = &life.sandbox;
    sandbox.id = life.sandbox.id;
    sandbox.log_dir = life.sandbox.dir;
    if (life.state == BG_SANDBOX_RUNNING) {
        r = mount_source(app, &sandbox, args, dir, err);
    } else if (bg_sandbox_rests(life.state)) {
        const struct offline_opts opts = {
            .sandbox = &life.sandbox, .write = write, .repair = args_flag(args, OPTION_FORCE)};
        r = mount_offline(app, &opts, &sandbox, args, dir, err);
        if (r == 0 && !write && !args_flag(args, OPTION_READ_ONLY))
            app_note("sandbox '%s' is %s: its files are mounted read-only; --rw lets you change "
                     "them",
                     source->name, bg_sandbox_state_name(life.state));
    } else {
        r = bg_err_set(err, -ENOTCONN, "sandbox '%s' is %s: try again in a moment", source->name,
                       bg_sandbox_state_name(life.state));
    }
    life_done(&life);
    return r;
}

static int mount_one(struct app *app, const struct args *args, struct bg_err *err)
{
    BG_AUTOFREE char *name = NULL;
    BG_AUTOFREE char *dir = NULL;
    const char *watch = args_text(args, OPTION_WATCH, "seen");
    if (strcmp(watch, "seen") != 0 && strcmp(watch, "none") != 0)
        return bg_err_set(err, -EINVAL, "--watch: seen or none");
    struct source source = {
        .path = "/", .hold_fd = -1, .read_only = args_flag(args, OPTION_READ_ONLY)};
    if (source.read_only && args_flag(args, OPTION_RW))
        return bg_err_set(err, -EINVAL, "--read-only and --rw: give one of them");
    if (args_flag(args, OPTION_FORCE) && !args_flag(args, OPTION_RW))
        return bg_err_set(err, -EINVAL, "--force goes with --rw");
    if (!grammar_split_path(args->operands[0], &name, &source.path))
        name = strdup(args->operands[0]);
    if (!name)
        return bg_err_errno(err, -ENOMEM, "mount");
    if (source.path[0] == '\0')
        source.path = "/";
    source.name = name;
    int r = check_guard(args, err);
    if (r == 0)
        r = check_target(args->operands[1], &dir, err);
    if (r < 0)
        return r;
    bool fixed = args_flag(args, OPTION_AN_IMAGE) || strchr(name, '@');
    return fixed ? mount_image(app, &source, args, dir, err)
                 : mount_sandbox(app, &source, args, dir, err);
}

static int run_mount(struct app *app, const struct args *args)
{
    struct bg_err err;
    if (args->operand_count == 0)
        return mounted_print(args_flag(args, OPTION_JSON));
    if (args->operand_count == 1) {
        (void)bg_err_set(&err, -EINVAL,
                         "give the folder to mount it on too: bellglass mount %s DIR",
                         args->operands[0]);
        return app_fail(&err);
    }
    return mount_one(app, args, &err) < 0 ? app_fail(&err) : 0;
}

/* The absolute form of a mount point, without touching what is mounted on it: a dead mount answers
 * nothing. Heap; NULL with errno. */
static char *mount_point_path(const char *dir)
{
    BG_AUTOFREE char *copy = strdup(dir);
    if (!copy)
        return NULL;
    size_t size = strlen(copy);
    while (size > 1 && copy[size - 1] == '/')
        copy[--size] = '\0';
    char *slash = strrchr(copy, '/');
    const char *last = slash ? slash + 1 : copy;
    if (strcmp(last, "") == 0 || strcmp(last, ".") == 0 || strcmp(last, "..") == 0)
        return realpath(copy, NULL); /* we stand in it, or it is the root */
    BG_AUTOFREE char *parent =
        slash ? realpath(slash == copy ? "/" : (*slash = '\0', copy), NULL) : realpath(".", NULL);
    char *path = NULL;
    if (!parent)
        return NULL;
    return asprintf(&path, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, last) < 0 ? NULL : path;
}

/* Whether the mount is that of a helper which writes to a stopped sandbox's disk; then *ret is that
 * sandbox, to be freed, and reason is what was noted about it before. */
static bool find_writer(struct app *app, const char *name, const char *id, struct bg_sandbox *ret,
                        char reason[BG_ERR_TEXT_SIZE])
{
    enum bg_sandbox_use use;
    enum bg_sandbox_state noted;
    struct bg_sandbox sandbox;
    if (app_paths(app, NULL) < 0 || bg_sandbox_load(&app->paths, name, &sandbox, NULL) < 0)
        return false; /* an image's, or the sandbox is gone */
    if (strcmp(sandbox.id, id) == 0 && bg_sandbox_use(&sandbox, &use, NULL) == 0 &&
        use == BG_SANDBOX_WRITTEN) {
        (void)bg_sandbox_noted(&sandbox, &noted, reason); /* "" if there is none */
        *ret = sandbox;
        return true;
    }
    bg_sandbox_done(&sandbox);
    return false;
}

/* After the unmount the helper writes back, looks the disk over and ends. A start right after that
 * shall find the disk free, and what went wrong is to be said. */
static int await_writer(const struct bg_sandbox *sandbox, const char *reason_before,
                        struct bg_err *err)
{
    char reason[BG_ERR_TEXT_SIZE], escaped[BG_ERR_TEXT_SIZE];
    enum bg_sandbox_state noted;
    int r = offline_await(sandbox, /* write= */ false, err);
    if (r < 0 && r != -EBUSY) /* busy: the next one has it already */
        return r;
    if (!bg_sandbox_noted(sandbox, &noted, reason) || strcmp(reason_before, reason) == 0)
        return 0;
    bg_escape(reason, strlen(reason), escaped, sizeof escaped);
    return bg_err_set(err, -EUCLEAN, "sandbox '%s', %s", sandbox->name, escaped);
}

static int unmount_one(struct app *app, const char *dir, struct bg_err *err)
{
    char quoted[512];
    struct mount_list mounts;
    bool busy = false;
    BG_AUTOFREE char *name = NULL;
    BG_AUTOFREE char *id = NULL;
    (void)bg_quote(dir, quoted, sizeof quoted);
    BG_AUTOFREE char *path = mount_point_path(dir);
    if (!path)
        return bg_err_errno(err, -errno, "%s", quoted);
    int r = mounts_read(&mounts, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < mounts.count && !name; i++)
        if (strcmp(mounts.entries[i].path, path) == 0) {
            name = strdup(mounts.entries[i].sandbox);
            id = strdup(mounts.entries[i].id);
        }
    mounts_done(&mounts);
    if (!name || !id)
        return bg_err_set(err, -EINVAL, "no sandbox is mounted on %s: see bellglass ls", quoted);
    struct bg_sandbox sandbox;
    char reason[BG_ERR_TEXT_SIZE];
    bool writer = find_writer(app, name, id, &sandbox, reason);
    r = mounts_unmount(path, &busy, err);
    if (r == 0 && busy)
        app_note("%s was in use: it is gone from there, and what had it open keeps it until it "
                 "closes it",
                 quoted);
    else if (r == 0 && writer)
        r = await_writer(&sandbox, reason, err);
    if (writer)
        bg_sandbox_done(&sandbox);
    return r;
}

static int run_umount(struct app *app, const struct args *args)
{
    struct bg_err err;
    int status = 0;
    for (size_t i = 0; i < args->operand_count; i++)
        if (unmount_one(app, args->operands[i], &err) < 0)
            status = app_fail(&err);
    return status;
}

const struct command cmd_mount = {
    .name = "mount",
    .summary = "mount a sandbox's files on a folder here",
    .forms = mount_forms,
    .options = mount_options,
    .details =
        "The whole of its files, or what is below PATH. The mount ends with `bellglass "
        "umount` or when the sandbox is stopped; after a crash it waits for its next start. "
        "Files in it belong to you; set-id bits and devices have no effect, and programs in "
        "it do not run here unless --exec is given.\n\n"
        "What the sandbox changes is seen at once, and makes file events for programs here that "
        "watch folders of the mount (editors, test runners); not on a read-only mount, and not "
        "for files that you may not write. `bellglass watch` has none of these limits.\n\n"
        "Symbolic links are followed by this machine, not by the sandbox. With "
        "--symlinks=inside those that stay in DIR work and others cannot be read; with "
        "=none all show their text and none is followed, which needs root. With =raw all "
        "are followed, ALSO TO YOUR OWN FILES: a program in the sandbox can then make your "
        "editor, shell or backup read and write any file that you can. Only for a sandbox "
        "that you trust as you trust yourself.\n\n"
        "Files that programs here run or believe (.envrc, editors' tasks, .npmrc, agents' "
        "instructions) are shown as they were written here or approved with `bellglass "
        "trust`, whatever the sandbox does with them; others are not there. git's "
        "configuration is shown without what could run something, and its hooks are not "
        "shown. `bellglass guard` lists them. With --guard=owner they are shown as "
        "somebody else's, so that git refuses them; with --guard=off as they are.\n\n"
        "A sandbox that does not run is mounted as it was left, through a virtual machine "
        "of its own, read-only: its disk is not changed. With --rw it can be changed; its "
        "file system is checked before and after. It does not start while it is mounted.\n\n"
        "Without NAME and DIR, what is mounted where is listed.",
    .examples = mount_examples,
    .operands_min = 0,
    .operands_max = 2,
    .run = run_mount,
};

const struct command cmd_umount = {
    .name = "umount",
    .summary = "unmount folders that have a sandbox mounted",
    .forms = umount_forms,
    .details =
        "Works on mounts whose sandbox is gone, and on busy ones: they vanish at once, and "
        "end when the last file in them is closed. One of a stopped sandbox that was mounted "
        "with --rw is over when all is written back.",
    .operands_min = 1,
    .operands_max = -1,
    .run = run_umount,
};
