/* One `bellglass exec NAME -- true`, and what it is made of. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/bench/measure.h"

#define EXECS  200
#define ECHOES 1000
#define NAME   "bench-exec"

/* The exec stream by itself: no process of ours is started for it. */
static double exec_by_socket(void)
{
    uint8_t body[256], header[BG_FRAME_HEADER_SIZE], payload[4096];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    bg_writer_u32le(&w, 0);
    bg_writer_u16le(&w, 0);
    bg_writer_u16le(&w, 0);
    bg_writer_text32le(&w, "");
    bg_writer_text32le(&w, "");
    bg_writer_u32le(&w, 1);
    bg_writer_u32le(&w, 0);
    bg_writer_text32le(&w, "true");
    double start = now_ms();
    BG_AUTOCLOSE int fd = stream_open(NAME, "exec", body, w.used);
    struct bg_frame_header frame = {0};
    while (frame.type != BG_FRAME_EXIT) {
        read_all(fd, header, sizeof header);
        if (bg_frame_header_parse(header, sizeof header, sizeof payload, &frame, NULL) < 0)
            bench_fail("exec: a bad frame");
        read_all(fd, payload, frame.size);
    }
    return now_ms() - start;
}

static void echo_round_trips(struct samples *samples)
{
    uint8_t body[16], byte = 'x';
    struct bg_writer w = bg_writer_init(body, sizeof body);
    const struct bg_bench_request request = {.mode = BG_BENCH_ECHO, .bytes = ECHOES};
    bg_bench_request_emit(&request, &w);
    BG_AUTOCLOSE int fd = stream_open(NAME, "bench", body, w.used);
    for (int i = 0; i < ECHOES; i++) {
        double start = now_ms();
        write_all(fd, &byte, 1);
        read_all(fd, &byte, 1);
        samples_add(samples, now_ms() - start);
    }
}

/* fork, exec and wait of the same program inside the guest, measured there. */
static double guest_spawn_ms(void)
{
    static const char script[] =
        "import os,time\n"
        "t=[]\n"
        "for i in range(100):\n"
        "    a=time.monotonic(); p=os.posix_spawn('/bin/true',['true'],{}); os.waitpid(p,0)\n"
        "    t.append(time.monotonic()-a)\n"
        "t.sort(); print(t[50]*1000)\n";
    const char *program = getenv("BG_TEST_BELLGLASS");
    char *command = NULL, line[64] = "";
    int fds[2];
    if (asprintf(&command, "exec '%s' exec " NAME " -- python3 -c \"%s\"", program, script) < 0 ||
        pipe(fds) < 0)
        bench_fail("out of memory");
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(fds[1], 1);
        (void)execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(126);
    }
    (void)close(fds[1]);
    ssize_t n = read(fds[0], line, sizeof line - 1);
    (void)close(fds[0]);
    (void)waitpid(pid, NULL, 0);
    free(command);
    return n > 0 ? strtod(line, NULL) : 0;
}

void bench_exec(void)
{
    static struct samples wall, cpu, floor, direct, echo;
    char text[128];
    (void)BELLGLASS("create", NAME);
    int supervisor = parent_of(sandbox_pid(NAME, "qemu_pid"));
    for (int i = 0; i < 10; i++) /* the guest's caches */
        (void)BELLGLASS("exec", NAME, "--", "true");
    double supervisor_before = cpu_of(supervisor);
    for (int i = 0; i < EXECS; i++) {
        struct timing timing = BELLGLASS("exec", NAME, "--", "true");
        samples_add(&wall, timing.total_ms);
        samples_add(&cpu, timing.cpu_ms);
        samples_add(&floor, timed("/bin/true", (const char *const[]){NULL}).cpu_ms);
    }
    double supervisor_ms = (cpu_of(supervisor) - supervisor_before) / EXECS;
    for (int i = 0; i < EXECS; i++)
        samples_add(&direct, exec_by_socket());
    echo_round_trips(&echo);
    double spawn = guest_spawn_ms();
    (void)BELLGLASS("rm", "--force", NAME);

    double p50 = samples_median(&wall);
    (void)printf("exec: `bellglass exec NAME -- true`\n");
    (void)printf("  whole command                 %s    target p50 <= 60\n",
                 samples_text(&wall, "ms", text));
    (void)printf("  the stream alone              %s\n", samples_text(&direct, "ms", text));
    (void)printf("  echo of a byte on the device  %s\n", samples_text(&echo, "ms", text));
    (void)printf("  spawn inside the guest        %9.1f ms (median of 100)\n", spawn);
    (void)printf("  host: processor time          %9.1f ms (command %.1f, supervisor %.1f)    "
                 "target <= 5\n",
                 samples_median(&cpu) + supervisor_ms, samples_median(&cpu), supervisor_ms);
    (void)printf("  host: of it, any process      %9.1f ms (/bin/true on the host)\n",
                 samples_median(&floor));
    (void)printf("  host: beside the stream       %9.1f ms (whole command - the stream alone)\n",
                 p50 - samples_median(&direct));
    (void)printf("  ratio exec / (echo + spawn)   %9.2f\n", p50 / (samples_median(&echo) + spawn));
}
