#include "common/state/qcow2.h"

#include <assert.h>

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

/* ---- an empty one ---- */

#define CLUSTER_BITS  16u
#define CLUSTER_SIZE  (1u << CLUSTER_BITS)
#define L2_BYTES      ((uint64_t)CLUSTER_SIZE / 8 * CLUSTER_SIZE) /* that one entry of L1 is for */
#define REFCOUNT_BITS 4u                                          /* the exponent: 16 bits */
#define CLUSTERS      (QCOW2_EMPTY_SIZE / CLUSTER_SIZE)

/* Where its parts are, in clusters. */
enum { AT_REFCOUNT_TABLE = 1, AT_REFCOUNTS, AT_L1 };

static void write_u64be(struct bg_writer *w, uint64_t value)
{
    bg_writer_u32be(w, (uint32_t)(value >> 32));
    bg_writer_u32be(w, (uint32_t)value);
}

void qcow2_emit_empty(uint64_t virtual_bytes, uint8_t out[QCOW2_EMPTY_SIZE])
{
    assert(virtual_bytes > 0 && virtual_bytes % 512 == 0 && virtual_bytes <= QCOW2_BYTES_MAX);
    struct bg_writer w = bg_writer_init(out, QCOW2_HEADER_SIZE);
    bg_writer_u32be(&w, MAGIC);
    bg_writer_u32be(&w, VERSION);
    write_u64be(&w, 0);     /* no name of a backing file */
    bg_writer_u32be(&w, 0); /* nor its size */
    bg_writer_u32be(&w, CLUSTER_BITS);
    write_u64be(&w, virtual_bytes);
    bg_writer_u32be(&w, 0); /* encryption */
    bg_writer_u32be(&w, (uint32_t)((virtual_bytes + L2_BYTES - 1) / L2_BYTES));
    write_u64be(&w, (uint64_t)AT_L1 * CLUSTER_SIZE);
    write_u64be(&w, (uint64_t)AT_REFCOUNT_TABLE * CLUSTER_SIZE);
    bg_writer_u32be(&w, 1); /* clusters of the refcount table */
    bg_writer_u32be(&w, 0); /* internal snapshots */
    write_u64be(&w, 0);
    write_u64be(&w, 0); /* features: incompatible, compatible, autoclear */
    write_u64be(&w, 0);
    write_u64be(&w, 0);
    bg_writer_u32be(&w, REFCOUNT_BITS);
    bg_writer_u32be(&w, QCOW2_HEADER_SIZE);
    assert(bg_writer_ok(&w) && w.used == QCOW2_HEADER_SIZE);
    struct bg_writer table = bg_writer_init(out + AT_REFCOUNT_TABLE * CLUSTER_SIZE, 8);
    write_u64be(&table, (uint64_t)AT_REFCOUNTS * CLUSTER_SIZE);
    for (size_t i = 0; i < CLUSTERS; i++)
        out[AT_REFCOUNTS * CLUSTER_SIZE + 2 * i + 1] = 1;
}
