"""Exports of SAEDashboard and Neuronpedia: statistics of an SAE's features with examples, and no weights.

    files      which files make an export, and where in one of them something is wrong
    records    what a record has to be
    spool      what was read, on the disk, in the order in which it is published
    statistics our rows out of it, and what is worked out where the export does not say
    importing  the run

`docs/formats.md` says what is read of these formats, and where their fields are defined.
"""
