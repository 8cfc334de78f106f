#include "host/cli/checks.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/landlock.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/quote.h"
#include "common/state/image.h"
#include "host/cli/leftovers.h"
#include "host/cli/output.h"
#include "host/cli/process.h"

#define PROGRAM_TIMEOUT_MS 60000        /* QEMU's first start from a cold disk */
#define SPACE_WARN_BYTES   (5ull << 30) /* an image, its snapshot, and some sandboxes */
#define SPACE_FAIL_BYTES   (512ull << 20)

void check_found(struct check_result *ret, enum check_level level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(ret->text, sizeof ret->text, format, args); /* cut is fine */
    va_end(args);
    ret->level = level;
}

void check_hint(struct check_result *ret, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(ret->hint, sizeof ret->hint, format, args); /* cut is fine */
    va_end(args);
}

static bool on_path(const char *program)
{
    BG_AUTOFREE char *path = process_find(program);
    return path != NULL;
}

static void check_folders(struct app *app, bool fix, struct check_result *ret)
{
    struct bg_err err;
    (void)fix;
    if (app_paths(app, &err) < 0) {
        check_found(ret, CHECK_FAIL, "%s", err.text);
        check_hint(ret, "set BELLGLASS_HOME to a folder that you can write");
    } else {
        check_found(ret, CHECK_OK, "data %s, state %s, sockets %s", app->paths.data,
                    app->paths.state, app->paths.runtime);
    }
}

static void check_programs(struct app *app, bool fix, struct check_result *ret)
{
    static const char *const programs[] = {
        "bellglass-supervisor", "bellglass-proxy",  "bellglass-mount",  "bellglass-agent",
        "bellglass-image",      "bellglass-secret", "bellglass-policy", "bellglass-copy",
        "bellglass-ca",         "bellglass-fs"};
    (void)app;
    (void)fix;
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        BG_AUTOFREE char *path = NULL;
        struct bg_err err;
        if (bg_helper_path(programs[i], &path, &err) < 0) {
            check_found(ret, CHECK_FAIL, "%s", err.text);
            return;
        }
    }
    check_found(ret, CHECK_OK, "all helper programs are there");
}

/* What the supervisor says it would use: it alone knows how to judge. The caller's; NULL with *ret
 * filled. */
static json_t *probe(struct check_result *ret)
{
    BG_AUTOFREE char *path = NULL;
    char output[4096], verb[] = "probe";
    struct bg_err err;
    int status = 0;
    int r = bg_helper_path("bellglass-supervisor", &path, &err);
    char *argv[] = {path, verb, NULL};
    if (r == 0)
        r = process_output(argv, output, sizeof output, PROGRAM_TIMEOUT_MS, &status, &err);
    json_t *json = r == 0 ? json_loads(output, JSON_REJECT_DUPLICATES, NULL) : NULL;
    if (r < 0)
        check_found(ret, CHECK_FAIL, "%s", err.text);
    else if (!json)
        check_found(ret, CHECK_FAIL, "bellglass-supervisor probe makes no sense (exit status %d)",
                    status);
    return json;
}

/* The string at json[key][name], escaped to out; "" if there is none. */
static const char *text_of(const json_t *json, const char *key, const char *name,
                           char out[BG_ERR_TEXT_SIZE])
{
    const char *text = json_string_value(json_object_get(json_object_get(json, key), name));
    bg_escape(text ? text : "", text ? strlen(text) : 0, out, BG_ERR_TEXT_SIZE / 2);
    return out;
}

static void check_qemu(struct app *app, bool fix, struct check_result *ret)
{
    json_auto_t *json = probe(ret);
    char text[BG_ERR_TEXT_SIZE], version[BG_ERR_TEXT_SIZE];
    (void)app;
    (void)fix;
    if (!json)
        return;
    if (text_of(json, "qemu", "error", text)[0] != '\0') {
        check_found(ret, CHECK_FAIL, "%s", text);
        return;
    }
    check_found(ret, CHECK_OK, "%s, version %s", text_of(json, "qemu", "path", text),
                text_of(json, "qemu", "version", version));
}

static void check_accel(struct app *app, bool fix, struct check_result *ret)
{
    json_auto_t *json = probe(ret);
    char name[BG_ERR_TEXT_SIZE], why[BG_ERR_TEXT_SIZE];
    (void)app;
    (void)fix;
    if (!json)
        return;
    if (text_of(json, "accel", "error", why)[0] != '\0') {
        check_found(ret, CHECK_FAIL, "%s", why);
        return;
    }
    bool kvm = strcmp(text_of(json, "accel", "name", name), "kvm") == 0;
    (void)text_of(json, "accel", "why", why);
    check_found(ret, kvm ? CHECK_OK : CHECK_WARN, "%s%s%s",
                kvm ? "KVM" : "no KVM, guests are emulated", why[0] ? ": " : "", why);
    if (!kvm)
        check_hint(
            ret, "all works, several times slower; KVM needs /dev/kvm and a user that may open it");
}

static void check_device(struct app *app, bool fix, struct check_result *ret)
{
    static const size_t size = 1 << 20;
    BG_AUTOFREE char *output = malloc(size);
    char fallback[] = "qemu-system-x86_64", option[] = "-device", what[] = "help";
    char *forced = getenv("BELLGLASS_QEMU");
    char *argv[] = {forced && *forced ? forced : fallback, option, what, NULL};
    struct bg_err err;
    int status = 0;
    (void)app;
    (void)fix;
    if (!output)
        check_found(ret, CHECK_FAIL, "out of memory");
    else if (process_output(argv, output, size, PROGRAM_TIMEOUT_MS, &status, &err) < 0)
        check_found(ret, CHECK_FAIL, "%s", err.text);
    else if (!strstr(output, "\"vhost-user-vsock-pci\""))
        check_found(ret, CHECK_FAIL, "QEMU has no vhost-user-vsock-pci");
    else
        check_found(ret, CHECK_OK, "vhost-user-vsock-pci");
    if (ret->level == CHECK_FAIL)
        check_hint(
            ret, "install Debian's package qemu-system-x86 (7.2 or later), or set BELLGLASS_QEMU");
}

static void check_fuse(struct app *app, bool fix, struct check_result *ret)
{
    (void)app;
    (void)fix;
    BG_AUTOCLOSE int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        check_found(ret, CHECK_WARN, "/dev/fuse: %s; bellglass mount will not work",
                    strerror(errno));
        check_hint(ret, "modprobe fuse; in a container, pass the device in");
    } else if (geteuid() != 0 && !on_path("fusermount3")) {
        check_found(ret, CHECK_WARN, "no fusermount3; bellglass mount will not work");
        check_hint(ret, "apt-get install fuse3");
    } else {
        check_found(ret, CHECK_OK, "/dev/fuse%s", geteuid() != 0 ? " and fusermount3" : "");
    }
}

static void check_ssh(struct app *app, bool fix, struct check_result *ret)
{
    (void)app;
    (void)fix;
    bool all = on_path("ssh") && on_path("ssh-keygen");
    check_found(ret, all ? CHECK_OK : CHECK_WARN, "%s",
                all ? "ssh and ssh-keygen" : "no ssh: bellglass ssh and code will not work");
    if (!all)
        check_hint(ret, "apt-get install openssh-client");
}

static void check_builder(struct app *app, bool fix, struct check_result *ret)
{
    static const char *const programs[] = {"mmdebstrap", "supermin", "qemu-img"};
    (void)app;
    (void)fix;
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++)
        if (!on_path(programs[i])) {
            check_found(ret, CHECK_WARN, "no %s: bellglass image build will not work", programs[i]);
            check_hint(ret, "apt-get install mmdebstrap libguestfs-dev supermin qemu-utils");
            return;
        }
    check_found(ret, CHECK_OK, "mmdebstrap, supermin and qemu-img");
}

static void check_images(struct app *app, bool fix, struct check_result *ret)
{
    struct bg_image *images = NULL;
    size_t count = 0, damaged = 0;
    struct bg_err err;
    (void)fix;
    if (app_paths(app, &err) < 0 || bg_image_list(&app->paths, &images, &count, &damaged, &err) < 0)
        check_found(ret, CHECK_FAIL, "%s", err.text);
    else
        check_found(ret, damaged > 0 || count == 0 ? CHECK_WARN : CHECK_OK, "%zu images%s", count,
                    damaged > 0 ? ", and damaged ones" : "");
    if (ret->level == CHECK_WARN && damaged > 0)
        check_hint(ret, "%zu damaged: see bellglass image ls", damaged);
    else if (ret->level == CHECK_WARN)
        check_hint(ret, "bellglass image build");
    bg_image_list_free(images, count);
}

static void check_space(struct app *app, bool fix, struct check_result *ret)
{
    struct bg_err err;
    struct statvfs vfs;
    (void)fix;
    if (app_paths(app, &err) < 0) {
        check_found(ret, CHECK_FAIL, "%s", err.text);
        return;
    }
    if (statvfs(app->paths.data, &vfs) < 0) {
        check_found(ret, CHECK_FAIL, "%s: %s", app->paths.data, strerror(errno));
        return;
    }
    uint64_t bytes = (uint64_t)vfs.f_bavail * vfs.f_frsize;
    char text[OUTPUT_SIZE_SIZE];
    output_size(bytes, text);
    check_found(ret,
                bytes < SPACE_FAIL_BYTES   ? CHECK_FAIL
                : bytes < SPACE_WARN_BYTES ? CHECK_WARN
                                           : CHECK_OK,
                "%s free in %s", text, app->paths.data);
    if (ret->level != CHECK_OK)
        check_hint(ret, "bellglass image rm, bellglass rm, or BELLGLASS_HOME on a larger disk");
}

static void check_reflinks(struct app *app, bool fix, struct check_result *ret)
{
    struct bg_err err;
    (void)fix;
    if (app_paths(app, &err) < 0) {
        check_found(ret, CHECK_FAIL, "%s", err.text);
        return;
    }
    BG_AUTOCLOSE int from = open(app->paths.data, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    BG_AUTOCLOSE int to = open(app->paths.data, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    bool works =
        from >= 0 && to >= 0 && bg_write_full(from, "x", 1) == 0 && ioctl(to, FICLONE, from) == 0;
    check_found(ret, CHECK_OK,
                works ? "the file system shares blocks between copies"
                      : "none (btrfs and XFS have them): copies take their full space");
}

/* True if a child of ours may make a user namespace. */
static bool user_namespaces(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(unshare(CLONE_NEWUSER) < 0);
    return pid > 0 && process_wait(pid) == 0;
}

static void check_confinement(struct app *app, bool fix, struct check_result *ret)
{
    (void)app;
    (void)fix;
    long landlock = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    bool namespaces = user_namespaces();
    if (landlock > 0 && namespaces) {
        check_found(ret, CHECK_OK, "Landlock version %ld, user namespaces", landlock);
        return;
    }
    check_found(ret, CHECK_WARN, "%s%s%s", landlock > 0 ? "" : "no Landlock",
                landlock > 0 || namespaces ? "" : ", ", namespaces ? "" : "no user namespaces");
    check_hint(ret,
               "sandboxes work; bellglass's own processes are confined less. Landlock: Linux 5.13 "
               "with lsm=landlock,...; namespaces: sysctl user.max_user_namespaces, "
               "kernel.unprivileged_userns_clone");
}

static void check_ptrace(struct app *app, bool fix, struct check_result *ret)
{
    BG_AUTOFREE char *text = NULL;
    uint64_t scope = 0;
    (void)app;
    (void)fix;
    if (bg_read_file(AT_FDCWD, "/proc/sys/kernel/yama/ptrace_scope", 64, &text, NULL, NULL) == 0) {
        text[strcspn(text, "\n")] = '\0';
        if (bg_parse_u64(text, 0, 3, &scope) < 0)
            scope = 3;
    }
    /* The device reads and writes guest memory by process_vm_readv; QEMU is its child. */
    bool ok = scope <= 1 || (scope == 2 && geteuid() == 0);
    check_found(ret, ok ? CHECK_OK : CHECK_FAIL, "kernel.yama.ptrace_scope is %d", (int)scope);
    if (!ok)
        check_hint(ret, "sysctl kernel.yama.ptrace_scope=1");
}

const struct check checks[] = {
    {"folders", check_folders},
    {"programs", check_programs},
    {"qemu", check_qemu},
    {"device", check_device},
    {"accelerator", check_accel},
    {"guest memory", check_ptrace},
    {"confinement", check_confinement},
    {"mount", check_fuse},
    {"ssh", check_ssh},
    {"image build", check_builder},
    {"images", check_images},
    {"disk space", check_space},
    {"reflinks", check_reflinks},
    {"mounts", leftovers_mounts},
    {"leftovers", leftovers_files},
    {"snapshots", leftovers_snapshots},
    {0},
};
