from stepflake_lambda import remote_function

import a_module_that_does_not_exist  # type: ignore[import-not-found]  # isort: skip


@remote_function()
def unimportable(text: str) -> str:
    """Imports a module that does not exist."""
    return str(a_module_that_does_not_exist.run(text))
