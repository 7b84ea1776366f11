"""Stages that several kinds of run share."""

from app.runs.spec import StageSpec

PREPARATION = (
    StageSpec("fetch", "Read the corpus and fetch the model", unit="bytes"),
    StageSpec("load", "Load the model"),
    StageSpec("tokenise", "Cut the corpus into tokens", unit="tokens"),
    StageSpec("activations", "Run the model", unit="tokens"),
)
READING = (
    StageSpec("fetch", "Fetch the model", unit="bytes"),
    StageSpec("load", "Load the model"),
    StageSpec("read", "Read the texts", unit="tokens"),
)
CALIBRATION = (StageSpec("calibrate", "Train, calibrate and compare the candidates", unit="steps"),)
SCAN = (
    *READING[:2],
    StageSpec("scan", "Score the texts", unit="texts"),
)
CONTRAST = (StageSpec("compare", "Compare the texts", unit="steps"),)
AUDITING = (
    StageSpec("texts", "Read the text set", unit="bytes"),
    StageSpec("audit", "Measure the model, find features, change them"),
)
TRAINING = (StageSpec("train", "Train the SAE", unit="samples"),)
INDEXING = (
    StageSpec("encode", "Find where features are active", unit="tokens"),
    StageSpec("statistics", "Compute the features' statistics", unit="features"),
    StageSpec("publish", "Publish the index", unit="features"),
    StageSpec("map", "Draw the map of the features", unit="features"),
)
EVALUATION = (StageSpec("evaluate", "Evaluate on held-out text", unit="tokens"),)
PROBING = (
    StageSpec("texts", "Fetch the text sets", unit="bytes"),
    StageSpec("probe", "Probe texts beside random dictionaries", unit="texts"),
)
ABSORPTION = (
    StageSpec("spell", "Ask the model for first letters", unit="words"),
    StageSpec("absorption", "Measure feature absorption", unit="words"),
)
EFFECTS = (StageSpec("effects", "Measure the effects of features", unit="features"),)
MEASUREMENT = (StageSpec("measure", "Measure what the edit changes", unit="texts"),)
COMPARISON = (StageSpec("compare", "Compare with other SAEs", unit="features"),)
SUGGESTION = (
    StageSpec("suggest", "Suggest labels", unit="features"),
    StageSpec("score", "Test the suggestions on held-out text", unit="features"),
)
LABEL_TESTS = (StageSpec("test", "Test the labels on held-out text", unit="labels"),)
