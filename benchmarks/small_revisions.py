"""Revision files as `alembic revision` writes them, each of which makes one small table."""

from __future__ import annotations

from pathlib import Path

FILE = '''"""number {number}

Revision ID: {revision}
Revises: {down}
Create Date: 2026-01-01 00:00:00.000000

"""
from typing import Sequence, Union

from alembic import op
import sqlalchemy as sa


# revision identifiers, used by Alembic.
revision: str = {revision!r}
down_revision: Union[str, Sequence[str], None] = {down!r}
branch_labels: Union[str, Sequence[str], None] = None
depends_on: Union[str, Sequence[str], None] = None


def upgrade() -> None:
    """Upgrade schema."""
    op.create_table("t{number}", sa.Column("id", sa.Integer, primary_key=True))


def downgrade() -> None:
    """Downgrade schema."""
    op.drop_table("t{number}")
'''


def identifier(number: int) -> str:
    return f"r{number:06}"


def write(versions: Path, count: int) -> None:
    """Put a line of `count` revisions in the folder; the last one is `identifier(count - 1)`."""
    versions.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        revision = identifier(number)
        down = identifier(number - 1) if number else None
        text = FILE.format(number=number, revision=revision, down=down)
        (versions / f"{revision}_number.py").write_text(text)


def forget_heads(versions: Path) -> None:
    """Remove what automigrator remembers of the files, as in a new container."""
    for cache in versions.glob("__pycache__/automigrator-*.json"):
        cache.unlink()
