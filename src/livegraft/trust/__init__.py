# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose word a live patch has: signatures, the certificates that a machine trusts, and signing.

Python's standard library and the program ``openssl``: production machines run this folder. All
cryptography is openssl's; what is here puts files before it and reads its answers.
"""
