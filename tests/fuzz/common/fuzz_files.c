/* What a guest answers on a files stream, and a host's request. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/files.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct bg_files_request request;
    if (bg_files_request_parse(bytes, size, &request, NULL) == 0)
        assert(request.umask <= 0777 && strlen(request.user) <= BG_NAME_MAX);
    struct bg_reader in = bg_reader_init(bytes, size);
    struct bg_files_answer answer;
    if (bg_files_answer_parse(&in, &answer, NULL) < 0)
        return 0;
    assert(answer.status <= 0 && (answer.status == 0 || in.left == 0));
    struct bg_reader again = in;
    (void)bg_files_attributes_parse(&again);
    char name[BG_NAME_MAX + 1];
    uint8_t type;
    while (in.left > 0 && bg_files_entry_parse(&in, &type, name))
        assert(name[0] != '\0' && !strchr(name, '/') && strcmp(name, "..") != 0);
    return 0;
}
