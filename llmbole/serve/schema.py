"""What the service is asked and what it answers, checked field by field."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationError,
    model_validator,
)

MOST_ITEMS = 1000
LONGEST_HISTORY = 1000
LONGEST_ID = 200
Id = Annotated[StrictStr, StringConstraints(min_length=1, max_length=LONGEST_ID)]


class Request(BaseModel):
    """Whom to recommend to, and what.

    Attributes:
        user: Raw id of a user of the data set.
        history: Raw item ids, oldest first, in place of a user.
        k: Items wanted.
        candidates: Raw ids of the items to recommend among; all if there are none.
        exclude_seen: Whether what the user has interacted with, or the history holds, is left out.
    """

    model_config = ConfigDict(extra="forbid")

    user: Id | None = None
    history: Annotated[list[Id], Field(min_length=1, max_length=LONGEST_HISTORY)] | None = None
    k: Annotated[StrictInt, Field(ge=1, le=MOST_ITEMS)] = 10
    candidates: Annotated[list[Id], Field(min_length=1, max_length=MOST_ITEMS)] | None = None
    exclude_seen: StrictBool = True

    @model_validator(mode="after")
    def _one_of_both(self) -> Request:
        if (self.user is None) == (self.history is None):
            raise ValueError("give either user or history, not both and not neither")
        return self


class Item(BaseModel):
    """One recommended item, as `Recommendation`."""

    rank: int
    item_id: str
    title: str
    score: float


class Answer(BaseModel):
    """Items, best first; fewer than k if there are not so many."""

    items: list[Item]


class Health(BaseModel):
    """That the service answers."""

    status: str


class Info(BaseModel):
    """Which run is served.

    Attributes:
        model: Method, or RecBole model.
        dataset: Name of the data set.
        protocol: Name of the protocol.
        record: Id of the record, if the run was found by one.
        users: Number of users.
        items: Number of items.
        accepts_history: Whether a history is enough.
    """

    model: str
    dataset: str
    protocol: str
    record: str | None
    users: int
    items: int
    accepts_history: bool


class Problem(BaseModel):
    """One thing that is wrong with a request: the field, empty for the request itself, and what to do."""

    field: str
    message: str


class Refusal(BaseModel):
    """All that is wrong with a request."""

    problems: list[Problem]


class BodyError(ValueError):
    """A body that is no request.

    Args:
        status: 400, 415 or 422.
        found: What is wrong.
    """

    def __init__(self, status: int, found: list[Problem]) -> None:
        super().__init__("; ".join(f"{each.field}: {each.message}" for each in found))
        self.status, self.found = status, found


def read(content_type: str | None, body: bytes) -> Request:
    """A request from its body, which must be strict JSON: no key twice, no NaN.

    Args:
        content_type: The header, if there is one.
        body: The bytes.

    Returns:
        The request.

    Raises:
        BodyError: It is none.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _wrong(415, f"the content type is {kind or 'missing'!r}; send application/json")
    try:
        content = json.loads(body.decode(), object_pairs_hook=_without_duplicates, parse_constant=_constant)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _wrong(400, f"the body is no JSON: {error}") from None
    except RecursionError:
        raise _wrong(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise _wrong(400, str(error)) from None
    try:
        return Request.model_validate(content)
    except ValidationError as error:
        problems = [
            Problem(field=".".join(str(part) for part in each["loc"]), message=each["msg"])
            for each in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise BodyError(422, problems) from None


def _wrong(status: int, message: str) -> BodyError:
    return BodyError(status, [Problem(field="", message=message)])


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys: set[str] = set()
    for key, _ in pairs:
        if key in keys:
            raise ValueError(f"key {key!r} stands twice; give it once")
        keys.add(key)
    return dict(pairs)


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
