// SPDX-License-Identifier: GPL-2.0
/*
 * lgc_target.c - a module to be patched, that records which versions of its functions were met
 *
 * /proc/lgc is read for the counts, and written to for all the rest: a letter and a number.
 *
 *	cUS	lgc_caller(), which sleeps US microseconds between its calls; 0 it does not
 *	aUS	lgc_apart(), the same, but it is not patched
 *	bUS	lgc_apart_bh(), the same; bottom halves are off for its second call
 *	dUS	lgc_cold(), which sleeps in its cold part
 *	zERRNO	lgc_doze(); how many bytes were written is the version, and one more
 *	k0	wake those in lgc_doze()
 *	iUS	interrupts on each processor every US microseconds; 0 none
 *	tN	N kernel threads that call lgc_caller()
 *	vN	watch for the first call of version N; -1 for none
 *	r0	all counts are 0 again
 *
 * Closing it calls lgc_caller() and lgc_apart(), if anything was written.
 */
#include <linux/hrtimer.h>
#include <linux/interrupt.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>
#include <asm/apic.h>
#include <asm/nmi.h>

#include "lgc.h"

#define NAME(function)	lgc_##function
LGC_MET(, NAME, 0)
LGC_CALLERS(NAME, 0)
EXPORT_SYMBOL_GPL(lgc_f1);
EXPORT_SYMBOL_GPL(lgc_f2);

DEFINE_PER_CPU(struct lgc_counts, lgc_counts);
EXPORT_PER_CPU_SYMBOL_GPL(lgc_counts);
int lgc_watched = -1;
EXPORT_SYMBOL_GPL(lgc_watched);
bool lgc_seen[LGC_VERSIONS];
EXPORT_SYMBOL_GPL(lgc_seen);
DECLARE_WAIT_QUEUE_HEAD(lgc_bed);
EXPORT_SYMBOL_GPL(lgc_bed);
unsigned long lgc_wakes;
EXPORT_SYMBOL_GPL(lgc_wakes);

LGC_FUNCTION void lgc_slumber(unsigned int us)
{
	usleep_range(us, us + us / 2);
}
EXPORT_SYMBOL_GPL(lgc_slumber);

/* The caller that no patch has. */
static LGC_FUNCTION void lgc_apart(enum lgc_context context, unsigned int us)
{
	int first = lgc_f1();

	lgc_pause(us);
	lgc_record(context, first, first, lgc_f2());
}

/* in_interrupt() is true for the second call, and yet it is the task's own. */
static LGC_FUNCTION void lgc_apart_bh(unsigned int us)
{
	int first = lgc_f1(), second;

	lgc_pause(us);
	local_bh_disable();
	second = lgc_f2();
	local_bh_enable();
	lgc_record(LGC_APART_BH, first, first, second);
}

/* Interrupts: a timer on each processor, a softirq and an NMI that it causes. */

#define LGC_NMI_EVERY	8

static DEFINE_PER_CPU(struct hrtimer, lgc_timer);
static DEFINE_PER_CPU(struct tasklet_struct, lgc_tasklet);
static DEFINE_PER_CPU(bool, lgc_nmi_due);
static DEFINE_PER_CPU(unsigned int, lgc_turn);
static unsigned int lgc_period_us;

static void lgc_softirq(struct tasklet_struct *tasklet)
{
	lgc_caller(LGC_SOFTIRQ, 0);
}

static int lgc_nmi(unsigned int type, struct pt_regs *regs)
{
	if (!this_cpu_read(lgc_nmi_due))
		return NMI_DONE;
	this_cpu_write(lgc_nmi_due, false);
	lgc_caller(LGC_NMI, 0);
	return NMI_HANDLED;
}

/* To another processor, so that it comes in the middle of whatever that one is doing. */
static void lgc_send_nmi(void)
{
	unsigned int cpu = cpumask_next(smp_processor_id(), cpu_online_mask);

	if (cpu >= nr_cpu_ids)
		cpu = cpumask_first(cpu_online_mask);
	per_cpu(lgc_nmi_due, cpu) = true;
	apic->send_IPI(cpu, NMI_VECTOR);
}

static enum hrtimer_restart lgc_tick(struct hrtimer *timer)
{
	unsigned int us = READ_ONCE(lgc_period_us);

	lgc_caller(LGC_HARDIRQ, 0);
	tasklet_schedule(this_cpu_ptr(&lgc_tasklet));
	if (this_cpu_inc_return(lgc_turn) % LGC_NMI_EVERY == 0)
		lgc_send_nmi();
	hrtimer_forward_now(timer, ns_to_ktime(us * NSEC_PER_USEC));
	return us ? HRTIMER_RESTART : HRTIMER_NORESTART;
}

static void lgc_start_timer(void *unused)
{
	hrtimer_start(this_cpu_ptr(&lgc_timer), ns_to_ktime(lgc_period_us * NSEC_PER_USEC),
		      HRTIMER_MODE_REL_PINNED_HARD);
}

static void lgc_set_interrupts(unsigned int us)
{
	int cpu;

	WRITE_ONCE(lgc_period_us, 0);
	for_each_possible_cpu(cpu) {
		hrtimer_cancel(per_cpu_ptr(&lgc_timer, cpu));
		tasklet_kill(per_cpu_ptr(&lgc_tasklet, cpu));
	}
	WRITE_ONCE(lgc_period_us, us);
	if (us)
		on_each_cpu(lgc_start_timer, NULL, 1);
}

static void lgc_prepare_interrupts(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		struct hrtimer *timer = per_cpu_ptr(&lgc_timer, cpu);

		hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
		timer->function = lgc_tick;
		tasklet_setup(per_cpu_ptr(&lgc_tasklet, cpu), lgc_softirq);
	}
}

/* Kernel threads: half of the time inside lgc_caller(). */

#define LGC_THREADS_MOST	8
static struct task_struct *lgc_threads[LGC_THREADS_MOST];

static int lgc_thread(void *unused)
{
	unsigned int turn = 0;

	while (!kthread_should_stop()) {
		lgc_caller(LGC_KTHREAD, ++turn % 2 ? 0 : 5000);
		usleep_range(5000, 8000);
	}
	return 0;
}

static int lgc_set_threads(unsigned int count)
{
	struct task_struct *thread;
	unsigned int number;

	for (number = 0; number < LGC_THREADS_MOST; number++) {
		if (lgc_threads[number])
			kthread_stop(lgc_threads[number]);
		lgc_threads[number] = NULL;
	}
	for (number = 0; number < min_t(unsigned int, count, LGC_THREADS_MOST); number++) {
		thread = kthread_run(lgc_thread, NULL, "lgc/%u", number);
		if (IS_ERR(thread))
			return PTR_ERR(thread);
		lgc_threads[number] = thread;
	}
	return 0;
}

/* The file. */

static DEFINE_MUTEX(lgc_settings);

/* A writer of the version watched before may come late: that is no entry of the new one. */
static void lgc_watch(int version)
{
	WRITE_ONCE(lgc_watched, -1);
	if (version < 0 || version >= LGC_VERSIONS)
		return;
	synchronize_rcu();
	WRITE_ONCE(lgc_seen[version], false);
	smp_wmb();	/* whoever watches for it sees it as not seen; nothing else is read with it */
	WRITE_ONCE(lgc_watched, version);
}

static void lgc_reset(void)
{
	int cpu;

	for_each_possible_cpu(cpu)
		memset(per_cpu_ptr(&lgc_counts, cpu), 0, sizeof(struct lgc_counts));
}

static int lgc_set(char what, int number)
{
	int ret = 0;

	mutex_lock(&lgc_settings);
	switch (what) {
	case 'i':
		lgc_set_interrupts(number);
		break;
	case 't':
		ret = lgc_set_threads(number);
		break;
	case 'v':
		lgc_watch(number);
		break;
	case 'r':
		lgc_reset();
		break;
	default:
		ret = -EINVAL;
	}
	mutex_unlock(&lgc_settings);
	return ret;
}

static int lgc_do(char what, int number)
{
	bool worker = current->flags & PF_IO_WORKER;

	switch (what) {
	case 'c':
		lgc_caller(worker ? LGC_WORKER : LGC_SYSCALL, number);
		return 0;
	case 'a':
		lgc_apart(LGC_APART, number);
		return 0;
	case 'b':
		lgc_apart_bh(number);
		return 0;
	case 'd':
		lgc_cold(number);
		return 0;
	case 'z':
		return lgc_doze(number);
	case 'k':
		WRITE_ONCE(lgc_wakes, lgc_wakes + 1);
		wake_up_all(&lgc_bed);
		return 0;
	}
	return lgc_set(what, number);
}

static ssize_t lgc_write(struct file *file, const char __user *text, size_t count, loff_t *at)
{
	char buffer[16];
	int number, ret;

	if (count < 2 || count >= sizeof(buffer))
		return -EINVAL;
	if (copy_from_user(buffer, text, count))
		return -EFAULT;
	buffer[count] = '\0';
	ret = kstrtoint(buffer + 1, 10, &number);
	if (ret)
		return ret;
	WRITE_ONCE(((struct seq_file *)file->private_data)->private, file);
	ret = lgc_do(buffer[0], number);
	if (ret < 0)
		return ret;
	return buffer[0] == 'z' ? ret + 1 : count;
}

static int lgc_show(struct seq_file *m, void *v)
{
	static const char * const names[] = {
		[LGC_SYSCALL]		= "syscall",
		[LGC_EXIT]		= "exit",
		[LGC_WORKER]		= "worker",
		[LGC_KTHREAD]		= "kthread",
		[LGC_SOFTIRQ]		= "softirq",
		[LGC_HARDIRQ]		= "hardirq",
		[LGC_NMI]		= "nmi",
		[LGC_COLD]		= "cold",
		[LGC_APART]		= "apart",
		[LGC_APART_EXIT]	= "apart-exit",
		[LGC_APART_BH]		= "apart-bh",
	};
	int context, version, cpu;
	unsigned long sum;

	for (context = 0; context < LGC_CONTEXTS; context++) {
		seq_printf(m, "%s", names[context]);
		for (version = 0; version < LGC_VERSIONS; version++) {
			sum = 0;
			for_each_possible_cpu(cpu)
				sum += per_cpu(lgc_counts, cpu).calls[context][version];
			seq_printf(m, " %lu", sum);
		}
		sum = 0;
		for_each_possible_cpu(cpu)
			sum += per_cpu(lgc_counts, cpu).mixed[context];
		seq_printf(m, " %lu\n", sum);
	}
	sum = 0;
	for_each_possible_cpu(cpu)
		sum += per_cpu(lgc_counts, cpu).late;
	seq_printf(m, "late %lu\n", sum);
	return 0;
}

static int lgc_open(struct inode *inode, struct file *file)
{
	return single_open(file, lgc_show, NULL);
}

static int lgc_release(struct inode *inode, struct file *file)
{
	bool exits = current->flags & PF_EXITING;

	if (((struct seq_file *)file->private_data)->private) {
		lgc_caller(exits ? LGC_EXIT : LGC_SYSCALL, 0);
		lgc_apart(exits ? LGC_APART_EXIT : LGC_APART, 1000);
	}
	return single_release(inode, file);
}

static const struct proc_ops lgc_ops = {
	.proc_open	= lgc_open,
	.proc_read	= seq_read,
	.proc_write	= lgc_write,
	.proc_lseek	= seq_lseek,
	.proc_release	= lgc_release,
};

static int __init lgc_target_init(void)
{
	int ret;

	lgc_prepare_interrupts();
	ret = register_nmi_handler(NMI_LOCAL, lgc_nmi, 0, "lgc");
	if (ret)
		return ret;
	if (proc_create("lgc", 0666, NULL, &lgc_ops))
		return 0;
	unregister_nmi_handler(NMI_LOCAL, "lgc");
	return -ENOMEM;
}

static void __exit lgc_target_exit(void)
{
	remove_proc_entry("lgc", NULL);
	lgc_set_threads(0);
	lgc_set_interrupts(0);
	unregister_nmi_handler(NMI_LOCAL, "lgc");
}

module_init(lgc_target_init);
module_exit(lgc_target_exit);
MODULE_DESCRIPTION("Records which versions of its functions were met, in livegraft's tests");
MODULE_LICENSE("GPL");
