"""Good-till-triggered orders over REST: `/gtt/triggers…`."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.simulator.access import Access, form_of, success
from services.simulator.domain.gtt import Gtt, read_gtt
from services.simulator.gtt_desk import GttDesk


class GttRoutes:
    """Placing, reading, changing and deleting triggers.

    Args:
        desk: Keeps them.
        access: Admits requests.
    """

    def __init__(self, desk: GttDesk, access: Access) -> None:
        self._desk = desk
        self._access = access

    def routes(self) -> list[Route]:
        """All routes of this area."""
        return [
            Route("/gtt/triggers", self.list_all, methods=["GET"]),
            Route("/gtt/triggers", self.place, methods=["POST"]),
            Route("/gtt/triggers/{number}", self.read, methods=["GET"]),
            Route("/gtt/triggers/{number}", self.modify, methods=["PUT"]),
            Route("/gtt/triggers/{number}", self.delete, methods=["DELETE"]),
        ]

    async def list_all(self, request: Request) -> Response:
        """Give the active triggers and those that ended lately."""
        account = self._access.session(request).account
        listed = self._desk.book(account).listed(self._desk.now_ns())
        return success([trigger.row(account) for trigger in listed])

    async def place(self, request: Request) -> Response:
        """Watch for a price."""
        account = self._access.session(request).account
        return _number(self._desk.place(account, read_gtt(await form_of(request))))

    async def read(self, request: Request) -> Response:
        """Give one trigger."""
        account = self._access.session(request).account
        return success(self._desk.book(account).get(request.path_params["number"]).row(account))

    async def modify(self, request: Request) -> Response:
        """Watch for something else."""
        account = self._access.session(request).account
        wanted = read_gtt(await form_of(request))
        return _number(self._desk.modify(account, request.path_params["number"], wanted))

    async def delete(self, request: Request) -> Response:
        """Watch no longer."""
        account = self._access.session(request).account
        return _number(self._desk.delete(account, request.path_params["number"]))


def _number(trigger: Gtt) -> Response:
    return success({"trigger_id": trigger.id})
