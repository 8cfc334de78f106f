#include "net/reload.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "common/io.h"

#define TIMEOUT_MS    10000
#define LINE_MAX_SIZE 4096

/* One request of the control socket. *ret: the answer, the caller's. */
static int ask(const struct bg_paths *paths, const struct bg_sandbox *sandbox, const char *op,
               json_t **ret, struct bg_err *err)
{
    char line[LINE_MAX_SIZE];
    int fd_number;
    int r = bg_sandbox_connect(paths, sandbox, &fd_number, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int fd = fd_number;
    int n = snprintf(line, sizeof line, "{\"op\":\"%s\"}\n", op);
    r = bg_write_full(fd, line, (size_t)n);
    size_t used = 0;
    while (r == 0 && used < sizeof line) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (poll(&ready, 1, TIMEOUT_MS) <= 0) {
            r = -ETIMEDOUT;
            break;
        }
        ssize_t got = read(fd, line + used, sizeof line - used);
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    *ret = r == 0 ? json_loadb(line, used, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
    if (*ret && json_is_true(json_object_get(*ret, "ok")))
        return 0;
    json_decref(*ret);
    return bg_err_set(err, r < 0 ? r : -EPROTO, "%s: its supervisor does not answer",
                      sandbox->name);
}

static int proxy_pid(const struct bg_paths *paths, const struct bg_sandbox *sandbox, int *ret,
                     struct bg_err *err)
{
    json_t *answer;
    int r = ask(paths, sandbox, "status", &answer, err);
    if (r < 0)
        return r;
    *ret = (int)json_integer_value(json_object_get(answer, "proxy_pid"));
    json_decref(answer);
    return 0;
}

int reload_sandbox(const struct bg_paths *paths, const struct bg_sandbox *sandbox,
                   struct bg_err *err)
{
    json_t *answer;
    int before, now;
    int r = proxy_pid(paths, sandbox, &before, err);
    if (r == 0)
        r = ask(paths, sandbox, "policy-reload", &answer, err);
    if (r < 0)
        return r;
    json_decref(answer);
    for (uint64_t start_ms = bg_now_ms(); bg_now_ms() - start_ms < TIMEOUT_MS;) {
        r = proxy_pid(paths, sandbox, &now, err);
        if (r < 0)
            return r;
        if (now != before && now != 0)
            return 0;
        (void)poll(NULL, 0, 20);
    }
    return bg_err_set(err, -ETIMEDOUT,
                      "%s: its new proxy does not come up, and nothing goes out until it does; see "
                      "%s/proxy.log",
                      sandbox->name, sandbox->dir);
}
