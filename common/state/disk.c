#include "common/state/disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "common/io.h"
#include "common/state/snapshot.h"

#define OLD_GOLDEN_FILE "golden" /* what stood in the place of disk.json before */
#define ID_DIGITS       (BG_LAYER_ID_SIZE - 1)

bool bg_layer_id_ok(const char *id)
{
    return strlen(id) == ID_DIGITS && strspn(id, "0123456789abcdef") == ID_DIGITS;
}

void bg_layer_new_id(char out[BG_LAYER_ID_SIZE])
{
    uint8_t bytes[ID_DIGITS / 2];
    bg_random(bytes, sizeof bytes);
    bg_hex(bytes, sizeof bytes, out);
}

void bg_layer_disk_file(const char *id, char out[BG_LAYER_FILE_SIZE])
{
    (void)snprintf(out, BG_LAYER_FILE_SIZE, "disk-%.16s.qcow2", id); /* fits */
}

void bg_layer_memory_file(const char *id, char out[BG_LAYER_FILE_SIZE])
{
    (void)snprintf(out, BG_LAYER_FILE_SIZE, "memory-%.16s.mem", id); /* fits */
}

bool bg_golden_name_ok(const char *name)
{
    static const char prefix[] = "golden-";
    size_t size = strlen(name);
    return strncmp(name, prefix, sizeof prefix - 1) == 0 && size < 128 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") == size;
}

/* A layer's file has one of two names, so that none leads out of the folder. */
static bool file_ok(const char *id, const char *file)
{
    char own[BG_LAYER_FILE_SIZE];
    bg_layer_disk_file(id, own);
    return strcmp(file, BG_DISK_FIRST) == 0 || strcmp(file, own) == 0;
}

int bg_disk_push(struct bg_disk *disk, const char *id, const char *file, struct bg_err *err)
{
    char own[BG_LAYER_FILE_SIZE];
    if (disk->count == BG_DISK_LAYERS_MAX)
        return bg_err_set(err, -EMLINK,
                          "its disk has %d layers, as many as there may be: let it run, and it is "
                          "made short again (bellglass flatten)",
                          BG_DISK_LAYERS_MAX);
    bg_layer_disk_file(id, own);
    char *copy = strdup(file ? file : own);
    if (!copy)
        return bg_err_errno(err, -ENOMEM, "%s", BG_DISK_FILE);
    (void)snprintf(disk->layers[disk->count].id, BG_LAYER_ID_SIZE, "%s", id);
    disk->layers[disk->count++].file = copy;
    return 0;
}

static int take_layers(json_t *layers, struct bg_disk *disk, struct bg_err *err)
{
    if (!json_is_array(layers) || json_array_size(layers) > BG_DISK_LAYERS_MAX)
        return bg_err_set(err, -EUCLEAN, "not up to %d layers", BG_DISK_LAYERS_MAX);
    for (size_t i = 0; i < json_array_size(layers); i++) {
        const char *id, *file;
        if (json_unpack(json_array_get(layers, i), "{s:s, s:s !}", "id", &id, "file", &file) < 0 ||
            !bg_layer_id_ok(id) || !file_ok(id, file))
            return bg_err_set(err, -EUCLEAN, "layer %zu: id or file is off", i);
        for (size_t k = 0; k < i; k++)
            if (strcmp(disk->layers[k].id, id) == 0 || strcmp(disk->layers[k].file, file) == 0)
                return bg_err_set(err, -EUCLEAN, "layer %zu is there twice", i);
        int r = bg_disk_push(disk, id, file, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int from_json(json_t *json, struct bg_disk *disk, struct bg_err *err)
{
    json_error_t why;
    json_int_t version;
    int top;
    const char *golden;
    json_t *parent, *layers;
    if (json_unpack_ex(json, &why, 0, "{s:I, s:s, s:b, s:o, s:o !}", "version", &version, "golden",
                       &golden, "top", &top, "parent", &parent, "layers", &layers) < 0)
        return bg_err_set(err, -EUCLEAN, "%s", why.text);
    const char *parent_name = json_string_value(parent);
    if (version != 1)
        return bg_err_set(err, -EUCLEAN, "version %lld: this bellglass knows 1",
                          (long long)version);
    if (!bg_golden_name_ok(golden) ||
        (!json_is_null(parent) && (!parent_name || !bg_snapshot_name_ok(parent_name))) ||
        (top && json_array_size(layers) == 0))
        return bg_err_set(err, -EUCLEAN, "golden, parent or top is off");
    disk->top = top;
    disk->golden = strdup(golden);
    disk->parent = parent_name ? strdup(parent_name) : NULL;
    if (!disk->golden || (parent_name && !disk->parent))
        return bg_err_errno(err, -ENOMEM, "disk");
    return take_layers(layers, disk, err);
}

int bg_disk_parse(const char *text, size_t size, struct bg_disk *ret, struct bg_err *err)
{
    json_error_t why;
    json_auto_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    if (!json)
        return bg_err_set(err, -EUCLEAN, "line %d: %s", why.line, why.text);
    struct bg_disk disk = {0};
    int r = from_json(json, &disk, err);
    if (r < 0) {
        bg_disk_done(&disk);
        return r;
    }
    *ret = disk;
    return 0;
}

char *bg_disk_emit(const struct bg_disk *disk)
{
    json_auto_t *layers = json_array();
    for (size_t i = 0; layers && i < disk->count; i++)
        if (json_array_append_new(layers, json_pack("{s:s, s:s}", "id", disk->layers[i].id, "file",
                                                    disk->layers[i].file)) < 0)
            return NULL;
    json_auto_t *json =
        json_pack("{s:i, s:s, s:b, s:s?, s:O}", "version", 1, "golden", disk->golden, "top",
                  disk->top, "parent", disk->parent, "layers", layers);
    return json ? json_dumps(json, JSON_COMPACT) : NULL;
}

/* Of a sandbox from before there was disk.json. */
static int load_old(int dir_fd, struct bg_disk *ret, struct bg_err *err)
{
    BG_AUTOFREE char *golden = NULL;
    char id[BG_LAYER_ID_SIZE];
    size_t size;
    if (faccessat(dir_fd, BG_DISK_FIRST, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
        return bg_err_set(err, -ENOENT, "it was never started, so it has no disk of its own yet");
    int r = bg_read_file(dir_fd, OLD_GOLDEN_FILE, BG_NAME_MAX, &golden, &size, err);
    if (r < 0 || !bg_golden_name_ok(golden))
        return bg_err_set(err, -EUCLEAN, "%s is missing", BG_DISK_FILE);
    struct bg_disk disk = {.golden = BG_TAKE(golden), .top = true};
    bg_layer_new_id(id);
    r = bg_disk_push(&disk, id, BG_DISK_FIRST, err);
    if (r < 0) {
        bg_disk_done(&disk);
        return r;
    }
    *ret = disk;
    return 0;
}

int bg_disk_load(int dir_fd, struct bg_disk *ret, struct bg_err *err)
{
    BG_AUTOFREE char *text = NULL;
    size_t size;
    int r = bg_read_file(dir_fd, BG_DISK_FILE, BG_MANIFEST_MAX, &text, &size, err);
    if (r == -ENOENT)
        return load_old(dir_fd, ret, err);
    if (r == -EFBIG)
        return bg_err_set(err, -EUCLEAN, "%s is too large", BG_DISK_FILE);
    if (r == 0) {
        r = bg_disk_parse(text, size, ret, err);
        if (r < 0)
            (void)bg_err_prefix(err, "%s", BG_DISK_FILE);
    }
    return r;
}

int bg_disk_save(int dir_fd, const struct bg_disk *disk, struct bg_err *err)
{
    BG_AUTOFREE char *text = bg_disk_emit(disk);
    if (!text)
        return bg_err_errno(err, -ENOMEM, "%s", BG_DISK_FILE);
    int r = bg_write_file(dir_fd, BG_DISK_FILE, text, strlen(text), 0644, err);
    if (r == 0)
        (void)unlinkat(dir_fd, OLD_GOLDEN_FILE, 0); /* which it replaces, if there is one */
    return r;
}

static bool belongs(const struct bg_disk *disk, const char *file)
{
    for (size_t i = 0; i < disk->count; i++)
        if (strcmp(disk->layers[i].file, file) == 0)
            return true;
    return false;
}

static bool is_layer(const char *file)
{
    static const char prefix[] = "disk-";
    char id[BG_LAYER_ID_SIZE];
    if (strcmp(file, BG_DISK_FIRST) == 0)
        return true;
    if (strncmp(file, prefix, sizeof prefix - 1) != 0)
        return false;
    (void)snprintf(id, sizeof id, "%s", file + sizeof prefix - 1); /* cut at what is compared */
    return bg_layer_id_ok(id) && file_ok(id, file);
}

int bg_disk_strays(int dir_fd, const struct bg_disk *disk, bool remove, size_t *ret_count,
                   struct bg_err *err)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int saved = errno;
        if (fd >= 0)
            (void)close(fd); /* nothing was read */
        return bg_err_errno(err, -saved, "the sandbox's folder");
    }
    int r = 0;
    size_t count = 0;
    const struct dirent *entry;
    while (r == 0 && (entry = readdir(dir))) {
        if (!is_layer(entry->d_name) || belongs(disk, entry->d_name))
            continue;
        count++;
        if (remove && unlinkat(dir_fd, entry->d_name, 0) < 0 && errno != ENOENT)
            r = bg_err_errno(err, -errno, "%s", entry->d_name);
    }
    (void)closedir(dir); /* read only */
    if (r == 0)
        *ret_count = count;
    return r;
}

int bg_disk_tidy(int dir_fd, const struct bg_disk *disk, struct bg_err *err)
{
    size_t count;
    return bg_disk_strays(dir_fd, disk, /* remove= */ true, &count, err);
}

void bg_disk_done(struct bg_disk *disk)
{
    free(disk->golden);
    free(disk->parent);
    for (size_t i = 0; i < disk->count; i++)
        free(disk->layers[i].file);
    *disk = (struct bg_disk){0};
}
