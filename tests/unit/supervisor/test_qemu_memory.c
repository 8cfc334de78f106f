/* The library that is loaded into QEMU, in a program that maps memory as QEMU does. */
#include "tests/unit/supervisor/memory_room.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>

#define RAM_PAGES 2048u
#define RAM_SIZE  ((uint64_t)RAM_PAGES * PAGE)
/* Twice the pieces that may be mapped by default, with and without the program's own. */
#define MAPS_MIN 32000u
#define MAPS_MAX 33000u

struct run {
    uint8_t *ram; /* owned */
    uint64_t maps;
    int status;     /* of the program */
    char text[512]; /* what it said on stderr */
};

/* Runs the program on memory_fd and these layers. */
static struct run map(int memory_fd, uint64_t size, const char *layers, const char *base,
                      const char *kind)
{
    struct run run = {.ram = malloc(size)};
    int out[2], said[2];
    char size_text[32], path[64], list[256], base_text[64];
    assert_non_null(run.ram);
    (void)snprintf(size_text, sizeof size_text, "%llu", (unsigned long long)size);
    (void)snprintf(path, sizeof path, "BELLGLASS_MEMORY_PATH=/proc/self/fd/%d", memory_fd);
    (void)snprintf(list, sizeof list, "BELLGLASS_MEMORY_LAYERS=%s", layers);
    (void)snprintf(base_text, sizeof base_text, "BELLGLASS_MEMORY_BASE=%s", base);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    assert_int_equal(pipe2(said, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        static char preload[] = "LD_PRELOAD=" BG_TEST_MEMORY_LIBRARY;
        static char program[] = BG_TEST_MEMORY_MAPPER;
        char kind_text[16];
        (void)snprintf(kind_text, sizeof kind_text, "%s", kind);
        char *argv[] = {program, size_text, kind_text, NULL};
        char *env[] = {preload, path, list, base_text, NULL};
        if (dup2(out[1], 1) == 1 && dup2(said[1], 2) == 2)
            (void)execve(program, argv, env);
        _exit(126);
    }
    (void)close(out[1]);
    (void)close(said[1]);
    int r = bg_read_full(out[0], run.ram, size);
    if (r == 0)
        r = bg_read_full(out[0], &run.maps, sizeof run.maps);
    ssize_t n = read(said[0], run.text, sizeof run.text - 1);
    run.text[n > 0 ? n : 0] = '\0';
    (void)close(out[0]);
    (void)close(said[0]);
    assert_int_equal(waitpid(pid, &run.status, 0), pid);
    if ((r == 0) != (run.status == 0))
        fail_msg("status 0x%x: %s", (unsigned)run.status, run.text);
    return run;
}

/* A file that stays open in the program. */
static void hand_over(int fd)
{
    assert_int_equal(fcntl(fd, F_SETFD, 0), 0);
}

static int make_base(uint64_t pages)
{
    int fd = new_file();
    uint8_t page[PAGE];
    for (uint64_t i = 0; i < pages; i++) {
        fill_page(page, i, 1);
        assert_int_equal(bg_write_full(fd, page, PAGE), 0);
    }
    hand_over(fd);
    return fd;
}

static const struct memory_extent low[] = {{0, 1, 600}, {700, MEMORY_ZERO, 20}, {2047, 601, 1}},
                                  high[] = {{1, 1, 1}, {300, MEMORY_ZERO, 2}, {705, 2, 3}};

/* Makes two layers; list: their fds as text. */
static void make_layers(int fds[2], char *list, size_t size)
{
    fds[0] = make_layer(RAM_SIZE, low, 3, 2);
    fds[1] = make_layer(RAM_SIZE, high, 3, 3);
    hand_over(fds[0]);
    hand_over(fds[1]);
    (void)snprintf(list, size, "%d:%d", fds[0], fds[1]);
}

static void maps_the_file_alone_as_it_is(void **state)
{
    (void)state;
    BG_AUTOCLOSE int base = make_base(RAM_PAGES);
    BG_AUTOFREE uint8_t *want = malloc(RAM_SIZE);
    assert_non_null(want);
    struct run run = map(base, RAM_SIZE, "", "", "private");
    assert_int_equal(run.status, 0);
    assert_int_equal(bg_pread_full(base, want, RAM_SIZE, 0), 0);
    same_ram(run.ram, want, RAM_SIZE);
    free(run.ram);
}

static void maps_layers_over_the_file_or_over_zeros(void **state)
{
    (void)state;
    BG_AUTOCLOSE int base = make_base(RAM_PAGES);
    int fds[2];
    char list[64];
    make_layers(fds, list, sizeof list);
    for (int zeros = 0; zeros < 2; zeros++) {
        BG_AUTOFREE uint8_t *want = calloc(1, RAM_SIZE), *page = malloc(PAGE);
        assert_non_null(want);
        assert_non_null(page);
        if (!zeros)
            assert_int_equal(bg_pread_full(base, want, RAM_SIZE, 0), 0);
        lay_layers(want, RAM_SIZE, fds, 2);
        struct run run = map(base, RAM_SIZE, list, zeros ? "none" : "file", "private");
        assert_int_equal(run.status, 0);
        same_ram(run.ram, want, RAM_SIZE);
        free(run.ram);
    }
    /* The program has written into its memory: nobody else may see that. */
    struct run run = map(base, RAM_SIZE, list, "", "private");
    assert_int_equal(run.status, 0);
    BG_AUTOFREE uint8_t *want = calloc(1, RAM_SIZE);
    assert_non_null(want);
    fill_page(want, 0, 2);
    assert_memory_equal(run.ram, want, PAGE);
    free(run.ram);
    assert_int_equal(close(fds[0]), 0);
    assert_int_equal(close(fds[1]), 0);
}

/* A sparse file stands for the size of memory that is all in layers. */
static void maps_zeros_for_a_base_that_nobody_reads(void **state)
{
    (void)state;
    BG_AUTOCLOSE int base = new_file();
    BG_AUTOFREE uint8_t *want = calloc(1, RAM_SIZE);
    assert_non_null(want);
    assert_int_equal(ftruncate(base, RAM_SIZE), 0);
    hand_over(base);
    struct run run = map(base, RAM_SIZE, "", "none", "private");
    assert_int_equal(run.status, 0);
    same_ram(run.ram, want, RAM_SIZE);
    free(run.ram);
}

static void takes_no_more_mappings_than_a_process_has(void **state)
{
    (void)state;
    const uint32_t pages = 40000;
    const uint64_t size = (uint64_t)pages * PAGE;
    BG_AUTOCLOSE int base = make_base(pages);
    BG_AUTOFREE struct memory_extent *extents = calloc(pages, sizeof *extents);
    BG_AUTOFREE uint8_t *want = malloc(size);
    assert_non_null(extents);
    assert_non_null(want);
    size_t count = 0;
    uint64_t file = 1;
    /* Every other page, and now and then two, which rather are mapped; zeros too. */
    for (uint32_t page = 0; page + 2 < pages; count++) {
        uint32_t run = page % 41 == 0 ? 2 : 1;
        bool zero = page % 7 == 0;
        extents[count] = (struct memory_extent){page, zero ? MEMORY_ZERO : file, run};
        file += zero ? 0 : run;
        page += run + 1;
    }
    assert_true(count > 16400);
    BG_AUTOCLOSE int layer = make_layer(size, extents, count, 2);
    char list[16];
    hand_over(layer);
    (void)snprintf(list, sizeof list, "%d", layer);
    struct run run = map(base, size, list, "", "private");
    assert_int_equal(run.status, 0);
    assert_true(run.maps > MAPS_MIN && run.maps < MAPS_MAX);
    assert_int_equal(bg_pread_full(base, want, size, 0), 0);
    lay_layers(want, size, &layer, 1);
    same_ram(run.ram, want, size);
    free(run.ram);
}

static void ends_the_program_rather_than_give_it_wrong_memory(void **state)
{
    (void)state;
    BG_AUTOCLOSE int base = make_base(RAM_PAGES);
    BG_AUTOCLOSE int small = make_layer(RAM_SIZE / 2, low, 1, 2);
    int fds[2];
    char list[64], damaged[64], other[64], nine[64], folder[64];
    make_layers(fds, list, sizeof list);
    BG_AUTOCLOSE int dir = open("/", O_RDONLY);
    hand_over(small);
    (void)snprintf(other, sizeof other, "%d:%d", fds[0], small);
    (void)snprintf(damaged, sizeof damaged, "%d:%d", fds[0], base);
    (void)snprintf(folder, sizeof folder, "%d", dir);
    (void)snprintf(nine, sizeof nine, "%1$d:%1$d:%1$d:%1$d:%1$d:%1$d:%1$d:%1$d:%1$d", fds[0]);
    const struct {
        const char *layers, *kind, *want;
    } rows[] = {
        {list, "shared", "shared"},
        {other, "private", "layer 2 of 2"},
        {damaged, "private", "not a memory layer"},
        {folder, "private", "regular"},
        {nine, "private", "too long"},
        {"x", "private", "not a list"},
        {"-1", "private", "not a list"},
        {"3;4", "private", "not a list"},
        {"1000", "private", "layer 1 of 1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct run run = map(base, RAM_SIZE, rows[i].layers, "", rows[i].kind);
        assert_true(WIFEXITED(run.status));
        assert_int_equal(WEXITSTATUS(run.status), 1);
        if (!strstr(run.text, rows[i].want) || !strstr(run.text, "guest memory"))
            fail_msg("row %zu: no '%s' in '%s'", i, rows[i].want, run.text);
        free(run.ram);
    }
    assert_int_equal(close(fds[0]), 0);
    assert_int_equal(close(fds[1]), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_the_file_alone_as_it_is),
        cmocka_unit_test(maps_layers_over_the_file_or_over_zeros),
        cmocka_unit_test(maps_zeros_for_a_base_that_nobody_reads),
        cmocka_unit_test(takes_no_more_mappings_than_a_process_has),
        cmocka_unit_test(ends_the_program_rather_than_give_it_wrong_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
