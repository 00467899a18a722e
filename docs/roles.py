"""Sphinx's roles in the docstrings (:class:`~a.b.C`) as links of the site."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r':(?:class|func|meth|mod|attr|data|exc):`(~?)([\w.]+)`')


def _link(role: re.Match) -> str:
    name = role[2].rpartition('.')[2] if role[1] else role[2]
    # Optional: what is on no page stays as it is.
    return f'<autoref optional identifier="{role[2]}"><code>{name}</code></autoref>'


class Roles(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(_link, obj.docstring.value)
