"""Endpoints: Python functions that the page's scripts may call, each with at most one request object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import isfunction
from typing import get_type_hints

from pydantic import BaseModel

from trainer_core.errors import UserError
from trainer_core.schema import parse_values

Reply = Mapping[str, object]
Endpoint = Callable[..., Reply]


def public_endpoints(actions: object) -> list[Endpoint]:
    """The public methods of an object's class."""
    names = [name for name, member in vars(type(actions)).items() if isfunction(member) and name[0] != "_"]
    return [as_endpoint(getattr(actions, name)) for name in names]


def as_endpoint(action: Callable[..., object], *bound: object) -> Endpoint:
    """The request class is the annotation of the first parameter after the bound ones. A UserError becomes the reply's `problem`.

    Only a mapping is sent to the page: a blind question, for instance, would reveal the names of its lanes.
    """
    hints = [hint for name, hint in get_type_hints(action).items() if name != "return"]
    request_class: type[BaseModel] | None = next(iter(hints[len(bound) :]), None)

    def endpoint(values: object = None) -> Reply:
        try:
            request = (parse_values(request_class, values or {}, ""),) if request_class else ()
            result = action(*bound, *request)
        except UserError as error:
            return {"problem": str(error)}
        return result if isinstance(result, Mapping) else {}

    endpoint.__name__ = action.__name__
    return endpoint
