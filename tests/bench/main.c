/* bellglass-bench start|exec|vsock IMAGE MODULES|memory|layers|snapshot|scale: one benchmark;
 * tests/bench/run calls it with BELLGLASS_HOME, BG_TEST_BELLGLASS and the rest set up. */
#include <stdio.h>
#include <string.h>

#include "tests/bench/measure.h"

int main(int argc, char **argv)
{
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 2 && strcmp(argv[1], "start") == 0)
        bench_start();
    else if (argc == 2 && strcmp(argv[1], "exec") == 0)
        bench_exec();
    else if (argc == 4 && strcmp(argv[1], "vsock") == 0)
        bench_vsock(argv[2], argv[3]);
    else if (argc == 2 && strcmp(argv[1], "memory") == 0)
        bench_memory();
    else if (argc == 2 && strcmp(argv[1], "layers") == 0)
        bench_layers();
    else if (argc == 2 && strcmp(argv[1], "snapshot") == 0)
        bench_snapshot();
    else if (argc == 2 && strcmp(argv[1], "scale") == 0)
        bench_scale();
    else
        bench_fail("usage: %s start|exec|vsock IMAGE MODULES|memory|layers|snapshot|scale",
                   argv[0]);
    return 0;
}
