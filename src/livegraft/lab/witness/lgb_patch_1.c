// SPDX-License-Identifier: GPL-2.0
#define LGB_COUNT 1
#include "lgb_payload.h"
