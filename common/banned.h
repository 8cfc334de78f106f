/* Calls that this project does not use: each has a bounded or safer sibling. Included before every
 * source by the build, so that a use does not compile. */
#pragma once

/* The headers that declare them come first, else the poisoned names break the declarations. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#pragma GCC poison strcpy strcat strncpy strncat sprintf vsprintf strtok atoi atol atoll gets
#pragma GCC poison system popen mktemp tmpnam tempnam
