"""no name twice"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index("one_name", "products", ["name"], unique=True)


def downgrade() -> None:
    op.drop_index("one_name", "products")
