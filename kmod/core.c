// SPDX-License-Identifier: GPL-2.0
/*
 * core.c - patches, one change at a time, and modules that come and go
 *
 * The life of a patch:
 *
 *	lg_register_payload()	find its functions, redirect them (all tasks still run the
 *				old code), begin to move tasks
 *	lg_mover()		a kernel thread: passes, until every task has changed sides
 *	enabled <- 0		the same backwards, at any moment: who was moved goes back
 *	lg_mover()		takes down what only this patch used, lets its module go
 *	lg_unregister_payload()	the payload's exit
 *
 * Locks: lg_mutex is taken first, then those of ftrace, of module's list (by kallsyms), of CPU
 * hotplug, tasklist_lock, those of a task. It is never taken by a task with any of these. sysfs
 * waits for its readers and writers when a directory goes away, and they take lg_mutex: directories
 * are removed without it.
 */
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "engine.h"
#include "livegraft_rcu.h"

/* What engine.h says it covers: all lists and the change. */
DEFINE_MUTEX(lg_mutex);
LIST_HEAD(lg_patches);
struct lg_change lg_change;

static struct task_struct *lg_thread;
static DECLARE_WAIT_QUEUE_HEAD(lg_queue);
static bool lg_woken;
static unsigned int lg_pause;

/* Whose change is complete and not finished, and patches that went with it. */
static struct lg_patch *lg_unfinished;
static LIST_HEAD(lg_gone);

/* Patches that are forgotten, and whose directories have to go. */
static LIST_HEAD(lg_hidden);

/* Pauses between two passes, microseconds: short at first, for most changes end at once. */
#define LG_PAUSE_FIRST	100
#define LG_PAUSE_MOST	20000
/* For the model stop each try stops the machine. */
#define LG_PAUSE_STOP	10000
#define LG_PAUSE_STOP_MOST 1000000

/**
 * lg_wake() - have the mover look now
 */
void lg_wake(void)
{
	WRITE_ONCE(lg_woken, true);
	wake_up(&lg_queue);
}

/*
 * How many of those in the way have not come yet. While somebody looks, many more: who comes then
 * is counted, and not known to be awaited.
 */
static atomic_t lg_awaited;
#define LG_LOOKING	(1 << 30)

/**
 * lg_came() - the current task was in the way, and has changed sides by itself
 *
 * The last one wakes the mover, which would else look at all tasks for each of them. Some never
 * come, or have come before they were seen: the mover looks now and then in any case.
 */
void lg_came(void)
{
	if (atomic_dec_and_test(&lg_awaited))
		lg_wake();
}

static bool lg_hastening;

/* The first wake-ups come quickly, for most waits are short; then further and further apart. */
static void lg_hasten(struct work_struct *work)
{
	unsigned int pause = 200;

	while (READ_ONCE(lg_hastening)) {
		lg_wake_rcu_tasks();
		usleep_range(pause, 2 * pause);
		pause = min(pause + pause / 4, 10000U);
	}
}

static DECLARE_WORK(lg_hasten_work, lg_hasten);

/**
 * lg_hasten_begin() - what follows waits for grace periods
 *
 * Under lg_mutex, up to lg_hasten_end().
 */
void lg_hasten_begin(void)
{
	rcu_expedite_gp();
	WRITE_ONCE(lg_hastening, true);
	queue_work(system_highpri_wq, &lg_hasten_work);
}

/** lg_hasten_end() - back to normal; returns when nobody hastens any more */
void lg_hasten_end(void)
{
	WRITE_ONCE(lg_hastening, false);
	/* One that has not begun need not begin. */
	cancel_work_sync(&lg_hasten_work);
	rcu_unexpedite_gp();
}

/**
 * lg_settle() - wait until nobody is on the way from a site to a target
 *
 * Then no task is between reading LG_ASK and having read all that belongs to it: a grace period of
 * RCU tasks waits until each task has slept of its own will or was in user mode, the rude kind
 * until each processor has switched tasks, those that are idle included.
 */
void lg_settle(void)
{
	synchronize_rcu_tasks_rude();
	synchronize_rcu_tasks();
}

/*
 * A patch that nothing leads to any more: take down what only it used, let its module go. If a
 * change was forced a task may still be inside: then the module stays for good.
 *
 * ftrace waits like lg_settle() when it takes something out, but for nothing that stays.
 */
void lg_take_down(struct lg_patch *patch, bool callbacks)
{
	struct lg_object *object;

	for (object = patch->objects; object < patch->objects + patch->count; object++) {
		lg_forget_object(object);
		if (callbacks)
			lg_post_unpatch(object);
	}
	lg_update_entries();
	lg_forget_groups(NULL);
}

static void lg_let_go(struct lg_patch *patch)
{
	patch->payload->private = NULL;
	list_move_tail(&patch->list, &lg_hidden);
	lg_set_phase(patch, LG_FORGOTTEN);
	if (!patch->forced)
		module_put(patch->module);
}

void lg_begin(struct lg_patch *patch, bool undo)
{
	lg_change = (struct lg_change){ .patch = patch, .undo = undo, .forward = true };
	lg_pause = 0;
	WRITE_ONCE(patch->moved, 0);
	patch->tries = 0;
	memset(patch->us, 0, sizeof(patch->us));
	WRITE_ONCE(lg_interrupts_apart, patch->model == &lg_task);
	lg_set_phase(patch, undo ? LG_UNDOING : LG_APPLYING);
}

/*
 * Every task has changed sides, or was forced to. From here on rows are fixed: lg_change.patch is
 * NULL when they are written, and what is not in force any more is off the sites' lists. This is
 * the moment when the system is consistent again. What is left to be done is lg_finish()'s.
 */
static void lg_complete(void)
{
	struct lg_patch *patch = lg_change.patch, *other, *next;
	bool applied = lg_change.undo != lg_change.forward;
	bool replaced = applied && patch->replace && !lg_change.undo;
	struct lg_object *object;

	patch->us[LG_TIME_MOVE] = ktime_us_delta(ktime_get(), lg_change.began);
	list_for_each_entry_safe(other, next, &lg_patches, list)
		if (other == patch ? !applied : replaced)
			list_move_tail(&other->list, &lg_gone);
	list_for_each_entry(other, &lg_gone, list) {
		for (object = other->objects; object < other->objects + other->count; object++)
			lg_forget_object(object);
		/* A patch that was replaced has no callbacks, as with livepatch. */
		other->replaced = replaced;
		/* As klp_force_transition(): a task may still be inside of what goes. */
		if (lg_change.force)
			other->forced = true;
		lg_set_phase(other, LG_UNDONE);
	}
	lg_change.patch = NULL;
	lg_update_entries();
	WRITE_ONCE(patch->left, 0);
	if (applied) {
		lg_set_phase(patch, LG_APPLIED);
		if (!READ_ONCE(ftrace_enabled))
			pr_err("%s: ftrace was switched off: the patch is not in force\n",
			       patch->module->name);
	}
	lg_unfinished = patch;
	lg_tell(patch);
}

/**
 * lg_finish() - do what has to be done after a change and before the next
 *
 * Under lg_mutex. By the mover, or by whoever is there first and wants to begin something new.
 */
void lg_finish(void)
{
	struct lg_patch *patch = lg_unfinished, *other, *next;
	ktime_t began = ktime_get();

	if (!patch)
		return;
	lg_unfinished = NULL;
	lg_await_told();
	lg_drop_goal();
	lg_forget_notices();
	lg_hasten_begin();
	lg_settle();
	/* Now flags and sides mean nothing: back to what every change begins with. */
	lg_clear_flags();
	lg_clear_interrupts();
	if (patch->phase == LG_APPLIED)
		lg_for_live(patch, lg_post_patch);
	list_for_each_entry(other, &lg_gone, list)
		lg_take_down(other, !other->replaced);
	lg_hasten_end();
	patch->us[LG_TIME_FINISH] = ktime_us_delta(ktime_get(), began);
	/* Those that stay must not lead to one that goes; those that go had their callbacks. */
	lg_link_states();
	list_for_each_entry_safe(other, next, &lg_gone, list)
		lg_let_go(other);
}

/*
 * Only for the tests, which have to fail with it: tasks change sides whatever they are doing.
 * Undoing has to be without it, for then nobody waits for those inside the payload.
 */
#ifdef LG_TEST
static bool lg_immediate;
module_param_named(immediate, lg_immediate, bool, 0644);
#else
#define lg_immediate	false
#endif

/* One look at everything, under lg_mutex. */
static void lg_pass(void)
{
	const struct lg_way *model = lg_change.patch->model;
	unsigned int left;
	bool late;

	if ((lg_change.force || lg_immediate) && model->by_task)
		lg_force_all();
	atomic_set(&lg_awaited, LG_LOOKING);
	left = model->pass();
	if (!left) {
		lg_complete();
		return;
	}
	if (atomic_add_return(left - LG_LOOKING, &lg_awaited) <= 0)
		lg_wake();
	late = ktime_ms_delta(ktime_get(), lg_change.began) >= model->urge_after;
	lg_urge(late || lg_change.signal);
	lg_pause = lg_pause ? lg_pause + lg_pause / 2 :
		   model->by_task ? LG_PAUSE_FIRST : LG_PAUSE_STOP;
	lg_pause = min(lg_pause, model->by_task ? LG_PAUSE_MOST : LG_PAUSE_STOP_MOST);
}

/* The redirection is in place, and no task has a side to keep: move them. */
int lg_start_moving(void)
{
	int ret = lg_set_goal();

	if (ret)
		return ret;
	lg_change.began = ktime_get();
	lg_pause = 0;
	if (lg_change.patch->model->begin)
		lg_change.patch->model->begin();
	/* Most changes end with the first look: it need not wait for the mover to come. */
	lg_pass();
	lg_wake();
	return 0;
}

/**
 * lg_hide_forgotten() - remove the directories of patches that are forgotten
 *
 * Without lg_mutex: sysfs waits for readers and writers, which take it. Nothing else touches a
 * patch on this list. The mutex here is for whoever has to know that they are gone, not only on
 * their way; nobody takes it with lg_mutex or in sysfs.
 */
void lg_hide_forgotten(void)
{
	static DEFINE_MUTEX(hiding);
	struct lg_patch *patch, *next;
	LIST_HEAD(hidden);

	mutex_lock(&hiding);
	mutex_lock(&lg_mutex);
	list_splice_init(&lg_hidden, &hidden);
	mutex_unlock(&lg_mutex);
	list_for_each_entry_safe(patch, next, &hidden, list) {
		list_del(&patch->list);
		lg_hide_patch(patch);
	}
	mutex_unlock(&hiding);
}

/*
 * The thread that moves tasks. It sleeps until there is something to do; during a change until a
 * task has arrived at user mode (lg_arrived()), or for a pause that grows, for kernel threads and
 * tasks that sleep on tell nobody. Its own stack is in no function that anybody patches.
 */
static int lg_mover(void *unused)
{
	/* It works for some milliseconds, and tasks that compute are what it waits for. */
	set_user_nice(current, MIN_NICE);
	while (!kthread_should_stop()) {
		bool busy;

		mutex_lock(&lg_mutex);
		WRITE_ONCE(lg_woken, false);
		if (lg_change.patch)
			lg_pass();
		lg_finish();
		busy = lg_change.patch;
		mutex_unlock(&lg_mutex);
		lg_hide_forgotten();

		if (busy)
			wait_event_interruptible_hrtimeout(lg_queue, READ_ONCE(lg_woken),
							   ns_to_ktime(lg_pause * 1000ULL));
		else
			wait_event_interruptible(lg_queue, READ_ONCE(lg_woken) ||
						 kthread_should_stop());
	}
	return 0;
}

/*
 * Another direction for the change under way. Tasks that have arrived are where the others were.
 */
static int lg_reverse(void)
{
	struct lg_patch *patch = lg_change.patch;
	enum lg_phase phase = patch->phase;
	int ret;

	lg_change.forward = !lg_change.forward;
	/* Before: the first look may complete it. */
	lg_set_phase(patch, lg_change.undo != lg_change.forward ? LG_APPLYING : LG_UNDOING);
	lg_tell(patch);
	ret = lg_start_moving();
	if (ret) {
		lg_change.forward = !lg_change.forward;
		lg_set_phase(patch, phase);
		return ret;
	}
	return 0;
}

/**
 * lg_undo() - begin to undo a patch, or reverse its being applied
 * @patch:	the patch; lg_mutex is held
 *
 * Return: 0; -EINVAL if it is being undone or was; -EBUSY while another patch changes; -ENOMEM.
 */
int lg_undo(struct lg_patch *patch)
{
	int ret;

	if (patch->phase >= LG_UNDOING)
		return -EINVAL;
	if (lg_change.patch)
		return lg_change.patch == patch ? lg_reverse() : -EBUSY;
	lg_finish();
	lg_for_live(patch, lg_pre_unpatch);
	lg_begin(patch, true);
	lg_update_entries();
	ret = lg_start_moving();
	if (ret) {
		/* No task has moved, for no goal was there: rows mean what they meant. */
		lg_change.patch = NULL;
		lg_update_entries();
		lg_settle();
		lg_clear_interrupts();
		lg_set_phase(patch, LG_APPLIED);
		lg_for_live(patch, lg_post_patch);
		return ret;
	}
	lg_tell(patch);
	return 0;
}

/**
 * lg_apply_again() - reverse the undoing of a patch
 * @patch:	the patch; lg_mutex is held
 *
 * Return: 0; -EINVAL if it is on, or its undoing is complete; -ENOMEM.
 */
int lg_apply_again(struct lg_patch *patch)
{
	if (lg_change.patch != patch || patch->phase != LG_UNDOING)
		return -EINVAL;
	return lg_reverse();
}

/**
 * lg_force() - what is left of a patch's change happens now
 * @patch:	the patch; lg_mutex is held
 */
int lg_force(struct lg_patch *patch)
{
	if (lg_change.patch != patch)
		return -EINVAL;
	pr_warn("%s: forced, tasks may see both versions\n", patch->module->name);
	add_taint(TAINT_LIVEPATCH, LOCKDEP_STILL_OK);
	patch->forced = true;
	lg_change.force = true;
	lg_wake();
	return 0;
}

/**
 * lg_signal() - signal what is left of a patch's change
 * @patch:	the patch; lg_mutex is held
 */
int lg_signal(struct lg_patch *patch)
{
	if (lg_change.patch != patch)
		return -EINVAL;
	lg_change.signal = true;
	lg_wake();
	return 0;
}

static int __init lg_engine_init(void)
{
	int ret;

	ret = lg_redirect_init();
	if (ret)
		return ret;
	ret = lg_tasks_init();
	if (ret)
		return ret;
	ret = lg_task_init();
	if (ret)
		goto tasks;
	ret = lg_show_init();
	if (ret)
		goto task;
	ret = register_module_notifier(&lg_module_notifier);
	if (ret)
		goto show;
	lg_thread = kthread_run(lg_mover, NULL, "livegraft");
	ret = PTR_ERR_OR_ZERO(lg_thread);
	if (ret)
		goto notifier;
	return 0;

notifier:
	unregister_module_notifier(&lg_module_notifier);
show:
	lg_show_exit();
task:
	lg_task_exit();
tasks:
	lg_tasks_exit();
	return ret;
}

/* Every payload holds a reference on this module: there is none left. */
static void __exit lg_engine_exit(void)
{
	kthread_stop(lg_thread);
	lg_hide_forgotten();
	lg_await_notices();
	unregister_module_notifier(&lg_module_notifier);
	lg_show_exit();
	lg_task_exit();
	lg_tasks_exit();
}

module_init(lg_engine_init);
module_exit(lg_engine_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("livegraft: consistency models for live patches");
MODULE_VERSION(LG_VERSION);
