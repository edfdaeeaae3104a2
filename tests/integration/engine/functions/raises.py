class Broken(Exception):
    pass


raise Broken("at import")
