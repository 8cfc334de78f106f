#include "host/supervisor/memory_save.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>

#include "common/limits.h"
#include "common/io.h"

#define BATCH_PAGES 256u        /* 1 MiB: stays in the cache between reading and writing */
#define AHEAD       (32u << 20) /* bytes that the file system gives at once */
#define FILL_SHARE  10u         /* clean pages may be one in so many of the data */
#define DEAD_MIN    8u /* dead pages that are worth two extents, each a mapping in every child */

static uint64_t now_us(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail with this clock */
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static bool page_is_zero(const uint8_t *page)
{
    const uint64_t *words = (const void *)page;
    /* Most pages say no at once. */
    for (size_t i = 0; i < MEMORY_PAGE_SIZE / sizeof *words; i += 8)
        if ((words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] | words[i + 5] |
             words[i + 6] | words[i + 7]) != 0)
            return false;
    return true;
}

/* ---- writing a layer ---- */

struct writer {
    int fd;
    uint64_t ram_size;
    struct memory_extent *extents; /* owned */
    size_t count, room;
    size_t extents_max;
    uint64_t next_file; /* pages in the file so far, the header's too */
    uint64_t reserved;  /* bytes that the file system has given; UINT64_MAX: it does not */
};

static int write_at(int fd, const void *bytes, size_t size, uint64_t offset)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = pwrite(fd, (const uint8_t *)bytes + done, size - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (size_t)n;
    }
    return 0;
}

/* The old header goes first: until the new one is there this is no layer. */
static int writer_init(struct writer *w, int fd, uint64_t ram_size, size_t extents_max,
                       struct bg_err *err)
{
    assert(extents_max == 0 || extents_max >= 2);
    *w = (struct writer){.fd = fd,
                         .ram_size = ram_size,
                         .extents_max = extents_max > 0 ? extents_max : BG_MEMORY_EXTENTS_MAX,
                         .next_file = 1};
    if (ftruncate(fd, 0) < 0)
        return bg_err_errno(err, -errno, "memory layer");
    return 0;
}

/* Notes pages of either kind, whose data, if any, are the next in the file. */
static int writer_note(struct writer *w, uint64_t ram_page, uint64_t count, bool zero,
                       struct bg_err *err)
{
    struct memory_extent *last = w->count > 0 ? &w->extents[w->count - 1] : NULL;
    if (last && last->ram_page + last->count == ram_page &&
        (last->file_page == MEMORY_ZERO) == zero && count <= UINT32_MAX - last->count) {
        last->count += (uint32_t)count;
        w->next_file += zero ? 0 : count;
        return 0;
    }
    if (w->count == w->room) {
        size_t room = w->room > 0 ? 2 * w->room : 1024;
        struct memory_extent *extents = reallocarray(w->extents, room, sizeof *extents);
        if (!extents)
            return bg_err_set(err, -ENOMEM, "memory layer: out of memory for %zu extents", room);
        w->extents = extents;
        w->room = room;
    }
    assert(count > 0 && count <= UINT32_MAX);
    w->extents[w->count++] = (struct memory_extent){.ram_page = ram_page,
                                                    .file_page = zero ? MEMORY_ZERO : w->next_file,
                                                    .count = (uint32_t)count};
    w->next_file += zero ? 0 : count;
    return 0;
}

/* Says what failed, and what a person can do about the commonest cause. */
static int write_failed(int code, struct bg_err *err)
{
    if (code == -ENOSPC || code == -EDQUOT)
        return bg_err_set(err, code,
                          "memory layer: %s: free space, or put BELLGLASS_HOME where there is some",
                          strerror(-code));
    return bg_err_errno(err, code, "memory layer: cannot write");
}

static uint64_t writer_size(const struct writer *w)
{
    return w->next_file * MEMORY_PAGE_SIZE + w->count * MEMORY_EXTENT_SIZE;
}

/* Has the file system find its blocks for many pages at once: that takes it two fifths of the time
 * that finding them write by write does, and the guest stands still meanwhile. end: of what will
 * be written next. */
static void reserve(struct writer *w, uint64_t end)
{
    if (end <= w->reserved)
        return;
    uint64_t more = end > w->reserved + AHEAD ? end - w->reserved : AHEAD;
    if (fallocate(w->fd, FALLOC_FL_KEEP_SIZE, (off_t)w->reserved, (off_t)more) < 0)
        w->reserved = UINT64_MAX; /* it cannot, or is nearly full: writing tells */
    else
        w->reserved += more;
}

/* Table, then the header that makes it a layer. */
static int writer_finish(struct writer *w, struct bg_err *err)
{
    uint8_t page[MEMORY_PAGE_SIZE];
    size_t size = w->count * MEMORY_EXTENT_SIZE;
    struct memory_head head = {.ram_size = w->ram_size,
                               .data_pages = w->next_file - 1,
                               .table_offset = w->next_file * MEMORY_PAGE_SIZE,
                               .count = w->count};
    if (w->count > BG_MEMORY_EXTENTS_MAX)
        return bg_err_set(err, -E2BIG, "memory layer: %zu extents", w->count);
    BG_AUTOFREE uint8_t *table = malloc(size + 1);
    if (!table)
        return bg_err_set(err, -ENOMEM, "memory layer: out of memory for %zu extents", w->count);
    for (size_t i = 0; i < w->count; i++)
        memory_layer_put_extent(&w->extents[i], table + i * MEMORY_EXTENT_SIZE);
    int r = write_at(w->fd, table, size, head.table_offset);
    memory_layer_put_head(&head, table, size, page);
    if (r == 0)
        r = write_at(w->fd, page, sizeof page, 0);
    /* Gives back what was reserved behind the end. */
    if (r == 0 && w->reserved > 0 && ftruncate(w->fd, (off_t)writer_size(w)) < 0)
        r = -errno;
    return r < 0 ? write_failed(r, err) : 0;
}

static void writer_done(struct writer *w, int result)
{
    /* Nothing reads what is left of a failed one, but it may be what fills the disk. */
    if (result < 0 && ftruncate(w->fd, 0) < 0)
        errno = 0; /* it has no header: the reader will say so */
    free(w->extents);
}

/* ---- which pages ---- */

struct run {
    uint64_t page, count;
    bool dead; /* the guest does not use them */
};

struct runs {
    struct run *list; /* owned; sorted, apart from each other */
    size_t count, room;
};

/* As it is: what stands before it may be of the other kind. */
static int append_run(struct runs *runs, struct run run, struct bg_err *err)
{
    if (runs->count == runs->room) {
        size_t room = runs->room > 0 ? 2 * runs->room : 1024;
        struct run *list = reallocarray(runs->list, room, sizeof *list);
        if (!list)
            return bg_err_set(err, -ENOMEM, "memory layer: out of memory for %zu runs", room);
        runs->list = list;
        runs->room = room;
    }
    runs->list[runs->count++] = run;
    return 0;
}

static int runs_add(struct runs *runs, uint64_t page, uint64_t count, struct bg_err *err)
{
    struct run *last = runs->count > 0 ? &runs->list[runs->count - 1] : NULL;
    if (last && last->page + last->count == page) {
        last->count += count;
        return 0;
    }
    return append_run(runs, (struct run){.page = page, .count = count}, err);
}

/* linux/fs.h since 6.7; own names, since Debian 12's headers do not have it. */
struct scan_region {
    uint64_t start, end, categories;
};
struct scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN          _IOWR('f', 16, struct scan_arg)
#define SCAN_FILE     (1u << 2)
#define SCAN_PRESENT  (1u << 3)
#define SCAN_SWAPPED  (1u << 4)
#define SCAN_PFN_ZERO (1u << 5)
#define SCAN_REGIONS  4096u

/* The kernel looks for them. Errors: -ENOTTY or -EINVAL it cannot. */
static int scan_by_kernel(const struct memory_save_opts *opts, struct runs *runs,
                          struct bg_err *err)
{
    uint64_t end = opts->ram_address + opts->ram_size;
    BG_AUTOFREE struct scan_region *regions = calloc(SCAN_REGIONS, sizeof *regions);
    if (!regions)
        return bg_err_set(err, -ENOMEM, "memory layer: out of memory");
    for (uint64_t at = opts->ram_address; at < end;) {
        struct scan_arg arg = {.size = sizeof arg,
                               .start = at,
                               .end = end,
                               .vec = (uint64_t)(uintptr_t)regions,
                               .vec_len = SCAN_REGIONS,
                               /* A zero page has been read, never written. */
                               .category_inverted = SCAN_FILE | SCAN_PFN_ZERO,
                               .category_mask = SCAN_FILE | SCAN_PFN_ZERO,
                               .category_anyof_mask = SCAN_PRESENT | SCAN_SWAPPED,
                               .return_mask = SCAN_FILE | SCAN_PFN_ZERO};
        int n = ioctl(opts->pagemap_fd, SCAN, &arg);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 || arg.walk_end <= at || arg.walk_end > end)
            return n < 0 ? -errno : -EINVAL;
        for (int i = 0; i < n; i++) {
            int r = runs_add(runs, (regions[i].start - opts->ram_address) / MEMORY_PAGE_SIZE,
                             (regions[i].end - regions[i].start) / MEMORY_PAGE_SIZE, err);
            if (r < 0)
                return r;
        }
        /* Linux 6.18 leaves walk_end where its own small buffer was full first, if later rounds
         * came to the end: what has been told must not be told again. */
        at = arg.walk_end;
        if (n > 0 && regions[n - 1].end > at)
            at = regions[n - 1].end;
    }
    return 0;
}

#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_SWAPPED (1ull << 62)
#define PAGEMAP_FILE    (1ull << 61)
#define PAGEMAP_ENTRIES 65536u

/* The same by reading every page's entry. Zero pages that were only read cannot be told from
 * written ones here; they become extents without data. */
static int scan_by_reading(const struct memory_save_opts *opts, struct runs *runs,
                           struct bg_err *err)
{
    uint64_t first = opts->ram_address / MEMORY_PAGE_SIZE;
    uint64_t pages = opts->ram_size / MEMORY_PAGE_SIZE;
    BG_AUTOFREE uint64_t *entries = calloc(PAGEMAP_ENTRIES, sizeof *entries);
    if (!entries)
        return bg_err_set(err, -ENOMEM, "memory layer: out of memory");
    for (uint64_t page = 0; page < pages;) {
        uint64_t count = pages - page < PAGEMAP_ENTRIES ? pages - page : PAGEMAP_ENTRIES;
        int r = bg_pread_full(opts->pagemap_fd, entries, (size_t)count * sizeof *entries,
                              (first + page) * sizeof *entries);
        if (r < 0) /* no data: QEMU is gone, and its memory with it */
            return bg_err_errno(err, r == -ENODATA ? -ESRCH : r, "memory layer: QEMU's pagemap");
        for (uint64_t i = 0; i < count; i++)
            if ((entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) &&
                !(entries[i] & PAGEMAP_FILE)) {
                r = runs_add(runs, page + i, 1, err);
                if (r < 0)
                    return r;
            }
        page += count;
    }
    return 0;
}

static int scan_private(const struct memory_save_opts *opts, struct runs *runs, struct bg_err *err)
{
    int r = scan_by_kernel(opts, runs, err);
    if (r == -ENOTTY || r == -EINVAL) {
        runs->count = 0;
        r = scan_by_reading(opts, runs, err);
    } else if (r < 0 && r != -ENOMEM)
        r = bg_err_errno(err, r, "memory layer: QEMU's pagemap");
    return r;
}

/* What a file of shared memory has data for. */
static int scan_shared(const struct memory_save_opts *opts, struct runs *runs, struct bg_err *err)
{
    for (off_t at = 0, size = (off_t)opts->ram_size; at < size;) {
        off_t data = lseek(opts->shared_fd, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break;
        off_t hole = data < 0 ? -1 : lseek(opts->shared_fd, data, SEEK_HOLE);
        if (hole < 0)
            return bg_err_errno(err, -errno, "memory layer: the guest's memory");
        if (data >= size)
            break;
        uint64_t first = (uint64_t)data / MEMORY_PAGE_SIZE;
        uint64_t end =
            ((uint64_t)(hole < size ? hole : size) + MEMORY_PAGE_SIZE - 1) / MEMORY_PAGE_SIZE;
        int r = runs_add(runs, first, end - first, err);
        if (r < 0)
            return r;
        at = (off_t)(end * MEMORY_PAGE_SIZE);
    }
    return 0;
}

static uint64_t runs_pages(const struct runs *runs)
{
    uint64_t pages = 0;
    for (size_t i = 0; i < runs->count; i++)
        pages += runs->list[i].count;
    return pages;
}

/* Adds the pages that the map has. */
static int runs_unite(struct runs *runs, const struct memory_map *map, struct bg_err *err)
{
    struct runs all = {.count = 0};
    int r = 0;
    size_t a = 0, b = 0;
    uint64_t done = 0; /* pages below this have been looked at */
    while (r == 0 && (a < runs->count || b < map->count)) {
        struct run next;
        if (b == map->count || (a < runs->count && runs->list[a].page <= map->pieces[b].ram_page))
            next = runs->list[a++];
        else {
            next = (struct run){.page = map->pieces[b].ram_page, .count = map->pieces[b].count};
            b++;
        }
        uint64_t end = next.page + next.count;
        if (end <= done)
            continue;
        if (next.page < done)
            next.page = done;
        r = runs_add(&all, next.page, end - next.page, err);
        done = end;
    }
    free(runs->list);
    *runs = all;
    return r;
}

/* Joins runs that at most gap pages are between. */
static void runs_join(struct runs *runs, uint64_t gap)
{
    size_t kept = 0;
    for (size_t i = 0; i < runs->count; i++) {
        struct run *last = kept > 0 ? &runs->list[kept - 1] : NULL;
        struct run run = runs->list[i];
        if (last && run.page - (last->page + last->count) <= gap)
            last->count = run.page + run.count - last->page;
        else
            runs->list[kept++] = run;
    }
    runs->count = kept;
}

/* ---- dead pages ---- */

static int read_ram(void *context, uint64_t offset, void *buffer, size_t size)
{
    const struct memory_save_opts *opts = context;
    if (opts->shared_fd >= 0)
        return bg_pread_full(opts->shared_fd, buffer, size, offset);
    struct iovec local = {.iov_base = buffer, .iov_len = size};
    struct iovec remote = {.iov_base = (void *)(uintptr_t)(opts->ram_address + offset),
                           .iov_len = size};
    ssize_t n;
    do
        n = process_vm_readv(opts->qemu_pid, &local, 1, &remote, 1, 0);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)size ? 0 : -EFAULT;
}

/* Splits one run into what is used and what is dead, up to runs_max of them. */
static int split_run(struct runs *to, struct run run, struct dead_pages *dead, size_t runs_max,
                     struct bg_err *err)
{
    uint64_t end = run.page + run.count, used = run.page; /* from here on nothing is appended yet */
    for (uint64_t page = run.page; page < end && to->count < runs_max;) {
        uint64_t first = page;
        while (page < end && dead_pages_has(dead, page))
            page++;
        if (page - first >= DEAD_MIN) {
            int r = 0;
            if (used < first)
                r = append_run(to, (struct run){.page = used, .count = first - used}, err);
            if (r == 0)
                r = append_run(to, (struct run){.page = first, .count = page - first, .dead = true},
                               err);
            if (r < 0)
                return r;
            used = page;
        }
        page += page == first;
    }
    return used < end ? append_run(to, (struct run){.page = used, .count = end - used}, err) : 0;
}

static int find_dead(const struct memory_save_opts *opts, struct runs *runs, size_t runs_max,
                     struct bg_err *err)
{
    struct runs all = {.count = 0};
    struct dead_pages *dead = NULL;
    const struct dead_pages_opts dead_opts = {.records = opts->records,
                                              .regions = opts->regions,
                                              .region_count = opts->region_count,
                                              .ram_address = opts->ram_address,
                                              .ram_size = opts->ram_size,
                                              .read = read_ram,
                                              .context = (void *)(uintptr_t)opts};
    int r = dead_pages_new(&dead_opts, &dead, err);
    for (size_t i = 0; r == 0 && i < runs->count; i++)
        r = split_run(&all, runs->list[i], dead, runs_max, err);
    dead_pages_free(dead);
    free(runs->list);
    *runs = all;
    return r;
}

/* ---- copying ---- */

enum page_kind {
    PAGE_DATA,
    PAGE_ZERO,
    PAGE_SAME, /* what is below has just that */
    PAGE_GAP   /* between two runs; not dirty */
};

struct saver {
    const struct memory_save_opts *opts;
    struct memory_save_stats *stats;
    struct writer writer;
    struct memory_map previous;
    size_t previous_at;    /* the first piece that is not wholly behind us */
    uint64_t data_pages;   /* dirty ones written so far */
    uint8_t *now, *before; /* owned; BATCH_PAGES pages each */
    /* The batch: pages of one or more runs, in their order, and single pages between them. */
    struct run batch[BATCH_PAGES];
    bool gaps[BATCH_PAGES];
    size_t batch_count, batch_pages;
    /* Of its pages, one by one. */
    enum page_kind kinds[BATCH_PAGES];
    uint64_t pages[BATCH_PAGES];
};

static int read_private(struct saver *s, struct bg_err *err)
{
    struct iovec remote[BATCH_PAGES];
    size_t size = s->batch_pages * MEMORY_PAGE_SIZE;
    struct iovec local = {.iov_base = s->now, .iov_len = size};
    for (size_t i = 0; i < s->batch_count; i++) {
        uint64_t address = s->opts->ram_address + s->batch[i].page * MEMORY_PAGE_SIZE;
        remote[i] = (struct iovec){.iov_base = (void *)(uintptr_t)address,
                                   .iov_len = (size_t)s->batch[i].count * MEMORY_PAGE_SIZE};
    }
    ssize_t n;
    do
        n = process_vm_readv(s->opts->qemu_pid, &local, 1, remote, s->batch_count, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return bg_err_errno(err, -errno, "memory layer: reading the guest's memory in QEMU");
    if ((size_t)n != size)
        return bg_err_set(err, -EFAULT, "memory layer: QEMU has %zd of %zu bytes of guest memory",
                          n, size);
    return 0;
}

static int read_shared(struct saver *s, struct bg_err *err)
{
    uint8_t *to = s->now;
    for (size_t i = 0; i < s->batch_count; i++) {
        size_t size = (size_t)s->batch[i].count * MEMORY_PAGE_SIZE;
        int r = bg_pread_full(s->opts->shared_fd, to, size, s->batch[i].page * MEMORY_PAGE_SIZE);
        if (r < 0)
            return bg_err_errno(err, r, "memory layer: reading the guest's memory");
        to += size;
    }
    return 0;
}

/* Judges count pages from page in RAM on, at index in the batch, all of them in one piece below. */
static int judge_over(struct saver *s, const struct memory_piece *piece, uint64_t page,
                      size_t index, size_t count, struct bg_err *err)
{
    bool zero = piece->file_page == MEMORY_ZERO;
    if (!zero) {
        uint64_t at = piece->file_page + (page - piece->ram_page);
        int r = bg_pread_full(s->opts->previous[piece->layer].fd, s->before,
                              count * MEMORY_PAGE_SIZE, at * MEMORY_PAGE_SIZE);
        if (r < 0)
            return bg_err_errno(err, r, "memory layer: reading layer %zu below it", piece->layer);
    }
    for (size_t i = 0; i < count; i++) {
        const uint8_t *now = s->now + (index + i) * MEMORY_PAGE_SIZE;
        const uint8_t *before = s->before + i * MEMORY_PAGE_SIZE;
        bool now_zero = page_is_zero(now);
        bool same = zero ? now_zero : memcmp(now, before, MEMORY_PAGE_SIZE) == 0;
        s->kinds[index + i] = same ? PAGE_SAME : now_zero ? PAGE_ZERO : PAGE_DATA;
    }
    return 0;
}

/* Judges pages that no layer below is known to have. */
static void judge_alone(struct saver *s, size_t index, size_t count)
{
    /* What is below a shared guest's layers is zeros. */
    enum page_kind zero = s->opts->shared_fd >= 0 ? PAGE_SAME : PAGE_ZERO;
    for (size_t i = index; i < index + count; i++)
        s->kinds[i] = page_is_zero(s->now + i * MEMORY_PAGE_SIZE) ? zero : PAGE_DATA;
}

/* What is below this page, and until where; pages are asked for in their order. *ret: the piece
 * that has it, NULL: none is known to. */
static uint64_t below(struct saver *s, uint64_t page, uint64_t end, const struct memory_piece **ret)
{
    const struct memory_map *map = &s->previous;
    while (s->previous_at < map->count &&
           map->pieces[s->previous_at].ram_page + map->pieces[s->previous_at].count <= page)
        s->previous_at++;
    const struct memory_piece *piece =
        s->previous_at < map->count ? &map->pieces[s->previous_at] : NULL;
    bool over = piece && piece->ram_page <= page;
    uint64_t stop = !piece ? end : over ? piece->ram_page + piece->count : piece->ram_page;
    *ret = over ? piece : NULL;
    return stop < end ? stop : end;
}

static int judge_run(struct saver *s, const struct run *run, size_t index, struct bg_err *err)
{
    for (uint64_t page = run->page, end = run->page + run->count; page < end;) {
        const struct memory_piece *piece;
        size_t count = (size_t)(below(s, page, end, &piece) - page);
        int r = 0;
        if (piece)
            r = judge_over(s, piece, page, index, count, err);
        else
            judge_alone(s, index, count);
        if (r < 0)
            return r;
        index += count;
        page += count;
    }
    return 0;
}

/* Whether a page that need not be written is, since it then saves an extent. */
static bool fills(const struct saver *s, size_t i)
{
    return i > 0 && i + 1 < s->batch_pages && s->kinds[i - 1] == PAGE_DATA &&
           s->kinds[i + 1] == PAGE_DATA && s->pages[i - 1] + 1 == s->pages[i] &&
           s->pages[i] + 1 == s->pages[i + 1] &&
           (s->stats->filled_pages + 1) * FILL_SHARE <= s->data_pages;
}

static int write_batch(struct saver *s, struct bg_err *err)
{
    struct writer *w = &s->writer;
    uint64_t first = w->next_file;
    size_t kept = 0;
    for (size_t i = 0; i < s->batch_pages; i++) {
        enum page_kind kind = s->kinds[i];
        /* Too many extents: what is contiguous becomes one, whatever is in it. */
        bool coarse = w->count >= w->extents_max / 2;
        bool fill = (kind == PAGE_SAME || kind == PAGE_GAP) && (coarse || fills(s, i));
        s->data_pages += kind == PAGE_DATA;
        s->stats->zero_pages += kind == PAGE_ZERO;
        s->stats->same_pages += kind == PAGE_SAME;
        s->stats->filled_pages += fill;
        int r = 0;
        if (kind == PAGE_DATA || fill || (kind == PAGE_ZERO && coarse)) {
            if (kept != i)
                memcpy(s->now + kept * MEMORY_PAGE_SIZE, s->now + i * MEMORY_PAGE_SIZE,
                       MEMORY_PAGE_SIZE);
            kept++;
            r = writer_note(w, s->pages[i], 1, /* zero= */ false, err);
        } else if (kind == PAGE_ZERO)
            r = writer_note(w, s->pages[i], 1, /* zero= */ true, err);
        if (r < 0)
            return r;
    }
    if (kept > 0)
        reserve(w, (first + kept) * MEMORY_PAGE_SIZE);
    int r = write_at(w->fd, s->now, kept * MEMORY_PAGE_SIZE, first * MEMORY_PAGE_SIZE);
    return r < 0 ? write_failed(r, err) : 0;
}

static int flush_batch(struct saver *s, struct bg_err *err)
{
    int r = s->opts->shared_fd >= 0 ? read_shared(s, err) : read_private(s, err);
    size_t index = 0;
    for (size_t i = 0; r == 0 && i < s->batch_count; i++) {
        const struct run *run = &s->batch[i];
        for (uint64_t k = 0; k < run->count; k++)
            s->pages[index + k] = run->page + k;
        if (s->gaps[i])
            s->kinds[index] = PAGE_GAP;
        else
            r = judge_run(s, run, index, err);
        index += (size_t)run->count;
    }
    if (r == 0)
        r = write_batch(s, err);
    s->batch_count = s->batch_pages = 0;
    return r;
}

static void batch_add(struct saver *s, uint64_t page, uint64_t count, bool gap)
{
    assert(s->batch_count < BATCH_PAGES && s->batch_pages + count <= BATCH_PAGES);
    s->gaps[s->batch_count] = gap;
    s->batch[s->batch_count++] = (struct run){.page = page, .count = count};
    s->batch_pages += (size_t)count;
}

/* Dead pages are zeros. Whatever was below is not: what a guest is not shown any more must not come
 * back, and a kernel that clears pages when they are freed counts on zeros. */
static int note_dead(struct saver *s, const struct run *run, struct bg_err *err)
{
    s->stats->dead_pages += run->count;
    for (uint64_t page = run->page, end = run->page + run->count; page < end;) {
        const struct memory_piece *piece;
        uint64_t stop = below(s, page, end, &piece);
        /* What is below a shared guest's layers is zeros. */
        bool same = piece ? piece->file_page == MEMORY_ZERO : s->opts->shared_fd >= 0;
        int r = same ? 0 : writer_note(&s->writer, page, stop - page, /* zero= */ true, err);
        if (r < 0)
            return r;
        page = stop;
    }
    return 0;
}

static int copy_runs(struct saver *s, const struct runs *runs, struct bg_err *err)
{
    for (size_t i = 0; i < runs->count; i++) {
        struct run run = runs->list[i];
        if (run.dead) {
            int r = s->batch_pages > 0 ? flush_batch(s, err) : 0;
            if (r == 0)
                r = note_dead(s, &run, err);
            if (r < 0)
                return r;
            continue;
        }
        const struct run *last = s->batch_count > 0 ? &s->batch[s->batch_count - 1] : NULL;
        if (last && last->page + last->count + 1 == run.page && s->batch_pages + 2 <= BATCH_PAGES)
            batch_add(s, run.page - 1, 1, /* gap= */ true);
        while (run.count > 0) {
            uint64_t count = BATCH_PAGES - s->batch_pages;
            if (count > run.count)
                count = run.count;
            batch_add(s, run.page, count, /* gap= */ false);
            run.page += count;
            run.count -= count;
            int r = s->batch_pages == BATCH_PAGES ? flush_batch(s, err) : 0;
            if (r < 0)
                return r;
        }
    }
    return s->batch_pages > 0 ? flush_batch(s, err) : 0;
}

/* pagemap of a process that has ended shows no pages; that must not be taken for a guest that has
 * written none. Its memory does not come back, so what is there after the copying was there
 * throughout. */
static int check_alive(const struct memory_save_opts *opts, struct bg_err *err)
{
    uint8_t byte;
    struct iovec local = {.iov_base = &byte, .iov_len = 1};
    struct iovec remote = {.iov_base = (void *)(uintptr_t)opts->ram_address, .iov_len = 1};
    if (opts->shared_fd >= 0 || process_vm_readv(opts->qemu_pid, &local, 1, &remote, 1, 0) == 1)
        return 0;
    return bg_err_errno(err, -errno, "memory layer: reading the guest's memory in QEMU");
}

/* Finds the pages that the layer must have. */
static int find_pages(struct saver *s, struct runs *runs, struct bg_err *err)
{
    const struct memory_save_opts *opts = s->opts;
    struct memory_map folded = {.count = 0};
    int r = opts->shared_fd >= 0 ? scan_shared(opts, runs, err) : scan_private(opts, runs, err);
    if (r == 0 && opts->fold_count > 0)
        r = memory_map_build(opts->fold, opts->fold_count, &folded, err);
    if (r == 0 && folded.count > 0)
        r = runs_unite(runs, &folded, err);
    memory_map_done(&folded);
    if (r < 0)
        return r;
    s->stats->dirty_pages = runs_pages(runs);
    for (uint64_t gap = 1; runs->count > s->writer.extents_max / 2; gap *= 2)
        runs_join(runs, gap);
    s->stats->filled_pages = runs_pages(runs) - s->stats->dirty_pages;
    return opts->records ? find_dead(opts, runs, s->writer.extents_max / 2, err) : 0;
}

int memory_save(const struct memory_save_opts *opts, struct memory_save_stats *ret,
                struct bg_err *err)
{
    struct memory_save_stats stats = {0};
    struct runs runs = {.count = 0};
    uint64_t start = now_us();
    assert(opts->ram_size > 0 && opts->ram_size % MEMORY_PAGE_SIZE == 0 &&
           opts->ram_address % MEMORY_PAGE_SIZE == 0);
    BG_AUTOFREE struct saver *s = calloc(1, sizeof *s);
    BG_AUTOFREE uint8_t *now = malloc(BATCH_PAGES * MEMORY_PAGE_SIZE);
    BG_AUTOFREE uint8_t *before = malloc(BATCH_PAGES * MEMORY_PAGE_SIZE);
    if (!s || !now || !before)
        return bg_err_set(err, -ENOMEM, "memory layer: out of memory");
    s->opts = opts;
    s->stats = &stats;
    s->now = now;
    s->before = before;
    int r = writer_init(&s->writer, opts->out_fd, opts->ram_size, opts->extents_max, err);
    if (r < 0)
        return r;
    r = memory_map_build(opts->previous, opts->previous_count, &s->previous, err);
    if (r == 0)
        r = find_pages(s, &runs, err);
    stats.scan_us = now_us() - start;
    start = now_us();
    if (r == 0)
        r = copy_runs(s, &runs, err);
    if (r == 0)
        r = check_alive(opts, err);
    if (r == 0)
        r = writer_finish(&s->writer, err);
    stats.copy_us = now_us() - start;
    stats.written_bytes = writer_size(&s->writer);
    stats.extents = s->writer.count;
    writer_done(&s->writer, r);
    memory_map_done(&s->previous);
    free(runs.list);
    if (r == 0)
        *ret = stats;
    return r;
}

/* ---- several layers into one ---- */

/* Copies one piece's data. */
static int copy_piece(struct writer *w, const struct memory_layer *from,
                      const struct memory_piece *piece, uint8_t *buffer, struct bg_err *err)
{
    for (uint64_t done = 0; done < piece->count;) {
        uint64_t count = piece->count - done < BATCH_PAGES ? piece->count - done : BATCH_PAGES;
        size_t size = (size_t)count * MEMORY_PAGE_SIZE;
        uint64_t at = w->next_file * MEMORY_PAGE_SIZE;
        int r = bg_pread_full(from->fd, buffer, size, (piece->file_page + done) * MEMORY_PAGE_SIZE);
        if (r < 0)
            return bg_err_errno(err, r, "memory layer %zu of those to merge", piece->layer + 1);
        r = write_at(w->fd, buffer, size, at);
        if (r < 0)
            return write_failed(r, err);
        r = writer_note(w, piece->ram_page + done, count, /* zero= */ false, err);
        if (r < 0)
            return r;
        done += count;
    }
    return 0;
}

static int copy_map(struct writer *w, const struct memory_layer *layers,
                    const struct memory_map *map, struct memory_save_stats *stats,
                    struct bg_err *err)
{
    BG_AUTOFREE uint8_t *buffer = malloc(BATCH_PAGES * MEMORY_PAGE_SIZE);
    if (!buffer)
        return bg_err_set(err, -ENOMEM, "memory layer: out of memory");
    int r = 0;
    for (size_t i = 0; r == 0 && i < map->count; i++) {
        const struct memory_piece *piece = &map->pieces[i];
        stats->dirty_pages += piece->count;
        if (piece->file_page == MEMORY_ZERO) {
            stats->zero_pages += piece->count;
            r = writer_note(w, piece->ram_page, piece->count, /* zero= */ true, err);
        } else
            r = copy_piece(w, &layers[piece->layer], piece, buffer, err);
    }
    return r;
}

int memory_flatten(const int *fds, size_t count, uint64_t ram_size, int out_fd,
                   struct memory_save_stats *ret, struct bg_err *err)
{
    struct memory_layer layers[MEMORY_FLATTEN_MAX];
    struct memory_save_stats stats = {0};
    struct memory_map map = {.count = 0};
    struct writer w;
    assert(count <= MEMORY_FLATTEN_MAX);
    uint64_t start = now_us();
    size_t opened = 0;
    int r = 0;
    for (; r == 0 && opened < count; opened += r == 0) {
        r = memory_layer_open(fds[opened], ram_size, &layers[opened], err);
        if (r < 0)
            (void)bg_err_prefix(err, "memory layer %zu of those to merge", opened + 1);
    }
    if (r == 0)
        r = memory_map_build(layers, count, &map, err);
    stats.scan_us = now_us() - start;
    start = now_us();
    if (r == 0)
        r = writer_init(&w, out_fd, ram_size, /* extents_max= */ 0, err);
    if (r == 0) {
        r = copy_map(&w, layers, &map, &stats, err);
        if (r == 0)
            r = writer_finish(&w, err);
        stats.written_bytes = writer_size(&w);
        stats.extents = w.count;
        writer_done(&w, r);
    }
    stats.copy_us = now_us() - start;
    memory_map_done(&map);
    for (size_t i = 0; i < opened; i++)
        memory_layer_done(&layers[i]);
    if (r == 0)
        *ret = stats;
    return r;
}
