/* Many at once and much through one. */
#include "tests/lib/vm.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"
#include "common/sha256.h"

#define EXECS 64

static void sixty_four_execs_at_once_do_not_mix(void **state)
{
    struct vm *vm = *state;
    struct vm_process *processes[EXECS];
    for (int i = 0; i < EXECS; i++) {
        /* All of them are up before the first goes on: each waits for its line of input. */
        const char *script = vm_text(vm, "echo up; read line; echo \"$line is %d\"; exit %d", i, i);
        const char *const argv[] = {"exec", vm_shared(vm), "--", "sh", "-c", script, NULL};
        processes[i] = vm_start(vm, argv);
    }
    for (int i = 0; i < EXECS; i++)
        vm_expect(processes[i], "up\n");
    for (int i = EXECS - 1; i >= 0; i--) {
        const char *line = vm_text(vm, "number %d\n", i);
        vm_send(processes[i], line, strlen(line));
    }
    for (int i = 0; i < EXECS; i++) {
        vm_expect(processes[i], vm_text(vm, "number %d is %d\n", i, i));
        assert_int_equal(vm_finish(processes[i]), i);
    }
}

/* Noise in, and what comes out again compared with the same noise. */
struct pipe_of_noise {
    struct vm_noise in, out;
    uint64_t left_in, come_out;
    struct bg_sha256 sum;
    bool same;
    char err[512];
};

static size_t give_noise(void *arg, uint8_t *buffer, size_t size)
{
    struct pipe_of_noise *p = arg;
    size_t n = p->left_in < size ? (size_t)p->left_in : size;
    vm_noise_fill(&p->in, buffer, n);
    bg_sha256_update(&p->sum, buffer, n);
    p->left_in -= n;
    return n;
}

static void take_noise(void *arg, int fd, const uint8_t *bytes, size_t size)
{
    struct pipe_of_noise *p = arg;
    if (fd == 2) {
        (void)snprintf(p->err, sizeof p->err, "%.*s", (int)size, (const char *)bytes);
        return;
    }
    static uint8_t want[65536];
    assert_true(size <= sizeof want);
    vm_noise_fill(&p->out, want, size);
    p->same = p->same && memcmp(want, bytes, size) == 0;
    p->come_out += size;
}

#define GIB (UINT64_C(1) << 30)

static void a_gibibyte_through_stdin_and_stdout(void **state)
{
    struct vm *vm = *state;
    struct pipe_of_noise p = {.in = {7}, .out = {7}, .left_in = GIB, .same = true};
    bg_sha256_init(&p.sum);
    const struct vm_io io = {.produce = give_noise, .consume = take_noise, .arg = &p};
    const char *const argv[] = {"exec", vm_shared(vm), "--", "cat", NULL};
    int status = vm_stream(vm, argv, &io);
    if (status != 0)
        fail_msg("status %d: %s", status, p.err);
    assert_true(p.come_out == GIB);
    assert_true(p.same);
}

/* The guest's own checksum of what it got: both ends agree on what was sent. */
struct summed {
    struct pipe_of_noise noise;
    char out[128];
    size_t out_size;
};

static void take_sum(void *arg, int fd, const uint8_t *bytes, size_t size)
{
    struct summed *s = arg;
    if (fd == 1 && s->out_size + size < sizeof s->out) {
        memcpy(s->out + s->out_size, bytes, size);
        s->out_size += size;
    }
}

static size_t give_summed(void *arg, uint8_t *buffer, size_t size)
{
    struct summed *s = arg;
    return give_noise(&s->noise, buffer, size);
}

static void the_guest_sees_the_bytes_that_were_sent(void **state)
{
    struct vm *vm = *state;
    struct summed s = {.noise = {.in = {11}, .left_in = GIB / 16}};
    bg_sha256_init(&s.noise.sum);
    const struct vm_io io = {.produce = give_summed, .consume = take_sum, .arg = &s};
    const char *const argv[] = {"exec", vm_shared(vm), "--", "sha256sum", NULL};
    assert_int_equal(vm_stream(vm, argv, &io), 0);
    uint8_t digest[BG_SHA256_SIZE];
    char hex[2 * BG_SHA256_SIZE + 1];
    bg_sha256_final(&s.noise.sum, digest);
    bg_hex(digest, sizeof digest, hex);
    assert_memory_equal(s.out, hex, sizeof hex - 1);
}

static void a_reader_that_stops_holds_nobody_up(void **state)
{
    struct vm *vm = *state;
    const char *const argv[] = {"exec", vm_shared(vm), "--", "yes", NULL};
    struct vm_process *stopped = vm_start(vm, argv);
    vm_expect(stopped, "y\n"); /* and no more: its output fills every buffer on the way */
    for (int i = 0; i < 5; i++)
        assert_string_equal(vm_ok(vm, "exec", vm_shared(vm), "--", "echo", "through", NULL),
                            "through\n");
    assert_int_equal(vm_stop(stopped, SIGKILL), 137);
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(sixty_four_execs_at_once_do_not_mix),
        cmocka_unit_test(a_gibibyte_through_stdin_and_stdout),
        cmocka_unit_test(the_guest_sees_the_bytes_that_were_sent),
        cmocka_unit_test(a_reader_that_stops_holds_nobody_up))
