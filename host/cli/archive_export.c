/* export. All files are frozen, so nothing changes while they are read. */
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
#include "common/state/folder.h"
#include "host/cli/archive_format.h"
#include "host/cli/archive_sum.h"
#include "host/cli/cmd_archive.h"
#include "host/cli/meter.h"
#include "host/cli/output.h"
#include "host/cli/signals.h"
#include "host/cli/snapshots.h"

#define BUFFER_SIZE (1u << 20)

struct exporter {
    struct archive *archive;
    int out_fd;
    int write_error; /* negative errno; nothing more is written then */
    int signal_fd;
    struct meter meter;
    uint64_t read_bytes, written_bytes;
    FILE *sums;
    char *sums_text;
    size_t sums_size;
    struct archive_sum *sum;
    char *buffer, *zeros; /* BUFFER_SIZE each */
};

/* libarchive leaks its buffer once a write has failed, so to it no write fails. */
static la_ssize_t take(struct archive *archive, void *owner, const void *bytes, size_t size)
{
    struct exporter *e = owner;
    (void)archive;
    if (e->write_error == 0)
        e->write_error = bg_write_full(e->out_fd, bytes, size);
    e->written_bytes += size;
    return (la_ssize_t)size;
}

static int say(const struct exporter *e, struct bg_err *err)
{
    const char *text = archive_error_string(e->archive);
    return bg_err_set(err, -EIO, "libarchive: %s", text ? text : "failed");
}

static int check_going(struct exporter *e, struct bg_err *err)
{
    meter_update(&e->meter, e->read_bytes);
    if (e->write_error < 0)
        return bg_err_errno(err, e->write_error, "cannot write");
    for (int number; (number = signals_next(e->signal_fd)) > 0;)
        if (number == SIGINT || number == SIGTERM || number == SIGHUP || number == SIGQUIT)
            return bg_err_set(err, -ECANCELED, "stopped by a signal");
    return 0;
}

static int put_bytes(struct exporter *e, const void *bytes, size_t size, struct bg_err *err)
{
    while (size > 0) {
        la_ssize_t n = archive_write_data(e->archive, bytes, size);
        if (n <= 0)
            return say(e, err);
        bytes = (const char *)bytes + n;
        size -= (size_t)n;
    }
    return check_going(e, err);
}

/* What libarchive keeps as a hole has to be given to it all the same. */
static int put_hole(struct exporter *e, uint64_t size, struct bg_err *err)
{
    int r = 0;
    for (; r == 0 && size > 0; size -= size < BUFFER_SIZE ? size : BUFFER_SIZE)
        r = put_bytes(e, e->zeros, size < BUFFER_SIZE ? (size_t)size : BUFFER_SIZE, err);
    return r;
}

static int put_data(struct exporter *e, int fd, uint64_t from, uint64_t to, struct bg_err *err)
{
    while (from < to) {
        size_t want = to - from < BUFFER_SIZE ? (size_t)(to - from) : BUFFER_SIZE;
        ssize_t n = pread(fd, e->buffer, want, (off_t)from);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return bg_err_errno(err, n < 0 ? -errno : -EIO, "it cannot be read");
        int r = archive_sum_add(e->sum, from, e->buffer, (size_t)n);
        e->read_bytes += (uint64_t)n;
        if (r == 0)
            r = put_bytes(e, e->buffer, (size_t)n, err);
        if (r < 0)
            return r;
        from += (uint64_t)n;
    }
    return 0;
}

/* The next stretch of data from at on: false if there is none. */
static bool next_data(int fd, uint64_t size, uint64_t at, uint64_t *ret_from, uint64_t *ret_to)
{
    off_t from = at < size ? lseek(fd, (off_t)at, SEEK_DATA) : -1;
    if (from < 0)
        return false; /* ENXIO: a hole to the end */
    off_t to = lseek(fd, from, SEEK_HOLE);
    *ret_from = (uint64_t)from;
    *ret_to = to < 0 || (uint64_t)to > size ? size : (uint64_t)to;
    return true;
}

static int put_header(struct exporter *e, const char *name, int fd, uint64_t size,
                      struct bg_err *err)
{
    struct archive_entry *entry = archive_entry_new();
    uint64_t from, to, at = 0;
    if (!entry)
        return bg_err_errno(err, -ENOMEM, "export");
    archive_entry_set_pathname(entry, name);
    archive_entry_set_size(entry, (la_int64_t)size);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    while (fd >= 0 && next_data(fd, size, at, &from, &to)) {
        if (from > 0 || to < size)
            archive_entry_sparse_add_entry(entry, (la_int64_t)from, (la_int64_t)(to - from));
        at = to;
    }
    int r = archive_write_header(e->archive, entry) == ARCHIVE_OK ? 0 : say(e, err);
    archive_entry_free(entry);
    return r;
}

static int put_content(struct exporter *e, int fd, uint64_t size, struct bg_err *err)
{
    uint64_t at = 0, from, to;
    int r = 0;
    while (r == 0 && next_data(fd, size, at, &from, &to)) {
        r = put_hole(e, from - at, err);
        if (r == 0)
            r = put_data(e, fd, from, to, err);
        at = to;
    }
    return r < 0 ? r : put_hole(e, size - at, err);
}

/* part: "snapshot" or "golden". */
static int put_file(struct exporter *e, int dir_fd, const char *part, const char *file,
                    struct bg_err *err)
{
    char name[ARCHIVE_NAME_SIZE], hex[BG_SHA256_SIZE * 2 + 1];
    struct stat st;
    (void)snprintf(name, sizeof name, "%s/%s", part, file); /* fits: both are ours */
    BG_AUTOCLOSE int fd = openat(dir_fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        return bg_err_errno(err, -errno, "%s", name);
    if (!S_ISREG(st.st_mode))
        return bg_err_set(err, -EUCLEAN, "%s is not a file", name);
    archive_sum_init(e->sum);
    uint64_t size = (uint64_t)st.st_size;
    int r = put_header(e, name, fd, size, err);
    if (r == 0)
        r = put_content(e, fd, size, err);
    if (r == 0)
        r = archive_sum_final(e->sum, size, hex);
    if (r < 0)
        return bg_err_prefix(err, "%s", name);
    (void)fprintf(e->sums, "%s  %s\n", hex, name); /* looked at when it is closed */
    return 0;
}

static int put_text(struct exporter *e, const char *name, const char *text, struct bg_err *err)
{
    int r = put_header(e, name, -1, strlen(text), err);
    return r < 0 ? r : put_bytes(e, text, strlen(text), err);
}

static int put_golden(struct exporter *e, const struct bg_paths *paths,
                      const struct bg_snapshot *snapshot, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/snapshots/%s", paths->data, snapshot->golden) < 0)
        return bg_err_errno(err, -ENOMEM, "golden snapshot");
    BG_AUTOCLOSE int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return bg_err_errno(err, -errno, "the golden snapshot that it stands on, %s", path);
    int r = 0;
    for (size_t i = 0; r == 0 && archive_golden_files[i]; i++)
        r = put_file(e, dir, "golden", archive_golden_files[i], err);
    return r;
}

static int put_layers(struct exporter *e, int dir_fd, const struct bg_snapshot *s,
                      struct bg_err *err)
{
    char file[BG_LAYER_FILE_SIZE];
    int r = 0;
    if (s->kind != BG_SNAPSHOT_DISK)
        r = put_file(e, dir_fd, "snapshot", BG_SNAPSHOT_STATE, err);
    for (size_t i = 0; r == 0 && i < s->memory_count; i++) {
        bg_layer_memory_file(s->memory[i].id, file);
        r = put_file(e, dir_fd, "snapshot", file, err);
    }
    for (size_t i = 0; r == 0 && i < s->disk_count; i++) {
        bg_layer_disk_file(s->disk[i].id, file);
        r = put_file(e, dir_fd, "snapshot", file, err);
    }
    return r;
}

/* What is checked first comes first, so that an import is refused before gigabytes were read. */
static int put_all(struct exporter *e, const struct bg_paths *paths, const struct bg_snapshot *s,
                   bool base, struct bg_err *err)
{
    BG_AUTOCLOSE int dir = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r =
        dir < 0 ? bg_err_errno(err, -errno, "%s", s->dir) : bg_snapshot_check_files(s, dir, err);
    if (r == 0)
        r = put_text(e, "format", ARCHIVE_FORMAT_TEXT, err);
    if (r == 0)
        r = put_file(e, dir, "snapshot", BG_SNAPSHOT_MANIFEST, err);
    if (r == 0)
        r = put_file(e, dir, "snapshot", BG_SNAPSHOT_SUM, err);
    if (r == 0 && base)
        r = put_golden(e, paths, s, err);
    if (r == 0)
        r = put_layers(e, dir, s, err);
    if (r == 0 && fflush(e->sums) != 0)
        r = bg_err_errno(err, -ENOMEM, "export");
    return r < 0 ? r : put_text(e, "sums", e->sums_text, err);
}

static uint64_t total_of(const struct bg_paths *paths, const struct bg_snapshot *s, bool base)
{
    BG_AUTOFREE char *golden = NULL;
    uint64_t snapshot_bytes = 0, golden_bytes = 0, frees;
    (void)(bg_folder_size(AT_FDCWD, s->dir, &snapshot_bytes, &frees) < 0); /* then without it */
    if (base && asprintf(&golden, "%s/snapshots/%s", paths->data, s->golden) >= 0)
        (void)(bg_folder_size(AT_FDCWD, golden, &golden_bytes, &frees) < 0); /* likewise */
    return snapshot_bytes + golden_bytes;
}

static int open_archive(struct exporter *e, struct bg_err *err)
{
    e->archive = archive_write_new();
    e->sum = malloc(sizeof *e->sum);
    e->buffer = malloc(BUFFER_SIZE);
    e->zeros = calloc(1, BUFFER_SIZE);
    e->sums = open_memstream(&e->sums_text, &e->sums_size);
    if (!e->archive || !e->sum || !e->buffer || !e->zeros || !e->sums)
        return bg_err_errno(err, -ENOMEM, "export");
    /* Else it would be filled up for a tape, with what is no zstd. */
    if (archive_write_set_bytes_in_last_block(e->archive, 1) != ARCHIVE_OK ||
        archive_write_set_format_pax(e->archive) != ARCHIVE_OK ||
        archive_write_add_filter_zstd(e->archive) != ARCHIVE_OK ||
        archive_write_open(e->archive, e, NULL, take, NULL) != ARCHIVE_OK)
        return say(e, err);
    return 0;
}

static void close_archive(struct exporter *e)
{
    if (e->archive)
        (void)archive_write_free(e->archive);
    if (e->sums)
        (void)fclose(e->sums); /* to memory */
    free(e->sums_text);
    free(e->sum);
    free(e->buffer);
    free(e->zeros);
}

static int write_archive(struct app *app, const struct args *args, const struct bg_snapshot *s,
                         int out_fd, uint64_t *ret_written, struct bg_err *err)
{
    char what[BG_SNAPSHOT_NAME_SIZE + 16];
    struct exporter e = {.out_fd = out_fd, .signal_fd = -1};
    bool base = !args_flag(args, ARCHIVE_NO_BASE);
    (void)snprintf(what, sizeof what, "exporting %s", s->name);
    meter_begin(&e.meter, what, total_of(&app->paths, s, base), args_flag(args, OPTION_QUIET));
    int r = signals_open(&e.signal_fd, err);
    BG_AUTOCLOSE int signal_fd = e.signal_fd;
    (void)signal_fd; /* closed at the end */
    if (r == 0)
        r = open_archive(&e, err);
    if (r == 0)
        r = put_all(&e, &app->paths, s, base, err);
    if (r == 0 && archive_write_close(e.archive) != ARCHIVE_OK)
        r = say(&e, err);
    if (r == 0)
        r = check_going(&e, err);
    meter_end(&e.meter);
    *ret_written = e.written_bytes;
    close_archive(&e);
    return r;
}

/* A file beside the one that is wanted, which it becomes when it is whole. */
struct target {
    char *path, *temp;
    int fd;
    bool replace;
};

static int open_target(struct target *t, const char *path, bool replace, struct bg_err *err)
{
    uint32_t random;
    char quoted[512];
    bg_random(&random, sizeof random);
    t->fd = -1;
    t->replace = replace;
    (void)bg_quote(path, quoted, sizeof quoted);
    t->path = strdup(path);
    if (!t->path || asprintf(&t->temp, "%s.%08x.tmp", path, random) < 0)
        return bg_err_errno(err, -ENOMEM, "%s", quoted);
    if (!replace && access(path, F_OK) == 0)
        return bg_err_set(err, -EEXIST, "%s is there already: give another name, or --force",
                          quoted);
    t->fd = open(t->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return t->fd < 0 ? bg_err_errno(err, -errno, "%s", quoted) : 0;
}

static int finish_target(struct target *t, struct bg_err *err)
{
    char quoted[512];
    int r = fsync(t->fd) < 0 ? -errno : 0;
    if (r == 0)
        r = renameat2(AT_FDCWD, t->temp, AT_FDCWD, t->path,
                      t->replace ? 0 : (unsigned)RENAME_NOREPLACE) < 0
                ? -errno
                : 0;
    return r < 0 ? bg_err_errno(err, r, "%s", bg_quote(t->path, quoted, sizeof quoted)) : 0;
}

static void target_done(struct target *t, bool failed)
{
    if (failed && t->fd >= 0)
        (void)unlink(t->temp); /* ours */
    if (t->fd >= 0)
        (void)close(t->fd); /* synced, or not wanted */
    free(t->path);
    free(t->temp);
}

static int to_file(struct app *app, const struct args *args, const struct bg_snapshot *s,
                   const char *path, uint64_t *ret_written, struct bg_err *err)
{
    struct target target = {.fd = -1};
    if (strcmp(path, "-") == 0)
        return isatty(STDOUT_FILENO)
                   ? bg_err_set(err, -EINVAL, "standard output is a terminal: give a FILE")
                   : write_archive(app, args, s, STDOUT_FILENO, ret_written, err);
    int r = open_target(&target, path, args_flag(args, ARCHIVE_FORCE), err);
    if (r == 0)
        r = write_archive(app, args, s, target.fd, ret_written, err);
    if (r == 0)
        r = finish_target(&target, err);
    target_done(&target, r < 0);
    return r;
}

int archive_export(struct app *app, const struct args *args)
{
    struct bg_err err;
    struct snapshots_source source;
    uint64_t written = 0;
    const char *path = args->operands[1];
    int r = snapshots_open(
        app, args->operands[0],
        &(struct snapshots_open_opts){.sandboxes = true, .quiet = args_flag(args, OPTION_QUIET)},
        &source, &err);
    if (r < 0)
        return app_fail(&err);
    r = to_file(app, args, &source.snapshot, path, &written, &err);
    json_auto_t *json = json_pack("{s:s, s:o, s:I}", "snapshot", source.snapshot.name, "file",
                                  output_text(path), "bytes", (json_int_t)written);
    if (r < 0) {
        (void)bg_err_prefix(&err, "export of '%s'", source.snapshot.name);
        app_hint_space(&err);
    }
    snapshots_close(app, &source);
    if (r < 0)
        return app_fail(&err);
    return args_flag(args, OPTION_JSON) && strcmp(path, "-") != 0 ? output_json(json) : 0;
}
