# SPDX-License-Identifier: GPL-2.0-or-later
"""The consistency models side by side, measured in guests: ``livegraft lab models``."""
