from stepflake_lambda import remote_function


@remote_function()
def huge(characters: int) -> str:
    """Returns a text of so many characters, which compresses well."""
    return ("0123456789abcdef" * (characters // 16 + 1))[:characters]
