/* Lines of an audit log: whatever hosts, methods and paths are in them, the proposal is a policy
 * file that allows no host but those. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "net/learn.h"
#include "net/policy_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct learn learn = {0};
    struct policy_file file;
    struct buffer out = buffer_init(16 << 20);
    while (size > 0) {
        const uint8_t *end = memchr(bytes, '\n', size);
        size_t line = end ? (size_t)(end - bytes) + 1 : size;
        if (learn_line(&learn, (const char *)bytes, line) < 0)
            break;
        bytes += line;
        size -= line;
    }
    learn_put(&learn, "s", &out);
    assert(buffer_ok(&out));
    int r = policy_file_parse("learnt", (const char *)buffer_bytes(&out), buffer_size(&out), NULL,
                              &file, NULL);
    if (buffer_size(&out) < 200000) { /* a larger one is more than a policy may be */
        assert(r == 0);
        assert(file.policy.count <= learn.count);
        for (size_t i = 0; i < file.policy.count; i++) {
            bool known = false;
            for (size_t k = 0; k < learn.count; k++)
                known |= destination_same_host(&learn.hosts[k].to, &file.policy.rules[i].host.host);
            assert(known && file.policy.rules[i].action == POLICY_ALLOW);
        }
    }
    if (r == 0)
        policy_file_done(&file);
    learn_done(&learn);
    buffer_reset(&out);
    return 0;
}
