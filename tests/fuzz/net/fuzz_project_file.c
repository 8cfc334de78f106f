/* A project's file, which somebody else may have written. What is taken is of the shape that the
 * command line is promised. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "net/project_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct project_file file;
    struct bg_err err = {0};
    if (project_file_parse("p", (const char *)bytes, size, &file, &err) < 0) {
        assert(err.text[0]);
        return 0;
    }
    for (size_t i = 0; i < PROJECT_TEXTS; i++)
        assert(!file.texts[i] || file.texts[i][0]);
    for (size_t i = 0; i < file.env_count; i++)
        assert(strchr(file.env[i], '=') > file.env[i]);
    for (size_t i = 0; i < file.mount_count; i++)
        assert(file.mounts[i]);
    project_file_done(&file);
    return 0;
}
