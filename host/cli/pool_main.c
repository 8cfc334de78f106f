/* bellglass-pool: the keeper of a pool, started by `bellglass pool` and by `bellglass serve`:
 * IMAGE CPUS MEMORY_BYTES COUNT STATUS_FD OWNER_FD (-1: none). docs/protocol.md, "Pools". */
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/limits.h"
#include "host/cli/pool_keeper.h"

static int parse(char **argv, struct pool_keeper_opts *ret)
{
    uint64_t cpus, memory, count;
    if (bg_parse_u64(argv[2], 1, BG_SANDBOX_CPUS_MAX, &cpus) < 0 ||
        bg_parse_u64(argv[3], BG_SANDBOX_MEMORY_MIN, BG_SANDBOX_MEMORY_MAX, &memory) < 0 ||
        bg_parse_u64(argv[4], 1, BG_POOL_MEMBERS_MAX, &count) < 0)
        return -EINVAL;
    *ret = (struct pool_keeper_opts){.info = {.image = argv[1],
                                              .cpus = (unsigned)cpus,
                                              .memory_bytes = memory,
                                              .wanted = (unsigned)count},
                                     .status_fd = -1,
                                     .owner_fd = -1};
    if (strcmp(argv[5], "-1") != 0 && bg_parse_fd(argv[5], &ret->status_fd) < 0)
        return -EBADF;
    if (strcmp(argv[6], "-1") != 0 && bg_parse_fd(argv[6], &ret->owner_fd) < 0)
        return -EBADF;
    ret->info.gateway = ret->owner_fd >= 0;
    return 0;
}

/* Whoever waits for our terminal or pipe must not wait for us. A gateway's notes go where its own
 * do. */
static void let_go(bool gateway)
{
    BG_AUTOCLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 0; null >= 0 && i < (gateway ? 2 : 3); i++)
        (void)dup2(null, i); /* there it is open already */
}

int main(int argc, char **argv)
{
    struct app app = {.version = BELLGLASS_VERSION};
    struct pool_keeper_opts opts;
    struct bg_err err = {0};
    if (argc != 7 || parse(argv, &opts) < 0) {
        app_note("this program is for bellglass: say bellglass pool");
        return APP_FAILED;
    }
    (void)signal(SIGPIPE, SIG_IGN); /* cannot fail */
    let_go(opts.info.gateway);
    int r = chdir("/") < 0 ? bg_err_errno(&err, -errno, "/") : app_paths(&app, &err); /* no folder
                                                                                   is kept busy */
    if (r == 0)
        r = pool_keeper_run(&app, &opts, &err);
    app_done(&app);
    return r < 0 ? app_fail(&err) : 0;
}
