"""What leaves as files: an SAE's features as lines of JSON, as Neuronpedia publishes them, or as a static site.

    writing      which features, into which folder; the one entry
    jsonl        what the API says of each feature, one a line
    neuronpedia  the layout and the fields of Neuronpedia's releases
    site         a folder of HTML that opens from a disk
    drawings     charts that need no script

All read the database, as pages do, and none needs torch. An SAE's weights leave by `app.jobs.exports`.
"""
