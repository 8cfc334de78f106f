/* Folders of the host in the guest. */
#include "tests/lib/vm.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"

#define OWNER 4242 /* of the folders, where the test is root */

/* Runs a script in a new folder of the host whose owner is an ordinary user. */
static const char *project(struct vm *vm, const char *script)
{
    const char *folder = vm_path(vm, "project-%s", vm_name(vm));
    assert_int_equal(mkdir(folder, 0755), 0);
    (void)vm_host(vm, "cd %s; export HOME=$PWD/..; %s", folder, script);
    if (geteuid() == 0)
        (void)vm_host(vm, "chown -R %d:%d %s", OWNER, OWNER, folder);
    return folder;
}

static const char *made_by_us(struct vm *vm, const char *folder, const char *name)
{
    struct stat st;
    assert_int_equal(stat(vm_text(vm, "%s/%s", folder, name), &st), 0);
    assert_int_equal(st.st_uid, geteuid() == 0 ? OWNER : geteuid());
    return vm_read(vm, vm_text(vm, "%s/%s", folder, name), NULL);
}

static pid_t server_of(struct vm *vm, const char *sandbox, unsigned id)
{
    uint64_t pid;
    const char *file = vm_text(vm, "%s/share-%u.lock", vm_sandbox_dir(vm, sandbox), id);
    assert_int_equal(bg_parse_u64(vm_read(vm, file, NULL), 1, INT32_MAX, &pid), 0);
    return (pid_t)pid;
}

static void a_folder_is_worked_in_from_both_sides(void **state)
{
    struct vm *vm = *state;
    const char *p = project(vm, "echo host >a; mkdir d; echo k >.env; echo t >.env.example");
    const char *s = vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/home/app/p", p), NULL);
    assert_string_equal(vm_guest(vm, s, "cd p; ls -A; cat a; stat -c '%%U:%%G' a d .; whoami"),
                        ".env.example\na\nd\nhost\napp:app\napp:app\napp:app\napp\n");
    (void)vm_guest(vm, s,
                   "cd p; echo guest >new; sudo sh -c 'echo root >d/root'; umask 077; "
                   "mkdir -p x/y; echo z >x/y/z; chmod 755 x/y/z; mv a x/b; ln -s ../x/b d/l; "
                   "rm d/root; printf odd >\"$(printf '\\377-name')\"");
    assert_string_equal(made_by_us(vm, p, "new"), "guest\n");
    assert_string_equal(made_by_us(vm, p, "d/l"), "host\n");
    assert_string_equal(vm_host(vm, "stat -c %%a %s/x %s/x/y/z; ls %s/d", p, p, p),
                        "700\n755\nl\n");
    /* An edit here, by a new file in its place as editors do it, is seen there. */
    (void)vm_host(vm, "cd %s; echo edited >new.tmp; mv new.tmp new", p);
    assert_string_equal(vm_guest(vm, s, "until grep -q edited p/new; do :; done; cat p/new"),
                        "edited\n");
    (void)vm_host(vm, "cd %s; echo longer than it was before >>new", p);
    (void)vm_guest(vm, s, "until grep -q longer p/new; do :; done");
}

static void secrets_are_not_seen(void **state)
{
    struct vm *vm = *state;
    const char *p = project(
        vm, "echo k >.env; mkdir -p d .docker; echo k >d/tls.key; echo k >.docker/config.json; "
            "ln .env plain; echo k >data.sqlite; echo r >.npmrc");
    const char *s = vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/p", p), "--hide", "*.sqlite",
                                    "--show", ".npmrc", NULL);
    assert_string_equal(vm_guest(vm, s, "cd /p; find . | sort; cat .npmrc"),
                        ".\n./.docker\n./.npmrc\n./d\nr\n");
    assert_string_equal(
        vm_guest(vm, s,
                 "cd /p; for f in .env d/tls.key .docker/config.json plain data.sqlite .ENV; do "
                 "cat $f 2>&1 | sed 's/.*: //'; done; touch .env.local 2>&1 | sed 's/.*: //'; "
                 "mv .docker x 2>&1 | sed 's/.*: //'; mv d e; cat e/tls.key 2>&1 | sed 's/.*: //'"),
        "No such file or directory\nNo such file or directory\nNo such file or directory\n"
        "No such file or directory\nNo such file or directory\nNo such file or directory\n"
        "Permission denied\nPermission denied\nNo such file or directory\n");
}

static void git_works_and_cannot_be_turned_against_us(void **state)
{
    struct vm *vm = *state;
    const char *p = project(vm, "git init -q -b main; git config user.name n; git config "
                                "user.email e; echo 1 >a; git add a; git commit -qm one");
    const char *s = vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/home/app/p", p), NULL);
    (void)vm_guest(vm, s,
                   "cd p; git status --porcelain; echo 2 >>a; git commit -qam two; "
                   "git checkout -qb other; echo 3 >b; git add b; git commit -qm three; "
                   "git checkout -q main; git merge -q other; git fsck 2>/dev/null; git gc -q");
    assert_string_equal(vm_host(vm, "cd %s; git -c safe.directory='*' log --format=%%s; cat b", p),
                        "three\ntwo\none\n3\n");
    assert_string_equal(
        vm_guest(vm, s,
                 "cd p; git config core.pager evil 2>&1 | sed 's/.*: //'; "
                 "for c in 'echo x >.git/hooks/post-checkout' 'echo x >>.git/config' 'mv .git x' "
                 "'mkdir d/.git' 'rm .git/config' 'mkdir .vscode; echo x >.vscode/tasks.json'; do "
                 "mkdir -p d; "
                 "sh -c \"$c\" 2>&1 | sed 's/.*: //'; done"),
        "Read-only file system\nRead-only file system\nRead-only file system\n"
        "Read-only file system\nRead-only file system\nRead-only file system\n"
        "Read-only file system\n");
    assert_null(strstr(vm_host(vm, "cat %s/.git/config; ls %s/.git/hooks", p, p), "evil"));
    const char *u =
        vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/home/app/p", p), "--share-unguarded", NULL);
    (void)vm_guest(vm, u, "cd p; git config core.pager less; git init -q x");
    assert_non_null(strstr(made_by_us(vm, p, ".git/config"), "pager = less"));
}

static void a_read_only_share_is_never_written(void **state)
{
    struct vm *vm = *state;
    const char *p = project(vm, "echo host >a; mkdir d");
    const char *s = vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/p:ro", p), NULL);
    assert_string_equal(vm_guest(vm, s, "cat /p/a; touch /p/a /p/b 2>&1 | sed 's/.*: //'"),
                        "host\nRead-only file system\nRead-only file system\n");
    /* Root there may take its own word back, but not ours. */
    assert_string_equal(
        vm_guest(vm, s,
                 "sudo mount -o remount,rw /p || true; cd /p; "
                 "for c in 'echo x >>a' 'echo x >n' 'mkdir m' 'rm a' 'mv a b' 'ln -s a l' "
                 "'chmod 777 a' 'touch a' 'ln a h' 'truncate -s 0 a'; do "
                 "sudo sh -c \"$c\" 2>&1 | grep -c 'Read-only file system'; done"),
        "1\n1\n1\n1\n1\n1\n1\n1\n1\n1\n");
    assert_string_equal(vm_host(vm, "cd %s; cat a; ls; stat -c %%a a", p), "host\na\nd\n644\n");
}

static void links_of_the_guest_lead_nowhere_outside(void **state)
{
    struct vm *vm = *state;
    const char *p = project(vm, "mkdir -p d/e; echo in >a");
    const char *s = vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/home/app/p", p), NULL);
    assert_string_equal(
        vm_guest(vm, s,
                 "cd p; ln -s /etc/passwd x 2>&1 | sed 's/.*: //'; ln -s ../../x x 2>&1 | sed "
                 "'s/.*: //'; ln -s ../../a d/e/up; cat d/e/up; mv d/e/up . 2>&1 | sed 's/.*: //'; "
                 "mv d/e . 2>&1 | sed 's/.*: //'; ls d/e"),
        "Operation not permitted\nOperation not permitted\nin\nOperation not permitted\n"
        "Operation not permitted\nup\n");
    assert_string_equal(vm_host(vm, "find %s -type l", p), vm_text(vm, "%s/d/e/up\n", p));
}

static void many_files_as_package_managers_make_them(void **state)
{
    struct vm *vm = *state;
    const char *p = project(vm, "head -c 20000000 /dev/urandom >large");
    const char *s = vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/home/app/p", p), NULL);
    (void)vm_guest(
        vm, s,
        "cd p; mkdir -p node_modules/.bin store; cd node_modules; "
        "for i in $(seq 100); do mkdir -p .tmp-$i/lib; for j in 1 2 3 4 5; do echo $i $j "
        ">.tmp-$i/lib/$j.js; done; ln .tmp-$i/lib/1.js ../store/$i; mv .tmp-$i pkg-$i; "
        "ln -s ../pkg-$i/lib/1.js .bin/run-$i; done; cp ../large ../copy; sync");
    assert_string_equal(vm_host(vm,
                                "cd %s; find node_modules -name '*.js' | wc -l; cat "
                                "node_modules/.bin/run-7 store/100; cmp large copy; stat -c %%h "
                                "store/1",
                                p),
                        "500\n7 1\n100 1\n2\n");
    assert_string_equal(vm_host(vm, "sha256sum <%s/large", p),
                        vm_guest(vm, s, "sha256sum <p/large"));
    (void)vm_guest(vm, s, "rm -r p/node_modules p/store");
    assert_string_equal(vm_host(vm, "ls %s", p), "copy\nlarge\n");
}

static void locks_count_on_both_sides(void **state)
{
    struct vm *vm = *state;
    const char *p = project(vm, "touch l");
    const char *s = vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/p", p), NULL);
    assert_string_equal(vm_guest(vm, s,
                                 "cd /p; exec 9>l; flock 9; flock -n l true || echo taken; "
                                 "flock -u 9; flock -n l echo free"),
                        "taken\nfree\n");
    assert_string_equal(
        vm_guest(
            vm, s,
            "cd /p; python3 -c \"import fcntl,os\nf=open('l','r+')\nfcntl.lockf(f,fcntl.LOCK_EX)"
            "\nif os.fork()==0:\n  g=open('l','r+')\n  try: fcntl.lockf(g,fcntl.LOCK_EX|fcntl."
            "LOCK_NB)\n  except OSError: print('taken',flush=True)\n  os._exit(0)\nos.wait()\""),
        "taken\n");
    struct vm_process *holder =
        vm_start_program(vm, (const char *const[]){"/bin/sh", "-c",
                                                   vm_text(vm,
                                                           "exec 9<%s/l; flock 9; echo held; "
                                                           "read x",
                                                           p),
                                                   NULL});
    vm_expect(holder, "held");
    assert_string_equal(vm_guest(vm, s, "flock -n /p/l true || echo taken"), "taken\n");
    vm_send(holder, "\n", 1);
    (void)vm_finish(holder);
    assert_string_equal(vm_guest(vm, s, "flock /p/l echo free"), "free\n");
}

static void shares_come_back_with_the_sandbox(void **state)
{
    struct vm *vm = *state;
    const char *p = project(vm, "echo 1 >a");
    const char *s = vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/home/app/deep/er", p), NULL);
    pid_t server = server_of(vm, s, 1);
    assert_string_equal(vm_guest(vm, s, "stat -c %%U deep; cat deep/er/a"), "app\n1\n");
    (void)vm_ok(vm, "stop", s, NULL);
    vm_wait_gone(server);
    (void)vm_ok(vm, "start", s, NULL);
    assert_string_equal(vm_guest(vm, s, "echo 2 >>deep/er/a; cat deep/er/a"), "1\n2\n");
    json_t *inspect = vm_json(vm, "inspect", s, NULL);
    const json_t *share = json_array_get(json_object_get(inspect, "shares"), 0);
    assert_string_equal(json_string_value(json_object_get(share, "guest")), "/home/app/deep/er");
    assert_string_equal(json_string_value(json_object_get(share, "mode")), "rw");
    assert_true(json_is_true(json_object_get(share, "served")));
    json_decref(inspect);
    (void)vm_ok(vm, "stop", s, NULL);
    const char *gone = vm_text(vm, "%s.gone", p);
    assert_int_equal(rename(p, gone), 0);
    vm_refused(vm, vm_text(vm, "%s|unshare", p), "start", s, NULL);
    assert_int_equal(rename(gone, p), 0);
    (void)vm_ok(vm, "start", s, NULL);
}

static void what_ends_with_the_guest_can_write_its_last(void **state)
{
    struct vm *vm = *state;
    const char *p = project(vm, "mkdir d");
    const char *s = vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/p", p), NULL);
    struct vm_process *user =
        vm_start(vm, (const char *const[]){"exec", s, "--", "sh", "-c",
                                           "trap 'echo last >/p/last; mv /p/last /p/d/last; "
                                           "exit' TERM; echo begun; while :; do read x || :; done",
                                           NULL});
    vm_expect(user, "begun");
    (void)vm_ok(vm, "stop", "-t", VM_POWER_OFF_S, s, NULL);
    (void)vm_finish(user);
    assert_string_equal(made_by_us(vm, p, "d/last"), "last\n");
}

static void a_running_sandbox_gets_and_loses_shares(void **state)
{
    struct vm *vm = *state;
    const char *p = project(vm, "echo 1 >a"), *q = project(vm, "echo 2 >b");
    const char *s = vm_sandbox(vm);
    (void)vm_ok(vm, "share", s, vm_text(vm, "%s:/p", p), NULL);
    (void)vm_ok(vm, "share", s, vm_text(vm, "%s:/q:ro", q), NULL);
    assert_string_equal(vm_guest(vm, s, "cat /p/a /q/b"), "1\n2\n");
    const char *list = vm_ok(vm, "share", s, NULL);
    assert_non_null(strstr(list, p));
    assert_non_null(strstr(list, "/q"));
    vm_refused(vm, "/p|already", "share", s, vm_text(vm, "%s:/p", q), NULL);
    pid_t first = server_of(vm, s, 1), second = server_of(vm, s, 2);
    (void)vm_ok(vm, "unshare", s, "/p", NULL);
    vm_wait_gone(first);
    assert_string_equal(vm_guest(vm, s, "ls /p"), "");
    vm_refused(vm, "/p", "unshare", s, "/p", NULL);
    /* In use: it leaves its place, and goes on for who has it open. */
    struct vm_process *user =
        vm_start(vm, (const char *const[]){"exec", s, "--", "sh", "-c",
                                           "exec 9</q/b; echo open; read x; cat <&9", NULL});
    vm_expect(user, "open");
    const struct vm_result *r = vm_call(vm, "unshare", s, "/q", NULL);
    assert_int_equal(r->status, 0);
    assert_non_null(strstr(r->err, "in use"));
    assert_string_equal(vm_guest(vm, s, "ls /q"), "");
    vm_send(user, "\n", 1);
    vm_expect(user, "2\n");
    assert_int_equal(vm_finish(user), 0);
    vm_wait_gone(second);
    /* With force it ends for them too. */
    (void)vm_ok(vm, "share", s, vm_text(vm, "%s:/q", q), NULL);
    pid_t third = server_of(vm, s, 1);
    user = vm_start(
        vm, (const char *const[]){"exec", s, "--", "sh", "-c",
                                  "exec 9</q/b; echo open; read x; cat <&9 || echo failed", NULL});
    vm_expect(user, "open");
    (void)vm_ok(vm, "unshare", "--force", s, "/q", NULL);
    vm_wait_gone(third);
    vm_send(user, "\n", 1);
    vm_expect(user, "failed");
    (void)vm_finish(user);
    (void)vm_ok(vm, "stop", s, NULL);
    (void)vm_ok(vm, "start", s, NULL);
    assert_string_equal(vm_guest(vm, s, "ls /p /q"), "/p:\n\n/q:\n");
}

static void a_killed_server_is_an_error_and_no_hang(void **state)
{
    struct vm *vm = *state;
    const char *p = project(vm, "echo 1 >a");
    const char *s = vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/p", p), NULL);
    pid_t server = server_of(vm, s, 1);
    struct vm_process *user = vm_start(
        vm, (const char *const[]){"exec", s, "--", "sh", "-c",
                                  "exec 9<>/p/a; cd /p; echo open; read x; echo x >&9 || echo "
                                  "failed; ls . >/dev/null || echo failed",
                                  NULL});
    vm_expect(user, "open");
    assert_int_equal(kill(server, SIGKILL), 0);
    vm_wait_gone(server);
    vm_send(user, "\n", 1);
    vm_expect(user, "failed");
    vm_expect(user, "failed");
    (void)vm_finish(user);
    (void)vm_guest(vm, s, "while mountpoint -q /p; do :; done; touch here");
    assert_non_null(strstr(vm_ok(vm, "share", s, NULL), "not running"));
    (void)vm_ok(vm, "share", s, vm_text(vm, "%s:/p", p), NULL);
    assert_string_equal(vm_guest(vm, s, "cat /p/a"), "1\n");
}

static bool is_locked(void *arg)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(arg, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_OFD_GETLK, &lock), 0);
    assert_int_equal(close(fd), 0);
    return lock.l_type != F_UNLCK;
}

/* Whoever ends a share by force ends the process that its lock's file names. */
static void a_lock_never_names_the_server_before(void **state)
{
    struct vm *vm = *state;
    const char *p = project(vm, "echo 1 >a");
    const char *s = vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/p", p), NULL);
    pid_t server = server_of(vm, s, 1);
    assert_int_equal(kill(server, SIGKILL), 0);
    vm_wait_gone(server);
    (void)vm_guest(vm, s, "while mountpoint -q /p; do :; done");
    /* The guest stands still, so there is no server yet. */
    char *lock = vm_keep(vm, strdup(vm_text(vm, "%s/share-1.lock", vm_sandbox_dir(vm, s))));
    int qemu = vm_pid(vm, s, "qemu_pid");
    assert_int_equal(kill(qemu, SIGSTOP), 0);
    struct vm_process *share =
        vm_start(vm, (const char *const[]){"share", s, vm_text(vm, "%s:/p", p), NULL});
    vm_wait("the lock", is_locked, lock);
    const char *named = vm_read(vm, lock, NULL);
    assert_int_equal(kill(qemu, SIGCONT), 0);
    assert_string_equal(named, "");
    assert_int_equal(vm_finish(share), 0);
    assert_true(server_of(vm, s, 1) != server);
    assert_string_equal(vm_guest(vm, s, "cat /p/a"), "1\n");
}

/* The next one finds the mount of the one before, whose worker ends only after that. */
static void the_mount_of_one_that_is_ending_is_waited_for(void **state)
{
    struct vm *vm = *state;
    const char *p = project(vm, "echo 1 >a");
    const char *s = vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/p", p), NULL);
    struct vm_process *killer = vm_start(
        vm, (const char *const[]){"exec", s, "--", "sudo", "sh", "-ec",
                                  "old=$(pgrep -x bellglass-share); kill -STOP $old; echo stopped; "
                                  "while [ $(pgrep -cx bellglass-share) -lt 2 ]; do sleep 0.02; "
                                  "done; sleep 0.2; kill -KILL $old",
                                  NULL});
    vm_expect(killer, "stopped");
    pid_t server = server_of(vm, s, 1);
    assert_int_equal(kill(server, SIGKILL), 0);
    /* Its first thread may be gone while others still have its files. */
    (void)vm_host(vm,
                  "for i in $(seq 600); do '%s' share %s | grep -q 'not running' && exit 0; sleep "
                  "0.1; done; exit 1",
                  vm->bellglass, s);
    (void)vm_ok(vm, "share", s, vm_text(vm, "%s:/p", p), NULL);
    assert_int_equal(vm_finish(killer), 0);
    assert_string_equal(vm_guest(vm, s, "cat /p/a"), "1\n");
}

static void some_folders_are_not_shared(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_shared(vm), *p = project(vm, "touch file");
    vm_refused(vm, "--share-anyway", "share", s, "/:/p", NULL);
    vm_refused(vm, "/proc|running system", "share", s, "/proc:/p", NULL);
    vm_refused(vm, "bellglass", "share", s, vm_text(vm, "%s:/p", vm->home), NULL);
    vm_refused(vm, "bellglass", "share", s, vm_text(vm, "%s:/p", vm_sandbox_dir(vm, s)), NULL);
    vm_refused(vm, "/no/such/folder", "share", s, "/no/such/folder", NULL);
    vm_refused(vm, "not a folder", "share", s, vm_text(vm, "%s/file", p), NULL);
    vm_refused(vm, "absolute", "share", s, vm_text(vm, "%s:p", p), NULL);
    vm_refused(vm, "/proc/x|needs that place", "share", s, vm_text(vm, "%s:/proc/x", p), NULL);
    vm_refused(vm, "pattern|a//b", "share", "--hide", "a//b", s, vm_text(vm, "%s:/p", p), NULL);
    vm_refused(vm, "--mount|/no/such", "create", "--mount", "/no/such", NULL);
    assert_null(strstr(vm_guest(vm, s, "cat /proc/mounts"), "bellglass-share"));
}

static void a_projects_file_says_what_it_needs(void **state)
{
    struct vm *vm = *state;
    const char *p = project(
        vm, "mkdir data; echo there >data/a; printf '%s\\n' 'memory: 300M' 'env: {KIND: file, "
            "OTHER: other}' 'mounts: [\".:/home/app/code\", data:/data:ro]' 'network:' '  rules:' "
            "'    - allow: nowhere.example.org' >bellglass.yaml; mkdir sub; echo 'mounts: [..]' "
            ">sub/bellglass.yaml; ln -s / sub/root; echo 'mounts: [root/etc]' >sub/link.yaml; echo "
            "'mount: [.]' >sub/slip.yaml");
    const char *file = vm_text(vm, "%s/bellglass.yaml", p);
    (void)vm_ok(vm, "policy", "check", file, NULL);
    const char *s = vm_sandbox_with(vm, "--file", file, "-e", "KIND=given", NULL);
    assert_string_equal(
        vm_guest(vm, s,
                 "echo $KIND $OTHER; cat code/data/a /data/a; touch code/new; touch /data/x "
                 "2>/dev/null || echo read-only; awk '/MemTotal/ {print ($2 < 350000)}' "
                 "/proc/meminfo"),
        "given other\nthere\nthere\nread-only\n1\n");
    assert_string_equal(made_by_us(vm, p, "new"), "");
    assert_non_null(strstr(vm_ok(vm, "policy", "show", s, NULL), "nowhere.example.org"));
    /* Nothing of the user's that the file does not lie beside. */
    vm_refused(vm, "not in the file's own folder|--mount", "create", "--file",
               vm_text(vm, "%s/sub/bellglass.yaml", p), NULL);
    vm_refused(vm, "not in the file's own folder|--mount", "create", "--file",
               vm_text(vm, "%s/sub/link.yaml", p), NULL);
    vm_refused(vm, "slip.yaml:1|did you mean 'mounts'", "create", "-f",
               vm_text(vm, "%s/sub/slip.yaml", p), NULL);
    vm_refused(vm, "policy of its own", "create", "--file", file, "--learn", NULL);
    vm_refused(vm, "--file does not go with --from", "create", "--file", file, "--from", s, NULL);
    vm_refused(vm, "No such file", "create", "--file", vm_text(vm, "%s/none.yaml", p), NULL);
}

VM_MAIN(VM_NEEDS_VM | VM_NEEDS_FUSE, cmocka_unit_test(a_folder_is_worked_in_from_both_sides),
        cmocka_unit_test(secrets_are_not_seen),
        cmocka_unit_test(git_works_and_cannot_be_turned_against_us),
        cmocka_unit_test(a_read_only_share_is_never_written),
        cmocka_unit_test(links_of_the_guest_lead_nowhere_outside),
        cmocka_unit_test(many_files_as_package_managers_make_them),
        cmocka_unit_test(locks_count_on_both_sides),
        cmocka_unit_test(shares_come_back_with_the_sandbox),
        cmocka_unit_test(what_ends_with_the_guest_can_write_its_last),
        cmocka_unit_test(a_running_sandbox_gets_and_loses_shares),
        cmocka_unit_test(a_killed_server_is_an_error_and_no_hang),
        cmocka_unit_test(a_lock_never_names_the_server_before),
        cmocka_unit_test(the_mount_of_one_that_is_ending_is_waited_for),
        cmocka_unit_test(some_folders_are_not_shared),
        cmocka_unit_test(a_projects_file_says_what_it_needs))
