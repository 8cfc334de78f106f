/* The clients that people use, in a guest that has them as Debian packages them, against services
 * of our own on the host's loopback (clients/internet.py). Nothing is set up in the guest: they
 * trust the sandbox's CA by what bellglass puts there, and find the placeholder in their
 * environment. */
#include "tests/lib/vm.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/io.h"

/* Debian's, for which its packages are; another one may come first in PATH. */
#define PYTHON "/usr/bin/python3"

struct internet {
    struct vm_process *process;
    int web, old, socket, rpc; /* ports */
    const char *folder;
    const char *secret, *sandbox, *placeholder;
};

static const char *script(struct vm *vm, const char *name)
{
    const char *folder = getenv("BG_TEST_CLIENTS");
    return vm_text(vm, "%s/%s", folder ? folder : "tests/integration/clients", name);
}

/* Services, and a sandbox that may reach them, with a secret for api.test in TOKEN. */
static struct internet connect_internet(struct vm *vm)
{
    uint8_t bytes[12];
    char hex[2 * sizeof bytes + 1];
    bg_random(bytes, sizeof bytes);
    bg_hex(bytes, sizeof bytes, hex);
    struct internet net = {.folder = vm_path(vm, "internet-%s", vm_name(vm)),
                           .secret = vm_text(vm, "bgtest-%s", hex)};
    (void)vm_host(vm, "mkdir '%s'", net.folder);
    vm_write(vm_text(vm, "%s/token", net.folder), net.secret, strlen(net.secret));
    const char *const argv[] = {PYTHON, "-B", script(vm, "internet.py"), net.folder, NULL};
    net.process = vm_start_program(vm, argv);
    vm_expect(net.process, "ready\n");
    /* Its own lines, in a fixed form. NOLINTNEXTLINE(cert-err34-c) */
    assert_int_equal(sscanf(net.process->text, "web %d old %d socket %d rpc %d", &net.web, &net.old,
                            &net.socket, &net.rpc),
                     4);
    const char *const set[] = {"secret", "set", "TOKEN", NULL};
    assert_int_equal(vm_call_with(vm, set, net.secret, strlen(net.secret))->status, 0);
    net.sandbox = vm_sandbox_with(
        vm, "--image", "clients", "--upstream-ca", vm_text(vm, "%s/ca.pem", net.folder), "--allow",
        vm_text(vm, "api.test:%d=127.0.0.1", net.web), "--allow",
        vm_text(vm, "api.test:%d=127.0.0.1", net.old), "--allow",
        vm_text(vm, "api.test:%d=127.0.0.1", net.socket), "--allow",
        vm_text(vm, "api.test:%d=127.0.0.1", net.rpc), "--allow",
        vm_text(vm, "other.test:%d=127.0.0.1", net.web), "--secret", "TOKEN@api.test", NULL);
    net.placeholder = vm_guest(vm, net.sandbox, "printf %%s \"$TOKEN\"");
    assert_memory_equal(net.placeholder, "BELLGLASS_SECRET_", 17);
    return net;
}

/* Puts one of our scripts into the guest's /tmp. */
static void carry(struct vm *vm, const struct internet *net, const char *name)
{
    size_t size;
    const char *bytes = vm_read(vm, script(vm, name), &size);
    const char *command = vm_text(vm, "cat >'/tmp/%s'", name);
    const char *const argv[] = {"exec", net->sandbox, "--", "sh", "-c", command, NULL};
    assert_int_equal(vm_call_with(vm, argv, bytes, size)->status, 0);
}

/* The forms of the secret in what comes after: files or "--memory PID". */
static const char *search(struct vm *vm, const struct internet *net, const char *where)
{
    return vm_host(vm, PYTHON " -B '%s' '%s/token' %s", script(vm, "search.py"), net->folder,
                   where);
}

static const char *got(struct vm *vm, const struct internet *net)
{
    return vm_read(vm, vm_text(vm, "%s/got", net->folder), NULL);
}

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        (void)fprintf(stderr, "%.8000s\n", text);
        fail_msg("no '%s' in it", part);
    }
}

/* What a client got back: the placeholder, and nothing of the secret. */
static void assert_clean(struct vm *vm, const struct internet *net, const char *text)
{
    const char *file = vm_path(vm, "%s", vm_name(vm));
    vm_write(file, text, strlen(text));
    assert_string_equal(search(vm, net, file), "");
    assert_has(text, net->placeholder);
}

static const char *text_of(const json_t *object, const char *field)
{
    const char *text = json_string_value(json_object_get(object, field));
    return text ? text : "";
}

struct request {
    struct vm *vm;
    const struct internet *net;
    const char *method, *path;
    bool scrubbed;
};

/* There is a line about the request: it went through, with the secret put in and (scrubbed) taken
 * out again. No line tells more than the secret's name. */
static bool is_audited(void *arg)
{
    const struct request *r = arg;
    const char *text = vm_ok(r->vm, "audit", "--json", r->net->sandbox, NULL);
    assert_null(strstr(text, r->net->secret));
    bool found = false;
    for (const char *line = text; *line && !found; line += strcspn(line, "\n") + 1) {
        json_t *one = json_loadb(line, strcspn(line, "\n"), 0, NULL);
        assert_non_null(one);
        found = strcmp(text_of(one, "host"), "api.test") == 0 &&
                strcmp(text_of(one, "method"), r->method) == 0 &&
                strcmp(text_of(one, "path"), r->path) == 0 &&
                strcmp(text_of(one, "decision"), "allow") == 0 &&
                json_array_size(json_object_get(one, "secrets")) == 1 &&
                json_array_size(json_object_get(one, "scrubbed")) == (r->scrubbed ? 1 : 0);
        json_decref(one);
        if (!strchr(line, '\n'))
            break;
    }
    return found;
}

/* Of a request that the guest has the whole answer to. */
static void assert_audited(struct vm *vm, const struct internet *net, const char *method,
                           const char *path, bool scrubbed)
{
    struct request request = {vm, net, method, path, scrubbed};
    if (!is_audited(&request))
        fail_msg("no such line about %s %s in the audit:\n%s", method, path,
                 vm_ok(vm, "audit", "--json", net->sandbox, NULL));
}

static void end(const struct internet *net)
{
    (void)vm_stop(net->process, SIGKILL);
}

/* One of the ways from the guest's version of HTTP to the service's. */
static void try_curl(struct vm *vm, const struct internet *net, const char *option,
                     const char *version, int port)
{
    const char *name = vm_name(vm), *p = net->placeholder;
    const char *answer =
        vm_guest(vm, net->sandbox,
                 "curl -sSi %s -w '\nversion %%{http_version}' -H \"Authorization: Bearer $TOKEN\" "
                 "https://api.test:%d/bearer-%s",
                 option, port, name);
    assert_has(answer, vm_text(vm, "version %s", version));
    assert_has(answer, vm_text(vm, "x-authorization: Bearer %s\r\n", p));
    assert_has(answer, vm_text(vm, "\r\nauthorization: Bearer %s\r\n", p));
    assert_clean(vm, net, answer);
    const char *arrived = strstr(got(vm, net), vm_text(vm, "GET /bearer-%s\n", name));
    assert_non_null(arrived);
    assert_has(arrived, vm_text(vm, "uthorization: Bearer %s\n", net->secret));
    assert_audited(vm, net, "GET", vm_text(vm, "/bearer-%s", name), /* scrubbed= */ true);

    answer =
        vm_guest(vm, net->sandbox, "curl -sS %s -u \"user:$TOKEN\" https://api.test:%d/basic-%s",
                 option, port, name);
    const char *basic = vm_host(vm, "printf 'user:%s' | base64 -w0", net->secret);
    assert_clean(vm, net, answer);
    arrived = strstr(got(vm, net), vm_text(vm, "GET /basic-%s\n", name));
    assert_non_null(arrived);
    assert_has(arrived, vm_text(vm, "uthorization: Basic %s\n", basic));

    /* Up; the hash says that not a byte is another one. */
    const char *sums =
        vm_guest(vm, net->sandbox,
                 "head -c 2000000 /dev/urandom >/tmp/body; curl -sS %s -H \"Authorization: Bearer "
                 "$TOKEN\" -H 'Content-Type: x/y' --data-binary @/tmp/body "
                 "https://api.test:%d/sum; echo 2000000 $(sha256sum </tmp/body | cut -c1-64)",
                 option, port);
    size_t size = strlen("2000000 \n") + 64;
    assert_int_equal(strlen(sums), 2 * size);
    assert_memory_equal(sums, sums + size, size);
    assert_audited(vm, net, "POST", "/sum", /* scrubbed= */ false);
}

static void curl_speaks_both_versions_of_http(void **state)
{
    struct vm *vm = *state;
    struct internet net = connect_internet(vm);
    const int ports[] = {net.web, net.old};
    for (size_t i = 0; i < 2; i++) {
        try_curl(vm, &net, "--http1.1", "1.1", ports[i]);
        try_curl(vm, &net, "--http2", "2", ports[i]);
    }
    end(&net);
}

static void curl_sends_many_requests_on_one_connection(void **state)
{
    struct vm *vm = *state;
    struct internet net = connect_internet(vm);
    const char *counts =
        vm_guest(vm, net.sandbox,
                 "mkdir /tmp/many; cd /tmp/many; curl -sS --http2 --parallel --parallel-max 50 -H "
                 "\"Authorization: Bearer $TOKEN\" -w '%%{http_code} %%{http_version}\\n' -o "
                 "'out#1' 'https://api.test:%d/number-[1-100]-' | sort | uniq -c | tr -s ' '; "
                 "for i in $(seq 100); do grep -q \"/number-$i-\" out$i || echo $i is another; "
                 "done; cat out*",
                 net.web);
    assert_memory_equal(counts, " 100 200 2\nGET", strlen(" 100 200 2\nGET"));
    assert_clean(vm, &net, counts);
    /* Of one connection all have the same number in the audit. */
    const char *streams = vm_host(vm, "cd '%s'; grep -o '\"stream\":[0-9]*' audit.ndjson | sort -u",
                                  vm_sandbox_dir(vm, net.sandbox));
    assert_ptr_equal(strchr(streams, '\n'), streams + strlen(streams) - 1);
    end(&net);
}

static void git_clones_and_pushes_with_a_token(void **state)
{
    struct vm *vm = *state;
    struct internet net = connect_internet(vm);
    const char *out =
        vm_guest(vm, net.sandbox,
                 "git config --global user.name n; git config --global user.email e\n"
                 "git clone -q \"https://user:$TOKEN@api.test:%d/git/r.git\" in-url 2>&1\n"
                 "cat in-url/file; cd in-url; head -c 300000 /dev/urandom >big; git add big\n"
                 "git commit -qm second; git push -q 2>&1; git rev-parse HEAD; cd ..\n"
                 "git config --global credential.helper "
                 "'!f() { echo username=user; echo \"password=$TOKEN\"; }; f'\n"
                 "git clone -q https://api.test:%d/git/r.git with-helper 2>&1\n"
                 "git -C with-helper rev-parse HEAD; cmp in-url/big with-helper/big\n"
                 "env GIT_CURL_VERBOSE=1 GIT_TRACE_REDACT=0 git -C with-helper fetch 2>&1",
                 net.web, net.web);
    assert_memory_equal(out, "first\n", 6);
    const char *head = vm_host(vm, "git -C '%s/git/r.git' rev-parse main", net.folder);
    assert_memory_equal(out + 6, vm_text(vm, "%s%s", head, head), 2 * strlen(head));
    const char *basic = vm_host(vm, "printf 'user:%s' | base64 -w0", net.secret);
    assert_has(got(vm, &net), vm_text(vm, "authorization: Basic %s\n", basic));
    assert_null(strstr(out, basic));
    assert_null(strstr(out, net.secret));
    assert_audited(vm, &net, "POST", "/git/r.git/git-receive-pack", /* scrubbed= */ false);

    /* Git LFS is in Go; the service hands it a login to use, which is the secret and so comes as
     * the placeholder. */
    const char *lfs = vm_guest(
        vm, net.sandbox,
        "git lfs install >/dev/null; cd in-url; git lfs track '*.bin' >/dev/null\n"
        "head -c 2000000 /dev/urandom >a.bin; git add .; git commit -qm third\n"
        "GIT_TRACE=1 GIT_CURL_VERBOSE=1 git push 2>/tmp/lfs-log || { cat /tmp/lfs-log; exit 1; }\n"
        "cd ..; git clone -q https://api.test:%d/git/r.git again 2>&1\n"
        "cmp in-url/a.bin again/a.bin; wc -c <again/a.bin",
        net.web);
    assert_has(lfs, "2000000\n");
    assert_has(got(vm, &net), " PUT /lfs/");
    assert_null(strstr(vm_guest(vm, net.sandbox, "cat /tmp/lfs-log"), net.secret));
    end(&net);
}

static void node_fetches(void **state)
{
    struct vm *vm = *state;
    struct internet net = connect_internet(vm);
    carry(vm, &net, "fetch.mjs");
    assert_string_equal(
        vm_guest(vm, net.sandbox, "node /tmp/fetch.mjs https://api.test:%d", net.web),
        vm_text(vm, "200 Bearer %s\n200 same\n3 placeholder\n", net.placeholder));
    assert_has(got(vm, &net), vm_text(vm, "authorization: Bearer %s\n", net.secret));
    assert_audited(vm, &net, "GET", "/echo", /* scrubbed= */ true);
    end(&net);
}

static void python_and_wget_fetch(void **state)
{
    struct vm *vm = *state;
    struct internet net = connect_internet(vm);
    carry(vm, &net, "requests_client.py");
    assert_string_equal(
        vm_guest(vm, net.sandbox, "python3 /tmp/requests_client.py https://api.test:%d", net.web),
        vm_text(vm, "200 Bearer %s\nTrue\n200 True\n200 True\n", net.placeholder));
    assert_has(got(vm, &net), vm_text(vm, "x-key: %s\n", net.secret));
    assert_audited(vm, &net, "GET", "/echo", /* scrubbed= */ true);

    const char *page =
        vm_guest(vm, net.sandbox,
                 "wget -nv -O - --header \"Authorization: Bearer $TOKEN\" https://api.test:%d/wget",
                 net.web);
    assert_clean(vm, &net, page);
    assert_has(got(vm, &net), "GET /wget\n");
    assert_audited(vm, &net, "GET", "/wget", /* scrubbed= */ true);
    end(&net);
}

static void events_come_one_by_one(void **state)
{
    struct vm *vm = *state;
    struct internet net = connect_internet(vm);
    carry(vm, &net, "events.py");
    const char *wanted = vm_text(vm,
                                 "id: 1\ndata: Bearer %s\n\nid: 2\ndata: nothing\n\n"
                                 "id: 3\ndata: Bearer %s\n\n",
                                 net.placeholder, net.placeholder);
    assert_string_equal(
        vm_guest(vm, net.sandbox, "python3 /tmp/events.py https://api.test:%d 3", net.web), wanted);
    /* By HTTP/2 as well: the service waits for an answer to each event. */
    assert_string_equal(
        vm_guest(vm, net.sandbox,
                 "curl -sSN --http2 -H \"Authorization: Bearer $TOKEN\" "
                 "https://api.test:%d/events/3 | while read -r line; do echo \"$line\"; [ -n "
                 "\"$line\" ] || curl -sS https://api.test:%d/next/$((i += 1)) >/dev/null; done",
                 net.web, net.web),
        wanted);
    assert_audited(vm, &net, "GET", "/events/3", /* scrubbed= */ true);
    end(&net);
}

static void websockets_carry_messages(void **state)
{
    struct vm *vm = *state;
    struct internet net = connect_internet(vm);
    carry(vm, &net, "websocket_client.py");
    assert_string_equal(vm_guest(vm, net.sandbox,
                                 "python3 /tmp/websocket_client.py wss://api.test:%d/chat",
                                 net.socket),
                        vm_text(vm, "Bearer %s\nTrue\nTrue\nTrue\nTrue\nTrue\n", net.placeholder));
    assert_has(got(vm, &net), vm_text(vm, "uthorization: Bearer %s\n", net.secret));
    /* In a message nothing is put in. */
    assert_has(got(vm, &net), vm_text(vm, "\n\n%s\n\n", net.placeholder));
    /* Its line comes when both sides have ended, and the program has not waited for that. */
    struct request chat = {vm, &net, "GET", "/chat", /* scrubbed= */ true};
    vm_wait("the WebSocket is in the audit", is_audited, &chat);
    end(&net);
}

static void grpc_calls_and_streams(void **state)
{
    struct vm *vm = *state;
    struct internet net = connect_internet(vm);
    carry(vm, &net, "grpc_client.py");
    /* Messages say how large they are, so there the placeholder is cut to the secret's size. */
    const char *p = net.placeholder;
    const char *cut = vm_text(vm, "%.*s", (int)strlen(net.secret), p);
    assert_string_equal(
        vm_guest(vm, net.sandbox, "python3 /tmp/grpc_client.py api.test:%d", net.rpc),
        vm_text(vm,
                "Bearer %s hello StatusCode.OK {'x-token': 'Bearer %s', 'x-method': 'One'}\n"
                "True\n"
                "StatusCode.NOT_FOUND nothing for Bearer %s {'x-token': 'Bearer %s', 'x-method': "
                "'Fail'}\n"
                "Bearer %s one\nBearer %s two\nBearer %s three\n"
                "[] StatusCode.OK {'x-token': 'Bearer %s', 'x-method': 'Chat'}\n",
                cut, p, p, p, cut, cut, cut, p));
    assert_has(got(vm, &net), vm_text(vm, "authorization: Bearer %s\n", net.secret));
    assert_audited(vm, &net, "POST", "/echo.Echo/One", /* scrubbed= */ true);
    assert_audited(vm, &net, "POST", "/echo.Echo/Chat", /* scrubbed= */ true);
    end(&net);
}

/* What the service has sent it in, so what a search that works finds. */
static const char all_forms[] = "base64-0\nbase64-1\nbase64-2\nentities\nentities-hex\nhex\n"
                                "hex-0x\nhex-colons\nhex-spaces\nhex-upper\njson\noctal\npart\n"
                                "percent\nplain\nquoted-printable\nreversed\nrot13\nupper\n";

static void a_guests_root_cannot_obtain_the_secret(void **state)
{
    struct vm *vm = *state;
    struct internet net = connect_internet(vm);
    carry(vm, &net, "attack.py");
    const char *loot = vm_path(vm, "loot"), *api = vm_text(vm, "https://api.test:%d", net.web);
    const char *const argv[] = {"exec",
                                "-u",
                                "root",
                                net.sandbox,
                                "--",
                                "python3",
                                "/tmp/attack.py",
                                api,
                                vm_text(vm, "https://api.test:%d", net.old),
                                vm_text(vm, "https://other.test:%d", net.web),
                                vm_text(vm, "wss://api.test:%d/", net.socket),
                                NULL};
    const struct vm_result *attack = vm_call_with(vm, argv, NULL, 0);
    vm_write(loot, attack->out, attack->out_size);
    if (attack->status != 0)
        fail_msg("the attack itself failed: %s", attack->err);
    /* It was tried in earnest: the service got the secret, sent it in all forms, and the guest has
     * the placeholder from there. */
    assert_has(got(vm, &net), vm_text(vm, "authorization: Bearer %s\n", net.secret));
    assert_string_equal(search(vm, &net, vm_text(vm, "'%s/sent'", net.folder)), all_forms);
    assert_non_null(memmem(attack->out, attack->out_size, "\n==== end\n", 10));
    const char *leaked = vm_text(vm, "here: <%s>\n", net.placeholder);
    assert_non_null(memmem(attack->out, attack->out_size, leaked, strlen(leaked)));

    assert_string_equal(search(vm, &net, loot), "");
    assert_null(strstr(vm_ok(vm, "audit", net.sandbox, NULL), net.secret));
    assert_null(strstr(vm_ok(vm, "logs", net.sandbox, NULL), net.secret));
    char where[4096] = "";
    if (vm_tree_holds(vm_sandbox_dir(vm, net.sandbox), net.secret, strlen(net.secret), where,
                      sizeof where))
        fail_msg("the secret is in %s", where);
    /* All of the guest's memory, where the kernel and its processes may have kept what came. */
    if (geteuid() == 0)
        assert_string_equal(
            search(vm, &net, vm_text(vm, "--memory %d", vm_pid(vm, net.sandbox, "qemu_pid"))), "");
    end(&net);
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(curl_speaks_both_versions_of_http),
        cmocka_unit_test(curl_sends_many_requests_on_one_connection),
        cmocka_unit_test(git_clones_and_pushes_with_a_token), cmocka_unit_test(node_fetches),
        cmocka_unit_test(python_and_wget_fetch), cmocka_unit_test(events_come_one_by_one),
        cmocka_unit_test(websockets_carry_messages), cmocka_unit_test(grpc_calls_and_streams),
        cmocka_unit_test(a_guests_root_cannot_obtain_the_secret))
