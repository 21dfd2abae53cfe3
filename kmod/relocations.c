// SPDX-License-Identifier: GPL-2.0
/*
 * relocations.c - a payload's references to the modules that it patches
 *
 * A payload is a livepatch module, so the loader has kept what is needed (struct klp_modinfo). For
 * vmlinux it has applied everything while it loaded the payload. What refers to another module
 * (.klp.rela.MODULE.SECTION) is applied when both are there, as klp_write_object_relocs() does, and
 * taken out when the module goes: the places have to be zero when it comes again.
 */
#include <linux/elf.h>
#include <linux/memory.h>
#include <linux/module.h>
#include <asm/text-patching.h>

#include "engine.h"

static bool lg_is_of(const struct klp_modinfo *info, const Elf_Shdr *section, const char *object)
{
	static const char prefix[] = ".klp.rela.";
	const char *name = info->secstrings + section->sh_name;
	size_t length = strlen(object);

	if (!(section->sh_flags & SHF_RELA_LIVEPATCH) ||
	    strncmp(name, prefix, sizeof(prefix) - 1))
		return false;
	name += sizeof(prefix) - 1;
	return !strncmp(name, object, length) && name[length] == '.';
}

/**
 * lg_apply_relocations() - write what a payload refers to in a module
 * @object:	a loaded object; nothing is to be done for vmlinux
 *
 * Return: 0, or the errno of klp_apply_section_relocs(): a symbol is not there, or a place is not
 * empty. What was written before stays, and nothing reads it: the payload's functions for this
 * object are not in use. The caller calls lg_clear_relocations().
 */
int lg_apply_relocations(struct lg_object *object)
{
	struct module *module = object->patch->module;
	const struct klp_modinfo *info = module->klp_info;
	unsigned int number;
	int ret;

	if (!object->klp->name)
		return 0;
	for (number = 1; number < info->hdr.e_shnum; number++) {
		if (!lg_is_of(info, &info->sechdrs[number], object->name))
			continue;
		ret = klp_apply_section_relocs(module, info->sechdrs, info->secstrings,
					       module->core_kallsyms.strtab, info->symndx, number,
					       object->name);
		if (ret)
			return ret;
	}
	return 0;
}

/* Bytes that a relocation fills; apply_relocate_add() knows the same types. */
static size_t lg_size_of(u32 type)
{
	switch (type) {
	case R_X86_64_64:
	case R_X86_64_PC64:
		return 8;
	case R_X86_64_32:
	case R_X86_64_32S:
	case R_X86_64_PC32:
	case R_X86_64_PLT32:
		return 4;
	}
	return 0;
}

/**
 * lg_clear_relocations() - empty the places of lg_apply_relocations()
 * @object:	an object that goes
 *
 * No task runs the payload's functions for this object: it is the module's going that keeps
 * everybody out of them, or they were never in use.
 */
void lg_clear_relocations(struct lg_object *object)
{
	static const u8 zeros[8];
	const struct klp_modinfo *info = object->patch->module->klp_info;
	unsigned int number;

	if (!object->klp->name)
		return;
	for (number = 1; number < info->hdr.e_shnum; number++) {
		const Elf_Shdr *section = &info->sechdrs[number];
		const Elf64_Rela *rela = (const void *)section->sh_addr, *end;

		if (!lg_is_of(info, section, object->name))
			continue;
		mutex_lock(&text_mutex);
		for (end = rela + section->sh_size / sizeof(*rela); rela < end; rela++) {
			void *place = (void *)info->sechdrs[section->sh_info].sh_addr +
				      rela->r_offset;
			size_t size = lg_size_of(ELF64_R_TYPE(rela->r_info));

			if (size)
				text_poke(place, zeros, size);
		}
		mutex_unlock(&text_mutex);
	}
}
