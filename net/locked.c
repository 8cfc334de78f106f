#include "net/locked.h"

#include <string.h>
#include <sys/mman.h>

void *locked_new(size_t size, bool *ret_locked)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    (void)madvise(memory, size, MADV_DONTDUMP);   /* the process does not dump core anyway */
    (void)madvise(memory, size, MADV_WIPEONFORK); /* nor fork */
    bool locked = mlock(memory, size) == 0;
    if (ret_locked)
        *ret_locked = locked;
    return memory;
}

void locked_free(void *memory, size_t size)
{
    if (!memory)
        return;
    explicit_bzero(memory, size);
    (void)munmap(memory, size); /* only fails for arguments that are not a mapping */
}
