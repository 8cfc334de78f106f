#include "common/state/sandbox.h"
