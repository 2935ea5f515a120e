"""Prints the container of a CronJob as Kubernetes would start it: assignments of its environment, then the command.

cronjob.py FILE NAME SECRETS: SECRETS is a file with {secret: {key: value}}; a key that the CronJob names must be there.
"""
import json
import shlex
import sys

import yaml

documents = [document for document in yaml.safe_load_all(open(sys.argv[1])) if document]
secrets = json.load(open(sys.argv[3]))
job = next(d for d in documents if d["kind"] == "CronJob" and d["metadata"]["name"].endswith("-" + sys.argv[2]))
container = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
environment = {}
for source in container.get("envFrom", []):
    if "configMapRef" in source:
        name = source["configMapRef"]["name"]
        environment |= next(d["data"] for d in documents if d["kind"] == "ConfigMap" and d["metadata"]["name"] == name)
    else:
        environment |= secrets.get(source["secretRef"]["name"], {})
for variable in container.get("env", []):
    value = variable.get("value")
    if value is None:
        reference = variable["valueFrom"]["secretKeyRef"]
        value = secrets[reference["name"]][reference["key"]]
    environment[variable["name"]] = value
words = [f"{name}={value}" for name, value in environment.items()] + container["command"] + container["args"]
print(shlex.join(words))
