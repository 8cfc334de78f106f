#include "common/state/qcow2.h"

#include "common/bytes.h"

/* Numbers from QEMU's docs/interop/qcow2.txt. */
#define MAGIC            0x514649fbu
#define VERSION          3u
#define CLUSTER_BITS_MIN 9u
#define CLUSTER_BITS_MAX 21u
#define FEATURE_DIRTY    1u /* its reference counts may be off; QEMU puts them right */

static uint64_t read_u64be(struct bg_reader *in)
{
    uint64_t high = bg_reader_u32be(in);
    return high << 32 | bg_reader_u32be(in);
}

int qcow2_check(const uint8_t *bytes, size_t size, struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(bytes, size);
    uint32_t magic = bg_reader_u32be(&in);
    uint32_t version = bg_reader_u32be(&in);
    (void)read_u64be(&in);      /* where the backing file's name is: not looked at */
    (void)bg_reader_u32be(&in); /* and its size */
    uint32_t cluster_bits = bg_reader_u32be(&in);
    (void)read_u64be(&in); /* size of the disk */
    uint32_t encryption = bg_reader_u32be(&in);
    (void)bg_reader_bytes(&in, 72 - 36); /* tables and internal snapshots: QEMU checks them */
    uint64_t incompatible = read_u64be(&in);
    if (!bg_reader_ok(&in) || magic != MAGIC)
        return bg_err_set(err, -EMEDIUMTYPE, "not a qcow2 disk");
    if (version != VERSION || cluster_bits < CLUSTER_BITS_MIN || cluster_bits > CLUSTER_BITS_MAX)
        return bg_err_set(err, -EMEDIUMTYPE, "not a disk that bellglass made (version %u)",
                          version);
    if (encryption != 0 || (incompatible & ~(uint64_t)FEATURE_DIRTY) != 0)
        return bg_err_set(err, -EMEDIUMTYPE,
                          "not a disk that bellglass made: its header asks for encryption, another "
                          "file or a newer format (features 0x%llx)",
                          (unsigned long long)incompatible);
    return 0;
}
