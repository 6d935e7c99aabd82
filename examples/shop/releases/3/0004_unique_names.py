"""no name twice, which fails: there are two of them now"""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index("one_name", "products", ["name"], unique=True)
