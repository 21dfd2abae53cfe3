# SPDX-License-Identifier: GPL-2.0-or-later
"""Cut a live patch out of the patched source: the kGraft way to a change set."""
