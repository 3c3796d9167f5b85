"""The web page where people rate answers, as an ASGI application."""

import secrets
from collections.abc import Awaitable, Callable, Collection
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from .asking import picture_mime
from .levels import LEVELS
from .questions import QuestionSet
from .screens import Screen, Screens
from .store import RatingStore, UnknownAnswer, rater_name

PAGE = Path(__file__).with_name("page")
TURNED = {"left": "right", "right": "left", "tie": "tie"}
COOKIE = "owl_rate_token"
COOKIE_SECONDS = 90 * 24 * 3600
NOTHING_SAID = "(no answer)"
# Nothing from elsewhere, and nothing that an answer contains, can run on the page.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class RatingBody(BaseModel):
    rater: str
    answer: str
    level: str | None


class PreferenceBody(BaseModel):
    rater: str
    left: str
    right: str
    choice: str | None


def create_rate_app(
    store: RatingStore,
    questions: QuestionSet,
    pairwise: bool = False,
    token: str | None = None,
    models: Collection[str] | None = None,
) -> FastAPI:
    """The page over a store that has questions and answers in it.

    Args:
        questions: where the pictures are.
        pairwise: two answers are compared, instead of each rated by level.
        token: asked of everyone, once, and then kept in a cookie; None: whoever reaches the port may rate.
        models: whose answers are rated; None: of all in the store.
    """
    app = FastAPI(title="owl rate", docs_url=None, redoc_url=None, openapi_url=None)
    desk = RatingDesk(store, pairwise, models)
    pictures = {question.image: questions.picture(question) for question in questions.questions}

    @app.middleware("http")
    async def guard(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        response = _unless_allowed(request, token) or await go_on(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(ValueError)
    async def refuse(_: Request, error: ValueError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 404 if isinstance(error, UnknownAnswer) else 422)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE / "rate.html")

    @app.get("/pictures/{name}")
    def picture(name: str) -> FileResponse:
        if name not in pictures:
            raise HTTPException(404, f"the set has no picture {name}")
        return FileResponse(pictures[name], media_type=picture_mime(pictures[name]))

    @app.get("/api/mode")
    def mode() -> dict[str, Any]:
        return {"mode": desk.mode, "store": store.public_id}

    @app.get("/api/progress")
    def progress(rater: str) -> dict[str, Any]:
        return desk.progress(rater_name(rater))

    @app.get("/api/screens/{number}")
    def screen(number: int, rater: str) -> dict[str, Any]:
        return desk.screen(rater_name(rater), number)

    @app.post("/api/ratings")
    def rate(body: RatingBody) -> dict[str, Any]:
        store.rate(rater_name(body.rater), body.answer, body.level)
        return {"saved": True}

    @app.post("/api/preferences")
    def prefer(body: PreferenceBody) -> dict[str, Any]:
        desk.prefer(rater_name(body.rater), body.left, body.right, body.choice)
        return {"saved": True}

    app.mount("/page", StaticFiles(directory=PAGE))
    return app


class RatingDesk:
    """What the page is told: a rater's screens, what was rated, where to go on."""

    def __init__(self, store: RatingStore, pairwise: bool, models: Collection[str] | None = None):
        self._store, self._pairwise = store, pairwise
        self._screens = Screens(store, pairwise, models)

    @property
    def mode(self) -> str:
        return "pairs" if self._pairwise else "levels"

    def progress(self, rater: str) -> dict[str, Any]:
        """done, total: answers or pairs; todo: the numbers of screens with something left to rate."""
        given, screens = self._given(rater), self._screens.of(rater)
        units = [self._units(screen) for screen in screens]
        return {
            "rater": rater,
            "mode": self.mode,
            "levels": [
                {"key": key, "name": name, "meaning": meaning} for key, (name, meaning) in LEVELS.items()
            ],
            "screens": len(screens),
            "total": sum(map(len, units)),
            "done": sum(unit in given for some in units for unit in some),
            "todo": [number for number, some in enumerate(units) if any(unit not in given for unit in some)],
        }

    def screen(self, rater: str, number: int) -> dict[str, Any]:
        screens = self._screens.of(rater)
        if not 0 <= number < len(screens):
            raise UnknownAnswer(f"there is no screen {number}; there are {len(screens)}")
        screen, given = screens[number], self._given(rater)
        answers = [
            {
                "id": answer.id,
                "text": answer.text or NOTHING_SAID,
                "earlier": [
                    {"question": turn.text, "answer": said or NOTHING_SAID}
                    for turn, said in self._screens.earlier(screen, answer)
                ],
                "level": None if self._pairwise else given.get((answer.id,)),
            }
            for answer in screen.answers
        ]
        return {
            "picture": f"/pictures/{quote(screen.question.image)}",
            "earlier": [question.text for question in screen.turns[:-1]],
            "question": screen.question.text,
            "answers": answers,
            "choice": given.get(self._units(screen)[0]) if self._pairwise else None,
        }

    def prefer(self, rater: str, left: str, right: str, choice: str | None) -> None:
        """Keeps which of two is better, and takes back what the rater said of them the other way round: what
        another store brought, which has orders of its own. Raises as `RatingStore.prefer`."""
        self._store.prefer(rater, left, right, choice)
        if any((given.left, given.right) == (right, left) for given in self._store.preferences(rater)):
            self._store.prefer(rater, right, left, None)

    def _units(self, screen: Screen) -> list[tuple[str, ...]]:
        """What a screen asks to rate: each answer, or the two together."""
        ids = tuple(answer.id for answer in screen.answers)
        return [ids] if self._pairwise else [(one,) for one in ids]

    def _given(self, rater: str) -> dict[tuple[str, ...], str | None]:
        if self._pairwise:
            found: dict[tuple[str, ...], str | None] = {}
            for given in self._store.preferences(rater):  # the last word holds, whichever way they stood
                found[given.left, given.right] = given.choice
                found[given.right, given.left] = TURNED[str(given.choice)]
            return found
        return {(given.answer,): given.level for given in self._store.ratings(rater)}


def _unless_allowed(request: Request, token: str | None) -> Response | None:
    """What whoever has not the token gets; a right one in the address becomes a cookie."""
    if token is None or _is(request.cookies.get(COOKIE), token):
        return None
    given = request.query_params.get("token")
    # It decides what answers; that of `url` goes with what the request calls the host.
    path = request.scope["path"]
    if path == "/" and _is(given, token):
        response = RedirectResponse("/", 303)  # without the token in the address
        response.set_cookie(COOKIE, token, max_age=COOKIE_SECONDS, httponly=True, samesite="strict")
        return response
    if path.startswith("/page/"):
        return None  # the form below looks like the page
    if path != "/":
        return JSONResponse({"detail": "the token is missing or wrong; load the page again"}, 401)
    told = "That token is wrong." if given else "Type the token that you were given."
    form = (PAGE / "token.html").read_text(encoding="utf-8").replace("$told", escape(told))
    return HTMLResponse(form, 401)


def _is(given: str | None, token: str) -> bool:
    return given is not None and secrets.compare_digest(given.encode(), token.encode())
