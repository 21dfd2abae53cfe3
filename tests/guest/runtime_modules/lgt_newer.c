// SPDX-License-Identifier: GPL-2.0
#include "lgt_payload.c"
