/* ssh, and what is built on it, against sandboxes without a network card: with the ssh, scp, sftp
 * and rsync of this machine and an sshd that is started in the guest for each connection. Nothing
 * here may ever ask a question (BatchMode), and a guest gets nothing from whoever connects. */
#include "tests/lib/vm.h"

#include <signal.h>
#include <string.h>

/* The configuration that `bellglass ssh-config` prints, as a file. */
static const char *config(struct vm *vm)
{
    const char *path = vm_path(vm, "ssh_config"), *text = vm_ok(vm, "ssh-config", NULL);
    vm_write(path, text, strlen(text));
    return path;
}

/* Runs a bash script with $1 as `ssh`'s options and $2 as the sandbox's host. */
static const char *with_ssh(struct vm *vm, const char *sandbox, const char *script)
{
    return vm_host(vm, "set -- '-F %s -o BatchMode=yes' %s.bellglass\n%s", config(vm), sandbox,
                   script);
}

static void a_command_has_its_streams_and_its_status(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_shared(vm);
    const char *const argv[] = {"ssh", name, "--", "id -un; cat; echo no >&2; exit 7", NULL};
    const struct vm_result *r = vm_call_with(vm, argv, "in\n", 3);
    assert_int_equal(r->status, 7);
    assert_string_equal(r->out, "app\nin\n");
    assert_string_equal(r->err, "no\n");
    const char *root = vm_text(vm, "root@%s", name);
    assert_string_equal(vm_ok(vm, "ssh", root, "id -un", NULL), "root\n");
    assert_string_equal(vm_ok(vm, "ssh", name, "-T", "-l", "root", "--", "pwd", NULL), "/root\n");
}

static void a_session_has_the_environment_of_an_exec(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_sandbox_with(vm, "-e", "ODD=a \"b\" \\c '$HOME' #d", "-e", "E=", NULL);
    const char *print = "env | grep -Ev '^(_|SHLVL|PWD|OLDPWD|SSH_.*|MOTD_SHOWN)=' | sort";
    const char *expected = vm_ok(vm, "exec", name, "--", "sh", "-c", print, NULL);
    assert_non_null(strstr(expected, "ODD=a \"b\" \\c '$HOME' #d\n"));
    assert_string_equal(vm_ok(vm, "ssh", name, print, NULL), expected);
}

static void a_terminal_is_one(void **state)
{
    struct vm *vm = *state;
    const char *const argv[] = {"ssh", vm_shared(vm), NULL};
    struct vm_process *p = vm_start_terminal(vm, 33, 99, argv);
    vm_expect(p, "$ ");
    vm_send(p, "stty size; exit 5\n", 18);
    vm_expect(p, "33 99");
    assert_int_equal(vm_finish(p), 5);
}

static void files_go_both_ways(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_shared(vm);
    (void)vm_host(vm,
                  "mkdir -p %s/tree/sub; cd %s/tree; seq 20000 >numbers; echo x >'sub/a b'; "
                  "chmod 640 numbers; ln -s numbers link",
                  vm->folder, vm->folder);
    (void)with_ssh(vm, name,
                   vm_text(vm,
                           "cd %s && scp -q $1 -rp tree $2: && scp -q $1 -rp $2:tree back && "
                           "diff -r tree back",
                           vm->folder));
    (void)with_ssh(vm, name,
                   vm_text(vm,
                           "cd %s && printf 'mkdir up\\nput tree/numbers up/n\\nget up/n got\\n' | "
                           "sftp -q $1 -b - $2 && cmp tree/numbers got",
                           vm->folder));
    const char *sync = vm_text(
        vm, "cd %s && rsync -a --itemize-changes -e \"ssh $1\" tree/ $2:synced/", vm->folder);
    assert_non_null(strstr(with_ssh(vm, name, sync), "numbers"));
    assert_string_equal(with_ssh(vm, name, sync), "");
    assert_string_equal(vm_guest(vm, name, "cd; stat -c %%a synced/numbers; readlink synced/link"),
                        "640\nnumbers\n");
}

static void ports_and_sockets_are_forwarded(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_shared(vm);
    const char *port = vm_path(vm, "port.sock"), *socket = vm_path(vm, "socket.sock");
    static const char server[] =
        "exec python3 -u -c '\n"
        "import socket, threading\n"
        "def serve(s):\n"
        "    while True:\n"
        "        c = s.accept()[0]\n"
        "        c.sendall(b\"got \" + c.recv(100)); c.close()\n"
        "a = socket.create_server((\"127.0.0.1\", 8123))\n"
        "b = socket.socket(socket.AF_UNIX); b.bind(\"/tmp/served\"); b.listen()\n"
        "threading.Thread(target=serve, args=(b,), daemon=True).start()\n"
        "print(\"ser\" + \"ving\")\n"
        "serve(a)'";
    const char *const argv[] = {vm->bellglass,
                                "ssh",
                                name,
                                "-o",
                                "ExitOnForwardFailure=yes",
                                "-L",
                                vm_text(vm, "%s:localhost:8123", port),
                                "-L",
                                vm_text(vm, "%s:/tmp/served", socket),
                                server,
                                NULL};
    struct vm_process *p = vm_start_program(vm, argv);
    vm_expect(p, "serving");
    for (int i = 0; i < 2; i++)
        assert_string_equal(
            vm_host(vm,
                    "python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); "
                    "s.connect(\"%s\"); s.sendall(b\"%d\"); print(s.recv(100).decode())'",
                    i == 0 ? port : socket, i),
            vm_text(vm, "got %d\n", i));
    (void)vm_stop(p, SIGTERM);
}

static void connections_may_begin_at_once(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_sandbox(vm); /* without a host key yet */
    const char *said = with_ssh(vm, name,
                                "for i in 1 2 3; do ssh $1 $2 echo $i & pids+=($!); done\n"
                                "for p in ${pids[@]}; do wait $p || exit; done");
    for (const char *digit = "123"; *digit != '\0'; digit++)
        assert_non_null(strchr(said, *digit));
}

static const char *pinned(struct vm *vm, const char *sandbox)
{
    size_t size;
    return vm_read(vm, vm_text(vm, "%s/state/ssh/known_hosts/%s.bellglass", vm->home, sandbox),
                   &size);
}

static void every_sandbox_has_its_own_host_key(void **state)
{
    struct vm *vm = *state;
    const char *first = vm_sandbox(vm), *second = vm_sandbox(vm);
    (void)with_ssh(vm, first, "ssh $1 $2 true");
    (void)with_ssh(vm, second, "ssh $1 $2 true");
    const char *key = pinned(vm, first);
    assert_string_not_equal(key, pinned(vm, second));
    assert_int_equal(strncmp(key, "* ssh-ed25519 ", 14), 0);
    /* The image has none that all would share. */
    assert_string_equal(vm_guest(vm, first, "ls /etc/ssh | grep host_key || true"), "");
    /* A new one of an old name has another, without a warning; a restarted one likewise. */
    (void)vm_ok(vm, "rm", "-f", first, NULL);
    assert_string_equal(
        vm_host(vm, "ls %s/state/ssh/known_hosts | grep -c '^%s[.]' || true", vm->home, first),
        "0\n");
    (void)vm_ok(vm, "create", first, NULL);
    assert_string_equal(with_ssh(vm, first, "ssh $1 $2 true 2>&1"), "");
    assert_string_not_equal(pinned(vm, first), key);
    key = pinned(vm, first);
    (void)vm_ok(vm, "stop", first, NULL);
    (void)vm_ok(vm, "start", first, NULL);
    assert_string_equal(with_ssh(vm, first, "ssh $1 $2 true 2>&1"), "");
}

static void a_host_key_of_a_fork_is_made_anew(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_sandbox(vm);
    /* What a fork finds: the folder of the sandbox that it was. */
    (void)vm_guest(vm, name,
                   "sudo mkdir -p /run/bellglass/ssh/sbx_other && "
                   "sudo touch /run/bellglass/ssh/sbx_other/host_key");
    (void)with_ssh(vm, name, "ssh $1 $2 true");
    assert_string_equal(vm_guest(vm, name, "ls /run/bellglass/ssh | grep -c other || true"), "0\n");
}

static void another_host_key_than_announced_is_refused(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_sandbox(vm);
    (void)with_ssh(vm, name, "ssh $1 $2 true");
    (void)vm_guest(vm, name,
                   "cd /run/bellglass/ssh/sbx_*; sudo rm host_key; "
                   "sudo ssh-keygen -q -t ed25519 -N '' -f other; sudo mv other host_key");
    const char *said = with_ssh(vm, name, "ssh $1 $2 true 2>&1 || echo $?");
    assert_non_null(strstr(said, "verification failed"));
    assert_non_null(strstr(said, "\n255\n"));
    (void)vm_guest(vm, name,
                   "cd /run/bellglass/ssh/sbx_*; "
                   "printf 'ssh-ed25519 \\033[2J%%s\\n' AAAA | sudo tee host_key.pub");
    said = with_ssh(vm, name, "ssh $1 $2 true 2>&1 || echo $?");
    assert_non_null(strstr(said, "greeting makes no sense"));
    assert_null(strchr(said, '\033'));
}

static void a_guest_gets_nothing_of_the_client(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_shared(vm);
    const char *file = vm_path(vm, "user_config");
    /* Even where the user's own lines would give it everywhere. */
    static const char own[] = "Host *\n    ForwardAgent yes\n    ForwardX11 yes\n    HostName "
                              "%h.example.org\n    ProxyJump nobody@example.org\n    User nobody\n";
    vm_write(file, own, sizeof own - 1);
    (void)vm_ok(vm, "ssh-config", "--write", "--file", file, NULL);
    (void)vm_ok(vm, "ssh-config", "--write", "--file", file, NULL);
    const char *said =
        vm_host(vm,
                "DISPLAY=:9 ssh-agent ssh -F %s -o BatchMode=yes %s.bellglass "
                "'echo \"[$SSH_AUTH_SOCK$DISPLAY]\"; set +f; ls -d /tmp/ssh-* 2>/dev/null || true'",
                file, name);
    assert_string_equal(said, "[]\n");
    /* Other hosts are as they were. */
    (void)vm_host(vm, "ssh -G -F %s example.org | grep -x 'forwardagent yes'", file);
    assert_null(strstr(vm_host(vm, "ssh -G -F %s example.org", file), "proxycommand"));
    (void)vm_ok(vm, "ssh-config", "--remove", "--file", file, NULL);
    size_t size;
    assert_string_equal(vm_read(vm, file, &size), own);
}

/* A name that would end the quotes in the ProxyCommand is not taken for one of ours. */
static void a_name_cannot_run_a_command(void **state)
{
    struct vm *vm = *state;
    const char *made = vm_path(vm, "made");
    (void)vm_host(vm,
                  "ssh -F %s -o BatchMode=yes \"x';touch %s;'.bellglass\" 2>/dev/null || "
                  "ssh -F %s -o BatchMode=yes '$(touch %s).bellglass' 2>/dev/null || true",
                  config(vm), made, config(vm), made);
    assert_string_equal(vm_host(vm, "ls %s 2>/dev/null || true", made), "");
}

static bool no_sshd(void *arg)
{
    void **both = arg;
    return strcmp(vm_guest(both[0], both[1], "pgrep -c sshd || true"), "0\n") == 0;
}

/* An editor's server outlives its connection, so that the editor can come back to it. */
static void what_left_the_session_outlives_it(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_sandbox(vm);
    const char *const argv[] = {
        vm->bellglass, "ssh", name,
        "setsid sleep 98765 </dev/null >/dev/null 2>&1 & echo star''ted; cat", NULL};
    struct vm_process *p = vm_start_program(vm, argv);
    vm_expect(p, "started");
    (void)vm_stop(p, SIGKILL);
    vm_wait("the sshd to end", no_sshd, (void *[]){vm, (void *)(uintptr_t)name});
    assert_string_equal(vm_guest(vm, name, "pgrep -cx sleep"), "1\n");
}

static void what_is_missing_is_named(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_sandbox(vm);
    (void)vm_guest(vm, name, "sudo mv /usr/sbin/sshd /usr/sbin/moved");
    const struct vm_result *r = vm_call(vm, "ssh", name, "true", NULL);
    assert_int_equal(r->status, 255);
    assert_non_null(strstr(r->err, vm_text(vm, "bellglass: sandbox '%s': there is no sshd", name)));
    assert_non_null(strstr(r->err, "openssh-server"));
    (void)vm_guest(vm, name, "sudo ln -s /bin/false /usr/sbin/sshd");
    r = vm_call(vm, "ssh", name, "true", NULL);
    assert_int_equal(r->status, 255);
    (void)vm_ok(vm, "stop", name, NULL);
    vm_refused(vm, "is not running|bellglass start", "ssh", name, "true", NULL);
    vm_refused(vm, "is not running", "ssh", "--proxy", vm_text(vm, "%s.bellglass", name), NULL);
    vm_refused(vm, "no sandbox", "ssh", "nobody-here", NULL);
    vm_refused(vm, "not a sandbox's host name", "ssh", "--proxy", "example.org", NULL);
    /* A machine without ssh. */
    const char *said =
        vm_host(vm, "PATH=/nowhere %s ssh %s 2>&1 || echo $?", vm->bellglass, vm_shared(vm));
    assert_non_null(strstr(said, "install openssh-client"));
    assert_non_null(strstr(said, "\n125\n"));
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(a_command_has_its_streams_and_its_status),
        cmocka_unit_test(a_session_has_the_environment_of_an_exec),
        cmocka_unit_test(a_terminal_is_one), cmocka_unit_test(files_go_both_ways),
        cmocka_unit_test(ports_and_sockets_are_forwarded),
        cmocka_unit_test(connections_may_begin_at_once),
        cmocka_unit_test(every_sandbox_has_its_own_host_key),
        cmocka_unit_test(a_host_key_of_a_fork_is_made_anew),
        cmocka_unit_test(another_host_key_than_announced_is_refused),
        cmocka_unit_test(a_guest_gets_nothing_of_the_client),
        cmocka_unit_test(a_name_cannot_run_a_command),
        cmocka_unit_test(what_left_the_session_outlives_it),
        cmocka_unit_test(what_is_missing_is_named))
