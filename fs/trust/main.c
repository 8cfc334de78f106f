/* bellglass-guard: what `bellglass guard` and `bellglass trust` do, over an open stream to the
 * sandbox's file server. A program of its own, since it reads what a hostile guest sends. */
#include <dirent.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/quote.h"
#include "fs/relay/store.h"
#include "fs/trust/diff.h"
#include "fs/trust/walk.h"

#define FAILED      125 /* as bellglass's own errors */
#define DECLINED    1
#define FOUND_MAX   10000u /* listed; then the list ends with a note */
#define PROGRESS_MS 1000u
#define PATHS_MAX   256

struct args {
    bool list, rules, json, yes, forget;
    int stream_fd;
    const char *store, *root;
    char **paths;
    size_t path_count;
};

static int fail(const struct bg_err *err)
{
    (void)fprintf(stderr, "bellglass: %s\n", err->text);
    return FAILED;
}

static int printed(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    (void)fprintf(stderr, "bellglass: standard output: %s\n", strerror(errno));
    return FAILED;
}

/* A JSON string; what is not UTF-8 is escaped. */
static json_t *text_of(const char *text)
{
    char escaped[4 * BG_PATH_MAX];
    json_t *json = json_string(text);
    if (json)
        return json;
    bg_escape(text, strlen(text), escaped, sizeof escaped);
    return json_string(escaped);
}

static int print_json(json_t *json)
{
    if (!json || json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII) < 0) {
        (void)fputs("bellglass: out of memory\n", stderr);
        json_decref(json);
        return FAILED;
    }
    (void)putchar('\n');
    json_decref(json);
    return printed(0);
}

/* ---- the approvals ---- */

static int take_pin(void *owner, const struct fs_pin_note *note)
{
    struct fs_pins *pins = owner;
    struct fs_pin *pin;
    int r = fs_pins_add(pins, note->path, &pin);
    return r < 0 ? r : fs_pins_set(pins, pin, note->bytes, note->size);
}

static int open_store(const char *dir, struct fs_store **ret_store, struct fs_pins *pins,
                      struct bg_err *err)
{
    size_t damaged;
    fs_pins_init(pins);
    int r = fs_store_open(dir, ret_store, err);
    if (r == 0 && (r = fs_store_load(*ret_store, take_pin, pins, &damaged, err)) < 0) {
        fs_store_close(*ret_store);
        fs_pins_done(pins);
    }
    return r;
}

static bool same_bytes(const struct fs_pin *pin, const uint8_t *bytes, size_t size)
{
    return pin->size == size && (size == 0 || memcmp(pin->bytes, bytes, size) == 0);
}

/* Reads a found file; it must be a regular one. */
static int read_found(struct trust_client *client, const struct trust_found *found, uint8_t **ret,
                      size_t *ret_size, struct bg_err *err)
{
    struct trust_node node = {0};
    BG_AUTOFREE uint8_t *bytes = NULL;
    size_t size = 0;
    int r = trust_client_look_up(client, found->folder, found->name, &node, err);
    if (r < 0)
        return r;
    if ((node.mode & S_IFMT) == S_IFREG)
        r = trust_client_read(client, node.id, &bytes, &size, err);
    else
        r = bg_err_set(err, -EINVAL, "it is no regular file");
    if (r == 0)
        r = trust_client_forget(client, node.id, err);
    if (r < 0)
        return r;
    *ret = BG_TAKE(bytes);
    *ret_size = size;
    return 0;
}

/* ---- guard ---- */

struct listing {
    struct trust_client *client;
    const struct fs_pins *pins;
    const struct args *args;
    json_t *found;
    bool *seen; /* of each pin: the guest has it */
    bool cut;
    size_t folders;
    uint64_t told_ms;
    bool told;
};

static int add_found(struct listing *list, const char *path, const char *state)
{
    if (json_array_size(list->found) == FOUND_MAX) {
        list->cut = true;
        return 0;
    }
    json_t *entry = json_pack("{s:s, s:o}", "state", state, "path", text_of(path));
    return json_array_append_new(list->found, entry) < 0 ? -ENOMEM : 0;
}

static const char *state_of(const struct listing *list, const struct trust_found *found,
                            const struct fs_pin *pin)
{
    uint8_t *bytes = NULL;
    size_t size = 0;
    struct bg_err err;
    if (found->class == GUARD_FORBIDDEN)
        return "hidden";
    if (!pin)
        return found->class == GUARD_PINNED ? "not approved" : "filtered";
    if (read_found(list->client, found, &bytes, &size, &err) < 0)
        return "changed";
    bool same = same_bytes(pin, bytes, size);
    free(bytes);
    return same ? "approved" : found->class == GUARD_PINNED ? "changed" : "filtered";
}

static int on_found(void *owner, const struct trust_found *found)
{
    struct listing *list = owner;
    const struct fs_pin *pin = fs_pins_find(list->pins, found->path);
    for (size_t i = 0; pin && i < list->pins->count; i++)
        list->seen[i] = list->seen[i] || list->pins->all[i] == pin;
    return add_found(list, found->path, state_of(list, found, pin));
}

static void on_folder(void *owner)
{
    struct listing *list = owner;
    uint64_t now_ms = bg_now_ms();
    list->folders++;
    if (now_ms - list->told_ms < PROGRESS_MS || !isatty(STDERR_FILENO))
        return;
    (void)fprintf(stderr, "\rlooking: %zu folders", list->folders);
    list->told_ms = now_ms;
    list->told = true;
}

/* Approved files that the guest does not have any more. */
static int add_missing(struct listing *list, const char *root)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < list->pins->count; i++)
        if (!list->seen[i] && fs_pins_is_below(list->pins->all[i]->path, root))
            r = add_found(list, list->pins->all[i]->path, "missing");
    return r;
}

static int print_found(const struct listing *list)
{
    size_t i;
    json_t *entry;
    if (list->told)
        (void)fputs("\r\033[K", stderr);
    if (list->cut)
        (void)fprintf(stderr, "bellglass: only the first %u are listed: name a folder\n",
                      FOUND_MAX);
    if (list->args->json)
        return print_json(json_incref(list->found));
    json_array_foreach(list->found, i, entry)
    {
        char escaped[4 * BG_PATH_MAX];
        const char *path = json_string_value(json_object_get(entry, "path"));
        bg_escape(path, strlen(path), escaped, sizeof escaped);
        (void)printf("%-13s %s\n", json_string_value(json_object_get(entry, "state")), escaped);
    }
    return printed(0);
}

/* The node of a folder. path: canonical, "" is the root. */
static int find_folder(struct trust_client *client, const char *path, uint64_t *ret,
                       struct bg_err *err)
{
    struct trust_found found;
    struct trust_node node = {0};
    char quoted[512];
    *ret = FUSE_ROOT_ID;
    if (path[0] == '\0')
        return 0;
    int r = trust_find(client, path, &found, err);
    if (r == 0)
        r = trust_client_look_up(client, found.folder, found.name, &node, err);
    if (r == 0 && (node.mode & S_IFMT) != S_IFDIR)
        r = bg_err_set(err, -ENOTDIR, "it is no folder");
    if (r < 0)
        return bg_err_prefix(err, "%s", bg_quote(path, quoted, sizeof quoted));
    *ret = node.id;
    return 0;
}

static int list_guarded(const struct args *args, struct trust_client *client,
                        const struct fs_pins *pins, struct bg_err *err)
{
    struct listing list = {.client = client,
                           .pins = pins,
                           .args = args,
                           .found = json_array(),
                           .seen = calloc(pins->count + 1, sizeof(bool)),
                           .told_ms = bg_now_ms()};
    struct trust_walk_opts opts = {.root = args->root,
                                   .spare_system = args->root[0] == '\0',
                                   .on_found = on_found,
                                   .on_folder = on_folder,
                                   .owner = &list};
    int status = FAILED;
    int r = list.found && list.seen ? find_folder(client, args->root, &opts.node, err)
                                    : bg_err_errno(err, -ENOMEM, "files");
    if (r == 0)
        r = trust_walk(client, &opts, err);
    if (r == 0 && add_missing(&list, args->root) < 0)
        r = bg_err_errno(err, -ENOMEM, "files");
    if (r == 0)
        status = print_found(&list);
    json_decref(list.found);
    free(list.seen);
    return r < 0 ? fail(err) : status;
}

/* ---- trust ---- */

/* A file that is to be approved, as it was read, once. */
struct candidate {
    const char *path;
    uint8_t *bytes;
    size_t size;
    bool changes;
};

static int read_candidate(struct trust_client *client, const struct fs_pins *pins, const char *path,
                          struct candidate *ret, struct bg_err *err)
{
    struct trust_found found;
    int r = trust_find(client, path, &found, err);
    if (r < 0)
        return r;
    if (found.class == GUARD_FORBIDDEN)
        return bg_err_set(err, -EPERM, "git's hooks are never shown here");
    if (found.class == GUARD_NONE || found.class == GUARD_WAY || found.class == GUARD_FOLDER ||
        found.class == GUARD_HOOKS)
        return bg_err_set(err, -EINVAL, "it is no guarded file: it is shown as it is");
    r = read_found(client, &found, &ret->bytes, &ret->size, err);
    if (r < 0)
        return r;
    const struct fs_pin *pin = fs_pins_find(pins, path);
    ret->path = path;
    ret->changes = !pin || !same_bytes(pin, ret->bytes, ret->size);
    return 0;
}

static int show_candidate(const struct candidate *c, const struct fs_pins *pins, struct bg_err *err)
{
    char quoted[512], *diff;
    const struct fs_pin *pin = fs_pins_find(pins, c->path);
    (void)bg_quote(c->path, quoted, sizeof quoted);
    if (!c->changes) {
        (void)printf("%s is approved as it is\n", quoted);
        return 0;
    }
    static const uint8_t nothing[] = "";
    int r = trust_diff(pin ? (pin->bytes ? pin->bytes : nothing) : NULL, pin ? pin->size : 0,
                       c->bytes, c->size, &diff);
    if (r < 0)
        return bg_err_errno(err, r, "files");
    (void)printf("%s, %s, %zu bytes:\n%s", quoted, pin ? "changed" : "new", c->size, diff);
    free(diff);
    return 0;
}

static bool confirmed(void)
{
    char answer[16];
    (void)fputs("Show these bytes to programs here? [y/N] ", stdout);
    (void)fflush(stdout);
    return fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

static int keep(struct fs_store *store, const char *path, const uint8_t *bytes, size_t size,
                bool forget, struct bg_err *err)
{
    struct timespec now;
    struct fs_pin_note note = {.forget = forget, .mode = 0644, .bytes = bytes, .size = size};
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail with this clock */
    note.mtime = (uint64_t)now.tv_sec;
    memcpy(note.path, path, strlen(path) + 1);
    return fs_store_keep(store, &note, err);
}

static int print_trusted(const struct candidate *all, size_t count)
{
    json_t *out = json_array();
    for (size_t i = 0; out && i < count; i++)
        if (json_array_append_new(out, json_pack("{s:o, s:I, s:b}", "path", text_of(all[i].path),
                                                 "size", (json_int_t)all[i].size, "changed",
                                                 all[i].changes)) < 0)
            break;
    return print_json(out);
}

static int approve(const struct args *args, struct trust_client *client, struct fs_store *store,
                   const struct fs_pins *pins, struct bg_err *err)
{
    struct candidate all[PATHS_MAX] = {0};
    size_t count = 0;
    char quoted[512];
    bool changes = false;
    int r = 0, status = 0;
    for (; r == 0 && count < args->path_count; count += r == 0) {
        r = read_candidate(client, pins, args->paths[count], &all[count], err);
        if (r < 0)
            (void)bg_err_prefix(err, "%s", bg_quote(args->paths[count], quoted, sizeof quoted));
        changes = changes || all[count].changes;
    }
    for (size_t i = 0; r == 0 && !args->json && i < count; i++)
        r = show_candidate(&all[i], pins, err);
    if (r == 0 && changes && !args->yes && !isatty(STDIN_FILENO))
        r = bg_err_set(err, -ENOTTY, "nobody to ask: look at the above, and give --yes");
    else if (r == 0 && changes && !args->yes && !confirmed())
        status = DECLINED;
    for (size_t i = 0; r == 0 && status == 0 && i < count; i++)
        if (all[i].changes)
            r = keep(store, all[i].path, all[i].bytes, all[i].size, /* forget= */ false, err);
    if (r == 0 && args->json)
        status = print_trusted(all, count);
    for (size_t i = 0; i < count; i++)
        free(all[i].bytes);
    return r < 0 ? fail(err) : printed(status);
}

static int forget(const struct args *args, struct fs_store *store, const struct fs_pins *pins,
                  struct bg_err *err)
{
    char quoted[512];
    int r = 0;
    for (size_t i = 0; r == 0 && i < args->path_count; i++) {
        if (!fs_pins_find(pins, args->paths[i]))
            r = bg_err_set(err, -ENOENT, "%s is not approved",
                           bg_quote(args->paths[i], quoted, sizeof quoted));
        else
            r = keep(store, args->paths[i], NULL, 0, /* forget= */ true, err);
    }
    return r < 0 ? fail(err) : 0;
}

/* ---- rules ---- */

static const char *shown_as(enum guard_class class)
{
    switch (class) {
    case GUARD_NONE:
        return "as it is";
    case GUARD_PINNED:
        return "as approved";
    case GUARD_FOLDER:
        return "what is approved in it";
    case GUARD_GIT:
    case GUARD_WAY:
        return "unless it is a link";
    case GUARD_CONFIG:
        return "filtered";
    case GUARD_POINTER:
    case GUARD_POINTERS:
        return "if it stays in the mount";
    case GUARD_HOOKS:
    case GUARD_FORBIDDEN:
        return "empty";
    }
    return "";
}

static int print_rules(const struct args *args)
{
    char text[GUARD_RULE_SIZE];
    enum guard_class class;
    const char *why;
    json_t *out = args->json ? json_array() : NULL;
    for (size_t i = 0; guard_rule_at(i, text, &class, &why); i++) {
        if (!args->json)
            (void)printf("%-34s %-25s %s\n", text, shown_as(class), why);
        else if (json_array_append_new(out, json_pack("{s:s, s:s, s:s}", "files", text, "shown",
                                                      shown_as(class), "why", why)) < 0)
            break;
    }
    return args->json ? print_json(out) : printed(0);
}

/* ---- start ---- */

static void usage(FILE *out)
{
    (void)fprintf(out, "usage: bellglass-guard --stream-fd N --store DIR [--json] list PATH\n"
                       "       bellglass-guard --stream-fd N --store DIR [--json] [--yes] "
                       "[--forget] trust PATH...\n"
                       "       bellglass-guard [--json] rules\n"
                       "Lists and approves the files that programs here run or believe, as the "
                       "file server on the open stream N has them.\n");
}

/* Makes the paths canonical, in place: no "/" at the end, and "/" becomes "". */
static int check_paths(struct args *args, struct bg_err *err)
{
    char quoted[512];
    for (size_t i = 0; i < args->path_count; i++) {
        char *path = args->paths[i];
        size_t size = strlen(path);
        while (size > 0 && path[size - 1] == '/' && (size > 1 || args->list))
            path[--size] = '\0';
        if (!fs_pin_path_ok(path) && !(args->list && size == 0))
            return bg_err_set(err, -EINVAL,
                              "%s: the path in the sandbox must be absolute, without \"..\"",
                              bg_quote(path, quoted, sizeof quoted));
    }
    args->root = args->paths[0];
    return 0;
}

/* Returns -1 when the command line is good, else the exit status. */
static int parse_args(int argc, char **argv, struct args *ret)
{
    static const struct option options[] = {{"stream-fd", required_argument, NULL, 's'},
                                            {"store", required_argument, NULL, 'd'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"yes", no_argument, NULL, 'y'},
                                            {"forget", no_argument, NULL, 'f'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    uint64_t fd = 0;
    int c;
    *ret = (struct args){.stream_fd = -1};
    while ((c = getopt_long(argc, argv, "+", options, NULL)) != -1) {
        switch (c) {
        case 's':
            ret->stream_fd = bg_parse_u64(optarg, 0, 1 << 20, &fd) < 0 ? -1 : (int)fd;
            break;
        case 'd':
            ret->store = optarg;
            break;
        case 'j':
            ret->json = true;
            break;
        case 'y':
            ret->yes = true;
            break;
        case 'f':
            ret->forget = true;
            break;
        case 'h':
            usage(stdout);
            return 0;
        default:
            usage(stderr);
            return 2;
        }
    }
    ret->list = optind < argc && strcmp(argv[optind], "list") == 0;
    bool trusts = optind < argc && strcmp(argv[optind], "trust") == 0;
    ret->rules = optind + 1 == argc && strcmp(argv[optind], "rules") == 0;
    if (ret->rules)
        return -1;
    ret->paths = argv + optind + 1;
    ret->path_count = optind < argc ? (size_t)(argc - optind - 1) : 0;
    if ((!ret->list && !trusts) || (ret->list && ret->path_count != 1) || ret->path_count == 0 ||
        ret->path_count > PATHS_MAX || !ret->store || ret->stream_fd < 0) {
        usage(stderr);
        return 2;
    }
    return -1;
}

int main(int argc, char **argv)
{
    struct args args;
    struct bg_err err;
    struct fs_store *store;
    struct fs_pins pins;
    struct trust_client *client = NULL;
    int status = parse_args(argc, argv, &args);
    if (status >= 0)
        return status;
    if (args.rules)
        return print_rules(&args);
    if (check_paths(&args, &err) < 0)
        return fail(&err);
    if (!args.list && args.json && !args.yes && !args.forget) {
        (void)bg_err_set(&err, -EINVAL, "--json asks nothing: it needs --yes");
        return fail(&err);
    }
    if (open_store(args.store, &store, &pins, &err) < 0)
        return fail(&err);
    if (!args.list && args.forget)
        status = forget(&args, store, &pins, &err);
    else if (trust_client_new(args.stream_fd, &client, &err) < 0)
        status = fail(&err);
    else if (args.list)
        status = list_guarded(&args, client, &pins, &err);
    else
        status = approve(&args, client, store, &pins, &err);
    trust_client_free(client);
    fs_store_close(store);
    fs_pins_done(&pins);
    return status;
}
