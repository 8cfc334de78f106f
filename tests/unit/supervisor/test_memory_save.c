#include "tests/unit/supervisor/memory_room.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "host/supervisor/memory_save.h"

#define RAM_PAGES 3000u
#define RAM_SIZE  ((uint64_t)RAM_PAGES * PAGE)

/* A guest in a process of its own, whose RAM is a private mapping of a file as QEMU's is. It obeys
 * orders: write pages [page, page + count) as the mark-th, mark 0: zeros. READ: only look at them.
 */
#define READ UINT32_MAX

struct order {
    uint64_t page, count;
    uint32_t mark;
};

struct guest {
    pid_t pid;
    int orders, answers, pagemap;
    uint8_t *address; /* of its RAM, in the child; here too, untouched */
    uint8_t *ram;     /* what it must see */
    uint8_t *base;    /* what is in the file */
    int base_fd;
};

static void obey(struct guest *guest, int orders, int answers)
{
    struct order order;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* at worst its pipe ends it */
    while (bg_read_full(orders, &order, sizeof order) == 0) {
        uint8_t sum = 0;
        for (uint64_t i = order.page; i < order.page + order.count; i++) {
            if (order.mark == READ)
                sum |= *(volatile uint8_t *)(guest->address + i * PAGE);
            else
                fill_page(guest->address + i * PAGE, i, order.mark);
        }
        if (bg_write_full(answers, &sum, 1) < 0)
            break;
    }
    _exit(0);
}

/* base_mark 0: a file without data. */
static void guest_start(struct guest *guest, uint32_t base_mark, bool shared)
{
    int orders[2], answers[2];
    char path[64];
    *guest = (struct guest){.base_fd = new_file()};
    guest->ram = calloc(RAM_PAGES, PAGE);
    guest->base = calloc(RAM_PAGES, PAGE);
    assert_non_null(guest->ram);
    assert_non_null(guest->base);
    assert_int_equal(ftruncate(guest->base_fd, RAM_SIZE), 0);
    for (uint64_t i = 0; base_mark > 0 && i < RAM_PAGES; i++) {
        fill_page(guest->base + i * PAGE, i, base_mark);
        assert_int_equal(pwrite(guest->base_fd, guest->base + i * PAGE, PAGE, (off_t)(i * PAGE)),
                         PAGE);
    }
    memcpy(guest->ram, guest->base, RAM_SIZE);
    guest->address = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE,
                          guest->base_fd, 0);
    assert_true(guest->address != MAP_FAILED);
    assert_int_equal(pipe2(orders, O_CLOEXEC), 0);
    assert_int_equal(pipe2(answers, O_CLOEXEC), 0);
    guest->pid = fork();
    assert_true(guest->pid >= 0);
    if (guest->pid == 0) {
        (void)close(orders[1]); /* so that it ends with us */
        obey(guest, orders[0], answers[1]);
    }
    (void)close(orders[0]);
    (void)close(answers[1]);
    guest->orders = orders[1];
    guest->answers = answers[0];
    (void)snprintf(path, sizeof path, "/proc/%d/pagemap", guest->pid);
    guest->pagemap = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(guest->pagemap >= 0);
}

static void guest_do(struct guest *guest, uint64_t page, uint64_t count, uint32_t mark)
{
    struct order order = {page, count, mark};
    uint8_t answer;
    assert_int_equal(bg_write_full(guest->orders, &order, sizeof order), 0);
    assert_int_equal(bg_read_full(guest->answers, &answer, 1), 0);
    for (uint64_t i = page; mark != READ && i < page + count; i++)
        fill_page(guest->ram + i * PAGE, i, mark);
}

static void guest_kill(struct guest *guest)
{
    if (guest->pid > 0) {
        assert_int_equal(kill(guest->pid, SIGKILL), 0);
        assert_int_equal(waitpid(guest->pid, NULL, 0), guest->pid);
    }
    guest->pid = -1;
}

static void guest_end(struct guest *guest)
{
    guest_kill(guest);
    assert_int_equal(munmap(guest->address, RAM_SIZE), 0);
    assert_int_equal(close(guest->orders), 0);
    assert_int_equal(close(guest->answers), 0);
    assert_int_equal(close(guest->pagemap), 0);
    assert_int_equal(close(guest->base_fd), 0);
    free(guest->ram);
    free(guest->base);
}

static struct memory_save_opts opts_of(const struct guest *guest, int out)
{
    return (struct memory_save_opts){.qemu_pid = guest->pid,
                                     .ram_address = (uint64_t)(uintptr_t)guest->address,
                                     .pagemap_fd = guest->pagemap,
                                     .shared_fd = -1,
                                     .ram_size = RAM_SIZE,
                                     .out_fd = out};
}

static struct memory_save_stats save(const struct memory_save_opts *opts)
{
    struct memory_save_stats stats;
    struct bg_err err;
    if (memory_save(opts, &stats, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(stats.written_bytes, lseek(opts->out_fd, 0, SEEK_END));
    return stats;
}

/* Base and layers must be what the guest sees. */
static void stands_on(const struct guest *guest, const int *fds, size_t count)
{
    BG_AUTOFREE uint8_t *ram = malloc(RAM_SIZE);
    assert_non_null(ram);
    memcpy(ram, guest->base, RAM_SIZE);
    lay_layers(ram, RAM_SIZE, fds, count);
    same_ram(ram, guest->ram, RAM_SIZE);
}

static void load(int fd, struct memory_layer *ret)
{
    assert_int_equal(memory_layer_open(fd, RAM_SIZE, ret, NULL), 0);
}

/* pagemap as a kernel gives it that cannot scan: a file that has no ioctl, with the same entries.
 * swapped: what is present is shown as swapped. */
static int pagemap_copy(const struct guest *guest, bool swapped)
{
    int fd = new_file();
    uint64_t at = (uint64_t)(uintptr_t)guest->address / PAGE * 8;
    BG_AUTOFREE uint64_t *entries = calloc(RAM_PAGES, sizeof *entries);
    assert_non_null(entries);
    assert_int_equal(bg_pread_full(guest->pagemap, entries, RAM_PAGES * sizeof *entries, at), 0);
    for (size_t i = 0; swapped && i < RAM_PAGES; i++)
        if (entries[i] >> 63 != 0)
            entries[i] ^= 3ull << 62;
    assert_int_equal(pwrite(fd, entries, RAM_PAGES * sizeof *entries, (off_t)at),
                     (ssize_t)(RAM_PAGES * sizeof *entries));
    return fd;
}

static void saves_what_was_written_and_nothing_else(void **state)
{
    (void)state;
    struct guest guest;
    BG_AUTOCLOSE int out = new_file();
    guest_start(&guest, 1, /* shared= */ false);
    guest_do(&guest, 0, RAM_PAGES, READ);
    guest_do(&guest, 0, 1, 2);
    guest_do(&guest, 100, 700, 2);
    guest_do(&guest, 1000, 10, 0);
    guest_do(&guest, 1010, 3, 2);
    guest_do(&guest, RAM_PAGES - 1, 1, 2);
    struct memory_save_opts opts = opts_of(&guest, out);
    struct memory_save_stats stats = save(&opts);
    assert_int_equal(stats.dirty_pages, 715);
    assert_int_equal(stats.zero_pages, 10);
    assert_int_equal(stats.extents, 5);
    assert_int_equal(stats.written_bytes, 706 * PAGE + 5 * MEMORY_EXTENT_SIZE);
    stands_on(&guest, &out, 1);
    for (int swapped = 0; swapped < 2; swapped++) {
        BG_AUTOCLOSE int pagemap = pagemap_copy(&guest, swapped);
        opts.pagemap_fd = pagemap;
        stats = save(&opts);
        assert_int_equal(stats.dirty_pages, 715);
        stands_on(&guest, &out, 1);
    }
    guest_end(&guest);
}

static void saves_a_guest_that_wrote_nothing(void **state)
{
    (void)state;
    struct guest guest;
    BG_AUTOCLOSE int out = new_file();
    guest_start(&guest, 1, /* shared= */ false);
    struct memory_save_opts opts = opts_of(&guest, out);
    struct memory_save_stats stats = save(&opts);
    assert_int_equal(stats.dirty_pages, 0);
    assert_int_equal(stats.written_bytes, PAGE);
    stands_on(&guest, &out, 1);
    guest_end(&guest);
}

/* Each snapshot of one guest has only what is new, whatever its mapping says. */
static void later_layers_have_only_the_difference(void **state)
{
    (void)state;
    struct guest guest;
    int fds[3] = {new_file(), new_file(), new_file()};
    struct memory_layer layers[2];
    guest_start(&guest, 1, /* shared= */ false);
    guest_do(&guest, 10, 500, 2);
    guest_do(&guest, 600, 10, 0);
    struct memory_save_opts opts = opts_of(&guest, fds[0]);
    (void)save(&opts);
    load(fds[0], &layers[0]);

    guest_do(&guest, 20, 5, 3);  /* over data */
    guest_do(&guest, 30, 5, 0);  /* zeros over data */
    guest_do(&guest, 600, 2, 3); /* data over zeros */
    guest_do(&guest, 700, 2, 3); /* new */
    opts.out_fd = fds[1];
    opts.previous = layers;
    opts.previous_count = 1;
    struct memory_save_stats stats = save(&opts);
    assert_int_equal(stats.dirty_pages, 512);
    assert_int_equal(stats.same_pages, 512 - 14);
    assert_int_equal(stats.zero_pages, 5);
    assert_int_equal(stats.written_bytes, 10 * PAGE + 4 * MEMORY_EXTENT_SIZE);
    stands_on(&guest, fds, 2);
    load(fds[1], &layers[1]);

    guest_do(&guest, 20, 1, 2); /* as it was in the first */
    opts.out_fd = fds[2];
    opts.previous_count = 2;
    stats = save(&opts);
    assert_int_equal(stats.written_bytes, 2 * PAGE + MEMORY_EXTENT_SIZE);
    stands_on(&guest, fds, 3);

    /* In place of the upper two. */
    struct memory_save_opts folding = opts;
    folding.previous_count = 1;
    folding.fold = &layers[1];
    folding.fold_count = 1;
    (void)save(&folding);
    const int folded[] = {fds[0], fds[2]};
    stands_on(&guest, folded, 2);
    memory_layer_done(&layers[0]);
    memory_layer_done(&layers[1]);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(close(fds[i]), 0);
    guest_end(&guest);
}

/* A guest on mapped layers shares their pages with the files: to fold a layer they are needed. */
static void folds_layers_that_the_guest_stands_on(void **state)
{
    (void)state;
    static const struct memory_extent low[] = {{0, 1, 4}, {100, MEMORY_ZERO, 5}, {200, 5, 50}},
                                      high[] = {{2, 1, 4}, {202, MEMORY_ZERO, 4}, {2999, 5, 1}};
    struct guest guest;
    int fds[3] = {make_layer(RAM_SIZE, low, 3, 7), make_layer(RAM_SIZE, high, 3, 8), new_file()};
    struct memory_layer layers[2];
    guest_start(&guest, 1, /* shared= */ false);
    /* The layers as the file that is mapped, so that the pages are a file's. */
    lay_layers(guest.ram, RAM_SIZE, fds, 2);
    assert_int_equal(pwrite(guest.base_fd, guest.ram, RAM_SIZE, 0), RAM_SIZE);
    guest_do(&guest, 3, 1, 9);
    guest_do(&guest, 50, 1, 9);
    guest_do(&guest, 199, 1, 9);
    for (size_t i = 0; i < 2; i++)
        load(fds[i], &layers[i]);
    struct memory_save_opts opts = opts_of(&guest, fds[2]);
    opts.fold = layers;
    opts.fold_count = 2;
    struct memory_save_stats stats = save(&opts);
    assert_int_equal(stats.dirty_pages, 6 + 5 + 50 + 1 + 2);
    stands_on(&guest, &fds[2], 1);

    opts.fold = &layers[1];
    opts.fold_count = 1;
    stats = save(&opts);
    assert_int_equal(stats.dirty_pages, 4 + 4 + 1 + 2);
    const int upper[] = {fds[0], fds[2]};
    stands_on(&guest, upper, 2);
    for (size_t i = 0; i < 2; i++)
        memory_layer_done(&layers[i]);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(close(fds[i]), 0);
    guest_end(&guest);
}

static void saves_shared_memory_by_its_data(void **state)
{
    (void)state;
    struct guest guest;
    int fds[2] = {new_file(), new_file()};
    struct memory_layer layer;
    guest_start(&guest, 0, /* shared= */ true);
    guest_do(&guest, 0, 3, 2);
    guest_do(&guest, 500, 300, 2);
    guest_do(&guest, 900, 20, 0);
    guest_do(&guest, RAM_PAGES - 1, 1, 2);
    struct memory_save_opts opts = {
        .pagemap_fd = -1, .shared_fd = guest.base_fd, .ram_size = RAM_SIZE, .out_fd = fds[0]};
    struct memory_save_stats stats = save(&opts);
    /* A file may have more data than was written, but none of it has bytes. */
    assert_int_equal(stats.written_bytes, 305 * PAGE + 3 * MEMORY_EXTENT_SIZE);
    stands_on(&guest, fds, 1);
    load(fds[0], &layer);
    guest_do(&guest, 510, 2, 0);
    guest_do(&guest, 1500, 1, 3);
    opts.out_fd = fds[1];
    opts.previous = &layer;
    opts.previous_count = 1;
    stats = save(&opts);
    assert_int_equal(stats.written_bytes, 2 * PAGE + 2 * MEMORY_EXTENT_SIZE);
    stands_on(&guest, fds, 2);
    memory_layer_done(&layer);
    assert_int_equal(close(fds[0]), 0);
    assert_int_equal(close(fds[1]), 0);
    guest_end(&guest);
}

static void fills_single_gaps_within_its_budget(void **state)
{
    (void)state;
    struct guest guest;
    BG_AUTOCLOSE int out = new_file();
    guest_start(&guest, 1, /* shared= */ false);
    for (uint64_t page = 0; page < 900; page += 20) /* 19 of 20: cheap to fill */
        guest_do(&guest, page, 19, 2);
    struct memory_save_opts opts = opts_of(&guest, out);
    struct memory_save_stats stats = save(&opts);
    assert_true(stats.extents < 10);
    assert_true(stats.filled_pages >= 35 && stats.filled_pages <= 44);
    stands_on(&guest, &out, 1);
    for (uint64_t page = 1000; page < 2000; page += 2) /* every other one: too dear */
        guest_do(&guest, page, 1, 2);
    stats = save(&opts);
    assert_true(stats.filled_pages * 10 <= stats.dirty_pages);
    assert_true(stats.extents > 300);
    stands_on(&guest, &out, 1);
    guest_end(&guest);
}

static void keeps_to_the_number_of_extents(void **state)
{
    (void)state;
    struct guest guest;
    BG_AUTOCLOSE int out = new_file();
    guest_start(&guest, 1, /* shared= */ false);
    for (uint64_t page = 0; page < RAM_PAGES; page += 3)
        guest_do(&guest, page, 1, 2);
    struct memory_save_opts opts = opts_of(&guest, out);
    for (size_t max = 2; max < 2000; max = max * 3 - 1) {
        opts.extents_max = max;
        struct memory_save_stats stats = save(&opts);
        assert_true(stats.extents <= max);
        stands_on(&guest, &out, 1);
    }
    /* Also where it is zeros that would split them. */
    guest_do(&guest, 0, 1500, 2);
    for (uint64_t page = 0; page < 1500; page += 2)
        guest_do(&guest, page, 1, 0);
    for (size_t max = 2; max < 2000; max = max * 3 - 1) {
        opts.extents_max = max;
        struct memory_save_stats stats = save(&opts);
        assert_true(stats.extents <= max);
        stands_on(&guest, &out, 1);
    }
    guest_end(&guest);
}

/* ---- dead pages ---- */

#define RECORDS_PAGE 2900u      /* of the guest's RAM, which nobody writes */
#define HIGH_PAGE    (1u << 20) /* what follows the first 1024 pages has numbers from here on */

/* The records of this guest; the second half of its RAM is at 4 GiB, as QEMU's is. */
static struct bg_page_records records_of_guest(void)
{
    uint64_t at = ((uint64_t)HIGH_PAGE + RECORDS_PAGE - 1024) * PAGE;
    return (struct bg_page_records){
        .record_size = 64,
        .type_offset = 48,
        .refs_offset = 52,
        .order_offset = 40,
        .free_type = 0xffffff7f,
        .span_count = 2,
        .spans = {{0, at, 1024}, {HIGH_PAGE, at + 1024 * 64, RAM_PAGES - 1024}}};
}

static size_t regions_of(const struct guest *guest, struct guest_region ret[2])
{
    uint64_t address = (uint64_t)(uintptr_t)guest->address;
    ret[0] = (struct guest_region){0, 1024 * PAGE, address};
    ret[1] = (struct guest_region){(uint64_t)HIGH_PAGE * PAGE, RAM_SIZE - 1024 * PAGE,
                                   address + 1024 * PAGE};
    return 2;
}

/* Makes page, a multiple of 2^order, the first of a free block, or all of that a used one. */
static void record(struct guest *guest, uint64_t page, unsigned order, bool is_free)
{
    for (uint64_t i = page; i < page + (1u << order); i++) {
        uint32_t words[16] = {0};
        words[10] = i == page && is_free ? order : 0;
        words[12] = i == page && is_free ? 0xffffff7f : 0xffffffff;
        words[13] = !is_free;
        off_t at = RECORDS_PAGE * PAGE + (off_t)i * 64;
        assert_int_equal(pwrite(guest->base_fd, words, sizeof words, at), sizeof words);
        memcpy(guest->base + at, words, sizeof words);
        memcpy(guest->ram + at, words, sizeof words);
    }
}

static void zero(struct guest *guest, uint64_t page, uint64_t count)
{
    memset(guest->ram + page * PAGE, 0, count * PAGE);
}

static void dead_pages_are_zeros_over_whatever_was_there(void **state)
{
    (void)state;
    struct guest guest;
    struct guest_region regions[2];
    const struct bg_page_records records = records_of_guest();
    int outs[2] = {new_file(), new_file()};
    guest_start(&guest, 1, /* shared= */ false);
    for (uint64_t page = 0; page < RAM_PAGES; page++)
        record(&guest, page, 0, /* is_free= */ false);
    guest_do(&guest, 0, 1500, 2);
    struct memory_save_opts opts = opts_of(&guest, outs[0]);
    opts.records = &records;
    opts.regions = regions;
    opts.region_count = regions_of(&guest, regions);
    struct memory_save_stats stats = save(&opts);
    assert_int_equal(stats.dead_pages, 0);
    assert_int_equal(stats.written_bytes / PAGE, 1501);
    stands_on(&guest, outs, 1);
    /* Free now: in both parts of the RAM, side by side, and some that were never written. */
    record(&guest, 256, 8, true);
    record(&guest, 512, 3, true);
    record(&guest, 1024 + 256, 8, true);
    record(&guest, 2048, 9, true);
    record(&guest, 600, 2, true); /* not worth it */
    struct memory_layer below;
    load(outs[0], &below);
    opts.out_fd = outs[1];
    opts.previous = &below;
    opts.previous_count = 1;
    stats = save(&opts);
    zero(&guest, 256, 264);
    zero(&guest, 1280, 220); /* of 256: the others were not written */
    assert_int_equal(stats.dead_pages, 264 + 220);
    assert_int_equal(stats.written_bytes, PAGE + stats.extents * MEMORY_EXTENT_SIZE);
    stands_on(&guest, outs, 2);
    memory_layer_done(&below);
    /* Again in use, and over zeros with what they hold; still free is no news. */
    struct memory_layer both[2];
    int third = new_file();
    load(outs[0], &both[0]);
    load(outs[1], &both[1]);
    record(&guest, 256, 8, false);
    guest_do(&guest, 256, 100, 3);
    for (uint64_t page = 356; page < 512; page++)
        fill_page(guest.ram + page * PAGE, page, 2);
    opts.out_fd = third;
    opts.previous = both;
    opts.previous_count = 2;
    stats = save(&opts);
    assert_int_equal(stats.dead_pages, 8 + 220);
    assert_int_equal(stats.extents, 1);
    int all[3] = {outs[0], outs[1], third};
    stands_on(&guest, all, 3);
    memory_layer_done(&both[0]);
    memory_layer_done(&both[1]);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(close(all[i]), 0);
    guest_end(&guest);
}

static void dead_pages_of_shared_memory_are_left_out(void **state)
{
    (void)state;
    struct guest guest;
    struct guest_region regions[2];
    const struct bg_page_records records = records_of_guest();
    BG_AUTOCLOSE int out = new_file();
    guest_start(&guest, 0, /* shared= */ true);
    guest_do(&guest, 0, 1000, 2);
    record(&guest, 512, 8, true);
    memset(guest.base, 0, RAM_SIZE);
    struct memory_save_opts opts = opts_of(&guest, out);
    opts.shared_fd = guest.base_fd;
    opts.records = &records;
    opts.regions = regions;
    opts.region_count = regions_of(&guest, regions);
    struct memory_save_stats stats = save(&opts);
    zero(&guest, 512, 256);
    assert_int_equal(stats.dead_pages, 256);
    assert_true(stats.written_bytes / PAGE < 1000 - 256 + 60);
    stands_on(&guest, &out, 1);
    guest_end(&guest);
}

/* What a guest says of its records costs nobody anything: nothing outside of its RAM is read. */
static void records_that_are_not_there_make_nothing_dead(void **state)
{
    (void)state;
    static const struct bg_page_span spans[] = {
        {0, RAM_SIZE, 1024},                         /* between the two parts */
        {0, (uint64_t)(HIGH_PAGE - 1) * PAGE, 1024}, /* right before the second */
        {0, ((uint64_t)HIGH_PAGE + RAM_PAGES - 1024 - 1) * PAGE, 1024}, /* beyond its end */
        {0, 1020ull * PAGE, 1024}, /* from one part into the other */
        {0, 1ull << 51, UINT32_MAX},
        {1ull << 39, 0, UINT32_MAX},
    };
    struct guest guest;
    struct guest_region regions[2];
    BG_AUTOCLOSE int out = new_file();
    guest_start(&guest, 1, /* shared= */ false);
    guest_do(&guest, 0, 1000, 2);
    struct memory_save_opts opts = opts_of(&guest, out);
    opts.regions = regions;
    opts.region_count = regions_of(&guest, regions);
    for (size_t i = 0; i < sizeof spans / sizeof *spans; i++) {
        struct bg_page_records records = records_of_guest();
        records.span_count = 1;
        records.spans[0] = spans[i];
        opts.records = &records;
        assert_int_equal(save(&opts).dead_pages, 0);
        stands_on(&guest, &out, 1);
    }
    guest_end(&guest);
}

/* Dead pages everywhere make many pieces; then what is dead is saved like the rest. */
static void dead_pages_keep_to_the_number_of_extents(void **state)
{
    (void)state;
    struct guest guest;
    struct guest_region regions[2];
    const struct bg_page_records records = records_of_guest();
    BG_AUTOCLOSE int out = new_file();
    guest_start(&guest, 1, /* shared= */ false);
    for (uint64_t page = 0; page < 1024; page += 16) {
        record(&guest, page, 3, true);
        record(&guest, page + 8, 3, false);
    }
    guest_do(&guest, 0, 1024, 2);
    struct memory_save_opts opts = opts_of(&guest, out);
    opts.records = &records;
    opts.regions = regions;
    opts.region_count = regions_of(&guest, regions);
    opts.extents_max = 20;
    struct memory_save_stats stats = save(&opts);
    assert_true(stats.dead_pages > 0 && stats.dead_pages < 64);
    assert_true(stats.extents <= 20);
    for (uint64_t page = 0; page < stats.dead_pages * 2; page += 16)
        zero(&guest, page, 8);
    stands_on(&guest, &out, 1);
    guest_end(&guest);
}

/* Space that was asked for in advance does not stay with the file. */
static void takes_no_more_room_than_it_needs(void **state)
{
    (void)state;
    struct guest guest;
    struct stat st;
    FILE *file = tmpfile(); /* a memfd rounds differently */
    assert_non_null(file);
    guest_start(&guest, 1, /* shared= */ false);
    guest_do(&guest, 0, 1000, 2);
    struct memory_save_opts opts = opts_of(&guest, fileno(file));
    struct memory_save_stats stats = save(&opts);
    assert_int_equal(fstat(fileno(file), &st), 0);
    assert_true((uint64_t)st.st_blocks * 512 < stats.written_bytes + 64 * PAGE);
    int fd = fileno(file);
    stands_on(&guest, &fd, 1);
    assert_int_equal(fclose(file), 0);
    guest_end(&guest);
}

static void leaves_nothing_when_the_file_may_not_grow(void **state)
{
    (void)state;
    struct guest guest;
    struct rlimit limit;
    struct memory_save_stats stats;
    struct bg_err err;
    FILE *file = tmpfile(); /* the limit does not hold for a memfd everywhere */
    assert_non_null(file);
    guest_start(&guest, 1, /* shared= */ false);
    guest_do(&guest, 0, 1000, 2);
    struct memory_save_opts opts = opts_of(&guest, fileno(file));
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_true(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    /* In the data, and in the table behind 1001 pages. */
    static const rlim_t sizes[] = {100 * PAGE + 100, 1001 * PAGE + 10, PAGE};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct rlimit small = {.rlim_cur = sizes[i], .rlim_max = limit.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        int r = memory_save(&opts, &stats, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        assert_int_equal(r, -EFBIG);
        assert_non_null(strstr(err.text, "cannot write"));
        assert_int_equal(lseek(opts.out_fd, 0, SEEK_END), 0);
    }
    assert_int_equal(memory_save(&opts, &stats, NULL), 0);
    assert_int_equal(fclose(file), 0);
    guest_end(&guest);
}

static void a_guest_that_ended_is_no_guest_without_changes(void **state)
{
    (void)state;
    struct guest guest;
    struct memory_save_stats stats;
    struct bg_err err;
    BG_AUTOCLOSE int out = new_file();
    guest_start(&guest, 1, /* shared= */ false);
    guest_do(&guest, 0, 10, 2);
    struct memory_save_opts opts = opts_of(&guest, out);
    guest_kill(&guest);
    assert_int_equal(memory_save(&opts, &stats, &err), -ESRCH);
    assert_int_equal(lseek(out, 0, SEEK_END), 0);
    guest_end(&guest);
}

static void memory_that_is_not_there_is_an_error(void **state)
{
    (void)state;
    struct guest guest;
    struct memory_save_stats stats;
    BG_AUTOCLOSE int out = new_file();
    BG_AUTOCLOSE int pagemap = new_file(); /* says that the first page is written */
    uint64_t entry = 1ull << 63;
    assert_int_equal(ftruncate(pagemap, RAM_PAGES * 8), 0);
    assert_int_equal(pwrite(pagemap, &entry, 8, 0), 8);
    guest_start(&guest, 1, /* shared= */ false);
    struct memory_save_opts opts = opts_of(&guest, out);
    opts.pagemap_fd = pagemap;
    opts.ram_address = 0; /* nobody has a page there */
    assert_int_equal(memory_save(&opts, &stats, NULL), -EFAULT);
    guest_end(&guest);
}

static void one_layer_in_place_of_several(void **state)
{
    (void)state;
    static const struct memory_extent low[] = {{0, 1, 1000}, {1100, MEMORY_ZERO, 5}},
                                      middle[] = {{2, 1, 4}, {900, MEMORY_ZERO, 205}},
                                      high[] = {{4, MEMORY_ZERO, 1}, {2990, 1, 10}};
    int fds[3] = {make_layer(RAM_SIZE, low, 2, 1), make_layer(RAM_SIZE, middle, 2, 2),
                  make_layer(RAM_SIZE, high, 2, 3)};
    BG_AUTOCLOSE int out = new_file();
    BG_AUTOFREE uint8_t *stacked = malloc(RAM_SIZE), *flat = malloc(RAM_SIZE);
    struct memory_save_stats stats;
    struct bg_err err;
    assert_non_null(stacked);
    assert_non_null(flat);
    memset(stacked, 0xa5, RAM_SIZE);
    memset(flat, 0xa5, RAM_SIZE);
    lay_layers(stacked, RAM_SIZE, fds, 3);
    assert_int_equal(memory_flatten(fds, 3, RAM_SIZE, out, &stats, &err), 0);
    lay_layers(flat, RAM_SIZE, &out, 1);
    same_ram(flat, stacked, RAM_SIZE);
    assert_int_equal(stats.written_bytes, lseek(out, 0, SEEK_END));
    assert_int_equal(stats.zero_pages, 206);
    assert_int_equal(stats.dirty_pages, 1115);
    /* A damaged one is named; what was in out stays, since nothing was begun. */
    assert_int_equal(ftruncate(fds[1], 2 * PAGE), 0);
    assert_int_equal(memory_flatten(fds, 3, RAM_SIZE, out, &stats, &err), -EUCLEAN);
    assert_non_null(strstr(err.text, "memory layer 2"));
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(close(fds[i]), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(saves_what_was_written_and_nothing_else),
        cmocka_unit_test(saves_a_guest_that_wrote_nothing),
        cmocka_unit_test(later_layers_have_only_the_difference),
        cmocka_unit_test(folds_layers_that_the_guest_stands_on),
        cmocka_unit_test(saves_shared_memory_by_its_data),
        cmocka_unit_test(fills_single_gaps_within_its_budget),
        cmocka_unit_test(keeps_to_the_number_of_extents),
        cmocka_unit_test(dead_pages_are_zeros_over_whatever_was_there),
        cmocka_unit_test(dead_pages_of_shared_memory_are_left_out),
        cmocka_unit_test(records_that_are_not_there_make_nothing_dead),
        cmocka_unit_test(dead_pages_keep_to_the_number_of_extents),
        cmocka_unit_test(takes_no_more_room_than_it_needs),
        cmocka_unit_test(leaves_nothing_when_the_file_may_not_grow),
        cmocka_unit_test(a_guest_that_ended_is_no_guest_without_changes),
        cmocka_unit_test(memory_that_is_not_there_is_an_error),
        cmocka_unit_test(one_layer_in_place_of_several),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
