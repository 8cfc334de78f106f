#include "guest/accounts.h"

#include <fcntl.h>
#include <grp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/quote.h"

#define DEFAULT_USER "app"
#define DEFAULT_UID  1000

/* A piece of the text, not terminated. */
struct slice {
    const char *at;
    size_t size;
};

static bool equals(struct slice s, const char *text)
{
    return s.size == strlen(text) && memcmp(s.at, text, s.size) == 0;
}

/* Cuts the next piece, up to the separator or the end, off *rest. */
static struct slice cut(struct slice *rest, char separator)
{
    const char *end = memchr(rest->at, separator, rest->size);
    struct slice piece = {rest->at, end ? (size_t)(end - rest->at) : rest->size};
    size_t over = piece.size + (end != NULL);
    rest->at += over;
    rest->size -= over;
    return piece;
}

static bool to_id(struct slice s, uint32_t *ret)
{
    char digits[11];
    uint64_t value;
    if (s.size == 0 || s.size >= sizeof digits)
        return false;
    memcpy(digits, s.at, s.size);
    digits[s.size] = '\0';
    /* The last value means "no id" to the kernel. */
    if (bg_parse_u64(digits, 0, UINT32_MAX - 1, &value) < 0)
        return false;
    *ret = (uint32_t)value;
    return true;
}

/* An absolute path, or what stands in for one. */
static bool to_path(struct slice s, const char *fallback, char *out, size_t out_size)
{
    if (s.size == 0 || s.at[0] != '/')
        return (size_t)snprintf(out, out_size, "%s", fallback) < out_size;
    if (s.size >= out_size)
        return false;
    memcpy(out, s.at, s.size);
    out[s.size] = '\0';
    return true;
}

/* name:password:uid:gid:comment:home:shell */
static bool parse_user(struct slice line, struct account *ret)
{
    struct slice name = cut(&line, ':');
    (void)cut(&line, ':');
    struct slice uid = cut(&line, ':'), gid = cut(&line, ':');
    (void)cut(&line, ':');
    struct slice home = cut(&line, ':'), shell = cut(&line, ':');
    if (name.size == 0 || name.size >= sizeof ret->name || !to_id(uid, &ret->uid) ||
        !to_id(gid, &ret->gid) || !to_path(home, "/", ret->home, sizeof ret->home) ||
        !to_path(shell, "/bin/sh", ret->shell, sizeof ret->shell))
        return false;
    memcpy(ret->name, name.at, name.size);
    ret->name[name.size] = '\0';
    return true;
}

/* The first entry with this name, or with name NULL this uid. Leaves the groups alone. */
static bool find_user(const char *passwd, const char *name, uid_t uid, struct account *ret)
{
    struct slice text = {passwd, strlen(passwd)};
    while (text.size > 0) {
        struct slice line = cut(&text, '\n');
        if (line.size == 0 || line.at[0] == '#')
            continue;
        struct slice rest = line;
        if (name && !equals(cut(&rest, ':'), name))
            continue;
        if (parse_user(line, ret) && (name || ret->uid == uid))
            return true;
    }
    return false;
}

/* name:password:gid:member,member */
static void find_groups(const char *group, struct account *account)
{
    struct slice text = {group, strlen(group)};
    account->group_count = 0;
    while (text.size > 0 && account->group_count < BG_AGENT_GROUPS_MAX) {
        struct slice line = cut(&text, '\n');
        (void)cut(&line, ':');
        (void)cut(&line, ':');
        uint32_t gid;
        if (!to_id(cut(&line, ':'), &gid) || gid == account->gid)
            continue;
        while (line.size > 0) {
            if (equals(cut(&line, ','), account->name)) {
                account->groups[account->group_count++] = gid;
                break;
            }
        }
    }
}

static bool find(const char *passwd, const char *user, struct account *ret)
{
    if (user[0] == '\0') {
        if (find_user(passwd, DEFAULT_USER, 0, ret) || find_user(passwd, NULL, DEFAULT_UID, ret) ||
            find_user(passwd, NULL, 0, ret))
            return true;
        *ret = (struct account){.name = "root", .home = "/", .shell = "/bin/sh"};
        return true;
    }
    uint32_t uid;
    return find_user(passwd, user, 0, ret) ||
           (to_id((struct slice){user, strlen(user)}, &uid) && find_user(passwd, NULL, uid, ret));
}

int account_find(const char *passwd, const char *group, const char *user, struct account *ret,
                 struct bg_err *err)
{
    if (!find(passwd, user, ret)) {
        char quoted[BG_NAME_MAX];
        return bg_err_set(err, -ESRCH, "no user %s in the sandbox",
                          bg_quote(user, quoted, sizeof quoted));
    }
    find_groups(group, ret);
    return 0;
}

/* A missing file is an empty one. */
static int read_text(const char *path, char **ret_text, struct bg_err *err)
{
    struct bg_err why = {0};
    int r = bg_read_file(AT_FDCWD, path, BG_AGENT_ACCOUNTS_MAX, ret_text, NULL, &why);
    if (r == -ENOENT) {
        *ret_text = strdup("");
        return *ret_text ? 0 : bg_err_errno(err, -ENOMEM, "%s", path);
    }
    return r < 0 ? bg_err_set(err, r, "%s", why.text) : 0;
}

int account_load(const char *user, struct account *ret, struct bg_err *err)
{
    BG_AUTOFREE char *passwd = NULL;
    BG_AUTOFREE char *group = NULL;
    int r = read_text("/etc/passwd", &passwd, err);
    if (r == 0)
        r = read_text("/etc/group", &group, err);
    return r < 0 ? r : account_find(passwd, group, user, ret, err);
}

int account_become(const struct account *account, struct bg_err *err)
{
    if (setgroups(account->group_count, account->groups) < 0 ||
        setresgid(account->gid, account->gid, account->gid) < 0 ||
        setresuid(account->uid, account->uid, account->uid) < 0)
        return bg_err_errno(err, -errno, "user '%s'", account->name);
    return 0;
}
