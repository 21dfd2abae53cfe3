/* SPDX-License-Identifier: GPL-2.0 */
/* LGB_EACH(X): X(0) to X(499), as LGB_COUNT (1, 10, 100 or 500) says. */
#define LGB_10(X, n)	X(n##0) X(n##1) X(n##2) X(n##3) X(n##4) \
			X(n##5) X(n##6) X(n##7) X(n##8) X(n##9)
#define LGB_100(X, n)	LGB_10(X, n##0) LGB_10(X, n##1) LGB_10(X, n##2) LGB_10(X, n##3) \
			LGB_10(X, n##4) LGB_10(X, n##5) LGB_10(X, n##6) LGB_10(X, n##7) \
			LGB_10(X, n##8) LGB_10(X, n##9)
#if LGB_COUNT == 1
#define LGB_EACH(X)	X(000)
#elif LGB_COUNT == 10
#define LGB_EACH(X)	LGB_10(X, 00)
#elif LGB_COUNT == 100
#define LGB_EACH(X)	LGB_100(X, 0)
#else
#define LGB_EACH(X)	LGB_100(X, 0) LGB_100(X, 1) LGB_100(X, 2) LGB_100(X, 3) LGB_100(X, 4)
#endif
