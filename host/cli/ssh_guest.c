#include "host/cli/ssh_guest.h"

#include <string.h>

/* Exit statuses of the script. */
#define NO_SSHD   71
#define NO_KEYGEN 72

/* $1: the sandbox's id, $2: the key that may log in.
 *
 * Everything is below a folder of that id, in memory: a fork finds none of its own and makes a key,
 * and takes away what it has of the sandbox that it was forked from. Files appear by rename, since
 * several connections may begin at once. The sessions get the environment that `bellglass exec`
 * gives (with the CA's variables and the placeholders), which sshd would not hand on by itself; a
 * value with a line break cannot be written in its configuration and is left out. */
static const char script[] =
    "set -eu\n"
    "umask 022\n"
    "sshd=$(PATH=/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin:/sbin command -v sshd) || "
    "exit 71\n"
    "command -v ssh-keygen >/dev/null || exit 72\n"
    "base=/run/bellglass/ssh dir=/run/bellglass/ssh/$1\n"
    "mkdir -p \"$base\" /run/sshd\n"
    "if [ ! -s \"$dir/host_key.pub\" ]; then\n"
    "    for old in \"$base\"/*; do [ \"$old\" = \"$dir\" ] || rm -rf \"$old\"; done\n"
    "    new=$base/.$1.$$\n"
    "    mkdir \"$new\"\n"
    "    ssh-keygen -q -t ed25519 -N '' -C '' -f \"$new/host_key\" >&2\n"
    "    mv -T \"$new\" \"$dir\" 2>/dev/null || rm -rf \"$new\"\n"
    "fi\n"
    "read -r type key rest <\"$dir/host_key.pub\"\n"
    "printf 'ssh-ed25519 %s bellglass\\n' \"$2\" >\"$dir/authorized.$$\"\n"
    "mv \"$dir/authorized.$$\" \"$dir/authorized_keys\"\n"
    "pam=no\n"
    "if [ -e /etc/pam.d/sshd ]; then pam=yes; fi\n"
    "{\n"
    "    cat <<END\n"
    "HostKey $dir/host_key\n"
    "AuthorizedKeysFile $dir/authorized_keys\n"
    "AuthenticationMethods publickey\n"
    "PermitRootLogin prohibit-password\n"
    "PasswordAuthentication no\n"
    "KbdInteractiveAuthentication no\n"
    "UsePAM $pam\n"
    "UseDNS no\n"
    "X11Forwarding no\n"
    "PrintMotd no\n"
    "PrintLastLog no\n"
    "PidFile none\n"
    "LoginGraceTime 0\n"
    "LogLevel ERROR\n"
    "AcceptEnv COLORTERM GIT_PROTOCOL\n"
    "Subsystem sftp internal-sftp\n"
    "END\n"
    "    awk 'BEGIN {\n"
    "        line = \"SetEnv\"\n"
    "        split(\"HOME USER LOGNAME SHELL PWD OLDPWD SHLVL TERM _ AWKPATH AWKLIBPATH\", "
    "own, \" \")\n"
    "        for (i in own) skip[own[i]] = 1\n"
    "        for (name in ENVIRON) {\n"
    "            value = ENVIRON[name]\n"
    "            if (name in skip || name !~ /^[A-Za-z_][A-Za-z0-9_]*$/ || value ~ /[\\r\\n]/) "
    "continue\n"
    "            gsub(/[\\\\\"]/, \"\\\\\\\\&\", value)\n"
    "            line = line \" \\\"\" name \"=\" value \"\\\"\"\n"
    "        }\n"
    "        if (line != \"SetEnv\") print line\n"
    "    }'\n"
    "} >\"$dir/config.$$\"\n"
    "mv \"$dir/config.$$\" \"$dir/sshd_config\"\n"
    "printf 'bellglass-ssh-1 %s %s\\n' \"$type\" \"$key\"\n"
    "exec \"$sshd\" -i -f \"$dir/sshd_config\" -E \"$dir/log\"\n";

void ssh_guest_argv(const char *id, const char *key, const char *argv[SSH_GUEST_ARGS])
{
    const char *const all[SSH_GUEST_ARGS] = {"/bin/sh", "-c", script, "bellglass-ssh", id, key};
    memcpy(argv, all, sizeof all);
}

int ssh_guest_explain(int exit_status, const char *text, struct bg_err *err)
{
    if (exit_status == NO_SSHD)
        return bg_err_set(err, -ENOENT,
                          "there is no sshd in it: build its image anew (bellglass image build; a "
                          "recipe of your own needs the package openssh-server) and make the "
                          "sandbox anew; `bellglass shell`, `cp` and `mount` work without");
    if (exit_status == NO_KEYGEN)
        return bg_err_set(err, -ENOENT,
                          "there is no ssh-keygen in it: add the package openssh-client to its "
                          "image's recipe");
    return bg_err_set(err, -EIO, "sshd did not start in it (status %d)%s%s", exit_status,
                      text[0] ? ": " : "", text);
}
