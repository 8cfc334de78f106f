#include "common/state/image.h"
