#include "host/supervisor/qemu_note.h"

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"

#define STAMP_SIZE 128
#define NOTE_SIZE  (STAMP_SIZE + QEMU_VERSION_TEXT_SIZE)

/* A line that changes when the file does: a package's new version is another inode with another
 * time. False for what is no ELF file. */
static bool stamp(const char *program, char ret[STAMP_SIZE])
{
    struct stat st;
    char magic[SELFMAG];
    BG_AUTOCLOSE int fd = open(program, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0 || pread(fd, magic, sizeof magic, 0) != sizeof magic ||
        memcmp(magic, ELFMAG, sizeof magic) != 0)
        return false;
    int n = snprintf(ret, STAMP_SIZE, "%llx %llx %lld %lld.%09ld %lld.%09ld\n",
                     (unsigned long long)st.st_dev, (unsigned long long)st.st_ino,
                     (long long)st.st_size, (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec,
                     (long long)st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
    return n > 0 && n < STAMP_SIZE;
}

bool qemu_note_read(const char *note, const char *program, char text[QEMU_VERSION_TEXT_SIZE])
{
    char now[STAMP_SIZE];
    BG_AUTOFREE char *noted = NULL;
    size_t size;
    if (!stamp(program, now) || bg_read_file(AT_FDCWD, note, NOTE_SIZE, &noted, &size, NULL) < 0 ||
        strncmp(noted, now, strlen(now)) != 0)
        return false;
    int n = snprintf(text, QEMU_VERSION_TEXT_SIZE, "%s", noted + strlen(now));
    return n > 0 && n < QEMU_VERSION_TEXT_SIZE;
}

void qemu_note_write(const char *note, const char *program, const char *text)
{
    char now[STAMP_SIZE], all[NOTE_SIZE];
    if (!stamp(program, now))
        return;
    int n = snprintf(all, sizeof all, "%s%s", now, text);
    if (n > 0 && (size_t)n < sizeof all)
        (void)!bg_write_file(AT_FDCWD, note, all, (size_t)n, 0644, NULL); /* asked again, then */
}
