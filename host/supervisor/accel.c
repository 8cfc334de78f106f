#include "host/supervisor/accel.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define CPUID_ENTRIES_MAX 256

const char *accel_name(enum accel accel)
{
    return accel == ACCEL_KVM ? "kvm" : "tcg";
}

/* Whether KVM's virtual CPU has what every x86-64 kernel takes for granted: SSE3 (leaf 1, ECX bit
 * 0), CX16 (ECX bit 13) and long mode (leaf 0x80000001, EDX bit 29). */
static int check_cpuid(int kvm, struct bg_err *why)
{
    BG_AUTOFREE struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof *cpuid + CPUID_ENTRIES_MAX * sizeof cpuid->entries[0]);
    if (!cpuid)
        return bg_err_errno(why, -ENOMEM, "/dev/kvm");
    cpuid->nent = CPUID_ENTRIES_MAX;
    if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid) < 0)
        return bg_err_errno(why, -errno, "/dev/kvm: supported CPU features");
    bool basic = false, long_mode = false;
    for (uint32_t i = 0; i < cpuid->nent && i < CPUID_ENTRIES_MAX; i++) {
        const struct kvm_cpuid_entry2 *e = &cpuid->entries[i];
        if (e->function == 1)
            basic = (e->ecx & (1u << 0 | 1u << 13)) == (1u << 0 | 1u << 13);
        if (e->function == 0x80000001)
            long_mode = (e->edx & 1u << 29) != 0;
    }
    if (!basic || !long_mode)
        return bg_err_set(why, -ENODEV,
                          "/dev/kvm opens, but its virtual CPU cannot run a 64-bit "
                          "Linux (no SSE3, CX16 or long mode)");
    return 0;
}

/* Runs one HLT in a virtual CPU: proves that the machine underneath lets KVM run at all. */
static int run_one_instruction(int kvm, struct bg_err *why)
{
    BG_AUTOCLOSE int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (vm < 0)
        return bg_err_errno(why, -errno, "/dev/kvm: cannot make a VM");
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return bg_err_errno(why, -errno, "/dev/kvm: memory");
    memset(page, 0xf4, 16); /* hlt */
    struct kvm_userspace_memory_region region = {.guest_phys_addr = 0x1000, .memory_size = 4096};
    region.userspace_addr = (uint64_t)(uintptr_t)page;
    int r = ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno : 0;
    BG_AUTOCLOSE int vcpu = r < 0 ? -1 : ioctl(vm, KVM_CREATE_VCPU, 0);
    if (r == 0 && vcpu < 0)
        r = -errno;
    int run_size = r < 0 ? 0 : ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (r == 0 && run_size < (int)sizeof(struct kvm_run))
        r = -EIO;
    if (r == 0) {
        struct kvm_run *run =
            mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
        struct kvm_sregs sregs;
        struct kvm_regs regs = {.rip = 0x1000, .rflags = 2};
        if (run == MAP_FAILED || ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0) {
            r = -errno;
        } else {
            sregs.cs.base = 0;
            sregs.cs.selector = 0;
            if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0 ||
                ioctl(vcpu, KVM_RUN, 0) < 0)
                r = -errno;
            else if (run->exit_reason != KVM_EXIT_HLT)
                r = -EIO;
        }
        if (run != MAP_FAILED)
            (void)munmap(run, (size_t)run_size); /* ours, just mapped */
    }
    (void)munmap(page, 4096);
    return r < 0 ? bg_err_errno(why, r, "/dev/kvm: cannot run a virtual CPU") : 0;
}

int accel_probe(enum accel *ret, struct bg_err *why)
{
    const char *forced = getenv("BELLGLASS_ACCEL");
    if (forced && *forced) {
        if (strcmp(forced, "kvm") != 0 && strcmp(forced, "tcg") != 0)
            return bg_err_set(why, -EINVAL, "BELLGLASS_ACCEL='%s': give kvm or tcg", forced);
        *ret = strcmp(forced, "kvm") == 0 ? ACCEL_KVM : ACCEL_TCG;
        (void)bg_err_set(why, 0, "set by BELLGLASS_ACCEL");
        return 0;
    }
    *ret = ACCEL_TCG;
    BG_AUTOCLOSE int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) {
        (void)bg_err_errno(why, -errno, "/dev/kvm");
        return 0;
    }
    if (check_cpuid(kvm, why) < 0 || run_one_instruction(kvm, why) < 0)
        return 0;
    *ret = ACCEL_KVM;
    (void)bg_err_set(why, 0, "/dev/kvm runs 64-bit guests");
    return 0;
}
