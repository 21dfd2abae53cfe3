# SPDX-License-Identifier: GPL-2.0-or-later
"""What is put into a guest to see what a consistency model does: functions to be patched, patches
for them, load, a probe for pauses, and what drives them. The Python files run in the guest, with
the standard library and :mod:`livegraft.runtime`. :mod:`livegraft.lab.witnesses` makes the rest.
"""
