/* bellglass-ca: what `bellglass ca` runs. Prints certificates, never a key. */
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <jansson.h>

#include "common/io.h"
#include "common/limits.h"
#include "net/ca_users.h"
#include "net/confine.h"

static const char help[] =
    "usage: bellglass ca show [--pem|--json]\n"
    "       bellglass ca rotate [--json]\n"
    "\n"
    "The certificate authority of this installation, with which the egress proxy reads TLS. Every "
    "sandbox\n"
    "trusts it, and nobody else should. Its key stays with the proxy.\n"
    "\n"
    "show    prints where its certificate is, its name, fingerprint and validity; --pem: the "
    "certificate.\n"
    "        It is made if there is none yet\n"
    "rotate  makes a new one, with a new key. Sandboxes that run keep the one that their guests "
    "know until\n"
    "        they are stopped and started; then, or when a new one is run, the new one is taken. "
    "The old\n"
    "        key is removed once the last of them has ended and another is started. The first "
    "start of an\n"
    "        image takes longer after it, since its snapshot is made anew. A bellglass-proxy "
    "--listen keeps\n"
    "        its CA until it ends\n";

struct report {
    char *path; /* of the certificate; owned */
    char *pem;  /* owned */
    struct tls_ca_facts ca;
    struct ca_users users;
};

static void report_done(struct report *report)
{
    free(report->path);
    free(report->pem);
    ca_users_done(&report->users);
}

static int load_report(const struct bg_paths *paths, struct report *report, struct bg_err *err)
{
    struct tls_ca *ca;
    size_t size;
    /* Makes it, or ends a rotate that was cut short. */
    int r = tls_ca_open(paths->data, NULL, &ca, err);
    if (r < 0)
        return r;
    tls_ca_close(ca);
    r = ca_users_forget(paths, err);
    if (r == 0)
        r = ca_users_load(paths, &report->users, err);
    report->path = tls_ca_path(paths->data);
    if (r == 0 && !report->path)
        r = bg_err_errno(err, -ENOMEM, "CA");
    if (r == 0)
        r = bg_read_file(AT_FDCWD, report->path, BG_MANIFEST_MAX, &report->pem, &size, err);
    if (r == 0)
        r = tls_ca_facts(report->pem, &report->ca, err);
    return r;
}

static int printed(struct bg_err *err)
{
    return fflush(stdout) != 0 || ferror(stdout) ? bg_err_set(err, -EIO, "cannot print") : 0;
}

static bool is_present(const struct report *report, const struct ca_user *user)
{
    return strcmp(user->ca.sha256, report->ca.sha256) == 0;
}

static int print_json(const struct report *report, struct bg_err *err)
{
    json_auto_t *users = json_array(), *older = json_array();
    bool ok = users && older;
    for (size_t i = 0; ok && i < report->users.count; i++) {
        const struct ca_user *user = &report->users.items[i];
        ok = is_present(report, user)
                 ? json_array_append_new(users, json_string(user->sandbox)) == 0
                 : json_array_append_new(older, json_pack("{s:s, s:s}", "sandbox", user->sandbox,
                                                          "sha256", user->ca.sha256)) == 0;
    }
    json_auto_t *all =
        ok ? json_pack("{s:s, s:s, s:s, s:s, s:s, s:O, s:O}", "path", report->path, "subject",
                       report->ca.subject, "sha256", report->ca.sha256, "not_before",
                       report->ca.not_before, "not_after", report->ca.not_after, "used_by", users,
                       "older_used_by", older)
           : NULL;
    if (!all || json_dumpf(all, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII) < 0)
        return bg_err_errno(err, -ENOMEM, "output");
    (void)putchar('\n');
    return printed(err);
}

/* "AB:CD:...", as others show it. */
static void print_hash(const char *sha256)
{
    for (size_t i = 0; sha256[i] != '\0'; i++)
        (void)printf("%s%c", i > 0 && i % 2 == 0 ? ":" : "",
                     sha256[i] >= 'a' ? sha256[i] - 'a' + 'A' : sha256[i]);
    (void)putchar('\n');
}

static void print_users(const struct report *report, bool present, const char *label)
{
    bool any = false;
    for (size_t i = 0; i < report->users.count; i++) {
        if (is_present(report, &report->users.items[i]) != present)
            continue;
        (void)printf("%s%s", any ? " " : label, report->users.items[i].sandbox);
        any = true;
    }
    if (any)
        (void)putchar('\n');
}

static int print_text(const struct report *report, struct bg_err *err)
{
    (void)printf("path         %s\nsubject      %s\nSHA-256      ", report->path,
                 report->ca.subject);
    print_hash(report->ca.sha256);
    (void)printf("valid        %s to %s\n", report->ca.not_before, report->ca.not_after);
    print_users(report, true, "used by      ");
    print_users(report, false, "older ones   until they are stopped and started: ");
    return printed(err);
}

static int run(const char *verb, bool json, bool pem, struct bg_err *err)
{
    struct bg_paths paths;
    struct report report = {0};
    bool rotate = strcmp(verb, "rotate") == 0;
    if ((!rotate && strcmp(verb, "show") != 0) || (pem && (json || rotate)))
        return bg_err_set(err, -EINVAL,
                          "want show [--pem|--json] or rotate [--json]; see bellglass ca --help");
    int r = bg_paths_init(&paths, err);
    if (r < 0)
        return r;
    if (rotate)
        r = ca_users_forget(&paths, err); /* what nobody has makes room */
    if (r == 0 && rotate)
        r = tls_ca_rotate(paths.data, err);
    if (r == 0)
        r = load_report(&paths, &report, err);
    if (r == 0 && pem)
        r = fputs(report.pem, stdout) < 0 ? bg_err_set(err, -EIO, "cannot print") : printed(err);
    else if (r == 0)
        r = json ? print_json(&report, err) : print_text(&report, err);
    report_done(&report);
    bg_paths_done(&paths);
    return r;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"json", no_argument, NULL, 'j'},
                                          {"pem", no_argument, NULL, 'p'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    struct bg_err err = {0};
    bool json = false, pem = false, wants_help = false;
    int r = 0;
    (void)umask(077);
    for (int option; (option = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
        json |= option == 'j';
        pem |= option == 'p';
        wants_help |= option == 'h';
        if (option == '?')
            r = bg_err_set(&err, -EINVAL, "see bellglass ca --help");
    }
    if (r == 0 && wants_help)
        r = fputs(help, stdout) < 0 || fflush(stdout) != 0 ? -EIO : 0;
    else if (r == 0)
        r = confine_start(NULL, 0, &err); /* it sees the key */
    if (r == 0 && !wants_help)
        r = argc - optind == 1 ? run(argv[optind], json, pem, &err) : run("", false, false, &err);
    if (r < 0)
        (void)fprintf(stderr, "bellglass: ca: %s\n", err.text);
    return r < 0 ? 125 : 0;
}
