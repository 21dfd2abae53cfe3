# SPDX-License-Identifier: GPL-2.0
#
# Kbuild file of a live patch. The pieces come as the compiler left them (.raw); what objtool makes
# of an object is made here, by the kernel's own rules: cmd_objtool, its arguments and delay-objtool
# are those of scripts/Makefile.lib. Where delay-objtool is set, kbuild runs objtool on the linked
# module, and the pieces are only copied.
#
# LG_NAME:   the module's name
# LG_PIECES: the pieces' object files

obj-m := $(LG_NAME).o
$(LG_NAME)-y := lg_glue.o $(LG_PIECES)

targets += $(LG_PIECES)

quiet_cmd_lg_piece = PIECE   $@
      cmd_lg_piece = cp $< $@ $(cmd_objtool)

$(addprefix $(obj)/,$(LG_PIECES)): private objtool-enabled = $(if $(delay-objtool),,y)
$(addprefix $(obj)/,$(LG_PIECES)): $(obj)/%.o: $(obj)/%.raw FORCE
	$(call if_changed,lg_piece)
