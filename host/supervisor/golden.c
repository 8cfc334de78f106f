#include "host/supervisor/golden.h"

#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/limits.h"
#include "common/sha256.h"
#include "host/supervisor/confine.h"
#include "host/supervisor/initrd.h"
#include "host/supervisor/vm.h"

#define FORMAT_VERSION 1
#define KEY_HEX_SIZE   33 /* 16 bytes and a NUL */

/* Those that a fork needs but a cold boot does not come last. */
static const char *const file_names[] = {"disk.qcow2", "initrd", "child.qcow2", "memory", "state"};
#define FILE_COUNT_COLD 3
#define FILE_COUNT      (sizeof file_names / sizeof file_names[0])

static void progress(const struct golden_opts *opts, const char *text)
{
    if (opts->on_progress)
        opts->on_progress(opts->owner, text);
}

uint64_t golden_ready_timeout_ms(enum accel accel)
{
    const char *text = getenv("BELLGLASS_READY_TIMEOUT_MS");
    uint64_t value;
    if (text && bg_parse_u64(text, 1, 24u * 3600 * 1000, &value) == 0)
        return value;
    return accel == ACCEL_KVM ? 60000 : 300000;
}

/* ---- key ---- */

/* KVM shows the guest this machine's CPU: a snapshot belongs to it. */
static void add_cpu_model(struct bg_sha256 *hash)
{
    BG_AUTOFREE char *text = NULL;
    size_t size;
    if (bg_read_file(AT_FDCWD, "/proc/cpuinfo", BG_MANIFEST_MAX * 16u, &text, &size, NULL) < 0)
        return;
    static const char *const fields[] = {"model name", "stepping", "microcode", "flags"};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        const char *line = strstr(text, fields[i]);
        if (line)
            bg_sha256_update(hash, line, strcspn(line, "\n"));
    }
}

void golden_cpu(enum accel accel, char ret[GOLDEN_CPU_SIZE])
{
    struct bg_sha256 hash;
    uint8_t digest[BG_SHA256_SIZE];
    ret[0] = '\0';
    if (accel != ACCEL_KVM)
        return;
    bg_sha256_init(&hash);
    add_cpu_model(&hash);
    bg_sha256_final(&hash, digest);
    bg_hex(digest, (GOLDEN_CPU_SIZE - 1) / 2, ret);
}

static int make_key(const struct golden_opts *opts, char key[KEY_HEX_SIZE], struct bg_err *err)
{
    struct stat agent;
    if (stat(opts->agent_path, &agent) < 0)
        return bg_err_errno(err, -errno, "agent %s", opts->agent_path);
    /* Size and time stand for the agent's content: reading it at every start would cost more than
     * the rest of the key. */
    BG_AUTOFREE char *text = NULL;
    int n = asprintf(&text, "%d\n%s\n%u\n%" PRIu64 "\n%s\n%s\n%s\n%lld %lld.%09ld\n%s\n",
                     FORMAT_VERSION, opts->image->digest, opts->cpus, opts->memory_bytes,
                     opts->qemu->path, opts->qemu->version, accel_name(opts->accel),
                     (long long)agent.st_size, (long long)agent.st_mtim.tv_sec,
                     agent.st_mtim.tv_nsec, opts->ca_pem);
    if (n < 0)
        return bg_err_errno(err, -ENOMEM, "golden snapshot");
    struct bg_sha256 hash;
    uint8_t digest[BG_SHA256_SIZE];
    bg_sha256_init(&hash);
    bg_sha256_update(&hash, text, (size_t)n);
    bg_sha256_update(&hash, GOLDEN_CMDLINE, sizeof GOLDEN_CMDLINE);
    if (opts->accel == ACCEL_KVM)
        add_cpu_model(&hash);
    bg_sha256_final(&hash, digest);
    bg_hex(digest, (KEY_HEX_SIZE - 1) / 2, key);
    return 0;
}

/* ---- opening and checking ---- */

void golden_done(struct golden *golden)
{
    const int fds[] = {golden->memory_fd, golden->state_fd,  golden->disk_fd, golden->base_fd,
                       golden->kernel_fd, golden->initrd_fd, golden->child_fd};
    for (size_t i = 0; golden->dir && i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0)
            (void)close(fds[i]); /* read only, or synced before */
    free(golden->dir);
    *golden = (struct golden){0};
}

/* Each file must be as it was when the snapshot was closed: size and modification time; the state,
 * being small, by its hash too. */
static int check_files(const json_t *manifest, int dir_fd, size_t count, struct bg_err *err)
{
    const json_t *files = json_object_get(manifest, "files");
    for (size_t i = 0; i < count; i++) {
        const json_t *file = json_object_get(files, file_names[i]);
        struct stat st;
        if (fstatat(dir_fd, file_names[i], &st, AT_SYMLINK_NOFOLLOW) < 0)
            return bg_err_errno(err, -EUCLEAN, "%s is missing", file_names[i]);
        json_int_t time_ns = (json_int_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
        if (!S_ISREG(st.st_mode) ||
            json_integer_value(json_object_get(file, "size")) != (json_int_t)st.st_size ||
            json_integer_value(json_object_get(file, "mtime_ns")) != time_ns)
            return bg_err_set(err, -EUCLEAN, "%s was changed after the snapshot was made",
                              file_names[i]);
    }
    return 0;
}

static int open_below(int dir_fd, const char *name, int flags, int *ret_fd, struct bg_err *err)
{
    *ret_fd = openat(dir_fd, name, flags | O_CLOEXEC | O_NOFOLLOW);
    return *ret_fd < 0 ? bg_err_errno(err, -errno, "%s", name) : 0;
}

static int open_golden(const struct bg_paths *paths, const struct bg_image *image, const char *name,
                       bool cold, struct golden *ret, struct bg_err *err)
{
    struct golden g = {.memory_fd = -1,
                       .state_fd = -1,
                       .disk_fd = -1,
                       .base_fd = -1,
                       .kernel_fd = -1,
                       .initrd_fd = -1,
                       .child_fd = -1};
    BG_AUTOFREE char *text = NULL;
    size_t size;
    if (asprintf(&g.dir, "%s/snapshots/%s", paths->data, name) < 0)
        return bg_err_errno(err, -ENOMEM, "golden snapshot");
    BG_AUTOCLOSE int dir_fd = open(g.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0) {
        int r = bg_err_errno(err, -errno, "snapshot %s", g.dir);
        free(g.dir);
        return r;
    }
    int r = bg_read_file(dir_fd, "manifest.json", BG_MANIFEST_MAX, &text, &size, err);
    json_error_t where;
    json_t *manifest = r < 0 ? NULL : json_loadb(text, size, 0, &where);
    if (r == 0 && !json_is_object(manifest))
        r = bg_err_set(err, -EUCLEAN, "manifest.json: %s", where.text);
    if (r == 0 && json_integer_value(json_object_get(manifest, "version")) != FORMAT_VERSION)
        r = bg_err_set(err, -EUCLEAN, "manifest.json: not version %d", FORMAT_VERSION);
    if (r == 0)
        r = check_files(manifest, dir_fd, cold ? FILE_COUNT_COLD : FILE_COUNT, err);
    BG_AUTOCLOSE int image_dir = r < 0 ? -1 : open(image->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r == 0 && image_dir < 0)
        r = bg_err_errno(err, -errno, "image %s", image->dir);
    if (r == 0)
        r = open_below(dir_fd, "disk.qcow2", O_RDONLY, &g.disk_fd, err);
    if (r == 0 && !cold)
        r = open_below(dir_fd, "memory", O_RDONLY, &g.memory_fd, err);
    if (r == 0 && !cold)
        r = open_below(dir_fd, "state", O_RDONLY, &g.state_fd, err);
    if (r == 0)
        r = open_below(dir_fd, "child.qcow2", O_RDONLY, &g.child_fd, err);
    if (r == 0)
        r = open_below(dir_fd, "initrd", O_RDONLY, &g.initrd_fd, err);
    if (r == 0)
        r = open_below(image_dir, BG_IMAGE_DISK, O_RDONLY, &g.base_fd, err);
    if (r == 0)
        r = open_below(image_dir, BG_IMAGE_KERNEL, O_RDONLY, &g.kernel_fd, err);
    char hash[BG_SHA256_SIZE * 2 + 1];
    if (r == 0 && !cold)
        r = bg_sha256_file(dir_fd, "state", hash, NULL, err);
    const char *want = json_string_value(
        json_object_get(json_object_get(json_object_get(manifest, "files"), "state"), "sha256"));
    if (r == 0 && !cold && (!want || strcmp(want, hash) != 0))
        r = bg_err_set(err, -EUCLEAN, "state: checksum is not the one in manifest.json");
    json_decref(manifest);
    if (r < 0) {
        (void)bg_err_prefix(err, "snapshot %s", name);
        golden_done(&g);
        return r;
    }
    *ret = g;
    return 0;
}

int golden_open_disk(const struct bg_paths *paths, const struct bg_image *image, const char *name,
                     struct golden *ret, struct bg_err *err)
{
    return open_golden(paths, image, name, /* cold= */ true, ret, err);
}

int golden_open(const struct bg_paths *paths, const struct bg_image *image, const char *name,
                struct golden *ret, struct bg_err *err)
{
    return open_golden(paths, image, name, /* cold= */ false, ret, err);
}

/* ---- making ---- */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)ftw;
    (void)(type == FTW_DP ? rmdir(path) : unlink(path)); /* what stays is removed next time */
    return 0;
}

static void remove_folder(const char *path)
{
    (void)nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS); /* as remove_entry */
}

/* Runs qemu-img to make an empty overlay on base. */
static int make_overlay(const char *path, const char *base, struct bg_err *err)
{
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* at worst it ends by itself */
        (void)execlp("qemu-img", "qemu-img", "create", "-q", "-f", "qcow2", "-o",
                     "lazy_refcounts=off", "-F", "qcow2", "-b", base, path, (char *)NULL);
        _exit(127);
    }
    if (pid < 0)
        return bg_err_errno(err, -errno, "fork");
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return bg_err_set(err, -ENOENT, "qemu-img is not installed: apt-get install qemu-utils");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return bg_err_set(err, -EIO, "qemu-img could not make %s", path);
    return 0;
}

struct maker {
    struct vm *vm;
    int state_fd;
    struct bg_err why, failure;
    bool saved, ended;
};

static void booted(void *owner, const struct vm_timings *timings)
{
    struct maker *maker = owner;
    (void)timings;
    const struct vm_snapshot_opts opts = {
        .state_fd = maker->state_fd, .memory_fd = -1, .overlay_fd = -1};
    vm_snapshot(maker->vm, &opts); /* RAM and disk are files that QEMU writes itself */
}

static void refuse(void *owner, struct vsock_conn *conn, uint32_t host_port)
{
    (void)owner;
    (void)host_port;
    vsock_reset(conn); /* nothing in a golden snapshot has business outside */
}

static void saved(void *owner, const struct bg_err *why, const struct vm_snapshot_result *result)
{
    struct maker *maker = owner;
    (void)result;
    maker->failure = *why;
    maker->saved = why->code == 0;
    vm_quit(maker->vm);
}

static void ended(void *owner, const struct bg_err *why)
{
    struct maker *maker = owner;
    maker->why = maker->failure.code < 0 ? maker->failure : *why;
    maker->ended = true;
}

/* The child that holds the VM: it reads what the guest says, so it keeps no rights. Writes its
 * struct bg_err to result_fd. */
static void run_maker(const struct golden_opts *opts, const struct golden *files, int log_fd,
                      int result_fd)
{
    struct maker maker = {.state_fd = files->state_fd};
    struct bg_log log = {.fd = log_fd, .level = BG_LOG_DEBUG, .tag = "golden"};
    unsigned uid, gid;
    uv_loop_t loop;
    bg_runner_ids(&uid, &gid);
    struct vm_opts vm = {
        .qemu = {.path = opts->qemu->path,
                 .name = "golden",
                 .accel = opts->accel,
                 .cpus = opts->cpus,
                 .memory_bytes = opts->memory_bytes,
                 .memory_fd = files->memory_fd,
                 .memory_shared = true,
                 .state_fd = -1,
                 .kernel_fd = files->kernel_fd,
                 .initrd_fd = files->initrd_fd,
                 .cmdline = GOLDEN_CMDLINE,
                 .disk_fds = {files->disk_fd, files->base_fd},
                 .disk_count = 2,
                 .log_fd = log_fd,
                 .uid = uid,
                 .gid = gid},
        .identity = {.flags = BG_IDENTITY_GOLDEN,
                     .hostname = "golden",
                     .sandbox_id = "golden",
                     .ca_pem = (const uint8_t *)opts->ca_pem,
                     .ca_pem_size = strlen(opts->ca_pem)},
        .log = &log,
        .console_fd = log_fd,
        .ready_timeout_ms = golden_ready_timeout_ms(opts->accel),
        .silence_timeout_ms = golden_ready_timeout_ms(opts->accel),
        .on_ready = booted,
        .on_request = refuse,
        .on_snapshot = saved,
        .on_ended = ended,
        .owner = &maker,
    };
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* the parent also waits for us */
    bg_random(vm.identity.machine_id, sizeof vm.identity.machine_id);
    (void)signal(SIGPIPE, SIG_IGN); /* cannot fail */
    int r = 0;
    /* Root stays until QEMU has been started as the runner: qemu_start changes its ids itself. */
    r = qemu_confine_files(&vm.qemu, &maker.why);
    if (r == 0 && uv_loop_init(&loop) < 0)
        r = bg_err_set(&maker.why, -ENOMEM, "event loop");
    if (r == 0)
        r = vm_open(&loop, &vm, &maker.vm, &maker.why);
    if (r == 0)
        r = confine_drop_root(uid, gid, &maker.why);
    if (r == 0)
        r = confine_supervisor(vm_qemu_pid(maker.vm), &maker.why);
    while (r == 0 && !maker.ended)
        (void)uv_run(&loop, UV_RUN_ONCE); /* ends by maker.ended, which vm promises */
    if (r == 0 && maker.why.code == 0 && !maker.saved)
        (void)bg_err_set(&maker.why, -EIO, "the guest ended before its snapshot was taken");
    r = bg_write_full(result_fd, &maker.why, sizeof maker.why);
    _exit(r < 0);
}

/* Waits for the child's word on in, or for a signal that tells us to stop: then the child is
 * killed, so that what it was making can be removed. */
static int wait_for_maker(pid_t pid, int in, int signal_fd, struct bg_err *why)
{
    struct pollfd fds[] = {{.fd = in, .events = POLLIN}, {.fd = signal_fd, .events = POLLIN}};
    while (poll(fds, 2, -1) < 0)
        ; /* EINTR; nothing else can be */
    if (fds[0].revents == 0) {
        struct signalfd_siginfo info;
        (void)!read(signal_fd, &info,
                    sizeof info); /* taken: it shall not end us before the removal */
        (void)kill(pid, SIGKILL); /* our child, not reaped */
        return bg_err_set(why, -EINTR, "interrupted");
    }
    return bg_read_full(in, why, sizeof *why);
}

/* Makes the maker's child and takes its word. */
static int run_vm(const struct golden_opts *opts, const struct golden *files, const char *log_path,
                  struct bg_err *err)
{
    int pipe_fds[2];
    BG_AUTOCLOSE int log_fd =
        open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
    if (log_fd < 0)
        return bg_err_errno(err, -errno, "%s", log_path);
    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "pipe");
    BG_AUTOCLOSE int in = pipe_fds[0];
    sigset_t stops, before;
    static const int stopping[] = {SIGINT, SIGTERM, SIGHUP};
    (void)sigemptyset(&stops); /* cannot fail, nor the others with these */
    for (size_t i = 0; i < sizeof stopping / sizeof stopping[0]; i++)
        (void)sigaddset(&stops, stopping[i]);
    (void)sigprocmask(SIG_BLOCK, &stops, &before);
    BG_AUTOCLOSE int signal_fd = signalfd(-1, &stops, SFD_CLOEXEC);
    pid_t pid = signal_fd < 0 ? -1 : fork();
    if (pid == 0) {
        (void)sigprocmask(SIG_SETMASK, &before, NULL);
        run_maker(opts, files, log_fd, pipe_fds[1]);
    }
    int fork_errno = errno;
    (void)close(pipe_fds[1]);
    struct bg_err why = {0};
    int status, r = 0;
    if (pid > 0) {
        r = wait_for_maker(pid, in, signal_fd, &why);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
    }
    (void)sigprocmask(SIG_SETMASK, &before, NULL); /* what is pending has its effect in main */
    if (pid < 0)
        return bg_err_errno(err, -fork_errno, "fork");
    if (r < 0 && r != -EINTR)
        return bg_err_set(err, -EIO, "the process that made it died (status 0x%x)", status);
    why.text[sizeof why.text - 1] = '\0';
    return why.code < 0 ? bg_err_set(err, why.code, "%s", why.text) : 0;
}

static int note_file(json_t *files, int dir_fd, const char *name, struct bg_err *err)
{
    struct stat st;
    BG_AUTOCLOSE int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    /* Readable by the unprivileged QEMU; written by nobody from here on, nor owned by who might. */
    if (fd < 0 || (geteuid() == 0 && fchown(fd, 0, 0) < 0) || fchmod(fd, 0444) < 0 ||
        fsync(fd) < 0 || fstat(fd, &st) < 0)
        return bg_err_errno(err, -errno, "%s", name);
    json_t *file = json_pack("{s:I, s:I}", "size", (json_int_t)st.st_size, "mtime_ns",
                             (json_int_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec);
    if (strcmp(name, "state") == 0) {
        char hash[BG_SHA256_SIZE * 2 + 1];
        int r = bg_sha256_file(dir_fd, name, hash, NULL, err);
        if (r < 0) {
            json_decref(file);
            return r;
        }
        (void)json_object_set_new(file, "sha256", json_string(hash)); /* checked below */
    }
    return json_object_set_new(files, name, file) < 0 ? bg_err_errno(err, -ENOMEM, "manifest.json")
                                                      : 0;
}

static int write_manifest(const struct golden_opts *opts, int dir_fd, struct bg_err *err)
{
    json_t *files = json_object();
    int r = 0;
    for (size_t i = 0; i < FILE_COUNT && r == 0; i++)
        r = note_file(files, dir_fd, file_names[i], err);
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail with this clock */
    json_t *manifest =
        json_pack("{s:i, s:I, s:{s:s, s:i, s:I, s:s, s:s}, s:o}", "version", FORMAT_VERSION,
                  "created_ms", (json_int_t)now.tv_sec * 1000, "key", "image", opts->image->digest,
                  "cpus", (int)opts->cpus, "memory_bytes", (json_int_t)opts->memory_bytes, "qemu",
                  opts->qemu->version, "accel", accel_name(opts->accel), "files", files);
    BG_AUTOFREE char *text = manifest ? json_dumps(manifest, JSON_INDENT(2)) : NULL;
    json_decref(manifest);
    if (r == 0 && !text)
        r = bg_err_errno(err, -ENOMEM, "manifest.json");
    if (r == 0)
        r = bg_write_file(dir_fd, "manifest.json", text, strlen(text), 0644, err);
    return r;
}

static int create_files(const struct golden_opts *opts, const char *dir, struct golden *files,
                        struct bg_err *err)
{
    unsigned uid, gid;
    BG_AUTOFREE char *disk = NULL, *base = NULL, *modules = NULL, *kernel = NULL;
    if (asprintf(&disk, "%s/disk.qcow2", dir) < 0 ||
        asprintf(&base, "%s/" BG_IMAGE_DISK, opts->image->dir) < 0 ||
        asprintf(&modules, "%s/" BG_IMAGE_MODULES, opts->image->dir) < 0 ||
        asprintf(&kernel, "%s/" BG_IMAGE_KERNEL, opts->image->dir) < 0)
        return bg_err_errno(err, -ENOMEM, "golden snapshot");
    BG_AUTOCLOSE int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return bg_err_errno(err, -errno, "%s", dir);
    const int flags = O_RDWR | O_CREAT | O_EXCL;
    files->memory_fd = openat(dir_fd, "memory", flags | O_CLOEXEC, 0600);
    /* QEMU looks for an fd whose access mode is just what it wants. */
    files->state_fd = openat(dir_fd, "state", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    files->initrd_fd = openat(dir_fd, "initrd", flags | O_CLOEXEC, 0644);
    files->kernel_fd = open(kernel, O_RDONLY | O_CLOEXEC);
    files->base_fd = open(base, O_RDONLY | O_CLOEXEC);
    if (files->memory_fd < 0 || files->state_fd < 0 || files->initrd_fd < 0 ||
        files->kernel_fd < 0 || files->base_fd < 0)
        return bg_err_errno(err, -errno, "files of image %s", opts->image->digest);
    if (ftruncate(files->memory_fd, (off_t)opts->memory_bytes) < 0)
        return bg_err_errno(err, -errno, "%s/memory", dir);
    int r = initrd_write(modules, opts->agent_path, files->initrd_fd, err);
    if (r == 0)
        r = make_overlay(disk, base, err);
    if (r < 0)
        return r;
    files->disk_fd = open(disk, O_RDWR | O_CLOEXEC);
    if (files->disk_fd < 0)
        return bg_err_errno(err, -errno, "%s", disk);
    bg_runner_ids(&uid, &gid);
    if (geteuid() == 0 && fchown(files->memory_fd, uid, gid) < 0)
        return bg_err_errno(err, -errno, "%s/memory", dir);
    return 0;
}

static int check_space(const struct golden_opts *opts, struct bg_err *err)
{
    struct statvfs fs;
    /* What a boot leaves in RAM and on the overlay is far below the RAM's size; more is not worth
     * refusing for. */
    uint64_t want = opts->memory_bytes / 2 + (64u << 20);
    if (statvfs(opts->paths->data, &fs) < 0)
        return bg_err_errno(err, -errno, "%s", opts->paths->data);
    uint64_t have = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (have < want)
        return bg_err_set(err, -ENOSPC,
                          "%s has %" PRIu64 " MiB free, a snapshot of a %" PRIu64
                          " MiB guest may need %" PRIu64 ": free space or set BELLGLASS_HOME",
                          opts->paths->data, have >> 20, opts->memory_bytes >> 20, want >> 20);
    return 0;
}

/* Makes the snapshot in temp, then gives it its name and points link to it. */
static int make_in(const struct golden_opts *opts, const char *temp, const char *final,
                   const char *link, struct bg_err *err)
{
    struct golden files = {.memory_fd = -1,
                           .state_fd = -1,
                           .disk_fd = -1,
                           .base_fd = -1,
                           .kernel_fd = -1,
                           .initrd_fd = -1,
                           .child_fd = -1};
    BG_AUTOFREE char *log_path = NULL, *child = NULL, *disk = NULL, *new_link = NULL;
    files.dir = strdup(temp);
    if (!files.dir || asprintf(&log_path, "%s/boot.log", temp) < 0 ||
        asprintf(&child, "%s/child.qcow2", temp) < 0 ||
        asprintf(&disk, "%s/disk.qcow2", final) < 0 || asprintf(&new_link, "%s.new", link) < 0) {
        golden_done(&files);
        return bg_err_errno(err, -ENOMEM, "golden snapshot");
    }
    int r = create_files(opts, temp, &files, err);
    if (r == 0)
        r = run_vm(opts, &files, log_path, err);
    golden_done(&files);
    if (r < 0) {
        /* The log of a failed boot is what a person needs; keep the latest beside the snapshots. */
        BG_AUTOFREE char *kept = NULL;
        if (r != -EINTR &&
            asprintf(&kept, "%s/snapshots/failed-boot.log", opts->paths->data) >= 0 &&
            rename(log_path, kept) == 0)
            (void)bg_err_prefix(err, "cold boot failed (log: %s)", kept);
        return r;
    }
    if (rename(temp, final) < 0)
        return bg_err_errno(err, -errno, "%s", final);
    /* qemu-img looks at the backing file, so this waits until it has its final name. */
    free(child);
    child = NULL;
    if (asprintf(&child, "%s/child.qcow2", final) < 0)
        return bg_err_errno(err, -ENOMEM, "golden snapshot");
    r = make_overlay(child, disk, err);
    BG_AUTOCLOSE int dir_fd = open(final, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r == 0 && dir_fd < 0)
        r = bg_err_errno(err, -errno, "%s", final);
    if (r == 0)
        r = write_manifest(opts, dir_fd, err);
    if (r == 0 && geteuid() == 0 && chmod(final, 0755) < 0)
        r = bg_err_errno(err, -errno, "%s", final);
    (void)unlink(new_link); /* of a maker that died here; the lock is ours */
    if (r == 0 && (symlink(strrchr(final, '/') + 1, new_link) < 0 || rename(new_link, link) < 0))
        r = bg_err_errno(err, -errno, "%s", link);
    if (r < 0)
        remove_folder(final);
    return r;
}

static int make(const struct golden_opts *opts, const char *key, const char *link,
                struct bg_err *err)
{
    uint32_t tag;
    bg_random(&tag, sizeof tag);
    BG_AUTOFREE char *temp = NULL, *final = NULL;
    if (asprintf(&temp, "%s/snapshots/.tmp-%s", opts->paths->data, key) < 0 ||
        asprintf(&final, "%s.%08x", link, tag) < 0)
        return bg_err_errno(err, -ENOMEM, "golden snapshot");
    remove_folder(temp); /* of a maker that died: the lock is ours */
    int r = check_space(opts, err);
    if (r < 0)
        return r;
    if (mkdir(temp, 0700) < 0)
        return bg_err_errno(err, -errno, "%s", temp);
    r = make_in(opts, temp, final, link, err);
    remove_folder(temp);
    return r;
}

int golden_get(const struct golden_opts *opts, struct golden *ret, struct bg_err *err)
{
    char key[KEY_HEX_SIZE], name[128];
    BG_AUTOFREE char *folder = NULL, *link = NULL, *lock = NULL;
    int r = make_key(opts, key, err);
    if (r < 0)
        return r;
    if (asprintf(&folder, "%s/snapshots", opts->paths->data) < 0 ||
        asprintf(&link, "%s/golden-%s", folder, key) < 0 ||
        asprintf(&lock, "%s/.lock-%s", folder, key) < 0)
        return bg_err_errno(err, -ENOMEM, "golden snapshot");
    BG_AUTOCLOSE int lock_fd = -1;
    for (int round = 0;; round++) {
        ssize_t n = readlink(link, name, sizeof name - 1);
        if (n > 0) {
            name[n] = '\0';
            r = open_golden(opts->paths, opts->image, name, /* cold= */ false, ret, err);
            if (r == 0)
                return 0;
        }
        if (lock_fd >= 0)
            break;
        if (mkdir(folder, geteuid() == 0 ? 0711 : 0700) < 0 && errno != EEXIST)
            return bg_err_errno(err, -errno, "%s", folder);
        lock_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (lock_fd < 0)
            return bg_err_errno(err, -errno, "%s", lock);
        if (flock(lock_fd, LOCK_EX | LOCK_NB) < 0) {
            progress(opts, "another command is making the golden snapshot, waiting for it");
            while (flock(lock_fd, LOCK_EX) < 0)
                if (errno != EINTR)
                    return bg_err_errno(err, -errno, "%s", lock);
        }
    }
    char text[256];
    if (r < 0) {
        (void)snprintf(text, sizeof text, "%.200s: making it anew", err->text);
        progress(opts, text);
    }
    (void)snprintf(text, sizeof text,
                   "first use of %.40s with %u cpu and %" PRIu64
                   " MiB: booting it once to make its golden snapshot",
                   opts->image->name[0] ? opts->image->name : opts->image->digest, opts->cpus,
                   opts->memory_bytes >> 20);
    progress(opts, text);
    r = make(opts, key, link, err);
    if (r < 0)
        return bg_err_prefix(err, "golden snapshot of image %.12s", opts->image->digest);
    ssize_t n = readlink(link, name, sizeof name - 1);
    if (n <= 0)
        return bg_err_errno(err, n < 0 ? -errno : -EIO, "%s", link);
    name[n] = '\0';
    return open_golden(opts->paths, opts->image, name, /* cold= */ false, ret, err);
}
