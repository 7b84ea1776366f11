"""Exports of SAEDashboard and Neuronpedia: statistics of an SAE's features with examples, and no weights.

    files      which files make an export, and where in one of them something is wrong
    records    what a record has to be
    spool      what was read, on the disk, in the order in which it is published
    statistics our rows out of it, and what is worked out where the export does not say
    release    our statistics as a release of Neuronpedia

`docs/formats.md` says what is read of these formats, and where their fields are defined.
"""
