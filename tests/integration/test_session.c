/* A working day in short: an editor and git here, on the mount of a sandbox that builds the project
 * all the while, and uses git too; with a snapshot in between. */
#include "tests/lib/vm.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define ROUNDS 6

/* What a sandbox of the image "clients" builds, over and over, until /tmp/stop is there. A save
 * that is half done may not compile, and one during a compilation is older than what comes of it:
 * so nothing is taken for up to date. */
static const char build_loop[] =
    "cd /home/app/project\n"
    "while ! test -e /tmp/stop; do\n"
    "    if make -sB >/tmp/log 2>&1 && ./hello >/tmp/out.new; then mv /tmp/out.new /tmp/out; fi\n"
    "    sleep 0.2\n"
    "done\n"
    "make -sB && ./hello\n";

static void make_project(struct vm *vm, const char *sandbox)
{
    (void)vm_guest(
        vm, sandbox,
        "mkdir project; cd project; git init -q -b main; git config user.name Guest\n"
        "git config user.email guest@example.com\n"
        "printf '#include \"greet.h\"\\nint main(void)\\n{\\n\\tgreet(\"round 0\");\\n}\\n' "
        ">main.c\n"
        "printf 'void greet(const char *whom);\\n' >greet.h\n"
        "printf '#include <stdio.h>\\n#include \"greet.h\"\\nvoid greet(const char *whom)\\n{\\n"
        "\\tprintf(\"hello %%%%s\\\\n\", whom);\\n}\\n' >greet.c\n"
        "printf 'hello: main.o greet.o\\n\\ttcc -o $@ main.o greet.o\\nmain.o greet.o: greet.h\\n"
        "%%%%.o: %%%%.c\\n\\ttcc -c -o $@ $<\\n' >Makefile\n"
        "printf '*.o\\nhello\\n.*.swp\\n' >.gitignore\n"
        "git add .; git commit -q -m first; make -s; ./hello");
}

/* Keys for the editor. */
static void type(struct vm *vm, const char *socket, const char *keys)
{
    (void)vm_host(vm, "tmux -S '%s' send-keys -t 0 %s", socket, keys);
}

/* Until what the guest builds says text. */
static void await_build(struct vm *vm, const char *sandbox, const char *socket, const char *text)
{
    const char *script =
        vm_text(vm,
                "for i in $(seq 1000); do grep -qx '%s' /tmp/out && exit 0; sleep 0.2; done\n"
                "cat /tmp/out /tmp/log project/main.c project/greet.c; exit 1",
                text);
    struct vm_result *r = vm_call(vm, "exec", sandbox, "--", "sh", "-c", script, NULL);
    if (r->status != 0)
        fail_msg("no '%s' but:\n%s\nthe editor:\n%s", text, r->out,
                 vm_host(vm, "tmux -S '%s' capture-pane -p -t 0", socket));
}

/* The screen holds text. */
static void await_screen(struct vm *vm, const char *socket, const char *text)
{
    (void)vm_host(vm,
                  "for i in $(seq 600); do tmux -S '%s' capture-pane -p -t 0 | grep -qF -- '%s' && "
                  "exit 0; sleep 0.2; done; tmux -S '%s' capture-pane -p -t 0 >&2; exit 1",
                  socket, text, socket);
}

static void an_editor_a_build_and_git_share_a_project(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox_with(vm, "--image", "clients", NULL);
    make_project(vm, s);
    const char *m = vm_path(vm, "project"), *socket = vm_path(vm, "tmux");
    assert_int_equal(mkdir(m, 0755), 0);
    (void)vm_ok(vm, "mount", vm_text(vm, "%s:/home/app/project", s), m, NULL);
    const char *const build[] = {"exec", s, "--", "sh", "-ec", build_loop, NULL};
    struct vm_process *builder = vm_start(vm, build);

    (void)vm_host(vm,
                  "cd '%s'; TERM=xterm tmux -u -S '%s' -f /dev/null new-session -d -x 100 -y 30 "
                  "'exec vim.tiny -u NONE -i NONE -N main.c'",
                  m, socket);
    await_screen(vm, socket, "greet(\"round 0\")");
    for (unsigned round = 1; round <= ROUNDS; round++) {
        type(vm, socket, vm_text(vm, "':%%s/round [0-9]*/round %u/' Enter ':w' Enter", round));
        await_build(vm, s, socket, vm_text(vm, "hello round %u", round));
    }
    /* Its state is kept meanwhile; nobody at work notices. */
    (void)vm_ok(vm, "snapshot", s, "midway", NULL);
    type(vm, socket, "':%s/round [0-9]*/round 99/' Enter ':w' Enter");
    await_build(vm, s, socket, "hello round 99");
    type(vm, socket, vm_text(vm, "':%%s/round [0-9]*/round %u/' Enter ':w' Enter", ROUNDS));
    await_build(vm, s, socket, vm_text(vm, "hello round %u", ROUNDS));
    /* Another file by the same editor, and one that the guest changes under it. */
    type(vm, socket, "':e greet.c' Enter ':%s/hello/good day/' Enter ':w' Enter");
    await_build(vm, s, socket, vm_text(vm, "good day round %u", ROUNDS));
    (void)vm_guest(vm, s, "sed -i 's/good day/good night/' project/greet.c");
    type(vm, socket, "':set autoread' Enter");
    /* A change there is seen here a moment later, so one look may come too early. */
    (void)vm_host(vm,
                  "for i in $(seq 600); do tmux -S '%s' send-keys -t 0 ':checktime' Enter; "
                  "tmux -S '%s' capture-pane -p -t 0 | grep -qF 'good night' && exit 0; "
                  "sleep 0.2; done; tmux -S '%s' capture-pane -p -t 0 >&2; exit 1",
                  socket, socket, socket);
    type(vm, socket, "':%s/night/morning/' Enter ':w' Enter");
    await_build(vm, s, socket, vm_text(vm, "good morning round %u", ROUNDS));
    /* It would ask before it wrote over what somebody else has changed; it has had no cause to. */
    (void)vm_host(vm, "! tmux -S '%s' capture-pane -p -t 0 | grep -i warning", socket);

    /* git here sees what the guest's files are, and the other way round. */
    assert_string_equal(vm_host(vm, "git -C '%s' status --porcelain", m),
                        " M greet.c\n M main.c\n");
    (void)vm_host(
        vm, "git -C '%s' -c user.name=Host -c user.email=host@example.com commit -q -a -m host", m);
    assert_string_equal(vm_guest(vm, s, "cd project; git status --porcelain; git log --format=%%s"),
                        "host\nfirst\n");
    (void)vm_guest(vm, s,
                   "cd project; git switch -q -c side; sed -i 's/morning/evening/' greet.c\n"
                   "git commit -q -a -m guest; git gc -q; git fsck --strict; touch .last.swp");
    /* The last change is seen after all the others, each a moment later. */
    vm_wait_path("the last change", vm_text(vm, "%s/.last.swp", m));
    assert_string_equal(vm_host(vm, "cd '%s'; git log --format=%%s; git status --porcelain", m),
                        "guest\nhost\nfirst\n");
    (void)vm_host(vm, "cd '%s'; git switch -q main; git fsck --strict", m);
    await_build(vm, s, socket, vm_text(vm, "good morning round %u", ROUNDS));

    type(vm, socket, "':e! main.c' Enter ':%s/round/lap/' Enter ':wq' Enter");
    (void)vm_host(vm,
                  "for i in $(seq 600); do tmux -S '%s' has-session 2>/dev/null || exit 0; sleep "
                  "0.2; done; tmux -S '%s' capture-pane -p -t 0 >&2; exit 1",
                  socket, socket);
    (void)vm_guest(vm, s, "touch /tmp/stop; test ! -e project/.main.c.swp");
    vm_expect(builder, vm_text(vm, "good morning lap %u\n", ROUNDS));
    assert_int_equal(vm_finish(builder), 0);
    (void)vm_ok(vm, "umount", m, NULL);
    /* What it was then can be looked at, and gone on from. */
    const char *midway = vm_text(vm, "%s@midway", s), *child = vm_name(vm);
    (void)vm_ok(vm, "fork", midway, child, NULL);
    assert_string_equal(
        /* The loop goes on in the fork, too: two that build are in each other's way. */
        vm_guest(vm, child,
                 "touch /tmp/stop; while pgrep -f '[t]est -e /tmp/stop' >/dev/null; do sleep 0.1; "
                 "done; cd project; make -s; ./hello; git log --format=%%s"),
        vm_text(vm, "hello round %u\nfirst\n", ROUNDS));
    assert_string_equal(
        vm_guest(vm, s, "cd project; git status --porcelain; git diff --stat"),
        " M main.c\n main.c | 2 +-\n 1 file changed, 1 insertion(+), 1 deletion(-)\n");
}

VM_MAIN(VM_NEEDS_VM | VM_NEEDS_FUSE, cmocka_unit_test(an_editor_a_build_and_git_share_a_project))
