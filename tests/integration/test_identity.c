/* What makes a fork itself, and what of its source it has: names, keys, randomness, placeholders;
 * and what a snapshot has of secrets: nothing. */
#include "tests/lib/vm.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"

#define PYTHON "/usr/bin/python3"

static void put(struct vm *vm, const char *sandbox, const char *name, const char *text)
{
    const char *at = vm_path(vm, "%s", name);
    vm_write(at, text, strlen(text));
    (void)vm_ok(vm, "cp", at, vm_text(vm, "%s:/home/app/%s", sandbox, name), NULL);
}

/* Writes who it is, as often as it can. */
static const char witness[] =
    "import os, socket\n"
    "log = os.open('/home/app/seen', os.O_WRONLY | os.O_CREAT)\n"
    "for _ in range(1000000):\n"
    "    with open('/etc/machine-id') as f: machine = f.read().strip()\n"
    "    os.write(log, f'{machine} {socket.gethostname()}\\n'.encode())\n";

/* How many lines the witness wrote before it was somebody else, who must be the last. */
static long lines_before(struct vm *vm, const char *child, const char *before)
{
    const char *machine = vm_guest(vm, child, "cat /etc/machine-id");
    const char *own = vm_text(vm, "%.32s %s", machine, child);
    (void)vm_guest(vm, child, "until grep -q '^%s$' seen; do sleep 0.1; done", own);
    return strtol(vm_guest(vm, child,
                           "cp seen all; grep -vx -e '%s' -e '%s' all >strange || true;"
                           "test \"$(head -c -1 strange | wc -l)\" -le 0 || cat strange;"
                           "grep -cx '%s' all",
                           before, own, before),
                  NULL, 10);
}

static void nothing_runs_on_as_the_source(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm), *first = vm_name(vm), *second = vm_name(vm);
    put(vm, s, "witness.py", witness);
    (void)vm_ok(vm, "exec", "-d", s, "--", "python3", "witness.py", NULL);
    const char *before = vm_text(vm, "%.32s %s", vm_guest(vm, s, "cat /etc/machine-id"), s);
    (void)vm_guest(vm, s, "until [ $(wc -l <seen) -gt 100 ]; do sleep 0.1; done");
    (void)vm_ok(vm, "snapshot", "-q", s, "one", NULL);
    (void)vm_ok(vm, "fork", "-q", vm_text(vm, "%s@one", s), first, second, NULL);
    /* The snapshot stands between two lines, and both went on with the next one as themselves. */
    long lines = lines_before(vm, first, before);
    assert_true(lines > 100);
    assert_int_equal(lines_before(vm, second, before), lines);
    /* In the source it is still the same one, and it goes on. */
    assert_string_equal(vm_text(vm, "%.32s %s", vm_guest(vm, s, "cat /etc/machine-id"), s), before);
    (void)vm_guest(vm, s, "until [ $(grep -cx '%s' seen) -gt %ld ]; do sleep 0.1; done", before,
                   lines + 100);
    (void)vm_ok(vm, "rm", "--force", s, first, second, NULL);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@one", s), NULL);
}

/* Waits until it is told to, and writes what its generators give. */
static const char generators[] =
    "import os, random, secrets, ssl, uuid\n"
    "generation = open('/run/bellglass/generation')\n"
    "def read():\n"
    "    generation.seek(0)\n"
    "    return generation.read()\n"
    "was = read()\n"
    "random.seed(1), random.random(), ssl.RAND_bytes(16), os.urandom(16)\n"
    "os.mkfifo('/home/app/go')\n"
    "open('/home/app/ready', 'w').close()\n"
    "open('/home/app/go').close()\n"
    "with open('/home/app/out.new', 'w') as f:\n"
    "    print(os.urandom(16).hex(), os.getrandom(16).hex(), secrets.token_hex(), uuid.uuid4(),\n"
    "          read() != was and read().split()[1], sep='\\n', file=f)\n"
    "    print(random.random(), file=f)\n"
    "    print(ssl.RAND_bytes(16).hex(), file=f)\n"
    "os.rename('/home/app/out.new', '/home/app/out')\n";

static const char fresh[] =
    "head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/uuid;"
    "python3 -c 'import os, random, secrets, ssl;"
    "print(os.urandom(9).hex(), random.random(), secrets.token_hex(), ssl.RAND_bytes(9).hex(), "
    "sep=\"\\n\")';"
    "if command -v openssl >/dev/null; then openssl rand -hex 16; openssl genpkey -algorithm "
    "ed25519 | sed -n 2p; fi";

static void forks_of_a_snapshot_share_no_randomness(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm), *names[2], *old[2], *new[2];
    put(vm, s, "generators.py", generators);
    (void)vm_ok(vm, "exec", "-d", s, "--", "python3", "generators.py", NULL);
    (void)vm_guest(vm, s, "until [ -e ready ]; do sleep 0.1; done");
    (void)vm_ok(vm, "snapshot", "-q", s, "one", NULL);
    names[0] = vm_name(vm);
    names[1] = vm_name(vm);
    (void)vm_ok(vm, "fork", "-q", vm_text(vm, "%s@one", s), names[0], names[1], NULL);
    for (size_t i = 0; i < 2; i++) {
        new[i] = vm_guest(vm, names[i], "%s", fresh);
        old[i] = vm_guest(vm, names[i], "echo >go; until [ -e out ]; do sleep 0.1; done; cat out");
    }
    /* Line by line: of the kernel's there is none twice. */
    const char *a = new[0], *b = new[1];
    for (; *a && *b; a += strcspn(a, "\n") + 1, b += strcspn(b, "\n") + 1)
        if (strncmp(a, b, strcspn(a, "\n") + 1) == 0)
            fail_msg("of programs begun in the forks: %.*s", (int)strcspn(a, "\n"), a);
    assert_true(*a == *b);
    a = old[0];
    b = old[1];
    for (size_t line = 0; line < 5; line++, a += strcspn(a, "\n") + 1, b += strcspn(b, "\n") + 1)
        if (strncmp(a, b, strcspn(a, "\n") + 1) == 0)
            fail_msg("line %zu of one that ran before: %.*s", line, (int)strcspn(a, "\n"), a);
    /* What a program has seeded before goes on from there in both, as docs say. */
    assert_memory_equal(a, b, strcspn(a, "\n") + 1);
    (void)vm_ok(vm, "rm", "--force", s, names[0], names[1], NULL);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@one", s), NULL);
}

static void a_fork_has_ssh_keys_of_its_own(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm), *child = vm_name(vm);
    static const char key[] = "cat /etc/ssh/ssh_host_ed25519_key.pub";
    (void)vm_guest(vm, s,
                   "sudo ssh-keygen -A >/dev/null; sudo mkdir -p /run/bellglass/ssh/sbx_x;"
                   "sudo touch /run/bellglass/ssh/sbx_x/host_key");
    const char *before = vm_guest(vm, s, "%s", key);
    (void)vm_ok(vm, "fork", "-q", s, child, NULL);
    assert_string_equal(vm_guest(vm, child, "ls /run/bellglass/ssh"), "");
    /* They are made behind its back. */
    const char *after = vm_guest(
        vm, child, "while [ -e /etc/ssh/.bellglass-keys-due ]; do sleep 0.1; done; %s", key);
    assert_string_not_equal(after, before);
    /* The same machine keeps them. */
    assert_string_equal(vm_guest(vm, s, "%s", key), before);
    const char *machine = vm_guest(vm, child, "cat /etc/machine-id");
    (void)vm_ok(vm, "suspend", "-q", child, NULL);
    (void)vm_ok(vm, "resume", "-q", child, NULL);
    assert_string_equal(vm_guest(vm, child, "%s", key), after);
    (void)vm_ok(vm, "stop", "-t", VM_POWER_OFF_S, child, NULL);
    (void)vm_ok(vm, "start", "-q", child, NULL);
    assert_string_equal(vm_guest(vm, child, "%s", key), after);
    assert_string_equal(vm_guest(vm, child, "cat /etc/machine-id"), machine);
    (void)vm_ok(vm, "rm", "--force", s, child, NULL);
}

/* ---- secrets ---- */

struct net {
    struct vm_process *echo;
    int port;
    const char *secret, *sandbox;
};

/* A text that nothing else can hold by chance. */
static const char *new_text(struct vm *vm)
{
    uint8_t bytes[12];
    char hex[2 * sizeof bytes + 1];
    bg_random(bytes, sizeof bytes);
    bg_hex(bytes, sizeof bytes, hex);
    return vm_text(vm, "bgtest-%s", hex);
}

/* A service of our own, and a sandbox that may reach it with a secret of its own. */
static struct net connect_net(struct vm *vm)
{
    struct net net = {.secret = new_text(vm)};
    char ca[4096];
    int http;
    const char *bin =
        vm_text(vm, "%.*s", (int)(strrchr(vm->bellglass, '/') - vm->bellglass), vm->bellglass);
    const char *const argv[] = {vm_text(vm, "%s/../libexec/bellglass/bellglass-echo", bin),
                                "--dir",
                                vm->folder,
                                "--host",
                                "echo.test",
                                "--log",
                                vm_path(vm, "echo-log-%s", vm_name(vm)),
                                NULL};
    net.echo = vm_start_program(vm, argv);
    vm_expect(net.echo, "\nca ");
    vm_expect(net.echo, "\n");
    /* Its own three lines, in a fixed form. NOLINTNEXTLINE(cert-err34-c) */
    assert_int_equal(sscanf(net.echo->text, "https %d\nhttp %d\nca %4095s", &net.port, &http, ca),
                     3);
    const char *const set[] = {"secret", "set", "TOKEN", NULL};
    assert_int_equal(vm_call_with(vm, set, net.secret, strlen(net.secret))->status, 0);
    net.sandbox = vm_sandbox_with(vm, "--upstream-ca", ca, "--allow",
                                  vm_text(vm, "echo.test:%d=127.0.0.1", net.port), "--secret",
                                  "TOKEN@echo.test", NULL);
    return net;
}

/* Asks the service with the token; what came back. */
static const char *ask(struct vm *vm, const struct net *net, const char *sandbox, const char *token)
{
    return vm_guest(vm, sandbox,
                    "curl -sS -H \"Authorization: Bearer %s\" https://echo.test:%d/x?y", token,
                    net->port);
}

/* The audit line of the last request. */
static json_t *last_line(struct vm *vm, const char *sandbox)
{
    const char *text = vm_ok(vm, "audit", "--json", "-n", "1", sandbox, NULL);
    json_t *line = json_loads(text, 0, NULL);
    assert_non_null(line);
    return vm_keep(vm, json_dumps(line, 0)) ? line : NULL;
}

static size_t names_in(const json_t *line, const char *field)
{
    return json_array_size(json_object_get(line, field));
}

static void placeholders_of_the_source_are_good_in_the_fork(void **state)
{
    struct vm *vm = *state;
    struct net net = connect_net(vm);
    const char *old = vm_guest(vm, net.sandbox, "printf %%s \"$TOKEN\"");
    const char *child = vm_name(vm), *strict = vm_name(vm);
    (void)vm_ok(vm, "fork", "-q", net.sandbox, child, NULL);
    (void)vm_ok(vm, "fork", "-q", "--fresh-secrets", net.sandbox, strict, NULL);
    const char *own = vm_guest(vm, child, "printf %%s \"$TOKEN\"");
    assert_string_not_equal(own, old);
    json_t *line;
    static const struct {
        bool from_source, into_strict;
        size_t used, inherited, unknown;
    } rows[] = {{false, false, 1, 0, 0}, {true, false, 1, 1, 0}, {true, true, 0, 0, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *to = rows[i].into_strict ? strict : child;
        const char *answer = ask(vm, &net, to, rows[i].from_source ? old : own);
        assert_null(strstr(answer, net.secret)); /* it echoes the request */
        if (rows[i].used > 0)
            assert_non_null(strstr(answer, own)); /* whichever was sent */
        line = last_line(vm, to);
        assert_int_equal(names_in(line, "secrets"), rows[i].used);
        assert_int_equal(names_in(line, "placeholders_inherited"), rows[i].inherited);
        assert_true((json_integer_value(json_object_get(line, "placeholders_unknown")) > 0) ==
                    (rows[i].unknown > 0));
        json_decref(line);
    }
    /* The fork's own is nothing to the source. */
    (void)ask(vm, &net, net.sandbox, own);
    line = last_line(vm, net.sandbox);
    assert_int_equal(names_in(line, "secrets"), 0);
    json_decref(line);
    (void)vm_ok(vm, "rm", "--force", net.sandbox, child, strict, NULL);
    assert_int_equal(vm_stop(net.echo, SIGTERM), 128 + SIGTERM);
}

/* The forms of the secret in the files below a folder; "" if there is none. */
static const char *found(struct vm *vm, const char *secret, const char *folder)
{
    const char *clients = getenv("BG_TEST_CLIENTS");
    const char *file = vm_path(vm, "token");
    vm_write(file, secret, strlen(secret));
    return vm_host(vm, "find '%s' -type f -print0 | xargs -0 %s -B '%s/search.py' '%s'", folder,
                   PYTHON, clients ? clients : "tests/integration/clients", file);
}

static void no_secret_is_in_a_snapshot(void **state)
{
    struct vm *vm = *state;
    struct net net = connect_net(vm);
    const char *s = net.sandbox;
    /* Through the proxy and back, in all that the guest may keep of it. */
    const char *answer = ask(vm, &net, s, "$TOKEN");
    assert_null(strstr(answer, net.secret));
    (void)vm_guest(vm, s,
                   "for i in 1 2 3; do curl -sS -H \"X-Key: $TOKEN\" -D head%%i -o body$i "
                   "https://echo.test:%d/$i; done; sync",
                   net.port);
    (void)vm_ok(vm, "exec", "-d", s, "--", "sh", "-c", "x=$(cat body*); sleep 100000", NULL);
    /* That it would be found: a mark that the guest has in its memory and on its disk. */
    const char *mark = new_text(vm);
    (void)vm_guest(vm, s, "echo %s >mark; sync", mark);
    (void)vm_ok(vm, "exec", "-d", s, "--", "sh", "-c", vm_text(vm, "m=%s; sleep 100000", mark),
                NULL);
    (void)vm_ok(vm, "snapshot", "-q", s, "one", NULL);
    const char *snapshots = vm_text(vm, "%s/state/snapshots", vm->home);
    assert_string_equal(found(vm, net.secret, snapshots), "");
    assert_non_null(strstr(found(vm, mark, snapshots), "plain"));
    (void)vm_ok(vm, "suspend", "-q", s, NULL);
    const char *dir = vm_sandbox_dir(vm, s);
    assert_string_equal(found(vm, net.secret, dir), "");
    assert_non_null(strstr(found(vm, mark, dir), "plain"));
    (void)vm_ok(vm, "rm", "--force", s, NULL);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@one", s), NULL);
    assert_int_equal(vm_stop(net.echo, SIGTERM), 128 + SIGTERM);
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(nothing_runs_on_as_the_source),
        cmocka_unit_test(forks_of_a_snapshot_share_no_randomness),
        cmocka_unit_test(a_fork_has_ssh_keys_of_its_own),
        cmocka_unit_test(placeholders_of_the_source_are_good_in_the_fork),
        cmocka_unit_test(no_secret_is_in_a_snapshot))
