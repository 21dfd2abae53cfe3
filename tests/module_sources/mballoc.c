// SPDX-License-Identifier: GPL-2.0
/* New code for fs/ext4/mballoc.c: it uses a static function and a static variable of ext4. */
#include <linux/fs.h>
#include <linux/seq_file.h>
#include <linux/types.h>

extern char *reference_saved_command_line;
extern struct file_system_type reference_ext4_fs_type;
void reference_str2hashbuf_unsigned(const char *msg, int len, __u32 *buf, int num);

/* A pointer in data waits for the module as well. */
static struct file_system_type * const type = &reference_ext4_fs_type;
static struct file_system_type * const *volatile holder = &type;

int ext4_seq_mb_stats_show(struct seq_file *seq, void *offset)
{
	__u32 words[8] = { };

	reference_str2hashbuf_unsigned("abcd", 4, words, 8);
	seq_printf(seq, "patched %s %s %x %d\n", reference_ext4_fs_type.name, (*holder)->name,
		   words[0], reference_saved_command_line[0] != 0);
	return 0;
}
