// SPDX-License-Identifier: GPL-2.0
#include "lgc_payload.h"
