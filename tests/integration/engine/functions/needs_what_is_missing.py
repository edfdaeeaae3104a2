import not_in_the_bundle  # type: ignore[import-not-found]  # noqa: F401
