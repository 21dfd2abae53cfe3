/* SPDX-License-Identifier: GPL-2.0 */
/*
 * engine.h - what the engine's files know of each other
 *
 * A *payload* brings a *patch*: objects, and functions to redirect in each. Where a function is
 * redirected is a *site*; several patches can use one. One patch at a time is in *change*: applied
 * or undone, or that reversed. While it lasts each task is on one of two *sides*, and a *model*
 * says when a task may change to the other.
 *
 * One mutex, lg_mutex, covers all lists and the change. What runs without it (the stub, the hooks,
 * sysfs) is said at each place.
 */
#ifndef LG_ENGINE_H
#define LG_ENGINE_H

#include <linux/ftrace.h>
#include <linux/kobject.h>
#include <linux/ktime.h>
#include <linux/list.h>
#include <linux/livepatch.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/version.h>

#include "livegraft_abi.h"
#include "table.h"

#undef pr_fmt
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#define LG_VERSION	"1"

/**
 * struct lg_entry - a row of the table that the stub searches (see table.h for its layout)
 * @site:	the address behind ftrace's call; 0 if empty, LG_DELETED if it was used
 * @target:	where to go: LG_ORIGINAL, LG_ASK, or an address
 * @from:	during a change: LG_ORIGINAL or where a task goes that has not changed sides
 * @to:		and one that has
 */
struct lg_entry {
	unsigned long	site;
	unsigned long	target;
	unsigned long	from;
	unsigned long	to;
};

/* Never a site: it lies in no text. Not 0, for a search has to go on behind it. */
#define LG_DELETED	1UL

/**
 * struct lg_range - code, from @start to before @end
 */
struct lg_range {
	unsigned long	start;
	unsigned long	end;
};

/**
 * struct lg_symbol - a function that is looked for in an object
 * @name:	its symbol
 * @position:	which of that name, from 1; 0 if there has to be one only
 * @func:	who asks
 * @seen:	symbols of that name
 * @address:	the one that was meant
 * @part:	how many parts of it lie elsewhere
 * @parts:	those
 * @error:	why not all of them are there
 */
struct lg_symbol {
	const char		*name;
	unsigned long		position;
	struct lg_func		*func;
	unsigned long		seen;
	unsigned long		address;
	unsigned int		part;
	struct lg_range		*parts;
	int			error;
};

/**
 * struct lg_group - sites that were registered with ftrace in one go
 * @list:	in lg_groups
 * @ops:	ftrace's; all sites of the group are its filter
 * @direct:	a direct call to the stub; otherwise lg_handler() is called by ftrace
 * @object:	whose sites these are, "vmlinux" or a module's name
 */
struct lg_group {
	struct list_head	list;
	struct ftrace_ops	ops;
	bool			direct;
	char			object[MODULE_NAME_LEN];
};

/**
 * struct lg_site - a function of the running kernel that is redirected
 * @list:	in lg_sites
 * @entry:	its row of the table
 * @ip:		where ftrace's call is
 * @group:	what it was registered with
 * @funcs:	the functions of patches that replace it, the newest first (struct lg_func.stack)
 * @parts:	its own code: the function, and what the compiler split off as .cold
 * @part:	how many
 */
struct lg_site {
	struct list_head	list;
	struct lg_entry		*entry;
	unsigned long		ip;
	struct lg_group		*group;
	struct list_head	funcs;
	unsigned int		part;
	struct lg_range		parts[];
};

/**
 * struct lg_func - a function of a patch
 * @klp:	its name, position and new code
 * @object:	whose it is
 * @site:	where it is redirected, NULL while its object is not loaded
 * @stack:	in lg_site.funcs
 * @kobj:	its directory
 */
struct lg_func {
	struct klp_func		*klp;
	struct lg_object	*object;
	struct lg_site		*site;
	struct list_head	stack;
	struct kobject		*kobj;
};

/**
 * struct lg_object - an object that a patch changes
 * @klp:	the payload's description
 * @patch:	whose it is
 * @name:	"vmlinux" or a module's name
 * @live:	its functions have sites
 * @prepared:	its pre_patch callback has succeeded, so post_unpatch has to follow
 * @count:	how many functions
 * @funcs:	those
 * @kobj:	its directory
 */
struct lg_object {
	struct klp_object	*klp;
	struct lg_patch		*patch;
	const char		*name;
	bool			live;
	bool			prepared;
	unsigned int		count;
	struct lg_func		*funcs;
	struct kobject		*kobj;
};

enum lg_phase {
	LG_APPLYING,
	LG_APPLIED,
	LG_UNDOING,
	LG_UNDONE,	/* no task uses it; what it used is still being taken down */
	LG_FORGOTTEN,	/* nothing refers to the payload any more */
};

enum lg_time {
	LG_TIME_RESOLVE,	/* finding functions */
	LG_TIME_REDIRECT,	/* ftrace, and pre_patch callbacks */
	LG_TIME_MOVE,		/* from there until the last task has changed sides */
	LG_TIME_FINISH,		/* what comes after */
	LG_TIME_PAUSE,		/* model stop: all CPUs held, the last time */
	LG_TIME_STACKS,		/* and of that the look at the stacks */
	LG_TIMES,
};

/**
 * struct lg_patch - a patch that the engine has
 * @list:	in lg_patches, the newest last
 * @kobj:	its directory; the structure lives until the last reference to it is gone
 * @payload:	what brought it; valid until the phase is LG_FORGOTTEN
 * @module:	its module, on which the engine holds a reference until then
 * @model:	how its changes are kept consistent
 * @phase:	enum lg_phase; read without the mutex by sysfs
 * @since:	when it entered that phase; likewise
 * @replace:	applying it undoes all older patches
 * @direct:	see struct lg_group
 * @forced:	a change was forced: the payload can never go
 * @replaced:	a newer patch has undone it
 * @objects:	what it changes
 * @count:	how many
 * @moved:	tasks that have changed sides in the change under way
 * @left:	tasks that have not, as last seen
 * @signalled:	tasks that were woken by a signal, in all
 * @interrupted: tasks that were signalled, asleep or not, and whose system call ended with EINTR
 * @restarted:	and those whose system call the kernel starts again
 * @tries:	model stop: how often it looked
 * @us:		enum lg_time, microseconds of the last change
 */
struct lg_patch {
	struct list_head	list;
	struct kobject		kobj;
	struct lg_payload	*payload;
	struct module		*module;
	const struct lg_way	*model;
	enum lg_phase		phase;
	ktime_t			since;
	bool			replace;
	bool			direct;
	bool			forced;
	bool			replaced;
	struct lg_object	*objects;
	unsigned int		count;
	unsigned int		moved;
	unsigned int		left;
	atomic_t		signalled;
	atomic_t		interrupted;
	atomic_t		restarted;
	unsigned int		tries;
	u32			us[LG_TIMES];
};

/**
 * struct lg_goal - where tasks have to go, and which code they have to have left
 * @side:	the side that all have to reach: true if the change goes forward
 * @model:	whose rules hold
 * @patch:	whose change it is; the patch outlives the goal
 * @count:	how many ranges
 * @busy:	code that a task has to have left, sorted; some ranges may be equal
 *
 * Side and code belong together, and are replaced together: whoever moves a task reads both under
 * RCU (tasks that return to user mode, new ones, interrupts) or holds lg_mutex.
 */
struct lg_goal {
	bool			side;
	const struct lg_way	*model;
	struct lg_patch		*patch;
	unsigned int		count;
	struct lg_range		busy[];
};

/**
 * struct lg_change - the change under way
 * @patch:	whose, NULL if there is none
 * @undo:	it was begun to undo the patch, not to apply it
 * @forward:	tasks move to what was asked for in the beginning; false once reversed
 * @force:	what is left changes at once
 * @signal:	what is left is signalled now
 * @flipped:	model stop: the machine has changed
 * @began:	when tasks began to move
 */
struct lg_change {
	struct lg_patch		*patch;
	bool			undo;
	bool			forward;
	bool			force;
	bool			signal;
	bool			flipped;
	ktime_t			began;
};

/**
 * struct lg_way - a consistency model
 * @name:	as in the payload's parameter
 * @number:	as in the payload
 * @by_task:	tasks change one after the other; otherwise all at once in @pass
 * @missing:	why this kernel cannot have it, or NULL; the member itself may be NULL
 * @begin:	tasks are about to move to lg_change.forward; may be NULL
 * @pass:	a look at everything; returns how many tasks are left
 * @urge_after:	milliseconds after which sleepers in the way are signalled
 */
struct lg_way {
	const char		*name;
	enum lg_model		number;
	bool			by_task;
	const char		*(*missing)(void);
	void			(*begin)(void);
	unsigned int		(*pass)(void);
	unsigned int		urge_after;
};

/*
 * A task's side, and what was done to it in the change under way, are bits of its thread_info.flags
 * that x86-64 does not use: the flags are an unsigned long, TIF_* end below 32, and all code that
 * changes them sets or clears single bits by atomic operations. dup_task_struct() copies them.
 * lg_tasks_init() looks whether they are in fact free. Outside of a change all are clear.
 */
#define LG_SIDE_BIT		40	/* clear: lg_entry.from is its way, set: lg_entry.to */
#define LG_NOTICED_BIT		41	/* it has a struct lg_notice */
#define LG_SIGNALLED_BIT	42	/* it was signalled */
#define LG_INSIDE_BIT		43	/* model stop: the last look has found it in the way */
#define LG_TOLD_BIT		44	/* what the signal made of its system call is counted */
#define LG_CALLED_BIT		45	/* the side to which it was signalled */

static inline bool lg_flag(const struct task_struct *task, unsigned int bit)
{
	return test_bit(bit, &task_thread_info(task)->flags);
}

static inline void lg_set_flag(struct task_struct *task, unsigned int bit, bool value)
{
	if (value)
		set_bit(bit, &task_thread_info(task)->flags);
	else
		clear_bit(bit, &task_thread_info(task)->flags);
}

/* All that was done to a task; its side is kept. */
static inline void lg_clear_marks(struct task_struct *task)
{
	lg_set_flag(task, LG_NOTICED_BIT, false);
	lg_set_flag(task, LG_SIGNALLED_BIT, false);
	lg_set_flag(task, LG_TOLD_BIT, false);
	lg_set_flag(task, LG_CALLED_BIT, false);
	lg_set_flag(task, LG_INSIDE_BIT, false);
}

static inline bool lg_side(const struct task_struct *task)
{
	return lg_flag(task, LG_SIDE_BIT);
}

/* core.c */
extern struct mutex lg_mutex;
extern struct list_head lg_patches;
extern struct lg_change lg_change;
int lg_undo(struct lg_patch *patch);
int lg_apply_again(struct lg_patch *patch);
void lg_wake(void);
void lg_came(void);
int lg_force(struct lg_patch *patch);
int lg_signal(struct lg_patch *patch);

void lg_hide_forgotten(void);
void lg_hasten_begin(void);
void lg_hasten_end(void);
void lg_settle(void);
void lg_finish(void);
void lg_begin(struct lg_patch *patch, bool undo);
int lg_start_moving(void);
void lg_take_down(struct lg_patch *patch, bool callbacks);

/* payloads.c */
extern const struct lg_way *const lg_ways[];
int lg_register_payload(struct lg_payload *payload);
void lg_unregister_payload(struct lg_payload *payload);

/* options.c */
int lg_set_options(const char *name, bool replace, bool no_direct);
ssize_t lg_list_options(char *buffer);
void lg_take_options(struct lg_patch *patch);

/* patches.c */
struct lg_patch *lg_make_patch(struct lg_payload *payload, const struct lg_way *model);
void lg_free_patch(struct lg_patch *patch);
void lg_set_phase(struct lg_patch *patch, enum lg_phase phase);
int lg_pre_patch(struct lg_object *object);
void lg_post_patch(struct lg_object *object);
void lg_pre_unpatch(struct lg_object *object);
void lg_post_unpatch(struct lg_object *object);
void lg_for_live(struct lg_patch *patch, void (*fn)(struct lg_object *object));

void lg_link_states(void);
int lg_check_states(const struct lg_patch *patch);

/* modules.c */
extern struct notifier_block lg_module_notifier;
bool lg_is_loaded(const struct lg_object *object);
int lg_enable_object(struct lg_object *object);

/* redirect.c */
extern struct lg_entry lg_table[LG_TABLE_SIZE];
extern struct list_head lg_sites;
extern bool lg_interrupts_apart;
DECLARE_PER_CPU(bool, lg_cpu_side);
void lg_stub(void);
void lg_stub_end(void);
unsigned long lg_choose(const struct lg_entry *entry);
int lg_add_object(struct lg_object *object);
void lg_sides_of(const struct lg_site *site, unsigned long *from, unsigned long *to);
void lg_update_entries(void);
void lg_forget_object(struct lg_object *object);
void lg_handler(unsigned long ip, unsigned long parent, struct ftrace_ops *ops,
		struct ftrace_regs *regs);
void lg_free_site(struct lg_site *site);
extern struct lg_range lg_ftrace_entries;
bool lg_in_redirection(unsigned long address);
int lg_redirect_init(void);

/* groups.c */
int lg_redirect(const char *object, bool direct);
void lg_forget_groups(const char *object);

/* symbols.c */
int lg_find(const char *name, unsigned long *address);
int lg_find_all(const char *object, struct lg_symbol *symbols, unsigned int count);
int lg_size(unsigned long address, struct lg_range *range);
struct lg_range lg_module_text(const struct module *module);
const char *lg_object_name(const struct klp_object *object);

/* What a task in the way is doing. */
enum lg_why {
	LG_MAY_MOVE,
	LG_INSIDE,
	LG_UNRELIABLE,
	LG_RUNNING,
	LG_IN_KERNEL,
};

/* goal.c */
extern struct lg_goal __rcu *lg_goal;
struct lg_goal *lg_current_goal(void);
int lg_set_goal(void);
void lg_drop_goal(void);

/* stacks.c */
int lg_stacks_init(void);
enum lg_why lg_judge_stack(struct task_struct *task, const struct lg_goal *goal,
			   unsigned long *where);
bool lg_leaves(const struct lg_goal *goal);

/* tasks.c */
void lg_forget_seen(void);
bool lg_goes_to_user_mode(const struct task_struct *task);
void lg_for_all(void (*fn)(struct task_struct *task));
void lg_clear_flags(void);
unsigned int lg_pass_by_stack(void);
unsigned int lg_pass_by_leaving(void);
unsigned int lg_look_at_all(const struct lg_goal *goal);
void lg_force_all(void);
ssize_t lg_list_blockers(char *buffer);

/* births.c */
int lg_tasks_init(void);
void lg_tasks_exit(void);

/* urge.c */
void lg_urge(bool signals);
void lg_await_told(void);
void lg_forget_notices(void);
void lg_await_notices(void);

/* relocations.c */
int lg_apply_relocations(struct lg_object *object);
void lg_clear_relocations(struct lg_object *object);

/* show.c */
int lg_show_patch(struct lg_patch *patch);
void lg_hide_patch(struct lg_patch *patch);
void lg_tell(struct lg_patch *patch);
int lg_show_init(void);
void lg_show_exit(void);

/* hybrid.c, stop.c, task.c */
int lg_task_init(void);
void lg_task_exit(void);
void lg_clear_interrupts(void);
extern const struct lg_way lg_hybrid, lg_stop, lg_task;

#endif /* LG_ENGINE_H */
