#include "host/changes/plan.h"

#include <string.h>

#include "host/changes/scan.h"

#define MAGIC   0x4a434742u /* "BGCJ" */
#define VERSION 1u

/* ---- choosing ---- */

#define NOT_ASKED ""

static const struct entry *guest_folder(const struct change *change)
{
    return change->guest && change->guest->type == BG_CHANGE_FOLDER ? change->guest : NULL;
}

/* A folder of the host's that has to go before the change is done. */
static bool ends_folder(const struct change *change)
{
    return change->host && change->host->type == BG_CHANGE_FOLDER && !guest_folder(change);
}

static bool starts_folder(const struct change *change)
{
    return guest_folder(change) && (change->kind == CHANGE_ADDED || change->kind == CHANGE_TYPE);
}

/* The change of the folder that path is in, or NULL. */
static const struct change *change_above(const struct view *view, const char *path)
{
    const char *slash = strrchr(path, '/');
    BG_AUTOFREE char *folder = slash ? strndup(path, (size_t)(slash - path)) : NULL;
    return folder ? view_find(view, folder) : NULL;
}

static bool asked_for(const struct change *change, const char *const *paths)
{
    if (!paths || !paths[0])
        return true;
    for (size_t i = 0; paths[i]; i++)
        if (path_within(change->path, paths[i]))
            return true;
    return false;
}

/* Named is also what is in a folder that has such a name itself, and was named. */
static bool named(const struct change *change, const char *const *paths)
{
    for (size_t i = 0; paths && paths[i]; i++)
        if (path_within(change->path, paths[i]) &&
            (strcmp(change->path, paths[i]) == 0 || (marks_of_path(paths[i]) & MARKS_NAMED_ONLY)))
            return true;
    return false;
}

static bool reserved(const char *path)
{
    const char *slash = strrchr(path, '/');
    return strncmp(slash ? slash + 1 : path, SCAN_TEMPORARY, sizeof SCAN_TEMPORARY - 1) == 0;
}

static const char *refusal(const struct change *change, const struct plan_opts *opts)
{
    const struct entry *guest = change->guest;
    if (change->marks & MARK_SPECIAL)
        return "special files are never applied";
    if (change->host && change->host->type == BG_CHANGE_SPECIAL)
        return "the host has a special file there";
    if (reserved(change->path))
        return "such names are apply's own";
    if (guest && guest->type == BG_CHANGE_FILE && change->kind != CHANGE_MODE && guest->torn)
        return "it is being written to";
    if (guest && guest->type == BG_CHANGE_FILE && change->kind != CHANGE_MODE && !guest->has_hash)
        return "its contents could not be read";
    if (change->conflict && !opts->force)
        return change->conflict;
    if ((change->marks & MARK_LEADS_OUT) && !opts->force)
        return "it is a link that leads out of the folder";
    if ((change->marks & MARKS_NAMED_ONLY) && !opts->trusted && !named(change, opts->paths))
        return change->marks & MARK_SECRET ? "its name is one for secrets: name it to apply it"
                                           : "host tools trust it: name it to apply it";
    return NULL;
}

/* A folder can go only when nothing stays in it. */
static const char *blocked(const struct view *view, const struct entries *host,
                           const char *const *reasons, const char *path)
{
    size_t first, end;
    entries_below(host, path, &first, &end);
    for (size_t i = first; i < end; i++) {
        const struct change *below = view_find(view, host->list[i].path);
        if (!below || reasons[below - view->list])
            return "something stays in it";
    }
    return NULL;
}

void plan_choose(const struct view *view, const struct entries *host, const struct plan_opts *opts,
                 const char **reasons)
{
    for (size_t i = 0; i < view->count; i++)
        reasons[i] = asked_for(&view->list[i], opts->paths) ? NULL : NOT_ASKED;
    /* The folders that the chosen ones need. Backwards: each folder after what is in it. */
    for (size_t i = view->count; i-- > 0;) {
        const struct change *above = change_above(view, view->list[i].path);
        if (!reasons[i] && above && starts_folder(above))
            reasons[above - view->list] = NULL;
    }
    for (size_t i = 0; i < view->count; i++) {
        const struct change *change = &view->list[i], *above = change_above(view, change->path);
        if (!reasons[i])
            reasons[i] = refusal(change, opts);
        if (!reasons[i] && above && starts_folder(above) && reasons[above - view->list])
            reasons[i] = "its folder is not applied";
    }
    for (size_t i = view->count; i-- > 0;)
        if (!reasons[i] && ends_folder(&view->list[i]))
            reasons[i] = blocked(view, host, reasons, view->list[i].path);
}

/* ---- steps ---- */

static void step_done(struct step *step)
{
    free(step->path);
    free(step->temporary);
    free(step->target);
}

void plan_done(struct plan *plan)
{
    for (size_t i = 0; i < plan->count; i++)
        step_done(&plan->list[i]);
    free(plan->list);
    *plan = (struct plan){0};
}

static struct step *grow(struct plan *plan)
{
    if (plan->count == plan->room) {
        size_t room = plan->room ? plan->room * 2 : 64;
        struct step *grown = reallocarray(plan->list, room, sizeof *grown);
        if (!grown)
            return NULL;
        plan->list = grown;
        plan->room = room;
    }
    struct step *step = &plan->list[plan->count];
    *step = (struct step){0};
    return step;
}

/* A name in the folder of path, or, if the host has no such folder, in the nearest above. */
static char *temporary_for(const struct plan *plan, const struct entries *host, const char *path)
{
    BG_AUTOFREE char *folder = strdup(path);
    char *name = NULL;
    if (!folder)
        return NULL;
    for (;;) {
        char *slash = strrchr(folder, '/');
        *(slash ? slash : folder) = '\0';
        const struct entry *there = *folder ? entries_find(host, folder) : NULL;
        if (!*folder || (there && there->type == BG_CHANGE_FOLDER))
            break;
    }
    if (asprintf(&name, "%s%s" SCAN_TEMPORARY "%s-%zu", folder, *folder ? "/" : "", plan->token,
                 plan->count) < 0)
        return NULL;
    return name;
}

static int add_step(struct plan *plan, const struct entries *host, enum step_op op,
                    const struct change *change, const struct entry *expected)
{
    struct step *step = grow(plan);
    if (!step)
        return -ENOMEM;
    const struct entry *guest = change->guest;
    bool puts = op == STEP_PUT || op == STEP_LINK;
    step->op = (uint8_t)op;
    step->mode = guest ? guest->mode & 0777 : 0;
    step->path = strdup(change->path);
    step->temporary =
        puts || op == STEP_REMOVE ? temporary_for(plan, host, change->path) : strdup("");
    step->target = strdup(op == STEP_LINK ? guest->target : "");
    step->host_there = expected;
    if (expected) {
        step->host = *expected;
        step->host.path = step->host.target = NULL;
    }
    if (op == STEP_PUT) {
        memcpy(step->hash, guest->hash, sizeof step->hash);
        step->size = guest->size;
    }
    if (!step->path || !step->temporary || !step->target) {
        step_done(step);
        return -ENOMEM;
    }
    plan->count++;
    return 0;
}

static int add_removal(struct plan *plan, const struct entries *host, const struct change *change)
{
    bool replaced_by_folder = change->kind == CHANGE_TYPE && guest_folder(change);
    if (ends_folder(change))
        return add_step(plan, host, STEP_REMOVE_FOLDER, change, change->host);
    if (change->kind == CHANGE_REMOVED || replaced_by_folder)
        return add_step(plan, host, STEP_REMOVE, change, change->host);
    return 0;
}

static int add_contents(struct plan *plan, const struct entries *host, const struct change *change)
{
    if (change->kind == CHANGE_REMOVED || change->kind == CHANGE_MODE || guest_folder(change))
        return 0;
    const struct entry *expected = ends_folder(change) ? NULL : change->host;
    return add_step(plan, host, change->guest->type == BG_CHANGE_SYMLINK ? STEP_LINK : STEP_PUT,
                    change, expected);
}

int plan_make(const struct view *view, const struct entries *host, const char *const *reasons,
              const char *token, struct plan *ret)
{
    struct plan plan = {0};
    int r = 0;
    (void)snprintf(plan.token, sizeof plan.token, "%s", token);
    for (size_t i = view->count; r == 0 && i-- > 0;)
        if (!reasons[i])
            r = add_removal(&plan, host, &view->list[i]);
    for (size_t i = 0; r == 0 && i < view->count; i++)
        if (!reasons[i] && starts_folder(&view->list[i]))
            r = add_step(&plan, host, STEP_MAKE_FOLDER, &view->list[i], NULL);
    for (size_t i = 0; r == 0 && i < view->count; i++)
        if (!reasons[i])
            r = add_contents(&plan, host, &view->list[i]);
    /* Last, since a folder may lose the right to be written to. */
    for (size_t i = view->count; r == 0 && i-- > 0;) {
        const struct change *change = &view->list[i];
        if (!reasons[i] && (change->kind == CHANGE_MODE || starts_folder(change)))
            r = add_step(&plan, host, STEP_MODE, change,
                         change->kind == CHANGE_MODE ? change->host : NULL);
    }
    if (r < 0) {
        plan_done(&plan);
        return r;
    }
    *ret = plan;
    return 0;
}

/* ---- the journal ---- */

static void emit_step(const struct step *step, struct bg_writer *w)
{
    const struct entry *host = &step->host;
    bg_writer_u8(w, step->op);
    bg_writer_u16le(w, step->mode);
    bg_writer_text32le(w, step->path);
    bg_writer_text32le(w, step->temporary);
    bg_writer_text32le(w, step->target);
    bg_writer_u8(w, step->host_there);
    bg_writer_u8(w, host->type);
    bg_writer_u16le(w, host->mode);
    bg_writer_u64le(w, host->size);
    bg_writer_u64le(w, host->mtime_ns);
    bg_writer_u64le(w, host->ctime_ns);
    bg_writer_u64le(w, host->inode);
    bg_writer_bytes(w, step->hash, sizeof step->hash);
    bg_writer_u64le(w, step->size);
}

static void digest(const uint8_t *bytes, size_t size, uint8_t out[BG_SHA256_SIZE])
{
    struct bg_sha256 hash;
    bg_sha256_init(&hash);
    bg_sha256_update(&hash, bytes, size);
    bg_sha256_final(&hash, out);
}

int plan_emit(const struct plan *plan, uint8_t **ret, size_t *ret_size)
{
    size_t room = 64 + PLAN_TOKEN_SIZE + BG_SHA256_SIZE;
    for (size_t i = 0; i < plan->count; i++)
        room += 128 + strlen(plan->list[i].path) + strlen(plan->list[i].temporary) +
                strlen(plan->list[i].target);
    BG_AUTOFREE uint8_t *bytes = malloc(room);
    if (!bytes)
        return -ENOMEM;
    struct bg_writer w = bg_writer_init(bytes, room);
    bg_writer_u32le(&w, MAGIC);
    bg_writer_u32le(&w, VERSION);
    bg_writer_text32le(&w, plan->token);
    bg_writer_u64le(&w, plan->device);
    bg_writer_u64le(&w, plan->inode);
    bg_writer_u32le(&w, (uint32_t)plan->count);
    for (size_t i = 0; i < plan->count; i++)
        emit_step(&plan->list[i], &w);
    uint8_t hash[BG_SHA256_SIZE];
    digest(bytes, w.used, hash);
    bg_writer_bytes(&w, hash, sizeof hash);
    if (!bg_writer_ok(&w))
        return -EOVERFLOW;
    *ret = BG_TAKE(bytes);
    *ret_size = w.used;
    return 0;
}

static char *read_text(struct bg_reader *in)
{
    size_t size;
    const uint8_t *p = bg_reader_blob32le(in, BG_PATH_MAX + 64, &size);
    if (!p || memchr(p, 0, size)) {
        in->failed = true;
        return strdup("");
    }
    return strndup((const char *)p, size);
}

static int parse_step(struct bg_reader *in, struct step *step)
{
    step->op = bg_reader_u8(in);
    step->mode = bg_reader_u16le(in);
    step->path = read_text(in);
    step->temporary = read_text(in);
    step->target = read_text(in);
    uint8_t there = bg_reader_u8(in);
    step->host.type = bg_reader_u8(in);
    step->host.mode = bg_reader_u16le(in);
    step->host.size = bg_reader_u64le(in);
    step->host.mtime_ns = bg_reader_u64le(in);
    step->host.ctime_ns = bg_reader_u64le(in);
    step->host.inode = bg_reader_u64le(in);
    const uint8_t *hash = bg_reader_bytes(in, sizeof step->hash);
    step->size = bg_reader_u64le(in);
    if (!step->path || !step->temporary || !step->target)
        return -ENOMEM;
    if (!bg_reader_ok(in) || !hash || there > 1 || step->op < STEP_REMOVE || step->op > STEP_MODE ||
        step->mode > 0777 || !*step->path)
        return -EUCLEAN;
    step->host_there = there;
    memcpy(step->hash, hash, sizeof step->hash);
    return 0;
}

int plan_parse(const uint8_t *bytes, size_t size, struct plan *ret)
{
    uint8_t hash[BG_SHA256_SIZE];
    if (size < sizeof hash)
        return -EUCLEAN;
    digest(bytes, size - sizeof hash, hash);
    if (memcmp(hash, bytes + size - sizeof hash, sizeof hash) != 0)
        return -EUCLEAN;
    struct plan plan = {0};
    struct bg_reader in = bg_reader_init(bytes, size - sizeof hash);
    uint32_t magic = bg_reader_u32le(&in), version = bg_reader_u32le(&in);
    bg_reader_text32le(&in, plan.token, sizeof plan.token);
    plan.device = bg_reader_u64le(&in);
    plan.inode = bg_reader_u64le(&in);
    uint32_t count = bg_reader_u32le(&in);
    int r = magic == MAGIC && version == VERSION && bg_reader_ok(&in) ? 0 : -EUCLEAN;
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        struct step *step = grow(&plan);
        r = step ? parse_step(&in, step) : -ENOMEM;
        if (step)
            plan.count++; /* a half-read one is freed with it */
    }
    if (r == 0 && !bg_reader_end(&in))
        r = -EUCLEAN;
    if (r < 0) {
        plan_done(&plan);
        return r;
    }
    *ret = plan;
    return 0;
}
