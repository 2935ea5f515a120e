"""Compares the CronJobs of two files of Kubernetes: the overlay's and the chart's say the same, names and labels aside.

same_jobs.py FILE FILE NAME...: the ends of the names of the jobs that both must have.
"""
import sys

import yaml


def jobs(path):
    found = {}
    for document in yaml.safe_load_all(open(path)):
        if document and document["kind"] == "CronJob":
            found[document["metadata"]["name"].rsplit("-", 1)[1]] = plain(document["spec"])
    return found


def plain(value):
    """Without what differs by name: labels, image, service account, settings' map."""
    if isinstance(value, dict):
        left_out = ("metadata", "image", "serviceAccountName", "configMapRef")
        return {key: plain(field) for key, field in value.items() if key not in left_out}
    return [plain(item) for item in value] if isinstance(value, list) else value


one, other = jobs(sys.argv[1]), jobs(sys.argv[2])
assert sorted(one) == sorted(other) == sys.argv[3:], (sorted(one), sorted(other))
for name in one:
    assert one[name] == other[name], f"{name}:\n{one[name]}\n{other[name]}"
