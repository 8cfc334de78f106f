/* A memory layer: its header and the table that the header speaks of. */
#include <stdlib.h>
#include <string.h>

#include "host/supervisor/memory_layer.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* What is taken can be mapped without another look. */
static void check(const struct memory_layer *layer)
{
    uint64_t ram = 0, file = 1;
    for (size_t i = 0; i < layer->count; i++) {
        const struct memory_extent *e = &layer->extents[i];
        if (e->count == 0 || e->ram_page < ram)
            abort();
        ram = e->ram_page + e->count;
        if (ram > layer->ram_size / MEMORY_PAGE_SIZE)
            abort();
        if (e->file_page == MEMORY_ZERO)
            continue;
        if (e->file_page != file)
            abort();
        file += e->count;
    }
    if (file != 1 + layer->data_pages)
        abort();
}

/* The data pages are not in the input: the table follows the header. The checksum, which no fuzzer
 * guesses, is put right. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    uint8_t header[MEMORY_PAGE_SIZE] = {0};
    size_t head_size = size < MEMORY_HEADER_USED ? size : MEMORY_HEADER_USED;
    memcpy(header, bytes, head_size);
    const uint8_t *table = bytes + head_size;
    size_t table_size = size - head_size;
    struct memory_head head = {0};
    struct memory_layer layer;
    uint64_t offset = 0;
    for (unsigned i = 0; i < 8; i++)
        offset |= (uint64_t)header[32 + i] << 8 * i;
    if (memory_layer_parse_head(header, sizeof header, offset + table_size, &head, NULL) < 0)
        return 0;
    memory_layer_put_head(&head, table, table_size, header);
    memcpy(head.fields, header, sizeof head.fields);
    if (memory_layer_parse(&head, table, table_size, &layer, NULL) < 0)
        return 0;
    check(&layer);
    struct memory_layer twice[] = {layer, layer};
    struct memory_map map;
    if (memory_map_build(twice, 2, &map, NULL) == 0) {
        for (size_t i = 1; i < map.count; i++)
            if (map.pieces[i].ram_page < map.pieces[i - 1].ram_page + map.pieces[i - 1].count)
                abort();
        memory_map_done(&map);
    }
    memory_layer_done(&layer);
    return 0;
}
