#include "guest/identity.h"

#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/io.h"
#include "guest/ssh_keys.h"
#include "guest/trust.h"

#define MACHINE_ID     "/etc/machine-id"
#define RUN_FOLDER     "/run/bellglass"
#define GENERATION     RUN_FOLDER "/generation"
#define GENERATION_MAX 9999999999ul /* then it begins anew */

#define CA_FILE   "/usr/local/share/ca-certificates/bellglass.crt"
#define CA_BUNDLE "/etc/ssl/certs/ca-certificates.crt"
#define CA_JAVA   "/etc/ssl/certs/java/cacerts"

/* Programs that do not look at the system's bundle look at one of these. */
static const char *const ca_variables[] = {
    "SSL_CERT_FILE",      "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",     "PIP_CERT",
    "CARGO_HTTP_CAINFO",  "DENO_CERT",
    "AWS_CA_BUNDLE",      "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
};

static int reseed(const uint8_t entropy[64], struct bg_err *err)
{
    /* No struct with a flexible array of the kernel's on the stack: the same bytes by hand. */
    struct {
        int entropy_count; /* bits */
        int buf_size;
        uint8_t buf[64];
    } pool = {.entropy_count = 8 * 64, .buf_size = 64};
    memcpy(pool.buf, entropy, sizeof pool.buf);
    BG_AUTOCLOSE int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    int r = 0;
    if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
        r = bg_err_errno(err, -errno, "reseeding the random generator");
    explicit_bzero(&pool, sizeof pool);
    return r;
}

static int set_clock(uint64_t realtime_ns, struct bg_err *err)
{
    const uint64_t ns_per_s = 1000000000;
    struct timespec now = {.tv_sec = (time_t)(realtime_ns / ns_per_s),
                           .tv_nsec = (long)(realtime_ns % ns_per_s)};
    if (clock_settime(CLOCK_REALTIME, &now) < 0)
        return bg_err_errno(err, -errno, "setting the clock");
    return 0;
}

/* Not durable and not atomic: the next identity writes it again, and a fork waits for us. Over what
 * is there, since ext4 puts a file on the disk that was emptied and written. */
static int write_text(const char *path, const char *text, size_t size, struct bg_err *err)
{
    struct stat st;
    BG_AUTOCLOSE int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    int r = fd < 0 || fstat(fd, &st) < 0 ? -errno : bg_write_full(fd, text, size);
    if (r == 0 && (uint64_t)st.st_size > size && ftruncate(fd, (off_t)size) < 0)
        r = -errno;
    return r < 0 ? bg_err_errno(err, r, "%s", path) : 0;
}

/* Whether the disk was another machine's: of an image, or of the sandbox that this is a fork of. */
static bool is_other_machine(const uint8_t machine_id[16])
{
    char hex[2 * 16 + 1];
    BG_AUTOFREE char *text = NULL;
    size_t size;
    bg_hex(machine_id, 16, hex);
    return bg_read_file(AT_FDCWD, MACHINE_ID, 4096, &text, &size, NULL) < 0 || size < 32 ||
           memcmp(text, hex, 32) != 0;
}

static int set_names(const struct bg_identity *identity, struct bg_err *err)
{
    char line[80];
    if (identity->hostname[0] != '\0') {
        if (sethostname(identity->hostname, strlen(identity->hostname)) < 0)
            return bg_err_errno(err, -errno, "hostname '%s'", identity->hostname);
        int size = snprintf(line, sizeof line, "%s\n", identity->hostname);
        int r = write_text("/etc/hostname", line, (size_t)size, err);
        if (r < 0)
            return r;
    }
    char hex[2 * sizeof identity->machine_id + 1];
    bg_hex(identity->machine_id, sizeof identity->machine_id, hex);
    int size = snprintf(line, sizeof line, "%s\n", hex);
    return write_text(MACHINE_ID, line, (size_t)size, err);
}

/* A file that changes whenever this machine may have a twin with the same memory, for programs that
 * keep random state of their own: one line of always the same size, always the same inode, so that
 * it can be watched or kept open. */
static int set_generation(struct bg_err *err)
{
    char line[64];
    uint8_t random[16];
    char hex[2 * sizeof random + 1];
    unsigned long count = 0;
    BG_AUTOCLOSE int fd = open(GENERATION, O_RDWR | O_CREAT | O_CLOEXEC, 0444);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", GENERATION);
    ssize_t n = pread(fd, line, sizeof line - 1, 0);
    line[n > 0 ? n : 0] = '\0';
    count = strtoul(line, NULL, 10) % GENERATION_MAX; /* root may have written anything */
    bg_random(random, sizeof random);
    bg_hex(random, sizeof random, hex);
    int size = snprintf(line, sizeof line, "%010lu %s\n", count + 1, hex);
    n = pwrite(fd, line, (size_t)size, 0);
    return n != size ? bg_err_errno(err, n < 0 ? -errno : -EIO, "%s", GENERATION) : 0;
}

static int make_folder(const char *path, struct bg_err *err)
{
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        return bg_err_errno(err, -errno, "%s", path);
    return 0;
}

static int trust(const uint8_t *pem, size_t size, struct bg_err *err)
{
    static const char *const folders[] = {"/usr/local/share/ca-certificates", "/etc/ssl",
                                          "/etc/ssl/certs"};
    int r = 0;
    for (size_t i = 0; r == 0 && size > 0 && i < sizeof folders / sizeof *folders; i++)
        r = make_folder(folders[i], err);
    static const struct trust_paths paths = {
        .file = CA_FILE, .bundle = CA_BUNDLE, .keystore = CA_JAVA};
    return r < 0 || size == 0 ? r : trust_certificate(&paths, pem, size, err);
}

static int make_env(const struct bg_identity *identity, struct env *ret, struct bg_err *err)
{
    struct env env = {0};
    int r = 0;
    for (size_t i = 0;
         identity->ca_pem_size > 0 && r == 0 && i < sizeof ca_variables / sizeof *ca_variables; i++)
        r = env_set(&env, ca_variables[i], CA_BUNDLE);
    if (r == 0 && identity->sandbox_id[0] != '\0')
        r = env_set(&env, "BELLGLASS_SANDBOX", identity->sandbox_id);
    if (r == 0)
        r = env_put_blobs(&env, identity->env, identity->env_size, identity->envc);
    if (r < 0) {
        env_done(&env);
        return bg_err_errno(err, r, "environment");
    }
    env_done(ret);
    *ret = env;
    return 0;
}

/* A step of several, of which each is made: err keeps the first failure. */
static void note(int r, const struct bg_err *why, int *first, struct bg_err *err)
{
    if (r == 0 || *first < 0)
        return;
    *first = r;
    if (err)
        *err = *why;
}

int identity_apply(const struct bg_identity *identity, bool whole_machine, struct env *env,
                   struct bg_err *err)
{
    struct bg_err why = {0};
    int first = 0;
    bool goes_on = identity->flags & BG_IDENTITY_CONTINUE; /* it is who it was */
    if (!goes_on)
        note(make_env(identity, env, &why), &why, &first, err);
    if (!whole_machine)
        return first;
    note(reseed(identity->entropy, &why), &why, &first, err);
    note(set_clock(identity->realtime_ns, &why), &why, &first, err);
    if (goes_on)
        return first;
    bool other = !(identity->flags & BG_IDENTITY_GOLDEN) && is_other_machine(identity->machine_id);
    note(set_names(identity, &why), &why, &first, err);
    note(ssh_keys_forget(&ssh_keys_here, identity->sandbox_id, other, &why), &why, &first, err);
    note(make_folder(RUN_FOLDER, &why), &why, &first, err);
    note(set_generation(&why), &why, &first, err);
    note(trust(identity->ca_pem, identity->ca_pem_size, &why), &why, &first, err);
    return first;
}
