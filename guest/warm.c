#include "guest/warm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/cgroup.h"
#include "guest/plan.h"
#include "guest/spawn.h"

/* The whole of it; a command that hangs is killed then. */
#define WARM_MS 60000

#define SHORTEST 2 /* so many at the end of commands[] */

/* What an image does not have is passed over. The last one is what most forks begin with. */
static const char *const commands[][4] = {
    {"python3", "-c", "import json, os, re, subprocess, sys"},
    {"git", "--version"},
    {"curl", "--version"},
    {"bash", "-c", "true"},
    {"env"},
    {"ls", "-l", "/"},
    {"cat", "/etc/passwd"},
    {"id"},
    {"uname", "-a"},
    {"sh", "-c", "true"},
    {"true"},
};

struct warm {
    struct agent *agent;
    struct child child;
    uv_timer_t deadline;
    int null_fd;
    uint32_t cgroup;
    bool has_cgroup;
    size_t next; /* in commands */
    void (*on_done)(void *owner);
    void *owner;
};

static void run_next(struct warm *warm);

static void closed(uv_handle_t *handle)
{
    struct warm *warm = handle->data;
    void (*on_done)(void *owner) = warm->on_done;
    void *owner = warm->owner;
    (void)close(warm->null_fd); /* /dev/null */
    free(warm);
    on_done(owner);
}

static void ended(struct child *child, int wait_status)
{
    (void)wait_status; /* whatever it was, its files are in memory */
    struct warm *warm = CONTAINER_OF(child, struct warm, child);
    child->pid = 0;
    if (warm->has_cgroup && !cgroup_remove(warm->agent->cgroup_fd, warm->cgroup))
        agent_sweep_later(warm->agent);
    run_next(warm);
}

static void too_late(uv_timer_t *timer)
{
    struct warm *warm = timer->data;
    warm->next = sizeof commands / sizeof *commands;
    (void)kill(warm->child.pid, SIGKILL); /* our child, not reaped yet: the pid is its own */
}

/* Starts one command. False if it could not be. */
static bool run(struct warm *warm, const char *const command[4])
{
    uint8_t strings[256];
    struct bg_writer w = bg_writer_init(strings, sizeof strings);
    struct bg_exec_request request = {0};
    for (; request.argc < 4 && command[request.argc]; request.argc++)
        bg_writer_text32le(&w, command[request.argc]);
    request.strings = strings;
    request.strings_size = w.used;
    struct plan *plan = calloc(1, sizeof *plan);
    if (!plan || plan_make(&request, &warm->agent->env, plan, NULL) < 0) {
        free(plan);
        return false;
    }
    BG_AUTOCLOSE int cgroup_fd = -1;
    warm->has_cgroup = false;
    if (warm->agent->cgroup_fd >= 0) {
        warm->cgroup = warm->agent->next_cgroup++;
        cgroup_fd = cgroup_make(warm->agent->cgroup_fd, warm->cgroup);
        warm->has_cgroup = cgroup_fd >= 0;
    }
    const struct spawn_opts opts = {.argv = plan->argv,
                                    .env = &plan->env,
                                    .account = &plan->account,
                                    .cwd = plan->cwd,
                                    .cwd_optional = true,
                                    .stdio = {warm->null_fd, warm->null_fd, warm->null_fd},
                                    .cgroup_fd = cgroup_fd,
                                    .drop_rights = geteuid() == 0};
    BG_AUTOCLOSE int status_fd = -1;
    int r = spawn(&opts, &warm->child.pid, &status_fd, NULL);
    plan_done(plan);
    free(plan);
    if (r < 0) {
        if (warm->has_cgroup)
            (void)cgroup_remove(warm->agent->cgroup_fd, warm->cgroup); /* empty; else it is swept */
        return false;
    }
    warm->child.on_exit = ended;
    agent_watch_child(warm->agent, &warm->child);
    return true;
}

static void run_next(struct warm *warm)
{
    while (warm->next < sizeof commands / sizeof *commands)
        if (run(warm, commands[warm->next++]))
            return; /* ended() goes on */
    uv_close((uv_handle_t *)&warm->deadline, closed);
}

int warm_start(struct agent *agent, bool all, void (*on_done)(void *owner), void *owner)
{
    struct warm *warm = calloc(1, sizeof *warm);
    if (!warm)
        return -ENOMEM;
    warm->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (warm->null_fd < 0) {
        free(warm);
        return -errno;
    }
    warm->agent = agent;
    warm->next = all ? 0 : sizeof commands / sizeof *commands - SHORTEST;
    warm->on_done = on_done;
    warm->owner = owner;
    (void)uv_timer_init(&agent->loop, &warm->deadline); /* cannot fail */
    warm->deadline.data = warm;
    (void)uv_timer_start(&warm->deadline, too_late, WARM_MS, 0); /* not closing */
    run_next(warm);
    return 0;
}
