/* confirm: asks the person at the terminal before something is lost. */
#pragma once

#include <stdbool.h>

/* Prints the question with " [y/N] " and reads the answer. True without a word if there is no
 * terminal to ask at: a program has decided already. */
bool confirm(const char *question);
