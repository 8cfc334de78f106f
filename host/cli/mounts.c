#include "host/cli/mounts.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

#include "common/io.h"
#include "common/quote.h"
#include "host/cli/process.h"

#define MOUNTINFO_MAX      (16 * 1024 * 1024)
#define SOURCE_PREFIX      "bellglass:"
#define UNMOUNT_TIMEOUT_MS 15000

/* Undoes mountinfo's octal escapes (\040 and so on) in place. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *p = text; *p != '\0'; p++) {
        bool octal = p[0] == '\\' && p[1] >= '0' && p[1] <= '3' && p[2] >= '0' && p[2] <= '7' &&
                     p[3] >= '0' && p[3] <= '7';
        if (!octal) {
            *to++ = *p;
            continue;
        }
        *to++ = (char)(uint8_t)((p[1] - '0') << 6 | (p[2] - '0') << 3 | (p[3] - '0'));
        p += 3;
    }
    *to = '\0';
}

/* Cuts the next word off *at; NULL at the end of the line. */
static char *next_word(char **at)
{
    char *word = strsep(at, " ");
    return word && *word != '\0' ? word : NULL;
}

/* "ID PARENT DEV ROOT POINT OPTIONS [TAGS...] - TYPE SOURCE SUPER": *ret_point and *ret_source are
 * cut out of line if it is one of ours. */
static bool parse_line(char *line, char **ret_point, char **ret_source, bool *ret_read_only)
{
    char *word = NULL, *point = NULL;
    for (int i = 0; i < 5; i++)
        point = next_word(&line);
    const char *options = next_word(&line);
    do {
        word = next_word(&line);
    } while (word && strcmp(word, "-") != 0);
    const char *type = word ? next_word(&line) : NULL;
    char *source = type ? next_word(&line) : NULL;
    if (!point || !options || !source || strcmp(type, "fuse.bellglass") != 0 ||
        strncmp(source, SOURCE_PREFIX, strlen(SOURCE_PREFIX)) != 0)
        return false;
    *ret_point = point;
    *ret_read_only = strncmp(options, "ro", 2) == 0 && (options[2] == ',' || options[2] == '\0');
    *ret_source = source + strlen(SOURCE_PREFIX);
    return true;
}

/* source: NAME:ID. One without an id is none of a sandbox's (bellglass fs mount). */
static int add(struct mount_list *list, char *point, char *source, bool read_only)
{
    unescape(point);
    unescape(source);
    char *colon = strrchr(source, ':');
    if (colon)
        *colon = '\0';
    if (source[0] == '\0')
        return 0;
    struct mount_entry *grown = reallocarray(list->entries, list->count + 1, sizeof *list->entries);
    if (!grown)
        return -ENOMEM;
    list->entries = grown;
    struct mount_entry entry = {.sandbox = strdup(source),
                                .id = strdup(colon ? colon + 1 : ""),
                                .path = strdup(point),
                                .read_only = read_only};
    grown[list->count++] = entry;
    return entry.sandbox && entry.id && entry.path ? 0 : -ENOMEM;
}

int mounts_parse(const char *text, struct mount_list *ret, struct bg_err *err)
{
    struct mount_list list = {0};
    BG_AUTOFREE char *copy = strdup(text);
    int r = copy ? 0 : -ENOMEM;
    char *rest = copy;
    for (char *line; r == 0 && (line = strsep(&rest, "\n"));) {
        char *point, *source;
        bool read_only;
        if (parse_line(line, &point, &source, &read_only))
            r = add(&list, point, source, read_only);
    }
    if (r < 0) {
        mounts_done(&list);
        return bg_err_errno(err, r, "mount list");
    }
    *ret = list;
    return 0;
}

int mounts_read(struct mount_list *ret, struct bg_err *err)
{
    BG_AUTOFREE char *text = NULL;
    size_t size;
    int r = bg_read_file(AT_FDCWD, "/proc/self/mountinfo", MOUNTINFO_MAX, &text, &size, err);
    return r < 0 ? r : mounts_parse(text, ret, err);
}

void mounts_done(struct mount_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->entries[i].sandbox);
        free(list->entries[i].id);
        free(list->entries[i].path);
    }
    free(list->entries);
    *list = (struct mount_list){0};
}

char *mounts_own_folder(const struct bg_paths *paths, const char *sandbox)
{
    char *path = NULL;
    return asprintf(&path, "%s/mounts%s%s", paths->runtime, *sandbox ? "/" : "", sandbox) < 0
               ? NULL
               : path;
}

bool mounts_match(const struct mount_entry *entry, const struct bg_sandbox *sandbox)
{
    return strcmp(entry->sandbox, sandbox->name) == 0 && strcmp(entry->id, sandbox->id) == 0;
}

static int fusermount(const char *path, bool lazily, struct bg_err *err)
{
    BG_AUTOFREE char *copy = strdup(path);
    char program[] = "fusermount3", unmount[] = "-u", quiet[] = "-q", lazy[] = "-z", end[] = "--";
    char said[256], text[256];
    int status;
    if (!copy)
        return bg_err_errno(err, -ENOMEM, "unmount");
    /* Its quiet lazy form still tells what is wrong by its status. */
    char *argv[] = {program, unmount, lazily ? lazy : quiet, end, copy, NULL};
    int r = process_output(argv, said, sizeof said, UNMOUNT_TIMEOUT_MS, &status, err);
    if (r < 0 || status == 0)
        return r;
    bg_escape(said, strcspn(said, "\n"), text, sizeof text);
    return bg_err_set(err, -EBUSY, "%s", text[0] ? text : "fusermount3 failed");
}

int mounts_unmount(const char *path, bool *ret_busy, struct bg_err *err)
{
    char quoted[512];
    bool busy = false;
    int r;
    (void)bg_quote(path, quoted, sizeof quoted);
    if (geteuid() == 0) {
        r = umount2(path, UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
        busy = r == -EBUSY;
        if (busy)
            r = umount2(path, UMOUNT_NOFOLLOW | MNT_DETACH) < 0 ? -errno : 0;
        if (r < 0)
            return bg_err_errno(err, r, "cannot unmount %s", quoted);
    } else {
        busy = fusermount(path, /* lazily= */ false, NULL) < 0;
        r = busy ? fusermount(path, /* lazily= */ true, err) : 0;
        if (r < 0) {
            (void)bg_err_prefix(err, "cannot unmount %s", quoted);
            return r;
        }
    }
    if (ret_busy)
        *ret_busy = busy;
    return 0;
}

int mounts_unmount_sandbox(const struct bg_sandbox *sandbox, struct bg_err *err)
{
    struct mount_list list = {0};
    struct bg_err why;
    int first = mounts_read(&list, err);
    if (first < 0)
        return first;
    for (size_t i = list.count; i > 0; i--) {
        if (!mounts_match(&list.entries[i - 1], sandbox))
            continue;
        int r = mounts_unmount(list.entries[i - 1].path, NULL, &why);
        if (r < 0 && first == 0)
            first = bg_err_set(err, r, "%s", why.text);
    }
    mounts_done(&list);
    return first;
}
