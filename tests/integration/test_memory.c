/* Memory layers under the real QEMU, confined as it always is: what it sees of a stack of layers,
 * and what is saved of it. No guest runs: QEMU waits for a device state that never comes. */
#include "tests/unit/supervisor/memory_room.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "common/state/paths.h"
#include "host/supervisor/confine.h"
#include "host/supervisor/memory_save.h"
#include "host/supervisor/qemu.h"

#define RAM_SIZE    (256ull << 20)
#define RAM_PAGES   (RAM_SIZE / PAGE)
#define DEADLINE_MS 60000

static struct qemu_program qemu;
static char folder[] = "/tmp/bellglass-memory-XXXXXX";

/* One QEMU, and the ends of its sockets that are ours. */
struct machine {
    pid_t pid;
    int qmp, console, vsock, state, log;
    struct qemu_opts opts;
    uint64_t ram_address;
};

static int qemu_img(const char *path)
{
    pid_t pid = fork();
    int status = -1;
    if (pid == 0) {
        (void)execlp("qemu-img", "qemu-img", "create", "-q", "-f", "qcow2", path, "1M",
                     (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    return open(path, O_RDWR | O_CLOEXEC);
}

static void pair(int *ret_ours, int *ret_qemus)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    *ret_ours = fds[0];
    *ret_qemus = fds[1];
}

/* Prepares one whose memory is this file and these layers. */
static void machine_init(struct machine *m, int memory_fd, bool base_none, const int *layers,
                         size_t count)
{
    char path[64];
    int state[2];
    *m = (struct machine){.pid = -1,
                          .opts = {.path = qemu.path,
                                   .name = "memory",
                                   .accel = ACCEL_TCG,
                                   .cpus = 1,
                                   .memory_bytes = RAM_SIZE,
                                   .memory_fd = memory_fd,
                                   .memory_base_none = base_none,
                                   .memory_layer_count = count,
                                   .kernel_fd = -1,
                                   .initrd_fd = -1,
                                   .disk_count = 1}};
    bg_runner_ids(&m->opts.uid, &m->opts.gid);
    for (size_t i = 0; i < count; i++)
        m->opts.memory_layer_fds[i] = layers[i];
    (void)snprintf(path, sizeof path, "%s/disk", folder);
    m->opts.disk_fds[0] = qemu_img(path);
    assert_true(m->opts.disk_fds[0] >= 0);
    assert_int_equal(pipe2(state, O_CLOEXEC), 0);
    m->opts.state_fd = state[0];
    m->state = state[1];
    pair(&m->qmp, &m->opts.qmp_fd);
    pair(&m->console, &m->opts.console_fd);
    pair(&m->vsock, &m->opts.vsock_fd);
    m->log = m->opts.log_fd = new_file();
}

static void machine_log(const struct machine *m, char *text, size_t size)
{
    ssize_t n = pread(m->log, text, size - 1, 0);
    text[n > 0 ? n : 0] = '\0';
}

static void machine_end(struct machine *m)
{
    if (m->pid > 0) {
        (void)kill(m->pid, SIGKILL); /* it may have ended */
        assert_int_equal(waitpid(m->pid, NULL, 0), m->pid);
    }
    const int fds[] = {m->qmp,           m->console,          m->vsock,       m->state,
                       m->log,           m->opts.disk_fds[0], m->opts.qmp_fd, m->opts.console_fd,
                       m->opts.vsock_fd, m->opts.state_fd};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        assert_int_equal(close(fds[i]), 0);
}

/* Sends a command and waits for its answer, which tells that all before it is done. */
static void ask(struct machine *m, const char *command)
{
    char text[4096], log[1024];
    size_t used = 0;
    assert_int_equal(bg_write_full(m->qmp, command, strlen(command)), 0);
    do {
        struct pollfd waiting = {.fd = m->qmp, .events = POLLIN};
        assert_true(used < sizeof text - 1 && poll(&waiting, 1, DEADLINE_MS) == 1);
        ssize_t n = read(m->qmp, text + used, sizeof text - 1 - used);
        machine_log(m, log, sizeof log);
        if (n <= 0)
            fail_msg("QEMU ended: %s", log);
        used += (size_t)n;
        text[used] = '\0';
    } while (!strstr(text, "\"return\""));
}

/* Where the guest's RAM begins in QEMU: the first mapping of this file. */
static uint64_t address_of(pid_t pid, int fd)
{
    struct stat st;
    char path[64], line[512];
    unsigned long long inode, start;
    (void)snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *maps = fopen(path, "re");
    assert_non_null(maps);
    assert_int_equal(fstat(fd, &st), 0);
    while (fgets(line, sizeof line, maps))
        if (sscanf(line, "%llx-%*x %*s %*x %*s %llu", &start, &inode) == 2 && inode == st.st_ino) {
            (void)fclose(maps); /* only read */
            return start;
        }
    fail_msg("QEMU has not mapped it");
    return 0;
}

static void see(const struct machine *m, uint8_t *ram)
{
    struct iovec local = {.iov_base = ram, .iov_len = RAM_SIZE};
    struct iovec remote = {.iov_base = (void *)(uintptr_t)m->ram_address, .iov_len = RAM_SIZE};
    assert_int_equal(process_vm_readv(m->pid, &local, 1, &remote, 1, 0), RAM_SIZE);
}

static void poke(const struct machine *m, uint64_t page, uint32_t mark, uint8_t *want)
{
    fill_page(want + page * PAGE, page, mark);
    struct iovec local = {.iov_base = want + page * PAGE, .iov_len = PAGE};
    struct iovec remote = {.iov_base = (void *)(uintptr_t)(m->ram_address + page * PAGE),
                           .iov_len = PAGE};
    assert_int_equal(process_vm_writev(m->pid, &local, 1, &remote, 1, 0), PAGE);
}

/* Both begin at page 0, so that QEMU's RAM begins with a file. */
static const struct memory_extent low[] = {{0, 1, 5000},
                                           {6000, MEMORY_ZERO, 100},
                                           {RAM_PAGES - 1, 5001, 1}},
                                  high[] = {{0, 1, 1}, {100, MEMORY_ZERO, 7}, {6050, 2, 20}};

static void open_again_read_only(int *fd)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", *fd);
    int again = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(again >= 0);
    assert_int_equal(close(*fd), 0);
    *fd = again;
}

/* In a process of its own, which the confinement is for good for. */
static void in_child(void (*body)(int), int argument)
{
    pid_t pid = fork();
    int status = -1;
    assert_true(pid >= 0);
    if (pid == 0) {
        /* A failed assertion ends the child, and does not run the other tests in it. */
        if (setenv("CMOCKA_TEST_ABORT", "1", 1) < 0)
            _exit(1);
        body(argument);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void start(struct machine *m)
{
    struct bg_err err;
    if (qemu_confine_files(&m->opts, &err) < 0 || qemu_start(&m->opts, &m->pid, &err) < 0)
        fail_msg("%s", err.text);
    ask(m, "{\"execute\":\"qmp_capabilities\"}\n");
    ask(m, "{\"execute\":\"query-status\"}\n");
}

static void sees_and_is_saved(int zeros)
{
    struct machine m;
    struct memory_save_stats stats;
    struct bg_err err;
    char path[64];
    int base = new_file(), out = new_file();
    int fds[] = {make_layer(RAM_SIZE, low, 3, 2), make_layer(RAM_SIZE, high, 3, 3), out};
    BG_AUTOFREE uint8_t *have = malloc(RAM_SIZE), *want = calloc(1, RAM_SIZE);
    assert_non_null(have);
    assert_non_null(want);
    assert_int_equal(ftruncate(base, RAM_SIZE), 0);
    for (uint64_t i = 0; i < RAM_PAGES; i += 3) {
        fill_page(have, i, 1);
        assert_int_equal(pwrite(base, have, PAGE, (off_t)(i * PAGE)), PAGE);
    }
    if (!zeros)
        assert_int_equal(bg_pread_full(base, want, RAM_SIZE, 0), 0);
    lay_layers(want, RAM_SIZE, fds, 2);
    open_again_read_only(&base);
    open_again_read_only(&fds[0]);
    open_again_read_only(&fds[1]);
    machine_init(&m, base, zeros, fds, 2);
    start(&m);
    m.ram_address = address_of(m.pid, fds[1]);
    see(&m, have);
    same_ram(have, want, RAM_SIZE);

    poke(&m, 0, 4, want);
    poke(&m, 101, 4, want);
    poke(&m, 4000, 0, want);
    poke(&m, RAM_PAGES - 1, 4, want);
    (void)snprintf(path, sizeof path, "/proc/%d/pagemap", m.pid);
    struct memory_save_opts opts = {.qemu_pid = m.pid,
                                    .ram_address = m.ram_address,
                                    .pagemap_fd = open(path, O_RDONLY | O_CLOEXEC),
                                    .shared_fd = -1,
                                    .ram_size = RAM_SIZE,
                                    .out_fd = out};
    assert_true(opts.pagemap_fd >= 0);
    /* From here on as the supervisor is: a call too many kills. */
    assert_int_equal(confine_supervisor(m.pid, &err), 0);
    if (memory_save(&opts, &stats, &err) < 0)
        fail_msg("%s", err.text);
    /* All that nobody has written stays shared, and QEMU itself writes next to nothing. */
    assert_true(stats.dirty_pages >= 4 && stats.dirty_pages < 100);
    memset(have, 0, RAM_SIZE);
    if (!zeros)
        assert_int_equal(bg_pread_full(base, have, RAM_SIZE, 0), 0);
    lay_layers(have, RAM_SIZE, fds, 3);
    same_ram(have, want, RAM_SIZE);
    assert_int_equal(close(opts.pagemap_fd), 0);
    machine_end(&m);
}

static void does_not_go_on(int argument)
{
    (void)argument;
    struct machine m;
    struct bg_err err;
    char text[1024];
    int base = new_file(), status = 0;
    int fds[] = {make_layer(RAM_SIZE, low, 3, 2), make_layer(RAM_SIZE, high, 3, 3)};
    assert_int_equal(ftruncate(base, RAM_SIZE), 0);
    assert_int_equal(ftruncate(fds[1], 3 * PAGE), 0);
    machine_init(&m, base, /* base_none= */ false, fds, 2);
    assert_int_equal(qemu_confine_files(&m.opts, &err), 0);
    assert_int_equal(qemu_start(&m.opts, &m.pid, &err), 0);
    assert_int_equal(waitpid(m.pid, &status, 0), m.pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    m.pid = -1;
    machine_log(&m, text, sizeof text);
    assert_non_null(strstr(text, "layer 2 of 2: cut short"));
    machine_end(&m);
}

static void sees_layers_over_a_file_and_is_saved(void **state)
{
    (void)state;
    in_child(sees_and_is_saved, /* zeros= */ 0);
}

static void sees_layers_over_zeros_and_is_saved(void **state)
{
    (void)state;
    in_child(sees_and_is_saved, /* zeros= */ 1);
}

static void ends_on_a_damaged_layer(void **state)
{
    (void)state;
    in_child(does_not_go_on, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sees_layers_over_a_file_and_is_saved),
        cmocka_unit_test(sees_layers_over_zeros_and_is_saved),
        cmocka_unit_test(ends_on_a_damaged_layer),
    };
    struct bg_err err;
    const char *required = getenv("BG_TEST_REQUIRE");
    if (qemu_find(/* note= */ NULL, &qemu, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.text);
        return required && strstr(required, "vm") ? 1 : 77;
    }
    if (setenv("BELLGLASS_HELPER_DIR", BG_TEST_HELPER_DIR, 1) < 0 || !mkdtemp(folder))
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char path[64];
    (void)snprintf(path, sizeof path, "%s/disk", folder);
    (void)unlink(path); /* a test that failed early made none */
    if (rmdir(folder) < 0)
        return 1;
    qemu_program_done(&qemu);
    return failed;
}
