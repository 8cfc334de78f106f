#include "host/cli/ssh_names.h"

#include <ctype.h>
#include <string.h>

#include "common/quote.h"

#define USER_CHARS                                                                                 \
    "abcdefghijklmnopqrstuvwxyz"                                                                   \
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ"                                                                   \
    "0123456789._-"

int ssh_names_sandbox(const char *host, char out[BG_SANDBOX_NAME_MAX + 1], struct bg_err *err)
{
    static const char domain[] = SSH_DOMAIN;
    char quoted[BG_SANDBOX_NAME_MAX + 32], name[BG_SANDBOX_NAME_MAX + sizeof domain];
    size_t size = strlen(host), domain_size = sizeof domain - 1;
    bool ours = size > domain_size && size < sizeof name;
    for (size_t i = 0; ours && i <= size; i++)
        name[i] = (char)tolower((unsigned char)host[i]); /* ssh does so too */
    ours = ours && strcmp(name + size - domain_size, domain) == 0;
    if (ours)
        name[size - domain_size] = '\0';
    if (!ours || !bg_sandbox_name_ok(name))
        return bg_err_set(err, -EINVAL, "%s: not a sandbox's host name; they are NAME" SSH_DOMAIN,
                          bg_quote(host, quoted, sizeof quoted));
    memcpy(out, name, size - domain_size + 1);
    return 0;
}

int ssh_names_split(const char *text, char **ret_user, const char **ret_name, struct bg_err *err)
{
    const char *at = strrchr(text, '@');
    size_t size = at ? (size_t)(at - text) : 0;
    char quoted[128];
    if (!at) {
        *ret_user = NULL;
        *ret_name = text;
        return 0;
    }
    if (size == 0 || text[0] == '-' || strspn(text, USER_CHARS) != size)
        return bg_err_set(err, -EINVAL, "%s: give [USER@]NAME",
                          bg_quote(text, quoted, sizeof quoted));
    char *user = strndup(text, size);
    if (!user)
        return bg_err_errno(err, -ENOMEM, "user");
    *ret_user = user;
    *ret_name = at + 1;
    return 0;
}

static bool is_plain(const char *text)
{
    return text[0] != '\0' && text[strspn(text, USER_CHARS "/,:+@=%")] == '\0';
}

char *ssh_names_shell_word(const char *text)
{
    if (is_plain(text))
        return strdup(text);
    /* Each quote in it becomes '\'' : ends the quotes, a quote, begins them again. */
    size_t size = 3;
    for (const char *p = text; *p != '\0'; p++)
        size += *p == '\'' ? 4 : 1;
    char *word = malloc(size), *to = word;
    if (!word)
        return NULL;
    *to++ = '\'';
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '\'') {
            memcpy(to, "'\\''", 4);
            to += 4;
        } else {
            *to++ = *p;
        }
    }
    *to++ = '\'';
    *to = '\0';
    return word;
}

int ssh_names_config_path(const char *path, bool tokens, char **ret, struct bg_err *err)
{
    char quoted[512];
    size_t size = strlen(path);
    char *text = malloc(2 * size + 3), *to = text;
    if (!text)
        return bg_err_errno(err, -ENOMEM, "ssh configuration");
    *to++ = '"';
    for (const char *p = path; *p != '\0'; p++) {
        if (iscntrl((unsigned char)*p) || *p == '"' || *p == '\\' || (*p == '$' && p[1] == '{')) {
            free(text);
            return bg_err_set(
                err, -EINVAL,
                "%s: ssh's configuration cannot name this path; set BELLGLASS_HOME to "
                "another folder",
                bg_quote(path, quoted, sizeof quoted));
        }
        if (*p == '%' && tokens)
            *to++ = '%';
        *to++ = *p;
    }
    *to++ = '"';
    *to = '\0';
    *ret = text;
    return 0;
}
