"""names in lower case, which is a mistake: it cannot be undone"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("UPDATE products SET name = lower(name)")
