/* What the tests of memory layers share: RAM with known content, and layers made by hand. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>
#include <sys/mman.h>

#include "common/io.h"
#include "host/supervisor/memory_layer.h"

#define PAGE MEMORY_PAGE_SIZE

static inline int new_file(void)
{
    int fd = memfd_create("memory", MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* What a page holds that was written as the mark-th; mark 0: zeros. */
static inline void fill_page(uint8_t *page, uint64_t number, uint32_t mark)
{
    uint64_t x = number * 0x9e3779b97f4a7c15u + mark;
    for (size_t i = 0; i < PAGE; i += sizeof x) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        uint64_t word = mark == 0 ? 0 : x;
        memcpy(page + i, &word, sizeof word);
    }
}

/* Makes a layer of these extents, whose data are pages of this mark. */
static inline int make_layer(uint64_t ram_size, const struct memory_extent *extents, size_t count,
                             uint32_t mark)
{
    int fd = new_file();
    uint8_t page[PAGE] = {0};
    uint8_t *table = calloc(count + 1, MEMORY_EXTENT_SIZE);
    struct memory_head head = {.ram_size = ram_size, .count = count};
    assert_non_null(table);
    assert_int_equal(bg_write_full(fd, page, PAGE), 0);
    for (size_t i = 0; i < count; i++) {
        memory_layer_put_extent(&extents[i], table + i * MEMORY_EXTENT_SIZE);
        for (uint32_t k = 0; extents[i].file_page != MEMORY_ZERO && k < extents[i].count; k++) {
            fill_page(page, extents[i].ram_page + k, mark);
            assert_int_equal(bg_write_full(fd, page, PAGE), 0);
            head.data_pages++;
        }
    }
    head.table_offset = (1 + head.data_pages) * PAGE;
    assert_int_equal(bg_write_full(fd, table, count * MEMORY_EXTENT_SIZE), 0);
    memory_layer_put_head(&head, table, count * MEMORY_EXTENT_SIZE, page);
    assert_int_equal(pwrite(fd, page, PAGE, 0), PAGE);
    free(table);
    return fd;
}

/* Lays the layers in fds over ram. */
static inline void lay_layers(uint8_t *ram, uint64_t ram_size, const int *fds, size_t count)
{
    struct memory_layer layers[BG_MEMORY_LAYERS_MAX];
    struct memory_map map;
    struct bg_err err;
    assert_true(count <= BG_MEMORY_LAYERS_MAX);
    for (size_t i = 0; i < count; i++)
        if (memory_layer_open(fds[i], ram_size, &layers[i], &err) < 0)
            fail_msg("layer %zu: %s", i, err.text);
    assert_int_equal(memory_map_build(layers, count, &map, NULL), 0);
    for (size_t i = 0; i < map.count; i++) {
        const struct memory_piece *p = &map.pieces[i];
        uint8_t *to = ram + p->ram_page * PAGE;
        if (p->file_page == MEMORY_ZERO)
            memset(to, 0, p->count * PAGE);
        else
            assert_int_equal(
                bg_pread_full(layers[p->layer].fd, to, p->count * PAGE, p->file_page * PAGE), 0);
    }
    memory_map_done(&map);
    for (size_t i = 0; i < count; i++)
        memory_layer_done(&layers[i]);
}

static inline void same_ram(const uint8_t *have, const uint8_t *want, uint64_t ram_size)
{
    for (uint64_t page = 0; page < ram_size / PAGE; page++)
        if (memcmp(have + page * PAGE, want + page * PAGE, PAGE) != 0)
            fail_msg("page %llu of the guest's memory is wrong", (unsigned long long)page);
}
