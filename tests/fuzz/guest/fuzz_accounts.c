/* Any text as /etc/passwd and /etc/group, any name looked for: three strings, NUL between them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "guest/accounts.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char *text = calloc(1, size + 3); /* three strings, however many NULs the input has */
    struct account *account = malloc(sizeof *account);
    if (text && account) {
        if (size > 0)
            memcpy(text, bytes, size);
        const char *group = text + strlen(text) + 1, *user = group + strlen(group) + 1;
        if (account_find(text, group, user, account, NULL) == 0 &&
            (account->home[0] != '/' || account->shell[0] != '/' ||
             account->group_count > BG_AGENT_GROUPS_MAX || account->name[0] == '\0' ||
             account->uid == (uid_t)-1 || account->gid == (gid_t)-1))
            abort();
    }
    free(account);
    free(text);
    return 0;
}
