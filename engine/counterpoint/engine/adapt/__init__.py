"""Adaptation in service: bounded, all of it off unless asked for (``docs/adaptation.md``).

Everything here is a session's own, begins anew with it, and is a function of what its windows said.
"""
