/* Maps guest memory as QEMU does (util/mmap-alloc.c of 7.2: a range is reserved, then the file is
 * mapped over it) and writes what is there to stdout, then how many mappings it took. Started with
 * the library that is loaded into QEMU. Arguments: size, "private" or "shared". */
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

/* Own loop: this is no part of the programs' libraries. */
static int put(const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        ssize_t n = write(1, bytes, size);
        if (n <= 0)
            return -1;
        bytes += n;
        size -= (size_t)n;
    }
    return 0;
}

static uint64_t count_maps(void)
{
    char text[4096];
    uint64_t lines = 0;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    for (ssize_t n; (n = read(fd, text, sizeof text)) > 0;)
        for (ssize_t i = 0; i < n; i++)
            lines += text[i] == '\n';
    return lines;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    size_t size = strtoull(argv[1], NULL, 10), align = 2u << 20;
    /* For writing, as QEMU up to 8.1 does. */
    int fd = open(getenv("BELLGLASS_MEMORY_PATH"), O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return 3;
    uint8_t *range = mmap(NULL, size + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (range == MAP_FAILED)
        return 4;
    uint8_t *ram = range + (align - (uintptr_t)range % align) % align;
    int kind = strcmp(argv[2], "shared") == 0 ? MAP_SHARED : MAP_PRIVATE;
    if (mmap(ram, size, PROT_READ | PROT_WRITE, kind | MAP_FIXED, fd, 0) != ram)
        return 5;
    uint64_t maps = count_maps();
    if (put(ram, size) < 0 || put((const uint8_t *)&maps, sizeof maps) < 0)
        return 6;
    ram[0] = 1; /* to a page of its own */
    return 0;
}
