#include "host/changes/apply.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/io.h"
#include "host/changes/scan.h"

#define JOURNAL     "journal"
#define MARK        "journal.commit"
#define JOURNAL_MAX (512u << 20)

#define CHUNK_SIZE (256 * 1024)

/* Of linux/fs.h, which does not go with stdio.h everywhere. */
#define NO_REPLACE 1u
#define EXCHANGE   2u

/* Above it one sync of the file system is cheaper than one for each file. */
#define SYNC_EACH_MAX 32

static int step_allowed(const struct apply *a)
{
    return a->on_step ? a->on_step(a->owner) : 0;
}

/* ---- one name ---- */

/* A name and the folder that it is in. */
struct place {
    int folder; /* fd, owned; < 0: a negative errno */
    const char *name;
};

static struct place place_open(const struct apply *a, const char *path)
{
    struct place place;
    place.folder = scan_open_parent(a->root, path, &place.name);
    return place;
}

static void place_close(struct place *place)
{
    bg_cleanup_close(&place->folder);
}

#define AUTOPLACE __attribute__((cleanup(place_close)))

/* 1 it is there, 0 it is not, or a negative errno. */
static int look(const struct place *place, struct stat *ret)
{
    int r = place->folder;
    if (r < 0) /* what is behind a file or a symlink is not in the folder */
        return r == -ENOENT || r == -ENOTDIR || r == -ELOOP ? 0 : r;
    if (fstatat(place->folder, place->name, ret, AT_SYMLINK_NOFOLLOW) == 0)
        return 1;
    return errno == ENOENT ? 0 : -errno;
}

/* The file that was expected? A rename changes its ctime, so that counts only before one. */
static bool is_expected(const struct step *step, const struct stat *st, bool moved)
{
    struct entry now = {0};
    scan_identify(st, &now);
    return step->host_there && now.type == step->host.type && now.mode == step->host.mode &&
           now.size == step->host.size && now.mtime_ns == step->host.mtime_ns &&
           now.inode == step->host.inode && (moved || now.ctime_ns == step->host.ctime_ns);
}

/* True if what is at place is what the step puts there. */
static bool is_new(const struct step *step, const struct place *place, const struct stat *st)
{
    if (step->op == STEP_LINK) {
        char target[BG_PATH_MAX];
        ssize_t n = S_ISLNK(st->st_mode)
                        ? readlinkat(place->folder, place->name, target, sizeof target)
                        : -1;
        return n >= 0 && (size_t)n == strlen(step->target) &&
               memcmp(target, step->target, (size_t)n) == 0;
    }
    if (!S_ISREG(st->st_mode) || (uint64_t)st->st_size != step->size ||
        (st->st_mode & 07777) != step->mode)
        return false;
    uint8_t hash[BG_SHA256_SIZE];
    BG_AUTOCLOSE int fd =
        openat(place->folder, place->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    return fd >= 0 && bg_sha256_fd(fd, hash) == 0 && memcmp(hash, step->hash, sizeof hash) == 0;
}

static int move(const struct apply *a, const struct place *from, const struct place *to,
                unsigned flags)
{
    int r = step_allowed(a);
    if (r < 0)
        return r;
    r = (int)syscall(SYS_renameat2, from->folder, from->name, to->folder, to->name, flags);
    if (r < 0 && (errno == EINVAL || errno == ENOSYS)) {
        /* A file system without these flags: what there is to check was checked before. */
        struct stat st;
        if (flags == NO_REPLACE && look(to, &st) != 0)
            return -EEXIST;
        r = renameat(from->folder, from->name, to->folder, to->name);
    }
    return r < 0 ? -errno : 0;
}

static int drop(const struct apply *a, const struct place *place)
{
    int r = step_allowed(a);
    if (r < 0)
        return r;
    return unlinkat(place->folder, place->name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

/* ---- prepare ---- */

/* As root, what is made at `made` belongs to whoever has the file now, or its folder. */
static int give(const struct apply *a, const struct step *step, const struct place *made)
{
    struct stat st;
    if (geteuid() != 0)
        return 0;
    AUTOPLACE struct place place = place_open(a, step->path);
    bool replaces = step->op != STEP_MAKE_FOLDER && look(&place, &st) > 0;
    if (!replaces && fstat(made->folder, &st) < 0)
        return -errno;
    if (fchownat(made->folder, made->name, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    return 0;
}

static int copy_contents(int from, int to, const struct step *step)
{
    BG_AUTOFREE uint8_t *chunk = malloc(CHUNK_SIZE);
    struct bg_sha256 hash;
    uint8_t found[BG_SHA256_SIZE];
    uint64_t size = 0;
    if (!chunk)
        return -ENOMEM;
    bg_sha256_init(&hash);
    for (;;) {
        ssize_t n = read(from, chunk, CHUNK_SIZE);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        bg_sha256_update(&hash, chunk, (size_t)n);
        size += (uint64_t)n;
        int r = bg_write_full(to, chunk, (size_t)n);
        if (r < 0)
            return r;
    }
    bg_sha256_final(&hash, found);
    /* What is written is what was shown. */
    return size == step->size && memcmp(found, step->hash, sizeof found) == 0 ? 0 : -EBADMSG;
}

static int prepare_file(const struct apply *a, const struct step *step,
                        const struct place *temporary, bool sync_it)
{
    char name[2 * BG_SHA256_SIZE + 1];
    bg_hex(step->hash, sizeof step->hash, name);
    BG_AUTOCLOSE int from = openat(a->store, name, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        return errno == ENOENT ? -EBADMSG : -errno;
    BG_AUTOCLOSE int to = openat(temporary->folder, temporary->name,
                                 O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0)
        return -errno;
    int r = step_allowed(a);
    if (r == 0)
        r = copy_contents(from, to, step);
    if (r == 0)
        r = give(a, step, temporary);
    if (r == 0 && fchmod(to, step->mode) < 0)
        r = -errno;
    if (r == 0 && sync_it && fsync(to) < 0)
        r = -errno;
    return r;
}

static int prepare_step(const struct apply *a, const struct step *step, bool sync_it)
{
    if (step->op != STEP_PUT && step->op != STEP_LINK)
        return 0;
    AUTOPLACE struct place temporary = place_open(a, step->temporary);
    if (temporary.folder < 0)
        return temporary.folder;
    int r = step_allowed(a);
    if (r < 0)
        return r;
    if (step->op == STEP_PUT)
        return prepare_file(a, step, &temporary, sync_it);
    if (symlinkat(step->target, temporary.folder, temporary.name) < 0)
        return -errno;
    return give(a, step, &temporary);
}

/* ---- the steps ---- */

static void finish(struct step *step, int r)
{
    bool conflict = r == -EUCLEAN || r == -ENOTEMPTY;
    step->state = r == 0 ? STEP_DONE : conflict ? STEP_CONFLICT : STEP_FAILED;
    step->code = r;
}

/* The temporary file and the one that was there have changed places; st: of the temporary name.
 * Returns -EUCLEAN after changing back what is not what was expected. */
static int end_exchange(const struct apply *a, const struct step *step, const struct place *place,
                        const struct place *temporary, const struct stat *st)
{
    if (is_expected(step, st, /* moved= */ true))
        return drop(a, temporary);
    int r = move(a, temporary, place, EXCHANGE);
    if (r == 0)
        r = drop(a, temporary);
    return r < 0 ? r : -EUCLEAN;
}

/* The temporary file is ready, and nothing has moved yet. */
static int put_in_place(const struct apply *a, const struct step *step, const struct place *place,
                        const struct place *temporary)
{
    struct stat st;
    int there = look(place, &st);
    if (there < 0)
        return there;
    if (there > 0 && is_new(step, place, &st))
        return drop(a, temporary); /* somebody was faster */
    int r = -EUCLEAN;
    if (!there && !step->host_there)
        r = move(a, temporary, place, NO_REPLACE);
    else if (there && is_expected(step, &st, /* moved= */ false))
        r = move(a, temporary, place, EXCHANGE);
    if (r == -EEXIST)
        r = -EUCLEAN;
    if (r == -EUCLEAN) {
        int dropped = drop(a, temporary);
        return dropped < 0 ? dropped : r;
    }
    if (r < 0 || !step->host_there)
        return r;
    /* Not there: it was replaced by a plain rename. */
    there = look(temporary, &st);
    return there <= 0 ? there : end_exchange(a, step, place, temporary, &st);
}

static int put(const struct apply *a, const struct step *step)
{
    struct stat st;
    AUTOPLACE struct place place = place_open(a, step->path);
    AUTOPLACE struct place temporary = place_open(a, step->temporary);
    if (place.folder < 0)
        return place.folder;
    int there = look(&temporary, &st);
    if (there < 0)
        return there;
    if (!there) /* done before, or gone by another hand */
        return look(&place, &st) > 0 && is_new(step, &place, &st) ? 0 : -EUCLEAN;
    return is_new(step, &temporary, &st) ? put_in_place(a, step, &place, &temporary)
                                         : end_exchange(a, step, &place, &temporary, &st);
}

static int remove_file(const struct apply *a, const struct step *step)
{
    struct stat st;
    AUTOPLACE struct place place = place_open(a, step->path);
    AUTOPLACE struct place temporary = place_open(a, step->temporary);
    int there = look(&temporary, &st);
    if (there == 0) {
        there = look(&place, &st);
        if (there <= 0)
            return there; /* gone already */
        if (S_ISDIR(st.st_mode))
            return 0; /* done, and the folder that takes its place is there */
        if (!is_expected(step, &st, /* moved= */ false))
            return -EUCLEAN;
        int r = move(a, &place, &temporary, NO_REPLACE);
        if (r < 0)
            return r;
        there = look(&temporary, &st);
    }
    if (there <= 0)
        return there;
    if (is_expected(step, &st, /* moved= */ true))
        return drop(a, &temporary);
    int r = move(a, &temporary, &place, NO_REPLACE);
    return r < 0 ? r : -EUCLEAN;
}

static int remove_folder(const struct apply *a, const struct step *step)
{
    AUTOPLACE struct place place = place_open(a, step->path);
    struct stat st;
    int there = look(&place, &st);
    if (there <= 0)
        return there;
    if (!S_ISDIR(st.st_mode)) /* what takes its place may be there already */
        return 0;
    int r = step_allowed(a);
    if (r < 0)
        return r;
    return unlinkat(place.folder, place.name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

static int make_folder(const struct apply *a, const struct step *step)
{
    AUTOPLACE struct place place = place_open(a, step->path);
    struct stat st;
    if (place.folder < 0)
        return place.folder;
    int r = step_allowed(a);
    if (r < 0)
        return r;
    if (mkdirat(place.folder, place.name, step->mode | 0700) == 0)
        return give(a, step, &place);
    if (errno != EEXIST)
        return -errno;
    return look(&place, &st) > 0 && S_ISDIR(st.st_mode) ? 0 : -EUCLEAN;
}

static int set_mode(const struct apply *a, const struct step *step)
{
    char path[64];
    struct stat st;
    BG_AUTOCLOSE int fd = scan_open(a->root, step->path, O_PATH | O_NOFOLLOW);
    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0)
        return -errno;
    /* Without a thing of the host's it is for a folder that was just made. */
    if (!S_ISDIR(st.st_mode) && (!S_ISREG(st.st_mode) || !step->host_there))
        return -EUCLEAN;
    if (step->host_there &&
        (st.st_ino != step->host.inode || (st.st_mode & 07777) != step->host.mode))
        return -EUCLEAN;
    int r = step_allowed(a);
    if (r < 0)
        return r;
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return chmod(path, step->mode) < 0 ? -errno : 0;
}

/* A step that failed leaves no temporary file, unless that is one that nobody expected: it is
 * somebody's. */
static void clean_up(const struct apply *a, const struct step *step)
{
    struct stat st;
    if (!*step->temporary)
        return;
    AUTOPLACE struct place temporary = place_open(a, step->temporary);
    if (look(&temporary, &st) > 0 && (is_expected(step, &st, /* moved= */ true) ||
                                      (step->op != STEP_REMOVE && is_new(step, &temporary, &st))))
        (void)unlinkat(temporary.folder, temporary.name, 0); /* it has failed already */
}

static void do_step(const struct apply *a, struct step *step)
{
    switch ((enum step_op)step->op) {
    case STEP_REMOVE:
        finish(step, remove_file(a, step));
        break;
    case STEP_REMOVE_FOLDER:
        finish(step, remove_folder(a, step));
        break;
    case STEP_MAKE_FOLDER:
        finish(step, make_folder(a, step));
        break;
    case STEP_PUT:
    case STEP_LINK:
        finish(step, put(a, step));
        break;
    case STEP_MODE:
        finish(step, set_mode(a, step));
        break;
    }
    if (step->state == STEP_FAILED)
        clean_up(a, step);
}

/* ---- the whole ---- */

static void sync_folders(const struct apply *a, const struct plan *plan)
{
    if (plan->count > SYNC_EACH_MAX) {
        (void)syncfs(a->root); /* the names are right even without; they may only come later */
        return;
    }
    for (size_t i = 0; i < plan->count; i++) {
        AUTOPLACE struct place place = place_open(a, plan->list[i].path);
        if (place.folder >= 0)
            (void)fsync(place.folder); /* likewise */
    }
}

/* Also after a crash: some of them may not be there. A temporary file of which a step was done is
 * never among them, since nothing is rolled back then. */
static void remove_temporaries(const struct apply *a, const struct plan *plan)
{
    for (size_t i = 0; i < plan->count; i++) {
        const struct step *step = &plan->list[i];
        if (!*step->temporary)
            continue;
        AUTOPLACE struct place temporary = place_open(a, step->temporary);
        if (temporary.folder >= 0)
            (void)unlinkat(temporary.folder, temporary.name, 0); /* see above */
    }
}

/* The journal first: a mark alone says nothing. */
static int forget(const struct apply *a, struct bg_err *err)
{
    if ((unlinkat(a->state, JOURNAL, 0) < 0 && errno != ENOENT) ||
        (unlinkat(a->state, MARK, 0) < 0 && errno != ENOENT) || fsync(a->state) < 0)
        return bg_err_errno(err, -errno, "the journal");
    return 0;
}

static int write_journal(const struct apply *a, const struct plan *plan, struct bg_err *err)
{
    uint8_t *bytes;
    size_t size;
    if (unlinkat(a->state, MARK, 0) < 0 && errno != ENOENT)
        return bg_err_errno(err, -errno, "the journal");
    int r = plan_emit(plan, &bytes, &size);
    if (r < 0)
        return bg_err_errno(err, r, "the journal");
    BG_AUTOFREE uint8_t *owned = bytes;
    r = step_allowed(a);
    return r < 0 ? bg_err_errno(err, r, "the journal")
                 : bg_write_file(a->state, JOURNAL, owned, size, 0600, err);
}

static int prepare(const struct apply *a, const struct plan *plan, struct bg_err *err)
{
    bool sync_each = plan->count <= SYNC_EACH_MAX;
    for (size_t i = 0; i < plan->count; i++) {
        int r = prepare_step(a, &plan->list[i], sync_each);
        if (r == -EBADMSG)
            return bg_err_set(err, r, "the staged contents are damaged: run bellglass diff again");
        if (r < 0)
            return bg_err_errno(err, r, "making ready to write");
    }
    if (!sync_each && syncfs(a->root) < 0)
        return bg_err_errno(err, -errno, "making ready to write");
    int r = step_allowed(a);
    return r < 0 ? bg_err_errno(err, r, "the journal")
                 : bg_write_file(a->state, MARK, "", 0, 0600, err);
}

static int commit(const struct apply *a, struct plan *plan, struct bg_err *err)
{
    for (size_t i = 0; i < plan->count; i++)
        do_step(a, &plan->list[i]);
    sync_folders(a, plan);
    return forget(a, err);
}

int apply_run(const struct apply *apply, struct plan *plan, struct bg_err *err)
{
    struct stat st;
    if (apply_pending(apply))
        return bg_err_set(err, -EBUSY, "an earlier apply did not end: say apply --resume");
    if (fstat(apply->root, &st) < 0)
        return bg_err_errno(err, -errno, "the shared folder");
    plan->device = st.st_dev;
    plan->inode = st.st_ino;
    int r = write_journal(apply, plan, err);
    if (r == 0)
        r = prepare(apply, plan, err);
    if (r < 0) {
        remove_temporaries(apply, plan);
        (void)(forget(apply, NULL) < 0); /* then the next one rolls back what is not there */
        return r;
    }
    return commit(apply, plan, err);
}

bool apply_pending(const struct apply *apply)
{
    return faccessat(apply->state, JOURNAL, F_OK, 0) == 0;
}

int apply_resume(const struct apply *apply, struct plan *ret, bool *ret_undone, struct bg_err *err)
{
    char *bytes;
    size_t size;
    struct stat st;
    int r = bg_read_file(apply->state, JOURNAL, JOURNAL_MAX, &bytes, &size, err);
    if (r < 0)
        return r;
    BG_AUTOFREE char *owned = bytes;
    struct plan plan = {0};
    r = plan_parse((const uint8_t *)owned, size, &plan);
    if (r < 0)
        return bg_err_errno(err, r, "the journal of an apply that did not end");
    if (fstat(apply->root, &st) < 0)
        r = bg_err_errno(err, -errno, "the shared folder");
    else if (st.st_dev != plan.device || st.st_ino != plan.inode)
        r = bg_err_set(err, -ESTALE,
                       "the shared folder is another one than when the apply was begun");
    bool undone = faccessat(apply->state, MARK, F_OK, 0) < 0;
    if (r == 0 && undone) {
        remove_temporaries(apply, &plan);
        r = forget(apply, err);
    } else if (r == 0) {
        r = commit(apply, &plan, err);
    }
    if (r < 0) {
        plan_done(&plan);
        return r;
    }
    *ret = plan;
    *ret_undone = undone;
    return 0;
}
