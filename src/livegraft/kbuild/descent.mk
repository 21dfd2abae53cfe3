# SPDX-License-Identifier: GPL-2.0-or-later
#
# Stands in for scripts/Makefile.build: kbuild descends into its directories as always, with all
# the flags that parents hand down, and each directory tells what it would build. A goal that is a
# .c or .S file's object (or .s file) tells its command instead of running it. What the goal needs
# to be there first, a generated header say, is made by kbuild's own rules.
#
# Called like scripts/Makefile.build (obj=, need-builtin=, need-modorder=), in the environment
# that the top-level make exports. LIVEGRAFT_DESCENT is this file.

include $(srctree)/scripts/Makefile.build

# The next directory down is asked by this file too.
build := -f '$(LIVEGRAFT_DESCENT)' obj

livegraft-members = $(addprefix $(obj)/,$(call suffix-search,$(patsubst $(obj)/%,%,$1),.o,-objs -y -m))

$(info livegraft directory $(obj) $(if $(need-builtin),builtin) $(if $(need-modorder),modules))
$(info livegraft builtin $(filter %.o,$(real-obj-y)))
$(info livegraft library $(filter %.o,$(lib-y)))
$(info livegraft modules $(filter %.o,$(obj-m)))
$(foreach m,$(multi-obj-m),$(info livegraft composite $m $(filter %.o,$(call livegraft-members,$m))))

$(eval livegraft-if_changed_rule = $(value if_changed_rule))
$(eval livegraft-if_changed_dep = $(value if_changed_dep))

# The pattern rules of kbuild stay as they are; only the last step is told, not taken.
livegraft-asked = $(and $(filter cc_o_c as_o_S cc_s_c,$1),$(filter $@,$(MAKECMDGOALS)))
livegraft-tell = @:$(info livegraft command $@ $(cmd_$1))

if_changed_rule = $(if $(livegraft-asked),$(livegraft-tell),$(call livegraft-if_changed_rule,$1))
if_changed_dep = $(if $(livegraft-asked),$(livegraft-tell),$(call livegraft-if_changed_dep,$1))

# A goal that only asks for a directory's lists.
%/.livegraft:
	@:
