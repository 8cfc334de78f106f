#include "guest/kernel_pages.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"

#define PAGE         4096u
#define SEGMENTS_MAX 64u           /* of /proc/kcore; a guest of ours has eight */
#define NOTE_MAX     (64u * 1024u) /* of its notes; 12 KiB */
#define NO_ADDRESS   UINT64_MAX
#define MAP_MASK     0xfffull /* flags in section_mem_map; the array itself is aligned to pages */

/* Page tables of x86-64. */
#define ENTRY_PRESENT 1ull
#define ENTRY_LARGE   0x80ull
#define ENTRY_ADDRESS 0x000ffffffffff000ull

#define CHECKED_BLOCKS 64u          /* that are compared with kpageflags, all over the RAM */
#define FLAG_FREE      (1ull << 10) /* KPF_BUDDY (linux/kernel-page-flags.h) */

struct segment {
    uint64_t virtual, physical, size, offset;
};

struct kernel {
    int kcore_fd;
    struct segment segments[SEGMENTS_MAX]; /* sorted by physical address, those without at last */
    size_t segment_count;
    char note[NOTE_MAX + 1]; /* VMCOREINFO: lines KEY=VALUE */
    uint64_t top_table;      /* virtual */
    unsigned levels;
    uint64_t entry_mask;
    uint64_t array; /* virtual address of the record of page 0 */
};

/* ---- /proc/kcore ---- */

static int by_physical(const void *a, const void *b)
{
    const struct segment *x = a, *y = b;
    return x->physical < y->physical ? -1 : x->physical > y->physical;
}

/* Copies the one note that we want; others are the kernel's about this process. */
static bool take_note(struct kernel *k, const uint8_t *bytes, size_t size)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    while (bg_reader_ok(&in) && in.left > 0) {
        uint32_t name_size = bg_reader_u32le(&in), text_size = bg_reader_u32le(&in);
        (void)bg_reader_u32le(&in); /* its type */
        if (name_size > size || text_size > size)
            return false;
        const uint8_t *name = bg_reader_bytes(&in, (name_size + 3) & ~(size_t)3);
        const uint8_t *text = bg_reader_bytes(&in, text_size);
        if (!name || !text)
            return false;
        (void)bg_reader_bytes(&in, -text_size & 3); /* there is none behind the last one */
        if (name_size == sizeof "VMCOREINFO" && memcmp(name, "VMCOREINFO", name_size) == 0) {
            memcpy(k->note, text, text_size);
            k->note[text_size] = '\0';
            return true;
        }
    }
    return false;
}

static int read_note(struct kernel *k, const Elf64_Phdr *phdr, struct bg_err *err)
{
    if (phdr->p_filesz > NOTE_MAX)
        return bg_err_set(err, -ENOTSUP, "kcore: notes of %llu bytes",
                          (unsigned long long)phdr->p_filesz);
    BG_AUTOFREE uint8_t *bytes = malloc(NOTE_MAX);
    if (!bytes)
        return bg_err_set(err, -ENOMEM, "kcore: out of memory");
    int r = bg_pread_full(k->kcore_fd, bytes, phdr->p_filesz, phdr->p_offset);
    if (r < 0)
        return bg_err_errno(err, r, "kcore");
    if (!take_note(k, bytes, phdr->p_filesz))
        return bg_err_set(err, -ENOTSUP, "kcore has no VMCOREINFO");
    return 0;
}

static int read_segments(struct kernel *k, struct bg_err *err)
{
    Elf64_Ehdr head;
    int r = bg_pread_full(k->kcore_fd, &head, sizeof head, 0);
    for (unsigned i = 0; r == 0 && i < head.e_phnum; i++) {
        Elf64_Phdr phdr;
        r = bg_pread_full(k->kcore_fd, &phdr, sizeof phdr, head.e_phoff + i * sizeof phdr);
        if (r < 0)
            break;
        if (phdr.p_type == PT_NOTE) {
            r = read_note(k, &phdr, err);
            if (r < 0)
                return r;
        } else if (phdr.p_type == PT_LOAD && k->segment_count < SEGMENTS_MAX)
            k->segments[k->segment_count++] = (struct segment){.virtual = phdr.p_vaddr,
                                                               .physical = phdr.p_paddr,
                                                               .size = phdr.p_filesz,
                                                               .offset = phdr.p_offset};
    }
    if (r < 0)
        return bg_err_errno(err, r, "kcore");
    qsort(k->segments, k->segment_count, sizeof *k->segments, by_physical);
    return 0;
}

static int read_virtual(const struct kernel *k, uint64_t address, void *buffer, size_t size)
{
    for (size_t i = 0; i < k->segment_count; i++) {
        const struct segment *s = &k->segments[i];
        if (address >= s->virtual && address - s->virtual < s->size)
            return bg_pread_full(k->kcore_fd, buffer, size, s->offset + (address - s->virtual));
    }
    return -EFAULT;
}

static int read_physical(const struct kernel *k, uint64_t address, void *buffer, size_t size)
{
    for (size_t i = 0; i < k->segment_count; i++) {
        const struct segment *s = &k->segments[i];
        if (s->physical != NO_ADDRESS && address >= s->physical && address - s->physical < s->size)
            return bg_pread_full(k->kcore_fd, buffer, size, s->offset + (address - s->physical));
    }
    return -EFAULT;
}

/* ---- what the note says ---- */

static bool look_up(const struct kernel *k, const char *key, int base, uint64_t *ret)
{
    size_t size = strlen(key);
    for (const char *line = k->note; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, size) != 0 || line[size] != '=')
            continue;
        char *end;
        const char *value = line + size + 1;
        /* Negative numbers come as such. */
        *ret = *value == '-' ? (uint64_t)strtoll(value, &end, base) : strtoull(value, &end, base);
        return end != value && (*end == '\n' || *end == '\0');
    }
    return false;
}

static int read_layout(struct kernel *k, struct bg_page_records *records, struct bg_err *err)
{
    uint64_t size = 0, type = 0, refs = 0, order = 0, free_type = 0, sections = 0, map = 0;
    uint64_t five = 0, encrypted = 0, section = 0, array = 0;
    if (!look_up(k, "SIZE(page)", 10, &size) || !look_up(k, "OFFSET(page._mapcount)", 10, &type) ||
        !look_up(k, "OFFSET(page._refcount)", 10, &refs) ||
        !look_up(k, "OFFSET(page.private)", 10, &order) ||
        !look_up(k, "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", 10, &free_type) ||
        !look_up(k, "SYMBOL(mem_section)", 16, &sections) ||
        !look_up(k, "OFFSET(mem_section.section_mem_map)", 10, &map) ||
        !look_up(k, "SYMBOL(init_top_pgt)", 16, &k->top_table))
        return bg_err_set(err, -ENOTSUP, "VMCOREINFO does not say how pages are recorded");
    if (size > BG_PAGE_RECORD_MAX || size < 16 || (size & (size - 1)) != 0 || type > size ||
        refs > size || order > size)
        return bg_err_set(err, -ENOTSUP, "page records of %llu bytes", (unsigned long long)size);
    (void)look_up(k, "NUMBER(pgtable_l5_enabled)", 10, &five); /* older kernels never have it */
    (void)look_up(k, "NUMBER(sme_mask)", 16, &encrypted);      /* likewise */
    k->levels = five != 0 ? 5 : 4;
    k->entry_mask = ENTRY_ADDRESS & ~encrypted;
    *records = (struct bg_page_records){.record_size = (uint32_t)size,
                                        .type_offset = (uint32_t)type,
                                        .refs_offset = (uint32_t)refs,
                                        .order_offset = (uint32_t)order,
                                        .free_type = (uint32_t)free_type};
    /* The first section's map is that of page 0, and all sections' are one in virtual memory. */
    int r = read_virtual(k, sections, &section, sizeof section);
    if (r == 0)
        r = read_virtual(k, section + map, &array, sizeof array);
    k->array = array & ~MAP_MASK;
    return r < 0 ? bg_err_errno(err, r, "the kernel's memory sections") : 0;
}

/* ---- where the records are ---- */

/* *ret_size: how many bytes from there on are in one piece. */
static int translate(const struct kernel *k, uint64_t address, uint64_t *ret, uint64_t *ret_size)
{
    uint64_t table = 0;
    for (unsigned level = k->levels; level > 0; level--) {
        unsigned shift = 12 + 9 * (level - 1);
        uint64_t entry, index = (address >> shift) & 511, size = 1ull << shift;
        int r = level == k->levels
                    ? read_virtual(k, k->top_table + index * sizeof entry, &entry, sizeof entry)
                    : read_physical(k, table + index * sizeof entry, &entry, sizeof entry);
        if (r < 0)
            return r;
        if (!(entry & ENTRY_PRESENT))
            return -EFAULT;
        table = entry & k->entry_mask;
        if (level == 1 || (level <= 3 && (entry & ENTRY_LARGE))) {
            *ret = (table & ~(size - 1)) + (address & (size - 1));
            *ret_size = size - (address & (size - 1));
            return 0;
        }
    }
    return -EFAULT;
}

/* false: no more spans fit. */
static bool add_span(struct bg_page_records *records, uint64_t page, uint64_t address,
                     uint64_t count)
{
    struct bg_page_span *last =
        records->span_count > 0 ? &records->spans[records->span_count - 1] : NULL;
    if (last && last->first_page + last->count == page &&
        last->address + (uint64_t)last->count * records->record_size == address &&
        count <= UINT32_MAX - last->count) {
        last->count += (uint32_t)count;
        return true;
    }
    if (records->span_count == BG_PAGE_SPANS_MAX)
        return false;
    records->spans[records->span_count++] =
        (struct bg_page_span){.first_page = page, .address = address, .count = (uint32_t)count};
    return true;
}

static int add_segment(const struct kernel *k, const struct segment *s,
                       struct bg_page_records *records, struct bg_err *err)
{
    uint64_t end = (s->physical + s->size) / PAGE;
    for (uint64_t page = (s->physical + PAGE - 1) / PAGE; page < end;) {
        uint64_t address, left;
        int r = translate(k, k->array + page * records->record_size, &address, &left);
        if (r < 0)
            return bg_err_errno(err, r, "the kernel's tables for its page records");
        uint64_t count = left / records->record_size;
        if (count > end - page)
            count = end - page;
        if (!add_span(records, page, address, count))
            return 0;
        page += count;
    }
    return 0;
}

static int find_spans(const struct kernel *k, struct bg_page_records *records, struct bg_err *err)
{
    for (size_t i = 0; i < k->segment_count; i++) {
        const struct segment *s = &k->segments[i];
        bool text = k->top_table >= s->virtual && k->top_table - s->virtual < s->size;
        int r = s->physical == NO_ADDRESS || text ? 0 : add_segment(k, s, records, err);
        if (r < 0)
            return r;
    }
    if (records->span_count == 0)
        return bg_err_set(err, -ENOTSUP, "kcore has no RAM");
    return 0;
}

/* ---- whether we read them as the kernel does ---- */

struct agreement {
    uint64_t both, only_ours, only_kernels; /* pages that are free */
};

static int compare_block(const struct kernel *k, int flags_fd,
                         const struct bg_page_records *records, const struct bg_page_span *span,
                         uint64_t page, struct agreement *sum)
{
    bool ours[BG_PAGE_BLOCK];
    size_t size = (size_t)BG_PAGE_BLOCK * records->record_size;
    BG_AUTOFREE uint8_t *bytes = malloc(size);
    BG_AUTOFREE uint64_t *flags = calloc(BG_PAGE_BLOCK, sizeof *flags);
    if (!bytes || !flags)
        return -ENOMEM;
    int r = read_physical(k, span->address + (page - span->first_page) * records->record_size,
                          bytes, size);
    if (r == 0)
        r = bg_pread_full(flags_fd, flags, BG_PAGE_BLOCK * sizeof *flags, page * sizeof *flags);
    if (r < 0)
        return r;
    bg_page_records_free(records, bytes, ours);
    for (size_t i = 0; i < BG_PAGE_BLOCK; i++) {
        bool kernels = (flags[i] & FLAG_FREE) != 0;
        sum->both += ours[i] && kernels;
        sum->only_ours += ours[i] && !kernels;
        sum->only_kernels += !ours[i] && kernels;
    }
    return 0;
}

static int check(const struct kernel *k, int flags_fd, const struct bg_page_records *records,
                 struct bg_err *err)
{
    struct agreement sum = {.both = 0};
    uint64_t blocks = 0;
    for (uint32_t i = 0; i < records->span_count; i++)
        blocks += records->spans[i].count / BG_PAGE_BLOCK;
    uint64_t step = blocks / CHECKED_BLOCKS + 1;
    for (uint32_t i = 0; i < records->span_count; i++) {
        const struct bg_page_span *span = &records->spans[i];
        uint64_t end = span->first_page + span->count;
        uint64_t page = (span->first_page + BG_PAGE_BLOCK - 1) / BG_PAGE_BLOCK * BG_PAGE_BLOCK;
        for (; page + BG_PAGE_BLOCK <= end; page += step * BG_PAGE_BLOCK) {
            int r = compare_block(k, flags_fd, records, span, page, &sum);
            if (r < 0)
                return bg_err_errno(err, r, "comparing page records with kpageflags");
        }
    }
    /* The guest runs on between the two looks: a few pages may differ. */
    if (sum.both == 0 || (sum.only_ours + sum.only_kernels) > sum.both / 50 + 16)
        return bg_err_set(
            err, -ENOTSUP, "page records and kpageflags agree on %llu free pages, not on %llu",
            (unsigned long long)sum.both, (unsigned long long)(sum.only_ours + sum.only_kernels));
    return 0;
}

int kernel_pages_find(int kcore_fd, int flags_fd, struct bg_page_records *ret, struct bg_err *err)
{
    struct bg_page_records records;
    BG_AUTOFREE struct kernel *k = calloc(1, sizeof *k);
    if (!k)
        return bg_err_set(err, -ENOMEM, "out of memory");
    k->kcore_fd = kcore_fd;
    int r = read_segments(k, err);
    if (r == 0)
        r = read_layout(k, &records, err);
    if (r == 0)
        r = find_spans(k, &records, err);
    if (r == 0)
        r = check(k, flags_fd, &records, err);
    if (r == 0)
        *ret = records;
    return r;
}
