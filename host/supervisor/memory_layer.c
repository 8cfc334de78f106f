#include "host/supervisor/memory_layer.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/io.h"
#include "common/limits.h"
#include "common/sha256.h"

#define VERSION 1u
#define CHECKED 48u /* bytes of the header before its checksum */

static const uint8_t magic[8] = {'B', 'G', 'M', 'E', 'M', 'L', 'A', 'Y'};

/* ---- reading ---- */

static void checksum(const uint8_t fields[CHECKED], const uint8_t *table, size_t size,
                     uint8_t out[BG_SHA256_SIZE])
{
    struct bg_sha256 hash;
    bg_sha256_init(&hash);
    bg_sha256_update(&hash, fields, CHECKED);
    bg_sha256_update(&hash, table, size);
    bg_sha256_final(&hash, out);
}

static bool all_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

int memory_layer_parse_head(const uint8_t *bytes, size_t size, uint64_t file_size,
                            struct memory_head *ret, struct bg_err *err)
{
    if (size < MEMORY_PAGE_SIZE)
        return bg_err_set(err, -EUCLEAN, "cut short: %zu bytes are no header", size);
    if (all_zero(bytes, MEMORY_PAGE_SIZE))
        return bg_err_set(err, -EUCLEAN, "never finished: it has no header");
    struct bg_reader in = bg_reader_init(bytes, MEMORY_PAGE_SIZE);
    const uint8_t *m = bg_reader_bytes(&in, sizeof magic);
    uint32_t version = bg_reader_u32le(&in);
    uint32_t page_size = bg_reader_u32le(&in);
    struct memory_head head = {.ram_size = bg_reader_u64le(&in)};
    uint64_t count = bg_reader_u64le(&in);
    head.table_offset = bg_reader_u64le(&in);
    head.data_pages = bg_reader_u64le(&in);
    if (!bg_reader_ok(&in) || !m || memcmp(m, magic, sizeof magic) != 0)
        return bg_err_set(err, -EUCLEAN, "not a memory layer");
    if (version != VERSION || page_size != MEMORY_PAGE_SIZE)
        return bg_err_set(err, -EUCLEAN, "version %" PRIu32 " with pages of %" PRIu32 " bytes",
                          version, page_size);
    if (head.ram_size == 0 || head.ram_size > BG_SANDBOX_MEMORY_MAX ||
        head.ram_size % MEMORY_PAGE_SIZE != 0)
        return bg_err_set(err, -EUCLEAN, "its header says %" PRIu64 " bytes of RAM", head.ram_size);
    if (count > BG_MEMORY_EXTENTS_MAX || head.data_pages > head.ram_size / MEMORY_PAGE_SIZE)
        return bg_err_set(err, -EUCLEAN,
                          "its header says %" PRIu64 " extents and %" PRIu64 " pages", count,
                          head.data_pages);
    if (head.table_offset != (1 + head.data_pages) * MEMORY_PAGE_SIZE)
        return bg_err_set(err, -EUCLEAN, "its header says that the table is at %" PRIu64,
                          head.table_offset);
    uint64_t want = head.table_offset + count * MEMORY_EXTENT_SIZE;
    if (file_size != want)
        return bg_err_set(err, -EUCLEAN, "%s: %" PRIu64 " bytes of %" PRIu64,
                          file_size < want ? "cut short" : "too long", file_size, want);
    if (!all_zero(bytes + MEMORY_HEADER_USED, MEMORY_PAGE_SIZE - MEMORY_HEADER_USED))
        return bg_err_set(err, -EUCLEAN, "its header has something behind its end");
    head.count = (size_t)count;
    memcpy(head.fields, bytes, sizeof head.fields);
    *ret = head;
    return 0;
}

/* next_ram, next_file: the first pages that are not spoken for. */
static bool take_extent(struct bg_reader *in, const struct memory_head *head, uint64_t *next_ram,
                        uint64_t *next_file, struct memory_extent *ret)
{
    uint64_t ram_pages = head->ram_size / MEMORY_PAGE_SIZE;
    struct memory_extent e = {.ram_page = bg_reader_u64le(in), .file_page = bg_reader_u64le(in)};
    e.count = bg_reader_u32le(in);
    uint32_t flags = bg_reader_u32le(in);
    if (flags != 0 || e.count == 0 || e.ram_page < *next_ram || e.ram_page > ram_pages ||
        e.count > ram_pages - e.ram_page)
        return false;
    if (e.file_page != MEMORY_ZERO) {
        if (e.file_page != *next_file || e.count > 1 + head->data_pages - *next_file)
            return false;
        *next_file += e.count;
    }
    *next_ram = e.ram_page + e.count;
    *ret = e;
    return true;
}

int memory_layer_parse(const struct memory_head *head, const uint8_t *bytes, size_t size,
                       struct memory_layer *ret, struct bg_err *err)
{
    uint8_t sum[BG_SHA256_SIZE];
    size_t want;
    if (!bg_size_mul(head->count, MEMORY_EXTENT_SIZE, &want) || size != want)
        return bg_err_set(err, -EUCLEAN, "cut short: %zu bytes of its table", size);
    checksum(head->fields, bytes, size, sum);
    if (memcmp(sum, head->fields + CHECKED, sizeof sum) != 0)
        return bg_err_set(err, -EUCLEAN, "damaged: the checksum of its table is wrong");
    BG_AUTOFREE struct memory_extent *extents = calloc(head->count + 1, sizeof *extents);
    if (!extents)
        return bg_err_set(err, -ENOMEM, "out of memory for %zu extents", head->count);
    struct bg_reader in = bg_reader_init(bytes, size);
    uint64_t next_ram = 0, next_file = 1;
    for (size_t i = 0; i < head->count; i++)
        if (!take_extent(&in, head, &next_ram, &next_file, &extents[i]))
            return bg_err_set(err, -EUCLEAN, "damaged: extent %zu of %zu is out of place", i,
                              head->count);
    if (next_file != 1 + head->data_pages)
        return bg_err_set(err, -EUCLEAN, "damaged: pages that belong to no extent");
    *ret = (struct memory_layer){.fd = -1,
                                 .ram_size = head->ram_size,
                                 .data_pages = head->data_pages,
                                 .extents = BG_TAKE(extents),
                                 .count = head->count};
    return 0;
}

int memory_layer_open(int fd, uint64_t ram_size, struct memory_layer *ret, struct bg_err *err)
{
    struct stat st;
    uint8_t page[MEMORY_PAGE_SIZE];
    struct memory_head head;
    if (fstat(fd, &st) < 0)
        return bg_err_errno(err, -errno, "fstat");
    if (!S_ISREG(st.st_mode))
        return bg_err_set(err, -EUCLEAN, "not a regular file");
    uint64_t file_size = (uint64_t)st.st_size;
    size_t head_size = file_size < sizeof page ? (size_t)file_size : sizeof page;
    int r = bg_pread_full(fd, page, head_size, 0);
    if (r < 0)
        return bg_err_errno(err, r, "cannot read its header");
    r = memory_layer_parse_head(page, head_size, file_size, &head, err);
    if (r < 0)
        return r;
    if (head.ram_size != ram_size)
        return bg_err_set(err, -EUCLEAN,
                          "it is of a guest with %" PRIu64 " bytes of RAM, not %" PRIu64,
                          head.ram_size, ram_size);
    size_t table_size = head.count * MEMORY_EXTENT_SIZE; /* the file is that long */
    BG_AUTOFREE uint8_t *table = malloc(table_size + 1);
    if (!table)
        return bg_err_set(err, -ENOMEM, "out of memory for %zu extents", head.count);
    r = bg_pread_full(fd, table, table_size, head.table_offset);
    if (r < 0)
        return bg_err_errno(err, r, "cannot read its table");
    r = memory_layer_parse(&head, table, table_size, ret, err);
    if (r == 0)
        ret->fd = fd;
    return r;
}

void memory_layer_done(struct memory_layer *layer)
{
    free(layer->extents);
    *layer = (struct memory_layer){.fd = -1};
}

/* ---- writing ---- */

void memory_layer_put_head(const struct memory_head *head, const uint8_t *table, size_t table_size,
                           uint8_t out[MEMORY_PAGE_SIZE])
{
    uint8_t sum[BG_SHA256_SIZE];
    memset(out, 0, MEMORY_PAGE_SIZE);
    struct bg_writer w = bg_writer_init(out, MEMORY_PAGE_SIZE);
    bg_writer_bytes(&w, magic, sizeof magic);
    bg_writer_u32le(&w, VERSION);
    bg_writer_u32le(&w, MEMORY_PAGE_SIZE);
    bg_writer_u64le(&w, head->ram_size);
    bg_writer_u64le(&w, head->count);
    bg_writer_u64le(&w, head->table_offset);
    bg_writer_u64le(&w, head->data_pages);
    assert(w.used == CHECKED);
    checksum(out, table, table_size, sum);
    bg_writer_bytes(&w, sum, sizeof sum);
    assert(bg_writer_ok(&w) && w.used == MEMORY_HEADER_USED);
}

void memory_layer_put_extent(const struct memory_extent *extent, uint8_t out[MEMORY_EXTENT_SIZE])
{
    struct bg_writer w = bg_writer_init(out, MEMORY_EXTENT_SIZE);
    bg_writer_u64le(&w, extent->ram_page);
    bg_writer_u64le(&w, extent->file_page);
    bg_writer_u32le(&w, extent->count);
    bg_writer_u32le(&w, 0);
    assert(bg_writer_ok(&w));
}

/* ---- stacks ---- */

/* Adds a piece behind the last, which it is joined with where one mapping can serve both. */
static void append(struct memory_map *map, struct memory_piece piece)
{
    if (piece.file_page == MEMORY_ZERO)
        piece.layer = 0;
    struct memory_piece *last = map->count > 0 ? &map->pieces[map->count - 1] : NULL;
    if (last && last->ram_page + last->count == piece.ram_page && last->layer == piece.layer &&
        (last->file_page == MEMORY_ZERO ? piece.file_page == MEMORY_ZERO
                                        : piece.file_page != MEMORY_ZERO &&
                                              last->file_page + last->count == piece.file_page)) {
        last->count += piece.count;
        return;
    }
    map->pieces[map->count++] = piece;
}

/* Takes count pages off the piece's front. */
static void cut_front(struct memory_piece *piece, uint64_t count)
{
    piece->ram_page += count;
    piece->count -= count;
    if (piece->file_page != MEMORY_ZERO)
        piece->file_page += count;
}

/* Lays a layer over what is below. below: used up. */
static int lay_over(struct memory_map *below, const struct memory_layer *layer, size_t index)
{
    /* Each extent of the layer splits at most one piece in two. */
    struct memory_map map = {.count = 0};
    map.pieces = calloc(below->count + 2 * layer->count + 1, sizeof *map.pieces);
    if (!map.pieces)
        return -ENOMEM;
    size_t b = 0;
    for (size_t i = 0; i <= layer->count; i++) {
        bool last = i == layer->count;
        uint64_t start = last ? UINT64_MAX : layer->extents[i].ram_page;
        uint64_t end = last ? UINT64_MAX : start + layer->extents[i].count;
        while (b < below->count && below->pieces[b].ram_page < start) {
            struct memory_piece *piece = &below->pieces[b];
            struct memory_piece head = *piece;
            if (head.count > start - head.ram_page)
                head.count = start - head.ram_page;
            append(&map, head);
            cut_front(piece, head.count);
            if (piece->count == 0)
                b++;
            else
                break; /* the rest begins at start */
        }
        if (last)
            break;
        append(&map, (struct memory_piece){.ram_page = start,
                                           .count = end - start,
                                           .file_page = layer->extents[i].file_page,
                                           .layer = index});
        while (b < below->count && below->pieces[b].ram_page < end) {
            struct memory_piece *piece = &below->pieces[b];
            uint64_t hidden = end - piece->ram_page;
            if (hidden < piece->count) {
                cut_front(piece, hidden);
                break;
            }
            b++;
        }
    }
    memory_map_done(below);
    *below = map;
    return 0;
}

int memory_map_build(const struct memory_layer *layers, size_t count, struct memory_map *ret,
                     struct bg_err *err)
{
    struct memory_map map = {.pieces = NULL};
    for (size_t i = 0; i < count; i++)
        if (lay_over(&map, &layers[i], i) < 0) {
            memory_map_done(&map);
            return bg_err_set(err, -ENOMEM, "out of memory for the map of %zu memory layers",
                              count);
        }
    *ret = map;
    return 0;
}

void memory_map_done(struct memory_map *map)
{
    free(map->pieces);
    *map = (struct memory_map){.pieces = NULL};
}
