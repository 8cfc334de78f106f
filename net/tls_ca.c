#include "net/tls_ca.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "common/io.h"
#include "common/limits.h"

#define FILE_SIZE_MAX (64u * 1024)
#define CA_DAYS       3650
#define LEAF_DAYS     7
#define LEAF_FRESH_S                                                                               \
    86400                  /* a leaf is handed out so long; then there are days of validity left   \
                            */
#define CLOCK_SKEW_S 86400 /* a guest's clock may be behind until its identity is set */
#define SERIAL_BITS  127   /* positive, and of 16 bytes */

struct leaf {
    char host[DESTINATION_HOST_SIZE];
    X509 *certificate; /* NULL: free slot */
    time_t minted;
    uint64_t last_use;
};

struct tls_ca {
    EVP_PKEY *key;
    X509 *certificate;
    EVP_PKEY *leaf_key;
    struct leaf *leaves; /* BG_EGRESS_LEAVES_MAX */
    uint64_t uses;
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

static int make_files(int dir_fd, struct bg_err *err)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *root = key ? make_root(key) : NULL;
    BIO *key_text = BIO_new(BIO_s_mem()), *root_text = BIO_new(BIO_s_mem());
    int r = 0;
    if (!root || !key_text || !root_text ||
        !PEM_write_bio_PKCS8PrivateKey(key_text, key, NULL, NULL, 0, NULL, NULL) ||
        !PEM_write_bio_X509(root_text, root))
        r = tls_error(err, -EIO, "cannot make a CA");
    /* The certificate last: with it the CA is there. */
    if (r == 0)
        r = write_bio(dir_fd, "ca.key", key_text, 0600, err);
    if (r == 0)
        r = write_bio(dir_fd, "ca.pem", root_text, 0644, err);
    if (r == 0 && fchmodat(dir_fd, "ca.pem", 0644, 0) < 0) /* whatever the umask */
        r = bg_err_errno(err, -errno, "ca.pem");
    BIO_free(key_text);
    BIO_free(root_text);
    X509_free(root);
    EVP_PKEY_free(key);
    return r;
}

static int load_files(int dir_fd, struct tls_ca *ca, struct bg_err *err)
{
    BG_AUTOFREE char *key_text = NULL;
    BG_AUTOFREE char *root_text = NULL;
    size_t key_size, root_size;
    int r = bg_read_file(dir_fd, "ca.pem", FILE_SIZE_MAX, &root_text, &root_size, err);
    if (r == 0)
        r = bg_read_file(dir_fd, "ca.key", FILE_SIZE_MAX, &key_text, &key_size, err);
    if (r < 0)
        return r;
    BIO *key_bio = BIO_new_mem_buf(key_text, (int)key_size);
    BIO *root_bio = BIO_new_mem_buf(root_text, (int)root_size);
    if (key_bio && root_bio) {
        ca->key = PEM_read_bio_PrivateKey(key_bio, NULL, NULL, NULL);
        ca->certificate = PEM_read_bio_X509(root_bio, NULL, NULL, NULL);
    }
    BIO_free(key_bio);
    BIO_free(root_bio);
    explicit_bzero(key_text, key_size);
    if (!ca->key || !ca->certificate || !X509_check_private_key(ca->certificate, ca->key)) {
        ERR_clear_error();
        return bg_err_set(err, -EUCLEAN,
                          "ca.key and ca.pem are damaged or do not fit each other; "
                          "remove both and a new CA is made");
    }
    return 0;
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

static int ensure_files(int dir_fd, struct tls_ca *ca, struct bg_err *err)
{
    BG_AUTOCLOSE int lock = openat(dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock < 0)
        return bg_err_errno(err, -errno, "lock");
    while (flock(lock, LOCK_EX) < 0)
        if (errno != EINTR)
            return bg_err_errno(err, -errno, "lock");
    struct stat st;
    if (fstatat(dir_fd, "ca.pem", &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT) {
        int r = make_files(dir_fd, err);
        if (r < 0)
            return r;
    }
    return load_files(dir_fd, ca, err);
}

int tls_ca_open(const char *data_dir, struct tls_ca **ret, struct bg_err *err)
{
    BG_AUTOCLOSE int dir_fd = -1;
    int r = open_folder(data_dir, &dir_fd, err);
    if (r < 0)
        return r;
    struct tls_ca *ca = calloc(1, sizeof *ca);
    if (ca)
        ca->leaves = calloc(BG_EGRESS_LEAVES_MAX, sizeof *ca->leaves);
    r = ca && ca->leaves ? ensure_files(dir_fd, ca, err) : bg_err_errno(err, -ENOMEM, "CA");
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

/* The cached leaf for the host, or the slot where a new one goes: a free or the longest unused. */
static struct leaf *find_slot(struct tls_ca *ca, const char *host)
{
    struct leaf *oldest = &ca->leaves[0];
    for (size_t i = 0; i < BG_EGRESS_LEAVES_MAX; i++) {
        struct leaf *leaf = &ca->leaves[i];
        if (leaf->certificate && strcmp(leaf->host, host) == 0)
            return leaf;
        if (oldest->certificate && (!leaf->certificate || leaf->last_use < oldest->last_use))
            oldest = leaf;
    }
    return oldest;
}

int tls_ca_use_leaf(struct tls_ca *ca, const struct destination *destination, SSL *ssl,
                    struct bg_err *err)
{
    struct leaf *leaf = find_slot(ca, destination->host);
    time_t now = time(NULL);
    bool fresh = leaf->certificate && strcmp(leaf->host, destination->host) == 0 &&
                 now >= leaf->minted && now - leaf->minted < LEAF_FRESH_S;
    if (!fresh) {
        X509 *certificate = mint(ca, destination);
        if (!certificate)
            return tls_error(err, -EIO, "cannot make a certificate");
        X509_free(leaf->certificate);
        *leaf = (struct leaf){.certificate = certificate, .minted = now};
        (void)snprintf(leaf->host, sizeof leaf->host, "%s", destination->host);
    }
    leaf->last_use = ++ca->uses;
    if (SSL_use_certificate(ssl, leaf->certificate) != 1 ||
        SSL_use_PrivateKey(ssl, ca->leaf_key) != 1)
        return tls_error(err, -EIO, "cannot use a certificate");
    return 0;
}
