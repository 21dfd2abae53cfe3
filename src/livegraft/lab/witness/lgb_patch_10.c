// SPDX-License-Identifier: GPL-2.0
#define LGB_COUNT 10
#include "lgb_payload.h"
