#include "host/changes/show.h"

#include <string.h>
#include <unistd.h>

#include "common/io.h"
#include "host/changes/patch.h"
#include "host/cli/output.h"

/* "" is what was not asked for (plan.h): it is as if it were not there. */
static bool shown(const char *const *reasons, size_t i)
{
    return !reasons || !reasons[i];
}

static bool refused(const char *const *reasons, size_t i)
{
    return reasons && reasons[i] && reasons[i][0];
}

/* ---- summary ---- */

static void print_marks(FILE *out, const struct change *change)
{
    unsigned at = 0;
    for (const char *word; (word = marks_next(change->marks, &at));)
        (void)fprintf(out, "  [%s]", word);
    if (change->guest && change->guest->type == BG_CHANGE_SYMLINK) {
        (void)fputs("  -> ", out);
        patch_name(out, change->guest->target);
    }
}

static void print_line(FILE *out, const struct change *change, const char *reason)
{
    const struct entry *guest = change->guest;
    char size[OUTPUT_SIZE_SIZE] = "";
    if (guest && guest->type == BG_CHANGE_FILE && change->kind != CHANGE_MODE)
        output_size(guest->size, size);
    (void)fprintf(out, "%c %6s  ", change->kind, size);
    patch_name(out, change->path);
    const struct entry *thing = guest ? guest : change->host;
    if (thing && thing->type == BG_CHANGE_FOLDER)
        (void)fputc('/', out);
    if (change->kind == CHANGE_MODE && guest && change->host)
        (void)fprintf(out, "  %03o -> %03o", change->host->mode & 0777u, guest->mode & 0777u);
    print_marks(out, change);
    if (reason)
        (void)fprintf(out, "  NOT APPLIED: %s", reason);
    else if (change->conflict)
        (void)fprintf(out, "  CONFLICT: %s", change->conflict);
    (void)fputc('\n', out);
}

static void print_count(FILE *out, const struct session *s, const char *const *reasons)
{
    static const struct {
        enum change_kind kind;
        const char *word;
    } words[] = {{CHANGE_ADDED, "added"},
                 {CHANGE_MODIFIED, "modified"},
                 {CHANGE_REMOVED, "removed"},
                 {CHANGE_TYPE, "of another type"},
                 {CHANGE_MODE, "with other permissions"}};
    const char *before = "";
    size_t conflicts = 0;
    for (size_t k = 0; k < sizeof words / sizeof *words; k++) {
        size_t count = 0;
        for (size_t i = 0; i < s->view.count; i++)
            count += shown(reasons, i) && s->view.list[i].kind == words[k].kind;
        if (count > 0) {
            (void)fprintf(out, "%s%zu %s", before, count, words[k].word);
            before = ", ";
        }
    }
    for (size_t i = 0; i < s->view.count; i++)
        conflicts += shown(reasons, i) && s->view.list[i].conflict;
    if (conflicts > 0)
        (void)fprintf(out, "%s%zu in conflict", before, conflicts);
    (void)fputc('\n', out);
}

static void print_summary(FILE *out, const struct session *s, const char *const *reasons)
{
    (void)fputs("# ", out);
    patch_name(out, s->store.share->host);
    (void)fputs(", in the sandbox ", out);
    patch_name(out, s->store.share->guest);
    (void)fputc('\n', out);
    for (size_t i = 0; i < s->view.count; i++)
        if (shown(reasons, i) || refused(reasons, i))
            print_line(out, &s->view.list[i], reasons ? reasons[i] : NULL);
    print_count(out, s, reasons);
}

/* ---- patch ---- */

static unsigned git_mode(const struct entry *entry)
{
    if (entry->type == BG_CHANGE_SYMLINK)
        return 0120000;
    return entry->mode & 0111 ? 0100755 : 0100644;
}

static bool has_text(const struct entry *entry)
{
    return entry && (entry->type == BG_CHANGE_FILE || entry->type == BG_CHANGE_SYMLINK);
}

/* *ret_bytes: heap, the caller's. */
static void fill_side(const struct session *s, const struct entry *entry, bool of_guest,
                      struct patch_side *side, char **ret_bytes)
{
    if (!has_text(entry))
        return;
    side->there = true;
    side->mode = git_mode(entry);
    side->size = entry->size;
    if (entry->type == BG_CHANGE_SYMLINK) {
        *ret_bytes = strdup(entry->target);
        side->size = strlen(entry->target);
    } else {
        *ret_bytes = of_guest ? session_read_guest(s, entry) : session_read_host(s, entry);
        if (of_guest)
            memcpy(side->hash, entry->hash, sizeof side->hash);
        else if (!*ret_bytes && session_hash_host(s, entry, side->hash) < 0)
            memset(side->hash, 0, sizeof side->hash);
    }
    side->bytes = *ret_bytes;
}

static void hash_bytes(struct patch_side *side)
{
    struct bg_sha256 hash;
    if (!side->bytes)
        return;
    bg_sha256_init(&hash);
    bg_sha256_update(&hash, side->bytes, (size_t)side->size);
    bg_sha256_final(&hash, side->hash);
}

static int print_patch(FILE *out, const struct session *s, const struct change *change,
                       struct bg_err *err)
{
    BG_AUTOFREE char *before = NULL;
    BG_AUTOFREE char *after = NULL;
    struct patch_opts opts = {.path = change->path, .escape = isatty(fileno(out))};
    bool mode_only = change->kind == CHANGE_MODE;
    if (!has_text(change->host) && !has_text(change->guest))
        return 0; /* folders are not in patches */
    if (change->marks & MARK_SECRET) {
        (void)fputs("# ", out);
        patch_name(out, change->path);
        (void)fputs(": its name is one for secrets, so its contents are not shown\n", out);
        return 0;
    }
    if (mode_only && git_mode(change->host) == git_mode(change->guest)) {
        /* Patches know of no more than whether a file can be run. */
        (void)fputs("# ", out);
        patch_name(out, change->path);
        (void)fprintf(out, ": permissions %03o -> %03o\n", change->host->mode & 0777u,
                      change->guest->mode & 0777u);
        return 0;
    }
    fill_side(s, change->host, false, &opts.before, &before);
    fill_side(s, mode_only ? NULL : change->guest, true, &opts.after, &after);
    if (mode_only) {
        opts.after = opts.before;
        opts.after.mode = git_mode(change->guest);
    }
    hash_bytes(&opts.before);
    if (change->conflict)
        (void)fprintf(out, "# CONFLICT: %s\n", change->conflict);
    return patch_write(out, &opts, err);
}

/* ---- stat ---- */

static void print_stat(FILE *out, const struct change *change)
{
    uint64_t before = change->host && change->host->type == BG_CHANGE_FILE ? change->host->size : 0;
    uint64_t after =
        change->guest && change->guest->type == BG_CHANGE_FILE ? change->guest->size : 0;
    (void)fprintf(out, "%c ", change->kind);
    patch_name(out, change->path);
    (void)fprintf(out, " | %llu -> %llu bytes\n", (unsigned long long)before,
                  (unsigned long long)after);
}

int show_changes(FILE *out, const struct session *s, enum show_form form,
                 const char *const *reasons, size_t *ret_count, struct bg_err *err)
{
    size_t count = 0;
    int r = 0;
    for (size_t i = 0; r == 0 && i < s->view.count; i++) {
        const struct change *change = &s->view.list[i];
        if (!shown(reasons, i))
            continue;
        count++;
        if (form == SHOW_PATCH) {
            r = print_patch(out, s, change, err);
        } else if (form == SHOW_STAT) {
            print_stat(out, change);
        } else if (form == SHOW_NAMES) {
            patch_name(out, change->path);
            (void)fputc('\n', out);
        }
    }
    if (form == SHOW_SUMMARY)
        print_summary(out, s, reasons);
    if (form == SHOW_STAT)
        print_count(out, s, reasons);
    *ret_count = count;
    return r;
}

/* ---- JSON ---- */

static const char *type_word(const struct entry *entry)
{
    switch ((enum bg_change_type)entry->type) {
    case BG_CHANGE_FILE:
        return "file";
    case BG_CHANGE_FOLDER:
        return "folder";
    case BG_CHANGE_SYMLINK:
        return "symlink";
    case BG_CHANGE_REMOVED:
    case BG_CHANGE_SPECIAL:
        break;
    }
    return "special";
}

static json_t *side_json(const struct entry *entry)
{
    char mode[16], hash[2 * BG_SHA256_SIZE + 1];
    if (!entry)
        return json_null();
    (void)snprintf(mode, sizeof mode, "%04o", entry->mode);
    json_t *json = json_pack("{s:s, s:s, s:I}", "type", type_word(entry), "mode", mode, "size",
                             (json_int_t)entry->size);
    if (json && entry->type == BG_CHANGE_SYMLINK)
        (void)json_object_set_new(json, "target", output_text(entry->target));
    if (json && entry->has_hash) {
        bg_hex(entry->hash, sizeof entry->hash, hash);
        (void)json_object_set_new(json, "sha256", json_string(hash));
    }
    return json;
}

static json_t *change_json(const struct change *change, const char *reason)
{
    static const struct {
        enum change_kind kind;
        const char *word;
    } words[] = {{CHANGE_ADDED, "added"},
                 {CHANGE_MODIFIED, "modified"},
                 {CHANGE_REMOVED, "removed"},
                 {CHANGE_TYPE, "type"},
                 {CHANGE_MODE, "mode"}};
    const char *kind = "";
    for (size_t k = 0; k < sizeof words / sizeof *words; k++)
        if (words[k].kind == change->kind)
            kind = words[k].word;
    json_t *marks = json_array();
    unsigned at = 0;
    for (const char *word; (word = marks_next(change->marks, &at));)
        (void)json_array_append_new(marks, json_string(word));
    return json_pack("{s:o, s:s, s:o, s:o, s:o, s:s?, s:s?}", "path", output_text(change->path),
                     "kind", kind, "marks", marks, "host", side_json(change->host), "sandbox",
                     side_json(change->guest), "conflict", change->conflict, "refused", reason);
}

json_t *show_json(const struct session *s, const char *const *reasons)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < s->view.count; i++) {
        if (!shown(reasons, i) && !refused(reasons, i))
            continue;
        json_t *change = change_json(&s->view.list[i], reasons ? reasons[i] : NULL);
        if (json_array_append_new(list, change) < 0) {
            json_decref(list);
            return NULL;
        }
    }
    return json_pack("{s:o, s:o, s:o}", "host", output_text(s->store.share->host), "sandbox",
                     output_text(s->store.share->guest), "changes", list);
}
