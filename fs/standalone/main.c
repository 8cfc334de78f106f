/* bellglass-fs: the file server and the mount without a VM, over any byte stream.
 *
 *   bellglass fs serve DIR               the server, on stdin and stdout
 *   bellglass fs mount DIR -- COMMAND…   runs COMMAND and mounts what it serves on DIR, e.g.
 *                                        bellglass fs mount /mnt -- ssh host bellglass fs serve
 * /src
 *
 * The command `bellglass fs` becomes this program. */
#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/cleanup.h"
#include "fs/server/server.h"

#define THREADS_DEFAULT 4u
#define MOUNT_ARGS_MAX  24

static void usage(FILE *out)
{
    (void)fprintf(
        out,
        "usage: bellglass fs serve [--read-only] [--threads N] DIR\n"
        "       bellglass fs mount [--read-only] [--exec] [--raw-names] [--foreground]\n"
        "                          [--symlinks inside|none|raw] [--reconnect]\n"
        "                          [--guard pin|owner|off] [--guard-store DIR]\n"
        "                          [--watch seen|none]\n"
        "                          [--name NAME] [--deadline-ms N] DIR -- COMMAND...\n"
        "\n"
        "serve   serves DIR on standard input and output\n"
        "mount   runs COMMAND and mounts on DIR what it serves on its own\n"
        "\n"
        "  --read-only       no changes\n"
        "  --threads N       requests at once [4]\n"
        "  --exec            let programs in it be run here\n"
        "  --raw-names       show names with control characters as they are\n"
        "  --foreground      stay until the mount ends\n"
        "  --reconnect       run COMMAND again when it ends, and go on with that\n"
        "  --name NAME       what the mount is called in the list of mounts [files]\n"
        "  --deadline-ms N   a request without an answer fails after this time [15000]\n"
        "  --symlinks MODE   what becomes of symbolic links, which this machine follows:\n"
        "    inside  those that stay in DIR work, others cannot be read (the default)\n"
        "    none    all are shown as they are and none is followed; needs root\n"
        "    raw     DANGER: all are followed, also to this machine's own files. Whoever\n"
        "            serves DIR decides what your programs read and write. Only for files\n"
        "            that you trust like your own.\n"
        "  --guard MODE      files that programs here run or believe: pin, owner or off [pin]\n"
        "  --guard-store DIR where approvals of such files are kept\n"
        "  --watch MODE      seen: what others change there makes file events here, in folders\n"
        "                    that were seen here; or none [seen]\n");
}

static int serve(int argc, char **argv)
{
    static const struct option options[] = {
        {"read-only", no_argument, NULL, 'r'}, {"threads", required_argument, NULL, 't'}, {0}};
    uint64_t threads = THREADS_DEFAULT;
    bool read_only = false;
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'r') {
            read_only = true;
        } else if (c != 't' || bg_parse_u64(optarg, 1, FS_SERVER_THREADS_MAX, &threads) < 0) {
            usage(stderr);
            return 2;
        }
    }
    if (optind + 1 != argc) {
        usage(stderr);
        return 2;
    }
    struct fs_server_opts opts = {.root = argv[optind],
                                  .read_only = read_only,
                                  .as_root = true, /* as whoever started it */
                                  .threads = (unsigned)threads};
    struct bg_err err;
    if (fs_server_run(STDIN_FILENO, STDOUT_FILENO, &opts, &err) < 0) {
        (void)fprintf(stderr, "bellglass-fs: %s\n", err.text);
        return 1;
    }
    return 0;
}

/* Starts COMMAND with the socket as its stdin and stdout. It is nobody's child, so that nobody has
 * to wait for it: it ends when the stream does. */
static int start_command(char **argv, int socket)
{
    int status;
    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0) {
        pid_t command = fork();
        if (command != 0)
            _exit(command < 0 ? 1 : 0);
        if (dup2(socket, STDIN_FILENO) < 0 || dup2(socket, STDOUT_FILENO) < 0)
            _exit(127);
        (void)execvp(argv[0], argv);
        (void)fprintf(stderr, "bellglass-fs: %s: %s\n", argv[0], strerror(errno));
        _exit(127);
    }
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EAGAIN;
}

/* bellglass-mount lies beside this program. */
static int mount_program(char out[PATH_MAX + 32])
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return -errno;
    self[n] = '\0';
    (void)snprintf(out, PATH_MAX + 32, "%s/bellglass-mount", dirname(self));
    return access(out, X_OK) < 0 ? -errno : 0;
}

static int mount_here(int argc, char **argv)
{
    static const struct option options[] = {
        {"read-only", no_argument, NULL, 'r'},         {"exec", no_argument, NULL, 'x'},
        {"raw-names", no_argument, NULL, 'w'},         {"foreground", no_argument, NULL, 'f'},
        {"symlinks", required_argument, NULL, 'k'},    {"name", required_argument, NULL, 'n'},
        {"deadline-ms", required_argument, NULL, 'd'}, {"guard", required_argument, NULL, 'g'},
        {"guard-store", required_argument, NULL, 't'}, {"reconnect", no_argument, NULL, 'c'},
        {"watch", required_argument, NULL, 'e'},       {0}};
    static char read_only[] = "--read-only", exec[] = "--exec", raw_names[] = "--raw-names",
                foreground[] = "--foreground", symlinks[] = "--symlinks", watch[] = "--watch",
                name[] = "--name", deadline[] = "--deadline-ms", stream[] = "--stream-fd",
                reopen[] = "--reopen", serves[] = "serves", dashes[] = "--", guard[] = "--guard",
                guard_store[] = "--guard-store", mountpoint[] = "--mountpoint",
                standalone[] = "files";
    char *out[MOUNT_ARGS_MAX] = {name};
    char *name_value = standalone, *deadline_value = NULL, *symlinks_value = NULL;
    char *guard_value = NULL, *store_value = NULL, *watch_value = NULL;
    size_t used = 1;
    bool flags[128] = {false};
    int c;
    while ((c = getopt_long(argc, argv, "+", options, NULL)) != -1) {
        if (c == '?') {
            usage(stderr);
            return 2;
        }
        if (c == 'n')
            name_value = optarg;
        else if (c == 'd')
            deadline_value = optarg;
        else if (c == 'k')
            symlinks_value = optarg;
        else if (c == 'g')
            guard_value = optarg;
        else if (c == 't')
            store_value = optarg;
        else if (c == 'e')
            watch_value = optarg;
        else
            flags[c & 127] = true;
    }
    if (argc - optind < 3 || strcmp(argv[optind + 1], "--") != 0) {
        usage(stderr);
        return 2;
    }
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0) {
        (void)fprintf(stderr, "bellglass-fs: socketpair: %s\n", strerror(errno));
        return 1;
    }
    char number[16], program[PATH_MAX + 32] = "bellglass-mount";
    int r = mount_program(program);
    if (r < 0) {
        (void)fprintf(stderr, "bellglass-fs: %s: %s\n", program, strerror(-r));
        return 1;
    }
    r = start_command(argv + optind + 2, sockets[1]);
    if (r < 0) {
        (void)fprintf(stderr, "bellglass-fs: %s: %s\n", argv[optind + 2], strerror(-r));
        return 1;
    }
    (void)close(sockets[1]);
    int ours = dup(sockets[0]); /* without O_CLOEXEC: it is for the program that follows */
    (void)snprintf(number, sizeof number, "%d", ours);
    out[used++] = name_value;
    out[used++] = stream;
    out[used++] = number;
    out[used++] = mountpoint;
    out[used++] = argv[optind];
    if (flags['r'])
        out[used++] = read_only;
    if (flags['x'])
        out[used++] = exec;
    if (flags['w'])
        out[used++] = raw_names;
    if (flags['f'])
        out[used++] = foreground;
    if (symlinks_value) {
        out[used++] = symlinks;
        out[used++] = symlinks_value;
    }
    if (deadline_value) {
        out[used++] = deadline;
        out[used++] = deadline_value;
    }
    if (watch_value) {
        out[used++] = watch;
        out[used++] = watch_value;
    }
    if (guard_value) {
        out[used++] = guard;
        out[used++] = guard_value;
    }
    if (store_value) {
        out[used++] = guard_store;
        out[used++] = store_value;
    }
    if (flags['c']) {
        out[used++] = reopen;
        out[used++] = serves;
        out[used++] = dashes;
    }
    size_t command_count = flags['c'] ? (size_t)(argc - optind - 2) : 0;
    char **full = calloc(1 + used + command_count + 1, sizeof *full);
    if (full) {
        full[0] = program;
        memcpy(full + 1, out, used * sizeof *out);
        memcpy(full + 1 + used, argv + optind + 2, command_count * sizeof *full);
        (void)execv(program, full);
    }
    (void)fprintf(stderr, "bellglass-fs: %s: %s\n", program, strerror(errno));
    return 1;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[2], "--help") == 0) {
        usage(stdout);
        return 0;
    }
    if (argc >= 2 && strcmp(argv[1], "serve") == 0)
        return serve(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "mount") == 0)
        return mount_here(argc - 1, argv + 1);
    bool help = argc == 2 && strcmp(argv[1], "--help") == 0;
    usage(help ? stdout : stderr);
    return help ? 0 : 2;
}
