"""A stub of polars for tests: it returns its arguments."""


def read_parquet(path):
    with open(path, "rb") as file:
        assert file.read(4) == b"PAR1", path
    return ("polars", path.name)


def DataFrame(rows):
    return ("polars", rows)
