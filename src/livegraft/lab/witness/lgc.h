/* SPDX-License-Identifier: GPL-2.0 */
/*
 * lgc.h - functions that are patched, and what is recorded of them
 *
 * lgc_target has version 0 of each function, lgc_one and lgc_pair bring 1, lgc_two brings 2.
 * Callers of lgc_f1() and lgc_f2() record which versions they have met; more than one is "mixed".
 */
#ifndef LGC_H
#define LGC_H

#include <linux/delay.h>
#include <linux/errno.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/wait.h>

#define LGC_VERSIONS	3

/**
 * enum lgc_context - from where lgc_f1() and lgc_f2() are called
 * @LGC_SYSCALL:	lgc_caller(), patched, in a system call
 * @LGC_EXIT:		the same in a task that exits, when its files are closed
 * @LGC_WORKER:		the same in a worker of io_uring
 * @LGC_KTHREAD:	the same in a kernel thread
 * @LGC_SOFTIRQ:	the same in a softirq
 * @LGC_HARDIRQ:	the same in a hard interrupt
 * @LGC_NMI:		the same in an NMI
 * @LGC_COLD:		the cold part of lgc_cold(), patched, which sleeps between the two
 * @LGC_APART:		lgc_apart(), not patched, which sleeps between the two, in a system call
 * @LGC_APART_EXIT:	the same in a task that exits
 * @LGC_APART_BH:	the same in a system call that has bottom halves off for the second one
 * @LGC_CONTEXTS:	how many there are
 */
enum lgc_context {
	LGC_SYSCALL,
	LGC_EXIT,
	LGC_WORKER,
	LGC_KTHREAD,
	LGC_SOFTIRQ,
	LGC_HARDIRQ,
	LGC_NMI,
	LGC_COLD,
	LGC_APART,
	LGC_APART_EXIT,
	LGC_APART_BH,
	LGC_CONTEXTS,
};

/**
 * struct lgc_counts - what one processor has counted, by single instructions: NMIs count, too
 * @calls:	by the version of lgc_f1() that was met
 * @mixed:	calls that met more than one version
 * @late:	calls of another version after the one that is watched for had been called
 */
struct lgc_counts {
	unsigned long	calls[LGC_CONTEXTS][LGC_VERSIONS];
	unsigned long	mixed[LGC_CONTEXTS];
	unsigned long	late;
};

DECLARE_PER_CPU(struct lgc_counts, lgc_counts);
extern int lgc_watched;
extern bool lgc_seen[LGC_VERSIONS];
extern wait_queue_head_t lgc_bed;
extern unsigned long lgc_wakes;

/* Called by every version, so that a call goes where the function is redirected to. */
int lgc_f1(void);
int lgc_f2(void);

/* A block that calls it is a cold one, from there on. Not __cold: 6.12 makes nothing of that. */
void lgc_slumber(unsigned int us) __attribute__((__cold__));

/* Nothing of it is inlined, cloned, or known to its callers; but it can be traced. */
#define LGC_FUNCTION	__attribute__((__noipa__))

static __always_inline void lgc_entered(int version)
{
	int watched = READ_ONCE(lgc_watched);

	if (version == watched)
		WRITE_ONCE(lgc_seen[version], true);
	else if (watched >= 0 && READ_ONCE(lgc_seen[watched]))
		this_cpu_inc(lgc_counts.late);
}

static __always_inline void lgc_record(enum lgc_context context, int own, int first, int second)
{
	this_cpu_inc(lgc_counts.calls[context][first]);
	if (own != first || first != second)
		this_cpu_inc(lgc_counts.mixed[context]);
}

/* Sleep, or stay long enough for an interrupt to come. PAUSE takes long in an emulated guest. */
static __always_inline void lgc_pause(unsigned int us)
{
	int turn;

	if (us)
		usleep_range(us, us + us / 2);
	else
		for (turn = 0; turn < 300; turn++)
			barrier();
}

/*
 * The functions of a version. A version of lgc_doze() sleeps until it is woken by a write: "how" is
 * 0 whatever signals come, else the errno that a signal ends it with.
 */
#define LGC_MET(storage, name, version)							\
storage LGC_FUNCTION int name(f1)(void)							\
{											\
	lgc_entered(version);								\
	return version;									\
}											\
											\
storage LGC_FUNCTION int name(f2)(void)							\
{											\
	asm volatile("");								\
	return version;									\
}

#define LGC_CALLERS(name, version)							\
static LGC_FUNCTION void name(caller)(enum lgc_context context, unsigned int us)	\
{											\
	int first = lgc_f1();								\
											\
	lgc_pause(us);									\
	lgc_record(context, version, first, lgc_f2());					\
}											\
											\
static LGC_FUNCTION void name(cold)(unsigned int us)					\
{											\
	if (unlikely(us)) {								\
		int first;								\
											\
		lgc_slumber(1);								\
		first = lgc_f1();							\
		lgc_slumber(us);							\
		lgc_record(LGC_COLD, version, first, lgc_f2());				\
	}										\
	asm volatile("");								\
}											\
											\
static LGC_FUNCTION int name(doze)(int how)						\
{											\
	unsigned long wakes = READ_ONCE(lgc_wakes);					\
	int ret = 0;									\
											\
	if (how)									\
		ret = wait_event_interruptible(lgc_bed, READ_ONCE(lgc_wakes) != wakes);	\
	else										\
		wait_event(lgc_bed, READ_ONCE(lgc_wakes) != wakes);			\
	return ret ? -how : version;							\
}

#endif /* LGC_H */
