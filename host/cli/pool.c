#include "host/cli/pool.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/io.h"
#include "common/state/pool.h"
#include "common/state/sandbox_json.h"

/* A member gives its folder a name and writes that to the disk, and ends if it is out of date: with
 * a busy disk that takes seconds. Whoever goes on before it has answered finds the name in use. */
#define ANSWER_MS 60000

#define NAMES_MAX 100 /* made-up ones that are all in use: as in bg_sandbox_create */

/* What changes how a sandbox is started is not known to who has been started already. */
static bool is_ordinary(void)
{
    const char *agent = getenv("BELLGLASS_AGENT");
    return !getenv("BELLGLASS_START") && (!agent || !*agent);
}

static int write_config(const struct bg_sandbox *s, int *ret_fd, struct bg_err *err)
{
    BG_AUTOFREE char *text = sandbox_json_emit(s);
    if (!text)
        return bg_err_errno(err, -ENOMEM, "sandbox '%s'", s->name);
    BG_AUTOCLOSE int fd = memfd_create("sandbox.json", MFD_CLOEXEC);
    int r = fd < 0 ? -errno : bg_write_full(fd, text, strlen(text));
    if (r < 0)
        return bg_err_errno(err, r, "sandbox '%s'", s->name);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

/* Returns 1 taken, 0 not to be had. Errors: -EEXIST; others of this side. */
static int ask(int socket, const struct bg_sandbox *s, struct bg_err *err)
{
    uint8_t word[BG_POOL_WORD_MAX];
    int fds[BG_RECV_FDS_MAX], config = -1;
    size_t fd_count = 0, size = strlen(s->name);
    int r = write_config(s, &config, err);
    BG_AUTOCLOSE int config_fd = config;
    if (r < 0)
        return r;
    word[0] = BG_POOL_CLAIM;
    memcpy(word + 1, s->name, size);
    if (bg_send_fd(socket, word, 1 + size, config_fd) < 0)
        return 0;
    struct pollfd ready = {.fd = socket, .events = POLLIN};
    if (poll(&ready, 1, ANSWER_MS) <= 0)
        return 0;
    ssize_t n = bg_recv_fds(socket, word, sizeof word, fds, &fd_count);
    while (fd_count > 0)
        (void)close(fds[--fd_count]); /* none is sent */
    if (n == 1 && word[0] == BG_POOL_TAKEN)
        return 1;
    struct bg_err why;
    if (n != BG_POOL_WORD_MAX || word[0] != BG_POOL_REFUSED)
        return 0;
    memcpy(&why, word + 1, sizeof why);
    why.text[sizeof why.text - 1] = '\0';
    return why.code == -EEXIST ? bg_err_set(err, -EEXIST, "%s", why.text) : 0;
}

/* With the sandbox's own name, or with one that is free. The member takes the end of a connection
 * for ours, so each try has its own. Returns as ask(). */
static int claim(const struct bg_sandbox *member, struct bg_sandbox *s, int *ret_fd,
                 struct bg_err *err)
{
    bool named = s->name != NULL;
    int r = 0;
    for (int attempt = 0; attempt < NAMES_MAX; attempt++) {
        int socket = -1;
        if (bg_pool_connect(member, &socket, NULL) < 0)
            return 0;
        BG_AUTOCLOSE int fd = socket;
        bg_sandbox_begin(s, member->id);
        if (!named && !(s->name = bg_sandbox_made_up_name()))
            return bg_err_errno(err, -ENOMEM, "sandbox name");
        r = ask(fd, s, err);
        if (r == 1)
            *ret_fd = bg_take_fd(&fd);
        if (r == 1 || named)
            return r;
        free(s->name);
        s->name = NULL;
        if (r != -EEXIST)
            return r;
    }
    return r;
}

/* Returns as ask(); the sandbox is complete when it is taken. */
static int take(struct app *app, struct bg_sandbox *s, int *ret_fd, struct bg_err *err)
{
    struct bg_sandbox *members;
    size_t count;
    int r = 0;
    if (!is_ordinary() || (s->name && !bg_sandbox_name_ok(s->name)))
        return 0;
    if (bg_pool_members(&app->paths, &members, &count, NULL) < 0)
        return 0;
    for (size_t i = 0; r == 0 && i < count; i++)
        if (bg_pool_fits(&members[i], s) && bg_pool_waits(&members[i]))
            r = claim(&members[i], s, ret_fd, err);
    bg_pool_members_free(members, count);
    if (r == 1 && asprintf(&s->dir, "%s/sandboxes/%s", app->paths.state, s->name) < 0) {
        s->dir = NULL;
        (void)close(*ret_fd); /* and so it goes */
        return bg_err_errno(err, -ENOMEM, "sandbox '%s'", s->name);
    }
    if (r == 1)
        (void)bg_fault("pool-claimed");
    return r;
}

int pool_create(struct app *app, struct bg_sandbox *sandbox, int *ret_fd, struct bg_err *err)
{
    *ret_fd = 0;
    int r = take(app, sandbox, ret_fd, err);
    if (r == 0)
        r = bg_sandbox_create(&app->paths, sandbox, err);
    return r < 0 ? r : 0;
}
