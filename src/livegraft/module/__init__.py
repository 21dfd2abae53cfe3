# SPDX-License-Identifier: GPL-2.0-or-later
"""From a change set to a live patch module, and back: what a module holds."""
