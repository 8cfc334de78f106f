#include "host/changes/patch.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <git2.h>
#include <seccomp.h>

#include "common/io.h"
#include "common/limits.h"
#include "host/changes/marks.h"

/* As much as git looks at to tell text from other things. */
#define BINARY_LOOK 8000

#define CPU_SECONDS_MAX 30
#define OUTPUT_MAX      (64u << 20) /* a patch is at most both sides and a bit */

/* ---- text ---- */

void patch_text(FILE *out, const char *text, size_t size, bool escape)
{
    if (!escape) {
        (void)fwrite(text, 1, size, out);
        return;
    }
    while (size > 0) {
        size_t n;
        bool odd = marks_is_odd(text, size, &n);
        for (size_t i = 0; i < n; i++)
            if (odd)
                (void)fprintf(out, "\\x%02x", (unsigned char)text[i]);
            else
                (void)fputc(text[i], out);
        text += n;
        size -= n;
    }
}

void patch_name(FILE *out, const char *path)
{
    for (const char *p = path; *p;) {
        size_t plain = strcspn(p, "\n\t\\");
        patch_text(out, p, plain, true);
        p += plain;
        if (*p)
            (void)fprintf(out, *p == '\\' ? "\\\\" : "\\x%02x", (unsigned char)*p);
        p += *p != '\0';
    }
}

/* Git's way to write a name: in quotes if it has anything special. */
static void write_name(FILE *out, const char *prefix, const char *path)
{
    bool quote = false;
    for (const char *p = path; *p; p++)
        quote |= (unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f || *p == '"' || *p == '\\';
    (void)fprintf(out, "%s%s", quote ? "\"" : "", prefix);
    for (const char *p = path; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c < 0x20 || c >= 0x7f)
            (void)fprintf(out, "\\%03o", c);
        else if (c == '"' || c == '\\')
            (void)fprintf(out, "\\%c", c);
        else
            (void)fputc(c, out);
    }
    if (quote)
        (void)fputc('"', out);
}

/* ---- in the process ---- */

#if !BG_SANITIZED
static int filter_calls(void)
{
    static const int allowed[] = {
        SCMP_SYS(read),   SCMP_SYS(write),      SCMP_SYS(brk),          SCMP_SYS(munmap),
        SCMP_SYS(mremap), SCMP_SYS(futex),      SCMP_SYS(rt_sigreturn), SCMP_SYS(madvise),
        SCMP_SYS(exit),   SCMP_SYS(exit_group),
    };
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!filter)
        return -ENOMEM;
    int r = 0;
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed && r == 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
    if (r == 0) /* memory, but none that can be run */
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r;
}
#endif

static int confine(void)
{
    const struct rlimit cpu = {.rlim_cur = CPU_SECONDS_MAX, .rlim_max = CPU_SECONDS_MAX};
    const struct rlimit none = {0};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || setrlimit(RLIMIT_CPU, &cpu) < 0 ||
        setrlimit(RLIMIT_CORE, &none) < 0)
        return -errno;
#if !BG_SANITIZED /* whose run time makes other calls */
    return filter_calls();
#else
    return 0;
#endif
}

struct output {
    int fd;
    size_t used;
    bool failed;
    char bytes[32 * 1024];
};

static void flush(struct output *out)
{
    if (out->used > 0 && bg_write_full(out->fd, out->bytes, out->used) < 0)
        out->failed = true;
    out->used = 0;
}

static void emit(struct output *out, const char *bytes, size_t size)
{
    while (size > 0 && !out->failed) {
        size_t room = sizeof out->bytes - out->used, n = size < room ? size : room;
        memcpy(out->bytes + out->used, bytes, n);
        out->used += n;
        bytes += n;
        size -= n;
        if (out->used == sizeof out->bytes)
            flush(out);
    }
}

static int emit_hunk(struct output *out, git_patch *patch, size_t index)
{
    const git_diff_hunk *hunk;
    size_t lines;
    if (git_patch_get_hunk(&hunk, &lines, patch, index) < 0)
        return -EREMOTEIO;
    emit(out, hunk->header, hunk->header_len);
    for (size_t i = 0; i < lines; i++) {
        const git_diff_line *line;
        if (git_patch_get_line_in_hunk(&line, patch, index, i) < 0)
            return -EREMOTEIO;
        if (line->origin == GIT_DIFF_LINE_CONTEXT || line->origin == GIT_DIFF_LINE_ADDITION ||
            line->origin == GIT_DIFF_LINE_DELETION)
            emit(out, &line->origin, 1);
        emit(out, line->content, line->content_len);
    }
    return 0;
}

static int emit_hunks(struct output *out, const struct patch_opts *opts)
{
    const struct patch_side *a = &opts->before, *b = &opts->after;
    git_diff_options how;
    git_patch *patch = NULL;
    if (git_diff_options_init(&how, GIT_DIFF_OPTIONS_VERSION) < 0)
        return -EREMOTEIO;
    how.flags |= GIT_DIFF_FORCE_TEXT;
    how.interhunk_lines = 0;
    if (git_patch_from_buffers(&patch, a->there ? a->bytes : NULL, a->there ? a->size : 0, "a",
                               b->there ? b->bytes : NULL, b->there ? b->size : 0, "b", &how) < 0)
        return -EREMOTEIO;
    int r = 0;
    size_t count = git_patch_num_hunks(patch);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = emit_hunk(out, patch, i);
    flush(out);
    git_patch_free(patch);
    return r < 0 || out->failed ? -EREMOTEIO : 0;
}

/* ---- here ---- */

static int copy_output(FILE *out, int fd, bool escape)
{
    BG_AUTOFREE char *text = NULL;
    size_t used = 0, room = 0;
    for (;;) {
        if (used == room) {
            room = room ? room * 2 : 64 * 1024;
            char *grown = room > OUTPUT_MAX ? NULL : realloc(text, room);
            if (!grown)
                return -ENOMEM;
            text = grown;
        }
        ssize_t n = read(fd, text + used, room - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        used += (size_t)n;
    }
    /* At once, so that no character is cut in two. */
    patch_text(out, text, used, escape);
    return 0;
}

static int write_hunks(FILE *out, const struct patch_opts *opts, struct bg_err *err)
{
    int ends[2];
    int status = 0;
    (void)fflush(out); /* else the process has it too */
    if (git_libgit2_init() < 0 || pipe2(ends, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "patch");
    pid_t pid = fork();
    if (pid == 0) {
        struct output *output = calloc(1, sizeof *output);
        if (!output || confine() < 0)
            _exit(1);
        output->fd = ends[1];
        int r = emit_hunks(output, opts);
        free(output);
        _exit(r < 0);
    }
    (void)close(ends[1]); /* ours is of no use */
    int r = pid < 0 ? -errno : copy_output(out, ends[0], opts->escape);
    (void)close(ends[0]); /* so that it ends, whatever became of us */
    if (pid >= 0)
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
    (void)git_libgit2_shutdown();
    if (r < 0)
        return bg_err_errno(err, r, "patch");
    return status != 0 ? bg_err_set(err, -EREMOTEIO, "the patch could not be made") : 0;
}

static bool is_binary(const struct patch_side *side)
{
    if (!side->there)
        return false;
    size_t look = side->size < BINARY_LOOK ? (size_t)side->size : BINARY_LOOK;
    return !side->bytes || memchr(side->bytes, 0, look);
}

static void write_binary(FILE *out, const char *sign, const struct patch_side *side)
{
    char hash[2 * BG_SHA256_SIZE + 1];
    if (!side->there)
        return;
    bg_hex(side->hash, sizeof side->hash, hash);
    (void)fprintf(out, "# %s %llu bytes, sha256 %s\n", sign, (unsigned long long)side->size, hash);
}

static void write_modes(FILE *out, const struct patch_side *a, const struct patch_side *b)
{
    if (!a->there)
        (void)fprintf(out, "new file mode %o\n", b->mode);
    else if (!b->there)
        (void)fprintf(out, "deleted file mode %o\n", a->mode);
    else if (a->mode != b->mode)
        (void)fprintf(out, "old mode %o\nnew mode %o\n", a->mode, b->mode);
}

static void write_side(FILE *out, const char *sign, const char *prefix, const char *path,
                       bool there)
{
    (void)fprintf(out, "%s ", sign);
    write_name(out, there ? prefix : "", there ? path : "/dev/null");
    (void)fputc('\n', out);
}

int patch_write(FILE *out, const struct patch_opts *opts, struct bg_err *err)
{
    const struct patch_side *a = &opts->before, *b = &opts->after;
    (void)fputs("diff --git ", out);
    write_name(out, "a/", opts->path);
    (void)fputc(' ', out);
    write_name(out, "b/", opts->path);
    (void)fputc('\n', out);
    write_modes(out, a, b);
    bool same = a->there && b->there && a->size == b->size && a->bytes && b->bytes &&
                memcmp(a->bytes, b->bytes, (size_t)a->size) == 0;
    if (same)
        return 0;
    if (is_binary(a) || is_binary(b)) {
        (void)fputs("Binary files ", out);
        write_name(out, a->there ? "a/" : "", a->there ? opts->path : "/dev/null");
        (void)fputs(" and ", out);
        write_name(out, b->there ? "b/" : "", b->there ? opts->path : "/dev/null");
        (void)fputs(" differ\n", out);
        write_binary(out, "before:", a);
        write_binary(out, "after:", b);
        return 0;
    }
    if ((!a->there || a->size == 0) && (!b->there || b->size == 0))
        return 0; /* an empty file has no lines */
    write_side(out, "---", "a/", opts->path, a->there);
    write_side(out, "+++", "b/", opts->path, b->there);
    return write_hunks(out, opts, err);
}
