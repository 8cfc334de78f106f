#include "host/supervisor/qemu.h"

#include <assert.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <linux/landlock.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/io.h"
#include "common/state/paths.h"
#include "host/supervisor/qemu_note.h"

#define ARGS_MAX (64 + 4 * QEMU_DISKS_MAX + BG_SANDBOX_VOLUMES_MAX * (2 * BG_VOLUME_LAYERS_MAX + 2))

/* ---- finding it ---- */

static char *search_path(const char *program)
{
    const char *path = getenv("PATH");
    BG_AUTOFREE char *copy = strdup(path ? path : "/usr/local/bin:/usr/bin:/bin");
    char *rest = copy;
    for (char *folder; copy && (folder = strsep(&rest, ":"));) {
        char *full;
        if (asprintf(&full, "%s/%s", folder, program) < 0)
            return NULL;
        if (access(full, X_OK) == 0)
            return full;
        free(full);
    }
    return NULL;
}

/* What `path --version` prints first. */
static int ask_version(const char *path, char *text, size_t size, struct bg_err *err)
{
    int pipe_fds[2];
    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "pipe");
    BG_AUTOCLOSE int in = pipe_fds[0];
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(pipe_fds[1], 1); /* without it the parent reads nothing and says so */
        (void)execl(path, path, "--version", (char *)NULL);
        _exit(127);
    }
    (void)close(pipe_fds[1]);
    if (pid < 0)
        return bg_err_errno(err, -errno, "fork");
    size_t used = 0;
    for (ssize_t n; used < size - 1 && (n = read(in, text + used, size - 1 - used)) > 0;)
        used += (size_t)n;
    text[used] = '\0';
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return 0;
}

int qemu_find(const char *note, struct qemu_program *ret, struct bg_err *err)
{
    const char *forced = getenv("BELLGLASS_QEMU");
    BG_AUTOFREE char *path = forced && *forced ? strdup(forced) : search_path("qemu-system-x86_64");
    if (!path || access(path, X_OK) < 0)
        return bg_err_set(err, -ENOENT,
                          "QEMU is not installed (no %s): apt-get install qemu-system-x86",
                          path ? path : "qemu-system-x86_64 on PATH");
    char text[QEMU_VERSION_TEXT_SIZE];
    bool noted = note && qemu_note_read(note, path, text);
    int r = noted ? 0 : ask_version(path, text, sizeof text, err);
    if (r < 0)
        return r;
    static const char prefix[] = "QEMU emulator version ";
    unsigned major = 0, minor = 0;
    if (strncmp(text, prefix, sizeof prefix - 1) != 0 ||
        sscanf(text + sizeof prefix - 1, "%u.%u", &major, &minor) != 2)
        return bg_err_set(err, -ENOTSUP, "%s: does not say its version; is it QEMU?", path);
    if (major < QEMU_MAJOR_MIN || (major == QEMU_MAJOR_MIN && minor < QEMU_MINOR_MIN))
        return bg_err_set(err, -ENOTSUP, "%s is version %u.%u: bellglass needs %d.%d or newer",
                          path, major, minor, QEMU_MAJOR_MIN, QEMU_MINOR_MIN);
    char *end = strchr(text, '\n');
    if (end)
        *end = '\0';
    if (note && !noted)
        qemu_note_write(note, path, text);
    (void)snprintf(ret->version, sizeof ret->version, "%.60s", text + sizeof prefix - 1);
    ret->path = BG_TAKE(path);
    return 0;
}

void qemu_program_done(struct qemu_program *program)
{
    free(program->path);
    *program = (struct qemu_program){0};
}

/* ---- the command line ---- */

struct args {
    char *argv[ARGS_MAX];
    size_t count;
    bool failed;
};

static void add(struct args *args, const char *format, ...) BG_PRINTF(2, 3);
static void add(struct args *args, const char *format, ...)
{
    va_list list;
    char *text = NULL;
    va_start(list, format);
    if (args->count >= ARGS_MAX - 1 || vasprintf(&text, format, list) < 0)
        args->failed = true;
    else
        args->argv[args->count++] = text;
    va_end(list);
}

static void args_done(struct args *args)
{
    for (size_t i = 0; i < args->count; i++)
        free(args->argv[i]);
}

/* The nodes of a disk, as one JSON text: names inside the files are never followed. first_set: the
 * number of its first set of fds. */
static void add_nodes(struct args *args, const char *name, const int *fds, size_t count,
                      size_t first_set)
{
    char text[QEMU_DISKS_MAX * 256] = "null";
    for (size_t i = count; i-- > 0;) {
        char outer[sizeof text];
        const char *read_only = i == 0 ? "false" : "true";
        add(args, "-add-fd");
        add(args, "fd=%d,set=%zu", fds[i], first_set + i);
        int n = snprintf(outer, sizeof outer,
                         "{\"driver\":\"qcow2\",\"node-name\":\"%s%zu\",\"read-only\":%s,"
                         "\"discard\":\"unmap\",\"file\":{\"driver\":\"file\",\"filename\":"
                         "\"/dev/fdset/%zu\",\"read-only\":%s,\"discard\":\"unmap\"},"
                         "\"backing\":%s}",
                         name, i, read_only, first_set + i, read_only, text);
        if (n < 0 || (size_t)n >= sizeof outer)
            args->failed = true;
        memcpy(text, outer, sizeof text);
    }
    add(args, "-blockdev");
    add(args, "%s", text);
}

static void add_disks(struct args *args, const struct qemu_opts *opts)
{
    add_nodes(args, QEMU_DISK_NODE, opts->disk_fds, opts->disk_count, /* first_set= */ 1);
    add(args, "-device");
    add(args, "virtio-blk-pci,drive=disk0,id=disk,addr=0x4,bootindex=1");
    if (opts->second_count > 0)
        add_nodes(args, "second", opts->second_fds, opts->second_count, opts->disk_count + 1);
    size_t sets = opts->disk_count + opts->second_count;
    for (size_t i = 0; i < opts->volume_count; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, QEMU_VOLUME_NODE, i);
        add_nodes(args, name, opts->volumes[i].fds, opts->volumes[i].count, sets + 1);
        sets += opts->volumes[i].count;
    }
}

void qemu_volume_serial(size_t index, char out[QEMU_SERIAL_SIZE])
{
    (void)snprintf(out, QEMU_SERIAL_SIZE, "bellglass-vol-%zu", index % 1000); /* fits */
}

static void build_args(struct args *args, const struct qemu_opts *opts)
{
    add(args, "%s", opts->path);
    add(args, "-name");
    add(args, "bellglass-%s,debug-threads=on", opts->name);
    add(args, "-nodefaults");
    add(args, "-no-user-config");
    add(args, "-display");
    add(args, "none");
    add(args, "-no-reboot");
    add(args, "-S");
    add(args, "-machine");
    add(args, "pc,memory-backend=ram,suppress-vmdesc=on,usb=off,vmport=off,hpet=off,"
              "mem-merge=off,dump-guest-core=off");
    add(args, "-global");
    add(args, "migration.send-configuration=off");
    add(args, "-accel");
    if (opts->accel == ACCEL_KVM) {
        add(args, "kvm");
        add(args, "-cpu");
        add(args, "host,migratable=on");
    } else {
        /* One thread per CPU; the translation cache is private memory of every fork. */
        add(args, "tcg,thread=multi,tb-size=64");
        add(args, "-cpu");
        /* With ERMS the guest's kernel copies by `rep movsb`, which TCG does byte by byte: a third
         * of the speed of every read, write and stream. */
        add(args, "max,-erms");
    }
    add(args, "-smp");
    add(args, "%u", opts->cpus);
    add(args, "-m");
    add(args, "%" PRIu64 "M", opts->memory_bytes >> 20);
    add(args, "-object");
    add(args,
        "memory-backend-file,id=ram,size=%" PRIu64 ",mem-path=/proc/self/fd/%d,share=%s,"
        "prealloc=off",
        opts->memory_bytes, opts->memory_fd, opts->memory_shared ? "on" : "off");
    add(args, "-rtc");
    add(args, "base=utc,clock=host");
    add(args, "-chardev");
    add(args, "socket,id=console,fd=%d", opts->console_fd);
    add(args, "-serial");
    add(args, "chardev:console");
    add(args, "-chardev");
    add(args, "socket,id=qmp,fd=%d", opts->qmp_fd);
    add(args, "-mon");
    add(args, "chardev=qmp,mode=control");
    add(args, "-chardev");
    add(args, "socket,id=vsock,fd=%d", opts->vsock_fd);
    add_disks(args, opts);
    if (opts->state_fd >= 0) {
        add(args, "-incoming");
        add(args, "fd:%d", opts->state_fd);
    } else {
        add(args, "-kernel");
        add(args, "/proc/self/fd/%d", opts->kernel_fd);
        add(args, "-initrd");
        add(args, "/proc/self/fd/%d", opts->initrd_fd);
        add(args, "-append");
        add(args, "%s", opts->cmdline);
    }
    add(args, "-sandbox");
    add(args, "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
}

/* The library that makes QEMU open a private memory file read-only and map the layers over it; NULL
 * where none is needed. */
static int preload_path(const struct qemu_opts *opts, char **ret, struct bg_err *err)
{
    if (opts->memory_shared)
        return 0;
    return bg_helper_path("libbellglass-qemu-memory.so", ret, err);
}

static void add_layers(struct args *env, const struct qemu_opts *opts)
{
    char text[BG_MEMORY_LAYERS_MAX * 12] = ""; /* a number and a colon each */
    size_t used = 0;
    for (size_t i = 0; i < opts->memory_layer_count; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%d", i > 0 ? ":" : "",
                                 opts->memory_layer_fds[i]);
    if (used > 0)
        add(env, "BELLGLASS_MEMORY_LAYERS=%s", text);
    if (opts->memory_base_none)
        add(env, "BELLGLASS_MEMORY_BASE=none");
}

/* QEMU gets no environment of ours but what it needs. */
static int build_env(struct args *env, const struct qemu_opts *opts, struct bg_err *err)
{
    BG_AUTOFREE char *library = NULL;
    int r = preload_path(opts, &library, err);
    if (r < 0)
        return r;
    add(env, "PATH=/usr/bin:/bin");
    if (library) {
        add(env, "LD_PRELOAD=%s", library);
        add(env, "BELLGLASS_MEMORY_PATH=/proc/self/fd/%d", opts->memory_fd);
        add_layers(env, opts);
    }
    return 0;
}

/* ---- files ---- */

static int landlock_allow(int ruleset, int fd, uint64_t access)
{
    struct landlock_path_beneath_attr rule = {.allowed_access = access, .parent_fd = fd};
    return (int)syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
}

int qemu_confine_files(const struct qemu_opts *opts, struct bg_err *err)
{
    const uint64_t read_only =
        LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_EXECUTE;
    const uint64_t on_files = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE;
    struct landlock_ruleset_attr attr = {
        .handled_access_fs = read_only | LANDLOCK_ACCESS_FS_WRITE_FILE |
                             LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                             LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR |
                             LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |
                             LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |
                             LANDLOCK_ACCESS_FS_MAKE_SYM};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return bg_err_errno(err, -errno, "no_new_privs");
    BG_AUTOCLOSE int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
    if (ruleset < 0)
        return errno == ENOSYS || errno == EOPNOTSUPP ? 0 : bg_err_errno(err, -errno, "Landlock");
    static const char *const readable[] = {
        "/usr",        "/lib", "/lib64", "/etc/ld.so.cache", "/proc", "/sys/devices/system",
        "/dev/urandom"};
    for (size_t i = 0; i < sizeof readable / sizeof readable[0]; i++) {
        BG_AUTOCLOSE int fd = open(readable[i], O_PATH | O_CLOEXEC);
        struct stat st;
        if (fd < 0 || fstat(fd, &st) < 0)
            continue; /* not on this system: nothing to allow */
        uint64_t access = S_ISDIR(st.st_mode) ? read_only : LANDLOCK_ACCESS_FS_READ_FILE;
        if (landlock_allow(ruleset, fd, access) < 0)
            return bg_err_errno(err, -errno, "Landlock");
    }
    const struct {
        int fd;
        uint64_t access;
    } given[] = {
        {opts->memory_fd, opts->memory_shared ? on_files : LANDLOCK_ACCESS_FS_READ_FILE},
        {opts->kernel_fd, LANDLOCK_ACCESS_FS_READ_FILE},
        {opts->initrd_fd, LANDLOCK_ACCESS_FS_READ_FILE},
    };
    for (size_t i = 0; i < sizeof given / sizeof given[0]; i++)
        /* EBADFD: a memfd, which has no place in a tree and needs no rule. */
        if (given[i].fd >= 0 && landlock_allow(ruleset, given[i].fd, given[i].access) < 0 &&
            errno != EBADFD)
            return bg_err_errno(err, -errno, "Landlock");
    for (size_t i = 0; i < opts->memory_layer_count; i++)
        if (landlock_allow(ruleset, opts->memory_layer_fds[i], LANDLOCK_ACCESS_FS_READ_FILE) < 0 &&
            errno != EBADFD)
            return bg_err_errno(err, -errno, "Landlock");
    BG_AUTOFREE char *library = NULL;
    int r = preload_path(opts, &library, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int library_fd = library ? open(library, O_PATH | O_CLOEXEC) : -1;
    if (library_fd >= 0 &&
        landlock_allow(ruleset, library_fd,
                       LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_EXECUTE) < 0)
        return bg_err_errno(err, -errno, "Landlock");
    /* QEMU tries its file locks on /dev/null. */
    static const char *const devices[] = {"/dev/null", "/dev/kvm"};
    for (size_t i = 0; i < (opts->accel == ACCEL_KVM ? 2u : 1u); i++) {
        BG_AUTOCLOSE int fd = open(devices[i], O_PATH | O_CLOEXEC);
        if (fd >= 0 && landlock_allow(ruleset, fd, on_files) < 0)
            return bg_err_errno(err, -errno, "Landlock");
    }
    if (syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
        return bg_err_errno(err, -errno, "Landlock");
    return 0;
}

/* ---- the child ---- */

/* Everything between fork and exec; only calls that are safe there. Returns negative errno. */
static int become_qemu(const struct qemu_opts *opts, pid_t parent, char **argv, char **env)
{
    const int kept[] = {opts->memory_fd, opts->state_fd,   opts->kernel_fd, opts->initrd_fd,
                        opts->qmp_fd,    opts->console_fd, opts->vsock_fd};
    /* Its death must not outlive ours, nor ours between fork and here go unseen. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
        return -ESRCH;
    if (setsid() < 0)
        return -errno;
    /* A network of its own with nothing in it. Where an unprivileged user may not have one, QEMU
     * still has no network device and no socket but ours. */
    bool root = geteuid() == 0;
    (void)unshare(root ? CLONE_NEWNET | CLONE_NEWIPC : CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC);
    if (root && (setgroups(0, NULL) < 0 || setresgid(opts->gid, opts->gid, opts->gid) < 0 ||
                 setresuid(opts->uid, opts->uid, opts->uid) < 0))
        return -errno;
    /* setresuid has cleared it. */
    if (root && prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return -errno;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    struct rlimit no_core = {0, 0};
    if (setrlimit(RLIMIT_CORE, &no_core) < 0)
        return -errno;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if ((null >= 0 && dup2(null, 0) < 0) || dup2(opts->log_fd, 1) < 0 || dup2(opts->log_fd, 2) < 0)
        return -errno;
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
        if (kept[i] >= 0 && fcntl(kept[i], F_SETFD, 0) < 0)
            return -errno;
    for (size_t i = 0; i < opts->disk_count; i++)
        if (fcntl(opts->disk_fds[i], F_SETFD, 0) < 0)
            return -errno;
    for (size_t i = 0; i < opts->second_count; i++)
        if (fcntl(opts->second_fds[i], F_SETFD, 0) < 0)
            return -errno;
    for (size_t i = 0; i < opts->volume_count; i++)
        for (size_t k = 0; k < opts->volumes[i].count; k++)
            if (fcntl(opts->volumes[i].fds[k], F_SETFD, 0) < 0)
                return -errno;
    for (size_t i = 0; i < opts->memory_layer_count; i++)
        if (fcntl(opts->memory_layer_fds[i], F_SETFD, 0) < 0)
            return -errno;
    sigset_t none;
    (void)sigemptyset(&none); /* cannot fail */
    if (sigprocmask(SIG_SETMASK, &none, NULL) < 0)
        return -errno;
    (void)signal(SIGPIPE, SIG_DFL); /* libuv users ignore it; exec keeps that */
    (void)execve(opts->path, argv, env);
    return -errno;
}

int qemu_start(const struct qemu_opts *opts, pid_t *ret_pid, struct bg_err *err)
{
    struct args args = {.count = 0}, env = {.count = 0};
    assert(opts->memory_layer_count <= BG_MEMORY_LAYERS_MAX);
    assert(!opts->memory_shared || (opts->memory_layer_count == 0 && !opts->memory_base_none));
    int r = build_env(&env, opts, err);
    build_args(&args, opts);
    if (r == 0 && (args.failed || env.failed))
        r = bg_err_errno(err, -ENOMEM, "QEMU's command line");
    int pipe_fds[2];
    if (r == 0 && pipe2(pipe_fds, O_CLOEXEC) < 0)
        r = bg_err_errno(err, -errno, "pipe");
    if (r < 0) {
        args_done(&args);
        args_done(&env);
        return r;
    }
    BG_AUTOCLOSE int in = pipe_fds[0];
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) {
        r = become_qemu(opts, parent, args.argv, env.argv);
        _exit(bg_write_full(pipe_fds[1], &r, sizeof r) < 0 ? 126 : 127);
    }
    int fork_errno = errno;
    (void)close(pipe_fds[1]);
    args_done(&args);
    args_done(&env);
    if (pid < 0)
        return bg_err_errno(err, -fork_errno, "fork");
    int child_error;
    r = bg_read_full(in, &child_error, sizeof child_error);
    if (r == 0) { /* a successful exec closes the pipe without a byte */
        int status;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        return bg_err_errno(err, child_error, "cannot start %s", opts->path);
    }
    *ret_pid = pid;
    return 0;
}
