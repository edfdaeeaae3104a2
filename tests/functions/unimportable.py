from stepflake_lambda import remote_function

import a_module_that_nobody_wrote  # type: ignore[import-not-found]  # isort: skip


@remote_function()
def unimportable(text: str) -> str:
    """Needs what isn't there."""
    return str(a_module_that_nobody_wrote.run(text))
