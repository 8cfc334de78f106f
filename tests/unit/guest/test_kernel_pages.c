/* Page records as kernel_pages finds them: in a file that looks like /proc/kcore, of a machine with
 * little RAM, and in one that looks like /proc/kpageflags. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/kernel_pages.h"

#define PAGE      4096ull
#define RAM_PAGES 4096u
#define RAM_SIZE  (RAM_PAGES * PAGE)

/* Virtual addresses, as a kernel has them. */
#define DIRECT 0xffff888000000000ull /* all RAM, one to one */
#define TEXT   0xffffffff81000000ull /* the kernel, which is in RAM at TEXT_AT */
#define ARRAY  0xffffea0000000000ull /* the records */

/* Where things are in RAM. */
#define TEXT_AT    0x100000ull
#define TABLES_AT  0x200000ull /* page tables, one page each */
#define SECTION_AT 0x300000ull
#define RECORDS_AT 0x400000ull /* of the first 2048 pages; the others' are 2 MiB further */
#define RECORD     64u

struct kernel {
    uint8_t *ram;
    char note[2048];
    uint64_t flags[RAM_PAGES];
    bool no_note, five_levels;
    size_t note_cut; /* bytes that the notes are shorter than they say */
    int kcore_fd, flags_fd;
};

static void put64(struct kernel *k, uint64_t at, uint64_t value)
{
    memcpy(k->ram + at, &value, sizeof value);
}

/* Where the record of a page is in RAM: the array is in two pieces. */
static uint64_t record_at(uint64_t page)
{
    return RECORDS_AT + page * RECORD + (page >= 2048 ? 0x200000 : 0);
}

/* A free block of the allocator, or pages in use. */
static void set(struct kernel *k, uint64_t page, unsigned order, bool is_free)
{
    for (uint64_t i = page; i < page + (1u << order); i++) {
        uint32_t words[RECORD / 4] = {0};
        words[10] = i == page && is_free ? order : 0;
        words[12] = i == page && is_free ? 0xffffff7f : 0xffffffff;
        words[13] = !is_free;
        memcpy(k->ram + record_at(i), words, sizeof words);
        k->flags[i] = is_free ? 1 << 10 : 1 << 5;
    }
}

/* Page tables of the array: small pages. The top table is in the kernel, the others in RAM. */
static void make_tables(struct kernel *k)
{
    uint64_t next = TABLES_AT, table = TEXT_AT + 0x1000;
    for (unsigned level = k->five_levels ? 5 : 4; level > 1; level--) {
        put64(k, table + ((ARRAY >> (12 + 9 * (level - 1))) & 511) * 8, next | 0x63);
        table = next;
        next += PAGE;
    }
    for (uint64_t i = 0; i < RAM_PAGES * RECORD / PAGE; i++)
        put64(k, table + i * 8, record_at(i * PAGE / RECORD) | 0x8000000000000063);
}

static void start(struct kernel *k, bool five_levels)
{
    *k = (struct kernel){.ram = calloc(RAM_PAGES, PAGE), .five_levels = five_levels};
    assert_non_null(k->ram);
    for (uint64_t page = 0; page < RAM_PAGES; page++)
        set(k, page, 0, /* is_free= */ false);
    set(k, 2048, 10, true);
    set(k, 1536, 9, true);
    make_tables(k);
    put64(k, SECTION_AT, DIRECT + SECTION_AT + 64); /* the root of the sections */
    put64(k, SECTION_AT + 64, ARRAY | 0xf);         /* the first one */
    (void)snprintf(k->note, sizeof k->note,
                   "OSRELEASE=6.1.0\nPAGESIZE=4096\nSIZE(page)=64\nOFFSET(page.flags)=0\n"
                   "OFFSET(page._refcount)=52\nOFFSET(page._mapcount)=48\n"
                   "OFFSET(page.private)=40\nNUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129\n"
                   "SYMBOL(mem_section)=%llx\nOFFSET(mem_section.section_mem_map)=0\n"
                   "SYMBOL(init_top_pgt)=%llx\nNUMBER(pgtable_l5_enabled)=%d\nKERNELOFFSET=0\n",
                   DIRECT + SECTION_AT, TEXT + 0x1000, five_levels);
}

static int file_of(const void *bytes, size_t size)
{
    int fd = memfd_create("kernel", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, size, 0), (ssize_t)size);
    return fd;
}

static void pad(uint8_t *out, size_t *used, const char *text, size_t size)
{
    memcpy(out + *used, text, size);
    *used = (*used + size + 3) & ~(size_t)3;
}

static size_t make_note(uint8_t *out, const char *name, const char *text)
{
    Elf64_Nhdr head = {.n_namesz = (uint32_t)strlen(name) + 1, .n_descsz = (uint32_t)strlen(text)};
    size_t used = sizeof head;
    memcpy(out, &head, sizeof head);
    pad(out, &used, name, head.n_namesz);
    pad(out, &used, text, head.n_descsz);
    return used;
}

/* The file: head, notes, and the RAM, which all segments are parts of. */
static int find(struct kernel *k, struct bg_page_records *ret, struct bg_err *err)
{
    static const uint64_t ram_at = 4 * PAGE;
    uint8_t head[4 * PAGE] = {0}, *notes = head + PAGE;
    size_t size = make_note(notes, "CORE", "something else");
    if (!k->no_note)
        size += make_note(notes + size, "VMCOREINFO", k->note);
    size -= k->note_cut;
    Elf64_Ehdr ehdr = {.e_phoff = sizeof ehdr, .e_phnum = 5};
    const Elf64_Phdr phdrs[] = {
        {.p_type = PT_NOTE, .p_offset = PAGE, .p_filesz = size},
        {.p_type = PT_LOAD,
         .p_offset = ram_at + TEXT_AT,
         .p_vaddr = TEXT,
         .p_paddr = TEXT_AT,
         .p_filesz = 0x100000},
        {.p_type = PT_LOAD,
         .p_offset = 1ull << 40,
         .p_vaddr = 0xffffc90000000000,
         .p_paddr = UINT64_MAX,
         .p_filesz = 1ull << 40},
        /* RAM with a hole, the upper part first. */
        {.p_type = PT_LOAD,
         .p_offset = ram_at + 0x100000,
         .p_vaddr = DIRECT + 0x100000,
         .p_paddr = 0x100000,
         .p_filesz = RAM_SIZE - 0x100000},
        {.p_type = PT_LOAD,
         .p_offset = ram_at + 0x1000,
         .p_vaddr = DIRECT + 0x1000,
         .p_paddr = 0x1000,
         .p_filesz = 0x9e000},
    };
    memcpy(head, &ehdr, sizeof ehdr);
    memcpy(head + sizeof ehdr, phdrs, sizeof phdrs);
    k->kcore_fd = file_of(head, sizeof head);
    assert_int_equal(pwrite(k->kcore_fd, k->ram, RAM_SIZE, (off_t)ram_at), RAM_SIZE);
    k->flags_fd = file_of(k->flags, sizeof k->flags);
    int r = kernel_pages_find(k->kcore_fd, k->flags_fd, ret, err);
    assert_int_equal(close(k->kcore_fd), 0);
    assert_int_equal(close(k->flags_fd), 0);
    return r;
}

static void finds_the_array_through_the_page_tables(void **state)
{
    (void)state;
    for (int five_levels = 0; five_levels < 2; five_levels++) {
        struct kernel k;
        struct bg_page_records got;
        struct bg_err err;
        start(&k, five_levels);
        if (find(&k, &got, &err) < 0)
            fail_msg("%s", err.text);
        assert_int_equal(got.record_size, 64);
        assert_int_equal(got.free_type, 0xffffff7f);
        assert_int_equal(got.span_count, 3); /* to the hole, behind it, and the second piece */
        static const uint64_t firsts[] = {1, 256, 2048}, counts[] = {158, 1792, 2048};
        for (size_t i = 0; i < 3; i++) {
            assert_int_equal(got.spans[i].first_page, firsts[i]);
            assert_int_equal(got.spans[i].address, record_at(firsts[i]));
            assert_int_equal(got.spans[i].count, counts[i]);
        }
        free(k.ram);
    }
}

static void tells_nothing_if_the_kernel_disagrees(void **state)
{
    (void)state;
    struct kernel k;
    struct bg_page_records got;
    struct bg_err err;
    start(&k, false);
    for (uint64_t page = 2048; page < 2148; page++)
        k.flags[page] = 0;
    assert_int_equal(find(&k, &got, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "kpageflags"));
    /* Nothing is free by either: that is no proof. */
    for (uint64_t page = 0; page < RAM_PAGES; page++)
        set(&k, page, 0, false);
    assert_int_equal(find(&k, &got, &err), -ENOTSUP);
    /* A few that changed meanwhile are none. */
    set(&k, 2048, 10, true);
    k.flags[2048] = k.flags[2049] = 0;
    k.flags[3500] = 1 << 10;
    assert_int_equal(find(&k, &got, &err), 0);
    free(k.ram);
}

static void tells_nothing_of_a_kernel_that_does_not_say(void **state)
{
    (void)state;
    static const char *const lines[] = {"SIZE(page)",
                                        "OFFSET(page._refcount)",
                                        "OFFSET(page._mapcount)",
                                        "OFFSET(page.private)",
                                        "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)",
                                        "SYMBOL(mem_section)",
                                        "OFFSET(mem_section.section_mem_map)",
                                        "SYMBOL(init_top_pgt)"};
    struct kernel k;
    struct bg_page_records got;
    struct bg_err err;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        start(&k, false);
        char *at = strstr(k.note, lines[i]);
        assert_non_null(at);
        *at = 'X';
        assert_int_equal(find(&k, &got, &err), -ENOTSUP);
        free(k.ram);
    }
    start(&k, false);
    k.no_note = true;
    assert_int_equal(find(&k, &got, &err), -ENOTSUP);
    k.no_note = false;
    k.note_cut = 4;
    assert_int_equal(find(&k, &got, &err), -ENOTSUP);
    k.note_cut = 0;
    assert_int_equal(find(&k, &got, &err), 0);
    memcpy(strstr(k.note, "(page)=64"), "(page)=65", 9);
    assert_int_equal(find(&k, &got, &err), -ENOTSUP);
    memcpy(strstr(k.note, "(page)=65"), "(page)=64", 9);
    put64(&k, TABLES_AT, 0); /* a table is not there */
    assert_int_equal(find(&k, &got, &err), -EFAULT);
    free(k.ram);
    assert_true(kernel_pages_find(-1, -1, &got, &err) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_the_array_through_the_page_tables),
        cmocka_unit_test(tells_nothing_if_the_kernel_disagrees),
        cmocka_unit_test(tells_nothing_of_a_kernel_that_does_not_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
