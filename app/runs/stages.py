"""The stages of each kind of run. Apart from the work, so that a run can be asked for without loading torch."""

from app.queries.runs import Stage

MATERIAL = (
    Stage("fetch", "Fetch the model and the corpus", unit="bytes"),
    Stage("load", "Load the model"),
    Stage("tokenise", "Cut the corpus into tokens", unit="tokens"),
    Stage("activations", "Run the model", unit="tokens"),
)
TRAINING = (Stage("train", "Train the SAE", unit="samples"),)
INDEXING = (
    Stage("encode", "Find where features are active", unit="tokens"),
    Stage("statistics", "Compute the features' statistics", unit="features"),
    Stage("publish", "Publish the index", unit="features"),
    Stage("map", "Draw the map of the features"),
)
COMPARISON = (Stage("compare", "Compare with other SAEs", unit="features"),)
EVALUATION = (Stage("evaluate", "Evaluate on held-out text", unit="tokens"),)

TRAIN = (*MATERIAL, *TRAINING, *EVALUATION)
INDEX = (*MATERIAL, *INDEXING, *COMPARISON)
EVALUATE = (*MATERIAL, *EVALUATION)
COMPARE = (Stage("compare", "Compare the features of both", unit="features"),)
DEMO = (*MATERIAL, *TRAINING, *INDEXING, *EVALUATION, *COMPARISON)
IMPORT_STATISTICS = (
    Stage("read", "Read the export", unit="bytes"),
    Stage("register", "Register the SAE and the texts"),
    Stage("publish", "Publish the index", unit="features"),
)
IMPORT = (
    Stage("read", "Read and convert the SAE"),
    Stage("fetch", "Fetch its model", unit="bytes"),
    Stage("load", "Load its model"),
    Stage("register", "Register the SAE"),
)
