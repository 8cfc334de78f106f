/* sandbox_options: what run and create take alike. */
#pragma once

#include "common/state/sandbox.h"
#include "host/cli/app.h"
#include "host/cli/args.h"

enum {
    OPTION_IMAGE = 1,
    OPTION_FROM,
    OPTION_CPUS,
    OPTION_MEMORY,
    OPTION_ENV,
    OPTION_ALLOW,
    OPTION_SECRET,
    OPTION_UPSTREAM_CA,
    OPTION_PROJECT,
    OPTION_POLICY,
    OPTION_LEARN,
    OPTION_MOUNT,
    OPTION_VOLUME,
    OPTION_HIDE,
    OPTION_SHOW,
    OPTION_SHARE_UNGUARDED,
    OPTION_SHARE_ANY_LINKS,
    OPTION_SHARE_ANYWAY,
    OPTION_TTL,
    OPTION_IDLE_SUSPEND,
    OPTION_NAME,
    OPTION_QUIET,
    OPTION_TTY,
    OPTION_INTERACTIVE,
    OPTION_USER,
    OPTION_CWD,
    OPTION_JSON,
    OPTION_NO_POOL,
    OPTION_OWN, /* the first of a command's own */
};

/* How folders are shared. */
#define SHARE_OPTIONS                                                                              \
    {OPTION_HIDE,                                                                                  \
     0,                                                                                            \
     true,                                                                                         \
     "hide",                                                                                       \
     "PATTERN",                                                                                    \
     "in shared folders, hide what has such a name or path, beside secrets such as .env"},         \
        {OPTION_SHOW, 0, true, "show", "PATTERN", "show what would be hidden"},                    \
        {OPTION_SHARE_UNGUARDED,                                                                   \
         0,                                                                                        \
         false,                                                                                    \
         "share-unguarded",                                                                        \
         NULL,                                                                                     \
         "let it write what runs programs here: git's configuration and hooks, editors' tasks"},   \
        {OPTION_SHARE_ANY_LINKS, 0,    false,                                                      \
         "share-any-links",      NULL, "let it make symbolic links that lead out of the folder"},  \
    {                                                                                              \
        OPTION_SHARE_ANYWAY, 0, false, "share-anyway", NULL,                                       \
            "also share your home folder, the root and the like"                                   \
    }

/* How long it lives, and how long awake. */
#define LIFETIME_OPTIONS                                                                           \
    {OPTION_TTL, 0,      false,                                                                    \
     "ttl",      "TIME", "stop it so long after now (30s, 10m, 2h, 7d; none), whatever it does"},  \
    {                                                                                              \
        OPTION_IDLE_SUSPEND, 0, false, "idle-suspend", "TIME",                                     \
            "suspend it when it has done nothing for so long; what needs it wakes it"              \
    }

/* What a sandbox is like. */
#define SANDBOX_SETTINGS                                                                           \
    {OPTION_IMAGE,                                                                                 \
     0,                                                                                            \
     false,                                                                                        \
     "image",                                                                                      \
     "IMAGE",                                                                                      \
     "what to fork from, see `bellglass image ls` "                                                \
     "[debian]"},                                                                                  \
        {OPTION_CPUS, 0, false, "cpus", "N", "virtual CPUs [1]"},                                  \
        {OPTION_MEMORY, 0, false, "memory", "SIZE", "its memory, such as 512M or 2G [512M]"},      \
        LIFETIME_OPTIONS,                                                                          \
        {OPTION_ENV, 'e', true, "env", "K=V", "a variable for every command; K alone: your own"},  \
        {OPTION_ALLOW,  0,                                                                         \
         true,          "allow",                                                                   \
         "HOST[:PORT]", "what it may reach: a name, or *.suffix; all else is refused"},            \
        {OPTION_SECRET,                                                                            \
         0,                                                                                        \
         true,                                                                                     \
         "secret",                                                                                 \
         "NAME@HOST[,HOST]",                                                                       \
         "put the secret NAME into requests to these hosts; the sandbox has a placeholder in "     \
         "$NAME"},                                                                                 \
        {OPTION_PROJECT,                                                                           \
         'f',                                                                                      \
         false,                                                                                    \
         "file",                                                                                   \
         "FILE",                                                                                   \
         "a project's bellglass.yaml: image, sizes, variables, mounts and policy; options go "     \
         "before it"},                                                                             \
        {OPTION_POLICY,                                                                            \
         0,                                                                                        \
         false,                                                                                    \
         "policy",                                                                                 \
         "FILE",                                                                                   \
         "rules for requests and secrets, see `bellglass policy`; --allow goes before them"},      \
        {OPTION_LEARN,                                                                             \
         0,                                                                                        \
         false,                                                                                    \
         "learn",                                                                                  \
         NULL,                                                                                     \
         "let it reach every public host by HTTP and HTTPS, without secrets, for `bellglass "      \
         "policy learn`"},                                                                         \
        {OPTION_MOUNT,                                                                             \
         0,                                                                                        \
         true,                                                                                     \
         "mount",                                                                                  \
         "DIR[:GUESTDIR][:ro|rw|cow]",                                                             \
         "share the folder DIR with it [at /home/app/NAME, rw], see `bellglass share`"},           \
        SHARE_OPTIONS,                                                                             \
    {                                                                                              \
        OPTION_UPSTREAM_CA, 0, false, "upstream-ca", "FILE",                                       \
            "also trust the CAs in FILE (PEM) when connecting to hosts"                            \
    }

#define SANDBOX_OPTIONS                                                                            \
    SANDBOX_SETTINGS,                                                                              \
        {OPTION_VOLUME,                                                                            \
         0,                                                                                        \
         true,                                                                                     \
         "volume",                                                                                 \
         "NAME:PATH",                                                                              \
         "mount the volume NAME at PATH, see `bellglass volume`; no other sandbox has it "         \
         "meanwhile"},                                                                             \
        {OPTION_FROM,                                                                              \
         0,                                                                                        \
         false,                                                                                    \
         "from",                                                                                   \
         "SNAPSHOT",                                                                               \
         "go on from a snapshot, or from a sandbox as it is now; -e and --allow add to its "       \
         "settings"},                                                                              \
        {OPTION_NO_POOL, 0,    false,                                                              \
         "no-pool",      NULL, "start it now, even if `bellglass pool` has one ready"},            \
    {                                                                                              \
        OPTION_QUIET, 'q', false, "quiet", NULL, "no progress on stderr"                           \
    }

#define EXEC_OPTIONS                                                                                 \
    {OPTION_TTY, 't', false, "tty", NULL, "give the command a terminal"},                            \
        {OPTION_INTERACTIVE, 'i', false, "interactive", NULL, "nothing: stdin is always connected"}, \
        {OPTION_USER, 'u', false, "user", "USER", "run it as USER [the image's]"},                   \
    {                                                                                                \
        OPTION_CWD, 'w', false, "workdir", "DIR", "run it in DIR [the user's home]"                  \
    }

/* Fills *ret (end it with bg_sandbox_done) from the options: finds the image, reads sizes, checks
 * hosts, resolves files. name: NULL to make one up. Errors: -EINVAL, -ENOENT, ... each naming the
 * option and the way out. */
int sandbox_options_read(struct app *app, const struct args *args, const char *name,
                         struct bg_sandbox *ret, struct bg_err *err) BG_MUST_CHECK;

/* --cpus and --memory: sets these of the sandbox. Errors: -EINVAL. */
int sandbox_options_sizes(const struct args *args, struct bg_sandbox *sandbox,
                          struct bg_err *err) BG_MUST_CHECK;

/* LIFETIME_OPTIONS, those that were given: sets ttl_s and idle_suspend_s, and expires_ms from
 * now_ms on. *ret_given (may be NULL): whether one was. Errors: -EINVAL. */
int sandbox_options_lifetime(const struct args *args, uint64_t now_ms, struct bg_sandbox *sandbox,
                             bool *ret_given, struct bg_err *err) BG_MUST_CHECK;

/* The values of -e as "K=V": heap array of heap strings, the caller's; *ret_count of them. */
int sandbox_options_env(const struct args *args, char ***ret, size_t *ret_count,
                        struct bg_err *err) BG_MUST_CHECK;
void sandbox_options_env_free(char **env, size_t count);
