// SPDX-License-Identifier: GPL-2.0
/*
 * task.c - a thread changes sides when it leaves the kernel
 *
 * kGraft's model. A thread is on one side for all functions of the patch from the moment that it
 * enters the kernel until it leaves it: found in user mode by an interrupt, or on its way there.
 * Sleepers are signalled soon, for they are in the kernel. Interrupts are on the side of their
 * processor. Kernel threads never leave: their stacks are judged.
 */
#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "engine.h"

/* Which side interrupts of a processor that comes up are on. */
static bool lg_interrupt_side;
static int lg_hotplug_state = -EINVAL;

static int lg_processor_up(unsigned int cpu)
{
	this_cpu_write(lg_cpu_side, READ_ONCE(lg_interrupt_side));
	return 0;
}

static long lg_flip_processor(void *unused)
{
	unsigned long flags;

	/*
	 * In a worker, in task context: no hard interrupt or softirq of this processor is under
	 * way, for softirqs are not preempted here (not so on PREEMPT_RT, see lg_why_not()). So
	 * none sees both sides. An interrupt could still come between two instructions of this;
	 * the store is one.
	 */
	local_irq_save(flags);
	this_cpu_write(lg_cpu_side, READ_ONCE(lg_interrupt_side));
	local_irq_restore(flags);
	return 0;
}

static void lg_flip_interrupts(void)
{
	int cpu;

	WRITE_ONCE(lg_interrupt_side, lg_change.forward);
	/*
	 * A processor that comes up reads lg_interrupt_side in lg_processor_up(). Those that are up
	 * keep their place under the lock. Those that are down have no interrupts.
	 */
	cpus_read_lock();
	for_each_possible_cpu(cpu)
		if (cpu_online(cpu))
			work_on_cpu(cpu, lg_flip_processor, NULL);
		else
			per_cpu(lg_cpu_side, cpu) = lg_change.forward;
	cpus_read_unlock();
}

/**
 * lg_clear_interrupts() - interrupts are on the side of what they interrupt, as between changes
 *
 * After lg_settle(), or before any interrupt could ask: no row asks for a side.
 */
void lg_clear_interrupts(void)
{
	int cpu;

	WRITE_ONCE(lg_interrupts_apart, false);
	WRITE_ONCE(lg_interrupt_side, false);
	cpus_read_lock();	/* one that comes up has read the side, or will read false */
	for_each_possible_cpu(cpu)
		per_cpu(lg_cpu_side, cpu) = false;
	cpus_read_unlock();
}

static const char *lg_why_not(void)
{
	if (IS_ENABLED(CONFIG_PREEMPT_RT))
		return "PREEMPT_RT: softirqs are preempted, an interrupt has no side of its own";
	return NULL;
}

/**
 * lg_task_init() - be told of processors that come up
 */
int lg_task_init(void)
{
	lg_hotplug_state = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN, "livegraft:online",
						     lg_processor_up, NULL);
	return min(lg_hotplug_state, 0);
}

void lg_task_exit(void)
{
	cpuhp_remove_state_nocalls(lg_hotplug_state);
}

const struct lg_way lg_task = {
	.name		= "task",
	.number		= LG_MODEL_TASK,
	.by_task	= true,
	.missing	= lg_why_not,
	.begin		= lg_flip_interrupts,
	.pass		= lg_pass_by_leaving,
};
