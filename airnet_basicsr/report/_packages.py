"""Imported first by what draws pages and figures: says which package is missing. (Scoring needs none of them.)"""

from airnet_basicsr.errors import InputError, end_in_one_line

try:
    import jinja2  # noqa: F401
    import matplotlib  # noqa: F401
    import sklearn  # noqa: F401
except ImportError as error:
    end_in_one_line()  # `python -m` imports this before main() could ask for it
    raise InputError(
        f'the report needs the package {error.name}, which is not there: pip install "airnet-basicsr[report]"'
    ) from error
