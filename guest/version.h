/* What HELLO and --version say. BG_VERSION comes from meson.build. */
#pragma once

#define AGENT_VERSION BG_VERSION
