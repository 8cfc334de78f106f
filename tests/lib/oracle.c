#include "tests/lib/oracle.h"

#include <stdlib.h>
#include <string.h>

/* Writes records, each the hash of the one before, to a list in memory, a file and a mapping of
 * another one, in this order. Asked over a socket, it says how many it has and whether the three
 * agree: the file and the mapping may be one behind, since a snapshot may fall between two steps.
 */
static const char oracle[] =
    "import hashlib, mmap, os, socket, sys, threading, time\n"
    "SIZE = 32\n"
    "ROOM = 1 << 16\n"
    "home, pause = sys.argv[1], float(sys.argv[2])\n"
    "records = [b'\\0' * SIZE]\n"
    "written = os.open(home + '/written', os.O_RDWR | os.O_CREAT | os.O_TRUNC)\n"
    "mapped = os.open(home + '/mapped', os.O_RDWR | os.O_CREAT | os.O_TRUNC)\n"
    "os.ftruncate(mapped, ROOM * SIZE)\n"
    "memory = mmap.mmap(mapped, ROOM * SIZE)\n"
    "step = threading.Lock()\n"
    "def write():\n"
    "    n = 1\n"
    "    while n < ROOM:\n"
    "        with step:\n"
    "            record = hashlib.sha256(records[-1] + n.to_bytes(8, 'little')).digest()\n"
    "            records.append(record)\n"
    "            os.pwrite(written, record, n * SIZE)\n"
    "            memory[n * SIZE:(n + 1) * SIZE] = record\n"
    "        n += 1\n"
    "        if pause > 0: threading.Event().wait(pause)\n"
    "        if n % 64 == 0:\n"
    "            os.fdatasync(written)\n"
    "def check():\n"
    "    with step:\n"
    "        last = b'\\0' * SIZE\n"
    "        for n, record in enumerate(records[1:], 1):\n"
    "            last = hashlib.sha256(last + n.to_bytes(8, 'little')).digest()\n"
    "            if record != last: return 'memory %d' % n\n"
    "            if os.pread(written, SIZE, n * SIZE) != last: return 'file %d' % n\n"
    "            if memory[n * SIZE:(n + 1) * SIZE] != last: return 'mapping %d' % n\n"
    "        return 'good %d' % (len(records) - 1)\n"
    "threading.Thread(target=write, daemon=True).start()\n"
    "path = home + '/oracle'\n"
    "listener = socket.socket(socket.AF_UNIX)\n"
    "listener.bind(path)\n"
    "listener.listen()\n"
    "while True:\n"
    "    peer, _ = listener.accept()\n"
    "    peer.sendall(check().encode())\n"
    "    peer.close()\n";

static const char asks[] = "import socket, sys\n"
                           "s = socket.socket(socket.AF_UNIX)\n"
                           "s.connect(sys.argv[1] + '/oracle')\n"
                           "print(s.makefile().read())\n";

void oracle_start(struct vm *vm, const char *s, unsigned pause_ms)
{
    const char *at = vm_path(vm, "oracle.py"), *ask = vm_path(vm, "ask.py");
    vm_write(at, oracle, sizeof oracle - 1);
    vm_write(ask, asks, sizeof asks - 1);
    (void)vm_ok(vm, "cp", at, vm_text(vm, "%s:/home/app/oracle.py", s), NULL);
    (void)vm_ok(vm, "cp", ask, vm_text(vm, "%s:/home/app/ask.py", s), NULL);
    (void)vm_guest(vm, s,
                   "rm -rf o; mkdir o; setsid python3 oracle.py o %u.%03u >o/log 2>&1 </dev/null & "
                   "until [ -S o/oracle ]; do sleep 0.1; done",
                   pause_ms / 1000, pause_ms % 1000);
}

long oracle_ask(struct vm *vm, const char *s)
{
    const char *said = vm_guest(vm, s, "python3 ask.py o || cat o/log");
    if (strncmp(said, "good ", 5) != 0)
        fail_msg("%s: the oracle says: %s", s, said);
    return strtol(said + 5, NULL, 10);
}
