"""What an adapter of a peer has to say: how the peer opens, seeds, reads the last n and appends a turn."""

from abc import ABC, abstractmethod

from bench.events import turn

USER = "alice"


class PeerStore(ABC):
    """One store of a peer on a fresh database. Texts carry their keys, so that reads can be checked."""

    def __init__(self, target: str) -> None:
        self.target = target  # the path of a SQLite file, or postgresql://user@host:port/database

    def url(self, driver: str) -> str:
        """The target for SQLAlchemy."""
        if self.target.startswith("postgresql://"):
            return self.target.replace("postgresql://", f"postgresql+{driver}://", 1)
        return f"sqlite+{driver}:///{self.target}"

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def start(self, conversation: str) -> None:
        """Make what a conversation needs before its first turn."""

    @abstractmethod
    async def seed(self, conversation: str, first: int, last: int) -> None:
        """Store turns `first` to `last` in the quickest way the peer's public names allow."""

    @abstractmethod
    async def read_last(self, conversation: str, limit: int) -> list[str]:
        """The texts of the newest messages, oldest first."""

    @abstractmethod
    async def append_turn(self, conversation: str, number: int) -> None:
        """Store what the user said and what the agent answered, as the framework does."""

    async def turn(self, conversation: str, number: int) -> list[str]:
        """The whole turn: read the last 50, append two; the texts read."""
        texts = await self.read_last(conversation, 50)
        await self.append_turn(conversation, number)
        return texts

    @abstractmethod
    async def close(self) -> None: ...


def texts(conversation: str, first: int, last: int) -> list[tuple[str, str]]:
    """The user's and the agent's text of turns `first` to `last`."""
    pairs = (turn(conversation, number) for number in range(first, last + 1))
    return [(user.text, agent.text) for user, agent in pairs]
