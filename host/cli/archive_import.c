/* import. The file may come from anywhere: each entry must be one that an export has, in its order
 * and no larger than the manifest says, and all is written to folders that are locked and have no
 * name yet. What its sandbox was allowed on the machine that it is from it is not here, unless the
 * user says so: rules, secrets and shared folders would be this user's. */
#include "host/cli/archiving.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <archive.h>
#include <archive_entry.h>

#include "common/io.h"
#include "common/quote.h"
#include "common/state/image.h"
#include "common/state/snapshot.h"
#include "host/cli/archive_format.h"
#include "host/cli/archive_golden.h"
#include "host/cli/archive_sum.h"
#include "host/cli/cmd_archive.h"
#include "host/cli/meter.h"
#include "host/cli/output.h"
#include "host/cli/process.h"
#include "host/cli/signals.h"
#include "host/cli/snapshots.h"

#define READ_SIZE        (1u << 20)
#define PROBE_TIMEOUT_MS 20000
#define FIRST_FILES      3 /* format, manifest, sum */

struct importer {
    struct app *app;
    const struct args *args;
    struct archive *archive;
    int in_fd, signal_fd;
    int read_error; /* negative errno of in_fd */
    uint64_t read_bytes;
    char *buffer; /* READ_SIZE */
    struct archive_sum *sum;
    struct meter meter;
    int temp_fd;
    char *temp_name; /* NULL: committed, or not begun */
    struct bg_snapshot snapshot;
    bool has_snapshot, has_golden_files;
    struct archive_golden golden;
    struct {
        char name[ARCHIVE_NAME_SIZE], hex[BG_SHA256_SIZE * 2 + 1];
    } files[ARCHIVE_ENTRIES_MAX];
    size_t file_count;
    char *sums; /* the text of the last entry */
};

static la_ssize_t give(struct archive *archive, void *owner, const void **ret_bytes)
{
    struct importer *im = owner;
    ssize_t n;
    do {
        n = read(im->in_fd, im->buffer, READ_SIZE);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        im->read_error = -errno;
        archive_set_error(archive, errno, "%s", strerror(errno));
        return -1;
    }
    im->read_bytes += (uint64_t)n;
    *ret_bytes = im->buffer;
    return n;
}

/* Whatever libarchive says of the bytes is said as one line. */
static int say(const struct importer *im, struct bg_err *err)
{
    char escaped[BG_ERR_TEXT_SIZE / 2];
    const char *text = archive_error_string(im->archive);
    if (im->read_error < 0)
        return bg_err_errno(err, im->read_error, "it cannot be read");
    bg_escape(text ? text : "", text ? strlen(text) : 0, escaped, sizeof escaped);
    return bg_err_set(err, -EUCLEAN, "not a whole export: %s", escaped);
}

static int check_going(struct importer *im, struct bg_err *err)
{
    meter_update(&im->meter, im->read_bytes);
    for (int number; (number = signals_next(im->signal_fd)) > 0;)
        if (number == SIGINT || number == SIGTERM || number == SIGHUP || number == SIGQUIT)
            return bg_err_set(err, -ECANCELED, "stopped by a signal");
    return 0;
}

/* ---- one entry ---- */

static int put(int fd, const void *bytes, size_t size, uint64_t offset)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = pwrite(fd, (const char *)bytes + at, size - at, (off_t)(offset + at));
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0)
            at += (size_t)n;
    }
    return 0;
}

/* Copies the entry's data to out_fd (-1: nowhere) and notes its sum. Holes stay holes. */
static int copy_data(struct importer *im, const char *name, uint64_t size, int out_fd,
                     struct bg_err *err)
{
    archive_sum_init(im->sum);
    for (;;) {
        const void *bytes;
        size_t part;
        la_int64_t offset;
        int status = archive_read_data_block(im->archive, &bytes, &part, &offset);
        if (status == ARCHIVE_EOF)
            break;
        if (status != ARCHIVE_OK)
            return say(im, err);
        if (offset < 0 || (uint64_t)offset > size || part > size - (uint64_t)offset ||
            archive_sum_add(im->sum, (uint64_t)offset, bytes, part) < 0)
            return bg_err_set(err, -EUCLEAN, "not an export: its parts do not fit");
        int r = out_fd < 0 ? 0 : put(out_fd, bytes, part, (uint64_t)offset);
        if (r < 0)
            return bg_err_errno(err, r, "cannot write");
        r = check_going(im, err);
        if (r < 0)
            return r;
    }
    if (out_fd >= 0 && ftruncate(out_fd, (off_t)size) < 0)
        return bg_err_errno(err, -errno, "cannot write");
    (void)snprintf(im->files[im->file_count].name, ARCHIVE_NAME_SIZE, "%s", name);
    return archive_sum_final(im->sum, size, im->files[im->file_count++].hex);
}

/* A small entry as text. *ret: heap. */
static int read_text(struct importer *im, uint64_t size, char **ret, struct bg_err *err)
{
    BG_AUTOFREE char *text = calloc(1, (size_t)size + 1);
    if (!text)
        return bg_err_errno(err, -ENOMEM, "import");
    la_ssize_t n = archive_read_data(im->archive, text, (size_t)size);
    if (n < 0)
        return say(im, err);
    if ((uint64_t)n != size || strlen(text) != size)
        return bg_err_set(err, -EUCLEAN, "not an export: a text in it is none");
    *ret = BG_TAKE(text);
    return 0;
}

static int store_file(struct importer *im, const char *entry, const char *file, int dir_fd,
                      uint64_t size, struct bg_err *err)
{
    BG_AUTOCLOSE int fd =
        openat(dir_fd, file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return errno == EEXIST ? bg_err_set(err, -EUCLEAN, "not an export: it is there twice")
                               : bg_err_errno(err, -errno, "cannot write");
    return copy_data(im, entry, size, fd, err);
}

/* ---- what the manifest asks of this machine ---- */

/* QEMU's state can be loaded only by what wrote it. */
static int check_machine(struct importer *im, struct bg_err *err)
{
    const struct bg_snapshot *s = &im->snapshot;
    BG_AUTOFREE char *path = NULL;
    char output[4096], verb[] = "probe";
    int status;
    if (s->kind == BG_SNAPSHOT_DISK || args_flag(im->args, ARCHIVE_ANYWAY))
        return 0;
    int r = bg_helper_path("bellglass-supervisor", &path, err);
    char *argv[] = {path, verb, NULL};
    if (r == 0)
        r = process_output(argv, output, sizeof output, PROBE_TIMEOUT_MS, &status, err);
    if (r < 0)
        return r;
    json_auto_t *json = json_loads(output, JSON_REJECT_DUPLICATES, NULL);
    const char *qemu = json_string_value(json_object_get(json_object_get(json, "qemu"), "version"));
    const char *accel = json_string_value(json_object_get(json_object_get(json, "accel"), "name"));
    if (!qemu || !accel)
        return bg_err_set(err, -ENOTSUP,
                          "QEMU cannot be asked for its version: see bellglass "
                          "doctor, or give --anyway");
    bool same_qemu = strcmp(qemu, s->qemu) == 0;
    if (same_qemu && strcmp(accel, s->accel) == 0)
        return 0;
    return bg_err_set(err, -ENOTSUP,
                      "its memory was saved with %s '%s' and cannot be restored here, with '%s'; "
                      "with --anyway its disk can be had: bellglass fork --no-start, then start "
                      "--cold",
                      same_qemu ? "accelerator" : "QEMU", same_qemu ? s->accel : s->qemu,
                      same_qemu ? accel : qemu);
}

static int check_image(struct importer *im, struct bg_err *err)
{
    struct bg_image image;
    char quoted[128];
    int r = bg_image_find(&im->app->paths, im->snapshot.image_digest, &image, err);
    if (r == 0)
        bg_image_done(&image);
    return r == -ENOENT
               ? bg_err_set(err, r,
                            "it stands on the image %s (%.12s), which is not here: bring it here "
                            "first (bellglass image import, or build from the same recipe)",
                            bg_quote(im->snapshot.image_name, quoted, sizeof quoted),
                            im->snapshot.image_digest)
               : r;
}

/* What it was allowed elsewhere is not for it to say here. */
static int take_rights_away(struct bg_snapshot *s, struct bg_err *err)
{
    json_t *network = json_pack("{s:[], s:n}", "allow", "upstream_ca");
    if (!network || json_object_set_new(s->sandbox, "network", network) < 0 ||
        json_object_set_new(s->sandbox, "secrets", json_array()) < 0 ||
        json_object_set_new(s->sandbox, "shares", json_array()) < 0)
        return bg_err_errno(err, -ENOMEM, "import");
    return 0;
}

static int check_settings(struct importer *im, struct bg_err *err)
{
    const struct bg_snapshot *s = &im->snapshot;
    struct bg_sandbox sandbox;
    int r = 0;
    if (!args_flag(im->args, ARCHIVE_TRUST))
        r = take_rights_away(&im->snapshot, err);
    if (r == 0)
        r = bg_sandbox_fork_config(s->sandbox, NULL, &sandbox, err);
    if (r < 0)
        return r;
    bool same = strcmp(sandbox.image_digest, s->image_digest) == 0 && sandbox.cpus == s->cpus &&
                sandbox.memory_bytes == s->memory_bytes;
    bg_sandbox_done(&sandbox);
    return same ? 0
                : bg_err_set(err, -EUCLEAN,
                             "not an export: its sandbox is not the one of its memory and disk");
}

/* After the manifest and its sum. */
static int take_manifest(struct importer *im, struct bg_err *err)
{
    int r = bg_snapshot_load_at(im->temp_fd, &im->snapshot, err);
    if (r < 0)
        return r == -ENOENT ? bg_err_set(err, -EUCLEAN, "not an export: it has no manifest") : r;
    im->has_snapshot = true;
    if (im->snapshot.kind == BG_SNAPSHOT_SUSPEND)
        return bg_err_set(err, -EUCLEAN, "not an export of a snapshot");
    r = check_settings(im, err);
    if (r == 0)
        r = check_image(im, err);
    if (r == 0)
        r = check_machine(im, err);
    if (r == 0)
        r = archive_golden_begin(&im->app->paths, im->snapshot.golden, &im->golden, err);
    return r;
}

/* ---- all entries ---- */

static int check_order(const struct importer *im, enum archive_part part, const char *file)
{
    static const char *const first[FIRST_FILES] = {"format", BG_SNAPSHOT_MANIFEST, BG_SNAPSHOT_SUM};
    if (im->sums || im->file_count == ARCHIVE_ENTRIES_MAX - 1)
        return -EUCLEAN;
    if (im->file_count < FIRST_FILES)
        return strcmp(file, first[im->file_count]) == 0 && part != ARCHIVE_GOLDEN ? 0 : -EUCLEAN;
    /* The golden snapshot's files come before those that stand on it. */
    if (part == ARCHIVE_GOLDEN)
        return 0;
    return part == ARCHIVE_SUMS ||
                   (part == ARCHIVE_SNAPSHOT && archive_has_file(&im->snapshot, file))
               ? 0
               : -EUCLEAN;
}

static int take_entry(struct importer *im, const char *name, enum archive_part part,
                      const char *file, uint64_t size, struct bg_err *err)
{
    BG_AUTOFREE char *text = NULL;
    int r = 0;
    switch (part) {
    case ARCHIVE_FORMAT:
        r = read_text(im, size, &text, err);
        if (r == 0 && strcmp(text, ARCHIVE_FORMAT_TEXT) != 0)
            r = bg_err_set(err, -EPROTONOSUPPORT, "an export of a later bellglass");
        im->file_count++; /* the nameless first: it has no sum */
        return r;
    case ARCHIVE_SUMS:
        return read_text(im, size, &im->sums, err);
    case ARCHIVE_GOLDEN:
        im->has_golden_files = true;
        return im->golden.dir_fd < 0 ? copy_data(im, name, size, -1, err)
                                     : store_file(im, name, file, im->golden.dir_fd, size, err);
    case ARCHIVE_SNAPSHOT:
        break;
    }
    if (im->has_snapshot && im->golden.dir_fd >= 0 && !im->has_golden_files)
        return bg_err_set(err, -ENOENT,
                          "it was exported without the golden snapshot that it stands on (%s), "
                          "which is not here: export it without --no-base",
                          im->snapshot.golden);
    r = store_file(im, name, file, im->temp_fd, size, err);
    return r == 0 && im->file_count == FIRST_FILES ? take_manifest(im, err) : r;
}

static int read_entries(struct importer *im, struct bg_err *err)
{
    struct archive_entry *entry;
    for (;;) {
        int status = archive_read_next_header(im->archive, &entry);
        if (status == ARCHIVE_EOF)
            return im->sums ? 0 : bg_err_set(err, -EUCLEAN, "not a whole export: its end is cut");
        if (status != ARCHIVE_OK)
            return say(im, err);
        const char *path = archive_entry_pathname(entry), *file;
        char name[ARCHIVE_NAME_SIZE], quoted[ARCHIVE_NAME_SIZE * 4];
        enum archive_part part;
        la_int64_t size = archive_entry_size(entry);
        (void)snprintf(name, sizeof name, "%s", path ? path : "");
        if (!path || !archive_split(path, &part, &file) ||
            archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry) ||
            !archive_entry_size_is_set(entry) || size < 0 || check_order(im, part, file) < 0)
            return bg_err_set(err, -EUCLEAN, "not an export: %s is not expected there",
                              bg_quote(path ? path : "", quoted, sizeof quoted));
        if ((uint64_t)size > archive_size_max(part, file, im->has_snapshot ? &im->snapshot : NULL))
            return bg_err_set(err, -EUCLEAN, "not an export: %s has %lld bytes", name,
                              (long long)size);
        (void)archive_split(name, &part, &file); /* of the copy: entry's goes with its data */
        int r = take_entry(im, name, part, file, (uint64_t)size, err);
        if (r < 0)
            return bg_err_prefix(err, "%s", name);
    }
}

static int check_sums(const struct importer *im, struct bg_err *err)
{
    char hex[65], name[ARCHIVE_NAME_SIZE];
    const char *at = im->sums;
    bool bad, found[ARCHIVE_ENTRIES_MAX] = {false};
    while (archive_next_sum(&at, hex, name, &bad))
        for (size_t i = 1; i < im->file_count; i++)
            if (strcmp(im->files[i].name, name) == 0 && strcmp(im->files[i].hex, hex) == 0)
                found[i] = true;
    if (bad)
        return bg_err_set(err, -EUCLEAN, "not an export: its sums make no sense");
    for (size_t i = 1; i < im->file_count; i++)
        if (!found[i])
            return bg_err_set(err, -EUCLEAN, "%s is damaged: its checksum is another",
                              im->files[i].name);
    return 0;
}

/* ---- keeping it ---- */

static int keep_layer(int dir_fd, const char *file, struct bg_layer *layer, struct bg_err *err)
{
    uint64_t said = layer->size;
    BG_AUTOCLOSE int fd = openat(dir_fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0 && ((geteuid() == 0 && fchown(fd, 0, 0) < 0) || fchmod(fd, 0400) < 0))
        return bg_err_errno(err, -errno, "%s", file);
    int r = bg_layer_measure(dir_fd, file, layer, err);
    return r == 0 && layer->size != said
               ? bg_err_set(err, -EUCLEAN, "%s has not the size that the manifest says", file)
               : r;
}

/* The times are those of the files here. */
static int keep_layers(struct importer *im, struct bg_err *err)
{
    struct bg_snapshot *s = &im->snapshot;
    char file[BG_LAYER_FILE_SIZE];
    int r = 0;
    for (size_t i = 0; r == 0 && i < s->memory_count; i++) {
        bg_layer_memory_file(s->memory[i].id, file);
        r = keep_layer(im->temp_fd, file, &s->memory[i], err);
    }
    for (size_t i = 0; r == 0 && i < s->disk_count; i++) {
        bg_layer_disk_file(s->disk[i].id, file);
        r = keep_layer(im->temp_fd, file, &s->disk[i], err);
    }
    return r;
}

/* "NAME@TAG" of the command line, if it is there. A tag that was for a moment is no name to keep.
 */
static int choose_name(struct importer *im, char **ret_tag, struct bg_err *err)
{
    char source[BG_SANDBOX_NAME_MAX + 1], tag[BG_SANDBOX_NAME_MAX + 2], quoted[128];
    struct bg_snapshot *s = &im->snapshot;
    const char *given = im->args->operand_count > 1 ? im->args->operands[1] : NULL;
    if (given && (!bg_snapshot_split(given, source, tag) || tag[0] == '.'))
        return bg_err_set(err, -EINVAL, "%s: want NAME@TAG",
                          bg_quote(given, quoted, sizeof quoted));
    char *name = strdup(given ? source : s->source_name);
    const char *wanted = given ? tag : s->tag[0] == '.' ? NULL : s->tag;
    *ret_tag = wanted ? strdup(wanted) : NULL;
    if (!name || (wanted && !*ret_tag)) {
        free(name);
        return bg_err_errno(err, -ENOMEM, "import");
    }
    free(s->source_name);
    s->source_name = name;
    return 0;
}

static int keep(struct importer *im, char **ret_name, struct bg_err *err)
{
    BG_AUTOFREE char *tag = NULL;
    int r = keep_layers(im, err);
    if (r == 0)
        r = choose_name(im, &tag, err);
    if (r == 0)
        r = bg_snapshot_write(im->temp_fd, &im->snapshot, err);
    if (r == 0)
        r = bg_snapshot_check_files(&im->snapshot, im->temp_fd, err);
    /* The golden one first: a snapshot never stands on nothing. Its lock is held until the end, so
     * that it is not taken for one that nobody needs. */
    if (r == 0)
        r = archive_golden_commit(&im->golden, err);
    if (r == 0)
        r = bg_snapshot_commit(&im->app->paths, im->temp_fd, im->temp_name,
                               im->snapshot.source_name, tag, ret_name, err);
    if (r == 0) {
        free(im->temp_name);
        im->temp_name = NULL;
    }
    return r;
}

static int open_all(struct importer *im, const char *path, struct bg_err *err)
{
    char quoted[512];
    bool standard = strcmp(path, "-") == 0;
    im->in_fd = standard ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                         : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (im->in_fd < 0)
        return bg_err_errno(err, -errno, "%s", bg_quote(path, quoted, sizeof quoted));
    struct stat st;
    bool sized = fstat(im->in_fd, &st) == 0 && S_ISREG(st.st_mode);
    meter_begin(&im->meter, "importing", sized ? (uint64_t)st.st_size : 0,
                args_flag(im->args, OPTION_QUIET));
    im->archive = archive_read_new();
    im->buffer = malloc(READ_SIZE);
    im->sum = malloc(sizeof *im->sum);
    if (!im->archive || !im->buffer || !im->sum)
        return bg_err_errno(err, -ENOMEM, "import");
    if (archive_read_support_format_tar(im->archive) != ARCHIVE_OK ||
        archive_read_support_filter_zstd(im->archive) != ARCHIVE_OK ||
        archive_read_open(im->archive, im, NULL, give, NULL) != ARCHIVE_OK)
        return say(im, err);
    int r = signals_open(&im->signal_fd, err);
    if (r == 0)
        r = app_paths(im->app, err);
    return r < 0 ? r : bg_snapshot_begin(&im->app->paths, &im->temp_fd, &im->temp_name, err);
}

static void close_all(struct importer *im)
{
    const int fds[] = {im->in_fd, im->signal_fd, im->temp_fd};
    meter_end(&im->meter);
    if (im->temp_name)
        bg_snapshot_abandon(&im->app->paths, im->temp_name);
    archive_golden_done(&im->golden);
    if (im->archive)
        (void)archive_read_free(im->archive);
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            (void)close(fds[i]); /* read only */
    bg_snapshot_done(&im->snapshot);
    free(im->temp_name);
    free(im->buffer);
    free(im->sum);
    free(im->sums);
}

int archive_import(struct app *app, const struct args *args)
{
    struct bg_err err;
    BG_AUTOFREE char *name = NULL;
    BG_AUTOFREE struct importer *im = malloc(sizeof *im);
    if (!im) {
        (void)bg_err_errno(&err, -ENOMEM, "import");
        return app_fail(&err);
    }
    *im = (struct importer){.app = app,
                            .args = args,
                            .in_fd = -1,
                            .signal_fd = -1,
                            .temp_fd = -1,
                            .golden = {.store_fd = -1, .lock_fd = -1, .dir_fd = -1}};
    char quoted[256];
    int r = open_all(im, args->operands[0], &err);
    if (r == 0)
        r = read_entries(im, &err);
    if (r == 0)
        r = check_sums(im, &err);
    if (r == 0)
        r = keep(im, &name, &err);
    close_all(im);
    if (r < 0) {
        (void)bg_err_prefix(&err, "import of %s",
                            bg_quote(args->operands[0], quoted, sizeof quoted));
        app_hint_space(&err);
        return app_fail(&err);
    }
    if (args_flag(args, OPTION_JSON)) {
        json_auto_t *json = json_pack("{s:s}", "name", name);
        return output_json(json);
    }
    (void)printf("%s\n", name);
    return app_printed(0);
}
