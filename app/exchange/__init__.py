"""SAEs and features as the files of other packages.

    weights      an SAE in a public format
    features     features as files: which ones, into which folder; the one entry of the three below
    jsonl        what the API says of each feature, one per line
    static_site  a folder of HTML that opens from a disk
    drawings     its charts, which need no script
    neuronpedia  SAEDashboard's and Neuronpedia's files, in and out

Only `weights` needs torch; the others read the database, as pages do.
"""
