/* manifest.json as text. Pure. The file is ours, yet may have come from anywhere by an import, so
 * what is not exactly as we write it is refused. */
#include <stdio.h>
#include <string.h>

#include "common/io.h"
#include "common/state/image.h"
#include "common/state/sandbox_json.h"
#include "common/state/snapshot.h"

static const char *const kind_names[] = {
    [BG_SNAPSHOT_FULL] = "full", [BG_SNAPSHOT_DISK] = "disk", [BG_SNAPSHOT_SUSPEND] = "suspend"};

const char *bg_snapshot_kind_name(enum bg_snapshot_kind kind)
{
    return kind_names[kind];
}

bool bg_snapshot_tag_ok(const char *tag)
{
    return bg_sandbox_name_ok(tag[0] == '.' ? tag + 1 : tag);
}

bool bg_snapshot_split(const char *name, char source[BG_SANDBOX_NAME_MAX + 1],
                       char tag[BG_SANDBOX_NAME_MAX + 2])
{
    const char *at = strchr(name, '@');
    size_t size = at ? (size_t)(at - name) : 0;
    if (!at || size > BG_SANDBOX_NAME_MAX || !bg_snapshot_tag_ok(at + 1))
        return false;
    memcpy(source, name, size);
    source[size] = '\0';
    (void)snprintf(tag, BG_SANDBOX_NAME_MAX + 2, "%s", at + 1); /* fits: it was checked */
    return bg_sandbox_name_ok(source);
}

bool bg_snapshot_name_ok(const char *name)
{
    char source[BG_SANDBOX_NAME_MAX + 1], tag[BG_SANDBOX_NAME_MAX + 2];
    return bg_snapshot_split(name, source, tag);
}

static bool hex_ok(const char *text, size_t size)
{
    return strlen(text) == size && strspn(text, "0123456789abcdef") == size;
}

/* Of one line, since it is shown; it fits where it goes. */
static bool plain_ok(const char *text, size_t room)
{
    for (const char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127)
            return false;
    return strlen(text) < room;
}

static bool id_ok(const char *id)
{
    return strncmp(id, "sbx_", 4) == 0 && strlen(id) == 24 &&
           strspn(id + 4, SANDBOX_ID_CHARS) == 20;
}

/* --- reading --- */

static int take_layers(json_t *array, size_t max, struct bg_layer *layers, size_t *ret_count,
                       const char *what, struct bg_err *err)
{
    if (!json_is_array(array) || json_array_size(array) > max)
        return bg_err_set(err, -EUCLEAN, "%s: not up to %zu layers", what, max);
    for (size_t i = 0; i < json_array_size(array); i++) {
        const char *id;
        json_int_t size, mtime_ns;
        if (json_unpack(json_array_get(array, i), "{s:s, s:I, s:I !}", "id", &id, "size", &size,
                        "mtime_ns", &mtime_ns) < 0 ||
            !bg_layer_id_ok(id) || size < 0 || mtime_ns < 0)
            return bg_err_set(err, -EUCLEAN, "%s: layer %zu is off", what, i);
        for (size_t k = 0; k < i; k++)
            if (strcmp(layers[k].id, id) == 0)
                return bg_err_set(err, -EUCLEAN, "%s: layer %zu is there twice", what, i);
        layers[i] = (struct bg_layer){.size = (uint64_t)size, .mtime_ns = mtime_ns};
        memcpy(layers[i].id, id, BG_LAYER_ID_SIZE);
    }
    *ret_count = json_array_size(array);
    return 0;
}

static int take_memory(json_t *memory, json_t *state, struct bg_snapshot *s, struct bg_err *err)
{
    json_t *layers;
    json_int_t size;
    const char *base, *sum;
    if (s->kind == BG_SNAPSHOT_DISK)
        return memory || state ? bg_err_set(err, -EUCLEAN, "a disk's has no memory") : 0;
    if (!memory || !state)
        return bg_err_set(err, -EUCLEAN, "memory or state is missing");
    if (json_unpack(memory, "{s:s, s:o !}", "base", &base, "layers", &layers) < 0 ||
        (strcmp(base, "golden") != 0 && strcmp(base, "none") != 0))
        return bg_err_set(err, -EUCLEAN, "memory is off");
    if (json_unpack(state, "{s:I, s:s !}", "size", &size, "sha256", &sum) < 0 || size <= 0 ||
        size > BG_SNAPSHOT_STATE_MAX || !hex_ok(sum, sizeof s->state_sha256 - 1))
        return bg_err_set(err, -EUCLEAN, "state is off");
    s->memory_base_none = strcmp(base, "none") == 0;
    s->state_size = (uint64_t)size;
    memcpy(s->state_sha256, sum, sizeof s->state_sha256);
    return take_layers(layers, BG_MEMORY_LAYERS_MAX, s->memory, &s->memory_count, "memory", err);
}

static int take_kind(const char *kind, struct bg_snapshot *s)
{
    for (size_t i = 0; i < sizeof kind_names / sizeof *kind_names; i++)
        if (strcmp(kind, kind_names[i]) == 0) {
            s->kind = (enum bg_snapshot_kind)i;
            return 0;
        }
    return -EUCLEAN;
}

/* Of a sandbox's own instant the tag is nobody's business. */
static bool tag_fits(const char *tag, enum bg_snapshot_kind kind)
{
    return bg_snapshot_tag_ok(tag) || (kind == BG_SNAPSHOT_SUSPEND && tag[0] == '\0');
}

static bool copy_text(const char *text, char **ret)
{
    *ret = strdup(text);
    return *ret;
}

static int from_json(json_t *json, struct bg_snapshot *s, struct bg_err *err)
{
    json_error_t why;
    json_int_t version = 0, created_ms, cpus, memory_bytes, next_stream, dirty_bytes;
    const char *id, *tag, *note, *kind, *source_name, *source_id, *image_name, *image_digest;
    const char *golden, *qemu, *accel, *cpu;
    json_t *parent, *memory = NULL, *state = NULL, *disk, *sandbox;
    /* The version first: a later one's fields are no damage. */
    if (json_unpack_ex(json, &why, 0, "{s:I}", "version", &version) < 0)
        return bg_err_set(err, -EUCLEAN, "%s", why.text);
    if (version != 1)
        return version > 1 ? bg_err_set(err, -EPROTONOSUPPORT,
                                        "it is of a later bellglass (version %lld, this one knows "
                                        "1): install that",
                                        (long long)version)
                           : bg_err_set(err, -EUCLEAN, "version %lld", (long long)version);
    if (json_unpack_ex(json, &why, 0,
                       "{s:I, s:s, s:s, s:s, s:I, s:s, s:{s:s, s:s !}, s:o, s:{s:s, s:s !}, s:s, "
                       "s:I, s:I, s:{s:s, s:s, s:s !}, s?:o, s?:o, s:o, s:I, s:I, s:o !}",
                       "version", &version, "id", &id, "tag", &tag, "note", &note, "created_ms",
                       &created_ms, "kind", &kind, "source", "name", &source_name, "id", &source_id,
                       "parent", &parent, "image", "name", &image_name, "digest", &image_digest,
                       "golden", &golden, "cpus", &cpus, "memory_bytes", &memory_bytes, "machine",
                       "qemu", &qemu, "accel", &accel, "cpu", &cpu, "memory", &memory, "state",
                       &state, "disk", &disk, "next_stream", &next_stream, "dirty_bytes",
                       &dirty_bytes, "sandbox", &sandbox) < 0)
        return bg_err_set(err, -EUCLEAN, "%s", why.text);
    const char *parent_name = json_string_value(parent);
    if (take_kind(kind, s) < 0 || !tag_fits(tag, s->kind) || !bg_layer_id_ok(id) ||
        !bg_sandbox_name_ok(source_name) || !id_ok(source_id) ||
        (!json_is_null(parent) && (!parent_name || !bg_snapshot_name_ok(parent_name))))
        return bg_err_set(err, -EUCLEAN, "id, tag, kind, source or parent is off");
    if ((image_name[0] && !bg_image_name_ok(image_name) && !hex_ok(image_name, 64)) ||
        !hex_ok(image_digest, 64) || !bg_golden_name_ok(golden))
        return bg_err_set(err, -EUCLEAN, "image or golden is off");
    if (strlen(note) > BG_SNAPSHOT_NOTE_MAX || !plain_ok(qemu, sizeof s->qemu) ||
        !plain_ok(accel, sizeof s->accel) || (cpu[0] && !hex_ok(cpu, sizeof s->cpu - 1)) ||
        !json_is_object(sandbox))
        return bg_err_set(err, -EUCLEAN, "note, machine or sandbox is off");
    if (created_ms < 0 || cpus < 1 || cpus > BG_SANDBOX_CPUS_MAX ||
        memory_bytes < (json_int_t)BG_SANDBOX_MEMORY_MIN ||
        memory_bytes > (json_int_t)BG_SANDBOX_MEMORY_MAX || next_stream < 0 ||
        next_stream > UINT32_MAX || dirty_bytes < 0)
        return bg_err_set(err, -EUCLEAN, "a number is out of range");
    memcpy(s->id, id, sizeof s->id);
    memcpy(s->source_id, source_id, strlen(source_id) + 1);
    (void)snprintf(s->qemu, sizeof s->qemu, "%s", qemu); /* these three fit */
    (void)snprintf(s->accel, sizeof s->accel, "%s", accel);
    (void)snprintf(s->cpu, sizeof s->cpu, "%s", cpu);
    s->created_ms = (uint64_t)created_ms;
    s->cpus = (unsigned)cpus;
    s->memory_bytes = (uint64_t)memory_bytes;
    s->next_stream = (uint32_t)next_stream;
    s->dirty_bytes = (uint64_t)dirty_bytes;
    s->sandbox = json_incref(sandbox);
    if (!copy_text(tag, &s->tag) || !copy_text(note, &s->note) ||
        !copy_text(source_name, &s->source_name) || !copy_text(image_name, &s->image_name) ||
        !copy_text(image_digest, &s->image_digest) || !copy_text(golden, &s->golden) ||
        (parent_name && !copy_text(parent_name, &s->parent)))
        return bg_err_errno(err, -ENOMEM, "manifest");
    int r = take_memory(memory, state, s, err);
    return r < 0 ? r : take_layers(disk, BG_DISK_LAYERS_MAX, s->disk, &s->disk_count, "disk", err);
}

int bg_snapshot_parse(const char *text, size_t size, struct bg_snapshot *ret, struct bg_err *err)
{
    json_error_t why;
    json_auto_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    if (!json)
        return bg_err_set(err, -EUCLEAN, "line %d: not the JSON that was written", why.line);
    struct bg_snapshot s = {0};
    int r = from_json(json, &s, err);
    if (r < 0) {
        bg_snapshot_done(&s);
        return r;
    }
    *ret = s;
    return 0;
}

/* --- writing --- */

/* NULL when memory is out. */
static json_t *layers_to_json(const struct bg_layer *layers, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < count; i++)
        if (json_array_append_new(array, json_pack("{s:s, s:I, s:I}", "id", layers[i].id, "size",
                                                   (json_int_t)layers[i].size, "mtime_ns",
                                                   (json_int_t)layers[i].mtime_ns)) < 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

char *bg_snapshot_emit(const struct bg_snapshot *s)
{
    json_t *memory = NULL, *state = NULL; /* which one of a disk lacks */
    if (s->kind != BG_SNAPSHOT_DISK) {
        memory = json_pack("{s:s, s:o}", "base", s->memory_base_none ? "none" : "golden", "layers",
                           layers_to_json(s->memory, s->memory_count));
        state =
            json_pack("{s:I, s:s}", "size", (json_int_t)s->state_size, "sha256", s->state_sha256);
        if (!memory || !state) {
            json_decref(memory);
            json_decref(state);
            return NULL;
        }
    }
    json_auto_t *json = json_pack(
        "{s:i, s:s, s:s, s:s, s:I, s:s, s:{s:s, s:s}, s:s?, s:{s:s, s:s}, s:s, s:I, s:I, "
        "s:{s:s, s:s, s:s}, s:o*, s:o*, s:o, s:I, s:I, s:O}",
        "version", 1, "id", s->id, "tag", s->tag ? s->tag : "", "note", s->note ? s->note : "",
        "created_ms", (json_int_t)s->created_ms, "kind", kind_names[s->kind], "source", "name",
        s->source_name, "id", s->source_id, "parent", s->parent, "image", "name",
        s->image_name ? s->image_name : "", "digest", s->image_digest, "golden", s->golden, "cpus",
        (json_int_t)s->cpus, "memory_bytes", (json_int_t)s->memory_bytes, "machine", "qemu",
        s->qemu, "accel", s->accel, "cpu", s->cpu, "memory", memory, "state", state, "disk",
        layers_to_json(s->disk, s->disk_count), "next_stream", (json_int_t)s->next_stream,
        "dirty_bytes", (json_int_t)s->dirty_bytes, "sandbox", s->sandbox);
    return json ? json_dumps(json, JSON_INDENT(2)) : NULL;
}

void bg_snapshot_done(struct bg_snapshot *s)
{
    free(s->name);
    free(s->dir);
    free(s->tag);
    free(s->note);
    free(s->source_name);
    free(s->parent);
    free(s->image_name);
    free(s->image_digest);
    free(s->golden);
    json_decref(s->sandbox);
    *s = (struct bg_snapshot){0};
}
