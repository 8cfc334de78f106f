/* The table of serve. The work is done by bellglass-serve, a program of its own. */
#include "host/cli/cmd_serve.h"

#include "host/cli/commands.h"

static const struct option_spec options[] = {
    {SERVE_LISTEN, 0, false, "listen", "ADDRESS:PORT",
     "where clients connect; port 0: any free one [127.0.0.1:8787]"},
    {SERVE_TLS_CERT, 0, false, "tls-cert", "FILE",
     "speak TLS with this certificate and its chain (PEM)"},
    {SERVE_TLS_KEY, 0, false, "tls-key", "FILE", "its key (PEM)"},
    {SERVE_WITHOUT_TLS, 0, false, "without-tls", NULL,
     "listen to other machines without TLS: something else encrypts"},
    {SERVE_TOKEN_FILE, 0, false, "token-file", "FILE",
     "the tokens that are taken, or to change [of this installation]"},
    {SERVE_HOST_NAME, 0, true, "host-name", "NAME",
     "a name that clients reach it by, beside localhost and its numbers"},
    {SERVE_IMAGE, 0, false, "image", "IMAGE", "what sandboxes are forks of [debian]"},
    {SERVE_CPUS, 0, false, "cpus", "N", "virtual CPUs of a sandbox [1]"},
    {SERVE_IDLE_SUSPEND, 0, false, "idle-suspend", "TIME",
     "suspend a sandbox that no client uses for so long; who needs it wakes it"},
    {SERVE_POOL, 0, false, "pool", "N",
     "keep N sandboxes ready, see `bellglass pool`; they end with serve [0]"},
    {SERVE_POOL_MEMORY, 0, false, "pool-memory", "SIZE",
     "memory of those: what clients ask for [1280M, the SDK's default]"},
    {SERVE_ALLOW, 0, true, "allow", "HOST[:PORT]",
     "what every sandbox may reach, beside what its client allows"},
    {SERVE_REGION, 0, false, "region", "REGION", "three letters, for ids: ord or ams [ord]"},
    {SERVE_UPSTREAM_CA, 0, false, "upstream-ca", "FILE",
     "also trust the CAs in FILE (PEM) when sandboxes connect to hosts"},
    {SERVE_MAX_SANDBOXES, 0, false, "max-sandboxes", "N",
     "token: how many sandboxes it may have at once; none: any number"},
    {SERVE_MAX_MEMORY, 0, false, "max-memory", "SIZE",
     "token: memory of its sandboxes together (512M, 8G); none: any"},
    {SERVE_MAX_LIFETIME, 0, false, "max-lifetime", "TIME",
     "token: how long one of its sandboxes may live (30m, 2h, 7d); none: any"},
    {SERVE_NESTED, 0, false, "nested", "YES|NO",
     "token: may be put into a sandbox; makes sandboxes only with --max-sandboxes [no]"},
    {SERVE_METRICS, 0, false, "metrics", "YES|NO", "token: may read /metrics [no]"},
    {SERVE_JSON, 0, false, "json", NULL, "print JSON (token ls)"},
    {SERVE_ALL, 0, false, "all", NULL,
     "token add: it is this machine's owner's, for the dashboard: all sandboxes are its own"},
    {0},
};

static const char *const forms[] = {
    "[OPTIONS]",          "[OPTIONS] token add NAME", "[OPTIONS] token set NAME",
    "[OPTIONS] token ls", "[OPTIONS] token rm NAME",  NULL};

static const char *const examples[] = {
    "serve token add laptop",
    "serve token add --all me",
    "serve token set laptop --max-sandboxes 4 --max-memory 8G --max-lifetime 2h",
    "serve --image debian",
    NULL,
};

const struct command cmd_serve = {
    .name = "serve",
    .summary = "serve sandboxes to programs that use the Deno Sandbox SDK",
    .forms = forms,
    .options = options,
    .details =
        "Speaks the protocol of the npm package @deno/sandbox. Such a program runs unchanged with "
        "DENO_SANDBOX_ENDPOINT and DENO_DEPLOY_ENDPOINT set to http://127.0.0.1:8787 and "
        "DENO_DEPLOY_TOKEN to what `bellglass serve token add` prints. Only a hash of a token is "
        "kept.\n\n"
        "A sandbox's id is its name: other commands work with it too. It ends with its connection, "
        "or at the time that its client gave. When serve ends, sandboxes run on; the next one goes "
        "on with them, and gives clients a minute to connect to those that would end without "
        "one.\n\n"
        "http://127.0.0.1:8787/ is a dashboard: a page that takes a token and shows its sandboxes, "
        "with terminals, files, snapshots, forks, and what they ask for of the network. With a "
        "token that was made with --all it shows all sandboxes of this installation.\n\n"
        "Other machines are served by TLS only (--tls-cert, --tls-key), unless --without-tls says "
        "that something else encrypts.",
    .examples = examples,
    .operands_max = 3,
    .helper = "bellglass-serve",
    .helper_verb = true,
};
