"""Databases of ours at head, of which new databases are copied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager

from sqlalchemy import URL


class Templates(ABC):
    """What a target's absent database can be copied of; one for each `plan`, a digest of the files.

    A template counts by its owner, and has its name only from the moment on when it is whole.
    """

    @abstractmethod
    async def made(self, plan: str) -> bool:
        """Tell whether there is a template. Raises RefusedError where another one has its name."""

    @abstractmethod
    def making(self, plan: str) -> AbstractAsyncContextManager[URL]:
        """Context manager: an empty database, which is the template once the block has ended.

        The block brings it to head, and leaves nobody connected. When it raises, the database is
        removed. Where another process was quicker, that one's template stays.
        """

    @abstractmethod
    async def copy(self, plan: str) -> bool:
        """Make the target's database, whole or not at all; False where there is no template yet.

        Raises RefusedError where there is a database of that name, or the template is not ours.
        """
