"""products"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    products = op.create_table(
        "products",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(50), nullable=False),
    )
    op.bulk_insert(products, [{"name": name} for name in ("Tea", "tea ", "Coffee")])


def downgrade() -> None:
    op.drop_table("products")
