"""The doctor: what this machine has, the one command that installs here, and the cause of a pasted error.

These modules use the standard library alone and the syntax of Python 3.8: ``index_site/doctor.py`` joins them
to the single file ``doctor.py``, which runs where flash_attn3 cannot.
"""
