"""From download folders to LMDBs: ``datasets_prep/prepare.py``, or ``python -m airnet_basicsr.prepare``."""
