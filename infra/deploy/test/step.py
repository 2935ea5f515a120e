"""Prints the shell of a step of a GitHub action, or of a job of GitLab, as the platform would run it.

step.py github FILE NAME         the line `run` of the step of that name
step.py gitlab FILE JOB          before_script and script of a job, with what it extends; its variables first
"""
import shlex
import sys

import yaml

platform, file, name = sys.argv[1:]
document = yaml.safe_load(open(file))
if platform == "github":
    print(next(step["run"] for step in document["runs"]["steps"] if step["name"] == name))
else:
    job = document[name]
    parent = document[job["extends"]]
    for variable, value in (parent["variables"] | job["variables"]).items():
        print(f"export {variable}=${{{variable}:-{shlex.quote(str(value))}}}")
    print("\n".join(parent["before_script"] + job["script"]))
