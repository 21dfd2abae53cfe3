// SPDX-License-Identifier: GPL-2.0
/*
 * options.c - what payloads that are to come are loaded with
 *
 * A payload has one parameter, the model, and those that were built yesterday will not get more.
 * Whoever loads it says the rest here before, by the module's name.
 */
#include <linux/module.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "engine.h"

#define LG_OPTIONS_MOST	16
static struct lg_options {
	char	name[MODULE_NAME_LEN];
	bool	replace;
	bool	no_direct;
} lg_options[LG_OPTIONS_MOST];

static struct lg_options *lg_find_options(const char *name)
{
	unsigned int number;

	for (number = 0; number < LG_OPTIONS_MOST; number++)
		if (!strcmp(lg_options[number].name, name))
			return &lg_options[number];
	return NULL;
}

/**
 * lg_set_options() - what the next payload of a name is to be loaded with
 * @name:	the module's name
 * @replace:	it replaces all older patches
 * @no_direct:	no direct calls
 *
 * Return: 0, or -ENOSPC if too many wait for their payloads.
 */
int lg_set_options(const char *name, bool replace, bool no_direct)
{
	struct lg_options *options;
	int ret = 0;

	mutex_lock(&lg_mutex);
	options = lg_find_options(name) ?: lg_find_options("");
	if (!options) {
		ret = -ENOSPC;
	} else {
		strscpy(options->name, replace || no_direct ? name : "", sizeof(options->name));
		options->replace = replace;
		options->no_direct = no_direct;
	}
	mutex_unlock(&lg_mutex);
	return ret;
}

/**
 * lg_list_options() - a line for each payload that options wait for
 * @buffer:	a page
 */
ssize_t lg_list_options(char *buffer)
{
	unsigned int number;
	ssize_t length = 0;

	mutex_lock(&lg_mutex);
	for (number = 0; number < LG_OPTIONS_MOST; number++) {
		const struct lg_options *options = &lg_options[number];

		if (options->name[0])
			length += sysfs_emit_at(buffer, length, "%s%s%s\n", options->name,
						options->replace ? " replace" : "",
						options->no_direct ? " no-direct" : "");
	}
	mutex_unlock(&lg_mutex);
	return length;
}

/**
 * lg_take_options() - the options that wait for a patch are used up
 * @patch:	the patch; lg_mutex is held
 */
void lg_take_options(struct lg_patch *patch)
{
	struct lg_options *options = lg_find_options(patch->module->name);

	patch->direct = !options || !options->no_direct;
	patch->replace = options && options->replace;
	if (options)
		options->name[0] = '\0';
}
