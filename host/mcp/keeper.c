/* Each thing is a line: '+' or '-', 's' (sandbox) or 'n' (snapshot), and the name, which has
 * neither spaces nor newlines in it. A write of so little to a pipe is whole or not there at all.
 */
#include "host/mcp/keeper.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"
#include "common/state/snapshot.h"
#include "host/cli/life.h"

struct kept {
    SLIST_ENTRY(kept) link;
    enum keeper_kind kind;
    pid_t pid; /* who removes it */
    char name[];
};

SLIST_HEAD(kept_list, kept);

/* ---- in the keeper ---- */

static int remove_sandbox(struct app *app, const char *name, struct bg_err *err)
{
    struct life life;
    int r = life_open_any(app, name, &life, err);
    if (r < 0)
        return r;
    r = life_stop(app, &life, /* grace_ms= */ 0, NULL, err);
    if (r == 0)
        r = life_remove(app, &life, err);
    life_done(&life);
    return r;
}

/* Returns the exit status of who does it. */
static int remove_one(struct app *app, const struct kept *kept)
{
    struct bg_err err;
    int r = kept->kind == KEEPER_SANDBOX ? remove_sandbox(app, kept->name, &err)
                                         : bg_snapshot_remove(&app->paths, kept->name, &err);
    return r == 0 || r == -ENOENT ? 0 : app_fail(&err);
}

/* Each by a process of its own: ending a sandbox is mostly waiting. */
static void remove_kind(struct app *app, const struct kept_list *list, enum keeper_kind kind)
{
    struct kept *kept;
    SLIST_FOREACH(kept, list, link)
    {
        if (kept->kind != kind)
            continue;
        kept->pid = fork();
        if (kept->pid == 0)
            _exit(remove_one(app, kept));
        if (kept->pid < 0)
            (void)remove_one(app, kept); /* it has said what is wrong */
    }
    SLIST_FOREACH(kept, list, link)
    {
        if (kept->kind == kind && kept->pid > 0)
            (void)waitpid(kept->pid, NULL, 0); /* likewise */
    }
}

static void take_line(struct kept_list *list, const char *line)
{
    size_t size = strlen(line);
    if (size < 3)
        return;
    enum keeper_kind kind = line[1] == 's' ? KEEPER_SANDBOX : KEEPER_SNAPSHOT;
    struct kept *kept;
    SLIST_FOREACH(kept, list, link)
    {
        if (kept->kind == kind && strcmp(kept->name, line + 2) == 0)
            break;
    }
    if (line[0] == '-' && kept) {
        SLIST_REMOVE(list, kept, kept, link);
        free(kept);
    } else if (line[0] == '+' && !kept && (kept = calloc(1, sizeof *kept + size - 1))) {
        kept->kind = kind;
        memcpy(kept->name, line + 2, size - 1);
        SLIST_INSERT_HEAD(list, kept, link);
    }
}

static int keep(struct app *app, int fd)
{
    struct kept_list list;
    char *line = NULL;
    size_t room = 0;
    SLIST_INIT(&list);
    FILE *in = fdopen(fd, "r");
    if (!in)
        return APP_FAILED;
    for (ssize_t n; (n = getline(&line, &room, in)) > 0;) {
        line[strcspn(line, "\n")] = '\0';
        take_line(&list, line);
    }
    remove_kind(app, &list, KEEPER_SANDBOX);
    remove_kind(app, &list, KEEPER_SNAPSHOT);
    while (!SLIST_EMPTY(&list)) {
        struct kept *kept = SLIST_FIRST(&list);
        SLIST_REMOVE_HEAD(&list, link);
        free(kept);
    }
    free(line);
    (void)fclose(in);
    return 0;
}

/* The client waits for the end of stdout, and a terminal's signals are for the server. */
static void go_apart(void)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    (void)setsid(); /* fails only for the leader of a group, which a new process is not */
    if (fd >= 0) {
        (void)dup2(fd, STDIN_FILENO);
        (void)dup2(fd, STDOUT_FILENO);
        (void)close(fd);
    }
}

/* ---- in the server ---- */

int keeper_start(struct app *app, struct keeper *ret, struct bg_err *err)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "pipe");
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(fds[1]);
        go_apart();
        _exit(keep(app, fds[0]));
    }
    (void)close(fds[0]);
    if (pid < 0) {
        (void)close(fds[1]);
        return bg_err_errno(err, -errno, "fork");
    }
    *ret = (struct keeper){.pid = pid, .fd = fds[1]};
    return 0;
}

int keeper_tell(const struct keeper *keeper, enum keeper_kind kind, const char *name, bool remove,
                struct bg_err *err)
{
    BG_AUTOFREE char *line = NULL;
    if (keeper->fd < 0)
        return 0;
    int size =
        asprintf(&line, "%c%c%s\n", remove ? '+' : '-', kind == KEEPER_SANDBOX ? 's' : 'n', name);
    int r = size < 0 ? -ENOMEM : bg_write_full(keeper->fd, line, (size_t)size);
    return r < 0 ? bg_err_errno(err, r, "the process that cleans up") : 0;
}

void keeper_finish(struct keeper *keeper)
{
    if (keeper->fd < 0)
        return;
    (void)close(keeper->fd);
    while (waitpid(keeper->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    *keeper = (struct keeper){.fd = -1};
}
