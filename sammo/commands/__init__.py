"""The commands and scripts: options, and a call of the library. Each module has ``add_arguments`` and ``run``.

Only ``run`` loads what it needs, so that --help answers at once.
"""
