"""Webhooks: where to send what people do and what monitors find, and what was sent."""

from datetime import datetime

from sqlalchemy import (
    ARRAY,
    TIMESTAMP,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class Webhook(Base):
    """An address that is told of `kinds` of acts: on one SAE, in one set of it or in all; or of one monitor.

    `monitor` is the name, which stays when the monitor was deleted, so that the address is told of that too.
    The secret stands as it is, because it signs what is sent; no page and no answer shows it again.
    """

    __tablename__ = "webhook"
    __table_args__ = (CheckConstraint("num_nonnulls(sae_id, monitor) = 1", name="of"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    url: Mapped[str]
    secret: Mapped[str]
    kinds: Mapped[list[str]] = mapped_column(ARRAY(Text))
    sae_id: Mapped[int | None] = mapped_column(ForeignKey("sae.id", ondelete="CASCADE"), index=True)
    label_set_id: Mapped[int | None] = mapped_column(ForeignKey("label_set.id", ondelete="CASCADE"), index=True)
    monitor_id: Mapped[int | None] = mapped_column(ForeignKey("monitor.id", ondelete="SET NULL"), index=True)
    monitor: Mapped[str | None]
    created_by: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class WebhookDelivery(Base):
    """One act that a webhook is told of; `status` is the HTTP status of the last attempt, if there was an answer."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'delivered', 'failed')", name="state"),
        UniqueConstraint("webhook_id", "activity_id"),
        Index("ix_webhook_delivery_of_webhook", "webhook_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhook.id", ondelete="CASCADE"))
    activity_id: Mapped[int] = mapped_column(ForeignKey("activity.id", ondelete="CASCADE"), index=True)
    state: Mapped[str] = mapped_column(server_default="waiting")
    attempts: Mapped[int] = mapped_column(server_default="0")
    status: Mapped[int | None]
    error: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    attempted_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
