"""The OpenAPI description of the routes, made of the models that their requests and answers go through."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import pydantic
from pydantic.json_schema import models_json_schema
from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import Route

import autosong_jax
from autosong_jax.studio import schema


class _Id(Convertor):
    """Ids in paths; of anything else there is no such route."""

    regex = schema.ID

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("id", _Id())


@dataclasses.dataclass(frozen=True)
class Call:
    """A route as it is described.

    Attributes:
      method, path: of the route, such as GET and "/api/songs/{id:id}".
      endpoint: answers; its docstring says what for.
      takes: the model of its JSON, or the type of its body.
      gives: the model of its JSON, or the type of its body; None for an empty one.
      status: of a good answer.
      query: parameters, each with its JSON schema.
      errors: other statuses that it may answer, beside those of every call.
    """

    method: str
    path: str
    endpoint: Callable
    takes: type[pydantic.BaseModel] | str | None = None
    gives: type[pydantic.BaseModel] | str | None = None
    status: int = 200
    query: dict[str, dict] = dataclasses.field(default_factory=dict)
    errors: tuple[int, ...] = ()

    @property
    def route(self) -> Route:
        """For an application."""
        return Route(self.path, self.endpoint, methods=[self.method])


_ERRORS = {400: "The request means nothing.", 401: "The token is missing.", 403: "Another site's page asks.",
           404: "There is no such thing.", 409: "It is not sung yet.", 413: "The body is too large.",
           415: "The body is of another type.", 416: "The range is outside of the file.",
           429: "As many songs wait as may."}


def describe(calls: Iterable[Call]) -> dict[str, Any]:
    """The description as an OpenAPI 3.1 document."""
    models = {model for call in calls for model in (call.takes, call.gives) if isinstance(model, type)}
    refs, definitions = models_json_schema(
        [(model, "validation") for model in sorted({*models, schema.Error}, key=lambda model: model.__name__)],
        ref_template="#/components/schemas/{model}")

    def content(what: type | str) -> dict:
        if isinstance(what, str):
            return {what: {"schema": {"type": "string", "format": "binary"}}}
        return {"application/json": {"schema": refs[what, "validation"]}}

    def operation(call: Call) -> dict:
        first, _, rest = (call.endpoint.__doc__ or "").strip().partition("\n")
        answers = {str(call.status): {"description": "Success."} | (
            {"content": content(call.gives)} if call.gives else {})}
        for status in (400, 401, 403, *call.errors):
            answers[str(status)] = {"description": _ERRORS[status], "content": content(schema.Error)}
        ids = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string", "pattern": schema.ID}}]
        found = {"summary": first, "operationId": call.endpoint.__name__, "responses": answers,
                 "parameters": (ids if "{id:id}" in call.path else []) + [
                     {"name": name, "in": "query", "schema": shape} for name, shape in call.query.items()]}
        if rest.strip():
            found["description"] = " ".join(rest.split())
        if call.takes:
            found["requestBody"] = {"required": True, "content": content(call.takes)}
        if call.method != "GET":
            found["parameters"].append({"name": "X-Studio", "in": "header", "required": True,
                                        "schema": {"type": "string", "const": "1"}})
        return found

    paths: dict[str, dict] = {}
    for call in calls:
        paths.setdefault(call.path.replace(":id", ""), {})[call.method.lower()] = operation(call)
    return {
        "openapi": "3.1.0",
        "info": {"title": "autosong_jax studio", "version": autosong_jax.__version__,
                 "description": "Songs from lyrics: ask for one, listen while it is sung, edit it."},
        "paths": paths,
        "components": {"schemas": definitions.get("$defs", {}),
                       "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
    }
