/* Runs a fuzz target over its corpus without a fuzzer: each file of the folder given, the empty
 * input, and every truncation of each file of up to 4 KiB. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/io.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int main(int argc, char **argv)
{
    if (argc != 2) {
        (void)fprintf(stderr, "usage: %s CORPUS_FOLDER\n", argv[0]);
        return 2;
    }
    size_t files = 0;
    (void)LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    DIR *folder = opendir(argv[1]);
    if (!folder) {
        (void)fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    for (const struct dirent *entry; (entry = readdir(folder));) {
        if (entry->d_name[0] == '.')
            continue;
        char *bytes;
        size_t size;
        struct bg_err err;
        if (bg_read_file(dirfd(folder), entry->d_name, 16 << 20, &bytes, &size, &err) < 0) {
            (void)fprintf(stderr, "%s\n", err.text);
            return 1;
        }
        for (size_t cut = 0; cut < size && size <= 4096; cut++)
            (void)LLVMFuzzerTestOneInput((const uint8_t *)bytes, cut);
        (void)LLVMFuzzerTestOneInput((const uint8_t *)bytes, size);
        free(bytes);
        files++;
    }
    (void)closedir(folder);
    (void)printf("%zu corpus files\n", files);
    return files > 0 ? 0 : 1;
}
