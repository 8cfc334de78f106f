#include "host/cli/archive_format.h"

#include <stdio.h>
#include <string.h>

#include "common/sha256.h"

#define DISK_MAX   (16ull << 40) /* as much as QEMU's qcow2 and the file systems here can */
#define INITRD_MAX (1ull << 30)
#define CHILD_MAX  (64ull << 20) /* an empty overlay */
#define SUMS_MAX   (ARCHIVE_ENTRIES_MAX * 160ull)

const char *const archive_golden_files[] = {"manifest.json", "disk.qcow2", "initrd", "child.qcow2",
                                            "state",         "memory",     NULL};

/* "PREFIXidSUFFIX" */
static bool is_layer(const char *file, const char *prefix, const char *suffix)
{
    char id[BG_LAYER_ID_SIZE];
    size_t before = strlen(prefix);
    if (strncmp(file, prefix, before) != 0 || strlen(file) < before + sizeof id - 1)
        return false;
    (void)snprintf(id, sizeof id, "%s", file + before); /* cut at what is compared */
    return bg_layer_id_ok(id) && strcmp(file + before + sizeof id - 1, suffix) == 0;
}

static bool is_snapshots(const char *file)
{
    return strcmp(file, BG_SNAPSHOT_MANIFEST) == 0 || strcmp(file, BG_SNAPSHOT_SUM) == 0 ||
           strcmp(file, BG_SNAPSHOT_STATE) == 0 || is_layer(file, "memory-", ".mem") ||
           is_layer(file, "disk-", ".qcow2");
}

static bool is_goldens(const char *file)
{
    for (size_t i = 0; archive_golden_files[i]; i++)
        if (strcmp(file, archive_golden_files[i]) == 0)
            return true;
    return false;
}

bool archive_split(const char *entry, enum archive_part *ret_part, const char **ret_file)
{
    static const char snapshot[] = "snapshot/", golden[] = "golden/";
    if (strlen(entry) >= ARCHIVE_NAME_SIZE)
        return false;
    *ret_file = entry;
    if (strcmp(entry, "format") == 0) {
        *ret_part = ARCHIVE_FORMAT;
        return true;
    }
    if (strcmp(entry, "sums") == 0) {
        *ret_part = ARCHIVE_SUMS;
        return true;
    }
    if (strncmp(entry, snapshot, sizeof snapshot - 1) == 0) {
        *ret_part = ARCHIVE_SNAPSHOT;
        *ret_file = entry + sizeof snapshot - 1;
        return is_snapshots(*ret_file);
    }
    *ret_part = ARCHIVE_GOLDEN;
    *ret_file = entry + sizeof golden - 1;
    return strncmp(entry, golden, sizeof golden - 1) == 0 && is_goldens(*ret_file);
}

/* The layer of that file, or NULL. */
static const struct bg_layer *find_layer(const struct bg_snapshot *snapshot, const char *file)
{
    char own[BG_LAYER_FILE_SIZE];
    for (size_t i = 0; i < snapshot->memory_count; i++) {
        bg_layer_memory_file(snapshot->memory[i].id, own);
        if (strcmp(file, own) == 0)
            return &snapshot->memory[i];
    }
    for (size_t i = 0; i < snapshot->disk_count; i++) {
        bg_layer_disk_file(snapshot->disk[i].id, own);
        if (strcmp(file, own) == 0)
            return &snapshot->disk[i];
    }
    return NULL;
}

bool archive_has_file(const struct bg_snapshot *snapshot, const char *file)
{
    return strcmp(file, BG_SNAPSHOT_MANIFEST) == 0 || strcmp(file, BG_SNAPSHOT_SUM) == 0 ||
           (strcmp(file, BG_SNAPSHOT_STATE) == 0 && snapshot->kind != BG_SNAPSHOT_DISK) ||
           find_layer(snapshot, file) != NULL;
}

static uint64_t golden_max(const char *file, const struct bg_snapshot *snapshot)
{
    if (strcmp(file, "manifest.json") == 0)
        return BG_MANIFEST_MAX;
    if (strcmp(file, "state") == 0)
        return BG_SNAPSHOT_STATE_MAX;
    if (strcmp(file, "memory") == 0)
        return snapshot->memory_bytes;
    if (strcmp(file, "initrd") == 0)
        return INITRD_MAX;
    return strcmp(file, "child.qcow2") == 0 ? CHILD_MAX : DISK_MAX;
}

uint64_t archive_size_max(enum archive_part part, const char *file,
                          const struct bg_snapshot *snapshot)
{
    switch (part) {
    case ARCHIVE_FORMAT:
        return sizeof ARCHIVE_FORMAT_TEXT - 1;
    case ARCHIVE_SUMS:
        return SUMS_MAX;
    case ARCHIVE_GOLDEN:
        return snapshot ? golden_max(file, snapshot) : 0;
    case ARCHIVE_SNAPSHOT:
        break;
    }
    if (strcmp(file, BG_SNAPSHOT_MANIFEST) == 0)
        return BG_MANIFEST_MAX;
    if (strcmp(file, BG_SNAPSHOT_SUM) == 0)
        return BG_SHA256_SIZE * 2 + 1;
    if (!snapshot)
        return 0;
    const struct bg_layer *layer = find_layer(snapshot, file);
    return layer ? layer->size : strcmp(file, BG_SNAPSHOT_STATE) == 0 ? snapshot->state_size : 0;
}

bool archive_next_sum(const char **at, char hex[65], char name[ARCHIVE_NAME_SIZE], bool *ret_bad)
{
    const char *line = *at;
    *ret_bad = false;
    if (*line == '\0')
        return false;
    size_t size = strcspn(line, "\n");
    *ret_bad = size < 64 + 2 + 1 || size - 66 >= ARCHIVE_NAME_SIZE || line[size] != '\n' ||
               strspn(line, "0123456789abcdef") != 64 || line[64] != ' ' || line[65] != ' ';
    if (*ret_bad)
        return false;
    memcpy(hex, line, 64);
    hex[64] = '\0';
    memcpy(name, line + 66, size - 66);
    name[size - 66] = '\0';
    *at = line + size + 1;
    return true;
}
