// SPDX-License-Identifier: GPL-2.0
/*
 * New code for fs/proc/cmdline.c, as a piece has it: the replacement keeps the original's name and
 * is local, its alias is global, and what is not exported has the name of a reference.
 */
#include <linux/seq_file.h>
#include <linux/types.h>

extern char *reference_saved_command_line;

static __used int cmdline_proc_show(struct seq_file *m, void *v)
{
	seq_puts(m, "patched ");
	seq_puts(m, reference_saved_command_line);
	seq_putc(m, '\n');
	return 0;
}
