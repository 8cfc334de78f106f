#include "host/cli/ssh_config.h"

#include <stdio.h>
#include <string.h>

#include "common/quote.h"
#include "host/cli/ssh_names.h"

#define BEGIN_MARK "# >>> bellglass: sandboxes, made by `bellglass ssh-config --write` >>>"
#define END_MARK   "# <<< bellglass <<<"

/* --- our own file --- */

/* Behind the ProxyCommand. What the guest could ask of the client, or learn from it, is off: the
 * agent, X11, a password prompt, other keys, new host keys. Our key, which is offered first, is for
 * sandboxes only; keywords that add up (IdentityFile, RemoteForward, SendEnv) still come from the
 * user's `Host *` as well, which cannot be undone here. The host key is checked against the one
 * that the sandbox told us over its own stream just before (docs/threat-model.md), which is why
 * there is never a question. */
static const char settings[] = "    User " SSH_DEFAULT_USER "\n"
                               "    HostName %h\n" /* whatever the user's `Host *` makes of it */
                               "    ProxyUseFdpass no\n"
                               "    ConnectTimeout 300\n" /* a guest that never greets */
                               "    BatchMode yes\n" /* no guest can make it ask for a passphrase */
                               "    IdentitiesOnly yes\n"
                               "    IdentityAgent none\n"
                               "    PreferredAuthentications publickey\n"
                               "    PubkeyAcceptedKeyTypes ssh-ed25519\n" /* the name before 8.5 */
                               "    PasswordAuthentication no\n"
                               "    KbdInteractiveAuthentication no\n"
                               "    AddKeysToAgent no\n"
                               "    GlobalKnownHostsFile /dev/null\n"
                               "    HostKeyAlgorithms ssh-ed25519\n"
                               "    StrictHostKeyChecking yes\n"
                               "    UpdateHostKeys no\n"
                               "    CheckHostIP no\n"
                               "    VerifyHostKeyDNS no\n"
                               "    CanonicalizeHostname no\n"
                               "    ForwardAgent no\n"
                               "    ForwardX11 no\n"
                               "    ForwardX11Trusted no\n"
                               "    PermitLocalCommand no\n"
                               "    Tunnel no\n"
                               "    Compression no\n";

/* word as it has to stand in a ProxyCommand: for the shell, and with ssh's "%" doubled. A line
 * break would end the option. */
static int put_word(FILE *out, const char *word, struct bg_err *err)
{
    char quoted[512];
    BG_AUTOFREE char *shell = ssh_names_shell_word(word);
    if (!shell)
        return bg_err_errno(err, -ENOMEM, "ssh configuration");
    for (const char *p = shell; *p != '\0'; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return bg_err_set(err, -EINVAL, "%s: ssh's configuration cannot name this",
                              bg_quote(word, quoted, sizeof quoted));
        (void)fprintf(out, *p == '%' ? "%%%%" : "%c", *p);
    }
    return 0;
}

static int put_command(FILE *out, const struct ssh_config *config, struct bg_err *err)
{
    int r = 0;
    (void)fputs("    ProxyCommand ", out);
    for (size_t i = 0; r == 0 && config->env[i]; i++) {
        (void)fputs(i == 0 ? "env " : "", out);
        r = put_word(out, config->env[i], err);
        (void)fputc(' ', out);
    }
    if (r == 0)
        r = put_word(out, config->program, err);
    (void)fputs(" ssh --proxy -- '%h'\n", out);
    return r;
}

static int put_files(FILE *out, const struct ssh_config *config, struct bg_err *err)
{
    BG_AUTOFREE char *key = NULL;
    BG_AUTOFREE char *hosts = NULL;
    int r = ssh_names_config_path(config->key, /* tokens= */ true, &key, err);
    if (r == 0)
        r = ssh_names_config_path(config->hosts, /* tokens= */ true, &hosts, err);
    if (r < 0)
        return r;
    (void)fprintf(out, "    IdentityFile %s\n", key);
    (void)fprintf(out, "    UserKnownHostsFile %.*s/%%h\"\n", (int)strlen(hosts) - 1, hosts);
    return 0;
}

int ssh_config_text(const struct ssh_config *config, char **ret, struct bg_err *err)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return bg_err_errno(err, -errno, "ssh configuration");
    /* The host's name goes through a shell, in single quotes: one with such a quote in it (from the
     * URL of a repository, say) is none of ours. */
    (void)fputs("# Made by bellglass, which writes it anew: `bellglass ssh-config`.\n"
                "Host *" SSH_DOMAIN " \"!*'*\"\n",
                out);
    int r = put_command(out, config, err);
    if (r == 0)
        r = put_files(out, config, err);
    (void)fputs(settings, out);
    bool failed = ferror(out);
    if ((fclose(out) != 0 || failed) && r == 0)
        r = bg_err_errno(err, -ENOMEM, "ssh configuration");
    if (r < 0) {
        free(text);
        return r;
    }
    *ret = text;
    return 0;
}

/* --- the user's file --- */

int ssh_config_include(const char *path, char **ret, struct bg_err *err)
{
    char quoted[512];
    BG_AUTOFREE char *value = NULL;
    if (strpbrk(path, "*?[%"))
        return bg_err_set(err, -EINVAL,
                          "%s: ssh would take this path for a pattern; set BELLGLASS_HOME to "
                          "another folder",
                          bg_quote(path, quoted, sizeof quoted));
    int r = ssh_names_config_path(path, /* tokens= */ false, &value, err);
    if (r < 0)
        return r;
    if (asprintf(ret, BEGIN_MARK "\nInclude %s\n" END_MARK "\n", value) < 0)
        return bg_err_errno(err, -ENOMEM, "ssh configuration");
    return 0;
}

/* True if the line at text is this one, but for blanks at its end. */
static bool line_is(const char *text, size_t size, const char *line)
{
    while (size > 0 && strchr(" \t\r", text[size - 1]))
        size--;
    return size == strlen(line) && memcmp(text, line, size) == 0;
}

struct span {
    size_t begin, end; /* of our lines and one empty line behind them; equal: there are none */
};

static int find_block(const char *text, size_t size, struct span *ret, struct bg_err *err)
{
    struct span found = {0};
    unsigned number = 1, begins = 0, ends = 0;
    for (size_t at = 0; at < size; number++) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t line_size = end ? (size_t)(end - (text + at)) : size - at;
        size_t next = at + line_size + (end ? 1 : 0);
        bool begin_mark = line_is(text + at, line_size, BEGIN_MARK);
        bool end_mark = line_is(text + at, line_size, END_MARK);
        if ((begin_mark && begins++ != 0) || (end_mark && (ends++ != 0 || begins != 1)))
            return bg_err_set(err, -EUCLEAN,
                              "line %u: bellglass's marks are not as it wrote them; take those "
                              "lines out by hand",
                              number);
        if (begin_mark)
            found.begin = at;
        if (end_mark)
            found.end = next;
        at = next;
    }
    if (begins != ends)
        return bg_err_set(err, -EUCLEAN,
                          "bellglass's lines have no end (%s); take them out by hand", END_MARK);
    if (ends > 0 && found.end < size && text[found.end] == '\n')
        found.end++;
    *ret = found;
    return 0;
}

static int replace(const char *text, size_t size, const char *lines, char **ret, bool *ret_changed,
                   struct bg_err *err)
{
    struct span block = {0};
    if (memchr(text, 0, size))
        return bg_err_set(err, -EINVAL, "not a text file");
    int r = find_block(text, size, &block, err);
    if (r < 0)
        return r;
    bool empty = size == block.end - block.begin;
    char *made = NULL;
    int n = asprintf(&made, "%s%s%.*s%.*s", lines, *lines && !empty ? "\n" : "", (int)block.begin,
                     text, (int)(size - block.end), text + block.end);
    if (n < 0)
        return bg_err_errno(err, -ENOMEM, "ssh configuration");
    *ret_changed = (size_t)n != size || memcmp(made, text, size) != 0;
    *ret = made;
    return 0;
}

int ssh_config_insert(const char *text, size_t size, const char *lines, char **ret,
                      bool *ret_changed, struct bg_err *err)
{
    return replace(text, size, lines, ret, ret_changed, err);
}

int ssh_config_remove(const char *text, size_t size, char **ret, bool *ret_changed,
                      struct bg_err *err)
{
    return replace(text, size, "", ret, ret_changed, err);
}
