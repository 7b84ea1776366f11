"""SAEs and features as the files of other packages.

    weights      an SAE in a public format
    selection    some features of an SAE, by number
    features     features as files; the entry point of the three formats below
    labels       the labels of an SAE, one per row
    jsonl        the API's JSON of each feature, one per line
    static_site  a folder of HTML that opens from a disk
    drawings     its charts, which work without scripts
    neuronpedia  SAEDashboard's and Neuronpedia's files, in and out

Only `weights` imports torch; the others read the database, as pages do.
"""
