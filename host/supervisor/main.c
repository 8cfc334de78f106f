/* bellglass-supervisor: started by the bellglass command, see docs/protocol.md "Supervisor start".
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/state/image.h"
#include "host/supervisor/accel.h"
#include "host/supervisor/helper.h"
#include "host/supervisor/launcher.h"
#include "host/supervisor/qemu.h"

#define EXIT_OURS 125 /* our own failure, as opposed to a command's */

static const char usage[] =
    "usage: bellglass-supervisor run NAME [--cold] [--status-fd N] [--owner-fd M]\n"
    "       bellglass-supervisor files sandbox NAME read|write|repair --owner-fd M\n"
    "       bellglass-supervisor files snapshot|image NAME read --owner-fd M\n"
    "       bellglass-supervisor golden IMAGE CPUS MEMORY_BYTES [--status-fd N]\n"
    "       bellglass-supervisor member IMAGE CPUS MEMORY_BYTES --owner-fd M [--status-fd N]\n"
    "       bellglass-supervisor probe\n"
    "Started by the bellglass command; docs/protocol.md describes it.\n";

struct request {
    const char *args[4];
    size_t arg_count;
    int status_fd, owner_fd;
    bool cold;
};

static int parse(int argc, char **argv, struct request *ret)
{
    *ret = (struct request){.status_fd = -1, .owner_fd = -1};
    for (int i = 1; i < argc; i++) {
        int r = 0;
        if (strcmp(argv[i], "--status-fd") == 0)
            r = bg_parse_fd(argv[++i], &ret->status_fd);
        else if (strcmp(argv[i], "--owner-fd") == 0)
            r = bg_parse_fd(argv[++i], &ret->owner_fd);
        else if (strcmp(argv[i], "--cold") == 0)
            ret->cold = true;
        else if (ret->arg_count < 4)
            ret->args[ret->arg_count++] = argv[i];
        else
            r = -EINVAL;
        if (r < 0)
            return r;
    }
    return ret->arg_count > 0 ? 0 : -EINVAL;
}

static int run(const struct bg_paths *paths, const struct request *request, struct report *report,
               struct bg_err *err)
{
    struct bg_sandbox sandbox = {0};
    int r = bg_sandbox_load(paths, request->args[1], &sandbox, err);
    if (r < 0)
        return r;
    int lock_fd = -1;
    r = bg_sandbox_lock(&sandbox, &lock_fd, err);
    BG_AUTOCLOSE int lock = lock_fd;
    if (r == 0) {
        const struct launcher_opts opts = {.paths = paths,
                                           .sandbox = &sandbox,
                                           .lock_fd = lock,
                                           .owner_fd = request->owner_fd,
                                           .cold = request->cold,
                                           .report = report};
        r = launcher_run(&opts, err);
    }
    (void)(r < 0 ? bg_err_prefix(err, "sandbox '%s'", request->args[1]) : 0);
    bg_sandbox_done(&sandbox);
    return r;
}

static int parse_sizes(const struct request *request, unsigned *ret_cpus, uint64_t *ret_memory,
                       struct bg_err *err)
{
    uint64_t cpus, memory;
    if (bg_parse_u64(request->args[2], 1, 64, &cpus) < 0 ||
        bg_parse_bytes(request->args[3], 64u << 20, 1ull << 40, &memory) < 0)
        return bg_err_set(err, -EINVAL, "%s: bad number of cpus or memory", request->args[0]);
    *ret_cpus = (unsigned)cpus;
    *ret_memory = memory;
    return 0;
}

/* Told to end, it ends at once until now. From now on there is a folder, which would stay: it goes
 * with the background process, which sees its owner's end. */
static int hold_signals(struct bg_err *err)
{
    sigset_t set;
    (void)sigemptyset(&set); /* cannot fail, nor sigaddset with these */
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    return sigprocmask(SIG_BLOCK, &set, NULL) < 0 ? bg_err_errno(err, -errno, "signals") : 0;
}

/* A sandbox that waits to be claimed. */
static int run_member(const struct bg_paths *paths, const struct request *request,
                      struct report *report, struct bg_err *err)
{
    struct bg_sandbox member = {.ephemeral = true};
    bool tagged;
    char digest[65];
    int lock_fd = -1;
    if (request->owner_fd < 0)
        return bg_err_set(err, -EINVAL, "member: want its owner");
    int r = parse_sizes(request, &member.cpus, &member.memory_bytes, err);
    if (r == 0)
        r = bg_image_resolve(paths, request->args[1], digest, &tagged, err);
    if (r == 0 && (!(member.image_name = strdup(request->args[1])) ||
                   !(member.image_digest = strdup(digest))))
        r = bg_err_errno(err, -ENOMEM, "member");
    /* It may take long, and may be told to end: before there is a folder. */
    if (r == 0)
        r = launcher_golden(paths, digest, member.cpus, member.memory_bytes, report, err);
    if (r == 0)
        r = hold_signals(err);
    if (r == 0)
        r = bg_sandbox_create_member(paths, &member, err);
    bool made = r == 0;
    if (r == 0)
        r = bg_sandbox_lock(&member, &lock_fd, err);
    BG_AUTOCLOSE int lock = lock_fd;
    if (r == 0) {
        const struct launcher_opts opts = {.paths = paths,
                                           .sandbox = &member,
                                           .member = true,
                                           .lock_fd = lock,
                                           .owner_fd = request->owner_fd,
                                           .report = report};
        r = launcher_run(&opts, err);
    }
    if (r < 0 && made)
        (void)!bg_sandbox_remove(&member, NULL); /* the sweep would take it as well */
    bg_sandbox_done(&member);
    return r;
}

static int serve_files(const struct bg_paths *paths, const struct request *request,
                       struct report *report, struct bg_err *err)
{
    bool sandbox = strcmp(request->args[1], "sandbox") == 0;
    bool snapshot = strcmp(request->args[1], "snapshot") == 0;
    const char *how = request->args[3];
    const struct helper_opts opts = {.paths = paths,
                                     .sandbox = sandbox ? request->args[2] : NULL,
                                     .snapshot = snapshot ? request->args[2] : NULL,
                                     .image = request->args[2],
                                     .repair = strcmp(how, "repair") == 0,
                                     .write =
                                         strcmp(how, "repair") == 0 || strcmp(how, "write") == 0,
                                     .owner_fd = request->owner_fd,
                                     .report = report};
    if ((!sandbox && !snapshot && strcmp(request->args[1], "image") != 0) ||
        request->owner_fd < 0 || (!opts.write && strcmp(how, "read") != 0) ||
        (opts.write && !sandbox))
        return bg_err_set(err, -EINVAL, "files: want sandbox, snapshot or image, and how");
    int r = helper_run(&opts, err);
    return r < 0 ? bg_err_prefix(err, "%s '%s'", request->args[1], request->args[2]) : 0;
}

static int make_golden(const struct bg_paths *paths, const struct request *request,
                       struct report *report, struct bg_err *err)
{
    unsigned cpus;
    uint64_t memory;
    int r = parse_sizes(request, &cpus, &memory, err);
    if (r == 0)
        r = launcher_golden(paths, request->args[1], cpus, memory, report, err);
    if (r == 0)
        report_ready(report, &(struct vm_timings){0});
    return r;
}

/* Says as JSON which QEMU and accelerator would be used, for `bellglass doctor`. Fails only if that
 * cannot be printed. */
static int probe(void)
{
    struct qemu_program qemu = {0};
    enum accel accel;
    struct bg_err err = {0}, why = {0};
    json_auto_t *json = json_object();
    json_t *found = qemu_find(/* note= */ NULL, &qemu, &err) < 0
                        ? json_pack("{s:s}", "error", err.text)
                        : json_pack("{s:s, s:s}", "path", qemu.path, "version", qemu.version);
    qemu_program_done(&qemu);
    json_t *chosen = accel_probe(&accel, &why) < 0
                         ? json_pack("{s:s}", "error", why.text)
                         : json_pack("{s:s, s:s}", "name", accel_name(accel), "why", why.text);
    bool failed = json_object_set_new(json, "qemu", found) < 0;
    failed = json_object_set_new(json, "accel", chosen) < 0 || failed;
    return failed || json_dumpf(json, stdout, JSON_COMPACT | JSON_ENSURE_ASCII) < 0 ||
                   fflush(stdout) != 0
               ? EXIT_OURS
               : 0;
}

int main(int argc, char **argv)
{
    struct request request;
    struct bg_err err = {0};
    struct bg_paths paths;
    if (argc == 2 && strcmp(argv[1], "--help") == 0)
        return fputs(usage, stdout) < 0;
    if (argc == 2 && strcmp(argv[1], "probe") == 0)
        return probe();
    if (parse(argc, argv, &request) < 0) {
        (void)fputs(usage, stderr);
        return EXIT_OURS;
    }
    struct report report = {.fd = request.status_fd};
    (void)signal(SIGPIPE, SIG_IGN); /* cannot fail */
    int r = bg_paths_init(&paths, &err);
    if (r == 0 && strcmp(request.args[0], "run") == 0 && request.arg_count == 2)
        r = run(&paths, &request, &report, &err);
    else if (r == 0 && strcmp(request.args[0], "member") == 0 && request.arg_count == 4)
        r = run_member(&paths, &request, &report, &err);
    else if (r == 0 && strcmp(request.args[0], "golden") == 0 && request.arg_count == 4)
        r = make_golden(&paths, &request, &report, &err);
    else if (r == 0 && strcmp(request.args[0], "files") == 0 && request.arg_count == 4)
        r = serve_files(&paths, &request, &report, &err);
    else if (r == 0)
        r = bg_err_set(&err, -EINVAL, "%s", usage);
    bg_paths_done(&paths);
    if (r < 0) {
        if (report.fd < 0)
            (void)fprintf(stderr, "bellglass-supervisor: %s\n", err.text);
        report_error(&report, &err);
        return EXIT_OURS;
    }
    return 0;
}
