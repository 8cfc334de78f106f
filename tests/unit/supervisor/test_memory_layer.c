#include "tests/unit/supervisor/memory_room.h"

#define RAM_PAGES 64u
#define RAM_SIZE  ((uint64_t)RAM_PAGES * PAGE)

static const struct memory_extent some[] = {
    {0, 1, 1}, {1, MEMORY_ZERO, 2}, {3, 2, 3}, {10, MEMORY_ZERO, 1}, {62, 5, 2}};
#define SOME (sizeof some / sizeof *some)

/* All bytes of a file. */
static uint8_t *bytes_of(int fd, size_t *ret_size)
{
    off_t size = lseek(fd, 0, SEEK_END);
    uint8_t *bytes = malloc((size_t)size + 1);
    assert_non_null(bytes);
    assert_int_equal(bg_pread_full(fd, bytes, (size_t)size, 0), 0);
    *ret_size = (size_t)size;
    return bytes;
}

static int parse(const uint8_t *bytes, size_t size, struct memory_layer *ret, struct bg_err *err)
{
    struct memory_head head;
    int r = memory_layer_parse_head(bytes, size, size, &head, err);
    if (r < 0)
        return r;
    return memory_layer_parse(&head, bytes + head.table_offset, size - head.table_offset, ret, err);
}

static void same_extents(const struct memory_layer *layer)
{
    assert_int_equal(layer->count, SOME);
    for (size_t i = 0; i < SOME; i++) {
        assert_int_equal(layer->extents[i].ram_page, some[i].ram_page);
        assert_int_equal(layer->extents[i].file_page, some[i].file_page);
        assert_int_equal(layer->extents[i].count, some[i].count);
    }
}

static void reads_what_was_written(void **state)
{
    (void)state;
    BG_AUTOCLOSE int fd = make_layer(RAM_SIZE, some, SOME, 1);
    BG_AUTOCLOSE int empty = make_layer(RAM_SIZE, some, 0, 1);
    struct memory_layer layer;
    assert_int_equal(memory_layer_open(fd, RAM_SIZE, &layer, NULL), 0);
    assert_int_equal(layer.fd, fd);
    assert_int_equal(layer.ram_size, RAM_SIZE);
    assert_int_equal(layer.data_pages, 6);
    same_extents(&layer);
    memory_layer_done(&layer);
    assert_int_equal(memory_layer_open(empty, RAM_SIZE, &layer, NULL), 0);
    assert_int_equal(layer.count, 0);
    memory_layer_done(&layer);
}

static void refuses_another_guests(void **state)
{
    (void)state;
    BG_AUTOCLOSE int fd = make_layer(RAM_SIZE, some, SOME, 1);
    struct memory_layer layer;
    struct bg_err err;
    assert_int_equal(memory_layer_open(fd, 2 * RAM_SIZE, &layer, &err), -EUCLEAN);
    assert_non_null(strstr(err.text, "262144 bytes of RAM, not 524288"));
}

static void refuses_every_flipped_bit(void **state)
{
    (void)state;
    BG_AUTOCLOSE int fd = make_layer(RAM_SIZE, some, SOME, 1);
    size_t size;
    BG_AUTOFREE uint8_t *bytes = bytes_of(fd, &size);
    struct memory_layer layer;
    for (size_t i = 0; i < size; i++) {
        if (i >= PAGE && i < 7 * PAGE)
            continue; /* data */
        for (unsigned bit = 1; bit < 256; bit <<= 1) {
            bytes[i] ^= (uint8_t)bit;
            assert_int_equal(parse(bytes, size, &layer, NULL), -EUCLEAN);
            bytes[i] ^= (uint8_t)bit;
        }
    }
    assert_int_equal(parse(bytes, size, &layer, NULL), 0);
    memory_layer_done(&layer);
}

static void refuses_every_other_size(void **state)
{
    (void)state;
    BG_AUTOCLOSE int fd = make_layer(RAM_SIZE, some, SOME, 1);
    size_t size;
    BG_AUTOFREE uint8_t *bytes = bytes_of(fd, &size);
    struct memory_layer layer;
    struct bg_err err;
    for (size_t n = 0; n < size; n++) {
        assert_int_equal(parse(bytes, n, &layer, &err), -EUCLEAN);
        assert_non_null(strstr(err.text, "cut short"));
        /* Also to those that read it from a file. */
        if (n % 509 == 0) {
            assert_int_equal(ftruncate(fd, (off_t)n), 0);
            assert_int_equal(memory_layer_open(fd, RAM_SIZE, &layer, &err), -EUCLEAN);
            assert_int_equal(ftruncate(fd, (off_t)size), 0);
            assert_int_equal(pwrite(fd, bytes, size, 0), (ssize_t)size);
        }
    }
    assert_int_equal(parse(bytes, size + 1, &layer, &err), -EUCLEAN);
    assert_non_null(strstr(err.text, "too long"));
}

static void tells_a_layer_whose_maker_died(void **state)
{
    (void)state;
    BG_AUTOCLOSE int fd = make_layer(RAM_SIZE, some, SOME, 1);
    uint8_t zeros[PAGE] = {0};
    struct memory_layer layer;
    struct bg_err err;
    assert_int_equal(pwrite(fd, zeros, PAGE, 0), PAGE);
    assert_int_equal(memory_layer_open(fd, RAM_SIZE, &layer, &err), -EUCLEAN);
    assert_non_null(strstr(err.text, "never finished"));
}

/* With a right checksum, since whoever writes the file can make that too. */
static void refuses_tables_that_make_no_sense(void **state)
{
    (void)state;
    static const struct memory_extent rows[][2] = {
        {{0, 1, 1}, {0, 2, 1}},                    /* twice the same page */
        {{0, 1, 2}, {1, 3, 1}},                    /* overlap */
        {{0, 1, 2}, {1, MEMORY_ZERO, 1}},          /* also with zeros */
        {{5, 1, 1}, {4, 2, 1}},                    /* not sorted */
        {{0, 1, 1}, {1, 2, 0}},                    /* nothing */
        {{0, 1, 1}, {63, MEMORY_ZERO, 2}},         /* past the end of RAM */
        {{0, 1, 1}, {64, MEMORY_ZERO, 1}},         /* behind it */
        {{0, 1, 1}, {UINT64_MAX, MEMORY_ZERO, 1}}, /* wraps */
        {{0, 1, 1}, {1, MEMORY_ZERO, UINT32_MAX}}, /* too large */
        {{0, 0, 1}, {1, 1, 1}},                    /* the header as data */
        {{0, 2, 1}, {1, 1, 1}},                    /* data in another order */
        {{0, 1, 1}, {1, 1, 1}},                    /* data twice */
        {{0, 1, 1}, {1, 3, 1}},                    /* past the end of the data */
        {{0, 1, 1}, {1, MEMORY_ZERO - 1, 1}},      /* far past it */
    };
    struct memory_layer layer;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t page[PAGE], table[2 * MEMORY_EXTENT_SIZE], bytes[5 * PAGE + sizeof table] = {0};
        uint64_t data = 0;
        for (size_t k = 0; k < 2; k++) {
            memory_layer_put_extent(&rows[i][k], table + k * MEMORY_EXTENT_SIZE);
            data += rows[i][k].file_page == MEMORY_ZERO ? 0 : rows[i][k].count;
        }
        struct memory_head head = {.ram_size = RAM_SIZE,
                                   .data_pages = data,
                                   .table_offset = (1 + data) * PAGE,
                                   .count = 2};
        memory_layer_put_head(&head, table, sizeof table, page);
        memcpy(bytes, page, PAGE);
        memcpy(bytes + head.table_offset, table, sizeof table);
        if (parse(bytes, (size_t)head.table_offset + sizeof table, &layer, NULL) != -EUCLEAN)
            fail_msg("row %zu was taken", i);
    }
    /* A flag, and data that no extent has. */
    for (size_t i = 0; i < 2; i++) {
        uint8_t table[MEMORY_EXTENT_SIZE], bytes[3 * PAGE + sizeof table] = {0};
        memory_layer_put_extent(&(struct memory_extent){0, 1, 1}, table);
        table[20] = i == 0;
        struct memory_head head = {
            .ram_size = RAM_SIZE, .data_pages = 1 + i, .table_offset = (2 + i) * PAGE, .count = 1};
        memory_layer_put_head(&head, table, sizeof table, bytes);
        memcpy(bytes + head.table_offset, table, sizeof table);
        assert_int_equal(parse(bytes, (size_t)head.table_offset + sizeof table, &layer, NULL),
                         -EUCLEAN);
    }
}

static void refuses_heads_that_make_no_sense(void **state)
{
    (void)state;
    static const struct memory_head rows[] = {
        {.ram_size = 0, .table_offset = PAGE},
        {.ram_size = PAGE + 1, .table_offset = PAGE},
        {.ram_size = UINT64_MAX - PAGE + 1, .table_offset = PAGE},
        {.ram_size = RAM_SIZE, .table_offset = 0},
        {.ram_size = RAM_SIZE, .table_offset = 2 * PAGE},
        {.ram_size = RAM_SIZE, .data_pages = RAM_PAGES + 1, .table_offset = 66 * PAGE},
        {.ram_size = RAM_SIZE, .data_pages = UINT64_MAX / PAGE, .table_offset = 0},
        {.ram_size = RAM_SIZE, .count = SIZE_MAX / 8, .table_offset = PAGE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t page[PAGE];
        struct memory_head head;
        memory_layer_put_head(&rows[i], page, 0, page);
        if (memory_layer_parse_head(page, PAGE,
                                    rows[i].table_offset + rows[i].count * MEMORY_EXTENT_SIZE,
                                    &head, NULL) != -EUCLEAN)
            fail_msg("row %zu was taken", i);
    }
}

static void upper_layers_hide_lower_ones(void **state)
{
    (void)state;
    static const struct memory_extent low[] = {{0, 1, 10}, {20, MEMORY_ZERO, 10}, {40, 11, 4}},
                                      middle[] = {{3, 1, 2}, {8, MEMORY_ZERO, 15}, {41, 3, 1}},
                                      top[] = {{4, MEMORY_ZERO, 1}, {9, 1, 1}, {30, 2, 2}};
    static const struct memory_piece want[] = {{0, 3, 1, 0},
                                               {3, 1, 1, 1},
                                               {4, 1, MEMORY_ZERO, 0},
                                               {5, 3, 6, 0},
                                               {8, 1, MEMORY_ZERO, 0},
                                               {9, 1, 1, 2},
                                               {10, 20, MEMORY_ZERO, 0},
                                               {30, 2, 2, 2},
                                               {40, 1, 11, 0},
                                               {41, 1, 3, 1},
                                               {42, 2, 13, 0}};
    struct memory_extent copies[3][3];
    struct memory_layer layers[3];
    struct memory_map map;
    memcpy(copies[0], low, sizeof low);
    memcpy(copies[1], middle, sizeof middle);
    memcpy(copies[2], top, sizeof top);
    for (size_t i = 0; i < 3; i++)
        layers[i] = (struct memory_layer){.extents = copies[i], .count = 3};
    assert_int_equal(memory_map_build(layers, 3, &map, NULL), 0);
    assert_int_equal(map.count, sizeof want / sizeof *want);
    for (size_t i = 0; i < map.count; i++)
        assert_memory_equal(&map.pieces[i], &want[i], sizeof want[i]);
    memory_map_done(&map);
    assert_int_equal(memory_map_build(layers, 0, &map, NULL), 0);
    assert_int_equal(map.count, 0);
    memory_map_done(&map);
}

/* Against the plain way: an array of who has what. */
static void any_stack_means_what_its_pages_say(void **state)
{
    (void)state;
    uint32_t seed = 1;
    for (int round = 0; round < 200; round++) {
        uint8_t ram[RAM_PAGES] = {0};
        int fds[BG_MEMORY_LAYERS_MAX];
        for (uint32_t layer = 0; layer < BG_MEMORY_LAYERS_MAX; layer++) {
            struct memory_extent extents[RAM_PAGES];
            size_t count = 0;
            uint64_t file = 1;
            for (uint32_t page = 0; page < RAM_PAGES;) {
                seed = seed * 1664525 + 1013904223;
                uint32_t run = 1 + (seed >> 28), what = seed >> 20 & 3;
                run = run > RAM_PAGES - page ? RAM_PAGES - page : run;
                if (what > 1) {
                    extents[count++] =
                        (struct memory_extent){page, what == 2 ? MEMORY_ZERO : file, run};
                    file += what == 2 ? 0 : run;
                    memset(ram + page, what == 2 ? 0 : (int)layer + 1, run);
                }
                page += run;
            }
            fds[layer] = make_layer(RAM_SIZE, extents, count, layer + 1);
        }
        BG_AUTOFREE uint8_t *have = calloc(1, RAM_SIZE), *want = calloc(1, RAM_SIZE);
        lay_layers(have, RAM_SIZE, fds, BG_MEMORY_LAYERS_MAX);
        for (uint32_t page = 0; page < RAM_PAGES; page++)
            fill_page(want + page * PAGE, page, ram[page]);
        same_ram(have, want, RAM_SIZE);
        for (uint32_t layer = 0; layer < BG_MEMORY_LAYERS_MAX; layer++)
            assert_int_equal(close(fds[layer]), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_was_written),
        cmocka_unit_test(refuses_another_guests),
        cmocka_unit_test(refuses_every_flipped_bit),
        cmocka_unit_test(refuses_every_other_size),
        cmocka_unit_test(tells_a_layer_whose_maker_died),
        cmocka_unit_test(refuses_tables_that_make_no_sense),
        cmocka_unit_test(refuses_heads_that_make_no_sense),
        cmocka_unit_test(upper_layers_hide_lower_ones),
        cmocka_unit_test(any_stack_means_what_its_pages_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
