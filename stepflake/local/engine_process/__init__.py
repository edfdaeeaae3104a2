"""The engine's process: MiniStack, with the limits, faults and checks that AWS has and MiniStack has not.

`stepflake.local.engine` starts it as `python -m stepflake.local.engine_process`, configures it over HTTP
(`admin`) and stops it. Each module here replaces some of MiniStack's functions, in its `install()`.
"""
