#include "net/tls_ca.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "common/io.h"
#include "common/limits.h"
#include "net/bucket.h"

#define KEY_FILE         "ca.key"
#define CERTIFICATE_FILE "ca.pem"
#define OLD_FOLDER       "old"
#define FILE_SIZE_MAX    (64u * 1024)
#define CA_DAYS          3650
#define LEAF_DAYS        7
#define LEAF_FRESH_S                                                                               \
    86400                  /* a leaf is handed out so long; then there are days of validity left   \
                            */
#define CLOCK_SKEW_S 86400 /* a guest's clock may be behind until its identity is set */
#define SERIAL_BITS  127   /* positive, and of 16 bytes */

struct leaf {
    char host[DESTINATION_HOST_SIZE];
    X509 *certificate; /* NULL: free slot */
    bool allowed;      /* by a rule */
    time_t minted;
    uint64_t last_use;
};

struct tls_ca {
    EVP_PKEY *key;
    X509 *certificate;
    EVP_PKEY *leaf_key;
    struct leaf *leaves; /* BG_EGRESS_LEAVES_MAX */
    uint64_t uses;
    struct bucket minting; /* what is left of the rate of new leaves */
};

int tls_error(struct bg_err *err, int code, const char *what)
{
    unsigned long e = ERR_peek_error();
    const char *reason = e ? ERR_reason_error_string(e) : NULL;
    (void)bg_err_set(err, code, "%s: %s", what, reason ? reason : "OpenSSL gave no reason");
    ERR_clear_error();
    return code;
}

static bool set_serial(X509 *x)
{
    BIGNUM *number = BN_new();
    bool ok = number && BN_rand(number, SERIAL_BITS, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) &&
              BN_to_ASN1_INTEGER(number, X509_get_serialNumber(x));
    BN_free(number);
    return ok;
}

static bool add_extension(X509 *x, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, issuer, x, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    bool ok = extension && X509_add_ext(x, extension, -1);
    X509_EXTENSION_free(extension);
    return ok;
}

static bool set_name(X509 *x, const char *common_name)
{
    X509_NAME *name = X509_NAME_new();
    bool ok = name &&
              X509_NAME_add_entry_by_txt(name, "O", MBSTRING_ASC,
                                         (const unsigned char *)"bellglass", -1, -1, 0) &&
              X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                                         (const unsigned char *)common_name, -1, -1, 0) &&
              X509_set_subject_name(x, name);
    X509_NAME_free(name);
    return ok;
}

static bool set_life(X509 *x, long days)
{
    return X509_gmtime_adj(X509_getm_notBefore(x), -(long)CLOCK_SKEW_S) &&
           X509_gmtime_adj(X509_getm_notAfter(x), days * 86400);
}

static X509 *make_root(EVP_PKEY *key)
{
    uint8_t tag[4];
    char tag_hex[2 * sizeof tag + 1], common_name[64];
    bg_random(tag, sizeof tag);
    bg_hex(tag, sizeof tag, tag_hex);
    /* Two installations' roots must not be taken for each other in a trust store. */
    (void)snprintf(common_name, sizeof common_name, "bellglass sandbox CA %s", tag_hex);
    X509 *x = X509_new();
    bool ok = x && X509_set_version(x, X509_VERSION_3) && set_serial(x) &&
              set_name(x, common_name) && X509_set_issuer_name(x, X509_get_subject_name(x)) &&
              set_life(x, CA_DAYS) && X509_set_pubkey(x, key) &&
              add_extension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
              add_extension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") &&
              add_extension(x, x, NID_subject_key_identifier, "hash") &&
              X509_sign(x, key, EVP_sha256());
    if (!ok) {
        X509_free(x);
        return NULL;
    }
    return x;
}

/* What wrote to memory, copied out to a file; the memory is cleansed. */
static int write_bio(int dir_fd, const char *name, BIO *bio, mode_t mode, struct bg_err *err)
{
    char *bytes = NULL;
    long size = BIO_get_mem_data(bio, &bytes);
    if (size <= 0)
        return bg_err_set(err, -EIO, "%s: nothing to write", name);
    int r = bg_write_file(dir_fd, name, bytes, (size_t)size, mode, err);
    explicit_bzero(bytes, (size_t)size);
    return r;
}

/* A key and its certificate as one text. */
static int write_pair(int dir_fd, const char *name, EVP_PKEY *key, X509 *certificate,
                      struct bg_err *err)
{
    BIO *text = BIO_new(BIO_s_mem());
    int r = text && PEM_write_bio_PKCS8PrivateKey(text, key, NULL, NULL, 0, NULL, NULL) &&
                    PEM_write_bio_X509(text, certificate)
                ? write_bio(dir_fd, name, text, 0600, err)
                : tls_error(err, -EIO, "cannot write a CA");
    BIO_free(text);
    return r;
}

static int write_certificate(int dir_fd, X509 *certificate, struct bg_err *err)
{
    BIO *text = BIO_new(BIO_s_mem());
    int r = text && PEM_write_bio_X509(text, certificate)
                ? write_bio(dir_fd, CERTIFICATE_FILE, text, 0644, err)
                : tls_error(err, -EIO, "cannot write a CA");
    if (r == 0 && fchmodat(dir_fd, CERTIFICATE_FILE, 0644, 0) < 0) /* whatever the umask */
        r = bg_err_errno(err, -errno, CERTIFICATE_FILE);
    BIO_free(text);
    return r;
}

static int make_files(int dir_fd, struct bg_err *err)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *root = key ? make_root(key) : NULL;
    int r = root ? write_pair(dir_fd, KEY_FILE, key, root, err)
                 : tls_error(err, -EIO, "cannot make a CA");
    /* With the key the new CA is there; who opens it puts this right if we die here. */
    if (r == 0)
        r = write_certificate(dir_fd, root, err);
    X509_free(root);
    EVP_PKEY_free(key);
    return r;
}

static X509 *certificate_of(const char *text, size_t size)
{
    BIO *bio = BIO_new_mem_buf(text, (int)size);
    X509 *certificate = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    BIO_free(bio);
    return certificate;
}

/* Reads the key of a file, and its certificate: that which is in it, or else, as it was before
 * rotate came to be, that of ca.pem. Both may be NULL when it is damaged. */
static int read_pair(int dir_fd, const char *name, const char *pem, EVP_PKEY **ret_key,
                     X509 **ret_certificate, struct bg_err *err)
{
    BG_AUTOFREE char *text = NULL;
    size_t size;
    int r = bg_read_file(dir_fd, name, FILE_SIZE_MAX, &text, &size, err);
    if (r < 0)
        return r;
    BIO *bio = BIO_new_mem_buf(text, (int)size);
    *ret_key = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL) : NULL;
    *ret_certificate = certificate_of(text, size);
    if (!*ret_certificate && pem)
        *ret_certificate = certificate_of(pem, strlen(pem));
    BIO_free(bio);
    explicit_bzero(text, size);
    ERR_clear_error();
    return 0;
}

/* The present CA; *ret_pem: what ca.pem says, heap, NULL if it is not there. */
static int read_files(int dir_fd, struct tls_ca *ca, char **ret_pem, struct bg_err *err)
{
    size_t size;
    int r = bg_read_file(dir_fd, CERTIFICATE_FILE, FILE_SIZE_MAX, ret_pem, &size, err);
    if (r < 0 && r != -ENOENT)
        return r;
    if (r < 0)
        *ret_pem = NULL;
    r = read_pair(dir_fd, KEY_FILE, *ret_pem, &ca->key, &ca->certificate, err);
    if (r == -ENOENT && !*ret_pem)
        return r;
    if (r < 0 && r != -ENOENT)
        return r;
    if (!ca->key || !ca->certificate || !X509_check_private_key(ca->certificate, ca->key)) {
        ERR_clear_error();
        return bg_err_set(err, -EUCLEAN,
                          "ca.key and ca.pem are damaged or do not fit each other; "
                          "remove both and a new CA is made, or let bellglass ca rotate do it");
    }
    return 0;
}

static int load_files(int dir_fd, struct tls_ca *ca, struct bg_err *err)
{
    BG_AUTOFREE char *pem = NULL;
    int r = read_files(dir_fd, ca, &pem, err);
    if (r < 0)
        return r;
    /* ca.pem is the older one if a rotate was cut short. */
    X509 *copy = pem ? certificate_of(pem, strlen(pem)) : NULL;
    if (!copy || X509_cmp(copy, ca->certificate) != 0)
        r = write_certificate(dir_fd, ca->certificate, err);
    X509_free(copy);
    ERR_clear_error();
    return r;
}

static bool hash_of(X509 *certificate, char sha256[2 * 32 + 1])
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned size;
    if (X509_digest(certificate, EVP_sha256(), digest, &size) != 1 || size != 32)
        return false;
    bg_hex(digest, size, sha256);
    return true;
}

/* Takes the CA with that certificate in the place of the present one. */
static int load_wanted(int dir_fd, struct tls_ca *ca, const char *pem, struct bg_err *err)
{
    char hash[2 * 32 + 1] = "", name[sizeof OLD_FOLDER + 1 + sizeof hash];
    X509 *wanted = certificate_of(pem, strlen(pem));
    bool present = wanted && X509_cmp(wanted, ca->certificate) == 0;
    bool ok = wanted && hash_of(wanted, hash);
    X509_free(wanted);
    ERR_clear_error();
    if (!ok)
        return bg_err_set(err, -EUCLEAN, "the sandbox's ca.pem is damaged; restart the sandbox");
    if (present)
        return 0;
    (void)snprintf(name, sizeof name, OLD_FOLDER "/%s", hash);
    EVP_PKEY_free(BG_TAKE(ca->key));
    X509_free(BG_TAKE(ca->certificate));
    int r = read_pair(dir_fd, name, NULL, &ca->key, &ca->certificate, err);
    if (r == -ENOENT)
        return bg_err_set(err, -ENOKEY,
                          "the CA %s that the sandbox was started with is not there any more; "
                          "restart the sandbox",
                          hash);
    if (r == 0 &&
        (!ca->key || !ca->certificate || !X509_check_private_key(ca->certificate, ca->key)))
        r = bg_err_set(err, -EUCLEAN, "%s is damaged; restart the sandbox", name);
    ERR_clear_error();
    return r;
}

char *tls_ca_path(const char *data_dir)
{
    char *path;
    return asprintf(&path, "%s/ca/ca.pem", data_dir) < 0 ? NULL : path;
}

/* The folder is open to readers since ca.pem is no secret, and the supervisor of a root
 * installation, which is not root, hands it to guests; ca.key is closed by its own mode. */
static int open_folder(const char *data_dir, int *ret_fd, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/ca", data_dir) < 0)
        return bg_err_errno(err, -ENOMEM, "ca");
    bool made = mkdir(path, 0755) == 0;
    if (!made && errno != EEXIST)
        return bg_err_errno(err, -errno, "cannot make %s", path);
    BG_AUTOCLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || (made && fchmod(fd, 0755) < 0)) /* whatever the umask */
        return bg_err_errno(err, -errno, "%s", path);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

static int lock_folder(int dir_fd, int *ret_fd, struct bg_err *err)
{
    BG_AUTOCLOSE int lock = openat(dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock < 0)
        return bg_err_errno(err, -errno, "lock");
    while (flock(lock, LOCK_EX) < 0)
        if (errno != EINTR)
            return bg_err_errno(err, -errno, "lock");
    *ret_fd = bg_take_fd(&lock);
    return 0;
}

static bool is_there(int dir_fd, const char *name)
{
    struct stat st;
    return fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT;
}

static int ensure_files(int dir_fd, const char *pem, struct tls_ca *ca, struct bg_err *err)
{
    int r = 0;
    if (!is_there(dir_fd, CERTIFICATE_FILE) && !is_there(dir_fd, KEY_FILE))
        r = make_files(dir_fd, err);
    if (r == 0)
        r = load_files(dir_fd, ca, err);
    return r == 0 && pem ? load_wanted(dir_fd, ca, pem, err) : r;
}

int tls_ca_open(const char *data_dir, const char *pem, struct tls_ca **ret, struct bg_err *err)
{
    BG_AUTOCLOSE int dir_fd = -1;
    BG_AUTOCLOSE int lock = -1;
    int r = open_folder(data_dir, &dir_fd, err);
    if (r < 0)
        return r;
    struct tls_ca *ca = calloc(1, sizeof *ca);
    if (ca)
        ca->leaves = calloc(BG_EGRESS_LEAVES_MAX, sizeof *ca->leaves);
    r = ca && ca->leaves ? lock_folder(dir_fd, &lock, err) : bg_err_errno(err, -ENOMEM, "CA");
    if (r == 0)
        r = ensure_files(dir_fd, pem, ca, err);
    if (r < 0)
        (void)bg_err_prefix(err, "CA in %s/ca", data_dir);
    if (r == 0) {
        ca->leaf_key = EVP_EC_gen("P-256");
        if (!ca->leaf_key)
            r = tls_error(err, -EIO, "cannot make a key for leaves");
    }
    if (r < 0) {
        tls_ca_close(ca);
        return r;
    }
    *ret = ca;
    return 0;
}

void tls_ca_close(struct tls_ca *ca)
{
    if (!ca)
        return;
    for (size_t i = 0; ca->leaves && i < BG_EGRESS_LEAVES_MAX; i++)
        X509_free(ca->leaves[i].certificate);
    free(ca->leaves);
    EVP_PKEY_free(ca->leaf_key);
    EVP_PKEY_free(ca->key);
    X509_free(ca->certificate);
    free(ca);
}

/* ---- a new CA, and the ones before ---- */

static int open_old(int dir_fd, bool make, int *ret_fd, struct bg_err *err)
{
    if (make && mkdirat(dir_fd, OLD_FOLDER, 0700) < 0 && errno != EEXIST)
        return bg_err_errno(err, -errno, OLD_FOLDER);
    int fd = openat(dir_fd, OLD_FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT && !make ? -ENOENT : bg_err_errno(err, -errno, OLD_FOLDER);
    *ret_fd = fd;
    return 0;
}

/* Calls on_one for each of them; what has another name is a temporary file, which goes. */
static int each_old(int old_fd, int (*on_one)(void *owner, int old_fd, const char *hash),
                    void *owner, struct bg_err *err)
{
    int fd = openat(old_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int r = bg_err_errno(err, -errno, OLD_FOLDER);
        if (fd >= 0)
            (void)close(fd); /* nothing was read */
        return r;
    }
    int r = 0;
    for (const struct dirent *entry; r == 0 && (entry = readdir(dir));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (strlen(entry->d_name) == 64)
            r = on_one(owner, old_fd, entry->d_name);
        else if (unlinkat(old_fd, entry->d_name, 0) < 0)
            r = -errno;
        if (r < 0)
            (void)bg_err_errno(err, r, OLD_FOLDER "/%s", entry->d_name);
    }
    (void)closedir(dir); /* read only */
    return r;
}

static int count_one(void *owner, int old_fd, const char *hash)
{
    (void)old_fd;
    (void)hash;
    ++*(size_t *)owner;
    return 0;
}

static int keep_present(int dir_fd, const struct tls_ca *ca, struct bg_err *err)
{
    BG_AUTOCLOSE int old_fd = -1;
    char hash[2 * 32 + 1];
    size_t count = 0;
    int r = open_old(dir_fd, /* make= */ true, &old_fd, err);
    if (r == 0)
        r = each_old(old_fd, count_one, &count, err);
    if (r == 0 && count >= BG_CA_OLD_MAX)
        r = bg_err_set(err, -EUSERS,
                       "%zu older CAs are still in use; restart the sandboxes that "
                       "'bellglass ca show' names, then try again",
                       count);
    if (r == 0 && !hash_of(ca->certificate, hash))
        r = tls_error(err, -EIO, "cannot keep the CA");
    return r < 0 ? r : write_pair(old_fd, hash, ca->key, ca->certificate, err);
}

int tls_ca_rotate(const char *data_dir, struct bg_err *err)
{
    BG_AUTOCLOSE int dir_fd = -1;
    BG_AUTOCLOSE int lock = -1;
    BG_AUTOFREE char *pem = NULL;
    struct tls_ca ca = {0};
    int r = open_folder(data_dir, &dir_fd, err);
    if (r == 0)
        r = lock_folder(dir_fd, &lock, err);
    if (r == 0) {
        r = read_files(dir_fd, &ca, &pem, err);
        if (r == 0)
            r = keep_present(dir_fd, &ca, err);
        else if (r == -EUCLEAN || r == -ENOENT)
            r = 0; /* nobody can use it, nor a new one be lost by it */
    }
    if (r == 0)
        r = make_files(dir_fd, err);
    EVP_PKEY_free(ca.key);
    X509_free(ca.certificate);
    return r < 0 ? bg_err_prefix(err, "CA in %s/ca", data_dir) : 0;
}

struct forgetting {
    bool (*is_used)(void *owner, const char *sha256);
    void *owner;
};

static int forget_one(void *owner, int old_fd, const char *hash)
{
    const struct forgetting *f = owner;
    if (f->is_used(f->owner, hash))
        return 0;
    return unlinkat(old_fd, hash, 0) < 0 ? -errno : 0;
}

int tls_ca_forget(const char *data_dir, bool (*is_used)(void *owner, const char *sha256),
                  void *owner, struct bg_err *err)
{
    struct forgetting f = {.is_used = is_used, .owner = owner};
    BG_AUTOCLOSE int dir_fd = -1;
    BG_AUTOCLOSE int lock = -1;
    BG_AUTOCLOSE int old_fd = -1;
    int r = open_folder(data_dir, &dir_fd, err);
    if (r == 0)
        r = lock_folder(dir_fd, &lock, err);
    if (r == 0)
        r = open_old(dir_fd, /* make= */ false, &old_fd, err);
    if (r == -ENOENT)
        return 0;
    if (r == 0)
        r = each_old(old_fd, forget_one, &f, err);
    return r < 0 ? bg_err_prefix(err, "CA in %s/ca", data_dir) : 0;
}

static bool time_text(const ASN1_TIME *time, char out[32])
{
    struct tm tm;
    return ASN1_TIME_to_tm(time, &tm) == 1 && strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm) > 0;
}

int tls_ca_facts(const char *pem, struct tls_ca_facts *ret, struct bg_err *err)
{
    struct tls_ca_facts facts = {0};
    X509 *certificate = certificate_of(pem, strlen(pem));
    BIO *subject = BIO_new(BIO_s_mem());
    bool ok =
        certificate && subject && hash_of(certificate, facts.sha256) &&
        time_text(X509_get0_notBefore(certificate), facts.not_before) &&
        time_text(X509_get0_notAfter(certificate), facts.not_after) &&
        X509_NAME_print_ex(subject, X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253) >= 0 &&
        BIO_read(subject, facts.subject, sizeof facts.subject - 1) > 0;
    X509_free(certificate);
    BIO_free(subject);
    ERR_clear_error();
    if (!ok)
        return bg_err_set(err, -EUCLEAN, "no certificate");
    *ret = facts;
    return 0;
}

/* ---- leaves ---- */

static bool add_alt_name(X509 *x, const struct destination *destination)
{
    ASN1_STRING *value = destination->is_address ? ASN1_OCTET_STRING_new() : ASN1_IA5STRING_new();
    GENERAL_NAME *name = GENERAL_NAME_new();
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    bool ok = value && name && names;
    if (ok && destination->is_address)
        ok = ASN1_STRING_set(value, destination->address.bytes,
                             destination->address.family == 4 ? 4 : 16);
    else if (ok)
        ok = ASN1_STRING_set(value, destination->host, -1);
    if (ok) {
        GENERAL_NAME_set0_value(name, destination->is_address ? GEN_IPADD : GEN_DNS, value);
        value = NULL;
        ok = sk_GENERAL_NAME_push(names, name) > 0;
    }
    if (ok) {
        name = NULL;
        ok = X509_add1_ext_i2d(x, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) > 0;
    }
    ASN1_STRING_free(value);
    GENERAL_NAME_free(name);
    GENERAL_NAMES_free(names);
    return ok;
}

static X509 *mint(struct tls_ca *ca, const struct destination *destination)
{
    /* RFC 5280 bounds the common name to 64; what counts is the alternative name. */
    const char *common_name = strlen(destination->host) <= 64 ? destination->host : "leaf";
    X509 *x = X509_new();
    bool ok = x && X509_set_version(x, X509_VERSION_3) && set_serial(x) &&
              set_name(x, common_name) &&
              X509_set_issuer_name(x, X509_get_subject_name(ca->certificate)) &&
              set_life(x, LEAF_DAYS) && X509_set_pubkey(x, ca->leaf_key) &&
              add_extension(x, ca->certificate, NID_basic_constraints, "critical,CA:FALSE") &&
              add_extension(x, ca->certificate, NID_key_usage, "critical,digitalSignature") &&
              add_extension(x, ca->certificate, NID_ext_key_usage, "serverAuth") &&
              add_extension(x, ca->certificate, NID_subject_key_identifier, "hash") &&
              add_extension(x, ca->certificate, NID_authority_key_identifier, "keyid") &&
              add_alt_name(x, destination) && X509_sign(x, ca->key, EVP_sha256());
    if (!ok) {
        X509_free(x);
        return NULL;
    }
    return x;
}

/* The cached leaf for the host, or the slot where a new one goes: a free one or that of the leaf
 * which is unused for longest; of a host that is not allowed only in the place of another such.
 * NULL: there is none. */
static struct leaf *find_slot(struct tls_ca *ca, const struct tls_ca_leaf *what)
{
    struct leaf *oldest = NULL;
    for (size_t i = 0; i < BG_EGRESS_LEAVES_MAX; i++) {
        struct leaf *leaf = &ca->leaves[i];
        if (leaf->certificate && strcmp(leaf->host, what->destination->host) == 0)
            return leaf;
        if (leaf->certificate && leaf->allowed && !what->allowed)
            continue;
        if (!oldest ||
            (oldest->certificate && (!leaf->certificate || leaf->last_use < oldest->last_use)))
            oldest = leaf;
    }
    return oldest;
}

static bool is_fresh(const struct leaf *leaf, const char *host, time_t now)
{
    return leaf && leaf->certificate && strcmp(leaf->host, host) == 0 && now >= leaf->minted &&
           now - leaf->minted < LEAF_FRESH_S;
}

static int use(const struct tls_ca *ca, X509 *certificate, SSL *ssl, struct bg_err *err)
{
    if (SSL_use_certificate(ssl, certificate) != 1 || SSL_use_PrivateKey(ssl, ca->leaf_key) != 1)
        return tls_error(err, -EIO, "cannot use a certificate");
    return 0;
}

int tls_ca_use_leaf(struct tls_ca *ca, const struct tls_ca_leaf *what, SSL *ssl, struct bg_err *err)
{
    const char *host = what->destination->host;
    struct leaf *leaf = find_slot(ca, what);
    time_t now = time(NULL);
    if (is_fresh(leaf, host, now)) {
        leaf->last_use = ++ca->uses;
        leaf->allowed |= what->allowed;
        return use(ca, leaf->certificate, ssl, err);
    }
    if (!ca->minting.size)
        bucket_init(&ca->minting, BG_EGRESS_MINT_BURST, BG_EGRESS_MINT_RATE, what->now_ms);
    if (!bucket_take(&ca->minting, what->allowed ? 0 : BG_EGRESS_MINT_ALLOWED, what->now_ms))
        return bg_err_set(err, -EAGAIN, "certificates for too many new names are asked for");
    X509 *certificate = mint(ca, what->destination);
    if (!certificate)
        return tls_error(err, -EIO, "cannot make a certificate");
    int r = use(ca, certificate, ssl, err);
    if (r < 0 || !leaf) { /* the session holds it as long as it needs it */
        X509_free(certificate);
        return r;
    }
    X509_free(leaf->certificate);
    *leaf = (struct leaf){.certificate = certificate,
                          .allowed = what->allowed,
                          .minted = now,
                          .last_use = ++ca->uses};
    (void)snprintf(leaf->host, sizeof leaf->host, "%s", host);
    return 0;
}
