/* The presets that come with bellglass: policies/NAME.yaml among its data files. */
#pragma once

#include "net/policy_file.h"

extern const struct policy_presets presets_installed;
