/* SPDX-License-Identifier: GPL-2.0 */
/* lgc_processors.h - for programs that compute in emulated guests */
#ifndef LGC_PROCESSORS_H
#define LGC_PROCESSORS_H

/*
 * One emulated processor runs at a time, for a tenth of a second if it has something to do, and a
 * kernel that tells the other ones something waits as long; one that rewrites its code does so
 * thousands of times. PAUSE hands over, and the processors run as if side by side.
 */
static inline void lgc_hand_over(void)
{
	asm volatile("pause");
}

#endif /* LGC_PROCESSORS_H */
