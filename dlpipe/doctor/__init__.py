"""Whether this machine, and this cluster, can run dlpipe, and what to do where they cannot.

Nothing here imports a library that dlpipe needs for its work, torch least of all: a doctor must outlive the patient.
"""
