#include "host/supervisor/member.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/state/sandbox_json.h"

/* ---- what it is made with ---- */

static int look(const char *path, struct member_file *file)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return -errno;
    file->device = st.st_dev;
    file->inode = st.st_ino;
    file->size = st.st_size;
    file->changed = st.st_mtim;
    return 0;
}

int member_begin(struct member *member, const struct bg_paths *paths, const struct parts *parts,
                 struct bg_err *err)
{
    BG_AUTOFREE char *manifest = NULL, *ca = NULL, *self = NULL;
    *member =
        (struct member){.state = MEMBER_STARTS, .listen_fd = -1, .claimer_fd = -1, .config_fd = -1};
    if (asprintf(&manifest, "%s/manifest.json", parts->golden.dir) < 0 ||
        asprintf(&ca, "%s/ca/ca.pem", paths->data) < 0)
        return bg_err_errno(err, -ENOMEM, "member");
    int r = bg_helper_path("bellglass-supervisor", &self, err);
    if (r < 0)
        return r;
    const char *const made_with[MEMBER_FILES] = {
        self, parts->agent_path, parts->proxy_path, parts->qemu.path, manifest, ca};
    for (size_t i = 0; i < MEMBER_FILES; i++) {
        member->files[i].path = strdup(made_with[i]);
        if (!member->files[i].path)
            return bg_err_errno(err, -ENOMEM, "member");
        r = look(made_with[i], &member->files[i]);
        if (r < 0)
            return bg_err_errno(err, r, "%s", made_with[i]);
    }
    return 0;
}

bool member_is_stale(const struct member *member)
{
    for (size_t i = 0; i < MEMBER_FILES; i++) {
        const struct member_file *was = &member->files[i];
        struct member_file is = {0};
        if (look(was->path, &is) < 0 || is.device != was->device || is.inode != was->inode ||
            is.size != was->size || is.changed.tv_sec != was->changed.tv_sec ||
            is.changed.tv_nsec != was->changed.tv_nsec)
            return true;
    }
    return false;
}

/* ---- claims ---- */

static void drop(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd); /* nothing was written that would have to last */
    *fd = -1;
}

void member_done(struct member *member)
{
    if (member->state == MEMBER_NONE)
        return;
    drop(&member->listen_fd);
    drop(&member->claimer_fd);
    drop(&member->config_fd);
    for (size_t i = 0; i < MEMBER_FILES; i++)
        free(member->files[i].path);
    member->state = MEMBER_NONE;
}

int member_wait(struct member *member, const struct bg_sandbox *sandbox, struct bg_err *err)
{
    int r = bg_pool_listen(sandbox, &member->listen_fd, err);
    if (r == 0)
        member->state = MEMBER_WAITS;
    return r;
}

void member_end(struct member *member)
{
    if (member->state == MEMBER_NONE)
        return;
    member->state = MEMBER_OVER;
    drop(&member->listen_fd); /* who waits there goes on to another */
}

int member_listen_fd(const struct member *member)
{
    return member->state == MEMBER_WAITS ? member->listen_fd : -1;
}

int member_claimer_fd(const struct member *member)
{
    return member->state == MEMBER_WAITS || member->state == MEMBER_NAMED ? member->claimer_fd : -1;
}

void member_accept(struct member *member)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    BG_AUTOCLOSE int fd = accept4(member->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    /* To who comes second it is as if it was gone. */
    if (fd < 0 || member->claimer_fd >= 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ||
        (peer.uid != 0 && peer.uid != geteuid()))
        return;
    member->claimer_fd = bg_take_fd(&fd);
}

static void refuse(struct member *member, const struct bg_err *why)
{
    uint8_t word[BG_POOL_WORD_MAX] = {BG_POOL_REFUSED};
    memcpy(word + 1, why, sizeof *why);
    (void)!bg_send_fd(member->claimer_fd, word, sizeof word, -1); /* it sees the end as well */
    drop(&member->claimer_fd);
}

/* Errors: after which it is a member as before; -ECANCELED: it is none any more. */
static int become(struct member *member, const struct bg_paths *paths, struct bg_sandbox *sandbox,
                  const char *name, int fd, struct bg_err *err)
{
    struct bg_sandbox wanted = {0};
    if (!bg_sandbox_name_ok(name))
        return bg_err_set(err, -EINVAL, "claim: not a possible name");
    int r = bg_pool_read_claim(fd, name, &wanted, err);
    if (r == 0 && (strcmp(wanted.id, sandbox->id) != 0 || !bg_pool_fits(sandbox, &wanted)))
        r = bg_err_set(err, -EINVAL, "claim: not what this member can be");
    if (r == 0 && !(wanted.dir = strdup(sandbox->dir)))
        r = bg_err_errno(err, -ENOMEM, "claim");
    if (r == 0) {
        r = bg_pool_name(paths, &wanted, err);
        bool renamed = strcmp(wanted.dir, sandbox->dir) != 0;
        if (r < 0 && !renamed && bg_sandbox_save(sandbox, NULL) == 0) {
            bg_sandbox_done(&wanted);
            return r;
        }
        bg_sandbox_done(sandbox);
        *sandbox = wanted;
        if (r < 0)
            return -ECANCELED;
        /* Only now: whoever makes a new CA, and sees this sandbox's, keeps the old one for it. */
        if (member_is_stale(member)) {
            (void)bg_err_set(err, -ESTALE, "the member was out of date");
            return -ECANCELED;
        }
        member->state = MEMBER_NAMED;
        return 0;
    }
    bg_sandbox_done(&wanted);
    return r;
}

static enum member_event claimed(struct member *member, const struct bg_paths *paths,
                                 struct bg_sandbox *sandbox, const char *name, int fd,
                                 struct bg_err *err)
{
    const uint8_t taken = BG_POOL_TAKEN;
    struct bg_err why = {0};
    int r = become(member, paths, sandbox, name, fd, &why);
    if (r == -ECANCELED) {
        sandbox->ephemeral = true;
        *err = why;
        return MEMBER_ENDS; /* the claimer hears when all is gone: it may ask for the name again */
    }
    if (r < 0) {
        refuse(member, &why);
        return MEMBER_NOTHING;
    }
    bg_pool_unlisten(sandbox);
    drop(&member->listen_fd);
    member->config_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (member->config_fd < 0 || bg_send_fd(member->claimer_fd, &taken, 1, -1) < 0) {
        sandbox->ephemeral = true;
        (void)bg_err_set(err, -EPIPE, "its claimer is gone");
        return MEMBER_ENDS;
    }
    return MEMBER_IS_NAMED;
}

enum member_event member_spoke(struct member *member, const struct bg_paths *paths,
                               struct bg_sandbox *sandbox, int *ret_status_fd, int *ret_owner_fd,
                               struct bg_err *err)
{
    char word[BG_POOL_WORD_MAX];
    int fds[BG_RECV_FDS_MAX];
    size_t fd_count = 0;
    enum member_event event = MEMBER_NOTHING;
    ssize_t n = bg_recv_fds(member->claimer_fd, word, sizeof word - 1, fds, &fd_count);
    if (n == -EAGAIN || n == -EINTR)
        return MEMBER_NOTHING;
    word[n > 0 ? n : 0] = '\0';
    if (n > 1 && word[0] == BG_POOL_CLAIM && fd_count == 1 && member->state == MEMBER_WAITS) {
        event = claimed(member, paths, sandbox, word + 1, fds[0], err);
    } else if (n == 1 && word[0] == BG_POOL_GO && fd_count >= 1 && fd_count <= 2 &&
               member->state == MEMBER_NAMED) {
        *ret_owner_fd = fd_count == 2 ? fds[1] : -1;
        *ret_status_fd = fds[0];
        return MEMBER_GOES;
    } else if (member->state == MEMBER_NAMED) {
        sandbox->ephemeral = true; /* nobody has it: it goes */
        (void)bg_err_set(err, -EPIPE, "its claimer is gone");
        event = MEMBER_ENDS;
    } else {
        drop(&member->claimer_fd);
    }
    while (fd_count > 0)
        (void)close(fds[--fd_count]); /* read only, or not asked for */
    return event;
}
