/* bellglass-share: the file server of one shared folder (docs/protocol.md, "Share start"). It
 * serves one stream, whose other end is a hostile guest, and ends with it. A crash of it costs the
 * share and nothing else. */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/quote.h"
#include "fs/server/server.h"
#include "fs/server/share.h"
#include "fs/share/confine.h"
#include "fs/share/names.h"

#define THREADS 8 /* requests worked on at once */

struct args {
    int stream_fd, ready_fd, log_fd, lock_fd;
    const char *root;
    bool read_only, any_links, layered;
    struct share_names_opts names;
};

static void usage(FILE *out)
{
    (void)fprintf(
        out, "usage: bellglass-share --stream-fd N --root DIR [--read-only] [--hide PATTERN]...\n"
             "  [--show PATTERN]... [--unguarded] [--any-links] [--layered]\n"
             "  [--ready-fd N] [--log-fd N] [--lock-fd N]\n"
             "Serves DIR to a guest that mounts it by the open stream N. Started by the\n"
             "bellglass command.\n");
}

static int add_pattern(const char *const **list, size_t *count, const char *text)
{
    const char **grown = reallocarray((void *)(uintptr_t)*list, *count + 1, sizeof *grown);
    if (!grown)
        return -ENOMEM;
    grown[(*count)++] = text;
    *list = grown;
    return 0;
}

static int parse(int argc, char **argv, struct args *ret)
{
    static const struct option options[] = {{"stream-fd", required_argument, NULL, 's'},
                                            {"ready-fd", required_argument, NULL, 'y'},
                                            {"log-fd", required_argument, NULL, 'l'},
                                            {"lock-fd", required_argument, NULL, 'k'},
                                            {"root", required_argument, NULL, 'r'},
                                            {"read-only", no_argument, NULL, 'o'},
                                            {"hide", required_argument, NULL, 'h'},
                                            {"show", required_argument, NULL, 'w'},
                                            {"unguarded", no_argument, NULL, 'u'},
                                            {"any-links", no_argument, NULL, 'a'},
                                            {"layered", no_argument, NULL, 'v'},
                                            {"help", no_argument, NULL, '?'},
                                            {0}};
    *ret = (struct args){.stream_fd = -1, .ready_fd = -1, .log_fd = 2, .lock_fd = -1};
    int c, r = 0;
    while (r == 0 && (c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 's':
            r = bg_parse_fd(optarg, &ret->stream_fd);
            break;
        case 'y':
            r = bg_parse_fd(optarg, &ret->ready_fd);
            break;
        case 'l':
            r = bg_parse_fd(optarg, &ret->log_fd);
            break;
        case 'k':
            r = bg_parse_fd(optarg, &ret->lock_fd);
            break;
        case 'r':
            ret->root = optarg;
            break;
        case 'o':
            ret->read_only = true;
            break;
        case 'h':
            r = add_pattern(&ret->names.hide, &ret->names.hide_count, optarg);
            break;
        case 'w':
            r = add_pattern(&ret->names.show, &ret->names.show_count, optarg);
            break;
        case 'u':
            ret->names.unguarded = true;
            break;
        case 'a':
            ret->any_links = true;
            break;
        case 'v':
            ret->layered = true;
            break;
        default:
            r = -EINVAL;
        }
    }
    return r == 0 && ret->root && ret->stream_fd >= 0 && optind == argc ? 0 : -EINVAL;
}

/* One line of JSON for whoever started us, who may have gone. */
static void tell(int fd, json_t *line)
{
    char *text = line && fd >= 0 ? json_dumps(line, JSON_COMPACT) : NULL;
    if (text) {
        int r = bg_write_full(fd, text, strlen(text));
        if (r == 0)
            r = bg_write_full(fd, "\n", 1);
        (void)r;
    }
    free(text);
    json_decref(line);
}

static void ready(void *owner)
{
    int *fd = owner;
    tell(*fd, json_pack("{s:b, s:i}", "ready", 1, "pid", (int)getpid()));
    if (*fd >= 0)
        (void)close(*fd); /* the starter waits for no more */
    *fd = -1;
}

static int serve(struct args *args, struct share_names *names, struct bg_err *err)
{
    bool inside = false;
    int r = confine_enter(args->root, args->read_only, &inside, err);
    const char *root = inside ? CONFINE_ROOT : args->root;
    if (r == 0)
        r = confine_lock(root, args->read_only, inside, err);
    if (r < 0)
        return r;
    const struct fs_share_rules rules = {.judge = share_names_judge,
                                         .owner = names,
                                         .any_links = args->any_links,
                                         .layered = args->layered,
                                         .space_min = BG_SHARE_SPACE_MIN,
                                         .write_max = BG_SHARE_WRITE_MAX,
                                         .inodes_max = BG_SHARE_INODES_MAX};
    const struct fs_server_opts opts = {.root = root,
                                        .read_only = args->read_only,
                                        .as_root = true, /* as who we are by now */
                                        .share = &rules,
                                        .on_ready = ready,
                                        .owner = &args->ready_fd,
                                        .threads = THREADS};
    return fs_server_run(args->stream_fd, args->stream_fd, &opts, err);
}

int main(int argc, char **argv)
{
    struct args args;
    struct bg_err err = {0};
    struct share_names *names = NULL;
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        usage(stdout);
        return 0;
    }
    if (parse(argc, argv, &args) < 0) {
        usage(stderr);
        return 2;
    }
    const struct bg_log log = {.fd = args.log_fd, .level = BG_LOG_INFO, .tag = "bellglass-share"};
    (void)signal(SIGPIPE, SIG_IGN); /* cannot fail; so does the next */
    (void)signal(SIGHUP, SIG_IGN);
    tzset(); /* the log's clock reads a file; later there are none */
    int r = share_names_new(&args.names, &names, &err);
    if (r == 0)
        r = serve(&args, names, &err);
    if (r < 0) {
        bg_log(&log, BG_LOG_ERROR, "%s: %s", args.root, err.text);
        char text[BG_ERR_TEXT_SIZE]; /* a path in it need not be UTF-8 */
        bg_escape(err.text, strlen(err.text), text, sizeof text);
        tell(args.ready_fd, json_pack("{s:s, s:i}", "error", text, "errno", -err.code));
    }
    share_names_free(names);
    free((void *)(uintptr_t)args.names.hide);
    free((void *)(uintptr_t)args.names.show);
    _exit(r < 0); /* what a sanitizer does at exit needs files that are given away */
}
