"""All tables, so that importing the package fills `Base.metadata`."""

from app.tables.audits import Audit
from app.tables.base import Base
from app.tables.blind_tests import BlindTest, BlindTestItem, BlindTestResult
from app.tables.comparisons import Comparison, FeatureMatch
from app.tables.corpora import Corpus, Document, Sequence, SequenceSet
from app.tables.deletions import DeletedFolder
from app.tables.edits import SavedEdit, SavedEditSae
from app.tables.effects import FeatureEffect
from app.tables.features import ExampleBand, Feature
from app.tables.label_sets import Guideline, LabelAssignment, LabelLease, LabelSet, LabelSetFeature, LabelSkip
from app.tables.labels import Activity, Comment, Label, LabelDecision, LabelDraft, LabelRevision, LabelVote
from app.tables.lists import SavedList, SavedListItem
from app.tables.models import LanguageModel, Token
from app.tables.monitors import MonitorAlert, MonitorScores, SavedMonitor
from app.tables.people import ApiToken, Invitation, Person, RateLimit, SignInSession
from app.tables.probes import SavedProbe
from app.tables.runs import Run, RunMetric, RunUse, SaeClaim
from app.tables.saes import FeatureIndex, FeatureMap, LabelCount, Sae
from app.tables.suggestions import LlmAnswer, Suggestion
from app.tables.text_readings import TextComparison, TextComparisonFeature, TextSetFeature, TextSetReading
from app.tables.text_sets import TextSet, TextSetItem
from app.tables.webhooks import Webhook, WebhookDelivery

__all__ = [
    "Activity",
    "ApiToken",
    "Audit",
    "Base",
    "BlindTest",
    "BlindTestItem",
    "BlindTestResult",
    "Comment",
    "Comparison",
    "Corpus",
    "DeletedFolder",
    "Document",
    "ExampleBand",
    "Feature",
    "FeatureEffect",
    "FeatureIndex",
    "FeatureMap",
    "FeatureMatch",
    "Guideline",
    "Invitation",
    "Label",
    "LabelAssignment",
    "LabelCount",
    "LabelDecision",
    "LabelDraft",
    "LabelLease",
    "LabelRevision",
    "LabelSet",
    "LabelSetFeature",
    "LabelSkip",
    "LabelVote",
    "LanguageModel",
    "LlmAnswer",
    "MonitorAlert",
    "MonitorScores",
    "Person",
    "RateLimit",
    "Run",
    "RunMetric",
    "RunUse",
    "Sae",
    "SaeClaim",
    "SavedEdit",
    "SavedEditSae",
    "SavedList",
    "SavedListItem",
    "SavedMonitor",
    "SavedProbe",
    "Sequence",
    "SequenceSet",
    "SignInSession",
    "Suggestion",
    "TextComparison",
    "TextComparisonFeature",
    "TextSet",
    "TextSetFeature",
    "TextSetItem",
    "TextSetReading",
    "Token",
    "Webhook",
    "WebhookDelivery",
]
